"""Puts an exported log back into an empty database, every index, byte and checkpoint as it was.

What does not belong here: judging the log (``proof``), and appending to it (``ledger_log``).
"""

from __future__ import annotations

from collections.abc import Iterable

import psycopg
from psycopg import sql

from marketlake.errors import ConfigError
from marketlake.settings import PostgresSettings
from marketlake.storage.ledger_log import _SCHEMA, _take_lock
from marketlake.storage.proof.leaf import instant
from marketlake.storage.proof.stored import StoredCheckpoint, StoredRow


def ensure_database(settings: PostgresSettings, *, beside: str) -> None:
    """Create the ledger's database where there is none; ``beside`` is one that there is."""
    with psycopg.connect(settings.conninfo(beside), autocommit=True) as connection:
        there = "select 1 from pg_database where datname = %s"
        if connection.execute(there, (settings.ledger_db,)).fetchone() is None:
            create = sql.SQL("create database {}").format(sql.Identifier(settings.ledger_db))
            connection.execute(create)


def require_empty(settings: PostgresSettings) -> None:
    """Raise ConfigError when the database has entries of a log."""
    with psycopg.connect(settings.conninfo(settings.ledger_db)) as connection:
        _require_empty(connection)


def restore_log(
    settings: PostgresSettings,
    rows: Iterable[StoredRow],
    checkpoints: Iterable[StoredCheckpoint],
) -> int:
    """Write a whole log in one transaction; return how many entries it has."""
    count = 0
    with psycopg.connect(settings.conninfo(settings.ledger_db)) as connection:
        _require_empty(connection)
        _take_lock(connection)
        _require_empty(connection)
        # An appender that has begun nothing leaves empty tables and a checkpoint of no entries.
        connection.execute("drop schema if exists ledger cascade")
        for statement in _SCHEMA:
            connection.execute(statement)
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "copy ledger.entry (index, key, kind, dag_id, run_id, recorded_at, canonical,"
                " leaf_hash) from stdin (format binary)"
            ) as copy,
        ):
            copy.set_types(
                ["int8", "text", "text", "text", "text", "timestamptz", "bytea", "bytea"]
            )
            for row in rows:
                copy.write_row(
                    (
                        *(row.index, row.key, row.kind, row.dag_id, row.run_id),
                        *(instant(row.recorded_at_utc), row.canonical),
                        bytes.fromhex(row.leaf_hash),
                    )
                )
                count += 1
        with (
            connection.cursor() as cursor,
            cursor.copy(
                "copy ledger.checkpoint (size, root_hash, recorded_at, note) from stdin"
                " (format binary)"
            ) as copy,
        ):
            copy.set_types(["int8", "bytea", "timestamptz", "text"])
            for one in checkpoints:
                at = instant(one.recorded_at_utc)
                copy.write_row((one.size, bytes.fromhex(one.root_hash), at, one.note))
    return count


def _require_empty(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    if connection.execute("select to_regclass('ledger.entry')").fetchone() == (None,):
        return
    found = connection.execute("select max(index) + 1 from ledger.entry").fetchone()
    if found != (None,):
        raise ConfigError(
            expected="a database without a ledger",
            was=f"one of {found[0] if found else 'some'} entries",
            where=f"Postgres database {connection.info.dbname}",
            todo="restore into another name (--into): a log is never overwritten",
        )
