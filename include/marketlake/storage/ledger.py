"""The audit ledger as everybody but its appender sees it: entries, receipts, proofs, the client.

One process appends (``services/ledger_appender.py``) and keeps the log in Postgres
(``storage/ledger_log.py``); tasks reach it over a socket. The client checks what it is told:
proofs and whole-log verification are computed here, from the entries' own bytes. What does not
belong here: SQL, and what a pipeline chooses to record.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import socket
import sqlite3
import struct
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, datetime, timedelta
from enum import Enum
from numbers import Integral, Real
from pathlib import Path, PurePath
from typing import Any, Self

from pydantic import SecretBytes, SecretStr

import marketlake.errors as error_tree
from marketlake.clock import monotonic_s, utc_now
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    ConfigError,
    ContractViolation,
    MarketlakeError,
    SourceUnavailable,
    Timeout,
)
from marketlake.settings import LedgerSettings
from marketlake.storage.merkle import MerkleTree, leaf_hash, root_from_path
from marketlake.types import RunIdentity

__all__ = [
    "KINDS",
    "Checkpoint",
    "Entry",
    "InclusionProof",
    "LedgerClient",
    "LedgerWriter",
    "Receipt",
    "Recorded",
    "StoredRow",
    "Verification",
    "verify_log",
]

KINDS = frozenset(
    {
        "calculation",
        "decision",
        "gate",
        "intent",
        "lineage_undelivered",
        "model",
        "notification",
        "notification_failed",
        "notification_try",
        "notified",
        "published",
        "secret_access",
        "task_failed",
        "task_finished",
        "task_started",
        "vendor_call",
    }
)
PROTOCOL = 1
MAX_ENTRY_BYTES = 1 << 20
MAX_FRAME_BYTES = 1 << 26
FRAME_HEADER = struct.Struct(">I")

_DOMAIN = "marketlake.ledger.entry.v1"
_MAX_KEY_CHARACTERS = 1000
_MAX_FAULTS = 100
_PAGE_ROWS = 2000
_SEQUENCE_DIGITS = 8
_REDACTED = "<redacted>"
_SECRET_NAME = re.compile(r"key|secret|password|token", re.IGNORECASE)
# Names of this code base that only look like secrets.
_OPEN_NAMES = frozenset({"data_key", "export_key", "partition_key"})
_SECRET_IN_URL = re.compile(
    r"(?i)([?&][^=&#\s]*(?:key|secret|password|token|crumb)[^=&#\s]*=)[^&#\s]+|(://)[^/@\s]+(?=@)"
)


@dataclass(frozen=True)
class Entry:
    """One fact. ``key`` names it once and for all: the same key is never recorded twice."""

    key: str
    kind: str
    payload: Mapping[str, Any]
    recorded_at_utc: str

    def canonical(self) -> bytes:
        """Return the bytes that are hashed: netstrings of domain, key, kind, time, payload.

        Length prefixes make the encoding injective; it stays readable as text.
        """
        parts = (
            _DOMAIN,
            self.key,
            self.kind,
            self.recorded_at_utc,
            _canonical_json(self.payload, where=self.key),
        )
        try:
            encoded = [part.encode() for part in parts]
        except UnicodeEncodeError as error:
            raise ContractViolation(
                expected="text that UTF-8 can carry",
                was=str(error),
                where=f"ledger entry {self.key!r}",
                todo="replace the lone surrogate before recording",
            ) from None
        return b"".join(b"%d:%b," % (len(part), part) for part in encoded)

    @classmethod
    def from_canonical(cls, content: bytes) -> Self:
        """Read an entry back; raise BadPayload when the bytes are not exactly canonical."""
        try:
            domain, key, kind, recorded_at_utc, payload = _read_netstrings(content, 5)
            entry = cls(key, kind, json.loads(payload), recorded_at_utc)
            if domain == _DOMAIN and entry.canonical() == content:
                return entry
        except (ValueError, ContractViolation) as error:
            raise _not_canonical(content, str(error)) from None
        raise _not_canonical(content, "another encoding of an entry")

    @property
    def run(self) -> Mapping[str, Any]:
        """Return the identity of the run that recorded this (empty when it named none)."""
        run = self.payload.get("run")
        return run if isinstance(run, dict) else {}

    def require_recordable(self) -> None:
        """Raise ContractViolation when this cannot become an entry of the log."""
        checks = (
            ("a kind of the ledger", self.kind in KINDS, self.kind),
            (
                f"a key of 1 to {_MAX_KEY_CHARACTERS} characters without NUL",
                0 < len(self.key) <= _MAX_KEY_CHARACTERS and "\0" not in self.key,
                self.key,
            ),
            (
                "an ISO 8601 instant in UTC",
                _instant(self.recorded_at_utc) is not None,
                self.recorded_at_utc,
            ),
            (
                "a run whose dag_id and run_id are texts without NUL",
                all(
                    isinstance(value, str) and "\0" not in value
                    for name, value in self.run.items()
                    if name in {"dag_id", "run_id"}
                ),
                self.run,
            ),
        )
        for expected, holds, was in checks:
            if not holds:
                raise ContractViolation(
                    expected=expected,
                    was=repr(was)[:200],
                    where=f"ledger entry {self.key[:200]!r}",
                    todo=f"record one of {sorted(KINDS)} through LedgerWriter",
                )


@dataclass(frozen=True)
class Recorded(Entry):
    """An entry as the log holds it."""

    index: int
    leaf_hash: str


@dataclass(frozen=True)
class Receipt:
    """The appender's word, given after the commit, that an entry is in the log for good."""

    index: int
    leaf_hash: str


@dataclass(frozen=True)
class Checkpoint:
    """The log's size and root at one commit; kept elsewhere, it pins everything before it."""

    size: int
    root_hash: str
    recorded_at_utc: str


@dataclass(frozen=True)
class InclusionProof:
    """The audit path from one leaf to the root of a log of ``size`` entries."""

    index: int
    size: int
    leaf_hash: str
    root_hash: str
    path: tuple[str, ...]

    def holds(self) -> bool:
        """Return whether the path leads from the leaf to the root."""
        path = [bytes.fromhex(node) for node in self.path]
        root = root_from_path(self.index, self.size, bytes.fromhex(self.leaf_hash), path)
        return root is not None and root.hex() == self.root_hash


@dataclass(frozen=True)
class StoredRow:
    """One row of the log as the database holds it, believed in nothing."""

    index: int
    key: str
    kind: str
    dag_id: str | None
    run_id: str | None
    recorded_at_utc: str
    canonical: bytes
    leaf_hash: str

    def fault(self) -> str | None:
        """Return what is wrong with this row on its own, or None."""
        if leaf_hash(self.canonical).hex() != self.leaf_hash:
            return "its bytes do not have the stored leaf hash"
        try:
            entry = Entry.from_canonical(self.canonical)
        except BadPayload as error:
            return f"its bytes are not an entry ({error.was})"
        columns = (
            ("key", self.key, entry.key),
            ("kind", self.kind, entry.kind),
            ("dag_id", self.dag_id, entry.run.get("dag_id")),
            ("run_id", self.run_id, entry.run.get("run_id")),
            ("recorded_at", _instant(self.recorded_at_utc), _instant(entry.recorded_at_utc)),
        )
        wrong = [name for name, column, own in columns if column != own]
        return f"column {wrong[0]} differs from its bytes" if wrong else None


@dataclass(frozen=True)
class Verification:
    """What a full recomputation found; ``faults`` come in log order, the first bad entry first."""

    ok: bool
    size: int
    root_hash: str
    faults: list[str]


def verify_log(
    rows: Iterable[StoredRow], checkpoints: Sequence[Checkpoint], *, end: int
) -> Verification:
    """Recompute a whole log from its entries' bytes and hold it against every checkpoint.

    Parameters
    ----------
    rows
        Every stored row below ``end``, in index order.
    checkpoints
        Those stored beside the log, the appender's head, and any that were kept elsewhere.
    end
        How many entries there must be at least.
    """
    tree = MerkleTree()
    faults: list[tuple[int, str]] = []
    pending = sorted(checkpoints, key=lambda checkpoint: checkpoint.size)
    expected, agreed = 0, 0
    contiguous = True
    for row in rows:
        if row.index != expected:
            faults.append((expected, f"entry {expected} is missing (the next one is {row.index})"))
            contiguous = False
        fault = row.fault()
        if fault is not None:
            faults.append((row.index, f"entry {row.index}: {fault}"))
        expected = row.index + 1
        if contiguous:
            tree.append(leaf_hash(row.canonical))
            agreed = _hold_against(tree, pending, agreed, faults)
        if len(faults) >= _MAX_FAULTS:
            break
    last = max([end, *(checkpoint.size for checkpoint in checkpoints)])
    if expected < last and len(faults) < _MAX_FAULTS:
        message = f"entries {expected} to {last - 1} are missing: the tail was cut"
        if contiguous and agreed < expected:
            # Their checkpoint also covers what is gone, so nothing vouches for them.
            message += f"; entries {agreed} to {expected - 1} cannot be confirmed"
        faults.append((expected, message))
    faults.sort(key=lambda fault: fault[0])
    root = tree.root(tree.size).hex()
    return Verification(not faults, expected, root, [message for _, message in faults])


def _hold_against(
    tree: MerkleTree, pending: list[Checkpoint], agreed: int, faults: list[tuple[int, str]]
) -> int:
    """Compare the tree with the checkpoints of its size; return the last size that agreed."""
    while pending and pending[0].size <= tree.size:
        checkpoint = pending.pop(0)
        if tree.root(checkpoint.size).hex() == checkpoint.root_hash:
            agreed = max(agreed, checkpoint.size)
        elif not faults:
            # Every later root differs too; only the first says where to look.
            first, final = agreed, checkpoint.size - 1
            place = (
                f"entry {final} is" if first >= final else f"one of entries {first} to {final} is"
            )
            faults.append(
                (
                    first,
                    f"{place} not what was recorded: the root of the first {checkpoint.size} "
                    f"differs from the checkpoint of {checkpoint.recorded_at_utc}",
                )
            )
    return agreed


class LedgerClient:
    """Talks to the appender; one connection a thread, opened on first use in each process.

    No answer within ``timeout_s`` raises Timeout, no appender or no Postgres behind it
    SourceUnavailable: a pipeline that cannot be audited stops.
    """

    def __init__(self, settings: LedgerSettings) -> None:
        self._settings = settings
        self._local = threading.local()

    @property
    def address(self) -> str:
        """Return where the appender is expected."""
        return f"{self._settings.host}:{self._settings.port}"

    def append(self, entries: Sequence[Entry]) -> list[Receipt]:
        """Record entries, all or none, and return once they are durable.

        A key that is already in the log gets its first receipt again; the same key with another
        kind or payload raises ContractViolation.
        """
        contents = []
        for entry in entries:
            entry.require_recordable()
            contents.append(_bounded(entry.canonical(), where=entry.key).decode())
        if not contents:
            return []
        answer = self._call({"op": "append", "entries": contents})
        return [Receipt(index, leaf) for index, leaf in answer["receipts"]]

    def ping(self) -> None:
        """Raise unless the appender and the Postgres behind it answer."""
        self._call({"op": "ping"})

    def checkpoint(self) -> Checkpoint:
        """Return the newest checkpoint: size, root and time of the last commit."""
        return Checkpoint(**self._call({"op": "checkpoint"})["checkpoint"])

    def prove(self, index: int) -> InclusionProof:
        """Return a checked proof that entry ``index`` is under the present root."""
        answer = self._call({"op": "prove", "index": index})["proof"]
        proof = InclusionProof(**{**answer, "path": tuple(answer["path"])})
        if proof.index != index or not proof.holds():
            raise BadPayload(
                expected=f"an inclusion proof of entry {index}",
                was="a path that does not lead to the root",
                where=f"ledger appender at {self.address}",
                todo="run `marketlake audit verify`",
            )
        return proof

    def entries(
        self,
        kind: str | None = None,
        dag_id: str | None = None,
        *,
        run_id: str | None = None,
        since_index: int = 0,
        limit: int = 1000,
    ) -> list[Recorded]:
        """Return entries in log order, from ``since_index`` on, that match every filter given."""
        filters = {"kind": kind, "dag_id": dag_id, "run_id": run_id}
        found = itertools.islice(self._rows(since_index, None, limit=limit, **filters), limit)
        return [
            Recorded(
                **vars(Entry.from_canonical(row.canonical)),
                index=row.index,
                leaf_hash=row.leaf_hash,
            )
            for row in found
        ]

    def verify(self, trusted: Sequence[Checkpoint] = ()) -> Verification:
        """Recompute the whole log here and compare it with every checkpoint.

        ``trusted`` are checkpoints that were kept outside the database (for example in the
        object-locked bucket); without them, someone who owns the database can rewrite both.
        """
        head, stored_end, refusal = self._head()
        checkpoints = [*self._checkpoints(head.size), head, *trusted]
        found = verify_log(self._rows(0, head.size), checkpoints, end=head.size)
        faults = list(found.faults)
        if stored_end > head.size:
            faults.append(
                f"entry {head.size} was inserted behind the appender "
                f"(it appended {head.size}, the table ends at {stored_end})"
            )
        if refusal is not None and not faults:
            faults.append(refusal)
        return Verification(not faults, found.size, found.root_hash, faults)

    def export(self, path: Path) -> int:
        """Write the log and its checkpoints into a new SQLite file; return how many entries."""
        head, _, _ = self._head()
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.unlink(missing_ok=True)
        count = 0
        with closing(sqlite3.connect(unfinished)) as database, database:
            database.execute(
                "create table entry (idx integer primary key, key text not null unique,"
                " kind text not null, dag_id text, run_id text, recorded_at_utc text not null,"
                " canonical blob not null, leaf_hash text not null) strict"
            )
            database.execute(
                "create table checkpoint (size integer primary key, root_hash text not null,"
                " recorded_at_utc text not null) strict"
            )
            for row in self._rows(0, head.size):
                # By name, not vars(): the column order above is the file's format.
                values = (
                    *(row.index, row.key, row.kind, row.dag_id, row.run_id),
                    *(row.recorded_at_utc, row.canonical, row.leaf_hash),
                )
                database.execute("insert into entry values (?, ?, ?, ?, ?, ?, ?, ?)", values)
                count += 1
            database.executemany(
                "insert into checkpoint values (?, ?, ?)",
                [
                    (point.size, point.root_hash, point.recorded_at_utc)
                    for point in self._checkpoints(head.size)
                ],
            )
        unfinished.replace(path)
        return count

    def next_sequence(self, prefix: str) -> int:
        """Return the first number not yet used under ``prefix`` by a :class:`LedgerWriter`."""
        last = self._call({"op": "last_key", "prefix": prefix})["key"]
        return int(last.removeprefix(prefix)) + 1 if last is not None else 0

    def close(self) -> None:
        """Close this thread's connection; the next call opens another."""
        connection = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()

    def _head(self) -> tuple[Checkpoint, int, str | None]:
        answer = self._call({"op": "head"})
        return Checkpoint(**answer["checkpoint"]), answer["stored_end"], answer["refusal"]

    def _checkpoints(self, last: int) -> Iterator[Checkpoint]:
        since = 0
        while True:
            request = {"op": "checkpoints", "since": since, "last": last, "limit": _PAGE_ROWS}
            page = [Checkpoint(**item) for item in self._call(request)["checkpoints"]]
            if not page:
                return
            yield from page
            since = page[-1].size + 1

    def _rows(
        self, first: int, end: int | None, *, limit: int = _PAGE_ROWS, **filters: str | None
    ) -> Iterator[StoredRow]:
        while True:
            request = {
                "op": "rows",
                "first": first,
                "end": end,
                "limit": min(limit, _PAGE_ROWS),
                "filters": {name: value for name, value in filters.items() if value is not None},
            }
            page = self._call(request)["rows"]
            if not page:
                return
            for row in page:
                row[-2] = base64.b64decode(row[-2])
                yield StoredRow(*row)
            first = page[-1][0] + 1

    def _call(self, request: Mapping[str, Any]) -> dict[str, Any]:
        deadline = monotonic_s() + self._settings.timeout_s
        connection = getattr(self._local, "connection", None)
        if connection is not None and self._local.pid == os.getpid():
            try:
                return self._exchange(connection, request, deadline)
            except SourceUnavailable as error:
                # A kept connection may have outlived its appender. Asking once more on a new
                # one is safe, because keys make an append that did happen answer the same.
                if not getattr(error, "connection_lost", False):
                    raise
        # What is left here was inherited by a fork; closing it leaves the parent's open.
        self.close()
        fresh = self._connect(deadline)
        return self._exchange(fresh, request, deadline)

    def _connect(self, deadline: float) -> socket.socket:
        settings = self._settings
        try:
            connection = socket.create_connection(
                (settings.host, settings.port), timeout=max(deadline - monotonic_s(), 0.001)
            )
        except OSError as error:
            raise self._lost(error) from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        token = settings.token.get_secret_value()
        self._exchange(connection, {"op": "hello", "protocol": PROTOCOL, "token": token}, deadline)
        return connection

    def _exchange(
        self, connection: socket.socket, request: Mapping[str, Any], deadline: float
    ) -> dict[str, Any]:
        # Kept again only after a whole answer: a call that something interrupts must not leave
        # half of one for the next call to read.
        self._local.connection = None
        try:
            connection.settimeout(max(deadline - monotonic_s(), 0.001))
            connection.sendall(pack_frame(request))
            (length,) = FRAME_HEADER.unpack(_receive(connection, FRAME_HEADER.size, deadline))
            answer = json.loads(_receive(connection, length, deadline))
        except TimeoutError:
            connection.close()
            raise Timeout(
                expected=f"an answer within {self._settings.timeout_s} s",
                was="none",
                where=f"ledger appender at {self.address}, {request['op']}",
                todo="look at the appender's log and at Postgres (`marketlake status`)",
            ) from None
        except (OSError, ValueError) as error:
            connection.close()
            raise self._lost(error) from None
        self._local.connection, self._local.pid = connection, os.getpid()
        if "error" in answer:
            raise error_from_wire(answer["error"])
        return dict(answer)

    def _lost(self, error: Exception) -> SourceUnavailable:
        lost = SourceUnavailable(
            expected="a ledger appender that answers (nothing runs unaudited)",
            was=f"{type(error).__name__}: {error}",
            where=f"ledger appender at {self.address}",
            todo="start it with `marketlake up`, or look at its log",
        )
        lost.__dict__["connection_lost"] = True
        return lost


class LedgerWriter:
    """Records what one try of one task does; keys are the try's key and a running number.

    Numbers go on where the try left off, whichever writer or thread of this process asks, and
    after a task was suspended and resumed. Two processes must not write for one try at once:
    the ledger refuses the second one's key.
    """

    # One counter a process and try: writers of one try in one process share it.
    _counters: dict[tuple[int, str, str], itertools.count[int]] = {}  # noqa: RUF012 (shared on purpose)

    def __init__(self, client: LedgerClient, run: RunIdentity) -> None:
        self._client = client
        self._run = run

    def record(self, kind: str, /, **payload: Any) -> Receipt:
        """Append one entry; secrets in the payload are replaced before anything is sent."""
        if "run" in payload:
            raise ContractViolation(
                expected="a payload without `run`, which the writer adds",
                was=repr(payload["run"])[:200],
                where=f"record({kind!r}) of {self._run.key}",
                todo="leave it out",
            )
        content = redact({**payload}, where=f"{kind} of {self._run.key}")
        entry = Entry(
            key=self._next_key(),
            kind=kind,
            payload={**content, "run": asdict(self._run)},
            recorded_at_utc=utc_now().isoformat(),
        )
        return self._client.append([entry])[0]

    def _next_key(self) -> str:
        prefix = f"{self._run.key}/"
        owner = (os.getpid(), self._client.address, prefix)
        counter = self._counters.get(owner)
        if counter is None:
            # setdefault is atomic: of two threads that asked at once, both use one counter.
            start = itertools.count(self._client.next_sequence(prefix))
            counter = self._counters.setdefault(owner, start)
        return f"{prefix}{next(counter):0{_SEQUENCE_DIGITS}d}"


def redact(value: Any, *, where: str) -> Any:
    """Return a JSON-ready copy of a payload in which nothing secret is left.

    Secret are pydantic secrets, members whose name contains key, secret, password or token, and
    such parameters or passwords inside URLs.
    """
    if isinstance(value, Mapping):
        return {
            str(name): _REDACTED if _is_secret(str(name)) else redact(item, where=f"{where}.{name}")
            for name, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return [redact(item, where=where) for item in items]
    if is_dataclass(value) and not isinstance(value, type):
        return redact(asdict(value), where=where)
    return _scalar(value, where)


def pack_frame(message: Mapping[str, Any]) -> bytes:
    """Return a message as the wire carries it: four bytes of length, then JSON."""
    body = json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode()
    return FRAME_HEADER.pack(len(body)) + body


def error_to_wire(error: MarketlakeError) -> dict[str, str]:
    """Return an error as the appender sends it."""
    return {
        "kind": type(error).__name__,
        "expected": error.expected,
        "was": error.was,
        "where": error.where,
        "todo": error.todo,
    }


def error_from_wire(message: Mapping[str, str]) -> MarketlakeError:
    """Rebuild an error that the appender sent."""
    kind = getattr(error_tree, message["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, MarketlakeError)):
        kind = BadPayload
    fields = {name: message[name] for name in ("expected", "was", "where", "todo")}
    return kind(**fields)


def require_token(settings: LedgerSettings) -> str:
    """Return the shared token; an appender without one would take entries from anybody."""
    token = settings.token.get_secret_value()
    if not token:
        raise ConfigError(
            expected="a shared token",
            was="none",
            where="MARKETLAKE_LEDGER__TOKEN",
            todo="start the platform with `marketlake up`, which makes one",
        )
    return token


def token_refused(where: str) -> AuthFailed:
    """Return the error for a caller without the right token."""
    return AuthFailed(
        expected="the ledger's token and protocol",
        was="another",
        where=where,
        todo="use the MARKETLAKE_LEDGER__TOKEN of the running platform (its runtime.env)",
    )


def _bounded(content: bytes, *, where: str) -> bytes:
    if len(content) > MAX_ENTRY_BYTES:
        raise ContractViolation(
            expected=f"an entry of at most {MAX_ENTRY_BYTES} bytes",
            was=f"{len(content)} bytes",
            where=f"ledger entry {where!r}",
            todo="keep the content in the lake and record its hash",
        )
    return content


def _receive(connection: socket.socket, length: int, deadline: float) -> bytes:
    if length > MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    received = bytearray()
    while len(received) < length:
        connection.settimeout(max(deadline - monotonic_s(), 0.001))
        part = connection.recv(min(length - len(received), 1 << 18))
        if not part:
            raise ConnectionResetError("the connection was closed")
        received += part
    return bytes(received)


def _canonical_json(payload: Mapping[str, Any], *, where: str) -> str:
    try:
        return json.dumps(
            payload, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        )
    except (TypeError, ValueError) as error:
        raise ContractViolation(
            expected="a payload of JSON values, no NaN",
            was=str(error),
            where=f"ledger entry {where!r}",
            todo="record null for a missing number, text for anything that is not JSON",
        ) from None


def _read_netstrings(content: bytes, count: int) -> list[str]:
    parts = []
    position = 0
    for _ in range(count):
        colon = content.index(b":", position, position + 12)
        start = colon + 1
        end = start + int(content[position:colon])
        if content[end : end + 1] != b",":
            raise ValueError("a length prefix does not fit")
        parts.append(content[start:end].decode())
        position = end + 1
    if position != len(content):
        raise ValueError("bytes after the last part")
    return parts


def _not_canonical(content: bytes, why: str) -> BadPayload:
    return BadPayload(
        expected="the canonical bytes of a ledger entry",
        was=why,
        where=f"entry beginning {content[:80]!r}",
        todo="run `marketlake audit verify`",
    )


def _instant(text: str) -> datetime | None:
    """Return an instant in UTC, or None when the text is not one."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.utcoffset() == timedelta(0) else None


def _is_secret(name: str) -> bool:
    return name not in _OPEN_NAMES and _SECRET_NAME.search(name) is not None


def _scalar(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, SecretStr | SecretBytes):
        return _REDACTED
    if isinstance(value, Enum):
        return _scalar(value.value, where)
    if isinstance(value, str):
        return _SECRET_IN_URL.sub(lambda match: f"{match[1] or match[2]}{_REDACTED}", value)
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if isinstance(value, date | PurePath):
        return value.isoformat() if isinstance(value, date) else str(value)
    raise ContractViolation(
        expected="JSON values, dates, paths, secrets or frozen dataclasses",
        was=type(value).__name__,
        where=where,
        todo="record a hash or a text instead",
    )
