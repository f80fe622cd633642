"""Which artifact was made from which, read out of the ledger's ``published`` entries into tables.

The tables (schema ``lineage`` of the ledger's database) are derived: they are caught up when they
are asked, and can be dropped at any time. Nothing in them is evidence; whoever shows an artifact
proves its entry (``readmodels/lineage.py``). What does not belong: proofs, and the lake.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias

import psycopg

from marketlake.errors import BadPayload, ConfigError, SourceUnavailable, Timeout
from marketlake.settings import PostgresSettings

Direction: TypeAlias = Literal["up", "down"]
"""``up`` is what an artifact was made from, ``down`` what was made from it."""

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]

_LOCK = 6962_0002
_ENTRIES_AT_ONCE = 2000
_IDS_KEPT = 200_000
_ID_BYTES = 8
_NAME = re.compile(r"[^/@\t\n\\]+/[^/@\t\n\\]+@[0-9a-f]{64}")
_SCHEMA = (
    "create schema if not exists lineage",
    # ``parents`` are what the newest entry says, as 8-byte ids in one value: thousands are read in
    # the time of hundreds of array elements. An artifact without an entry was only ever named.
    """
    create table if not exists lineage.artifact (
        id bigint primary key,
        contract text not null,
        partition text not null,
        sha256 bytea not null,
        ledger_index bigint,
        parents bytea not null,
        unique (contract, partition, sha256)
    )
    """,
    # What any entry ever said, for the other direction.
    """
    create table if not exists lineage.edge (
        parent_id bigint not null,
        child_id bigint not null,
        ledger_index bigint not null,
        primary key (parent_id, child_id) include (ledger_index)
    )
    """,
    """
    create table if not exists lineage.progress (
        is_only boolean primary key default true check (is_only),
        indexed_through bigint not null,
        last_leaf_hash bytea not null
    )
    """,
)
_NEW_ENTRIES = """
    select index, canonical from ledger.entry
    where kind = 'published' and index >= %s and index < %s order by index
"""
_KNOWN = """
    select n.place, a.id
    from unnest(%b::text[], %b::text[], %b::bytea[]) with ordinality
        as n(contract, partition, sha256, place)
    join lineage.artifact as a using (contract, partition, sha256)
"""
_UPDATE = "update lineage.artifact set ledger_index = %s, parents = %s where id = %s"
_UPSERT_EDGE = """
    insert into lineage.edge (parent_id, child_id, ledger_index) values (%s, %s, %s)
    on conflict (parent_id, child_id) do update set ledger_index = excluded.ledger_index
"""
_NAMES = """
    select id, contract || '/' || partition || '@' || encode(sha256, 'hex'), ledger_index
    from lineage.artifact where id = any(%s::bigint[])
"""
_NAMES_AND_PARENTS = _NAMES.replace("ledger_index", "ledger_index, parents")
_BELOW = """
    select child_id, parent_id, ledger_index
    from lineage.edge where parent_id = any(%s::bigint[])
"""
_VERSIONS = """
    select contract || '/' || partition || '@' || encode(sha256, 'hex'), ledger_index
    from lineage.artifact
    where contract = %s and partition = %s and starts_with(encode(sha256, 'hex'), %s)
        and ledger_index is not null
    order by ledger_index desc
"""
_NEWEST = """
    select n.contract || '/' || n.partition, (
        select a.contract || '/' || a.partition || '@' || encode(a.sha256, 'hex')
        from lineage.artifact as a
        where a.contract = n.contract and a.partition = n.partition and a.ledger_index is not null
        order by a.ledger_index desc limit 1
    )
    from unnest(%b::text[], %b::text[]) as n(contract, partition)
"""


@dataclass(frozen=True)
class Closure:
    """Everything on one side of some artifacts, themselves among it, by numbers of the index.

    ``nodes`` has each artifact's name and the ledger index of its newest ``published`` entry, None
    where it was only ever named as a parent. ``above`` has each artifact's parents, by that entry,
    packed as the table has them (unpacked, they take as long as the question);
    ``below`` (child, parent, entry that says so), for every entry that ever did.
    """

    nodes: Mapping[int, tuple[str, int | None]]
    above: Mapping[int, bytes] = field(default_factory=dict)
    below: Sequence[tuple[int, int, int]] = ()

    @property
    def n_edges(self) -> int:
        """Return how many links there are."""
        return len(self.below) + sum(map(len, self.above.values())) // _ID_BYTES

    def edges(self) -> Iterator[tuple[str, str, int]]:
        """Yield child, parent, and the newest entry that says one was made from the other."""
        for child, packed in self.above.items():
            name, index = self.nodes[child]
            if index is not None:  # only an entry names parents
                for parent in _unpacked(packed):
                    yield name, self.nodes[parent][0], index
        for child, parent, index in self.below:
            yield self.nodes[child][0], self.nodes[parent][0], index


@dataclass(frozen=True)
class CaughtUp:
    """What one catching up did."""

    published: int
    indexed_through: int
    rebuilt: bool


class LineageIndex:
    """The tables, over one connection: use it in a ``with`` statement."""

    def __init__(self, settings: PostgresSettings) -> None:
        self._settings = settings
        self._connection: _Connection | None = None
        self._ids: OrderedDict[str, int] = OrderedDict()
        self._next_id = 1

    def __enter__(self) -> Self:
        """Connect, and catch up with the ledger."""
        with self._failures_named():
            self._connection = psycopg.connect(
                self._settings.conninfo(self._settings.ledger_db),
                autocommit=True,
                application_name="marketlake lineage",
                options=f"-c statement_timeout={self._settings.statement_timeout_s * 1000}"
                " -c timezone=UTC",
            )
        try:
            self.catch_up()
        except BaseException:
            self._connection.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @property
    def backend_pid(self) -> int:
        """Return the server's process behind the connection: whose time a question takes."""
        return self._open.info.backend_pid

    def catch_up(self, *, rebuild: bool = False) -> CaughtUp:
        """Read what the ledger has published since the last time, in one transaction.

        Several callers take turns. A ledger that ends before what was indexed, or whose last
        indexed entry is another one now, is read again from its beginning; so it is on request.
        """
        with self._failures_named(), self._open.transaction():
            # Whoever waits here waits for as long as the other one reads.
            self._run("set local statement_timeout = 0")
            self._run("set local synchronous_commit = off")  # lost, it is read again
            self._run("select pg_advisory_xact_lock(%s)", (_LOCK,))
            for statement in _SCHEMA:
                self._run(statement)
            first = self._first_new()
            rebuilt = rebuild or first is None
            if rebuilt:
                self._run("truncate lineage.artifact, lineage.edge, lineage.progress")
            begin = 0 if first is None or rebuild else first
            newest = self._run(
                "select index + 1, leaf_hash from ledger.entry order by index desc limit 1"
            )
            end, leaf = newest[0] if newest else (0, b"")
            count = 0
            if end > begin:
                count = self._read(begin, end)
                self._run(
                    "insert into lineage.progress (indexed_through, last_leaf_hash)"
                    " values (%s, %s) on conflict (is_only) do update set"
                    " indexed_through = excluded.indexed_through,"
                    " last_leaf_hash = excluded.last_leaf_hash",
                    (end, leaf),
                )
        return CaughtUp(published=count, indexed_through=end, rebuilt=rebuilt and begin < end)

    def closure(self, names: Sequence[str], direction: Direction) -> Closure:
        """Return everything the named artifacts were made from, or everything made from them."""
        with self._failures_named():
            level = list(self._known(names).values())
            return self._above(level) if direction == "up" else self._below(level)

    def versions(self, contract: str, partition: str, sha256_prefix: str = "") -> dict[str, int]:
        """Return the published versions of a partition, the newest first, with their entries."""
        with self._failures_named():
            rows = self._run(_VERSIONS, (contract, partition, sha256_prefix))
        return dict(rows)

    def newest(self, places: Iterable[tuple[str, str]]) -> dict[str, str]:
        """Return the newest version of each (contract, partition), by ``contract/partition``."""
        wanted = list(dict.fromkeys(places))
        with self._failures_named():
            rows = self._run(_NEWEST, ([item[0] for item in wanted], [item[1] for item in wanted]))
        return {place: name for place, name in rows if name is not None}

    def entries(self, indices: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        """Yield the bytes of ledger entries as the database has them: nobody has checked them."""
        wanted = sorted(set(indices))
        for start in range(0, len(wanted), _ENTRIES_AT_ONCE):
            with self._failures_named():
                rows = self._run(
                    "select index, canonical from ledger.entry where index = any(%b::bigint[])",
                    (wanted[start : start + _ENTRIES_AT_ONCE],),
                )
            yield from rows

    @property
    def _open(self) -> _Connection:
        if self._connection is None:
            raise ConfigError(
                expected="an index in a with statement",
                was="one that is not open",
                where="LineageIndex",
                todo="use `with LineageIndex(settings) as index:`",
            )
        return self._connection

    def _run(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        cursor = self._open.cursor(binary=True)
        cursor.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description is not None else []

    def _first_new(self) -> int | None:
        """Return the first index not read yet; None when what was read is not the ledger's."""
        rows = self._run("select indexed_through, last_leaf_hash from lineage.progress")
        if not rows:
            return None
        through, leaf = rows[0]
        last = self._run("select leaf_hash from ledger.entry where index = %s", (through - 1,))
        return int(through) if last == [(leaf,)] else None

    def _above(self, level: list[int]) -> Closure:
        nodes: dict[int, tuple[str, int | None]] = {}
        above: dict[int, bytes] = {}
        while level:
            rows = self._run(_NAMES_AND_PARENTS, (_listed(level),))
            nodes |= {node: (name, index) for node, name, index, _ in rows}
            above |= {node: packed for node, _, _, packed in rows}
            level = list({*_unpacked(b"".join([row[3] for row in rows]))} - nodes.keys())
        return Closure(nodes, above=above)

    def _below(self, level: list[int]) -> Closure:
        edges: list[tuple[Any, ...]] = []
        seen = set(level)
        while level:
            found = self._run(_BELOW, (_listed(level),))
            edges += found
            level = list({child for child, _, _ in found} - seen)
            seen.update(level)
        nodes = self._run(_NAMES, (_listed(seen),))
        return Closure({node: (name, index) for node, name, index in nodes}, below=edges)

    def _read(self, begin: int, end: int) -> int:
        count = 0
        self._ids.clear()  # since the last time, others may have numbered anew
        ((highest,),) = self._run("select coalesce(max(id), 0) from lineage.artifact")
        self._next_id = highest + 1
        with self._open.cursor("published", binary=True) as rows:
            rows.execute(_NEW_ENTRIES.encode(), (begin, end))
            while some := rows.fetchmany(_ENTRIES_AT_ONCE):
                self._store([(index, *_published(canonical)) for index, canonical in some])
                count += len(some)
        return count

    def _store(self, entries: Sequence[tuple[int, str, list[str]]]) -> None:
        """Write some entries: in bulk what is new, one by one what was published before."""
        ids, new = self._ids_of(
            dict.fromkeys(name for _, child, own in entries for name in (child, *own))
        )
        told = [
            (index, child, [one for one in own if one in ids])
            for index, child, own in entries
            if child in ids
        ]
        newest = {child: (index, own) for index, child, own in told}
        times = Counter(child for _, child, _ in told)
        again = [item for item in told if item[1] not in new or times[item[1]] > 1]
        first = [item for item in told if item[1] in new and times[item[1]] == 1]
        with self._open.cursor() as cursor:
            with cursor.copy(
                "copy lineage.artifact (id, contract, partition, sha256, ledger_index, parents)"
                " from stdin"
            ) as copy:
                for name in new:
                    at, own = newest.get(name, (None, []))
                    copy.write_row((ids[name], *_parts(name), at, _packed(ids, own)))
            with cursor.copy(
                "copy lineage.edge (parent_id, child_id, ledger_index) from stdin"
            ) as copy:
                copy.write(
                    "".join(
                        f"{ids[one]}\t{ids[child]}\t{index}\n"
                        for index, child, own in first
                        for one in own
                    )
                )
            cursor.executemany(
                _UPDATE, [(index, _packed(ids, own), ids[child]) for index, child, own in again]
            )
            cursor.executemany(
                _UPSERT_EDGE,
                [(ids[one], ids[child], index) for index, child, own in again for one in own],
            )

    def _ids_of(self, names: Iterable[str]) -> tuple[dict[str, int], dict[str, None]]:
        """Return the ids of artifacts, and which of them are new; the last used are remembered.

        What is no name has none: who looks for such an artifact finds nothing.
        """
        wanted = [name for name in names if name in self._ids or _NAME.fullmatch(name)]
        unknown = [name for name in wanted if name not in self._ids]
        known = self._known(unknown)
        new = [name for name in unknown if name not in known]
        known |= zip(new, range(self._next_id, self._next_id + len(new)), strict=True)
        self._next_id += len(new)
        ids = {name: known.get(name) or self._ids[name] for name in wanted}
        for name, known_id in ids.items():
            self._ids[name] = known_id
            self._ids.move_to_end(name)
        while len(self._ids) > _IDS_KEPT:
            self._ids.popitem(last=False)
        return ids, dict.fromkeys(new)

    def _known(self, names: Sequence[str]) -> dict[str, int]:
        if not names:
            return {}
        contracts, partitions, hashes = zip(*map(_parts, names), strict=True)
        rows = self._run(_KNOWN, (list(contracts), list(partitions), list(hashes)))
        return {names[place - 1]: known for place, known in rows}

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        settings = self._settings
        where = f"postgres {settings.host}:{settings.port}/{settings.ledger_db}"
        try:
            yield
        except psycopg.errors.QueryCanceled as error:
            raise Timeout(
                expected=f"a statement that ends within {settings.statement_timeout_s} s",
                was=str(error),
                where=where,
                todo="raise MARKETLAKE_POSTGRES__STATEMENT_TIMEOUT_S",
            ) from error
        except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName) as error:
            raise ConfigError(
                expected="a ledger",
                was=str(error),
                where=where,
                todo="run `marketlake up`, whose appender creates it",
            ) from error
        except psycopg.OperationalError as error:
            raise SourceUnavailable(
                expected="the ledger's database to answer",
                was=str(error).strip(),
                where=where,
                todo="start it (`marketlake up`), or look at its log",
            ) from error


def split_name(name: str) -> tuple[str, str, str]:
    """Return contract, partition and hash of a name as the ledger has it; BadPayload if none."""
    place, at, sha256 = name.rpartition("@")
    contract, slash, partition = place.partition("/")
    if not (at and slash and contract and partition and sha256):
        raise BadPayload(
            expected="contract/partition@sha256",
            was=repr(name),
            where="lineage",
            todo="run `marketlake audit verify`",
        )
    return contract, partition, sha256


def _parts(name: str) -> tuple[str, str, bytes]:
    contract, partition, sha256 = split_name(name)
    return contract, partition, bytes.fromhex(sha256)


def _listed(ids: Iterable[int]) -> str:
    """Return numbers as Postgres reads an array: passing a list takes several times as long."""
    return f"{{{','.join(map(str, ids))}}}"


def _packed(ids: Mapping[str, int], names: Iterable[str]) -> bytes:
    return array("q", [ids[name] for name in names]).tobytes()


def _unpacked(packed: bytes) -> array[int]:
    return array("q", packed)


def _published(canonical: bytes) -> tuple[str, list[str]]:
    """Return whose publication an entry is, and its parents, without judging its bytes."""
    try:
        start = 0
        for _ in range(4):  # the payload is the last of five netstrings
            colon = canonical.index(b":", start)
            start = colon + int(canonical[start:colon]) + 2
        payload = json.loads(canonical[canonical.index(b":", start) + 1 : -1])
        name = f"{payload['contract']}/{payload['partition']}@{payload['sha256']}"
        return name, list(dict.fromkeys(map(str, payload.get("parents", []))))
    except (ValueError, KeyError, TypeError, AttributeError):
        return "", []
