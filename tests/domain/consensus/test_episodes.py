"""Runs of one vendor apart from the others, judged when they are over."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
from marketlake.domain.consensus import REFUTED_IF, SETTLE_SESSIONS, episodes

from tests.corpora.price_faults import ACTION_SCHEMA, PRICES
from tests.domain.consensus.vendors import (
    NO_ACTIONS,
    SESSIONS,
    agree,
    bar,
    changed,
    complaints,
    history,
    times,
    told_by,
)

TRUTH = history()
TOLD = told_by(TRUTH)
RUN = range(50, 57)


def runs(bars: pl.DataFrame, actions: pl.DataFrame = NO_ACTIONS) -> list[dict[str, Any]]:
    return episodes(agree(bars, actions), actions).to_dicts()


def dividend(at: int, share: float) -> pl.DataFrame:
    paid = share * TRUTH["close_usd"][at - 1]
    return pl.DataFrame(
        [(SESSIONS[at], "AAA", "dividend", None, paid)], ACTION_SCHEMA, orient="row"
    )


def test_sessions_in_a_row_are_one_episode_and_a_session_of_agreement_ends_it() -> None:
    bars = changed(changed(TOLD, "beta", at=RUN, **times(0.9)), "beta", at=60, **times(0.9))
    first, second = runs(bars)
    assert (first["first_session"], first["last_session"]) == (SESSIONS[50], SESSIONS[56])
    assert (first["n_sessions"], second["n_sessions"]) == (7, 1)
    assert first["class"] == "one_sided_action"
    assert first["factor"] == pytest.approx(0.9)
    assert first["refuted_if"] == REFUTED_IF["one_sided_action"]
    assert second["class"] == "unexplained", "a factor of one session is no corporate action"


def test_two_sources_apart_are_two_episodes() -> None:
    bars = changed(changed(TOLD, "beta", at=RUN, **times(0.5)), "alpha", at=52, **times(100.0))
    assert {(run["source"], run["class"]) for run in runs(bars)} == {
        ("alpha", "unit_x100"),
        ("beta", "split_not_applied"),
    }


def test_a_dividend_explains_the_run_before_it_only_if_it_is_that_large() -> None:
    bars = changed(TOLD, "beta", at=RUN, **times(1 - 0.012))
    assert [run["class"] for run in runs(bars, dividend(57, 0.012))] == ["dividend_adjustment"]
    assert [run["class"] for run in runs(bars, dividend(57, 0.030))] == ["one_sided_action"]
    assert [run["class"] for run in runs(bars, dividend(80, 0.012))] == ["one_sided_action"]


def test_the_bar_of_the_next_session_is_recognised_once_that_is_known() -> None:
    tomorrow = {name: float(TRUTH[name][61]) for name in (*PRICES, "volume_shares")}
    bars = changed(TOLD, "beta", at=60, **tomorrow)
    assert complaints(agree(bars), 60) == {"beta": "unexplained"}
    (run,) = runs(bars)
    assert (run["class"], run["evidence"]) == ("wrong_day", 1.0)
    assert run["known_on"] == SESSIONS[60 + SETTLE_SESSIONS]
    assert run["settled"]


def test_a_run_at_the_end_of_the_frame_is_not_settled() -> None:
    (run,) = runs(changed(TOLD, "beta", at=range(85, 90), **times(0.9)))
    assert not run["settled"]
    assert run["known_on"] == SESSIONS[-1]


def test_a_long_run_may_step_now_and_then_and_a_restless_one_is_unexplained() -> None:
    step = changed(TOLD, "beta", at=range(20, 50), **times(1.03))
    step = changed(step, "beta", at=range(50, 75), **times(1.02))
    restless = TOLD
    for at in range(20, 75):
        restless = changed(restless, "beta", at=at, **times(1.03 + 0.004 * (at % 5)))
    assert [run["class"] for run in runs(step)] == ["one_sided_action"]
    assert [run["class"] for run in runs(restless)] == ["unexplained"]


def test_the_consensus_passing_to_another_ends_nobodys_run() -> None:
    bars = changed(TOLD, "alpha", at=RUN, **times(1.2))
    bars = changed(bars, "gamma", at=RUN, **times(0.8))
    # On one session of the run the middle one repeats its bar, and another has to do.
    bars = changed(
        bars, "beta", at=53, **{name: TRUTH[name][52] for name in (*PRICES, "volume_shares")}
    )
    assert [bar(agree(bars), at)["chosen_source"] == "beta" for at in RUN] == [
        *[True] * 3, False, *[True] * 3,
    ]  # fmt: skip
    assert sorted(run["source"] for run in runs(bars)) == ["alpha", "beta", "gamma"]


def test_only_runs_of_the_asked_field_are_returned() -> None:
    bars = changed(TOLD, "beta", at=50, **times(1.02, "open_usd"))
    bars = changed(bars, "beta", at=60, **times(1.02, "close_usd"))
    found = agree(bars)
    assert episodes(found, NO_ACTIONS).height == 2
    assert episodes(found, NO_ACTIONS, field="close_usd")["first_session"].to_list() == [
        SESSIONS[60]
    ]


def test_missing_days_in_a_row_are_one_episode_of_their_own() -> None:
    gone = TOLD.filter(
        (pl.col("source") != "beta") | ~pl.col("session").is_in([SESSIONS[at] for at in RUN])
    )
    (run,) = runs(gone)
    assert (run["class"], run["n_sessions"]) == ("missing_day", 7)
