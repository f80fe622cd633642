"""The ensemble's full report on the packaged 20 stocks' real closes, with its null panel."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from marketlake.contracts.features import FEATURES
from marketlake.domain import features, forecasting, prices
from marketlake.domain.forecasting import nulls
from marketlake.domain.forecasting.assessment import (
    FULL,
    QUICK,
    Panel,
    Profile,
    panel_of,
    train_ensemble,
)
from marketlake.domain.forecasting.classifiers import Samples, classifier, lightgbm_by_fold
from marketlake.domain.forecasting.fitted import FitWindow

from tests.acceptance import figures
from tests.domain.market import BENCHMARK, Market, bars_of, real_closes, real_market, weekdays

AS_OF, FROM, HORIZON, COST_BPS = date(2022, 11, 30), date(2018, 1, 2), 5, 5.0
FOLD_COST = 0.7
"""At most this share of what independent folds cost."""
PROFILES = {"quick": QUICK, "full": FULL}
NAMES = [item.name for item in FEATURES]


def panel(market: Market, profile: Profile) -> Panel:
    """Return features and labels of a market from ``FROM`` on."""
    made = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=FROM,
    )
    return panel_of(
        made,
        labels(market, HORIZON),
        names=NAMES,
        sessions=market.sessions,
        as_of=AS_OF,
        profile=profile,
    )


def labels(market: Market, horizon: int) -> pl.DataFrame:
    """Return the labels of a market."""
    return forecasting.labels(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        horizon=horizon,
    )


def next_returns(market: Market) -> pl.DataFrame:
    """Return what each symbol earned on the session after."""
    earned = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    ).returns()
    after = np.vstack([earned[1:], np.full((1, earned.shape[1]), np.nan)])
    return (
        pl.DataFrame(after, schema=list(market.symbols))
        .with_columns(session=pl.Series(market.sessions))
        .unpivot(index="session", variable_name="symbol", value_name="next_return")
        .with_columns(pl.col("next_return").fill_nan(None))
    )


def walked(market: Market, profile: Profile, rng: np.random.Generator) -> Panel:
    """Return the panel of the same stocks with prices that walk at random."""
    columns = [*market.symbols, BENCHMARK]
    closes = real_closes()[columns].iloc[: len(market.sessions)].to_numpy(dtype=float)
    bars = bars_of(nulls.random_walk(closes, rng=rng), sessions=market.sessions, symbols=columns)
    return panel(replace(market, bars=bars), profile)


def fold_cost(*, rows: int = 120_000, columns: int = 158, folds: int = 6) -> dict[str, Any]:
    """Return CPU seconds of LightGBM over an expanding walk-forward, alone and with shared bins.

    CPU, not wall: both run on one thread, and the machine may be shared. Features are random: the
    cost of binning and of trees hardly depends on what is in them.
    """
    rng = np.random.default_rng(1)
    X = rng.normal(size=(rows, columns))
    y = (X[:, 0] + 3 * rng.normal(size=rows) > 0).astype(np.int64)
    samples, item = Samples(X, np.zeros((rows, 1, 1))), classifier("lightgbm")
    ends = np.linspace(0, rows, folds + 2).astype(int)[1:-1]
    trains = [np.arange(end) for end in ends]
    days = weekdays(date(2020, 1, 1), folds + 1)
    windows = [FitWindow.of(days[:1], [day]) for day in days[1:]]
    times: dict[str, list[float]] = {"alone": [], "shared_bins": []}
    for _ in range(3):
        began = time.process_time()
        for at, window in zip(trains, windows, strict=True):
            item.train(samples.rows(at), y[at], seed=1, window=window)
        times["alone"].append(time.process_time() - began)
        began = time.process_time()
        lightgbm_by_fold(item, samples, y, trains=trains, windows=windows, seed=1)
        times["shared_bins"].append(time.process_time() - began)
    alone, shared = (float(np.median(one)) for one in times.values())
    return {
        "rows": rows,
        "columns": columns,
        "folds": folds,
        "rounds": item.parameters["rounds"],
        "alone_cpu_s": alone,
        "shared_bins_cpu_s": shared,
        "ratio": shared / alone,
    }


def measure(profile_name: str = "quick") -> dict[str, Any]:
    """Train and report."""
    profile, market = PROFILES[profile_name], real_market().until(AS_OF)
    began, cpu = time.perf_counter(), time.process_time()
    trained = train_ensemble(
        panel(market, profile),
        profile=profile,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=next_returns(market),
        cost_bps=COST_BPS,
        earlier_trials=2,
        recompute=lambda rng: walked(market, profile, rng),
        progress=figures.say,
    )
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "first_session": str(FROM),
        "as_of": str(AS_OF),
        "horizon_sessions": HORIZON,
        "report": trained.report,
        "fold_cost": fold_cost(),
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Return what must hold and does not: a clean null panel, and folds that share their bins."""
    wrong = [] if found["report"]["null_panel"]["clean"] else ["the null panel is not clean"]
    return [*wrong, *(["folds cost too much"] if found["fold_cost"]["ratio"] > FOLD_COST else [])]


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    report = found["report"]
    figures.table(
        f"Walk-forward {found['first_session']} to {found['as_of']}",
        ("model", "accuracy", "MCC", "95 %", "rank IC", "95 %", "calibration error"),
        [
            (
                name,
                f"{one['accuracy']['value']:.4f}",
                f"{one['mcc']['value']:+.4f}",
                f"{one['mcc']['low']:+.4f} .. {one['mcc']['high']:+.4f}",
                f"{one['rank_ic']['value']:+.4f}",
                f"{one['rank_ic']['low']:+.4f} .. {one['rank_ic']['high']:+.4f}",
                f"{one['calibration_error']:.4f}",
            )
            for name, one in report["models"].items()
        ],
    )
    for name in ("portfolio", "deflated_sharpe", "backtest_overfitting", "null_panel"):
        figures.say(f"{name}: {report[name]}")
    figures.say(f"fold_cost: {found['fold_cost']}")
