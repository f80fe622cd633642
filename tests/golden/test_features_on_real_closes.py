"""Every feature on the real closes against other people's code: pandas, scipy, statsmodels."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import lru_cache

import numpy as np
import pandas as pd
import polars as pl
import pytest
from marketlake.contracts.features import FEATURES
from marketlake.domain import features
from scipy.stats import rankdata, skew
from statsmodels.api import OLS, add_constant

from tests.domain.market import BENCHMARK, actions_of, bars_of, real_closes, real_market

FIRST = date(2010, 1, 4)


@lru_cache(maxsize=1)
def _computed() -> pl.DataFrame:
    market = real_market()
    return features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=FIRST,
    )


def _wide(name: str) -> pd.DataFrame:
    rows = _computed().select("session", "symbol", name)
    long = pd.DataFrame(rows.to_dict(as_series=False)).astype({"session": "datetime64[us]"})
    return long.pivot_table(index="session", columns="symbol", values=name)


def _returns(P: pd.DataFrame) -> pd.DataFrame:
    return P.pct_change(fill_method=None)


def _rsi(P: pd.DataFrame) -> pd.DataFrame:
    r = _returns(P)
    gain, loss = r.clip(lower=0).rolling(14).mean(), (-r).clip(lower=0).rolling(14).mean()
    return 100 - 100 / (1 + gain / loss)


def _residual(P: pd.DataFrame) -> pd.DataFrame:
    market = P[BENCHMARK].pct_change(20)
    return P.pct_change(20) - _beta(P).mul(market, axis=0)


def _beta(P: pd.DataFrame) -> pd.DataFrame:
    r = _returns(P)
    m = r[BENCHMARK]
    return pd.DataFrame({name: r[name].rolling(60).cov(m) / m.rolling(60).var() for name in r})


def _rank(P: pd.DataFrame) -> pd.DataFrame:
    past = P.drop(columns=BENCHMARK).pct_change(20)
    ranks = rankdata(past.to_numpy(), axis=1)
    return pd.DataFrame((ranks - 1) / (past.shape[1] - 1), past.index, past.columns)


PANDAS: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    **{f"return_{n}d": (lambda P, n=n: P.pct_change(n)) for n in (1, 5, 10, 20, 60)},
    "momentum_120d": lambda P: P.pct_change(120),
    "momentum_252d_skip_21d": lambda P: P.shift(21) / P.shift(252) - 1,
    **{f"volatility_{n}d": (lambda P, n=n: _returns(P).rolling(n).std()) for n in (10, 20, 60)},
    "volatility_ratio_10d_60d": lambda P: (
        _returns(P).rolling(10).std() / _returns(P).rolling(60).std()
    ),
    "downside_volatility_20d": lambda P: np.sqrt(
        (_returns(P).clip(upper=0) ** 2).rolling(20).mean()
    ),
    **{f"sma_distance_{n}d": (lambda P, n=n: P / P.rolling(n).mean() - 1) for n in (20, 50, 200)},
    "zscore_20d": lambda P: (P - P.rolling(20).mean()) / P.rolling(20).std(),
    "rsi_14d": _rsi,
    "drawdown_252d": lambda P: P / P.rolling(252).max() - 1,
    "beta_60d": _beta,
    "residual_return_20d": _residual,
    "skewness_60d": lambda P: _returns(P).rolling(60).skew() * 58 / np.sqrt(60 * 59),
    "rank_return_20d": _rank,
}


def test_every_feature_has_a_reference() -> None:
    assert set(PANDAS) == {item.name for item in FEATURES}


@pytest.mark.parametrize("name", PANDAS)
def test_a_feature_of_the_real_closes_is_that_of_pandas(name: str) -> None:
    computed = _wide(name)
    reference = PANDAS[name](real_closes()).loc[str(FIRST) :, computed.columns]
    assert computed.shape == (3270, 20)
    assert not computed.isna().any().any()
    # pandas keeps running sums, so its moments carry a little of the past's rounding.
    np.testing.assert_allclose(computed, reference, rtol=1e-6, atol=2e-8)


@pytest.mark.parametrize("session", ["2010-01-04", "2015-08-24", "2020-03-16", "2022-12-28"])
def test_beta_and_skewness_are_those_of_statsmodels_and_scipy(session: str) -> None:
    r = _returns(real_closes()).loc[:session].tail(60)
    for symbol in ("AAPL", "XOM", "JPM"):
        slope = OLS(r[symbol].to_numpy(), add_constant(r[BENCHMARK].to_numpy())).fit().params[1]
        assert _wide("beta_60d").loc[session, symbol] == pytest.approx(slope, rel=1e-9)
        skewness = _wide("skewness_60d").loc[session, symbol]
        assert skewness == pytest.approx(skew(r[symbol]), rel=1e-9)


def test_prices_as_they_traded_give_the_same_features_as_the_adjusted_closes() -> None:
    """Split and dividend history is put on the real closes, and must come off again."""
    closes = real_closes().tail(400)
    sessions = [stamp.date() for stamp in closes.index]
    traded = closes.copy()
    traded.iloc[:350, closes.columns.get_loc("AAPL")] *= 4.0
    # A dividend of 1 % of the close before, when the closes before it had been lowered by it.
    traded.iloc[:300, closes.columns.get_loc("KO")] /= 0.99
    dividend = 0.01 * float(traded["KO"].iloc[299])
    actions = actions_of((sessions[350], "AAPL", 4.0, None), (sessions[300], "KO", None, dividend))
    computed = features.compute_features(
        bars_of(traded.to_numpy(), sessions=sessions, symbols=list(closes.columns)),
        actions,
        sessions=sessions,
        symbols=real_market().symbols,
        benchmark=BENCHMARK,
        first_output=sessions[260],
    )
    expected = _computed().filter(pl.col("session") >= sessions[260])
    assert computed.select("session", "symbol").equals(expected.select("session", "symbol"))
    names = [item.name for item in FEATURES]
    np.testing.assert_allclose(
        computed.select(names).to_numpy(), expected.select(names).to_numpy(), rtol=0, atol=1e-11
    )
