"""Recompute one session from its files with plain pandas, and compare: an auditor's second opinion.

Nothing here is shared with the platform's code. ``DIR`` holds ``bars.parquet`` and
``actions.parquet`` (as-traded bars, the benchmark's among them, and corporate actions, of at least
the sessions that features and risk look back on), ``members.parquet`` (symbol, sector),
``features.parquet``, ``signals.parquet`` and ``portfolio_risk.parquet`` of the session, and
``model.json``.

Exit code 0: every number is equal to 1e-9 (relative above 1, absolute below); 1: some are not, and
they are listed; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pandas as pd

TOLERANCE = 1e-9


class Comparison:
    """Counts what was compared and keeps what differs."""

    def __init__(self) -> None:
        self.compared = 0
        self.differences: list[str] = []

    def check(self, what: str, published: float | None, recomputed: float | None) -> None:
        """Compare one number; a missing one equals only a missing one."""
        self.compared += 1
        missing = [value is None or math.isnan(value) for value in (published, recomputed)]
        if all(missing):
            return
        if any(missing) or abs(published - recomputed) > TOLERANCE * max(1.0, abs(recomputed)):
            self.differences.append(f"{what}: published {published!r}, recomputed {recomputed!r}")


def adjusted_closes(bars: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
    """Return closes adjusted for the actions up to the last session, one column a symbol."""
    closes = bars.pivot_table(index="session", columns="symbol", values="close_usd").sort_index()
    adjusted = closes.copy()
    known = actions[(actions["session"] <= closes.index[-1])]
    for (ex_date, symbol), group in known.groupby(["session", "symbol"]):
        if symbol not in closes:
            continue
        before = closes.loc[closes.index < ex_date, symbol].dropna()
        if before.empty:
            continue
        # Splits on sessions without a bar since then: the dividend is per share after them.
        between = known[
            (known["symbol"] == symbol)
            & (known["session"] > before.index[-1])
            & (known["session"] < ex_date)
        ]
        base = before.iloc[-1] / between["split_ratio"].fillna(1.0).prod()
        dividend = group["dividend_usd"].fillna(0.0).sum()
        factor = (1.0 - dividend / base) / group["split_ratio"].fillna(1.0).prod()
        adjusted.loc[adjusted.index < ex_date, symbol] *= factor
    return adjusted


def features_of_last_session(P: pd.DataFrame, benchmark: str) -> pd.DataFrame:
    """Return the catalog's features at the last session, one row a symbol."""
    r = P / P.shift(1) - 1.0
    m = r[benchmark]
    rows = {}
    for symbol in P.columns:
        p, own = P[symbol], r[symbol]
        if symbol == benchmark or math.isnan(p.iloc[-1]):
            continue
        last = p.iloc[-1]
        row = {f"return_{n}d": last / p.iloc[-1 - n] - 1 for n in (1, 5, 10, 20, 60)}
        row["momentum_120d"] = last / p.iloc[-121] - 1
        row["momentum_252d_skip_21d"] = p.iloc[-22] / p.iloc[-253] - 1
        for n in (10, 20, 60):
            row[f"volatility_{n}d"] = rolling(own, n, lambda x: x.std(ddof=1))
        row["volatility_ratio_10d_60d"] = row["volatility_10d"] / row["volatility_60d"]
        row["downside_volatility_20d"] = rolling(
            own, 20, lambda x: math.sqrt((x.clip(upper=0.0) ** 2).mean())
        )
        for n in (20, 50, 200):
            row[f"sma_distance_{n}d"] = last / rolling(p, n, lambda x: x.mean()) - 1
        row["zscore_20d"] = rolling(
            p,
            20,
            lambda x: (x.iloc[-1] - x.mean()) / x.std(ddof=1) if x.max() > x.min() else math.nan,
        )
        row["rsi_14d"] = rolling(own, 14, relative_strength)
        row["drawdown_252d"] = last / rolling(p, 252, lambda x: x.max()) - 1
        pairs = pd.concat([own, m], axis=1).tail(60).dropna()
        covariance = np.cov(pairs.to_numpy().T, ddof=1) if len(pairs) >= 48 else None
        row["beta_60d"] = math.nan if covariance is None else covariance[0, 1] / covariance[1, 1]
        market = P[benchmark].iloc[-1] / P[benchmark].iloc[-21] - 1
        row["residual_return_20d"] = row["return_20d"] - row["beta_60d"] * market
        row["skewness_60d"] = rolling(own, 60, skewness)
        rows[symbol] = row
    frame = pd.DataFrame.from_dict(rows, orient="index")
    there = frame["return_20d"].dropna()
    frame["rank_return_20d"] = (there.rank() - 1) / (len(there) - 1) if len(there) > 1 else math.nan
    return frame


def rolling(values: pd.Series, length: int, statistic: Callable[[pd.Series], float]) -> float:
    """Apply a statistic to what is there of the last values; NaN when under 80 % are there."""
    there = values.tail(length).dropna()
    return float(statistic(there)) if len(there) >= 0.8 * length else math.nan


def relative_strength(returns: pd.Series) -> float:
    """Return Cutler's relative strength index."""
    gain, loss = returns.clip(lower=0.0).mean(), (-returns).clip(lower=0.0).mean()
    return 100 * (gain / (gain + loss)) if gain + loss > 0 else math.nan


def skewness(returns: pd.Series) -> float:
    """Return the biased third standardised moment."""
    centred = returns - returns.mean()
    spread = (centred**2).mean()
    return (centred**3).mean() / spread**1.5 if spread > 0 else math.nan


def scores_bps(features: pd.DataFrame, document: dict, champion: str) -> pd.Series:
    """Return the champion's centred scores in basis points."""
    names = document["features"]
    usable = features[features[names].isna().sum(axis=1) <= 0.2 * len(names)]
    X = usable[names].to_numpy(dtype=float)
    state = document["models"][champion]["state"]
    if champion == "lightgbm":
        raw = lightgbm.Booster(model_str=state["model"]).predict(X, num_threads=1)
    else:
        Z = (X - np.array(state["means"])) / np.array(state["scales"])
        Z = np.clip(Z, -state["clip"], state["clip"])
        Z[np.isnan(Z)] = 0.0
        raw = Z @ np.array(state["coefficients"]) + state["intercept"]
    return pd.Series(1e4 * (raw - raw.mean()), index=usable.index)


def risk_measures(
    P: pd.DataFrame, members: pd.DataFrame, options: argparse.Namespace
) -> dict[tuple[str, str, str], float]:
    """Return value at risk, volatility, exposures and betas by (scope, name, measure)."""
    window = P.tail(options.risk_sessions)
    held = [symbol for symbol in members["symbol"] if window[symbol].notna().iloc[-1]]
    r = (window / window.shift(1) - 1.0).iloc[1:]
    book, market = r[held].mean(axis=1), r[options.benchmark]
    sectors = members.set_index("symbol")["sector"]
    measures = {
        ("book", "reference_book", "volatility_annual_pct"): 100
        * math.sqrt(252)
        * book.tail(options.volatility_window).std(ddof=1),
        ("book", "reference_book", "beta"): book.cov(market) / market[book.notna()].var(),
        ("book", "reference_book", "gross_pct"): 100.0,
        ("book", "reference_book", "net_pct"): 100.0,
        ("book", "reference_book", "concentration_hhi"): 1 / len(held),
    }
    worst = book.dropna().sort_values().to_numpy()
    for tail in (5, 1):
        part = len(worst) * tail / 100
        k = -(-len(worst) * tail // 100)
        name = f"{100 - tail}_pct"
        measures["book", "reference_book", f"var_{name}"] = -100 * worst[k - 1]
        shortfall = (worst[: k - 1].sum() + worst[k - 1] * (part - k + 1)) / part
        measures["book", "reference_book", f"cvar_{name}"] = -100 * shortfall
    measures["book", "reference_book", "var_95_usd"] = (
        measures["book", "reference_book", "var_95_pct"] / 100 * options.book_value_usd
    )
    for sector, count in sectors[held].value_counts().items():
        measures["sector", str(sector), "weight_pct"] = 100 * count / len(held)
    for symbol in held:
        pairs = pd.concat([r[symbol], market], axis=1).dropna()
        measures["symbol", symbol, "weight_pct"] = 100 / len(held)
        if len(pairs) >= 0.8 * len(r):
            beta = np.polyfit(pairs.iloc[:, 1], pairs.iloc[:, 0], 1)[0]
            measures["symbol", symbol, "beta"] = float(beta)
    return measures


def compare(folder: Path, options: argparse.Namespace) -> Comparison:
    """Recompute everything and hold it against the published files."""
    tables = {
        name: pd.read_parquet(folder / f"{name}.parquet")
        for name in ("bars", "actions", "members", "features", "signals", "portfolio_risk")
    }
    document = json.loads((folder / "model.json").read_text())
    session = tables["features"]["session"].iloc[0]
    bars, actions = (
        tables[name][tables[name]["session"] <= session] for name in ("bars", "actions")
    )
    P = adjusted_closes(bars, actions)
    comparison = Comparison()

    features = features_of_last_session(
        P[[*tables["members"]["symbol"], options.benchmark]], options.benchmark
    )
    published = tables["features"].set_index("symbol")
    if set(published.index) != set(features.index):
        comparison.differences.append(
            f"symbols with features: {set(published.index) ^ set(features.index)}"
        )
    for symbol in published.index.intersection(features.index):
        for name in document["features"]:
            comparison.check(
                f"{symbol} {name}", published.loc[symbol, name], features.loc[symbol, name]
            )

    signals = tables["signals"].sort_values("rank").set_index("symbol")
    scores = scores_bps(features, document, signals["model_name"].iloc[0])
    if signals.index[0] != scores.idxmax():
        comparison.differences.append(f"top: published {signals.index[0]}, {scores.idxmax()}")
    for symbol, score in signals["score_bps"].items():
        comparison.check(f"{symbol} score_bps", score, scores.get(symbol))

    risk = tables["portfolio_risk"].set_index(["scope", "name", "measure"])["value"]
    for key, value in risk_measures(P, tables["members"], options).items():
        comparison.check(" ".join(key), risk.get(key), value)
    return comparison


def main() -> int:
    """Run the comparison and say what it found."""
    parser = argparse.ArgumentParser(description="Recompute one session and compare.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--benchmark", default="^GSPC")
    parser.add_argument("--risk-sessions", type=int, default=500)
    parser.add_argument("--volatility-window", type=int, default=60)
    parser.add_argument("--book-value-usd", type=float, default=1_000_000.0)
    options = parser.parse_args()
    comparison = compare(options.folder, options)
    for difference in comparison.differences:
        print(difference)
    print(f"{comparison.compared} numbers compared, {len(comparison.differences)} differences")
    return 1 if comparison.differences else 0


if __name__ == "__main__":
    sys.exit(main())
