from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
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
from marketlake.sources.availability import Breaker, Budget, Standing, Turn, take_turn
from marketlake.sources.catalog import open_source
from marketlake.sources.source import CallPlan
from marketlake.storage.source_state import SourceStates
from marketlake.storage.warehouse import Warehouse

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
    answered = breaker.after_success(NOON).after_failure(of(Timeout), NOON, SETTINGS)
    assert answered.allows(NOON)


def test_an_open_breaker_lets_one_try_through_after_its_rest() -> None:
    breaker = Breaker()
    for _ in range(3):
        breaker = breaker.after_failure(of(SourceUnavailable), NOON, SETTINGS)
    assert not breaker.allows(later(seconds=299))
    assert breaker.allows(later(seconds=300))
    again = breaker.after_failure(of(SourceUnavailable), later(seconds=300), SETTINGS)
    assert not again.allows(later(seconds=599))
    assert breaker.after_success(later(seconds=300)) == Breaker()


def test_an_answer_to_a_call_made_before_the_breaker_opened_does_not_close_it() -> None:
    opened = Breaker().after_failure(of(RateLimited, retry_after_s=60.0), NOON, SETTINGS)
    assert opened.after_success(later(seconds=1)) == opened


def test_a_later_failure_does_not_shorten_the_rest_that_a_vendor_asked_for() -> None:
    opened = Breaker().after_failure(of(RateLimited, retry_after_s=3600.0), NOON, SETTINGS)
    again = opened.after_failure(of(Timeout), later(seconds=1), SETTINGS)
    assert not again.allows(later(seconds=3599))


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


@given(
    failures=st.integers(0, 9),
    spent_s=st.lists(st.integers(0, 80_000), max_size=30),
    retry_after_s=st.none() | st.floats(0.0, 4000.0),
)
def test_a_standing_is_the_same_after_it_was_kept(
    failures: int, spent_s: list[int], retry_after_s: float | None
) -> None:
    plan = CallPlan(a_day=25, a_minute=5)
    standing = Standing(Breaker(failures), Budget(plan))
    for seconds in sorted(spent_s):
        standing = standing.answered(later(seconds=seconds), calls=2)
    if retry_after_s is not None:
        limit = of(RateLimited, retry_after_s=retry_after_s)
        standing = standing.failed(limit, later(hours=23), SETTINGS, calls=1)
    kept = json.loads(json.dumps(standing.as_json()))
    assert Standing.from_json(kept, plan) == standing
    assert Standing.from_json(None, plan) == Standing(Breaker(), Budget(plan))


def test_what_was_kept_never_allows_a_call_earlier() -> None:
    plan = CallPlan(a_minute=1)
    made = Standing(Breaker(), Budget(plan)).answered(later(seconds=0.3), calls=1)
    kept = Standing.from_json(made.as_json(), plan)
    assert kept.budget.wait_s(later(seconds=60.2)) == pytest.approx(0.8)
    assert made.budget.wait_s(later(seconds=60.2)) == pytest.approx(0.1)


class Turns:
    """Turns with one source that no other test asks, kept in the real warehouse."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.states = SourceStates(warehouse)
        name = f"stooq-{uuid.uuid4().hex}"
        self.source = replace(open_source("stooq", Settings()), name=name)

    def __call__(
        self, plan: CallPlan, symbols: Sequence[str], at: datetime
    ) -> AbstractContextManager[Turn]:
        source = replace(self.source, plan=plan)
        return take_turn(source, symbols, at=at, settings=SETTINGS, keeper=self.states)

    def kept(self, plan: CallPlan) -> Standing:
        return Standing.from_json(self.states.read(self.source.name), plan)


@pytest.fixture
def turns(warehouse: Warehouse) -> Turns:
    return Turns(warehouse)


def test_a_breaker_that_opened_in_one_run_rests_in_the_next_and_comes_back_by_itself(
    turns: Turns,
) -> None:
    plan = CallPlan()
    with turns(plan, ["JPM"], NOON) as first:
        assert first.symbols == ["JPM"]
        for _ in range(3):
            assert first.refusal is None
            first.failed(of(SourceUnavailable, was="down\0"), NOON, calls=1)
        assert first.refusal is not None
    with turns(plan, ["JPM", "KO"], later(seconds=299)) as resting:
        assert (resting.symbols, resting.left) == ([], ["JPM", "KO"])
        why = "rests until 2022-12-28T12:05:00+00:00: SourceUnavailable: down"
        assert resting.refusal == why
    with turns(plan, ["JPM"], later(seconds=300)) as half_open:
        assert half_open.symbols == ["JPM"]
        half_open.failed(of(Timeout), later(seconds=300), calls=1)
        assert half_open.refusal is not None
    with turns(plan, ["JPM"], later(seconds=599)) as resting:
        assert resting.refusal is not None
    with turns(plan, ["JPM"], later(seconds=600)) as back:
        back.answered(later(seconds=600), calls=1)
    assert turns.kept(plan).breaker == Breaker()


def test_a_budget_of_25_calls_a_day_is_remembered_over_runs(turns: Turns) -> None:
    plan, symbols = CallPlan(a_day=25), [f"S{i:02d}" for i in range(20)]
    with turns(plan, symbols, NOON) as morning:
        assert (morning.symbols, morning.left) == (symbols, [])
        for minute in range(20):
            morning.answered(later(minutes=minute), calls=1)
    with turns(plan, symbols, later(hours=1)) as noon:
        assert (noon.symbols, noon.left) == (symbols[:5], symbols[5:])
        noon.answered(later(hours=1), calls=5)
    with turns(plan, symbols, later(hours=2)) as spent:
        assert (spent.symbols, spent.left) == ([], symbols)
        assert spent.refusal == "its 25 calls a day are made"
    # The plan is not kept: a better one counts at once.
    with turns(CallPlan(a_day=100), symbols, later(hours=2)) as better:
        assert better.symbols == symbols
    with turns(plan, symbols, later(hours=24, minutes=9)) as next_day:
        assert next_day.symbols == symbols[:10]


def test_calls_are_counted_as_made_and_not_as_set_aside(turns: Turns) -> None:
    plan = CallPlan(a_day=25, calls_a_symbol=2)
    with turns(plan, ["A", "B", "C"], NOON) as turn:
        assert turns.kept(plan).budget.left_today(NOON) == 19
        turn.answered(later(seconds=1), calls=1)
        turn.failed(of(Timeout), later(seconds=2), calls=2)
    assert turns.kept(plan).budget.spent_at == (
        later(seconds=1),
        later(seconds=2),
        later(seconds=2),
    )

    def break_off() -> None:
        with turns(plan, ["A"], later(seconds=3)) as turn:
            turn.answered(later(seconds=4), calls=4)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        break_off()
    assert turns.kept(plan).budget.left_today(later(seconds=5)) == 18


def test_the_calls_of_a_task_that_died_stay_counted_for_a_day(turns: Turns) -> None:
    plan = CallPlan(a_day=25)
    dead = turns(plan, ["A", "B"], NOON)
    dead.__enter__()
    assert turns.kept(plan).budget.left_today(later(hours=23)) == 23
    assert turns.kept(plan).budget.left_today(later(hours=24)) == 25


def test_a_spent_minute_lets_the_next_turn_wait(turns: Turns) -> None:
    plan = CallPlan(a_day=25, a_minute=5)
    with turns(plan, ["A", "B"], NOON) as turn:
        assert turn.wait_s(NOON) == 0.0
        turn.answered(NOON, calls=5)
        assert turn.wait_s(later(seconds=1)) == 59.0
    with turns(plan, ["C"], later(seconds=20)) as turn:
        assert (turn.symbols, turn.wait_s(later(seconds=20))) == (["C"], 40.0)


def test_a_day_spent_sooner_than_foreseen_ends_the_turn_and_is_not_waited_for(
    turns: Turns,
) -> None:
    with turns(CallPlan(a_day=4, a_minute=2), ["A", "B", "C", "D"], NOON) as turn:
        turn.answered(NOON, calls=2)
        assert (turn.refusal, turn.wait_s(NOON)) == (None, 60.0)
        turn.answered(later(minutes=1), calls=2)
        assert turn.refusal == "its 4 calls a day are made"
        assert turn.wait_s(later(minutes=2)) == 0.0


def test_without_a_keeper_each_turn_is_the_first(turns: Turns) -> None:
    source = replace(turns.source, plan=CallPlan(a_day=2))
    for _ in range(2):
        with take_turn(source, ["A", "B", "C"], at=NOON, settings=SETTINGS, keeper=None) as turn:
            assert (turn.symbols, turn.left) == (["A", "B"], ["C"])
            turn.failed(of(AuthFailed), NOON, calls=1)
            assert turn.refusal is not None


def test_a_source_without_a_key_is_refused_and_nothing_is_kept(turns: Turns) -> None:
    turns.source = replace(turns.source, not_configured="SOME_KEY")
    with turns(CallPlan(), ["A"], NOON) as turn:
        assert (turn.symbols, turn.left) == ([], ["A"])
        assert turn.refusal == "not configured: SOME_KEY"
    assert turns.states.read(turns.source.name) is None


def test_a_breaker_that_another_task_opened_meanwhile_stays_open(turns: Turns) -> None:
    plan = CallPlan()
    with turns(plan, ["A"], NOON) as slow:
        slow.failed(of(Timeout), NOON, calls=1)
        with turns(plan, ["B"], NOON) as limited:
            limited.failed(of(RateLimited, retry_after_s=60.0), NOON, calls=1)
        slow.answered(later(seconds=1), calls=1)
        slow.failed(of(Timeout), later(seconds=2), calls=1)
    assert not turns.kept(plan).breaker.allows(later(seconds=59))


def test_tasks_side_by_side_never_exceed_a_day_and_lose_no_call(turns: Turns) -> None:
    plan, made = CallPlan(a_day=25), []

    def session(number: int) -> None:
        at = later(seconds=number)
        with turns(plan, ["A", "B", "C", "D", "E", "F", "G", "H"], at) as turn:
            for _ in turn.symbols:
                made.append(at)
                turn.answered(at, calls=1)

    tasks = [threading.Thread(target=session, args=(number,)) for number in range(5)]
    for task in tasks:
        task.start()
    for task in tasks:
        task.join()
    assert len(made) == 25
    assert sorted(turns.kept(plan).budget.spent_at) == sorted(made)
