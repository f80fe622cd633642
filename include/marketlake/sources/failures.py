"""How a vendor's refusals and broken answers become errors of our tree.

One :class:`Failures` belongs to one piece of work with one vendor; it knows what every message must
name and which secrets no message may repeat. What does not belong here: one vendor's own wording.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from curl_cffi.requests import exceptions as curl

from marketlake.errors import (
    AuthFailed,
    BadPayload,
    ConfigError,
    MarketlakeError,
    NotFound,
    RateLimited,
    SourceUnavailable,
    Timeout,
)
from marketlake.sources.recording import Exchange, RecordingSession

_Kind = TypeVar("_Kind", bound=MarketlakeError)

UNREADABLE = (
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    NotImplementedError,
)
"""What clients and parsers raise when an answer is not what they hoped for."""

# Request Timeout and Too Early: the same request may pass later.
PASSING = frozenset({408, 425})
_PROXY_WORDS = ("CONNECT tunnel failed", "over proxy")
_CURL_ADVICE = " See https://curl.se/libcurl/c/libcurl-errors.html first for more details."
_TOOK = re.compile(r" after \d+ (ms|milliseconds)\b")
_USER_IN_URL = re.compile(r"://[^/@\s]+@")


@dataclass(frozen=True)
class Failures:
    """Makes the errors of one piece of work: ``vendor`` is a person's name for ``source``.

    ``credentials`` are the settings that hold the vendor's keys, ``secrets`` their values.
    """

    source: str
    vendor: str
    symbol: str
    timeout_s: float
    credentials: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()

    def error(self, kind: type[_Kind], expected: str, was: str, todo: str | None = None) -> _Kind:
        """Return an error that names the source and the symbol, and no secret."""
        return kind(
            expected=expected,
            was=self.cleaned(was),
            where=f"{self.source}, {self.symbol}",
            todo=todo or f"the task tries again; if it goes on, look at {self.vendor}'s state",
        )

    def cleaned(self, text: str) -> str:
        """Return a text without the secrets of this work."""
        for secret in filter(None, self.secrets):
            text = text.replace(secret, "***")
        return text

    def get(
        self,
        session: RecordingSession,
        url: str,
        params: Mapping[str, str] | None = None,
        *,
        refused: Callable[[Exchange], Exception] | None = None,
    ) -> Exchange:
        """Return the answer to a request; an error when there is none or its status is no good.

        The status comes before the body: a good body under HTTP 500 is no answer. ``refused``
        makes the error of a vendor that says more than its status.
        """
        try:
            session.get(url, params=params)
        except curl.RequestException as error:
            raise self.transport(error) from error
        answer = session.exchanges[-1]
        if answer.status >= 400:
            raise (refused or self.refused)(answer)
        return answer

    def transport(self, error: curl.RequestException) -> MarketlakeError:
        """Return the error for a request that got no whole answer."""
        if isinstance(error, curl.Timeout):
            return self.error(Timeout, f"an answer within {self.timeout_s:g} s", "none")
        # A proxy's URL may hold a password.
        said = _USER_IN_URL.sub("://", str(error)).removesuffix(_CURL_ADVICE)
        # Reasons are content, and the same run must say the same.
        said = _TOOK.sub("", said)
        if isinstance(error, curl.CertificateVerifyError) or "trust anchors" in said:
            return self.error(
                ConfigError,
                "a certificate signed by a trusted authority",
                said,
                "set MARKETLAKE_EGRESS__CA_BUNDLE to the proxy's authority",
            )
        if isinstance(error, curl.ProxyError) or any(words in said for words in _PROXY_WORDS):
            return self.error(
                SourceUnavailable,
                "an egress proxy that lets this host through",
                said,
                "check MARKETLAKE_EGRESS__PROXY_URL and `marketlake status`",
            )
        return self.error(SourceUnavailable, "a complete answer", said)

    def rate_limited(self, was: str, retry_after_s: float | None = None) -> RateLimited:
        """Return the error for a limit that the vendor says was reached."""
        todo = f"wait; lower the slots of pool '{self.source}' if it goes on"
        error = self.error(RateLimited, "an answer", was, todo)
        error.retry_after_s = retry_after_s
        return error

    def too_many_requests(self, answer: Exchange | None) -> RateLimited:
        """Return the error for an HTTP 429."""
        wait = answer.retry_after_s if answer else None
        again = "?" if wait is None else f"{wait:g}"
        return self.rate_limited(f"HTTP 429, to try again in {again} s", wait)

    def auth_failed(self, was: str) -> AuthFailed:
        """Return the error for a credential that was refused, or that may not do this."""
        names = " and ".join(self.credentials)
        return self.error(
            AuthFailed,
            f"{names} that may ask this" if names else "an answer without credentials",
            was,
            f"correct {names}, or the plan behind it"
            if names
            else f"check whether {self.vendor} still serves this address, then clear the task",
        )

    def refused(self, answer: Exchange) -> MarketlakeError:
        """Return the error for an HTTP status of 400 or more."""
        status = f"HTTP {answer.status}"
        if answer.status == 429:
            return self.too_many_requests(answer)
        if answer.status in {401, 403}:
            return self.auth_failed(f"{status}, {_beginning(answer)}")
        if answer.status >= 500 or answer.status in PASSING:
            return self.error(SourceUnavailable, "HTTP 200", status)
        if answer.status == 404:
            expected = f"a symbol that {self.vendor} knows"
            return self.error(NotFound, expected, status, "correct the universe")
        return self.bad_payload(f"{status} with {_beginning(answer)}")

    def unreadable(self, answer: Exchange, error: Exception) -> MarketlakeError:
        """Return the error for a good status with a body that cannot be read."""
        if not answer.body.strip():
            return self.error(SourceUnavailable, "an answer", f"HTTP {answer.status}, no body")
        return self.bad_payload(f"HTTP {answer.status} with {_beginning(answer)} ({error!r})")

    def bad_payload(self, was: str) -> BadPayload:
        """Return the error for an answer that is not as documented."""
        return self.error(
            BadPayload,
            f"{self.vendor}'s documented answer about {self.symbol}",
            was,
            "compare the recorded response with the vendor's documentation",
        )

    def explained(self, error: Exception, answer: Exchange | None) -> MarketlakeError:
        """Return the error for whatever a client raised, given the last answer it got."""
        if isinstance(error, MarketlakeError):
            return error
        # A connection may break after an earlier answer that was good.
        if isinstance(error, curl.RequestException) and not isinstance(error, curl.HTTPError):
            return self.transport(error)
        if answer is not None and answer.status >= 400:
            return self.refused(answer)
        if answer is None:
            return self.error(SourceUnavailable, "an answer", f"none: {error!r}")
        return self.unreadable(answer, error)


def csv_rows(body: bytes) -> list[list[str]]:
    """Return the rows of a CSV, its head first; ValueError when its last line is cut."""
    text = body.decode("utf-8-sig")
    if not text.endswith("\n"):
        raise ValueError("the last line is cut")
    return list(csv.reader(io.StringIO(text)))


def _beginning(answer: Exchange) -> str:
    return repr(answer.body[:80].decode("utf-8", "replace"))
