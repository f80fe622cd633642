"""The ledger's one appender: a TCP server, a thread a connection, in front of the log in Postgres.

Everything that queued up while one transaction was being made durable goes into the next one
(group commit), and whichever connection's turn it is commits for all; a caller is answered only
after its commit. ``python -m`` this module runs it.
What does not belong here: SQL and the tree (``storage/ledger_log.py``), and what is recorded.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import itertools
import json
import logging
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import psycopg

from marketlake.clock import monotonic_s, utc_now
from marketlake.errors import BadPayload, MarketlakeError, SourceUnavailable
from marketlake.services.checkpoint_publication import CheckpointPublisher
from marketlake.services.signing_key import public_key, signer
from marketlake.settings import Settings, load_settings
from marketlake.storage.checkpoints import PublishedCheckpoints
from marketlake.storage.ledger import (
    PROTOCOL,
    Checkpoint,
    StoredRow,
    error_to_wire,
    pack_frame,
    receive_frame,
    require_token,
    token_refused,
)
from marketlake.storage.ledger_log import Leaf, LedgerLog, LedgerReader, Outcome

__all__ = ["Appender", "main"]

T = TypeVar("T")
Message = dict[str, Any]

_BATCH_ENTRIES = 4096
_QUEUE_FRAMES = 20_000
_HELLO_TIMEOUT_S = 10.0
_LAST_ANSWERS_WITHIN_S = 5.0
_LOOK_AGAIN_S = 1.0
_PAGE_ROWS = 5000

logger = logging.getLogger("marketlake.ledger_appender")


class _Frame:
    """The entries of every caller that one frame speaks for, and what became of them.

    Its ``turn`` comes when that is known, or when its connection is to commit what is queued.
    """

    def __init__(self, requests: list[list[Leaf]]) -> None:
        self.requests = requests
        self.outcomes: Sequence[Outcome] | None = None
        self.turn = threading.Lock()
        self.turn.acquire()

    @property
    def size(self) -> int:
        """Return the number of entries."""
        return sum(map(len, self.requests))


class Appender:
    """Serves one log until :meth:`stop`."""

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = utc_now) -> None:
        self._settings = settings
        self._token = require_token(settings.ledger).encode()
        places, key = PublishedCheckpoints(settings), public_key(settings)
        in_file = places.newest_in_file(key)
        in_bucket = _newest_in_bucket(places, key, since=in_file.size if in_file else 0)
        self._log = LedgerLog(
            settings.postgres,
            sign=signer(settings),
            public_key=key,
            published=[*([in_file] if in_file else []), *in_bucket],
            clock=clock,
        )
        self._publisher = CheckpointPublisher(
            places,
            settings.ledger.unpublished_limit_s,
            published=in_file if in_file in in_bucket else None,
        )
        self._reader = LedgerReader(settings.postgres)
        # psycopg connections and the tree serve one thread at a time.
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._queueing = threading.Lock()
        self._queue: deque[_Frame] = deque()
        self._is_committing = False
        self._failure: Exception | None = None
        self._stopping = asyncio.Event()
        self._operations: Mapping[str, Callable[[Message], Message]] = {
            "append": self._append,
            "checkpoint": self._checkpoint,
            "checkpoints": self._checkpoints,
            "head": self._head,
            "last_key": self._last_key,
            "ping": self._ping,
            "prove": self._prove,
            "rows": self._rows,
        }

    def stop(self) -> None:
        """Take no more requests; finish what is queued."""
        self._stopping.set()

    async def serve(self) -> None:
        """Answer until stopped. Postgres may come later; a second appender is an error at once."""
        try:
            self._alone(self._writing, self._look)
        except MarketlakeError as error:
            if not isinstance(error, SourceUnavailable) and self._log.refusal is None:
                raise
            logger.error("%s", error)
        logger.info("checkpoints are signed by %s", public_key(self._settings))
        try:
            await self._answer_until_stopped()
            if self._failure is not None:
                raise self._failure
        finally:
            self._alone(self._writing, self._log.close)
            self._publisher.close()
            self._alone(self._reading, self._reader.close)
            logger.info("stopped at %d entries", self._log.head.size)

    async def _answer_until_stopped(self) -> None:
        """Take connections until :meth:`stop`; then let the answers under way go out."""
        self._loop = asyncio.get_running_loop()
        ledger = self._settings.ledger
        listener = socket.create_server((ledger.bind_host or ledger.host, ledger.port))
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept, listener)
        logger.info("listening on %s:%d, %d entries", *listener.getsockname(), self._log.head.size)
        try:
            await self._stopping.wait()
        finally:
            self._loop.remove_reader(listener)
            listener.close()
            self._hang_up()

    def _accept(self, listener: socket.socket) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:  # such as: no file descriptors left
            logger.error("no connection was taken: %s", error)
            self._loop.remove_reader(listener)
            self._loop.call_later(_LOOK_AGAIN_S, self._look_again, listener)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
        self._connections[connection] = thread
        thread.start()

    def _look_again(self, listener: socket.socket) -> None:
        if not self._stopping.is_set():
            self._loop.add_reader(listener, self._accept, listener)

    def _hang_up(self) -> None:
        """Take no more requests, and give the answers that are under way a moment."""
        deadline = monotonic_s() + _LAST_ANSWERS_WITHIN_S
        for connection, thread in [*self._connections.items()]:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
            thread.join(max(deadline - monotonic_s(), 0))

    def _serve(self, connection: socket.socket) -> None:
        """Answer one connection's requests until either side ends it; on a thread of its own."""
        try:
            # A stranger's bytes are no frame (ValueError).
            with connection, suppress(OSError, ValueError):
                answer = self._greet(_read(connection, monotonic_s() + _HELLO_TIMEOUT_S))
                connection.sendall(pack_frame(answer))
                connection.settimeout(None)
                while "error" not in answer and not self._stopping.is_set():
                    connection.sendall(pack_frame(self._answer(_read(connection))))
        finally:
            del self._connections[connection]

    def _greet(self, hello: Message) -> Message:
        token = str(hello.get("token", "")).encode()
        if hello.get("protocol") == PROTOCOL and hmac.compare_digest(token, self._token):
            return {}
        return {"error": error_to_wire(token_refused("ledger appender"))}

    def _answer(self, request: Message) -> Message:
        try:
            if self._stopping.is_set():
                raise _unavailable("it is stopping")
            return self._operations[str(request.get("op"))](request)
        except MarketlakeError as error:
            return {"error": error_to_wire(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": error_to_wire(_bad_request(request, error))}

    def _append(self, request: Message) -> Message:
        read = [_read_leaves(contents) for contents in request["requests"]]
        good = [leaves for leaves in read if not isinstance(leaves, MarketlakeError)]
        outcomes = iter(self._committed(good) if good else ())
        return {
            "answers": [
                _answer_to_wire(leaves if isinstance(leaves, MarketlakeError) else next(outcomes))
                for leaves in read
            ]
        }

    def _committed(self, requests: list[list[Leaf]]) -> Sequence[Outcome]:
        """Return what became of the requests; another connection may have committed them."""
        if len(self._queue) >= _QUEUE_FRAMES:
            raise _unavailable(f"{len(self._queue)} callers are waiting for Postgres")
        own = _Frame(requests)
        with self._queueing:
            self._queue.append(own)
            if len(self._queue) == 1 and not self._is_committing:
                self._is_committing = True
                own.turn.release()
        own.turn.acquire()
        if own.outcomes is None:
            self._commit_queued()
        return own.outcomes or ()

    def _commit_queued(self) -> None:
        """Commit one batch of what is queued, then let the next connection commit."""
        frames = [self._queue.popleft()]
        entries = frames[0].size
        while self._queue and entries + self._queue[0].size <= _BATCH_ENTRIES:
            frames.append(self._queue.popleft())
            entries += frames[-1].size
        batch = [leaves for frame in frames for leaves in frame.requests]
        outcomes: Sequence[Outcome] = [_unavailable("it failed")] * len(batch)
        try:
            with self._writing:
                if self._failure is None:
                    outcomes = self._logged(batch)
        except Exception as error:
            # What is not one of our errors ends the process: the state it left is not known.
            self._failure = error
            self._loop.call_soon_threadsafe(self.stop)
        finally:
            given = iter(outcomes)
            for frame in frames:
                frame.outcomes = [*itertools.islice(given, len(frame.requests))]
            with self._queueing:
                self._is_committing = bool(self._queue)
                if self._queue:
                    self._queue[0].turn.release()
            for frame in frames[1:]:
                frame.turn.release()

    def _logged(self, batch: Sequence[list[Leaf]]) -> Sequence[Outcome]:
        try:
            self._publisher.require_published()
            outcomes = self._log.append(batch)
            self._publisher.committed(self._log.signed_head)
        except (MarketlakeError, psycopg.Error) as error:
            logger.error("%d requests refused: %s", len(batch), error)
            refusal = _of_postgres(error) if isinstance(error, psycopg.Error) else error
            return [refusal] * len(batch)
        return outcomes

    def _look(self) -> None:
        """Raise unless entries could be appended; publish the head where it is not published.

        An appender that was killed, or that found Postgres or the store away, may have left it so,
        and nobody may append for long.
        """
        self._log.ping()
        self._publisher.committed(self._log.signed_head)

    def _ping(self, request: Message) -> Message:
        self._alone(self._writing, self._look)
        return {}

    def _checkpoint(self, request: Message) -> Message:
        self._log.require_sound()
        return {"checkpoint": asdict(self._log.head)}

    def _head(self, request: Message) -> Message:
        # Not while one is writing, so that head and table are seen between two commits.
        def look() -> Message:
            return {
                "stored_end": self._log.stored_end(),
                "checkpoint": asdict(self._log.head),
                "refusal": self._log.refusal,
            }

        return self._alone(self._writing, look)

    def _prove(self, request: Message) -> Message:
        index = int(request["index"])
        proof = self._alone(self._writing, lambda: self._log.prove(index))
        return {"proof": asdict(proof)}

    def _checkpoints(self, request: Message) -> Message:
        since, last = int(request["since"]), int(request["last"])
        limit = min(int(request["limit"]), _PAGE_ROWS)
        page = self._alone(
            self._reading, lambda: self._reader.checkpoints(since, last, limit=limit)
        )
        return {"checkpoints": [asdict(checkpoint) for checkpoint in page]}

    def _rows(self, request: Message) -> Message:
        first, end = int(request["first"]), request["end"]
        limit = min(int(request["limit"]), _PAGE_ROWS)
        filters = {str(name): str(value) for name, value in request["filters"].items()}
        page = self._alone(
            self._reading,
            lambda: self._reader.rows(
                first, None if end is None else int(end), limit=limit, filters=filters
            ),
        )
        return {"rows": [_row_to_wire(row) for row in page]}

    def _last_key(self, request: Message) -> Message:
        prefix = str(request["prefix"])
        key = self._alone(self._reading, lambda: self._reader.last_key(prefix))
        return {"key": key}

    def _alone(self, lock: threading.Lock, work: Callable[[], T]) -> T:
        with lock:
            try:
                return work()
            except psycopg.Error as error:
                raise _of_postgres(error) from error


def main(settings: Settings) -> None:
    """Run the appender until SIGTERM or SIGINT; end with status 2 when it may not run."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_run(settings))
    except MarketlakeError as error:
        logger.error("%s", error)
        raise SystemExit(2) from None


async def _run(settings: Settings) -> None:
    appender = Appender(settings)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, appender.stop)
    await appender.serve()


def _newest_in_bucket(
    places: PublishedCheckpoints, public_key: str, *, since: int
) -> list[Checkpoint]:
    """Return the bucket's newest checkpoint; none where the store is not up yet.

    The appender starts all the same: the file vouches for the log, and nothing is acknowledged for
    long while the bucket takes no checkpoint.
    """
    try:
        return places.newest_in_bucket(public_key, since=since)
    except MarketlakeError as error:
        logger.warning("the log is held against the checkpoint file alone: %s", error)
        return []


def _read(connection: socket.socket, deadline: float | None = None) -> Message:
    message = json.loads(receive_frame(connection, deadline))
    if not isinstance(message, dict):
        raise ValueError("not a JSON object")
    return message


def _read_leaves(contents: Sequence[str]) -> list[Leaf] | MarketlakeError:
    """Return one caller's entries, or why they are refused: alone, whoever sent them along."""
    try:
        return [Leaf.of(str(content).encode()) for content in contents]
    except MarketlakeError as error:
        return error


def _answer_to_wire(outcome: Outcome) -> Message:
    if isinstance(outcome, MarketlakeError):
        return {"error": error_to_wire(outcome)}
    return {"receipts": [(receipt.index, receipt.leaf_hash) for receipt in outcome]}


def _row_to_wire(row: StoredRow) -> list[Any]:
    content = base64.b64encode(row.canonical).decode()
    return [
        *(row.index, row.key, row.kind, row.dag_id, row.run_id, row.recorded_at_utc),
        *(content, row.leaf_hash),
    ]


def _of_postgres(error: psycopg.Error) -> SourceUnavailable:
    return SourceUnavailable(
        expected="a Postgres that does what the ledger asks",
        was=f"{type(error).__name__}: {str(error).strip()}",
        where="ledger appender",
        todo="look at the Postgres log",
    )


def _unavailable(why: str) -> SourceUnavailable:
    return SourceUnavailable(
        expected="an appender that takes requests",
        was=why,
        where="ledger appender",
        todo="try again later; look at its log and at Postgres if it stays so",
    )


def _bad_request(request: Message, error: Exception) -> BadPayload:
    return BadPayload(
        expected="a request of the ledger's protocol",
        was=f"op {request.get('op')!r}: {type(error).__name__}: {error}",
        where="ledger appender",
        todo="use LedgerClient of the same version",
    )


if __name__ == "__main__":
    main(load_settings())
