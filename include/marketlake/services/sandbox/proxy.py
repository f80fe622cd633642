"""The CONNECT proxy: vendor hosts are tunnelled to the local TLS listener, all others refused.

The user name of the proxy credentials is the namespace; the listener finds it again by the
tunnel's local port. What does not belong here: HTTP inside the tunnel.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import logging
from collections.abc import Collection
from urllib.parse import unquote

logger = logging.getLogger(__name__)

_HEAD_LIMIT = 16_384
_HEAD_TIMEOUT_S = 30.0
_DEFAULT_NAMESPACE = "default"


class ConnectProxy:
    """A CONNECT proxy for a fixed set of hosts."""

    def __init__(self, *, hosts: Collection[str], target_host: str) -> None:
        self._hosts = frozenset(hosts)
        self._target_host = target_host
        self._namespaces: dict[int, str] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.target_port = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; return the port."""
        self._server = await asyncio.start_server(self._accept, host, port, limit=_HEAD_LIMIT)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening and cut every tunnel."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.01)

    def namespace_of(self, port: int) -> str:
        """Return the namespace of the tunnel whose end is this local port."""
        return self._namespaces.get(port, _DEFAULT_NAMESPACE)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            logger.debug("a client of the proxy went away")
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_HEAD_TIMEOUT_S):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.split("\r\n")
        method, _, rest = request_line.partition(" ")
        host, _, port = rest.partition(" ")[0].rpartition(":")
        if method != "CONNECT" or host not in self._hosts or port != "443":
            logger.warning("refused %s", request_line)
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            return
        inner_reader, inner_writer = await asyncio.open_connection(
            self._target_host, self.target_port
        )
        local_port = int(inner_writer.get_extra_info("sockname")[1])
        self._namespaces[local_port] = _namespace(lines)
        try:
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay((reader, inner_writer), (inner_reader, writer))
        finally:
            inner_writer.close()
            self._namespaces.pop(local_port, None)


def _namespace(header_lines: list[str]) -> str:
    for line in header_lines:
        name, _, value = line.partition(":")
        scheme, _, credentials = value.strip().partition(" ")
        if name.lower() == "proxy-authorization" and scheme.lower() == "basic":
            with contextlib.suppress(binascii.Error, UnicodeDecodeError):
                user = base64.b64decode(credentials).decode().partition(":")[0]
                return unquote(user) or _DEFAULT_NAMESPACE
    return _DEFAULT_NAMESPACE


async def _relay(*ways: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
    """Copy both ways until either end closes."""
    copies = [asyncio.create_task(_copy(reader, writer)) for reader, writer in ways]
    try:
        await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while block := await reader.read(65_536):
            writer.write(block)
            await writer.drain()
