"""An HTTP session that clients use and that remembers every answer.

Every vendor call becomes one :class:`VendorCall`, secrets out of its URL, and the bodies of one
piece of work stay at hand, byte for byte. What does not belong here: what a body means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from curl_cffi import requests

from marketlake.clock import monotonic_s
from marketlake.errors import ConfigError
from marketlake.settings import EgressSettings

_USUAL_LIMIT_S = 30.0
_SIMULATED = "X-Marketlake-Simulated"
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
    simulated: tuple[str, ...] = ()
    """The quantities that a vendor sandbox says are made; a vendor itself says nothing."""

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
        self.calls: list[VendorCall] = []
        self._on_call: Callable[[VendorCall], None] | None = None

    def begin(self, on_call: Callable[[VendorCall], None], *, limit_s: float) -> None:
        """Start a piece of work: forget earlier answers and report to ``on_call``."""
        self.exchanges = []
        self.calls = []
        self.limit_s = limit_s
        self._on_call = on_call

    def request(self, method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        """Send a request as curl_cffi does; its failures pass through."""
        kwargs["timeout"] = min(_seconds(kwargs.get("timeout"), self.limit_s), self.limit_s)
        if isinstance(kwargs.get("params"), Mapping):
            kwargs["params"] = _plain(kwargs["params"])
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
            tuple(filter(None, response.headers.get(_SIMULATED, "").split(","))),
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
        self.calls.append(call)
        if self._on_call is not None:
            self._on_call(call)


@contextmanager
def open_session(
    egress: EgressSettings,
    as_of: date,
    *,
    timeout_s: float,
    on_call: Callable[[VendorCall], None],
) -> Iterator[RecordingSession]:
    """Open a session of its own for one piece of work, made on behalf of a session.

    Nothing is kept between pieces of work, so forked tasks and threads share nothing.
    """
    bundle = ca_bundle(egress)
    with RecordingSession(proxy=egress.proxy_for(as_of), verify=bundle or True) as session:
        session.begin(on_call, limit_s=timeout_s)
        yield session


def address(base_url: str, as_of: date) -> str:
    """Return a vendor's base URL for calls made on behalf of one session."""
    return base_url.replace("{session}", as_of.isoformat()).rstrip("/")


def ca_bundle(egress: EgressSettings) -> str | None:
    """Return the file of certificate authorities to trust; ConfigError when it is not there."""
    if egress.ca_bundle is None:
        return None
    modified_ns(egress.ca_bundle)
    return str(egress.ca_bundle)


def modified_ns(bundle: Path) -> int:
    """Return when a file of certificate authorities was written."""
    try:
        return bundle.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(
            expected="a readable file of certificate authorities",
            was=str(error),
            where="MARKETLAKE_EGRESS__CA_BUNDLE",
            todo="start the platform (it writes the sandbox's), or correct the setting",
        ) from None


def redacted_url(url: str, params: Mapping[str, Any] | Sequence[tuple[str, Any]] | None) -> str:
    """Return a URL with its parameters and without secrets, so that equal requests read equal."""
    parts = urlsplit(url)
    more = params.items() if isinstance(params, Mapping) else (params or ())
    pairs = [*parse_qsl(parts.query, keep_blank_values=True), *more]
    kept = [(name, value) for name, value in pairs if name.lower() not in _SECRETS]
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, urlencode(kept), ""))


def _plain(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters as requests sends them, for which some clients are written."""
    return {
        name: value.value if isinstance(value, Enum) else value
        for name, value in params.items()
        if value is not None
    }


def _seconds(timeout: object, otherwise: float) -> float:
    return float(timeout) if isinstance(timeout, int | float) else otherwise


def _retry_after(value: str | None) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        # An HTTP date; our own back-off is as good as its arithmetic.
        return None
