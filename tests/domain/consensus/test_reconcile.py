"""The consensus, who carried it, and what is said of those who did not."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from marketlake.domain.consensus import LOOKBACK_SESSIONS, REFUTED_IF, provenance
from marketlake.errors import ContractViolation, EmptyAnswer

from tests.corpora.price_faults import ACTION_SCHEMA, PRICES
from tests.domain.consensus.vendors import (
    SESSIONS,
    SOURCES,
    T,
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


def true(name: str, at: int = T) -> float:
    return float(TRUTH[name][at])


def earlier(name: str, back: int) -> float:
    return true(name, T - back)


def all_prices(back: int) -> dict[str, float]:
    return {name: earlier(name, back) for name in PRICES}


def test_three_that_agree_give_that_price_and_no_disagreement() -> None:
    found = agree(TOLD)
    assert found.bars.height == len(SESSIONS)
    assert found.bars.select(PRICES).equals(TRUTH.select(PRICES))
    assert found.disagreements.is_empty()
    assert bar(found)["n_sources"] == bar(found)["n_agreed"] == 3
    assert bar(found)["sources"] == list(SOURCES)
    assert bar(found)["flags"] == []


def test_one_wrong_source_is_outvoted_and_named() -> None:
    found = agree(changed(TOLD, "beta", **times(1.013)))
    row = bar(found)
    assert row["close_usd"] == true("close_usd")
    assert (row["n_sources"], row["n_agreed"]) == (3, 2)
    assert row["chosen_source"] != "beta"
    assert row["flags"] == ["discrepancy"]
    said = found.disagreements.row(0, named=True)
    assert said["source"] == "beta"
    assert said["fields"] == list(PRICES)
    assert said["close_apart_pct"] == pytest.approx(1.3)


def test_every_cell_says_who_agreed_and_why_the_others_were_dropped() -> None:
    gone = TOLD.filter((pl.col("source") != "gamma") | (pl.col("session") != SESSIONS[T]))
    cells = provenance(agree(changed(gone, "beta", **times(100.0, "close_usd"))), SESSIONS[T])
    assert cells.height == 2 * len(PRICES), "a source that did not answer has no row"
    (dropped,) = cells.filter(~pl.col("agreed")).to_dicts()
    assert (dropped["source"], dropped["field"]) == ("beta", "close_usd")
    assert dropped["dropped_because"] == "unit_x100"
    assert dropped["apart_pct"] == pytest.approx(9900.0)
    assert dropped["vote"] < dropped["weight"]
    assert cells.filter("agreed")["dropped_because"].null_count() == cells.height - 1


def test_a_difference_below_the_threshold_of_its_field_is_no_disagreement() -> None:
    small = changed(TOLD, "beta", **times(1.004, "close_usd"))
    assert agree(small).disagreements.is_empty()
    found = agree(small, thresholds_pct={"close_usd": 0.3})
    assert found.disagreements["fields"].to_list() == [["close_usd"]]


def test_two_wrong_in_different_ways_do_not_defeat_the_third() -> None:
    both_up = changed(changed(TOLD, "alpha", **times(100.0)), "beta", **times(2.0))
    assert bar(agree(both_up))["close_usd"] == true("close_usd")
    assert complaints(agree(both_up)) == {"alpha": "unit_x100", "beta": "split_not_applied"}
    median = np.median([true("close_usd") * factor for factor in (100.0, 2.0, 1.0)])
    assert median != true("close_usd"), "a plain median is defeated by the two"


def test_two_that_repeat_yesterday_do_not_outvote_one_that_is_fresh() -> None:
    stale = {**all_prices(1), "volume_shares": earlier("volume_shares", 1)}
    found = agree(changed(changed(TOLD, "alpha", **stale), "beta", **stale))
    assert bar(found)["close_usd"] == true("close_usd")
    assert complaints(found) == {"alpha": "stale_repeat", "beta": "stale_repeat"}


def test_a_move_that_two_sources_confirm_is_kept_however_large() -> None:
    spike = TOLD
    for source in ("alpha", "beta"):
        spike = changed(spike, source, **times(2.35))
    assert bar(agree(spike))["close_usd"] == pytest.approx(2.35 * true("close_usd"))


def test_of_two_that_disagree_the_one_that_erred_less_before_is_believed() -> None:
    for liar in ("alpha", "gamma"):
        bars = TOLD
        for at in range(T - 30, T, 3):
            bars = changed(bars, liar, at=at, **times(1.008))
        disputed = changed(bars, "gamma", **times(1.01)).filter(
            (pl.col("source") != "beta") | (pl.col("session") != SESSIONS[T])
        )
        row = bar(agree(disputed))
        honest = "gamma" if liar == "alpha" else "alpha"
        assert row["chosen_source"] == honest
        assert row["flags"] == ["two_source", "discrepancy", "no_agreement"]


def test_a_weight_knows_nothing_of_its_own_session() -> None:
    wrong = agree(changed(TOLD, "beta", **times(1.05)))
    weights = [
        found.weights.filter(pl.col("session") == SESSIONS[at])["weight"].to_list()
        for found in (agree(TOLD), wrong)
        for at in (T, T + 1)
    ]
    assert weights[0] == weights[2]
    assert weights[1][1] > weights[3][1], "beta's error counts from the next session on"


@pytest.mark.parametrize("middle", SOURCES)
def test_where_three_differ_the_middle_one_is_taken(middle: str) -> None:
    low, high = (source for source in SOURCES if source != middle)
    for away in (0.01, 0.2):
        bars = changed(TOLD, low, **times(1 - away))
        row = bar(agree(changed(bars, high, **times(1 + away))))
        assert row["close_usd"] == true("close_usd")
        assert "no_agreement" in row["flags"]


def test_a_bar_that_is_part_of_another_gives_way_to_it() -> None:
    whole = {**times(1.02, "high_usd"), **times(0.98, "low_usd")}
    morning = {
        "high_usd": pl.col("open_usd") * 1.001,
        "low_usd": pl.col("open_usd") * 0.999,
        "close_usd": pl.col("open_usd"),
        "volume_shares": pl.col("volume_shares") * 0.4,
    }
    for part, other in (("alpha", "beta"), ("beta", "alpha")):
        told = changed(told_by(TRUTH, "alpha", "beta"), other, **whole)
        row = bar(agree(changed(told, part, **morning)))
        assert row["chosen_source"] == row["volume_source"] == other
        assert row["high_usd"] == true("high_usd") * 1.02


def test_where_three_differ_a_volume_of_its_own_tells_against_the_middle_one() -> None:
    bars = changed(changed(TOLD, "alpha", **times(1.01)), "gamma", **times(1.02))
    assert bar(agree(bars))["chosen_source"] == "alpha"
    other = changed(bars, "alpha", volume_shares=true("volume_shares") * 1.3)
    assert bar(agree(other))["chosen_source"] != "alpha"


def test_volume_is_one_sources_and_never_a_mean() -> None:
    bars = changed(TOLD, "alpha", volume_shares=1_500_000.0)
    bars = changed(bars, "beta", volume_shares=1_500_300.0)
    bars = changed(bars, "gamma", volume_shares=1_499_000.0)
    row = bar(agree(bars))
    told = dict(zip(SOURCES, (1_500_000.0, 1_500_300.0, 1_499_000.0), strict=True))
    assert row["volume_shares"] == told[row["volume_source"]]


def test_one_venues_volume_is_taken_only_when_no_other_is_there_and_is_flagged() -> None:
    found = agree(TOLD, one_venue=["alpha", "beta"])
    assert bar(found)["volume_source"] == "gamma"
    assert "one_venue_volume" not in bar(found)["flags"]
    alone = agree(told_by(TRUTH, "alpha"), one_venue=["alpha"])
    assert bar(alone)["flags"] == ["single_source", "one_venue_volume"]


def test_fewer_sources_are_flagged() -> None:
    two = agree(told_by(TRUTH, "alpha", "beta"))
    one = agree(told_by(TRUTH, "beta"))
    assert bar(two)["flags"] == ["two_source"]
    assert bar(one)["flags"] == ["single_source"]
    assert bar(one)["chosen_source"] == "beta"


def test_no_source_is_an_error_and_not_an_empty_frame() -> None:
    with pytest.raises(EmptyAnswer, match="nothing may be published"):
        agree(TOLD.clear())
    with pytest.raises(EmptyAnswer, match="nothing may be published"):
        agree(TOLD.with_columns(close_usd=pl.lit(None, pl.Float64)))


def test_a_row_without_a_symbol_is_refused() -> None:
    with pytest.raises(ContractViolation, match="nulls"):
        agree(TOLD.with_columns(symbol=pl.lit(None, pl.String)))


def test_a_missing_bar_is_named_unless_it_was_not_asked_for() -> None:
    gone = TOLD.filter((pl.col("source") != "beta") | (pl.col("session") != SESSIONS[T]))
    assert complaints(agree(gone)) == {"beta": "missing_day"}
    not_asked = pl.DataFrame({"source": ["beta"], "symbol": ["AAA"], "session": [SESSIONS[T]]})
    assert complaints(agree(gone, not_asked=not_asked)) == {}


def test_a_source_that_begins_later_or_ended_long_ago_misses_nothing() -> None:
    late = TOLD.filter((pl.col("source") != "beta") | (pl.col("session") > SESSIONS[T]))
    ended = TOLD.filter((pl.col("source") != "beta") | (pl.col("session") < SESSIONS[5]))
    assert agree(late).disagreements.is_empty()
    assert complaints(agree(ended), 10) == {"beta": "missing_day"}
    assert complaints(agree(ended), T) == {}


def test_a_row_given_twice_counts_once_and_contradicting_rows_not_at_all() -> None:
    row = TOLD.filter((pl.col("source") == "beta") & (pl.col("session") == SESSIONS[T]))
    same = agree(pl.concat([TOLD, row]))
    assert complaints(same) == {"beta": "duplicate"}
    assert bar(same)["n_sources"] == 3
    other = agree(pl.concat([TOLD, row.with_columns(close_usd=pl.col("close_usd") * 1.02)]))
    assert complaints(other) == {"beta": "duplicate"}
    assert bar(other)["n_sources"] == 2


def test_a_bar_on_a_day_without_a_session_is_of_a_wrong_day() -> None:
    found = agree(TOLD.with_columns(pl.col("session")), one_venue=[])
    assert found.disagreements.is_empty()
    sunday = TOLD.head(1).with_columns(session=pl.date(2020, 3, 1))
    said = agree(pl.concat([TOLD, sunday])).disagreements
    assert said.select("session", "class").rows() == [(sunday["session"][0], "wrong_day")]


def test_the_bar_still_contains_its_prices_where_its_sources_differ_on_them() -> None:
    # Two of three have a high that is, within the threshold, lower than everybody's close.
    bars = TOLD
    for source, high in zip(SOURCES, (0.997, 0.997, 1.001), strict=True):
        price = pl.col("close_usd")
        bars = changed(bars, source, high_usd=price * high, open_usd=price * 0.99)
    row = bar(agree(bars))
    assert row["high_usd"] == row["close_usd"] == true("close_usd")


# Each class: what makes it true, and the least change that refutes it.
OTHER_DAY = all_prices(4)
SWAPPED = {"high_usd": true("low_usd"), "low_usd": true("high_usd")}
ONE_VENUE = {"close_usd": true("close_usd") * 1.007, "volume_shares": true("volume_shares") * 0.03}
CASES = {
    "unit_x100": (times(100.0), times(90.0)),
    "stale_repeat": (all_prices(1), {**all_prices(1), "open_usd": earlier("open_usd", 1) * 1.0003}),
    "swapped_ohlc": (SWAPPED, {**SWAPPED, "low_usd": true("high_usd") * 1.02}),
    "split_not_applied": (times(1.5), {**times(1.5), "low_usd": true("low_usd") * 1.47,
                                       "high_usd": true("high_usd") * 1.53}),
    "wrong_day": (OTHER_DAY, {**OTHER_DAY, "open_usd": true("open_usd") * 1.03,
                              "low_usd": true("low_usd") * 0.97}),
    "one_sided_action": (times(0.93), {**times(0.93), "low_usd": true("low_usd") * 0.9,
                                       "high_usd": true("high_usd") * 0.95}),
    "one_venue_print": (ONE_VENUE, {**ONE_VENUE, "volume_shares": true("volume_shares") * 0.9}),
    "single_print": ({"open_usd": true("open_usd") * 1.02},
                     {"open_usd": true("open_usd") * 1.02, "close_usd": true("close_usd") * 0.98}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_class_is_claimed_on_its_evidence_and_refuted_without(name: str) -> None:
    claimed, refuted = CASES[name]
    assert complaints(agree(changed(TOLD, "gamma", **claimed))) == {"gamma": name}
    assert complaints(agree(changed(TOLD, "gamma", **refuted)))["gamma"] != name


def test_every_class_says_what_would_refute_it() -> None:
    others = {"dividend_adjustment", "missing_day", "duplicate", "unexplained"}
    assert set(REFUTED_IF) == {*CASES, *others}


def test_a_split_of_the_day_is_no_reason_to_doubt_the_price_after_it() -> None:
    days = SESSIONS[T:]
    halved = TOLD.with_columns(
        pl.when(pl.col("session").is_in(days)).then(pl.col(name) / 4).otherwise(name).alias(name)
        for name in PRICES
    )
    split = pl.DataFrame([(SESSIONS[T], "AAA", "split", 4.0, None)], ACTION_SCHEMA, orient="row")
    late = changed(halved, "beta", **times(4.0))
    disputed = late.filter((pl.col("source") != "gamma") | (pl.col("session") < SESSIONS[T]))
    assert bar(agree(disputed, split))["close_usd"] == true("close_usd") / 4
    assert complaints(agree(late, split)) == {"beta": "split_not_applied"}


def test_a_session_says_the_same_with_all_of_history_and_with_the_lookback_only() -> None:
    rng = np.random.default_rng(5)
    wild = TOLD.with_columns(
        close_usd=pl.col("close_usd")
        * pl.Series(np.where(rng.random(TOLD.height) < 0.3, rng.uniform(0.97, 1.03), 1.0))
    )
    last = SESSIONS[-1]
    whole = agree(wild)
    window = SESSIONS[-LOOKBACK_SESSIONS - 1 :]
    short = agree(wild.filter(pl.col("session").is_in(window)))
    for frame in ("bars", "disagreements", "weights"):
        one, other = (
            getattr(found, frame).filter(pl.col("session") == last) for found in (whole, short)
        )
        assert one.height > 0 or frame == "disagreements"
        assert one.equals(other)
