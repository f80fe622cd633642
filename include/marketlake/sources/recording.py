"""An HTTP session that clients use and that remembers every answer.

Every vendor call becomes one :class:`VendorCall`, secrets out of its URL, and the bodies of one
piece of work stay at hand, byte for byte. What does not belong here: what a body means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from curl_cffi import requests

from marketlake.clock import monotonic_s

_USUAL_LIMIT_S = 30.0
_SECRETS = frozenset({"crumb", "apikey", "api_key", "key", "token", "access_token", "signature"})


@dataclass(frozen=True)
class VendorCall:
    """One request to a vendor and how it ended: what the audit record keeps."""

    method: str
    url: str
    status: int | None
    body_sha256: str | None
    bytes: int
    seconds: float
    error: str | None


@dataclass(frozen=True)
class Exchange:
    """One answer with its body, content encoding undone."""

    method: str
    url: str
    status: int
    body: bytes
    retry_after_s: float | None

    @property
    def body_sha256(self) -> str:
        """Return the SHA-256 of the body, hex."""
        return hashlib.sha256(self.body).hexdigest()


class RecordingSession(requests.Session):  # type: ignore[misc]  # curl_cffi ships no types
    """A curl session that reports every request and bounds each one's time.

    Clients forget timeouts on some of their requests; ``limit_s`` holds for all of them.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.limit_s = _USUAL_LIMIT_S
        self.exchanges: list[Exchange] = []
        self._on_call: Callable[[VendorCall], None] | None = None

    def begin(self, on_call: Callable[[VendorCall], None], *, limit_s: float) -> None:
        """Start a piece of work: forget earlier answers and report to ``on_call``."""
        self.exchanges = []
        self.limit_s = limit_s
        self._on_call = on_call

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request as curl_cffi does; its failures pass through."""
        kwargs["timeout"] = min(_seconds(kwargs.get("timeout"), self.limit_s), self.limit_s)
        shown = redacted_url(url, kwargs.get("params"))
        started = monotonic_s()
        try:
            response = super().request(method, url, *args, **kwargs)
        except requests.exceptions.RequestException as error:
            self._report(
                VendorCall(
                    method, shown, None, None, 0, monotonic_s() - started, type(error).__name__
                )
            )
            raise
        exchange = Exchange(
            method,
            shown,
            int(response.status_code),
            bytes(response.content),
            _retry_after(response.headers.get("Retry-After")),
        )
        self.exchanges.append(exchange)
        self._report(
            VendorCall(
                method,
                shown,
                exchange.status,
                exchange.body_sha256,
                len(exchange.body),
                monotonic_s() - started,
                None,
            )
        )
        return response

    def _report(self, call: VendorCall) -> None:
        if self._on_call is not None:
            self._on_call(call)


def redacted_url(url: str, params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None) -> str:
    """Return a URL with its parameters and without secrets, so that equal requests read equal."""
    parts = urlsplit(url)
    more = params.items() if isinstance(params, Mapping) else (params or ())
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *more]
    kept = [(name, value) for name, value in pairs if name.lower() not in _SECRETS]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(kept), ""))


def _seconds(timeout: object, otherwise: float) -> float:
    return float(timeout) if isinstance(timeout, int | float) else otherwise


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        # An HTTP date; our own back-off is as good as its arithmetic.
        return None
