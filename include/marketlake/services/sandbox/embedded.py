"""The sandbox inside the present process, for tests of code that calls vendors.

``with running_sandbox(settings) as sandbox:`` serves on a thread and free ports;
``sandbox.egress(namespace)`` is what the code under test must be given.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marketlake.errors import Timeout
from marketlake.services.sandbox.server import Sandbox, ca_file
from marketlake.settings import EgressSettings, Settings

_START_TIMEOUT_S = 60.0
_CALL_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class RunningSandbox:
    """Where a running sandbox is and how to steer it."""

    host: str
    http_port: int
    proxy_port: int
    ca_file: Path
    token: str

    @classmethod
    def of(cls, settings: Settings) -> RunningSandbox:
        """Return the sandbox that runs with these settings, whichever process it is in."""
        return cls(
            host=settings.sandbox.host,
            http_port=settings.sandbox.http_port,
            proxy_port=settings.sandbox.proxy_port,
            ca_file=ca_file(settings),
            token=settings.sandbox.control_token.get_secret_value(),
        )

    def egress(self, namespace: str = "{session}") -> EgressSettings:
        """Return egress settings that lead into a namespace; by default one a session."""
        return EgressSettings(
            proxy_url=f"http://{namespace}@{self.host}:{self.proxy_port}", ca_bundle=self.ca_file
        )

    def control(self, method: str, path: str, document: dict[str, Any] | None = None) -> Any:
        """Call the control API and return its JSON."""
        request = urllib.request.Request(
            f"http://{self.host}:{self.http_port}{path}",
            method=method,
            data=None if document is None else json.dumps(document).encode(),
            headers={"Authorization": f"Bearer {self.token}"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_CALL_TIMEOUT_S) as response:
            return json.load(response)


@contextlib.contextmanager
def running_sandbox(settings: Settings) -> Iterator[RunningSandbox]:
    """Serve a sandbox on a thread until the block ends."""
    sandbox = Sandbox(settings)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="vendor-sandbox", daemon=True)
    thread.start()
    try:
        started = asyncio.run_coroutine_threadsafe(sandbox.start(), loop)
        try:
            started.result(_START_TIMEOUT_S)
        except TimeoutError:
            raise Timeout(
                expected=f"the sandbox to listen within {_START_TIMEOUT_S:.0f} s",
                was="still starting",
                where="running_sandbox",
                todo="look at the machine's load",
            ) from None
        bound = settings.sandbox.model_copy(
            update={
                "http_port": sandbox.http_port,
                "tls_port": sandbox.tls_port,
                "proxy_port": sandbox.proxy_port,
            }
        )
        try:
            yield RunningSandbox.of(settings.model_copy(update={"sandbox": bound}))
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.stop(), loop).result(_CALL_TIMEOUT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_CALL_TIMEOUT_S)
        loop.close()
