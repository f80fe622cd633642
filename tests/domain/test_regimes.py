"""Regimes: markets whose regime is plain, and the real ones everybody remembers."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from marketlake.contracts.catalog import contract
from marketlake.domain import regimes
from marketlake.errors import ContractViolation

from tests.domain.market import BENCHMARK, real_market, weekdays

N = regimes.SESSIONS_NEEDED


def _index(closes: np.ndarray) -> pl.DataFrame:
    return pl.DataFrame({"session": weekdays(date(2015, 1, 1), len(closes)), "close_usd": closes})


def _drift(rate: float, *, n: int = N) -> np.ndarray:
    rng = np.random.default_rng(2)
    return 1000 * np.exp(np.cumsum(rng.normal(rate, 0.001, n)))


@pytest.mark.parametrize(("rate", "regime"), [(0.001, "bull"), (-0.001, "bear")])
def test_a_steady_trend_is_named_for_its_direction(rate: float, regime: str) -> None:
    document = regimes.classify(_index(_drift(rate)))
    assert document["regime"] == regime
    assert {item["regime"] for item in document["history"]} == {regime}
    assert list(document) == [
        field.name for field in contract("out_risk_analysis__market_regime").fields
    ]


def test_a_close_above_a_falling_mean_is_sideways() -> None:
    closes = _drift(-0.001)
    closes[-3:] = closes[0]
    document = regimes.classify(_index(closes))
    assert document["evidence"]["distance_from_mean"] > 0 > document["evidence"]["slope_of_mean"]
    assert document["regime"] == "sideways"


@pytest.mark.parametrize(("scale", "state"), [(10.0, "stressed"), (0.1, "calm")])
def test_volatility_is_judged_against_its_own_past(scale: float, state: str) -> None:
    rng = np.random.default_rng(3)
    returns = rng.normal(0, 0.01, N)
    returns[-20:] *= scale
    document = regimes.classify(_index(1000 * np.cumprod(1 + returns)))
    assert document["volatility_state"] == state
    expected = returns[-20:].std(ddof=1) * np.sqrt(252) * 100
    assert document["evidence"]["volatility_annual_pct"] == pytest.approx(expected, rel=1e-9)


def test_the_evidence_is_the_mean_of_the_last_two_hundred_closes() -> None:
    closes = _drift(0.0005)
    evidence = regimes.classify(_index(closes))["evidence"]
    assert evidence["mean_usd"] == pytest.approx(closes[-200:].mean(), rel=1e-12)
    assert evidence["slope_of_mean"] == pytest.approx(
        closes[-200:].mean() / closes[-220:-20].mean() - 1, rel=1e-9
    )


def test_more_history_than_needed_changes_nothing() -> None:
    closes = _drift(0.0002, n=N + 200)
    index = _index(closes)
    assert regimes.classify(index) == regimes.classify(index.tail(N))


def test_the_history_of_a_session_is_what_was_said_at_the_time() -> None:
    index = _index(_drift(0.0, n=N + 30))
    today = regimes.classify(index)
    assert len(today["history"]) == regimes.HISTORY_SESSIONS
    for back in (1, 10, 30):
        then = regimes.classify(index.head(index.height - back))
        assert today["history"][-1 - back] == then["history"][-1]
        assert then["history"][-1]["regime"] == then["regime"]


@pytest.mark.parametrize(
    ("session", "regime", "volatility"),
    [
        (date(2022, 9, 30), "bear", "stressed"),
        (date(2017, 11, 30), "bull", "calm"),
        (date(2020, 3, 31), "bear", "stressed"),
        (date(2013, 12, 31), "bull", None),
    ],
)
def test_years_that_everybody_remembers_are_called_by_their_names(
    session: date, regime: str, volatility: str | None
) -> None:
    # The real index has a close at every session.
    index = real_market().bars.filter(pl.col("symbol") == BENCHMARK, pl.col("session") <= session)
    document = regimes.classify(index)
    assert document["session"] == session.isoformat()
    assert document["regime"] == regime
    assert volatility in {None, document["volatility_state"]}


def test_a_gap_is_neither_bridged_nor_filled() -> None:
    closes = _drift(0.0)
    jump = closes.copy()
    jump[-10:] *= 2.0  # the index doubles over a session without a close
    jump[-11] = np.nan
    gap = closes.copy()
    gap[-11] = np.nan
    doubled, plain = (regimes.classify(_index(values))["evidence"] for values in (jump, gap))
    assert doubled["volatility_annual_pct"] == pytest.approx(plain["volatility_annual_pct"])
    # 18 of the 20 returns are there, and 199 of the 200 closes.
    kept = np.delete(gap[-21:][1:] / gap[-21:][:-1] - 1, [9, 10])
    expected = kept.std(ddof=1) * np.sqrt(252) * 100
    assert plain["volatility_annual_pct"] == pytest.approx(expected, rel=1e-9)
    assert plain["mean_usd"] == pytest.approx(np.nanmean(gap[-200:]), rel=1e-12)


def test_a_past_session_without_a_close_is_left_out_of_the_history() -> None:
    closes = _drift(0.0005)
    closes[-5] = np.nan
    index = _index(closes)
    said = [item["session"] for item in regimes.classify(index)["history"]]
    assert len(said) == regimes.HISTORY_SESSIONS - 1
    assert index["session"][-5].isoformat() not in said
    assert said[-1] == index["session"][-1].isoformat()


def test_the_session_itself_is_never_answered_by_an_earlier_one() -> None:
    index = _index(_drift(0.0005))
    last = index["session"][-1]
    without = index.with_columns(
        pl.when(pl.col("session") < last).then("close_usd").alias("close_usd")
    )
    with pytest.raises(ContractViolation, match=f"close of the benchmark at {last}"):
        regimes.classify(without)


@pytest.mark.parametrize(("missing", "refused"), [(2, False), (3, True)])
def test_a_statistic_needs_four_fifths_of_its_window(missing: int, refused: bool) -> None:
    closes = _drift(0.0)
    closes[[-3, -6, -9][:missing]] = np.nan  # each takes two of the last twenty returns
    if refused:
        with pytest.raises(ContractViolation, match="80%"):
            regimes.classify(_index(closes))
    else:
        assert regimes.classify(_index(closes))["regime"] in {"bull", "bear", "sideways"}


@pytest.mark.parametrize("fault", ["short", "zero", "order"])
def test_a_history_with_a_fault_is_refused_not_guessed(fault: str) -> None:
    index = _index(_drift(0.0))
    broken = {
        "short": index.tail(N - 1),
        "zero": index.with_columns(
            pl.when(pl.int_range(pl.len()) == 40)
            .then(0.0)
            .otherwise("close_usd")
            .alias("close_usd")
        ),
        "order": index[::-1],
    }[fault]
    with pytest.raises(ContractViolation, match=r"regimes\.classify"):
        regimes.classify(broken)
