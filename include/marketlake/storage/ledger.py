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
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date
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
from marketlake.storage.proof.checkpoint import Checkpoint
from marketlake.storage.proof.export_file import write_export
from marketlake.storage.proof.leaf import canonical_json, decode_entry, encode_entry, instant
from marketlake.storage.proof.merkle import root_from_path
from marketlake.storage.proof.stored import StoredCheckpoint, StoredRow
from marketlake.storage.proof.verification import Kept, Verification, verify_log
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
    "StoredCheckpoint",
    "StoredRow",
    "Verification",
    "verify_log",
]

KINDS = frozenset(
    {
        "calculation",
        "decision",
        "exported",
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
        "snapshot",
        "task_failed",
        "task_finished",
        "task_started",
        "trial",
        "vendor_call",
    }
)
PROTOCOL = 2
MAX_ENTRY_BYTES = 1 << 20
MAX_FRAME_BYTES = 1 << 26
FRAME_HEADER = struct.Struct(">I")

_MAX_KEY_CHARACTERS = 1000
_PAGE_ROWS = 2000
_LOWEST_INDEX = -(1 << 63)
_SEQUENCE_DIGITS = 8
_RECEIVE_BYTES = 1 << 16
# Appends that wait at the same time go into one frame, up to about this much.
_TOGETHER_CHARACTERS = MAX_FRAME_BYTES // 8
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
        payload = _canonical_json(self.payload, where=self.key)
        try:
            return encode_entry(self.key, self.kind, self.recorded_at_utc, payload)
        except UnicodeEncodeError as error:
            raise ContractViolation(
                expected="text that UTF-8 can carry",
                was=str(error),
                where=f"ledger entry {self.key!r}",
                todo="replace the lone surrogate before recording",
            ) from None

    @classmethod
    def from_canonical(cls, content: bytes) -> Self:
        """Read an entry back; raise BadPayload when the bytes are not exactly canonical."""
        try:
            parts = decode_entry(content)
        except ValueError as error:
            raise _not_canonical(content, str(error)) from None
        return cls(parts.key, parts.kind, parts.payload, parts.recorded_at_utc)

    @property
    def run(self) -> Mapping[str, Any]:
        """Return the identity of the run that recorded this (empty when it named none)."""
        run = self.payload.get("run")
        return run if isinstance(run, dict) else {}

    def require_recordable(self) -> None:
        """Raise ContractViolation when this cannot become an entry of the log."""
        if self.kind not in KINDS:
            raise self._unrecordable("a kind of the ledger", self.kind)
        if not 0 < len(self.key) <= _MAX_KEY_CHARACTERS or "\0" in self.key:
            expected = f"a key of 1 to {_MAX_KEY_CHARACTERS} characters without NUL"
            raise self._unrecordable(expected, self.key)
        if instant(self.recorded_at_utc) is None:
            raise self._unrecordable("an ISO 8601 instant in UTC", self.recorded_at_utc)
        run = self.run
        for name in ("dag_id", "run_id"):
            value = run.get(name, "")
            if not isinstance(value, str) or "\0" in value:
                raise self._unrecordable("a run whose dag_id and run_id are texts without NUL", run)

    def _unrecordable(self, expected: str, was: object) -> ContractViolation:
        return ContractViolation(
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


class _Waiting:
    """One caller's append; its ``turn`` comes when it was answered, or when it is to send."""

    __slots__ = ("answer", "contents", "deadline", "is_queued", "turn")

    def __init__(self, contents: list[str], deadline: float) -> None:
        self.contents = contents
        self.deadline = deadline
        self.answer: dict[str, Any] | None = None
        self.is_queued = True
        self.turn = threading.Lock()
        self.turn.acquire()


class _Shared:
    """What the threads of one process share: idle connections, and appends that go together.

    One caller sends what all have queued, and with its answer lets the first that came later do
    the same. That one sends before it wakes those who were answered: the appender is not to wait
    for them. A second frame follows the first one at once when it is as large: the appender reads
    it while Postgres writes the first.
    """

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.idle: list[socket.socket] = []
        self._lock = threading.Lock()
        self._queue: deque[_Waiting] = deque()
        self._sender: _Waiting | None = None
        self._frames = 0
        self._callers_under_way = 0
        self._answered: deque[_Waiting] = deque()

    def take_idle(self) -> socket.socket | None:
        """Return a connection that is open and not in use, or None."""
        with suppress(IndexError):
            return self.idle.pop()
        return None

    def join(self, own: _Waiting) -> bool:
        """Queue up; return whether this caller is to send."""
        with self._lock:
            self._queue.append(own)
            self._choose_sender(besides=own)
            return self._sender is own

    def wait(self, own: _Waiting) -> bool:
        """Wait for the turn or the end of the time; return whether this caller is to send."""
        came = own.turn.acquire(timeout=max(own.deadline - monotonic_s(), 0))
        return came and self._sender is own

    def take(self) -> list[_Waiting]:
        """Return what goes into the sender's frame, its own first."""
        taken = []
        size = 0
        with self._lock:
            while self._queue and size < _TOGETHER_CHARACTERS:
                waiting = self._queue.popleft()
                waiting.is_queued = False
                taken.append(waiting)
                size += sum(map(len, waiting.contents))
            self._sender = None
            self._frames += 1
            self._callers_under_way += len(taken)
        return taken

    def give(self, together: list[_Waiting], answers: Sequence[dict[str, Any] | None]) -> None:
        """Hand out the answers to a frame; the next sender wakes those who wait for them."""
        with self._lock:
            # One that finds no answer asks again.
            for waiting, answer in zip(together, answers, strict=False):
                waiting.answer = answer
            self._frames -= 1
            self._callers_under_way -= len(together)
            self._answered.extend(together[1:])
            self._choose_sender()

    def wake(self) -> None:
        """Wake those who were answered."""
        with suppress(IndexError):  # two may be at it
            while self._answered:
                self._answered.popleft().turn.release()

    def leave(self, own: _Waiting) -> None:
        """Wait no more, and do not send."""
        with self._lock:
            if own.is_queued:
                self._queue.remove(own)
                own.is_queued = False
            if self._sender is own:
                self._sender = None
                self._choose_sender()

    def _choose_sender(self, *, besides: _Waiting | None = None) -> None:
        if self._sender is None:
            is_enough = self._frames < 2 and len(self._queue) >= self._callers_under_way
            if self._queue and is_enough:
                self._sender = self._queue[0]
                if self._sender is not besides:
                    self._sender.turn.release()
            else:
                self.wake()


class LedgerClient:
    """Talks to the appender; threads may share it, a forked process connects for itself.

    No answer within ``timeout_s`` raises Timeout, no appender or no Postgres behind it
    SourceUnavailable: a pipeline that cannot be audited stops.
    """

    def __init__(self, settings: LedgerSettings) -> None:
        self._settings = settings
        self._inherited_or_own = _Shared()

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
        answer = self._append(contents, self._deadline())
        if "error" in answer:
            raise error_from_wire(answer["error"])
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

    def verify(
        self,
        trusted: Sequence[Checkpoint] = (),
        *,
        public_key: str | None = None,
        kept: Sequence[Kept] = (),
    ) -> Verification:
        """Recompute the whole log here and compare it with every checkpoint.

        With ``public_key`` every stored checkpoint must be signed by it. ``trusted`` and ``kept``
        (where it was, its signed note) are checkpoints from outside the database, for example
        from the object-locked bucket; without them, who owns the database can cut the tail.
        """
        head, stored_end, refusal = self._head()
        found = verify_log(
            # From below the first: what was planted there is to be named.
            self._rows(_LOWEST_INDEX, head.size),
            [*self._checkpoints(head.size), head, *trusted],
            end=head.size,
            public_key=public_key,
            kept=kept,
        )
        faults = list(found.faults)
        if stored_end > head.size:
            faults.append(
                f"entry {head.size} was inserted behind the appender "
                f"(it appended {head.size}, the table ends at {stored_end})"
            )
        if refusal is not None and not faults:
            faults.append(refusal)
        return Verification(not faults, found.size, found.root_hash, faults)

    def export(self, path: Path, *, origin: str = "", public_key: str = "") -> int:
        """Write the log and its checkpoints into a new SQLite file; return how many entries.

        Origin and public key are noted in it for who reads it; a verification pins its own.
        """
        head, _, _ = self._head()
        rows, checkpoints = self._rows(0, head.size), self._checkpoints(head.size)
        return write_export(path, rows, checkpoints, origin=origin, public_key=public_key)

    def rows(self, first: int, end: int) -> Iterator[StoredRow]:
        """Yield the stored rows from index ``first`` up to ``end``, which is not among them."""
        return self._rows(first, end)

    def checkpoints(self, first: int, last: int) -> Iterator[StoredCheckpoint]:
        """Yield the stored checkpoints of ``first`` to ``last`` entries, the smallest first."""
        return self._checkpoints(last, since=first)

    def next_sequence(self, prefix: str) -> int:
        """Return the first number not yet used under ``prefix`` by a :class:`LedgerWriter`."""
        last = self._call({"op": "last_key", "prefix": prefix})["key"]
        return int(last.removeprefix(prefix)) + 1 if last is not None else 0

    def close(self) -> None:
        """Close the connections that nobody uses; the next call opens another."""
        idle = self._shared().idle
        while idle:
            idle.pop().close()

    def _head(self) -> tuple[Checkpoint, int, str | None]:
        answer = self._call({"op": "head"})
        return Checkpoint(**answer["checkpoint"]), answer["stored_end"], answer["refusal"]

    def _checkpoints(self, last: int, *, since: int = 0) -> Iterator[StoredCheckpoint]:
        while True:
            request = {"op": "checkpoints", "since": since, "last": last, "limit": _PAGE_ROWS}
            page = [StoredCheckpoint(**item) for item in self._call(request)["checkpoints"]]
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

    def _shared(self) -> _Shared:
        if self._inherited_or_own.pid != os.getpid():
            # Closing what a fork inherited leaves the parent's open.
            for connection in self._inherited_or_own.idle:
                connection.close()
            self._inherited_or_own = _Shared()
        return self._inherited_or_own

    def _deadline(self) -> float:
        return monotonic_s() + self._settings.timeout_s

    def _append(self, contents: list[str], deadline: float) -> dict[str, Any]:
        """Return the appender's answer to one caller, whoever sent the frame."""
        shared = self._shared()
        while monotonic_s() < deadline:
            own = _Waiting(contents, deadline)
            try:
                if shared.join(own) or shared.wait(own):
                    self._send_together(shared)
            finally:
                if own.answer is None:
                    shared.leave(own)
            # Without an answer, whoever sent it was interrupted or out of time: keys make it safe
            # to ask again.
            if own.answer is not None:
                return own.answer
        raise self._no_answer("append")

    def _send_together(self, shared: _Shared) -> None:
        together = shared.take()
        answers: Sequence[dict[str, Any] | None] = [None] * len(together)
        request = {"op": "append", "requests": [waiting.contents for waiting in together]}
        try:
            answers = self._call(request, together[0].deadline, when_sent=shared.wake)["answers"]
        except Timeout:
            pass  # the others may have more time
        except MarketlakeError as error:
            answers = [{"error": error_to_wire(error)}] * len(together)
        finally:
            shared.wake()
            shared.give(together, answers)

    def _call(
        self,
        request: Mapping[str, Any],
        deadline: float | None = None,
        when_sent: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        deadline = self._deadline() if deadline is None else deadline
        kept = self._shared().take_idle()
        if kept is not None:
            try:
                return self._ask(kept, request, deadline, when_sent)
            except SourceUnavailable as error:
                # A kept connection may have outlived its appender. Asking once more on a new
                # one is safe, because keys make an append that did happen answer the same.
                if not getattr(error, "connection_lost", False):
                    raise
        return self._ask(self._connect(deadline), request, deadline, when_sent)

    def _ask(
        self,
        connection: socket.socket,
        request: Mapping[str, Any],
        deadline: float,
        when_sent: Callable[[], None],
    ) -> dict[str, Any]:
        answer = self._exchange(connection, request, deadline, when_sent)
        self._shared().idle.append(connection)
        if "error" in answer:
            raise error_from_wire(answer["error"])
        return answer

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
        hello = {"op": "hello", "protocol": PROTOCOL, "token": token}
        answer = self._exchange(connection, hello, deadline)
        if "error" in answer:
            connection.close()
            raise error_from_wire(answer["error"])
        return connection

    def _exchange(
        self,
        connection: socket.socket,
        request: Mapping[str, Any],
        deadline: float,
        when_sent: Callable[[], None] = lambda: None,
    ) -> dict[str, Any]:
        # Kept only after a whole answer: a call that something interrupts must not leave half of
        # one for the next call to read.
        is_whole = False
        try:
            connection.settimeout(max(deadline - monotonic_s(), 0.001))
            connection.sendall(pack_frame(request))
            when_sent()
            answer = dict(json.loads(receive_frame(connection, deadline)))
            is_whole = True
        except TimeoutError:
            raise self._no_answer(request["op"]) from None
        except (OSError, ValueError, TypeError) as error:
            raise self._lost(error) from None
        finally:
            if not is_whole:
                connection.close()
        return answer

    def _no_answer(self, operation: str) -> Timeout:
        return Timeout(
            expected=f"an answer within {self._settings.timeout_s} s",
            was="none",
            where=f"ledger appender at {self.address}, {operation}",
            todo="look at the appender's log and at Postgres (`marketlake status`)",
        )

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


def receive_frame(connection: socket.socket, deadline: float | None) -> bytes:
    """Return the body of the one frame that is to come; ValueError when it is none."""
    received = bytearray()
    end = FRAME_HEADER.size
    while len(received) < end:
        if deadline is not None:
            connection.settimeout(max(deadline - monotonic_s(), 0.001))
        # The first part is most often all: every wait costs a turn of the other threads.
        part = connection.recv(max(_RECEIVE_BYTES, min(end - len(received), 1 << 18)))
        if not part:
            raise ConnectionResetError("the connection was closed")
        received += part
        if end == FRAME_HEADER.size and len(received) >= end:
            end += FRAME_HEADER.unpack_from(received)[0]
            if end > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {end} bytes")
    if len(received) > end:
        raise ValueError(f"{len(received) - end} bytes after the frame")
    return bytes(received[FRAME_HEADER.size :])


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


def _canonical_json(payload: Mapping[str, Any], *, where: str) -> str:
    try:
        return canonical_json(payload)
    except (TypeError, ValueError) as error:
        raise ContractViolation(
            expected="a payload of JSON values, no NaN",
            was=str(error),
            where=f"ledger entry {where!r}",
            todo="record null for a missing number, text for anything that is not JSON",
        ) from None


def _not_canonical(content: bytes, why: str) -> BadPayload:
    return BadPayload(
        expected="the canonical bytes of a ledger entry",
        was=why,
        where=f"entry beginning {content[:80]!r}",
        todo="run `marketlake audit verify`",
    )


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
