"""Features: the NaN rule, simulated lineage and membership, on cases small enough to see."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.contracts.catalog import contract
from marketlake.contracts.features import FEATURES
from marketlake.contracts.lineage import LINEAGE
from marketlake.domain import features

from tests.domain.market import (
    BENCHMARK,
    NO_ACTIONS,
    Market,
    actions_of,
    bars_of,
    made_market,
    weekdays,
)

DAYS = weekdays(date(2020, 1, 1), 300)


def _compute(market: Market, **changes: object) -> pl.DataFrame:
    arguments = {
        "sessions": market.sessions,
        "symbols": market.symbols,
        "benchmark": BENCHMARK,
        "first_output": market.sessions[0],
    }
    return features.compute_features(market.bars, market.actions, **{**arguments, **changes})  # type: ignore[arg-type]


def _flat(closes: np.ndarray, simulated: tuple[str, ...] = ()) -> Market:
    bars = bars_of(closes, sessions=DAYS, symbols=["A", "B", BENCHMARK], simulated=simulated)
    return Market(tuple(DAYS), ("A", "B"), bars, NO_ACTIONS)


def _random_closes() -> np.ndarray:
    rng = np.random.default_rng(5)
    return 100 * np.exp(np.cumsum(rng.normal(0, 0.01, (300, 3)), axis=0))


def test_the_frame_has_the_columns_of_its_contract_in_order() -> None:
    frame = _compute(_flat(_random_closes()))
    declared = [field.name for field in contract("core_features__daily").fields]
    assert [*frame.columns, "known_at_utc"] == declared
    assert frame.select("session", "symbol").is_duplicated().sum() == 0


@pytest.mark.parametrize("feature", FEATURES, ids=lambda item: item.name)
def test_a_feature_is_null_exactly_until_its_lookback_is_there(feature: object) -> None:
    frame = _compute(_flat(_random_closes())).filter(pl.col("symbol") == "A")
    values = frame[feature.name]  # type: ignore[attr-defined]
    first = int(values.is_not_null().arg_true()[0])
    lookback = feature.lookback  # type: ignore[attr-defined]
    # A rolling statistic begins at 80 % of its window; an end point at the whole of it.
    assert 0.8 * lookback - 1 <= first <= lookback
    assert values[lookback:].null_count() == 0


def test_a_rolling_statistic_needs_four_fifths_of_its_window_and_an_end_point_its_ends() -> None:
    closes = _random_closes()
    closes[285:288, 0] = np.nan  # three closes away: four of the last twenty returns
    frame = _compute(_flat(closes)).filter(pl.col("symbol") == "A", pl.col("session") == DAYS[299])
    row = frame.row(0, named=True)
    assert row["volatility_20d"] is not None
    assert row["volatility_10d"] is not None
    assert row["rsi_14d"] is None, "10 of 14 returns are fewer than 80 %"
    closes[284, 0] = np.nan
    row = (
        _compute(_flat(closes))
        .filter(pl.col("symbol") == "A", pl.col("session") == DAYS[299])
        .row(0, named=True)
    )
    assert row["volatility_20d"] is None, "15 of 20 returns are fewer than 80 %"
    closes[294, 0] = np.nan
    row = (
        _compute(_flat(closes))
        .filter(pl.col("symbol") == "A", pl.col("session") == DAYS[299])
        .row(0, named=True)
    )
    assert row["return_5d"] is None
    assert row["return_10d"] is not None


def test_a_symbol_without_a_bar_has_no_row() -> None:
    closes = _random_closes()
    closes[290, 0] = np.nan
    frame = _compute(_flat(closes)).filter(pl.col("session") == DAYS[290])
    assert frame["symbol"].to_list() == ["B"]
    assert frame["rank_return_20d"].to_list() == [None], "one symbol alone has no rank"


def test_a_price_that_never_moves_gives_nulls_where_a_ratio_is_nothing_over_nothing() -> None:
    closes = _random_closes()
    closes[:, 0] = 0.1
    row = (
        _compute(_flat(closes))
        .filter(pl.col("symbol") == "A", pl.col("session") == DAYS[299])
        .row(0, named=True)
    )
    for name in ("zscore_20d", "rsi_14d", "skewness_60d", "volatility_ratio_10d_60d"):
        assert row[name] is None, name
    for name in ("return_20d", "volatility_60d", "drawdown_252d", "beta_60d"):
        assert row[name] == 0.0, name


def test_an_ever_rising_price_has_rsi_100_and_no_drawdown() -> None:
    closes = _random_closes()
    closes[:, 0] = 100 * 1.001 ** np.arange(300)
    row = (
        _compute(_flat(closes))
        .filter(pl.col("symbol") == "A", pl.col("session") == DAYS[299])
        .row(0, named=True)
    )
    assert row["rsi_14d"] == 100.0
    assert row["drawdown_252d"] == 0.0
    assert row["downside_volatility_20d"] == 0.0


@settings(max_examples=200, deadline=None)
@given(growth=st.lists(st.floats(0.0, 0.5), min_size=14, max_size=14).filter(any))
def test_no_gains_however_rounded_take_rsi_above_100(growth: list[float]) -> None:
    closes = np.repeat(np.cumprod([100.0, *(1.0 + np.array(growth))])[:, None], 3, axis=1)
    days = DAYS[:15]
    bars = bars_of(closes, sessions=days, symbols=["A", "B", BENCHMARK])
    frame = _compute(Market(tuple(days), ("A", "B"), bars, NO_ACTIONS), first_output=days[-1])
    assert frame["rsi_14d"].drop_nulls().is_between(0, 100).all()


def test_simulated_follows_its_inputs_as_far_as_they_reach() -> None:
    market = _flat(_random_closes())
    mark = pl.lit(["adjusted_close"])
    marked = replace(
        market,
        bars=market.bars.with_columns(
            pl.when((pl.col("session") == DAYS[20]) & (pl.col("symbol") == "A"))
            .then(mark)
            .otherwise("simulated_fields")
            .alias("simulated_fields")
        ),
    )
    frame = _compute(marked)
    by_symbol = {
        symbol: frame.filter(pl.col("symbol") == symbol, pl.col("simulated"))["session"]
        for symbol in ("A", "B")
    }
    assert (by_symbol["A"][0], by_symbol["A"][-1]) == (DAYS[20], DAYS[272])
    # B is ranked beside A, over twenty sessions.
    assert (by_symbol["B"][0], by_symbol["B"][-1]) == (DAYS[20], DAYS[40])


def test_simulated_quantities_that_no_feature_uses_leave_no_mark() -> None:
    assert not _compute(_flat(_random_closes(), ("open_usd", "close_usd")))["simulated"].any()
    assert _compute(_flat(_random_closes(), ("benchmark_close",)))["simulated"].all()


def test_a_simulated_dividend_leaves_a_mark_only_where_it_does_not_cancel() -> None:
    closes = _random_closes()
    closes[19, 0] = np.nan
    dividends = [
        (DAYS[at], "A", None, 1.0)
        for at in (10, 20)  # the second one follows a gap
    ]
    market = replace(
        _flat(closes),
        actions=actions_of(*dividends).with_columns(simulated_fields=pl.lit(["dividend_usd"])),
    )
    marked = _compute(market).filter(pl.col("simulated"))
    sessions = {symbol: marked.filter(pl.col("symbol") == symbol)["session"] for symbol in "AB"}
    # The factor reaches closes before its ex-date, so one session less than a bar would.
    assert (sessions["A"][0], sessions["A"][-1]) == (DAYS[20], DAYS[271])
    assert (sessions["B"][0], sessions["B"][-1]) == (DAYS[20], DAYS[39])


def test_dated_membership_limits_the_rows_and_the_ranks() -> None:
    market = made_market(2)
    members = pl.DataFrame(
        {"session": [market.sessions[300]] * 3, "symbol": list(market.symbols[:3])}
    )
    frame = _compute(market, members=members)
    assert frame["symbol"].to_list() == list(market.symbols[:3])
    assert sorted(frame["rank_return_20d"].to_list()) == [0.0, 0.5, 1.0]


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_bounded_features_stay_in_their_bounds(seed: int) -> None:
    frame = _compute(made_market(seed))
    assert frame["drawdown_252d"].drop_nulls().is_between(-1, 0).all()
    assert frame["rsi_14d"].drop_nulls().is_between(0, 100).all()
    assert frame["rank_return_20d"].drop_nulls().is_between(0, 1).all()
    numbers = frame.select(item.name for item in FEATURES)
    assert all(numbers[name].drop_nulls().is_finite().all() for name in numbers.columns)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.5, 2.0, 1024.0]))
def test_the_unit_of_price_changes_nothing(seed: int, factor: float) -> None:
    market = made_market(seed)
    scaled = replace(
        market,
        bars=market.bars.with_columns(pl.col("close_usd") * factor),
        actions=market.actions.with_columns(pl.col("dividend_usd") * factor),
    )
    # Powers of two: scaling is exact, so the features must be equal to the bit.
    assert _compute(scaled).equals(_compute(market))


def test_the_declared_lineage_is_what_the_values_really_depend_on() -> None:
    market = made_market(7)
    before = _compute(market)
    keys = ["session", "symbol"]
    values = [feature.name for feature in FEATURES]
    found = {name: set[tuple[str, str]]() for name in [*values, "simulated"]}
    changes = {
        ("core_market__daily_bar", "close_usd"): pl.col("close_usd")
        * (1.0 + pl.col("close_usd") % 0.1),
        ("core_market__daily_bar", "simulated_fields"): pl.lit(["adjusted_close"]),
        ("core_market__corporate_action", "kind"): pl.lit("other"),
        ("core_market__corporate_action", "split_ratio"): pl.col("split_ratio") * 1.1,
        ("core_market__corporate_action", "dividend_usd"): pl.col("dividend_usd") * 1.5,
        ("core_market__corporate_action", "simulated_fields"): pl.lit([], pl.List(pl.String)),
    }
    for (dataset, column), changed in changes.items():
        part = "bars" if dataset.endswith("bar") else "actions"
        rows = getattr(market, part).with_columns(changed.alias(column))
        after = _compute(replace(market, **{part: rows}))
        assert after.select(keys).equals(before.select(keys))
        for name, sources in found.items():
            if not after[name].equals(before[name]):
                sources.add((dataset, column))

    declared = LINEAGE["core_features__daily"].columns
    assert found == {
        name: {(item.dataset, item.column) for item in declared[name]} for name in found
    }
