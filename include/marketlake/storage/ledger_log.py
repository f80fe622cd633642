"""The Postgres side of the ledger: an append-only table, its checkpoints, its Merkle tree.

Only the appender process uses it: :class:`LedgerLog` holds an advisory lock for as long as it is
connected, so a second appender cannot start. What does not belong here: sockets and clients.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, NoReturn, TypeVar

import psycopg
from psycopg.pq import ConnStatus, ExecStatus, Format
from psycopg.pq.abc import PGresult

from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import (
    ConfigError,
    ContractViolation,
    MarketlakeError,
    NotFound,
    SourceUnavailable,
)
from marketlake.settings import PostgresSettings
from marketlake.storage.checkpoints import SignedCheckpoint
from marketlake.storage.ledger import (
    Checkpoint,
    Entry,
    InclusionProof,
    Receipt,
    StoredCheckpoint,
    StoredRow,
)
from marketlake.storage.proof.checkpoint import SignatureRefused, open_signed
from marketlake.storage.proof.merkle import HASH_BYTES, MerkleTree, leaf_hash
from marketlake.storage.proof.verification import below_first

Connection = psycopg.Connection[tuple[Any, ...]]
T = TypeVar("T")

_LOCK = 6962_0001
_LOCK_WAIT_S = 5.0
_PAGE_BYTES = 4 << 20
_FETCH_ROWS = 500
# An entry's own time may be this far from the appender's; further off, somebody's clock is wrong.
_MAX_OFFSET = timedelta(seconds=300)
# A clock that is being set may go back by this much; checkpoints then repeat the last time.
_MAX_STEP_BACK = timedelta(seconds=5)
_SILENT_MS = 15_000
# The server asks a silent appender whether it is still there: one whose machine is gone says no
# goodbye, and would hold the lock for the hours that Linux waits by itself. On a Unix socket the
# server ignores what is about TCP.
_SESSION_OPTIONS = (
    "-c statement_timeout=15000 -c synchronous_commit=on -c timezone=UTC"
    " -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    f" -c tcp_user_timeout={_SILENT_MS}"
)
# What psycopg raises when the server went away, is starting, or has no room left.
_BROKEN = (psycopg.OperationalError, psycopg.InterfaceError)

_COMMIT_NAME = b"ledger_commit"
_TEXT_OID, _BYTES_OID, _BIGINT_OID, _INSTANT_OID = 25, 17, 20, 1184
_ARRAY_HEADER = struct.Struct("!iiIii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_BIGINT = struct.Struct("!q")
_POSTGRES_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

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
    # A log made before this rule gets it too. What it holds already is examined at the start, and
    # named; refusing to add the rule would only hide it.
    """
    do $$
    begin
        if not exists (
            select from pg_constraint
            where conrelid = 'ledger.entry'::regclass and conname = 'entry_index_from_0'
        ) then
            alter table ledger.entry
                add constraint entry_index_from_0 check (index >= 0) not valid;
        end if;
    end
    $$
    """,
    "create index if not exists entry_run on ledger.entry (dag_id, run_id, index)",
    "create index if not exists entry_kind on ledger.entry (kind, index)",
    """
    create table if not exists ledger.checkpoint (
        size bigint primary key,
        root_hash bytea not null,
        recorded_at timestamptz not null,
        note text not null
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
# One statement is one transaction and one round trip: entries, and the checkpoint that covers them.
_COMMIT = b"""
    with appended as (
        insert into ledger.entry
            (key, kind, dag_id, run_id, recorded_at, canonical, leaf_hash, index)
        select
            unnest($1::text[]), unnest($2::text[]), unnest($3::text[]), unnest($4::text[]),
            unnest($5::timestamptz[]), unnest($6::bytea[]), unnest($7::bytea[]),
            unnest($8::bigint[])
    )
    insert into ledger.checkpoint (size, root_hash, recorded_at, note)
    values ($9::bigint, $10::bytea, $11::timestamptz, $12::text)
"""
_FIRST_CHECKPOINT = """
    insert into ledger.checkpoint (size, root_hash, recorded_at, note) values (0, %s, %s, %s)
    on conflict do nothing
"""
# Times travel as text: a tampered 'infinity' is a fault to report, not a reason to stop reading.
_ROWS = """
    select index, key, kind, dag_id, run_id, recorded_at::text, canonical, leaf_hash
    from ledger.entry where {conditions} order by index limit %s
"""
_FILTERS = ("kind", "dag_id", "run_id")


class Leaf(NamedTuple):
    """An entry on its way into the log, decoded and hashed once."""

    entry: Entry
    content: bytes
    hash: bytes
    at: datetime

    @classmethod
    def of(cls, content: bytes) -> Leaf:
        """Read canonical bytes; raise when they are not an entry that may be recorded."""
        entry = Entry.from_canonical(content)
        entry.require_recordable()
        at = datetime.fromisoformat(entry.recorded_at_utc)
        return cls(entry, content, leaf_hash(content), at)

    def offset(self, at: datetime) -> timedelta:
        """Return how far the entry's own time is from another."""
        return abs(self.at - at)


class _Placed(NamedTuple):
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
            tcp_user_timeout=_SILENT_MS,
        )
        try:
            self.prepare(connection)
        except (MarketlakeError, psycopg.Error):
            connection.close()
            raise
        self.connection = connection
        return connection


class LedgerLog:
    """The one writer of the log. Not thread-safe: give it a thread of its own.

    ``sign`` makes the signed note of a checkpoint, and of the note before it that it vouches for;
    ``public_key`` tells its notes from others'. ``published`` are the newest checkpoints that are
    known outside the database: a log that does not hold each of them takes no more entries.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        sign: Callable[[Checkpoint, str | None], str],
        public_key: str,
        published: Sequence[Checkpoint] = (),
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._link = _Link(settings, self._prepare)
        self._sign = sign
        self._public_key = public_key
        self._published = published
        self._clock = clock
        self._tree = MerkleTree()
        empty = Checkpoint(0, self._tree.root(0).hex(), clock().isoformat())
        self._signed = SignedCheckpoint(empty, sign(empty, None))
        self._own_note: str | None = None
        self._refusal: str | None = None

    @property
    def head(self) -> Checkpoint:
        """Return the checkpoint of the last commit."""
        return self._signed.checkpoint

    @property
    def signed_head(self) -> SignedCheckpoint:
        """Return the checkpoint of the last commit with its note."""
        return self._signed

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
        size = self.head.size
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
            root_hash=self.head.root_hash,
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
            at = self._clock()
            empty = Checkpoint(0, MerkleTree().root(0).hex(), _text(at))
            connection.execute(
                _FIRST_CHECKPOINT, (MerkleTree().root(0), at, self._sign(empty, None))
            )
        _require_done(connection, connection.pgconn.prepare(_COMMIT_NAME, _COMMIT))
        # A refusal lasts until a restart: somebody has to look.
        if self._refusal is None:
            self._refusal = self._catch_up(connection)

    def _catch_up(self, connection: Connection) -> str | None:
        """Read what the table holds beyond our tree; return what is wrong with it, or None."""
        known = self.head.size
        self._tree.truncate(known)
        latest = connection.execute(
            "select size, root_hash, recorded_at, note from ledger.checkpoint"
            " order by size desc limit 1"
        ).fetchone()
        size, root, recorded_at, note = latest or (0, b"", self._clock(), "")
        fault = _below_first(connection) or self._read_leaves(connection, max(known - 1, 0))
        if fault is None:
            fault = self._compare(size, root) or self._compare_published()
        head = Checkpoint(size, root.hex(), _text(recorded_at))
        if fault is None and size == 0:
            # An empty log may get another key, and there is nothing in it to vouch for.
            note = self._sign(head, None)
        elif fault is None:
            fault = self._compare_note(head, note)
        if size >= known:
            self._signed = SignedCheckpoint(head, note)
            # Somebody may have changed it there: the next signature must not vouch for it.
            self._own_note = None
        return fault

    def _read_leaves(self, connection: Connection, first: int) -> str | None:
        # Starting one entry early shows whether the last one we committed is still there.
        known, expected = self._tree.size, first
        fresh: list[bytes] = []
        with connection.transaction(), connection.cursor("leaves", binary=True) as rows:
            rows.itersize = 10_000
            rows.execute(
                "select index, leaf_hash from ledger.entry where index >= %s order by index",
                (first,),
            )
            for index, leaf in rows:
                if index != expected:
                    return f"entry {expected} is missing (the next one is {index})"
                if len(leaf) != HASH_BYTES:
                    return f"entry {index}: the stored leaf hash has {len(leaf)} bytes"
                if index >= known:
                    fresh.append(leaf)
                elif leaf != self._tree.leaf(index):
                    return f"entry {index} was replaced while the appender was away"
                expected += 1
        self._tree.extend(b"".join(fresh))
        return None if expected >= known else f"entry {expected} is missing"

    def _compare(self, size: int, root: bytes) -> str | None:
        stored = self._tree.size
        if stored < size:
            return f"entries {stored} to {size - 1} are missing: the tail was cut"
        if stored > size:
            return f"entry {size} was inserted behind the appender: no checkpoint covers it"
        if self._tree.root(size) != root:
            return f"the root of the first {size} entries differs from the last checkpoint"
        return None

    def _compare_published(self) -> str | None:
        stored = self._tree.size
        for published in self._published:
            if published.size > stored:
                return (
                    f"entries {stored} to {published.size - 1} are missing: a checkpoint of "
                    f"{published.recorded_at_utc} outside the database covers them"
                )
            if self._tree.root(published.size).hex() != published.root_hash:
                return f"the first {published.size} entries are not those of a published checkpoint"
        return None

    def _compare_note(self, head: Checkpoint, note: str | None) -> str | None:
        """Return why the newest checkpoint is not to be followed by one of ours, or None.

        Whoever adds entries and a checkpoint while nobody appends lacks the key. Going on would
        cover them with a signature, and their own checkpoint could then be taken away.
        """
        try:
            signed = open_signed(note or "", public_key=self._public_key)
        except SignatureRefused as error:
            return f"checkpoint {head.size}: {error}"
        return None if signed == head else f"checkpoint {head.size} is not that of its signed note"

    def _append(self, connection: Connection, batch: Sequence[Sequence[Leaf]]) -> list[Outcome]:
        self.require_sound()
        # What a verification will measure the entries' times against: the checkpoint's, not now.
        at = _not_before(datetime.fromisoformat(self.head.recorded_at_utc), self._clock())
        # Nearly every key is new, so the table's unique index is left to say which ones are not.
        # Only an entry from another time is looked up first: old ones may well be repeats.
        late = [leaf for leaves in batch for leaf in leaves if leaf.offset(at) > _MAX_OFFSET]
        known = self._already_recorded(connection, late) if late else {}
        try:
            outcomes, fresh = _place(batch, known, self.head.size, at)
            try:
                self._commit(connection, fresh, at)
            except psycopg.errors.UniqueViolation:
                everything = [leaf for leaves in batch for leaf in leaves]
                known = self._already_recorded(connection, everything)
                outcomes, fresh = _place(batch, known, self.head.size, at)
                self._commit(connection, fresh, at)
        except (psycopg.IntegrityError, psycopg.ProgrammingError) as error:
            # Nobody else may write here, so a collision or a changed table is tampering.
            self._refuse(f"entry {self.head.size} could not follow: {str(error).strip()}")
        return outcomes

    def _already_recorded(
        self, connection: Connection, leaves: Iterable[Leaf]
    ) -> dict[str, _Placed]:
        """Return what stands under the leaves' keys; refuse a row that was not appended here.

        Whoever owns the database can plant a row under a key that is still to come. A receipt for
        it would be one for an entry that no root covers.
        """
        keys = list({leaf.entry.key for leaf in leaves})
        rows = connection.execute(
            "select key, index, canonical, leaf_hash from ledger.entry where key = any(%s)", (keys,)
        )
        known = {}
        for key, index, content, stored in rows:
            is_ours = 0 <= index < self.head.size and self._tree.leaf(index) == stored
            if not is_ours or leaf_hash(content) != stored:
                self._refuse(f"entry {index}, which has the key {key!r}, was not appended here")
            # These are the bytes that were appended, so they can be read.
            entry = Entry.from_canonical(content)
            if entry.key != key:
                self._refuse(f"entry {index}: column key is {key!r}, its bytes say {entry.key!r}")
            known[key] = _Placed(entry, Receipt(index, stored.hex()))
        return known

    def _commit(self, connection: Connection, fresh: Sequence[Leaf], at: datetime) -> None:
        """Make new leaves and the checkpoint of them durable, or change nothing."""
        if not fresh:
            return
        first = self.head.size
        self._tree.truncate(first)
        self._tree.extend(b"".join([leaf.hash for leaf in fresh]))
        size = self._tree.size
        root = self._tree.root(size)
        head = Checkpoint(size, root.hex(), _text(at))
        note = self._sign(head, self._own_note)
        checkpoint = (_BIGINT.pack(size), root, _instant(at), note.encode())
        _execute(connection, _COMMIT_NAME, [*_columns(fresh, first), *checkpoint])
        self._signed, self._own_note = SignedCheckpoint(head, note), note

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

    def checkpoints(self, since: int, last: int, *, limit: int) -> list[StoredCheckpoint]:
        """Return a page of stored checkpoints with sizes from ``since`` to ``last``."""
        sql = (
            "select size, root_hash, recorded_at::text, note from ledger.checkpoint"
            " where size between %s and %s order by size limit %s"
        )
        found = self._link.run(
            lambda connection: connection.execute(sql, (since, last, limit)).fetchall()
        )
        return [StoredCheckpoint(size, root.hex(), at, note) for size, root, at, note in found]

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


def _not_before(last: datetime, now: datetime) -> datetime:
    """Return the time of the next checkpoint: now, but never before the last one."""
    if last - now > _MAX_STEP_BACK:
        raise SourceUnavailable(
            expected=f"a clock that has not gone back since the last checkpoint of {_text(last)}",
            was=f"{_text(now)}, {(last - now).total_seconds():.3f} s earlier",
            where="the ledger appender's clock",
            todo="correct the clock of the appender's machine",
        )
    return max(last, now)


def _below_first(connection: Connection) -> str | None:
    lowest = _value(connection, "select min(index) from ledger.entry")
    return below_first(lowest) if lowest is not None and lowest < 0 else None


def _place(
    batch: Iterable[Sequence[Leaf]], known: Mapping[str, _Placed], size: int, at: datetime
) -> tuple[list[Outcome], list[Leaf]]:
    """Give every new key the next index; return each request's outcome and the new leaves."""
    placed = dict(known)
    fresh: list[Leaf] = []
    outcomes: list[Outcome] = []
    for leaves in batch:
        request = _Request(placed, size + len(fresh), at)
        refused = next(filter(None, map(request.take, leaves)), None)
        if refused is not None:
            outcomes.append(refused)
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
    at: datetime
    added: dict[str, _Placed] = field(default_factory=dict)
    fresh: list[Leaf] = field(default_factory=list)
    receipts: list[Receipt] = field(default_factory=list)

    def take(self, leaf: Leaf) -> ContractViolation | None:
        """Place one entry; return why not when its time is off or its key already taken.

        The times of one key are not compared: the first record of a fact keeps its own.
        """
        key = leaf.entry.key
        earlier = self.added.get(key) or self.placed.get(key)
        if earlier is None:
            if leaf.offset(self.at) > _MAX_OFFSET:
                return _off_time(leaf.entry, self.at)
            receipt = Receipt(self.next_index + len(self.fresh), leaf.hash.hex())
            earlier = self.added[key] = _Placed(leaf.entry, receipt)
            self.fresh.append(leaf)
        elif (earlier.entry.kind, earlier.entry.payload) != (leaf.entry.kind, leaf.entry.payload):
            return _clash(leaf.entry)
        self.receipts.append(earlier.receipt)
        return None


def _clash(entry: Entry) -> ContractViolation:
    return ContractViolation(
        expected="a key that stands for one fact",
        was="the same key with another kind or payload",
        where=f"ledger entry {entry.key!r}",
        todo="give the new fact a new key; one process at a time may write for one try",
    )


def _off_time(entry: Entry, at: datetime) -> ContractViolation:
    return ContractViolation(
        expected=f"a time within {_MAX_OFFSET.total_seconds():.0f} s of the appender's clock, "
        f"by which the checkpoint would be of {_text(at)}",
        was=entry.recorded_at_utc,
        where=f"ledger entry {entry.key!r}",
        todo="correct the clock of the machine that recorded it, or of the appender's",
    )


def _execute(connection: Connection, prepared: bytes, parameters: Sequence[bytes]) -> None:
    """Execute a prepared statement; psycopg's own way of doing it costs several times more."""
    formats = [Format.BINARY] * len(parameters)
    _require_done(connection, connection.pgconn.exec_prepared(prepared, parameters, formats))


def _require_done(connection: Connection, result: PGresult) -> None:
    if result.status == ExecStatus.COMMAND_OK:
        return
    error = psycopg.errors.error_from_result(result)
    if connection.pgconn.status != ConnStatus.OK:
        raise psycopg.OperationalError(str(error)) from error
    raise error


def _columns(leaves: Sequence[Leaf], first: int) -> list[bytes]:
    """Return the leaves as the arrays that ``_COMMIT`` takes."""
    entries = [leaf.entry for leaf in leaves]
    runs = [entry.run for entry in entries]
    return [
        _texts([entry.key for entry in entries]),
        _texts([entry.kind for entry in entries]),
        _texts([run.get("dag_id") for run in runs]),
        _texts([run.get("run_id") for run in runs]),
        _array(_INSTANT_OID, [_instant(leaf.at) for leaf in leaves]),
        _array(_BYTES_OID, [leaf.content for leaf in leaves]),
        _array(_BYTES_OID, [leaf.hash for leaf in leaves]),
        _array(_BIGINT_OID, [_BIGINT.pack(first + n) for n in range(len(leaves))]),
    ]


def _texts(items: Sequence[str | None]) -> bytes:
    return _array(_TEXT_OID, [None if item is None else item.encode() for item in items])


def _array(oid: int, items: Sequence[bytes | None]) -> bytes:
    """Return Postgres' binary form of an array of one dimension, with nulls."""
    parts = [_ARRAY_HEADER.pack(1, int(None in items), oid, len(items), 1)]
    for item in items:
        parts += (_NULL,) if item is None else (_LENGTH.pack(len(item)), item)
    return b"".join(parts)


def _instant(at: datetime) -> bytes:
    return _BIGINT.pack((at - _POSTGRES_EPOCH) // _MICROSECOND)


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
