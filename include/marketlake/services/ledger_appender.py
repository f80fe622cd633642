"""The ledger's one appender: an asyncio TCP server in front of the log in Postgres.

Everything that queued up while one transaction was being made durable goes into the next one
(group commit); a caller is answered only after its commit. ``python -m`` this module runs it.
What does not belong here: SQL and the tree (``storage/ledger_log.py``), and what is recorded.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import logging
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from typing import Any, TypeVar

import psycopg

from marketlake.errors import BadPayload, MarketlakeError, SourceUnavailable
from marketlake.settings import Settings, load_settings
from marketlake.storage.ledger import (
    FRAME_HEADER,
    MAX_FRAME_BYTES,
    PROTOCOL,
    StoredRow,
    error_to_wire,
    pack_frame,
    require_token,
    token_refused,
)
from marketlake.storage.ledger_log import Leaf, LedgerLog, LedgerReader, Outcome

__all__ = ["Appender", "main"]

T = TypeVar("T")
Message = dict[str, Any]

_BATCH_ENTRIES = 4096
_QUEUE_REQUESTS = 20_000
_HELLO_TIMEOUT_S = 10.0
_PAGE_ROWS = 5000

logger = logging.getLogger("marketlake.ledger_appender")


class Appender:
    """Serves one log until :meth:`stop`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._token = require_token(settings.ledger).encode()
        self._log = LedgerLog(settings.postgres)
        self._reader = LedgerReader(settings.postgres)
        # psycopg connections and the tree belong to one thread each.
        self._write_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-write")
        self._read_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger-read")
        self._queue: deque[tuple[list[Leaf], asyncio.Future[Outcome]]] = deque()
        self._queued = asyncio.Event()
        self._stopping = asyncio.Event()
        self._operations: Mapping[str, Callable[[Message], Awaitable[Message]]] = {
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
        self._queued.set()

    async def serve(self) -> None:
        """Answer until stopped. Postgres may come later; a second appender is an error at once."""
        try:
            await self._in(self._write_thread, self._log.ping)
        except MarketlakeError as error:
            if not isinstance(error, SourceUnavailable) and self._log.refusal is None:
                raise
            logger.error("%s", error)
        ledger = self._settings.ledger
        host = ledger.bind_host or ledger.host
        server = await asyncio.start_server(self._serve_connection, host, ledger.port)
        logger.info("listening on %s:%d, %d entries", host, ledger.port, self._log.head.size)
        try:
            await self._commit_until_stopped()
        finally:
            server.close()
            await self._in(self._write_thread, self._log.close)
            await self._in(self._read_thread, self._reader.close)
            self._write_thread.shutdown()
            self._read_thread.shutdown()
            logger.info("stopped at %d entries", self._log.head.size)

    async def _commit_until_stopped(self) -> None:
        while True:
            await self._queued.wait()
            self._queued.clear()
            while self._queue:
                await self._commit_one_batch()
            if self._stopping.is_set():
                return

    async def _commit_one_batch(self) -> None:
        batch = [self._queue.popleft()]
        entries = len(batch[0][0])
        while self._queue and entries + len(self._queue[0][0]) <= _BATCH_ENTRIES:
            entries += len(self._queue[0][0])
            batch.append(self._queue.popleft())
        try:
            requests = [leaves for leaves, _ in batch]
            outcomes = await self._in(self._write_thread, lambda: self._log.append(requests))
        except MarketlakeError as error:
            logger.error("%d requests refused: %s", len(batch), error)
            outcomes = [error] * len(batch)
        for (_, waiting), outcome in zip(batch, outcomes, strict=True):
            # A caller that hung up has cancelled its future; its entries are in all the same.
            if not waiting.done():
                waiting.set_result(outcome)

    async def _serve_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with suppress(
            ConnectionError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            async with asyncio.timeout(_HELLO_TIMEOUT_S):
                answer = self._greet(await _read_frame(reader))
                writer.write(pack_frame(answer))
                await writer.drain()
            while "error" not in answer and not self._stopping.is_set():
                request = await _read_frame(reader)
                writer.write(pack_frame(await self._answer(request)))
                await writer.drain()
        writer.close()

    def _greet(self, hello: Message) -> Message:
        token = str(hello.get("token", "")).encode()
        if hello.get("protocol") == PROTOCOL and hmac.compare_digest(token, self._token):
            return {}
        return {"error": error_to_wire(token_refused("ledger appender"))}

    async def _answer(self, request: Message) -> Message:
        try:
            if self._stopping.is_set():
                raise _unavailable("it is stopping")
            return await self._operations[str(request.get("op"))](request)
        except MarketlakeError as error:
            return {"error": error_to_wire(error)}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": error_to_wire(_bad_request(request, error))}

    async def _append(self, request: Message) -> Message:
        leaves = [Leaf.of(str(content).encode()) for content in request["entries"]]
        if len(self._queue) >= _QUEUE_REQUESTS:
            raise _unavailable(f"{len(self._queue)} requests are waiting for Postgres")
        waiting: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((leaves, waiting))
        self._queued.set()
        outcome = await waiting
        if isinstance(outcome, MarketlakeError):
            raise outcome
        return {"receipts": [(receipt.index, receipt.leaf_hash) for receipt in outcome]}

    async def _ping(self, request: Message) -> Message:
        await self._in(self._write_thread, self._log.ping)
        return {}

    async def _checkpoint(self, request: Message) -> Message:
        self._log.require_sound()
        return {"checkpoint": asdict(self._log.head)}

    async def _head(self, request: Message) -> Message:
        # On the writing thread, so that head and table are seen between two commits.
        def look() -> Message:
            return {
                "stored_end": self._log.stored_end(),
                "checkpoint": asdict(self._log.head),
                "refusal": self._log.refusal,
            }

        return await self._in(self._write_thread, look)

    async def _prove(self, request: Message) -> Message:
        index = int(request["index"])
        proof = await self._in(self._write_thread, lambda: self._log.prove(index))
        return {"proof": asdict(proof)}

    async def _checkpoints(self, request: Message) -> Message:
        since, last = int(request["since"]), int(request["last"])
        limit = min(int(request["limit"]), _PAGE_ROWS)
        page = await self._in(
            self._read_thread, lambda: self._reader.checkpoints(since, last, limit=limit)
        )
        return {"checkpoints": [asdict(checkpoint) for checkpoint in page]}

    async def _rows(self, request: Message) -> Message:
        first, end = int(request["first"]), request["end"]
        limit = min(int(request["limit"]), _PAGE_ROWS)
        filters = {str(name): str(value) for name, value in request["filters"].items()}
        page = await self._in(
            self._read_thread,
            lambda: self._reader.rows(
                first, None if end is None else int(end), limit=limit, filters=filters
            ),
        )
        return {"rows": [_row_to_wire(row) for row in page]}

    async def _last_key(self, request: Message) -> Message:
        prefix = str(request["prefix"])
        key = await self._in(self._read_thread, lambda: self._reader.last_key(prefix))
        return {"key": key}

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, work)
        except psycopg.Error as error:
            raise SourceUnavailable(
                expected="a Postgres that does what the ledger asks",
                was=f"{type(error).__name__}: {str(error).strip()}",
                where="ledger appender",
                todo="look at the Postgres log",
            ) from error


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


async def _read_frame(reader: asyncio.StreamReader) -> Message:
    (length,) = FRAME_HEADER.unpack(await reader.readexactly(FRAME_HEADER.size))
    if length > MAX_FRAME_BYTES:
        raise ConnectionError(f"a frame of {length} bytes")
    try:
        message = json.loads(await reader.readexactly(length))
    except ValueError as error:
        raise ConnectionError(f"not JSON: {error}") from None
    if not isinstance(message, dict):
        raise ConnectionError("not a JSON object")
    return message


def _row_to_wire(row: StoredRow) -> list[Any]:
    content = base64.b64encode(row.canonical).decode()
    return [
        *(row.index, row.key, row.kind, row.dag_id, row.run_id, row.recorded_at_utc),
        *(content, row.leaf_hash),
    ]


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
