"""Which sources may be asked now: circuit breakers and call budgets, on a clock that is passed in.

A breaker and a budget are plain values: what happened goes in, a new value comes out. What is kept
of a source is its :class:`Standing`; a :class:`Turn` keeps it where other tasks see it. What does
not belong here: where it is kept, asking, waiting, the wall clock.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, Protocol

from marketlake.errors import (
    AuthFailed,
    ConfigError,
    EmptyAnswer,
    MarketlakeError,
    NotFound,
    RateLimited,
)
from marketlake.settings import AvailabilitySettings
from marketlake.sources.source import CallPlan, Source

_MINUTE, _DAY = timedelta(minutes=1), timedelta(days=1)
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_REASON_CHARACTERS = 300


@dataclass(frozen=True)
class Breaker:
    """How a source has done lately; open (not to be asked) until ``open_until``.

    After that instant it is half open: one success closes it, one failure opens it again.
    """

    failures: int = 0
    open_until: datetime | None = None
    reason: str = ""

    def allows(self, at: datetime) -> bool:
        """Whether the source may be asked at an instant."""
        return self.open_until is None or at >= self.open_until

    def after_success(self, at: datetime) -> Breaker:
        """Return the breaker after an answer.

        While it is open, the answer is to a call that was made before it opened.
        """
        return Breaker() if self.allows(at) else self

    def after_failure(
        self, error: MarketlakeError, at: datetime, settings: AvailabilitySettings
    ) -> Breaker:
        """Return the breaker after an error.

        A symbol that a vendor does not have says nothing against the vendor. A limit opens the
        breaker at once, for as long as the vendor says; refused credentials do too, since asking
        again with them helps nobody.
        """
        if isinstance(error, NotFound | EmptyAnswer):
            return self
        rest = timedelta(seconds=settings.rest_s)
        if isinstance(error, RateLimited) and error.retry_after_s is not None:
            rest = timedelta(seconds=error.retry_after_s)
        failures = self.failures + 1
        at_once = isinstance(error, RateLimited | AuthFailed | ConfigError)
        half_open = self.open_until is not None
        if not (at_once or half_open or failures >= settings.failures):
            return replace(self, failures=failures)
        until = at + rest if self.open_until is None else max(at + rest, self.open_until)
        # A vendor's words may be long, and hold a NUL, which no JSON in Postgres may.
        was = error.was.replace("\0", "")[:_REASON_CHARACTERS]
        return Breaker(failures, until, f"{type(error).__name__}: {was}")


@dataclass(frozen=True)
class Budget:
    """The calls that a plan allows, less those made; both spans slide with the clock."""

    plan: CallPlan
    spent_at: tuple[datetime, ...] = ()

    def after_calls(self, at: datetime, calls: int = 1) -> Budget:
        """Return the budget after some calls; what no span holds any more is forgotten."""
        if self.plan.a_day is None and self.plan.a_minute is None:
            return self
        span = _MINUTE if self.plan.a_day is None else _DAY
        kept = [instant for instant in self.spent_at if instant > at - span]
        return replace(self, spent_at=(*kept, *[at] * calls))

    def calls_for(self, symbols: int) -> int:
        """Return how many calls so many symbols take."""
        return ceil(symbols / self.plan.symbols_a_call) * self.plan.calls_a_symbol

    def left_today(self, at: datetime) -> int | None:
        """Return how many calls the day still allows; None when the plan has no such limit."""
        return _left(self.plan.a_day, self.spent_at, since=at - _DAY)

    def left_this_minute(self, at: datetime) -> int | None:
        """Return how many calls the minute still allows; None when the plan has no such limit."""
        return _left(self.plan.a_minute, self.spent_at, since=at - _MINUTE)

    def wait_s(self, at: datetime) -> float:
        """Return how long to wait until the next call is allowed."""
        day_s = _until_free(self.plan.a_day, self.spent_at, span=_DAY, at=at)
        return max(day_s, self.minute_wait_s(at))

    def minute_wait_s(self, at: datetime) -> float:
        """Return how long to wait until the minute allows the next call, whatever the day does."""
        return _until_free(self.plan.a_minute, self.spent_at, span=_MINUTE, at=at)

    def affordable(self, symbols: Sequence[str], at: datetime) -> tuple[list[str], list[str]]:
        """Return the symbols that the day still allows to ask for, and those that it does not.

        The order of ``symbols`` is their order of importance; a minute's limit only slows down.
        """
        left = self.left_today(at)
        if left is None:
            return list(symbols), []
        fits = left // self.plan.calls_a_symbol * self.plan.symbols_a_call
        return list(symbols[:fits]), list(symbols[fits:])


def _left(limit: int | None, spent_at: Iterable[datetime], *, since: datetime) -> int | None:
    if limit is None:
        return None
    return max(0, limit - sum(instant > since for instant in spent_at))


def _until_free(
    limit: int | None, spent_at: Sequence[datetime], *, span: timedelta, at: datetime
) -> float:
    if limit is None:
        return 0.0
    inside = sorted(instant for instant in spent_at if instant > at - span)
    if len(inside) < limit:
        return 0.0
    # As soon as so many have slid out that one more fits.
    return (inside[len(inside) - limit] + span - at).total_seconds()


@dataclass(frozen=True)
class Standing:
    """How one source stands: what is kept of it between runs."""

    breaker: Breaker
    budget: Budget

    @classmethod
    def from_json(cls, kept: Mapping[str, Any] | None, plan: CallPlan) -> Standing:
        """Rebuild a standing from :meth:`as_json`, or begin one; the plan is today's."""
        if kept is None:
            return cls(Breaker(), Budget(plan))
        until = kept["open_until"]
        breaker = Breaker(kept["failures"], until and datetime.fromisoformat(until), kept["reason"])
        spent_at = [
            instant
            for told, calls in kept["spent_at"].items()
            for instant in [datetime.fromisoformat(told)] * calls
        ]
        return cls(breaker, Budget(plan, tuple(spent_at)))

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping: calls by the second that they were made in, at its end."""
        until = self.breaker.open_until
        calls = Counter(_end_of_second(instant).isoformat() for instant in self.budget.spent_at)
        return {
            "failures": self.breaker.failures,
            "open_until": until and until.isoformat(),
            "reason": self.breaker.reason,
            "spent_at": dict(sorted(calls.items())),
        }

    def refusal(self, at: datetime) -> str | None:
        """Return why the source may not be asked now, or None when it may be."""
        until = self.breaker.open_until
        if until is not None and not self.breaker.allows(at):
            return f"rests until {until.isoformat()}: {self.breaker.reason}"
        if self.budget.left_today(at) == 0:
            return f"its {self.budget.plan.a_day} calls a day are made"
        return None

    def answered(self, at: datetime, *, calls: int) -> Standing:
        """Return the standing after an answer that took some calls."""
        return Standing(self.breaker.after_success(at), self.budget.after_calls(at, calls))

    def failed(
        self, error: MarketlakeError, at: datetime, settings: AvailabilitySettings, *, calls: int
    ) -> Standing:
        """Return the standing after an error that took some calls."""
        breaker = self.breaker.after_failure(error, at, settings)
        return Standing(breaker, self.budget.after_calls(at, calls))


def _end_of_second(instant: datetime) -> datetime:
    whole = instant.replace(microsecond=0)
    return whole if whole == instant else whole + timedelta(seconds=1)


class Keeper(Protocol):
    """Keeps a document of each source; ``storage.source_state`` has one."""

    def update(
        self, name: str, change: Callable[[dict[str, Any] | None], dict[str, Any]]
    ) -> dict[str, Any]:
        """Replace a source's document by what ``change`` makes of it; changes take turns."""


class Turn:
    """One task's turn with one source, while other tasks may have theirs.

    ``symbols`` are those that may be asked for, ``left`` those that the day does not allow any
    more; ``refusal`` is why the source may not be asked (again). Before a call wait for
    :meth:`wait_s`, after it say :meth:`answered` or :meth:`failed`.
    """

    def __init__(self, source: Source, settings: AvailabilitySettings) -> None:
        self.symbols: list[str] = []
        self.left: list[str] = []
        self.refusal: str | None = None
        self._plan = source.plan
        self._settings = settings
        self._began = self._now = Standing.from_json(None, source.plan)
        self._set_aside: list[datetime] = []
        self._made: list[datetime] = []

    def wait_s(self, at: datetime) -> float:
        """Return how long to wait, a minute at most, until the next call is allowed."""
        return self._now.budget.minute_wait_s(at)

    def answered(self, at: datetime, *, calls: int) -> None:
        """Count an answer that took some calls."""
        self._count(self._now.answered(at, calls=calls), at, calls)

    def failed(self, error: MarketlakeError, at: datetime, *, calls: int) -> None:
        """Count an error that took some calls; if the breaker opens, the turn is over."""
        self._count(self._now.failed(error, at, self._settings, calls=calls), at, calls)

    def _count(self, now: Standing, at: datetime, calls: int) -> None:
        self._made += [at] * calls
        self._now = now
        # Within a turn a refusal stays, whatever the clock says.
        self.refusal = self.refusal or now.refusal(at)

    def begin(
        self, symbols: Sequence[str], at: datetime, kept: Mapping[str, Any] | None
    ) -> dict[str, Any]:
        """Return the document with this turn's calls set aside, so that no other task takes them.

        The order of ``symbols`` is their order of importance.
        """
        self._began = self._now = Standing.from_json(kept, self._plan)
        self.refusal = self._now.refusal(at)
        budget = self._now.budget
        self.symbols, self.left = (
            ([], list(symbols)) if self.refusal else budget.affordable(symbols, at)
        )
        # What a minute allows is not divided beforehand: only days are too short for everyone.
        calls = 0 if self._plan.a_day is None else budget.calls_for(len(self.symbols))
        self._set_aside = [_end_of_second(at)] * calls
        set_aside = budget.after_calls(_end_of_second(at), calls)
        return replace(self._now, budget=set_aside).as_json()

    def end(self, kept: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return the document with the calls that were made instead of those set aside."""
        standing = Standing.from_json(kept, self._plan)
        spent_at = Counter(standing.budget.spent_at) - Counter(self._set_aside)
        budget = Budget(self._plan, tuple(spent_at.elements()))
        for instant in sorted(self._made):
            budget = budget.after_calls(instant)
        breaker = _agreed(standing.breaker, began=self._began.breaker, now=self._now.breaker)
        return Standing(breaker, budget).as_json()


@contextmanager
def take_turn(
    source: Source,
    symbols: Sequence[str],
    *,
    at: datetime,
    settings: AvailabilitySettings,
    keeper: Keeper | None,
) -> Iterator[Turn]:
    """Yield a turn with a source; however it ends, what was spent and learnt in it is kept.

    The calls of a task that dies stay set aside for their day, as if they had been made. Without a
    keeper every turn is the first one: each session of the sandbox has vendors of its own.
    """
    turn = Turn(source, settings)
    if source.not_configured is not None:
        turn.refusal, turn.left = f"not configured: {source.not_configured}", list(symbols)
        yield turn
        return
    if keeper is None:
        turn.begin(symbols, at, None)
        yield turn
        return
    keeper.update(source.name, lambda kept: turn.begin(symbols, at, kept))
    try:
        yield turn
    finally:
        keeper.update(source.name, turn.end)


def _agreed(kept: Breaker, *, began: Breaker, now: Breaker) -> Breaker:
    """Return the breaker after a turn, when another task may have changed it meanwhile."""
    if kept == began:
        return now
    if now == began:
        return kept
    return max(now, kept, key=lambda breaker: breaker.open_until or _LONG_AGO)
