from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    EmptyAnswer,
    MarketlakeError,
    NotFound,
    RateLimited,
    SourceUnavailable,
    Timeout,
)
from marketlake.settings import AvailabilitySettings, Settings
from marketlake.sources.availability import Availability, Breaker, Budget
from marketlake.sources.catalog import open_source
from marketlake.sources.source import CallPlan

NOON = datetime(2022, 12, 28, 12, tzinfo=UTC)
SETTINGS = AvailabilitySettings(failures=3, rest_s=300.0)


def later(**span: float) -> datetime:
    return NOON + timedelta(**span)


def of(kind: type[MarketlakeError], **more: Any) -> MarketlakeError:
    error = kind(expected="an answer", was="none", where="test", todo="wait")
    for name, value in more.items():
        setattr(error, name, value)
    return error


def test_a_breaker_opens_after_as_many_failures_in_a_row_as_set() -> None:
    breaker = Breaker()
    for _ in range(2):
        breaker = breaker.after_failure(of(Timeout), NOON, SETTINGS)
        assert breaker.allows(NOON)
    opened = breaker.after_failure(of(BadPayload), NOON, SETTINGS)
    assert not opened.allows(NOON)
    assert opened.reason == "BadPayload: none"
    answered = breaker.after_success().after_failure(of(Timeout), NOON, SETTINGS)
    assert answered.allows(NOON)


def test_an_open_breaker_lets_one_try_through_after_its_rest() -> None:
    breaker = Breaker()
    for _ in range(3):
        breaker = breaker.after_failure(of(SourceUnavailable), NOON, SETTINGS)
    assert not breaker.allows(later(seconds=299))
    assert breaker.allows(later(seconds=300))
    again = breaker.after_failure(of(SourceUnavailable), later(seconds=300), SETTINGS)
    assert not again.allows(later(seconds=599))
    assert breaker.after_success() == Breaker()


def test_a_limit_opens_at_once_for_as_long_as_the_vendor_says() -> None:
    limited = Breaker().after_failure(of(RateLimited, retry_after_s=7.0), NOON, SETTINGS)
    assert not limited.allows(later(seconds=6))
    assert limited.allows(later(seconds=7))
    silent = Breaker().after_failure(of(RateLimited), NOON, SETTINGS)
    assert not silent.allows(later(seconds=299))


def test_refused_credentials_open_at_once() -> None:
    assert not Breaker().after_failure(of(AuthFailed), NOON, SETTINGS).allows(NOON)


@pytest.mark.parametrize("kind", [NotFound, EmptyAnswer])
def test_a_symbol_that_a_vendor_does_not_have_is_not_held_against_it(
    kind: type[MarketlakeError],
) -> None:
    breaker = Breaker(failures=2)
    for _ in range(50):
        breaker = breaker.after_failure(of(kind), NOON, SETTINGS)
    assert breaker == Breaker(failures=2)


def test_a_budget_says_which_symbols_the_day_still_allows() -> None:
    budget = Budget(CallPlan(a_day=25, a_minute=5))
    symbols = [f"S{i:02d}" for i in range(40)]
    asked, left = budget.affordable(symbols, NOON)
    assert (asked, left) == (symbols[:25], symbols[25:])
    spent = budget.after_calls(NOON, 20)
    assert spent.affordable(symbols, NOON)[0] == symbols[:5]
    assert spent.affordable(symbols, later(hours=24))[0] == symbols[:25]
    whole = Budget(CallPlan(a_minute=200)).affordable(symbols, NOON)
    assert whole == (symbols, [])


def test_calls_that_take_many_symbols_and_symbols_that_take_many_calls_are_counted() -> None:
    symbols = [f"S{i:03d}" for i in range(500)]
    batches = Budget(CallPlan(a_day=3, symbols_a_call=100))
    assert len(batches.affordable(symbols, NOON)[0]) == 300
    dear = Budget(CallPlan(a_day=25, calls_a_symbol=2))
    assert len(dear.affordable(symbols, NOON)[0]) == 12


def test_a_spent_minute_says_how_long_to_wait() -> None:
    budget = Budget(CallPlan(a_day=25, a_minute=2))
    assert budget.wait_s(NOON) == 0.0
    spent = budget.after_calls(NOON).after_calls(later(seconds=20))
    assert spent.left_this_minute(later(seconds=30)) == 0
    assert spent.wait_s(later(seconds=30)) == 30.0
    assert spent.wait_s(later(seconds=60)) == 0.0
    drained = Budget(CallPlan(a_day=2)).after_calls(NOON, 2)
    assert drained.wait_s(later(hours=1)) == 23 * 3600.0
    assert drained.left_today(later(hours=1)) == 0


@given(
    limit=st.integers(1, 6),
    gaps=st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60),
)
def test_whoever_waits_as_told_never_exceeds_a_minute(limit: int, gaps: list[float]) -> None:
    budget, at, made = Budget(CallPlan(a_minute=limit)), NOON, []
    for gap in gaps:
        at += timedelta(seconds=gap)
        at += timedelta(seconds=budget.wait_s(at))
        budget = budget.after_calls(at)
        made.append(at)
    for i, first in enumerate(made):
        assert sum(call < first + timedelta(minutes=1) for call in made[i:]) <= limit


def availability() -> Availability:
    settings = Settings(iex={"api_key": "k", "secret_key": "s"})
    sources = [open_source(name, settings) for name in ("yahoo", "alpha_vantage", "iex")]
    return Availability.of(sources, at=NOON, settings=SETTINGS)


def test_a_source_without_a_key_is_dropped_with_its_reason_and_never_asked() -> None:
    now = availability()
    assert now.usable() == ["yahoo", "iex"]
    why = now.dropped["alpha_vantage"]
    assert why == "not configured: MARKETLAKE_ALPHA_VANTAGE__API_KEY"
    assert now.next_run(later(days=9)).dropped["alpha_vantage"] == why


def test_a_source_that_fails_is_dropped_for_the_run_and_comes_back_by_itself() -> None:
    now = availability()
    for _ in range(3):
        assert "iex" in now.usable()
        now = now.failed("iex", of(SourceUnavailable), NOON, calls=1)
    assert now.usable() == ["yahoo"]
    assert now.dropped["iex"] == "SourceUnavailable: none"
    # Within the run it stays away, whatever the clock says.
    assert "iex" not in now.answered("yahoo", later(hours=1), calls=2).usable()
    assert "iex" not in now.next_run(later(seconds=299)).usable()
    assert "iex" in now.next_run(later(seconds=300)).usable()


def test_every_call_is_counted_whether_it_succeeded_or_not() -> None:
    now = availability()
    now = now.answered("iex", NOON, calls=3).failed("iex", of(NotFound), NOON, calls=1)
    assert now.budgets["iex"].left_this_minute(NOON) == 196
    assert now.budgets["yahoo"].left_this_minute(NOON) is None
    assert "iex" in now.usable()
