"""The ensemble's full report on the packaged 20 stocks' real closes, with its null panel."""

from __future__ import annotations

import resource
import time
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from marketlake.domain import features, forecasting, regimes
from marketlake.domain.forecasting import gate
from marketlake.domain.forecasting.classifiers import Samples, classifier, lightgbm_by_fold
from marketlake.domain.forecasting.fitted import FitWindow

from tests.acceptance import figures
from tests.domain.market import BENCHMARK, Market, real_market, weekdays, with_closes_alone

AS_OF, FROM, HORIZON, COST_BPS = date(2022, 11, 30), date(2011, 1, 3), 5, 5.0
FOLD_COST = 0.7
"""At most this share of what independent folds cost."""


def inputs(market: Market, *, first: date = FROM) -> forecasting.Inputs:
    """Return features, factors and labels of a market whose closes alone are real."""
    given = {
        "bars": with_closes_alone(market.bars),
        "actions": market.actions,
        "sessions": market.sessions,
        "symbols": market.symbols,
    }
    made = features.compute_features(**given, benchmark=BENCHMARK, first_output=first)
    members = made.select("session", "symbol")
    factors = features.compute_factors(**given, first_output=first, members=members)
    return forecasting.Inputs(
        made,
        factors.with_columns(simulated=pl.lit(True)),
        forecasting.labels(**given, horizon=HORIZON),
    )


def train(market: Market, profile: str, *, first: date = FROM, **more: Any) -> forecasting.Training:
    """Train as the platform does, on real closes."""
    given = {"sessions": market.sessions, "symbols": market.symbols}
    closes = market.bars.filter(pl.col("symbol") == BENCHMARK).sort("session")

    def walked(rng: np.random.Generator) -> forecasting.Inputs:
        bars = forecasting.walked_bars(
            market.bars, market.actions, sessions=market.sessions, rng=rng
        )
        return inputs(replace(market, bars=bars, actions=market.actions.head(0)), first=first)

    return forecasting.train(
        inputs(market, first=first),
        next_returns=forecasting.next_returns(market.bars, market.actions, **given),
        as_of=market.sessions[-1],
        sessions=market.sessions,
        horizon=HORIZON,
        profile=forecasting.PROFILES[profile],
        seed=7,
        cost_bps=COST_BPS,
        regimes=regimes.by_session(closes.select("session", "close_usd")),
        walked=walked,
        **more,
    )


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


def measure(profile: str = "full") -> dict[str, Any]:
    """Train and report."""
    began, cpu = time.perf_counter(), time.process_time()
    training = train(real_market().until(AS_OF), profile, progress=figures.say)
    return {
        "wall_s": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "profile": profile,
        "first_session": str(FROM),
        "as_of": str(AS_OF),
        "horizon_sessions": HORIZON,
        "features": len(training.document["features"]),
        "report": training.document["report"],
        "gate": gate.judge(training.document["report"]),
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
    figures.say(gate.in_words(found["gate"]))
    for name in ("portfolio", "deflated_sharpe", "backtest_overfitting", "null_panel"):
        figures.say(f"{name}: {report[name]}")
    figures.say(f"fold_cost: {found['fold_cost']}")
