"""Which sources may be asked now: circuit breakers and call budgets, on a clock that is passed in.

A breaker and a budget are plain values: what happened goes in, a new value comes out, and whoever
runs the sources keeps it between runs. What does not belong here: asking, waiting, the wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

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

    def after_success(self) -> Breaker:
        """Return the breaker after an answer."""
        return Breaker()

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
        return Breaker(failures, at + rest, f"{type(error).__name__}: {error.was}")


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

    def left_today(self, at: datetime) -> int | None:
        """Return how many calls the day still allows; None when the plan has no such limit."""
        return _left(self.plan.a_day, self.spent_at, since=at - _DAY)

    def left_this_minute(self, at: datetime) -> int | None:
        """Return how many calls the minute still allows; None when the plan has no such limit."""
        return _left(self.plan.a_minute, self.spent_at, since=at - _MINUTE)

    def wait_s(self, at: datetime) -> float:
        """Return how long to wait until the next call is allowed."""
        waits = (
            _until_free(self.plan.a_minute, self.spent_at, span=_MINUTE, at=at),
            _until_free(self.plan.a_day, self.spent_at, span=_DAY, at=at),
        )
        return max(waits)

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
class Availability:
    """What a run may ask of its sources, and why not of the others.

    A source that fails is ``dropped`` for the rest of the run. The next run begins with
    :meth:`next_run`: the breakers go on, so a source comes back by itself when its rest is over.
    """

    settings: AvailabilitySettings
    breakers: Mapping[str, Breaker] = field(default_factory=dict)
    budgets: Mapping[str, Budget] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, sources: Iterable[Source], *, at: datetime, settings: AvailabilitySettings
    ) -> Availability:
        """Return the availability of sources that nobody has asked yet."""
        declared = list(sources)
        return cls(
            settings,
            breakers={source.name: Breaker() for source in declared},
            budgets={source.name: Budget(source.plan) for source in declared},
            dropped={
                source.name: f"not configured: {source.not_configured}"
                for source in declared
                if source.not_configured is not None
            },
        ).next_run(at)

    def next_run(self, at: datetime) -> Availability:
        """Return the availability at the start of a run: dropped are those that must rest."""
        unconfigured = {
            name: why for name, why in self.dropped.items() if why.startswith("not configured")
        }
        resting = {
            name: breaker.reason
            for name, breaker in self.breakers.items()
            if not breaker.allows(at)
        }
        return replace(self, dropped={**resting, **unconfigured})

    def usable(self) -> list[str]:
        """Return the sources that may be asked in this run."""
        return [name for name in self.breakers if name not in self.dropped]

    def answered(self, name: str, at: datetime, *, calls: int) -> Availability:
        """Return the availability after an answer that took some calls."""
        return replace(
            self._spent(name, at, calls),
            breakers={**self.breakers, name: self.breakers[name].after_success()},
        )

    def failed(
        self, name: str, error: MarketlakeError, at: datetime, *, calls: int
    ) -> Availability:
        """Return the availability after an error; an open breaker drops the source."""
        breaker = self.breakers[name].after_failure(error, at, self.settings)
        spent = replace(self._spent(name, at, calls), breakers={**self.breakers, name: breaker})
        if breaker.allows(at):
            return spent
        return replace(spent, dropped={**self.dropped, name: breaker.reason})

    def _spent(self, name: str, at: datetime, calls: int) -> Availability:
        budget = self.budgets[name].after_calls(at, calls)
        return replace(self, budgets={**self.budgets, name: budget})
