"""Call limits of vendors, one set a namespace, on a clock that only the control API moves.

A test of call budgets needs no waiting: it sets limits, makes calls, and moves the clock. What does
not belong here: what a vendor says when a limit is reached, and the market clock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal

from marketlake.errors import ConfigError

Span = Literal["minute", "day"]

_SECONDS: dict[Span, float] = {"minute": 60.0, "day": 86_400.0}


@dataclass
class _Meter:
    allowed: dict[Span, int]
    made_at_s: list[float] = field(default_factory=list)


class Limits:
    """How often a vendor may be called, and how often it was."""

    def __init__(self) -> None:
        self._meters: dict[tuple[str, str], _Meter] = {}
        self._now_s: defaultdict[str, float] = defaultdict(float)

    def set(self, namespace: str, vendor: str, *, a_minute: int | None, a_day: int | None) -> None:
        """Limit the calls of a vendor in a namespace from now on; None is no limit."""
        given: dict[Span, int | None] = {"minute": a_minute, "day": a_day}
        allowed = {span: limit for span, limit in given.items() if limit is not None}
        self._meters[namespace, vendor] = _Meter(allowed)

    def advance(self, namespace: str, seconds: float) -> float:
        """Move a namespace's clock forward; return where it stands, in seconds."""
        if seconds < 0.0:
            raise ConfigError(
                expected="seconds of at least 0",
                was=str(seconds),
                where="POST /__ctl/wait",
                todo="correct the member 'seconds'",
            )
        self._now_s[namespace] += seconds
        return self._now_s[namespace]

    def reset(self, namespace: str = "") -> None:
        """Forget a namespace's limits and clock, or all of them."""
        for key in [key for key in self._meters if namespace in {"", key[0]}]:
            del self._meters[key]
        for name in [name for name in self._now_s if namespace in {"", name}]:
            del self._now_s[name]

    def over(self, namespace: str, vendor: str) -> Span | None:
        """Count a call; return which limit it is over, in which case it counts for nothing."""
        meter = self._meters.get((namespace, vendor))
        if meter is None:
            return None
        now = self._now_s[namespace]
        for span, limit in meter.allowed.items():
            if sum(at > now - _SECONDS[span] for at in meter.made_at_s) >= limit:
                return span
        meter.made_at_s.append(now)
        return None
