"""The Postgres side of the ledger: an append-only table, its checkpoints, its Merkle tree.

Only the appender process uses it: :class:`LedgerLog` holds an advisory lock for as long as it is
connected, so a second appender cannot start. What does not belong here: sockets and clients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn, TypeVar

import psycopg

from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import (
    ConfigError,
    ContractViolation,
    MarketlakeError,
    NotFound,
    SourceUnavailable,
)
from marketlake.settings import PostgresSettings
from marketlake.storage.ledger import Checkpoint, Entry, InclusionProof, Receipt, StoredRow
from marketlake.storage.merkle import HASH_BYTES, MerkleTree, leaf_hash

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

_LOCK = 6962_0001
_LOCK_WAIT_S = 5.0
_PAGE_BYTES = 4 << 20
_FETCH_ROWS = 500
_SESSION_OPTIONS = "-c statement_timeout=15000 -c synchronous_commit=on -c timezone=UTC"
# What psycopg raises when the server went away, is starting, or has no room left.
_BROKEN = (psycopg.OperationalError, psycopg.InterfaceError)

_SCHEMA = (
    "create schema if not exists ledger",
    # Byte order ("C") makes "the last key with this prefix" one look into the index.
    """
    create table if not exists ledger.entry (
        index bigint primary key,
        key text collate "C" not null unique,
        kind text not null,
        dag_id text,
        run_id text,
        recorded_at timestamptz not null,
        canonical bytea not null,
        leaf_hash bytea not null
    )
    """,
    "create index if not exists entry_run on ledger.entry (dag_id, run_id, index)",
    "create index if not exists entry_kind on ledger.entry (kind, index)",
    """
    create table if not exists ledger.checkpoint (
        size bigint primary key,
        root_hash bytea not null,
        recorded_at timestamptz not null
    )
    """,
    """
    create or replace function ledger.refuse() returns trigger language plpgsql as $$
    begin
        raise exception 'ledger.% is append-only', tg_table_name;
    end
    $$
    """,
    """
    create or replace trigger append_only
    before update or delete or truncate on ledger.entry
    for each statement execute function ledger.refuse()
    """,
    """
    create or replace trigger append_only
    before update or delete or truncate on ledger.checkpoint
    for each statement execute function ledger.refuse()
    """,
)
_INSERT_ENTRIES = """
    insert into ledger.entry
        (index, key, kind, dag_id, run_id, recorded_at, canonical, leaf_hash)
    select * from unnest(
        %b::bigint[], %b::text[], %b::text[], %b::text[], %b::text[], %b::timestamptz[],
        %b::bytea[], %b::bytea[]
    )
"""
_INSERT_CHECKPOINT = (
    "insert into ledger.checkpoint (size, root_hash, recorded_at) values (%s, %s, %s)"
)
# Times travel as text: a tampered 'infinity' is a fault to report, not a reason to stop reading.
_ROWS = """
    select index, key, kind, dag_id, run_id, recorded_at::text, canonical, leaf_hash
    from ledger.entry where {conditions} order by index limit %s
"""
_FILTERS = ("kind", "dag_id", "run_id")


@dataclass(frozen=True)
class Leaf:
    """An entry on its way into the log, decoded and hashed once."""

    entry: Entry
    content: bytes
    hash: bytes

    @classmethod
    def of(cls, content: bytes) -> Leaf:
        """Read canonical bytes; raise when they are not an entry that may be recorded."""
        entry = Entry.from_canonical(content)
        entry.require_recordable()
        return cls(entry, content, leaf_hash(content))


@dataclass(frozen=True)
class _Placed:
    entry: Entry
    receipt: Receipt


Outcome = list[Receipt] | MarketlakeError


@dataclass
class _Link:
    """A connection that is made when it is needed and replaced once when it turns out broken."""

    settings: PostgresSettings
    prepare: Callable[[Connection], None]
    connection: Connection | None = None

    def run(self, work: Callable[[Connection], T]) -> T:
        """Do some work that may safely be done again; no Postgres raises SourceUnavailable."""
        if self.connection is not None:
            try:
                return work(self.connection)
            except _BROKEN:
                self.close()
        try:
            return work(self._open())
        except _BROKEN as error:
            self.close()
            raise SourceUnavailable(
                expected="a Postgres that takes the ledger's entries",
                was=str(error).strip(),
                where=f"{self.settings.host}:{self.settings.port}/{self.settings.ledger_db}",
                todo="start Postgres (`marketlake up`), or free connections where it has no more; "
                "the appender reconnects by itself",
            ) from None

    def close(self) -> None:
        """Let go of the connection."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def _open(self) -> Connection:
        connection = psycopg.connect(
            self.settings.conninfo(self.settings.ledger_db),
            autocommit=True,
            options=_SESSION_OPTIONS,
            application_name="marketlake ledger",
            tcp_user_timeout=15_000,
        )
        try:
            self.prepare(connection)
        except (MarketlakeError, psycopg.Error):
            connection.close()
            raise
        self.connection = connection
        return connection


class LedgerLog:
    """The one writer of the log. Not thread-safe: give it a thread of its own."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._link = _Link(settings, self._prepare)
        self._tree = MerkleTree()
        self._head = Checkpoint(0, self._tree.root(0).hex(), utc_now().isoformat())
        self._refusal: str | None = None

    @property
    def head(self) -> Checkpoint:
        """Return the checkpoint of the last commit."""
        return self._head

    @property
    def refusal(self) -> str | None:
        """Return what contradicts the log's own checkpoints, or None; then nothing is appended."""
        return self._refusal

    def close(self) -> None:
        """Let go of the connection, and with it of the lock."""
        self._link.close()

    def ping(self) -> None:
        """Raise unless entries could be appended now."""
        self._link.run(lambda connection: connection.execute("select 1"))
        self.require_sound()

    def append(self, batch: Sequence[Sequence[Leaf]]) -> list[Outcome]:
        """Commit several requests in one transaction; each gets its receipts or its error.

        Doing a batch again after a broken connection is safe: what had been committed is found
        by its keys.
        """
        return self._link.run(lambda connection: self._append(connection, batch))

    def stored_end(self) -> int:
        """Return one more than the last index in the table."""
        sql = "select coalesce(max(index) + 1, 0) from ledger.entry"
        end: int = self._link.run(lambda connection: _value(connection, sql))
        return end

    def prove(self, index: int) -> InclusionProof:
        """Return the audit path of one entry under the present head."""
        self.require_sound()
        size = self._head.size
        if not 0 <= index < size:
            raise NotFound(
                expected=f"an entry of a log of {size}",
                was=f"index {index}",
                where="ledger",
                todo="use the index of a receipt",
            )
        path = self._tree.inclusion_path(index, size)
        return InclusionProof(
            index=index,
            size=size,
            leaf_hash=self._tree.leaf(index).hex(),
            root_hash=self._head.root_hash,
            path=tuple(node.hex() for node in path),
        )

    def require_sound(self) -> None:
        """Raise ContractViolation when the stored log contradicts what was committed."""
        if self._refusal is not None:
            raise ContractViolation(
                expected="a log that agrees with its checkpoints",
                was=self._refusal,
                where="ledger",
                todo="run `marketlake audit verify`, find who changed it, restore, then restart",
            )

    def _prepare(self, connection: Connection) -> None:
        _take_lock(connection)
        with connection.transaction():
            for statement in _SCHEMA:
                connection.execute(statement)
            connection.execute(
                f"{_INSERT_CHECKPOINT} on conflict do nothing",
                (0, MerkleTree().root(0), utc_now()),
            )
        # A refusal lasts until a restart: somebody has to look.
        if self._refusal is None:
            self._refusal = self._catch_up(connection)

    def _catch_up(self, connection: Connection) -> str | None:
        """Read what the table holds beyond our tree; return what is wrong with it, or None."""
        known = self._head.size
        self._tree.truncate(known)
        latest = connection.execute(
            "select size, root_hash, recorded_at from ledger.checkpoint order by size desc limit 1"
        ).fetchone()
        size, root, recorded_at = latest or (0, b"", utc_now())
        fault = self._read_leaves(connection, max(known - 1, 0))
        if fault is None:
            fault = self._compare(size, root)
        if size >= known:
            self._head = Checkpoint(size, root.hex(), _text(recorded_at))
        return fault

    def _read_leaves(self, connection: Connection, first: int) -> str | None:
        # Starting one entry early shows whether the last one we committed is still there.
        with connection.transaction(), connection.cursor("leaves") as rows:
            rows.itersize = 10_000
            rows.execute(
                "select index, leaf_hash from ledger.entry where index >= %s order by index",
                (first,),
            )
            expected = first
            for index, leaf in rows:
                if index != expected:
                    break
                if len(leaf) != HASH_BYTES:
                    return f"entry {index}: the stored leaf hash has {len(leaf)} bytes"
                if index == self._tree.size:
                    self._tree.append(leaf)
                elif leaf != self._tree.leaf(index):
                    return f"entry {index} was replaced while the appender was away"
                expected += 1
            else:
                return None if expected >= self._tree.size else f"entry {expected} is missing"
            return f"entry {expected} is missing (the next one is {index})"

    def _compare(self, size: int, root: bytes) -> str | None:
        stored = self._tree.size
        if stored < size:
            return f"entries {stored} to {size - 1} are missing: the tail was cut"
        if stored > size:
            return f"entry {size} was inserted behind the appender: no checkpoint covers it"
        if self._tree.root(size) != root:
            return f"the root of the first {size} entries differs from the last checkpoint"
        return None

    def _append(self, connection: Connection, batch: Sequence[Sequence[Leaf]]) -> list[Outcome]:
        self.require_sound()
        try:
            known = _already_recorded(connection, batch)
            outcomes, fresh = _place(batch, known, self._head.size)
            if fresh:
                self._commit(connection, fresh)
        except (psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            # Nobody else may write here, so a collision or a changed table is tampering.
            self._refuse(f"entry {self._head.size} could not follow: {str(error).strip()}")
        return outcomes

    def _commit(self, connection: Connection, fresh: Sequence[Leaf]) -> None:
        first, at = self._head.size, utc_now()
        self._tree.truncate(first)
        for leaf in fresh:
            self._tree.append(leaf.hash)
        size = self._tree.size
        root = self._tree.root(size)
        columns = (
            list(range(first, size)),
            [leaf.entry.key for leaf in fresh],
            [leaf.entry.kind for leaf in fresh],
            [leaf.entry.run.get("dag_id") for leaf in fresh],
            [leaf.entry.run.get("run_id") for leaf in fresh],
            [datetime.fromisoformat(leaf.entry.recorded_at_utc) for leaf in fresh],
            [leaf.content for leaf in fresh],
            [leaf.hash for leaf in fresh],
        )
        with connection.pipeline(), connection.transaction():
            connection.execute(_INSERT_ENTRIES, columns)
            connection.execute(_INSERT_CHECKPOINT, (size, root, at))
        self._head = Checkpoint(size, root.hex(), _text(at))

    def _refuse(self, reason: str) -> NoReturn:
        self._refusal = reason
        self.require_sound()
        raise AssertionError(reason)


class LedgerReader:
    """Reads the log on a connection of its own, so that long reads do not hold up appends."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._link = _Link(settings, lambda connection: None)

    def close(self) -> None:
        """Let go of the connection."""
        self._link.close()

    def rows(
        self, first: int, end: int | None, *, limit: int, filters: Mapping[str, str]
    ) -> list[StoredRow]:
        """Return a page of rows from index ``first`` on; only an empty page means the end."""
        given = {name: filters[name] for name in _FILTERS if name in filters}
        conditions = ["index >= %s", *(f"{name} = %s" for name in given)]
        parameters: list[Any] = [first, *given.values()]
        if end is not None:
            conditions.append("index < %s")
            parameters.append(end)
        sql = _ROWS.format(conditions=" and ".join(conditions))
        return self._link.run(lambda connection: _page(connection, sql, [*parameters, limit]))

    def checkpoints(self, since: int, last: int, *, limit: int) -> list[Checkpoint]:
        """Return a page of stored checkpoints with sizes from ``since`` to ``last``."""
        sql = (
            "select size, root_hash, recorded_at::text from ledger.checkpoint"
            " where size between %s and %s order by size limit %s"
        )
        found = self._link.run(
            lambda connection: connection.execute(sql, (since, last, limit)).fetchall()
        )
        return [Checkpoint(size, root.hex(), at) for size, root, at in found]

    def last_key(self, prefix: str) -> str | None:
        """Return the greatest key made of ``prefix`` and digits, or None."""
        sql = (
            "select max(key) from ledger.entry where key >= %s and key < %s"
            " and substr(key, %s) ~ '^[0-9]+$'"
        )
        bounds = (prefix, f"{prefix}:", len(prefix) + 1)  # ":" is the byte after "9"
        found: str | None = self._link.run(lambda connection: _value(connection, sql, bounds))
        return found


def _take_lock(connection: Connection) -> None:
    """Become the only appender; an old one's session may take a moment to be noticed dead."""
    deadline = monotonic_s() + _LOCK_WAIT_S
    while not _value(connection, "select pg_try_advisory_lock(%s)", (_LOCK,)):
        if monotonic_s() > deadline:
            raise ConfigError(
                expected="one appender for a ledger",
                was="another one holds its lock",
                where=f"Postgres database {connection.info.dbname}",
                todo="stop the other appender, or point MARKETLAKE_LEDGER__* at it",
            )
        sleep_s(0.05)


def _already_recorded(
    connection: Connection, batch: Iterable[Sequence[Leaf]]
) -> dict[str, _Placed]:
    keys = list({leaf.entry.key for leaves in batch for leaf in leaves})
    rows = connection.execute(
        "select key, index, canonical, leaf_hash from ledger.entry where key = any(%s)", (keys,)
    )
    return {
        key: _Placed(Entry.from_canonical(content), Receipt(index, leaf.hex()))
        for key, index, content, leaf in rows
    }


def _place(
    batch: Iterable[Sequence[Leaf]], known: Mapping[str, _Placed], size: int
) -> tuple[list[Outcome], list[Leaf]]:
    """Give every new key the next index; return each request's outcome and the new leaves."""
    placed = dict(known)
    fresh: list[Leaf] = []
    outcomes: list[Outcome] = []
    for leaves in batch:
        request = _Request(placed, size + len(fresh))
        clash = next((leaf for leaf in leaves if not request.take(leaf)), None)
        if clash is not None:
            outcomes.append(_clash(clash.entry))
            continue
        placed |= request.added
        fresh += request.fresh
        outcomes.append(request.receipts)
    return outcomes, fresh


@dataclass
class _Request:
    """One caller's entries while they are placed: all of them, or none."""

    placed: Mapping[str, _Placed]
    next_index: int
    added: dict[str, _Placed] = field(default_factory=dict)
    fresh: list[Leaf] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    def take(self, leaf: Leaf) -> bool:
        """Place one entry; return False when its key already stands for something else.

        The time is not compared: the first record of a fact keeps its own.
        """
        key = leaf.entry.key
        earlier = self.added.get(key) or self.placed.get(key)
        if earlier is None:
            receipt = Receipt(self.next_index + len(self.fresh), leaf.hash.hex())
            earlier = self.added[key] = _Placed(leaf.entry, receipt)
            self.fresh.append(leaf)
        self.receipts.append(earlier.receipt)
        return (earlier.entry.kind, earlier.entry.payload) == (leaf.entry.kind, leaf.entry.payload)


def _clash(entry: Entry) -> ContractViolation:
    return ContractViolation(
        expected="a key that stands for one fact",
        was="the same key with another kind or payload",
        where=f"ledger entry {entry.key!r}",
        todo="give the new fact a new key; one process at a time may write for one try",
    )


def _page(connection: Connection, sql: str, parameters: Sequence[Any]) -> list[StoredRow]:
    found: list[StoredRow] = []
    budget = _PAGE_BYTES
    with connection.transaction(), connection.cursor("page") as rows:
        rows.itersize = _FETCH_ROWS
        rows.execute(sql, parameters)
        for row in rows:
            columns = list(row)
            columns[-1] = columns[-1].hex()
            found.append(StoredRow(*columns))
            budget -= len(found[-1].canonical)
            if budget < 0:
                break
    return found


def _value(connection: Connection, sql: str, parameters: Sequence[Any] = ()) -> Any:
    row = connection.execute(sql, parameters).fetchone()
    return row[0] if row is not None else None


def _text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat()
