"""The ensemble's full report on real prices, with its null panel, and what folds cost.

Two markets: the packaged 20 stocks, of which only closes are real, and 60 of the S&P 500 whose
whole bars are (Yahoo, 2012 to 2017), with the S&P 500 itself as benchmark.
"""

from __future__ import annotations

import resource
import time
import zipfile
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from marketlake.domain import features, forecasting, regimes
from marketlake.domain.forecasting import gate
from marketlake.domain.forecasting.classifiers import Samples, classifier, lightgbm_by_fold
from marketlake.domain.forecasting.fitted import FitWindow

from tests.acceptance import figures
from tests.domain.market import (
    BENCHMARK,
    NO_ACTIONS,
    Market,
    real_market,
    weekdays,
    with_closes_alone,
)

AS_OF, FROM, HORIZON, COST_BPS = date(2022, 11, 30), date(2011, 1, 3), 5, 5.0
FOLD_COST = 0.7
"""At most this share of what independent folds cost."""
TRAINING_S, TRAINING_MB = 15 * 60, 8 * 1024
_QUANTITIES = ("open", "high", "low", "close", "adj close", "volume")


def packaged() -> Market:
    """Return the packaged closes, laid on every other quantity."""
    market = real_market().until(AS_OF)
    return replace(market, bars=with_closes_alone(market.bars))


def sp500(data: Path) -> Market:
    """Return real bars on the basis of the adjusted close, without actions."""
    with zipfile.ZipFile(next((data / "intermarket_yahoo_etf_1993_2025").glob("*.zip"))) as archive:
        index = pl.read_csv(archive.read("SPX.csv"), try_parse_dates=True)
    stocks = pl.read_parquet(data / "us_daily_sp500_4vendor_dev" / "yahoo.parquet").select(
        pl.col("date").alias("session"), pl.col("symbol").cast(pl.String), *_QUANTITIES
    )
    index = index.select(
        pl.col("Date").cast(pl.Date).alias("session"),
        pl.lit(BENCHMARK).alias("symbol"),
        *(pl.col(name.title()).cast(stocks.schema[name]).alias(name) for name in _QUANTITIES),
    ).filter(pl.col("session").is_between(stocks["session"].min(), stocks["session"].max()))
    basis = pl.col("adj close") / pl.col("close")
    bars = pl.concat([stocks, index]).select(
        "session",
        "symbol",
        *((pl.col(name) * basis).alias(f"{name}_usd") for name in ("open", "high", "low", "close")),
        (pl.col("volume") / basis).alias("volume_shares"),
        pl.lit([], dtype=pl.List(pl.String)).alias("simulated_fields"),
    )
    days = index["session"].sort().to_list()
    symbols = stocks["symbol"].unique().sort().to_list()
    known = bars.filter(pl.col("session").is_in(days)).sort("session", "symbol")
    return Market(tuple(days), tuple(symbols), known, NO_ACTIONS)


def inputs(market: Market, *, first: date, is_made: bool) -> forecasting.Inputs:
    """Return features, factors and labels; ``is_made`` where closes alone are real."""
    given = {
        "bars": market.bars,
        "actions": market.actions,
        "sessions": market.sessions,
        "symbols": market.symbols,
    }
    made = features.compute_features(**given, benchmark=BENCHMARK, first_output=first)
    members = made.select("session", "symbol")
    factors = features.compute_factors(**given, first_output=first, members=members)
    return forecasting.Inputs(
        made,
        factors.with_columns(simulated=pl.lit(is_made)),
        forecasting.labels(**given, horizon=HORIZON),
    )


def train(
    market: Market, profile: str, *, first: date = FROM, is_made: bool = True, **more: Any
) -> forecasting.Training:
    """Train as the platform does, on real prices."""
    given = {"sessions": market.sessions, "symbols": market.symbols}
    closes = market.bars.filter(pl.col("symbol") == BENCHMARK).sort("session")

    def walked(rng: np.random.Generator) -> forecasting.Inputs:
        bars = forecasting.walked_bars(
            market.bars, market.actions, sessions=market.sessions, rng=rng
        )
        other = replace(market, bars=bars, actions=market.actions.head(0))
        return inputs(other, first=first, is_made=is_made)

    return forecasting.train(
        inputs(market, first=first, is_made=is_made),
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


def measure(profile: str, data: Path) -> dict[str, Any]:
    """Train and report on each market."""
    found: dict[str, Any] = {"profile": profile, "horizon_sessions": HORIZON}
    stocks = sp500(data)
    for name, market, first, is_made in (
        ("packaged", packaged(), FROM, True),
        ("sp500", stocks, stocks.sessions[252], False),
    ):
        figures.say(f"{name}: {len(market.symbols)} stocks")
        began, cpu = time.perf_counter(), time.process_time()
        training = train(market, profile, first=first, is_made=is_made, progress=figures.say)
        document = training.document
        found[name] = {
            "wall_s": time.perf_counter() - began,
            "cpu_s": time.process_time() - cpu,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "fit_window": document["fit_window"],
            "features": len(document["features"]),
            "models": document["models"],
            "report": document["report"],
            "gate": document["gate"],
            "hit_rates": document["validation"],
        }
    return found | {"fold_cost": fold_cost()}


def missed(found: dict[str, Any]) -> list[str]:
    """Return what must hold and does not: clean null panels, shared bins, time and memory."""
    wrong = ["folds cost too much"] if found["fold_cost"]["ratio"] > FOLD_COST else []
    for name in ("packaged", "sp500"):
        one = found[name]
        if not one["report"]["null_panel"]["clean"]:
            wrong.append(f"{name}: the null panel is not clean")
    one = found["packaged"]
    if one["wall_s"] > TRAINING_S or one["peak_rss_mb"] > TRAINING_MB:
        wrong.append(f"training took {one['wall_s']:.0f} s and {one['peak_rss_mb']:.0f} MB")
    return wrong


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    for market in ("packaged", "sp500"):
        one = found[market]
        window, report = one["fit_window"], one["report"]
        figures.table(
            f"{market}: {window['first_session']} to {window['last_label_end']}, "
            f"{one['features']} features, {one['wall_s']:.0f} s",
            ("model", "accuracy", "MCC", "95 %", "rank IC", "95 %", "calibration error"),
            [
                (
                    name,
                    f"{own['accuracy']['value']:.4f}",
                    f"{own['mcc']['value']:+.4f}",
                    f"{own['mcc']['low']:+.4f} .. {own['mcc']['high']:+.4f}",
                    f"{own['rank_ic']['value']:+.4f}",
                    f"{own['rank_ic']['low']:+.4f} .. {own['rank_ic']['high']:+.4f}",
                    f"{own['calibration_error']:.4f}",
                )
                for name, own in report["models"].items()
            ],
        )
        figures.say(gate.in_words(one["gate"]))
        for name in ("portfolio", "deflated_sharpe", "backtest_overfitting", "null_panel"):
            figures.say(f"{name}: {report[name]}")
    figures.say(f"fold_cost: {found['fold_cost']}")
