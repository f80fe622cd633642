"""Prices: worked examples by hand, and the round trip between the price bases."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.domain import prices
from marketlake.errors import ContractViolation

from tests.domain.market import NO_ACTIONS, actions_of, bars_of, made_market, weekdays

MON, TUE, WED, THU = weekdays(date(2022, 8, 22), 4)


def _bars(closes: list[float], symbol: str = "TSLA") -> pl.DataFrame:
    return bars_of(np.array(closes)[:, None], sessions=[MON, TUE, WED, THU], symbols=[symbol])


def _adjusted(closes: list[float], actions: pl.DataFrame) -> list[float]:
    sessions = [MON, TUE, WED, THU]
    return (
        prices.adjusted_closes(_bars(closes), actions, sessions=sessions, symbols=["TSLA"])
        .ravel()
        .tolist()
    )


def test_a_three_for_one_split_divides_only_the_closes_before_its_ex_date() -> None:
    # Tesla split 3:1 with ex-date Thursday 2022-08-25: it closed at 891.29 the day before.
    got = _adjusted([869.74, 889.36, 891.29, 296.07], actions_of((THU, "TSLA", 3.0, None)))
    assert got == pytest.approx([869.74 / 3, 889.36 / 3, 891.29 / 3, 296.07], rel=1e-15)


def test_a_dividend_lowers_earlier_closes_by_its_share_of_the_last_close_before() -> None:
    got = _adjusted([50.0, 100.0, 98.0, 99.0], actions_of((WED, "TSLA", None, 2.0)))
    assert got == pytest.approx([49.0, 98.0, 98.0, 99.0], rel=1e-15)


def test_the_last_close_before_an_ex_date_is_used_across_a_missing_bar() -> None:
    got = _adjusted([50.0, np.nan, 49.0, 49.5], actions_of((WED, "TSLA", None, 1.0)))
    assert got[0] == pytest.approx(49.0, rel=1e-15)
    assert np.isnan(got[1])


@pytest.mark.parametrize(("ratio", "dividend", "factor"), [(10.0, 0.5, 0.95), (0.1, 200.0, 0.8)])
def test_a_dividend_after_a_split_without_a_bar_is_a_share_of_the_close_after_the_split(
    ratio: float, dividend: float, factor: float
) -> None:
    actions = actions_of((TUE, "TSLA", ratio, None), (WED, "TSLA", None, dividend))
    got = _adjusted([100.0, np.nan, 99.0, 99.0], actions)
    assert got[0] == pytest.approx(100.0 / ratio * factor, rel=1e-15)
    # The same where the base is the first close of the window, and none before the gap.
    panel = prices.panel(
        _bars([100.0, np.nan, 99.0, 99.0]), actions, sessions=[TUE, WED, THU], symbols=["TSLA"]
    )
    assert panel.factors.ravel().tolist() == [1.0 / ratio, 1.0, 1.0]


def test_a_split_and_a_dividend_on_one_ex_date_multiply() -> None:
    actions = actions_of((WED, "TSLA", 2.0, None), (WED, "TSLA", None, 2.0))
    got = _adjusted([100.0, 100.0, 49.0, 49.0], actions)
    assert got == pytest.approx([49.0, 49.0, 49.0, 49.0], rel=1e-15)


def test_an_action_after_the_last_session_is_not_known() -> None:
    bars = _bars([100.0, 100.0, 50.0, 50.0])
    early = [MON, TUE]
    got = prices.adjusted_closes(
        bars, actions_of((WED, "TSLA", 2.0, None)), sessions=early, symbols=["TSLA"]
    )
    assert got.ravel().tolist() == [100.0, 100.0]


def test_a_daily_return_is_not_bridged_over_a_missing_bar() -> None:
    panel = prices.panel(
        _bars([100.0, 101.0, np.nan, 102.0]),
        NO_ACTIONS,
        sessions=[MON, TUE, WED, THU],
        symbols=["TSLA"],
    )
    returns = panel.returns().ravel()
    assert returns[1] == pytest.approx(0.01, rel=1e-12)
    assert np.isnan(returns[[0, 2, 3]]).all()


@pytest.mark.parametrize(
    "action", [(WED, "TSLA", None, 120.0), (WED, "TSLA", -2.0, None), (WED, "TSLA", None, 100.0)]
)
def test_an_action_that_leaves_nothing_is_refused(
    action: tuple[date, str, float | None, float | None],
) -> None:
    with pytest.raises(ContractViolation, match="TSLA"):
        _adjusted([100.0, 100.0, 100.0, 100.0], actions_of(action))


@pytest.mark.parametrize("sessions", [[], [TUE, MON], [MON, MON]])
def test_sessions_that_do_not_ascend_are_refused(sessions: list[date]) -> None:
    with pytest.raises(ContractViolation, match="session"):
        prices.panel(_bars([1.0, 1.0, 1.0, 1.0]), NO_ACTIONS, sessions=sessions, symbols=["TSLA"])


def test_simulated_marks_only_rows_that_list_the_quantity() -> None:
    bars = pl.concat(
        [
            bars_of(np.ones((1, 1)), sessions=[MON], symbols=["A"], simulated=["open_usd"]),
            bars_of(np.ones((1, 1)), sessions=[TUE], symbols=["A"], simulated=["adjusted_close"]),
        ]
    )
    got = prices.simulated(bars, "adjusted_close", sessions=[MON, TUE, WED], symbols=["A", "B"])
    assert got.tolist() == [[False, False], [True, False], [False, False]]


def test_a_simulated_dividend_makes_the_factor_only_after_a_session_without_a_close() -> None:
    actions = actions_of(
        (MON, "TSLA", None, 1.0), (TUE, "TSLA", None, 1.0), (THU, "TSLA", None, 1.0)
    )
    sessions = [MON, TUE, WED, THU]
    panel = prices.panel(
        _bars([100.0, 100.0, np.nan, 100.0]), actions, sessions=sessions, symbols=["TSLA"]
    )
    assert not prices.simulated_adjustments(actions, panel).any(), "real dividends"
    made = pl.concat(
        [
            actions.with_columns(simulated_fields=pl.lit(["dividend_usd"])),
            # A split of the same day must not hide the dividend's mark.
            actions_of((THU, "TSLA", 2.0, None)),
        ]
    )
    got = prices.simulated_adjustments(made, panel)
    assert got.ravel().tolist() == [False, False, False, True]


def _vendor_bars() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "session": [MON, TUE, WED, THU],
            "symbol": ["TSLA"] * 4,
            "open_usd": [100.0] * 4,
            "high_usd": [110.0] * 4,
            "low_usd": [90.0] * 4,
            "close_usd": [100.0, 102.0, 104.0, None],
            "volume_shares": [300.0] * 4,
            "previous_close_usd": [99.0, 100.0, 102.0, 104.0],
        }
    )


def test_unadjusting_uses_every_split_after_the_row_and_none_before() -> None:
    later = date(2023, 5, 1)
    splits = pl.DataFrame(
        {
            "session": [WED, later, MON, WED],
            "symbol": ["TSLA", "TSLA", "OTHER", "TSLA"],
            "split_ratio": [3.0, 2.0, 7.0, None],
        }
    )
    got = prices.unadjust_splits(_vendor_bars(), splits)
    assert got["close_usd"].to_list() == [600.0, 612.0, 208.0, None]
    assert got["high_usd"].to_list() == [660.0, 660.0, 220.0, 220.0]
    assert got["volume_shares"].to_list() == [50.0, 50.0, 150.0, 150.0]
    # On the ex-date itself the close before still traded at the old level.
    assert got["previous_close_usd"].to_list() == [594.0, 600.0, 612.0, 208.0]


def test_unadjusting_dividends_counts_a_split_of_the_same_day() -> None:
    actions = actions_of(
        (TUE, "TSLA", None, 1.0), (WED, "TSLA", None, 1.0), (THU, "TSLA", None, 1.0)
    )
    splits = pl.DataFrame({"session": [WED], "symbol": ["TSLA"], "split_ratio": [3.0]})
    got = prices.unadjust_dividends(actions, splits)
    assert got["dividend_usd"].to_list() == [3.0, 3.0, 1.0]


def test_close_moves_leave_actions_out_and_keep_the_order_of_the_bars() -> None:
    splits = pl.DataFrame({"session": [WED], "symbol": ["TSLA"], "split_ratio": [3.0]})
    traded = prices.unadjust_splits(_vendor_bars(), splits)[::-1]
    actions = actions_of((WED, "TSLA", 3.0, None), (TUE, "TSLA", None, 3.0))
    moves = prices.close_moves_pct(traded, actions).to_list()
    assert moves[0] is None
    assert moves[1] == pytest.approx(100 * (104 / 102 - 1), rel=1e-12)
    assert moves[2] == pytest.approx(100 * (306 / 297 - 1), rel=1e-12)
    assert moves[3] == pytest.approx(100 * (100 / 99 - 1), rel=1e-12)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_adjusted_returns_do_not_depend_on_the_session_they_are_adjusted_as_of(seed: int) -> None:
    market = made_market(seed, n_sessions=120)
    panel = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )
    adjusted = panel.adjusted()
    np.testing.assert_allclose(
        adjusted[1:] / adjusted[:-1] - 1.0, panel.returns()[1:], rtol=0, atol=1e-13
    )


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_unadjusting_what_a_vendor_adjusted_gives_the_traded_prices_back(seed: int) -> None:
    market = made_market(seed, n_sessions=60)
    traded = market.bars.with_columns(
        *(pl.col("close_usd").alias(name) for name in ("open_usd", "high_usd", "low_usd")),
        volume_shares=pl.lit(1000.0),
        previous_close_usd=pl.col("close_usd").shift(1).over("symbol", order_by="session"),
    )
    splits = market.actions.filter(pl.col("kind") == "split")
    rows = traded.join(splits.select("session", "symbol", "split_ratio"), on="symbol", how="left")
    later = rows.group_by("session", "symbol").agg(
        pl.col("split_ratio").filter(pl.col("session_right") > pl.col("session")).product()
    )
    names = ["open_usd", "high_usd", "low_usd", "close_usd"]
    vendor = traded.join(later, on=["session", "symbol"]).with_columns(
        pl.col(names) / pl.col("split_ratio"),
        pl.col("volume_shares") * pl.col("split_ratio"),
    )
    back = prices.unadjust_splits(vendor, splits).sort("session", "symbol")
    expected = traded.sort("session", "symbol")
    for name in [*names, "volume_shares"]:
        np.testing.assert_allclose(back[name], expected[name], rtol=1e-14)
