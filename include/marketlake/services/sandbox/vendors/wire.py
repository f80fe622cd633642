"""What every vendor module shares: a request, an answer, and the protocol of a vendor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.world import View


@dataclass(frozen=True)
class VendorRequest:
    """One request as a vendor sees it; ``host`` is the vendor's own host name."""

    host: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of_json(cls, document: Any, *, status: int = 200) -> Answer:
        """Return an answer whose body is JSON."""
        body = json.dumps(document, separators=(",", ":"), allow_nan=False).encode()
        return cls(status, body, {"Content-Type": "application/json;charset=utf-8"})


SIMULATED_HEADER = "X-Marketlake-Simulated"
"""Names the quantities that a generator made, where the vendor's body has no place for it."""

BAD_KEY, FREE_KEY = "bad-", "free-"
"""How a key begins that a vendor refuses, or that has no more than the vendor's free plan."""

Look = Callable[[str], View | None]
"""Gives a symbol's view at the market clock, faults applied; None for an unknown symbol."""


class Vendor(Protocol):
    """One vendor's wire protocol; ``main_host`` is meant where a URL names the vendor only."""

    name: str
    hosts: frozenset[str]
    main_host: str

    def symbol(self, request: VendorRequest) -> str:
        """Return the market's symbols that a request asks about, joined by commas, or nothing."""

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return what this vendor makes of the market: its small differences, its own volume."""

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Return the answer to a request."""

    def refusal(self, status: int) -> bytes:
        """Return the body that the vendor sends with a 401, 429 or 5xx."""

    def over_limit(self, span: Span) -> Answer:
        """Return the answer to a call that is over the limit of a minute or a day."""

    def soft_limit(self, wording: str) -> bytes:
        """Return what the vendor says under HTTP 200 when a limit is reached.

        ``wording`` chooses where a vendor has several ways; the usual one is an empty string.
        """


def too_many_requests(vendor: Vendor, span: Span) -> Answer:
    """Return the answer of most vendors to a call over a limit: a 429 that says when it ends."""
    retry_after = {"minute": "60", "day": "86400"}[span]
    return Answer(429, vendor.refusal(429), {"Retry-After": retry_after})


def simulated_header(*views: View) -> dict[str, str]:
    """Return the header that names what is simulated in any of the views, if anything is."""
    names = dict.fromkeys(name for view in views for name in view.simulated)
    return {SIMULATED_HEADER: ",".join(names)} if names else {}


def days_of(view: View) -> list[str]:
    """Return the days of a view's bars as YYYY-MM-DD."""
    return [str(day) for day in view.sessions.astype("datetime64[D]")]


def between(view: View, first: str, last: str) -> View:
    """Return the bars from one day to another, both included; an empty bound is none."""
    keep = np.ones(len(view.sessions), dtype=bool)
    if first:
        keep &= view.sessions >= np.datetime64(first)
    if last:
        keep &= view.sessions <= np.datetime64(last)
    return view.rows(keep)


def class_share(symbol: str, *, mark: str) -> str:
    """Return the market's name (BRK-B) of a share class that a vendor writes with a mark."""
    return symbol.replace(mark, "-")
