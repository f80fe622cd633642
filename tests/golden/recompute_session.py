"""Recompute one session from its files with plain pandas, and compare: an auditor's second opinion.

Nothing here is shared with the platform's code. ``DIR`` holds ``bars.parquet`` and
``actions.parquet`` (as-traded bars, the benchmark's among them, and corporate actions, of at least
the sessions that features and risk look back on), ``members.parquet`` (symbol, sector),
``factors.parquet``, ``signals.parquet`` and ``portfolio_risk.parquet`` of the session,
``features.parquet`` of it and of the sessions that the LSTM looks back on, ``model.json`` and the
trained ensemble's files in ``model/``.

Recomputed are the close-only features, each signal's score and P(up), which of them is on top, and
the risk measures but the drawdown and the symbols' volatilities and contributions. Taken as given
are the factors, the features of the sessions before, and what the training fitted.

Exit code 0: every recomputed number is equal to 1e-9 (relative above 1, absolute below); 1: some
are not, and they are listed; 2: wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import math
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import lightgbm
import numpy as np
import pandas as pd
import xgboost

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


def forecasts(
    features: pd.DataFrame, factors: pd.DataFrame, document: dict, folder: Path
) -> pd.DataFrame:
    """Return the ensemble's centred score in basis points and its P(up), one row a symbol.

    ``features`` has the session's rows and those of the sessions before it.
    """
    about = json.loads((folder / "predictor.json").read_text())
    joint = json.loads((folder / "ensemble.json").read_text())
    features = features[features[about["channels"]].isna().mean(axis=1) <= 0.2]
    today = features[features["session"] == features["session"].max()]
    rows = today.merge(factors, on="symbol", how="left", suffixes=("", "_factor"))
    X = rows[about["features"]].to_numpy(dtype=float)
    sessions = sorted(features["session"].unique())[-about["lags"] :]
    sequence = np.stack(
        [
            features[features["session"] == session]
            .set_index("symbol")
            .reindex(rows["symbol"])[about["channels"]]
            .to_numpy(dtype=float)
            for session in sessions
        ],
        axis=1,
    )
    votes = np.zeros(len(rows))
    for name, weight in zip(joint["names"], joint["joint"]["weights"], strict=True):
        seeds = [
            MEMBERS[name](next(folder.glob(f"{name}_{number}.*")).read_bytes(), X, sequence)
            for number in range(joint["seeds"][name])
        ]
        votes += weight * np.mean(seeds, axis=0)
    slope, offset = joint["calibration"]["values"]
    odds = np.log(votes / (1 - votes))
    raw = 1e4 * (2 * votes - 1) * document["models"]["ensemble"]["label_scale"]
    return pd.DataFrame(
        {"score_bps": raw - raw.mean(), "p_up": 1 / (1 + np.exp(-(slope * odds + offset)))},
        index=rows["symbol"],
    )


def standardised(X: np.ndarray, scaler: dict) -> np.ndarray:
    """Return values scaled and clipped; what is missing becomes 0."""
    Z = (X - np.array(scaler["means"])) / np.array(scaler["scales"])
    return np.nan_to_num(np.clip(Z, -scaler["clip"], scaler["clip"]), nan=0.0)


def linear(content: bytes, X: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return P(up) of a logistic regression."""
    state = json.loads(content)
    logit = standardised(X, state) @ np.array(state["coefficients"]) + state["intercept"]
    return 1 / (1 + np.exp(-logit))


def random_forest(content: bytes, X: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return P(up) of a forest: each row walks down each tree."""
    forest = np.load(io.BytesIO(content))
    tree = {name: forest[name].tolist() for name in forest.files}

    def share(row: list[float], node: int) -> float:
        while tree["left"][node] != node:
            value = row[tree["feature"][node]]
            missing = math.isnan(value) and tree["missing_left"][node]
            goes_left = missing or value <= tree["threshold"][node]
            node = tree["left" if goes_left else "right"][node]
        return tree["up"][node]

    rows = X.astype(np.float32).tolist()
    return np.array([np.mean([share(row, root) for root in tree["roots"]]) for row in rows])


def boosted_by_xgboost(content: bytes, X: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return P(up) of XGBoost's trees."""
    booster = xgboost.Booster()
    booster.load_model(bytearray(content))
    return booster.predict(xgboost.DMatrix(X)).astype(float)


def boosted_by_lightgbm(content: bytes, X: np.ndarray, _: np.ndarray) -> np.ndarray:
    """Return P(up) of LightGBM's trees."""
    return lightgbm.Booster(model_str=content.decode()).predict(X, num_threads=1)


def lstm(content: bytes, _: np.ndarray, sequence: np.ndarray) -> np.ndarray:
    """Return P(up) of the network in Keras's archive (Hochreiter and Schmidhuber 1997)."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        Z = standardised(sequence, json.loads(archive.read("scaler.json")))
        stored = h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r")
    W, U, b = (np.array(stored[f"layers/lstm/cell/vars/{at}"], float) for at in range(3))
    V, v = (np.array(stored[f"layers/dense/vars/{at}"], float) for at in range(2))
    h = c = np.zeros((len(Z), len(U)))
    for lag in range(Z.shape[1]):
        i, f, g, o = np.hsplit(Z[:, lag] @ W + h @ U + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return sigmoid(h @ V + v)[:, 0]


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return the logistic function."""
    return 1 / (1 + np.exp(-x))


MEMBERS = {
    "linear": linear,
    "random_forest": random_forest,
    "xgboost": boosted_by_xgboost,
    "lightgbm": boosted_by_lightgbm,
    "lstm": lstm,
}


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
    """Recompute what the module says and hold it against the published files."""
    tables = {
        name: pd.read_parquet(folder / f"{name}.parquet")
        for name in (
            "bars",
            "actions",
            "members",
            "features",
            "factors",
            "signals",
            "portfolio_risk",
        )
    }
    document = json.loads((folder / "model.json").read_text())
    session = tables["features"]["session"].max()
    bars, actions = (
        tables[name][tables[name]["session"] <= session] for name in ("bars", "actions")
    )
    P = adjusted_closes(bars, actions)
    comparison = Comparison()

    features = features_of_last_session(
        P[[*tables["members"]["symbol"], options.benchmark]], options.benchmark
    )
    of_session = tables["features"]["session"] == session
    published = tables["features"][of_session].set_index("symbol")
    if set(published.index) != set(features.index):
        comparison.differences.append(
            f"symbols with features: {set(published.index) ^ set(features.index)}"
        )
    for symbol in published.index.intersection(features.index):
        for name in features.columns:
            comparison.check(
                f"{symbol} {name}", published.loc[symbol, name], features.loc[symbol, name]
            )

    signals = tables["signals"].sort_values("rank").set_index("symbol")
    for file in document["files"]:
        content = (folder / "model" / file["name"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != file["sha256"]:
            comparison.differences.append(f"model/{file['name']}: another file than the document's")
    own_features = features.rename_axis("symbol").reset_index().assign(session=session)
    seen = pd.concat([tables["features"][~of_session], own_features])
    scores = forecasts(seen, tables["factors"], document, folder / "model")
    if signals.index[0] != scores["score_bps"].idxmax():
        comparison.differences.append(
            f"top: published {signals.index[0]}, {scores['score_bps'].idxmax()}"
        )
    for symbol, row in signals.iterrows():
        own = scores.loc[symbol] if symbol in scores.index else {}
        comparison.check(f"{symbol} score_bps", row["score_bps"], own.get("score_bps"))
        comparison.check(f"{symbol} probability_up", row["probability_up"], own.get("p_up"))

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
