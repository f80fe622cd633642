"""A real HTTP server that takes notifications, and can be away or silent for a while."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Mailbox:
    """Where messages arrive: ``received`` holds what was posted while it was open."""

    def __init__(self) -> None:
        self.received: list[dict[str, Any]] = []
        self.authorizations: list[str | None] = []
        self.answer = 200
        self.delay_s = 0.0
        self.drips = False  # never quite answers, but always says a little
        self._silence = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._server: ThreadingHTTPServer | None = None

    def url(self, user: str = "", path: str = "") -> str:
        return f"json://{user}127.0.0.1:{self.port}/{path}"

    @property
    def name(self) -> str:
        return f"json://127.0.0.1:{self.port}"

    def open(self) -> None:
        mailbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                mailbox._silence.wait(mailbox.delay_s)
                if mailbox.answer == 200:
                    mailbox.received.append(body)
                    mailbox.authorizations.append(self.headers.get("Authorization"))
                self.send_response(mailbox.answer)
                self.flush_headers()
                while mailbox.drips and not mailbox._silence.wait(0.2):
                    self.wfile.write(b"X-Slow: yes\r\n")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._silence.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
