"""The warehouse: contract tables in Postgres, for dbt and for people who write SQL.

Belongs here: creating, loading and reading those tables. Does not belong: marts (dbt), the ledger
(a database of its own), and any number made from numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc
from psycopg.rows import dict_row

from marketlake.contracts.arrow import conform
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.ddl import column_type, create_statements, quoted, relation
from marketlake.contracts.model import Contract
from marketlake.errors import (
    AuthFailed,
    ConfigError,
    ContractViolation,
    SourceUnavailable,
    Timeout,
)
from marketlake.settings import PostgresSettings
from marketlake.storage.binary_copy import binary_copy

_ANALYZE_FROM_ROWS = 5_000
_JOIN_MEMORY = "64MB"  # with Postgres' own 4 MB, most of the rows go through files

_COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull
    from pg_attribute as a
    where a.attrelid = to_regclass(%s) and a.attnum > 0 and not a.attisdropped
    order by a.attnum
"""


@dataclass(frozen=True)
class Loaded:
    """What one load changed; a replay of the same rows changes nothing."""

    inserted: int
    deleted: int


class Warehouse:
    """One Postgres database. Every call connects for itself and is one transaction."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings

    @property
    def conninfo(self) -> str:
        """Return a libpq connection string; it holds the password, so never log it."""
        return self._settings.conninfo(self._settings.warehouse_db)

    def ensure_schema(self) -> None:
        """Create the table of every warehouse contract that has none yet.

        Raises
        ------
        ConfigError
            When a table exists with other columns than its contract's.
        """
        with self.transaction() as connection:
            lock(connection, "schema")
            for contract in CATALOG:
                if contract.warehouse:
                    _ensure_table(connection, contract)

    def load(self, contract: Contract, table: pa.Table, *, sessions: Sequence[date]) -> Loaded:
        """Make the table hold exactly these rows for these sessions, in one transaction.

        Rows that are already there and equal stay untouched. A missing number (null or NaN) is
        stored as NULL.
        """
        covered = sorted(set(sessions))
        incoming = _require_loadable(contract, table, covered)
        target = relation(contract)
        with self.transaction() as connection:
            lock(connection, target)
            stored = _count(connection, target, covered)
            if not stored:
                _copy(connection, contract, incoming, into=target)
                return Loaded(inserted=incoming.num_rows, deleted=0)
            connection.execute(f"set local work_mem = '{_JOIN_MEMORY}'")
            connection.execute(f"create temporary table incoming (like {target}) on commit drop")
            _copy(connection, contract, incoming, into="incoming")
            if incoming.num_rows >= _ANALYZE_FROM_ROWS:
                connection.execute(f"analyze incoming ({_columns(contract.key)})")
            same_key = f"({_columns(contract.key, of='i.')}) = ({_columns(contract.key, of='t.')})"
            names = [item.name for item in contract.fields]
            # Column by column: whole rows, ``i is not distinct from t``, take twice as long.
            is_same = (
                f"({_columns(names, of='i.')}) is not distinct from ({_columns(names, of='t.')})"
            )
            # Only names from contracts are put into the text, and those are quoted.
            deleted = connection.execute(
                f"delete from {target} as t where t.session = any(%s) and not exists ("  # noqa: S608
                f"select from incoming as i where {same_key} and {is_same})",
                (covered,),
            ).rowcount
            inserted = 0
            # What was left is in ``incoming`` too.
            if stored - deleted < incoming.num_rows:
                inserted = connection.execute(
                    f"insert into {target} select i.* from incoming as i where not exists ("  # noqa: S608
                    f"select from {target} as t where {same_key})"
                ).rowcount
        return Loaded(inserted=inserted, deleted=deleted)

    def query(
        self, sql: str, params: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[dict[str, Any]]:
        """Return the rows of one reading statement; it cannot change anything."""
        with (
            self.transaction(read_only=True) as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            # Without parameters a percent sign is only that.
            return cursor.execute(sql, params or None).fetchall()

    @contextmanager
    def transaction(self, *, read_only: bool = False) -> Iterator[psycopg.Connection]:
        """Yield a connection whose work is committed together; name its failures."""
        where = (
            f"postgres {self._settings.host}:{self._settings.port}/{self._settings.warehouse_db}"
        )
        limit_s = self._settings.statement_timeout_s
        try:
            with psycopg.connect(
                self.conninfo,
                application_name="marketlake",
                options=f"-c statement_timeout={limit_s * 1000} -c timezone=UTC",
            ) as connection:
                connection.read_only = read_only
                yield connection
        except psycopg.errors.QueryCanceled as error:
            raise Timeout(
                expected=f"a statement that ends within {limit_s} s",
                was=str(error),
                where=where,
                todo="ask for less, or raise MARKETLAKE_POSTGRES__STATEMENT_TIMEOUT_S",
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise ConfigError(
                expected="the warehouse tables",
                was=str(error),
                where=where,
                todo="run `marketlake up`, which creates them",
            ) from error
        except psycopg.OperationalError as error:
            if "authentication failed" in str(error):
                raise AuthFailed(
                    expected="Postgres to accept the password",
                    was=str(error),
                    where=where,
                    todo="correct MARKETLAKE_POSTGRES__USER and __PASSWORD",
                ) from error
            if f'database "{self._settings.warehouse_db}" does not exist' in str(error):
                raise ConfigError(
                    expected="the warehouse database",
                    was=str(error),
                    where=where,
                    todo="correct MARKETLAKE_POSTGRES__WAREHOUSE_DB, or create it: `marketlake up`",
                ) from error
            full = "too many" in str(error) or "connection slots" in str(error)
            raise SourceUnavailable(
                expected="a free connection to the warehouse"
                if full
                else "the warehouse to answer",
                was=str(error),
                where=where,
                todo="wait until other work has ended, or raise max_connections of the server"
                if full
                else "start it (`marketlake up`), look at its log and its free disk space",
            ) from error


def _ensure_table(connection: psycopg.Connection, contract: Contract) -> None:
    present = _present_columns(connection, contract)
    if not present:
        for statement in create_statements(contract):
            connection.execute(statement)
        return
    declared = [(item.name, column_type(item), not item.nullable) for item in contract.fields]
    if present != declared:
        drift = [item for item in declared if item not in present]
        drift += [item for item in present if item not in declared]
        raise ConfigError(
            expected=f"the columns of {contract.name} in their order",
            was="other " + (", ".join(f"{name} {kind}" for name, kind, _ in drift) or "order"),
            where=f"table {relation(contract)}",
            todo="drop the table, run `marketlake up`, and load it again from the lake",
        )


def _present_columns(
    connection: psycopg.Connection, contract: Contract
) -> list[tuple[str, str, bool]]:
    return connection.execute(_COLUMNS, (relation(contract),)).fetchall()


def _require_loadable(contract: Contract, table: pa.Table, covered: Sequence[date]) -> pa.Table:
    """Return the table in its contract's shape; every row must be of the named sessions."""
    if not contract.warehouse:
        raise ConfigError(
            expected="a contract with warehouse=True",
            was=contract.name,
            where="Warehouse.load",
            todo="mark it in contracts/catalog.py",
        )
    shaped = conform(contract, table)
    strays = sorted(set(pc.unique(shaped.column("session")).to_pylist()) - set(covered))
    if strays:
        raise ContractViolation(
            expected="rows of the sessions that are loaded",
            was="rows of " + ", ".join(day.isoformat() for day in strays[:10]),
            where=f"Warehouse.load of {contract.name}",
            todo="name every session of the table in `sessions`",
        )
    return shaped


def _count(connection: psycopg.Connection, target: str, sessions: Sequence[date]) -> int:
    statement = f"select count(*) from {target} where session = any(%s)"  # noqa: S608
    ((count,),) = connection.execute(statement, (sessions,)).fetchall()
    return int(count)


def _columns(names: Iterable[str], *, of: str = "") -> str:
    return ", ".join(of + quoted(name) for name in names)


def _copy(
    connection: psycopg.Connection, contract: Contract, table: pa.Table, *, into: str
) -> None:
    """Copy rows in Postgres' binary form, a bounded number at a time."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"copy {into} from stdin (format binary)") as copy,
    ):
        for part in binary_copy(contract, table):
            copy.write(part)


def lock(connection: psycopg.Connection, name: str) -> None:
    """Let writers that name the same thing take turns until their transactions end."""
    connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (f"marketlake {name}",))
