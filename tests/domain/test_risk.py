"""Risk: tiny books by hand, invariants on made markets, VaR and CVaR as in skfolio."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from marketlake.contracts.catalog import contract
from marketlake.domain import risk
from marketlake.errors import ContractViolation

from tests.domain.market import (
    BENCHMARK,
    NO_ACTIONS,
    Market,
    bars_of,
    made_market,
    real_closes,
    weekdays,
)

returns_of = arrays(np.float64, st.integers(1, 400), elements=st.floats(-0.5, 0.5))


def _measure(market: Market, length: int = 101, **changes: object) -> pl.DataFrame:
    session = market.sessions[-1]
    arguments: dict[str, object] = {
        "session": session,
        "sessions": market.window(session, length),
        "benchmark": BENCHMARK,
        "volatility_window": 60,
        "book_value_usd": 1_000_000.0,
    }
    return risk.book_risk(
        market.bars,
        market.actions,
        market.members,
        **{**arguments, **changes},  # type: ignore[arg-type]
    )


def _value(rows: pl.DataFrame, measure: str, name: str = "reference_book") -> float:
    found = rows.filter(pl.col("name") == name, pl.col("measure") == measure)["value"]
    return float(found.item())


# ------------------------------------------------------------------------ value at risk and friends


def test_value_at_risk_is_the_kth_worst_return_that_was_seen() -> None:
    returns = np.arange(-10, 90) / 1000  # 100 returns, the worst -1 %, then -0.9 %, ...
    assert risk.value_at_risk(returns, tail_pct=5) == 0.006
    assert risk.value_at_risk(returns[:-1], tail_pct=5) == 0.006  # 4.95 rounds up to the 5th
    assert risk.value_at_risk(returns, tail_pct=1) == 0.010


def test_conditional_value_at_risk_is_the_mean_of_the_tail_the_last_return_by_its_fraction() -> (
    None
):
    returns = np.arange(-10, 90) / 1000
    assert risk.conditional_value_at_risk(returns, tail_pct=5) == pytest.approx(0.008, rel=1e-12)
    short = returns[:50]  # 5 % of 50 is 2.5: two whole returns and half of the third
    expected = (0.010 + 0.009 + 0.5 * 0.008) / 2.5
    assert risk.conditional_value_at_risk(short, tail_pct=5) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("n", "tail", "var", "cvar"),
    [
        (61, 5, 0.014978121844496761, 0.01767069907423354),
        (61, 1, 0.021509090909090922, 0.021509090909090922),
        (333, 5, 0.018098569407325904, 0.02744892541633322),
        (333, 1, 0.03157752514041956, 0.04569204328154498),
        (499, 5, 0.017321016166281678, 0.025281163573237227),
        (499, 1, 0.03157752514041956, 0.04104216828325195),
    ],
)
def test_value_at_risk_and_cvar_of_coca_cola_are_those_of_skfolio(
    n: int, tail: int, var: float, cvar: float
) -> None:
    # From skfolio 1.12.2, measures.value_at_risk and measures.cvar, on the last n returns of its
    # own KO closes. (Importing skfolio here would take ten seconds.)
    returns = real_closes()["KO"].pct_change().dropna().to_numpy()[-n:]
    assert risk.value_at_risk(returns, tail_pct=tail) == pytest.approx(var, rel=1e-12)
    assert risk.conditional_value_at_risk(returns, tail_pct=tail) == pytest.approx(cvar, rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(returns=returns_of, tail=st.sampled_from([1, 5, 10]))
def test_cvar_is_never_below_var_and_neither_is_beyond_the_worst_return(
    returns: np.ndarray, tail: int
) -> None:
    var = risk.value_at_risk(returns, tail_pct=tail)
    cvar = risk.conditional_value_at_risk(returns, tail_pct=tail)
    slack = 1e-12
    assert var <= cvar + slack
    assert cvar <= -returns.min() + slack
    # At least tail % of the returns are as bad or worse, fewer than that are worse.
    assert 100 * (returns <= -var).sum() >= tail * len(returns)
    assert 100 * (returns < -var).sum() < tail * len(returns)


@settings(max_examples=100, deadline=None)
@given(returns=returns_of)
def test_a_further_tail_loses_more_and_a_drawdown_is_a_fraction(returns: np.ndarray) -> None:
    for measure in (risk.value_at_risk, risk.conditional_value_at_risk):
        assert measure(returns, tail_pct=1) >= measure(returns, tail_pct=5) - 1e-12
    assert 0 <= risk.max_drawdown(returns) <= 1


def test_a_drawdown_counts_from_the_start_and_from_later_highs() -> None:
    assert risk.max_drawdown(np.array([-0.1, 0.5, -0.2])) == pytest.approx(0.2, rel=1e-12)
    assert risk.max_drawdown(np.array([-0.3, 0.5])) == pytest.approx(0.3, rel=1e-12)
    assert risk.max_drawdown(np.array([0.1, 0.2])) == 0.0


def test_no_returns_have_no_value_at_risk() -> None:
    nothing = np.empty(0)
    assert np.isnan(risk.value_at_risk(nothing, tail_pct=5))
    assert np.isnan(risk.conditional_value_at_risk(nothing, tail_pct=5))


# ----------------------------------------------------------------------------------------- the book


def _two_stocks() -> Market:
    """One stock that is the market, one that does twice its returns."""
    rng = np.random.default_rng(4)
    market = rng.normal(0, 0.01, 101)
    market[0] = 0.0
    closes = np.cumprod(1 + np.column_stack([market, 2 * market, market]), axis=0)
    sessions = weekdays(date(2020, 1, 1), 101)
    bars = bars_of(closes, sessions=sessions, symbols=["A", "B", BENCHMARK])
    return Market(tuple(sessions), ("A", "B"), bars, NO_ACTIONS)


def test_a_book_of_the_market_and_its_double_has_beta_one_and_a_half() -> None:
    rows = _measure(_two_stocks())
    assert _value(rows, "beta") == pytest.approx(1.5, rel=1e-9)
    assert _value(rows, "beta", "B") == pytest.approx(2.0, rel=1e-9)
    assert _value(rows, "contribution_to_volatility_pct", "A") == pytest.approx(100 / 3, rel=1e-9)
    assert _value(rows, "contribution_to_volatility_pct", "B") == pytest.approx(200 / 3, rel=1e-9)
    assert _value(rows, "concentration_hhi") == 0.5
    assert _value(rows, "gross_pct") == _value(rows, "net_pct") == 100.0
    volatilities = [_value(rows, "volatility_annual_pct", name) for name in ("A", "B")]
    book = _value(rows, "volatility_annual_pct")
    assert book == pytest.approx(sum(volatilities) / 2, rel=1e-9)


def test_value_at_risk_in_usd_is_the_percentage_of_the_book() -> None:
    rows = _measure(_two_stocks(), book_value_usd=2e6)
    assert _value(rows, "var_95_usd") == pytest.approx(2e4 * _value(rows, "var_95_pct"), rel=1e-12)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_weights_and_contributions_add_up_to_the_whole(seed: int) -> None:
    market = made_market(seed, n_sessions=200)
    rows = _measure(market)
    for scope, measure in (
        ("sector", "weight_pct"),
        ("symbol", "weight_pct"),
        ("symbol", "contribution_to_volatility_pct"),
    ):
        part = rows.filter(pl.col("scope") == scope, pl.col("measure") == measure)
        assert part["value"].sum() == pytest.approx(100.0, rel=1e-9), (scope, measure)
    assert rows["value"].is_finite().all()
    assert rows.columns == [f.name for f in contract("out_risk_analysis__portfolio_risk").fields]
    assert rows.select("session", "scope", "name", "measure").is_duplicated().sum() == 0
    assert _value(rows, "var_95_pct") <= _value(rows, "cvar_95_pct")


def test_the_book_return_is_the_mean_over_the_members_that_have_one() -> None:
    nan = np.nan
    closes = np.array([[100.0, 10.0], [110.0, 10.0], [nan, 11.0], [nan, nan], [1.0, 2.0]])
    sessions = weekdays(date(2020, 1, 1), 5)
    got = risk.book_returns(
        bars_of(closes, sessions=sessions, symbols=["A", "B"]),
        NO_ACTIONS,
        pl.DataFrame({"symbol": ["A", "B"]}),
        sessions=sessions,
    )
    assert got["session"].to_list() == sessions[1:3]
    assert got["book_return"].to_list() == pytest.approx([0.05, 0.1], rel=1e-12)


def test_the_book_that_is_drawn_is_the_book_that_is_measured() -> None:
    market = _two_stocks()
    last = market.sessions[-1]
    without = replace(
        market, bars=market.bars.filter(~((pl.col("symbol") == "B") & (pl.col("session") == last)))
    )
    returns = risk.book_returns(
        without.bars, without.actions, without.members, sessions=without.sessions
    )["book_return"].to_numpy()
    rows = _measure(without)
    assert _value(rows, "var_95_pct") == 100 * risk.value_at_risk(returns, tail_pct=5)
    only = _measure(replace(market, symbols=("A",)))
    assert _value(rows, "volatility_annual_pct") == _value(only, "volatility_annual_pct")


@pytest.mark.parametrize("session_has", ["no bar", "no close"])
def test_a_book_that_holds_nothing_is_refused_however_it_is_asked(session_has: str) -> None:
    market = _two_stocks()
    own = (pl.col("session") == market.sessions[-1]) & (pl.col("symbol") != BENCHMARK)
    bars = (
        market.bars.filter(~own)
        if session_has == "no bar"
        else market.bars.with_columns(pl.when(~own).then("close_usd").alias("close_usd"))
    )
    with pytest.raises(ContractViolation, match="price"):
        risk.book_returns(bars, market.actions, market.members, sessions=market.sessions)
    with pytest.raises(ContractViolation, match="price"):
        _measure(replace(market, bars=bars))


def test_a_member_without_a_price_today_is_not_in_the_book() -> None:
    market = _two_stocks()
    last = market.sessions[-1]
    without = replace(
        market, bars=market.bars.filter(~((pl.col("symbol") == "B") & (pl.col("session") == last)))
    )
    rows = _measure(without)
    assert _value(rows, "weight_pct", "A") == 100.0
    assert "B" not in rows["name"].to_list()


def test_a_measure_without_four_fifths_of_its_returns_has_no_row() -> None:
    market = _two_stocks()
    late = market.sessions[40]
    short = replace(
        market, bars=market.bars.filter((pl.col("symbol") != "B") | (pl.col("session") >= late))
    )
    rows = _measure(short)
    measures = set(rows.filter(pl.col("name") == "B")["measure"])
    assert "beta" not in measures
    assert "volatility_annual_pct" in measures, "60 returns are there"


def test_simulated_marks_what_was_made_from_simulated_closes() -> None:
    market = _two_stocks()
    marked = replace(
        market,
        bars=market.bars.with_columns(
            pl.when(pl.col("symbol") == "A")
            .then(pl.lit(["adjusted_close"]))
            .otherwise("simulated_fields")
            .alias("simulated_fields")
        ),
    )
    rows = _measure(marked)
    assert rows.filter(pl.col("name") == "A")["simulated"].all()
    assert not rows.filter(pl.col("name") == "B")["simulated"].any()
    assert rows.filter(pl.col("scope") == "book")["simulated"].all()
    index = replace(
        market,
        bars=market.bars.with_columns(
            pl.when(pl.col("symbol") == BENCHMARK)
            .then(pl.lit(["benchmark_close"]))
            .otherwise("simulated_fields")
            .alias("simulated_fields")
        ),
    )
    marked_rows = _measure(index).filter(pl.col("simulated"))
    assert set(marked_rows["measure"]) == {"beta"}


def test_a_window_that_does_not_end_with_the_session_is_refused() -> None:
    market = _two_stocks()
    with pytest.raises(ContractViolation, match="window"):
        _measure(market, sessions=market.sessions[:-1])


def test_a_book_without_a_price_is_refused() -> None:
    market = _two_stocks()
    with pytest.raises(ContractViolation, match="price"):
        _measure(replace(market, bars=market.bars.filter(pl.col("symbol") == BENCHMARK)))
