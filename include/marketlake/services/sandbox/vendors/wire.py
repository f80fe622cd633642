"""What every vendor module shares: a request, an answer, and the protocol of a vendor."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from marketlake.services.sandbox.world import View


@dataclass(frozen=True)
class VendorRequest:
    """One request as a vendor sees it; ``host`` is the vendor's own host name."""

    host: str
    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)


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


Look = Callable[[str], View | None]
"""Gives a symbol's view at the market clock, faults applied; None for an unknown symbol."""


class Vendor(Protocol):
    """One vendor's wire protocol."""

    name: str
    hosts: frozenset[str]

    def symbol(self, request: VendorRequest) -> str:
        """Return the symbol a request asks about, or an empty string."""

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Return the answer to a request."""

    def refusal(self, status: int) -> bytes:
        """Return the body that the vendor sends with a 401, 429 or 5xx."""
