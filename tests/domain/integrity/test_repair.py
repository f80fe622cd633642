"""Repair proposes what has one right answer, nothing else, and every change can be undone."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.domain.integrity import ACTION_SCHEMA, PROPOSAL_SCHEMA, apply, propose, revert
from marketlake.errors import ContractViolation
from polars.testing import assert_frame_equal

from tests.domain.integrity.series import PRICES, at, dividend, scaled, split, walk

BARS = walk()
DAYS = BARS["session"].to_list()
ROW = 60
NONE = pl.DataFrame(schema=ACTION_SCHEMA)


def assert_repaired(bad: pl.DataFrame, good: pl.DataFrame, actions: pl.DataFrame = NONE) -> None:
    proposals = propose(bad, actions)
    got = apply(bad, proposals)
    assert_frame_equal(got, good, rel_tol=1e-9)
    assert_frame_equal(revert(got, proposals), bad, check_exact=True)
    assert_frame_equal(propose(got, actions), proposals.clear())


def test_calm_bars_are_left_alone_and_the_frame_is_typed() -> None:
    proposals = propose(BARS, split(DAYS[ROW], 2.0))

    assert proposals.schema == PROPOSAL_SCHEMA
    assert proposals.is_empty()


@pytest.mark.parametrize("factor", [100.0, 0.01, 1000.0])
@pytest.mark.parametrize(("first", "last"), [(0, 3), (ROW, ROW), (ROW, ROW + 30), (100, 119)])
def test_bars_in_another_unit_are_brought_back(factor: float, first: int, last: int) -> None:
    assert_repaired(scaled(BARS, first, last, factor), BARS)


def test_single_prices_in_another_unit_are_brought_back_with_the_range_they_pulled() -> None:
    close = BARS["close_usd"][ROW]
    low, opened = BARS["low_usd"][ROW], BARS["open_usd"][ROW]

    assert_repaired(at(BARS, ROW, close_usd=close * 100), BARS)
    pulled = at(BARS, ROW, close_usd=close / 100, low_usd=close / 100)
    assert_repaired(pulled, at(BARS, ROW, low_usd=min(close, opened)))
    assert low != min(close, opened)


def test_the_unit_that_was_traded_in_is_the_right_one() -> None:
    quiet = scaled(BARS.with_columns(volume_shares=pl.lit(0.0)), 0, 99, 0.01)
    traded = at(quiet, 110, volume_shares=5000.0)

    got = apply(traded, propose(traded, NONE))

    assert_frame_equal(got.select(PRICES), BARS.select(PRICES), rel_tol=1e-9)


@pytest.mark.parametrize("ratio", [2.0, 5.0, 0.1, 1.5, 0.4406])
@pytest.mark.parametrize(("first", "ex"), [(0, ROW), (0, ROW + 6), (ROW - 8, ROW), (ROW, ROW)])
def test_bars_that_a_listed_split_did_not_reach_are_brought_back(
    ratio: float, first: int, ex: int
) -> None:
    last = ROW if first == ROW else ROW - 1
    here = pl.int_range(pl.len()).is_between(first, last)
    bad = scaled(BARS, first, last, ratio).with_columns(
        volume_shares=pl.when(here).then(pl.col("volume_shares") / ratio).otherwise("volume_shares")
    )

    assert_repaired(bad, BARS, split(DAYS[ex], ratio))
    assert propose(bad, NONE).is_empty()


def test_two_equal_splits_in_one_quarter_leave_each_others_bars_alone() -> None:
    """The window of the one ends within the block of the other."""
    blocks = ((20, 34), (64, 69))
    bad = BARS
    for first, last in blocks:
        bad = scaled(bad, first, last, 7.0)
    actions = pl.concat([split(DAYS[last + 1], 7.0) for _, last in blocks])

    got = apply(bad, propose(bad, actions))

    assert_frame_equal(got.select(PRICES), BARS.select(PRICES), rel_tol=1e-9)


def test_a_crash_near_a_split_is_not_taken_for_it() -> None:
    crashed = scaled(BARS, ROW, len(DAYS), 0.735)

    assert propose(crashed, split(DAYS[ROW + 5], 1.5)).is_empty()


def test_as_traded_prices_that_fell_late_are_brought_back() -> None:
    good = scaled(BARS, ROW, len(DAYS), 0.25)
    late = scaled(good, ROW, ROW + 2, 4.0).with_columns(
        volume_shares=pl.when(pl.int_range(pl.len()).is_between(ROW, ROW + 2))
        .then(pl.col("volume_shares") / 4)
        .otherwise("volume_shares")
    )
    actions = split(DAYS[ROW], 4.0)

    got = apply(late, propose(late, actions, basis="as_traded"))

    assert_frame_equal(got, good, rel_tol=1e-9)


def test_a_spike_is_never_smoothed_away_nor_a_split_invented() -> None:
    path = np.array([1.0, 1.5, 1.8, 4.0, 7.0, 17.0, 9.5, 16.0, 11.0, 4.4, 4.5, 2.6, 3.1, 3.0])
    wild = BARS.with_columns(
        pl.col(PRICES) * pl.Series(np.concatenate([np.ones(ROW), path, np.full(46, 2.5)]))
    )

    assert propose(wild, NONE).is_empty()
    assert propose(wild, split(DAYS[-1], 4.0)).is_empty()
    assert propose(wild, split(DAYS[ROW - 55], 4.0)).is_empty()


def test_exchanged_low_and_high_are_put_back() -> None:
    bar = BARS.row(ROW, named=True)

    assert_repaired(at(BARS, ROW, low_usd=bar["high_usd"], high_usd=bar["low_usd"]), BARS)


def test_an_open_outside_a_range_that_is_one_is_found_but_has_no_one_answer() -> None:
    assert propose(at(BARS, ROW, open_usd=BARS["high_usd"][ROW] * 1.01), NONE).is_empty()


def test_a_listed_dividend_that_the_adjusted_close_lacks_is_taken_out() -> None:
    paid = 0.03 * BARS["close_usd"][ROW - 1]
    bad = BARS.with_columns(adj_close_usd=pl.col("close_usd"))
    good = bad.with_columns(
        adj_close_usd=pl.when(pl.int_range(pl.len()) < ROW)
        .then(pl.col("adj_close_usd") * 0.97)
        .otherwise("adj_close_usd")
    )

    assert_repaired(bad, good, dividend(DAYS[ROW], paid))
    assert propose(good, dividend(DAYS[ROW], paid)).is_empty()


def test_two_repairs_of_one_cell_become_one_proposal() -> None:
    actions = pl.concat([split(DAYS[ROW], 5.0), dividend(DAYS[ROW + 20], 1.0)])
    bad = scaled(BARS, 0, ROW - 1, 5.0).with_columns(adj_close_usd=pl.col("close_usd"))

    proposals = propose(bad, actions)

    both = proposals.filter(pl.col("field") == "adj_close_usd", pl.col("session") < DAYS[ROW])
    assert set(both["rule"]) == {"split_not_applied; dividend_not_adjusted"}
    assert_frame_equal(revert(apply(bad, proposals), proposals), bad, check_exact=True)


def test_a_missing_day_is_added_from_the_other_sources_on_their_scale_and_without_volume() -> None:
    own = BARS.filter(pl.int_range(pl.len()) != ROW)
    peers = [
        BARS.with_columns(pl.lit(name).alias("source"), pl.col(PRICES) * factor)
        for name, factor in (("iex", 1.0), ("stooq", 0.8))
    ]
    bars = pl.concat([own, *peers])

    proposals = propose(bars, NONE)
    got = apply(bars, proposals)

    added = got.filter(pl.col("source") == "yahoo", pl.col("session") == DAYS[ROW])
    assert_frame_equal(added.select(PRICES), BARS[ROW : ROW + 1].select(PRICES), rel_tol=1e-9)
    assert added["volume_shares"].to_list() == [None]
    assert set(proposals["confidence"]) == {0.95}
    assert_frame_equal(revert(got, proposals), bars, check_exact=True)
    assert propose(own, NONE).is_empty()
    at_its_close = propose(bars, NONE, as_of=DAYS[ROW])
    assert at_its_close.select("session", "field").rows() == [
        (DAYS[ROW], n) for n in sorted(PRICES)
    ]


def test_what_changed_in_between_is_not_overwritten() -> None:
    bad = scaled(BARS, ROW, ROW, 100.0)
    proposals = propose(bad, NONE)

    with pytest.raises(ContractViolation, match="hold what was proposed"):
        apply(BARS, proposals)
    with pytest.raises(ContractViolation, match="hold what was proposed"):
        apply(apply(bad, proposals), proposals)
    with pytest.raises(ContractViolation, match="one proposal a cell"):
        apply(bad, pl.concat([proposals, proposals]))


def test_two_bars_of_one_key_are_nobodys_to_repair() -> None:
    bad = scaled(BARS, ROW, ROW, 100.0)

    assert propose(pl.concat([bad, bad[ROW : ROW + 1]]), NONE).is_empty()


def test_separate_faults_are_separate_proposals_and_may_be_accepted_one_by_one() -> None:
    bad = scaled(scaled(BARS, 20, 22, 100.0), ROW, ROW, 0.01)
    proposals = propose(bad, NONE)
    assert proposals["proposal"].n_unique() == 2

    one = proposals.filter(pl.col("proposal") == proposals["proposal"][0])

    assert_frame_equal(apply(bad, one), scaled(BARS, ROW, ROW, 0.01), rel_tol=1e-9)


def faulty(seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return two sources with every repairable fault at random places, and the actions."""
    rng = np.random.default_rng(seed)
    bars = walk(60, symbols=("AAA", "BBB"), seed=seed)
    bars = pl.concat([bars, bars.with_columns(source=pl.lit("iex"))])
    for _ in range(4):
        first = int(rng.integers(0, bars.height))
        last = first + int(rng.integers(0, 5))
        bars = scaled(bars, first, last, float(rng.choice([100.0, 0.01, 2.0, 0.5])))
    row = int(rng.integers(0, bars.height))
    bars = at(bars, row, low_usd=bars["high_usd"][row], high_usd=bars["low_usd"][row])
    bars = bars.with_columns(adj_close_usd=pl.col("close_usd")).sample(
        fraction=0.97, seed=seed, shuffle=True
    )
    days = bars["session"].unique().sort()
    actions = [split(days[int(rng.integers(5, 55))], 2.0, name) for name in ("AAA", "BBB")]
    return bars, pl.concat([*actions, dividend(days[40], 1.0)])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100_000))
def test_revert_is_the_exact_inverse_of_apply(seed: int) -> None:
    bars, actions = faulty(seed)
    proposals = propose(bars, actions)

    assert_frame_equal(revert(apply(bars, proposals), proposals), bars, check_exact=True)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 100_000), st.integers(10, 50))
def test_a_decision_as_of_a_session_does_not_depend_on_a_later_one(seed: int, cut: int) -> None:
    bars, actions = faulty(seed)
    day: date = bars["session"].unique().sort()[cut]
    later = pl.col("session") > day
    mangled = bars.with_columns(pl.when(later).then(pl.col(n) * 50).otherwise(n) for n in PRICES)
    more = pl.concat([actions.filter(~later), split(day.replace(year=2019), 3.0)])

    expected = propose(bars, actions, as_of=day)

    assert expected["as_of"].is_in([day]).all()
    assert propose(bars, actions)["as_of"].is_null().all()
    for other in (mangled, bars.filter(~later)):
        got = propose(other, more, as_of=day)
        assert_frame_equal(got, expected, check_exact=True)


def test_as_of_its_own_session_a_unit_error_is_already_seen() -> None:
    bad = scaled(BARS, ROW, ROW + 1, 100.0)

    proposals = propose(bad, NONE, as_of=DAYS[ROW])

    assert set(proposals["session"]) == {DAYS[ROW]}
    assert proposals.height == 4
