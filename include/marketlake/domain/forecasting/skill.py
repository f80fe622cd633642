"""How good probabilities and scores were: figures with intervals that know sessions hang together.

Rows of one session move together, and labels of neighbouring sessions may overlap. So intervals
come from a stationary bootstrap (Politis and Romano 1994) over whole sessions: each statistic is a
function of sums over sessions, and the sessions are drawn in blocks of random length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from marketlake.domain.forecasting.metrics import wilson
from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation

Labels = npt.NDArray[np.int64]
BOOTSTRAPS = 2_000


# ------------------------------------------------------------------------------------------ figures


def accuracy(counts: Floats) -> Floats:
    """Return the share of right directions of [..., 4] counts (tn, fp, fn, tp)."""
    tn, fp, fn, tp = _four(counts)
    return _ratio(tp + tn, tp + tn + fp + fn)


def balanced_accuracy(counts: Floats) -> Floats:
    """Return the mean of the hit rates among ups and among downs; a missing class counts 0.5."""
    tn, fp, fn, tp = _four(counts)
    return 0.5 * (_ratio(tp, tp + fn, 0.5) + _ratio(tn, tn + fp, 0.5))


def mcc(counts: Floats) -> Floats:
    """Return Matthews's correlation (1975) of [..., 4] counts; 0 where a margin is empty."""
    tn, fp, fn, tp = _four(counts)
    # Roots before products: with many rows the product of four margins would lose digits.
    margins = np.sqrt(tp + fp) * np.sqrt(tp + fn) * np.sqrt(tn + fp) * np.sqrt(tn + fn)
    return _ratio(tp * tn - fp * fn, margins)


def confusion(y: Labels, up: npt.NDArray[np.bool_]) -> Floats:
    """Return (tn, fp, fn, tp) of each row as one-hot [n_rows, 4]; their sum is the table."""
    return np.eye(4)[2 * y + up]


def brier(probability: Floats, y: Labels) -> float:
    """Return the mean squared distance of P(up) from what came (Brier 1950)."""
    return float(((probability - y) ** 2).mean())


def calibration_error(probability: Floats, y: Labels, *, bins: int = 10) -> float:
    """Return the expected calibration error: |mean P(up) - share of ups|, by bins of equal width.

    Bins are (0, 1/bins], ...; 0 belongs to the first (Naeini, Cooper and Hauskrecht 2015).
    """
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bucket = np.searchsorted(edges, probability, side="left")
    gap = np.bincount(bucket, weights=probability - y, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def reliability(probability: Floats, y: Labels, *, bins: int = 10) -> list[dict[str, Any]]:
    """Return per bin of equal width: mean P(up), share of ups with its Wilson interval, n."""
    edges = np.linspace(0, 1, bins + 1)[1:-1]
    bucket = np.searchsorted(edges, probability, side="left")
    rows = []
    for number in np.unique(bucket):
        here = bucket == number
        n, ups = int(here.sum()), int(y[here].sum())
        low, high = wilson(ups, n)
        rows.append(
            {
                "predicted": float(probability[here].mean()),
                "observed": ups / n,
                "low": low,
                "high": high,
                "n": n,
            }
        )
    return rows


def accuracy_by_coverage(
    probability: Floats, y: Labels, *, levels: Sequence[float] = (0.1, 0.25, 0.5, 0.75, 1.0)
) -> list[dict[str, Any]]:
    """Return the accuracy among the most confident rows: for each share of rows, from small to all.

    ``margin`` is the smallest |P(up) - 0.5| that is still counted; ties at it come in together.
    """
    margin = np.abs(probability - 0.5)
    right = (probability > 0.5) == (y == 1)
    ordered = np.sort(margin)[::-1]
    curve = []
    for level in levels:
        least = ordered[max(int(np.ceil(level * len(margin))), 1) - 1]
        chosen = margin >= least
        n, hits = int(chosen.sum()), int(right[chosen].sum())
        low, high = wilson(hits, n)
        curve.append(
            {
                "coverage": n / len(margin),
                "margin": float(least),
                "accuracy": hits / n,
                "low": low,
                "high": high,
                "n": n,
            }
        )
    return curve


def information_coefficients(scored: pl.DataFrame) -> pl.DataFrame:
    """Return each session's Pearson and Spearman correlation of ``score`` with ``label_return``.

    Columns ``session``, ``ic``, ``rank_ic``; sessions of fewer than three rows, or where either
    is not defined, have no row.
    """
    pair = ("score", "label_return")
    ranked = scored.with_columns(
        pl.col(name).rank("average").over("session").alias(f"{name}_rank") for name in pair
    )
    return (
        ranked.group_by("session")
        .agg(
            pl.corr(*pair).alias("ic"),
            pl.corr(*(f"{name}_rank" for name in pair)).alias("rank_ic"),
            pl.len().alias("n"),
        )
        .filter(pl.col("n") >= 3, pl.col("ic").is_finite(), pl.col("rank_ic").is_finite())
        .select("session", "ic", "rank_ic")
        .sort("session")
    )


# ---------------------------------------------------------------------------------------- intervals


def block_sessions(series: Floats, *, at_least: int) -> float:
    """Return a series' mean block length (Politis and White 2004), and no less than asked."""
    from arch.bootstrap import optimal_block_length

    if len(series) == 0:
        raise ContractViolation(
            expected="a session in which the figure is defined",
            was="none: every session has too few rows, or a score that is the same for all",
            where="stationary bootstrap of a series by session",
            todo="train on more sessions and symbols, or on a model that tells rows apart",
        )
    if len(series) < 10 or np.ptp(series) == 0:
        return float(at_least)
    found = float(optimal_block_length(series)["stationary"].iloc[0])
    if not np.isfinite(found):  # of a series that hardly varies
        return float(at_least)
    return float(min(max(found, at_least), max(len(series) / 4, at_least)))


def draws(n_sessions: int, *, block: float, repeats: int, seed: int) -> npt.NDArray[np.int64]:
    """Return [repeats, n_sessions] positions drawn by the stationary bootstrap of ``arch``."""
    from arch.bootstrap import StationaryBootstrap

    sampler = StationaryBootstrap(block, np.arange(n_sessions), seed=np.random.default_rng(seed))
    return np.stack([data[0][0] for data in sampler.bootstrap(repeats)])


def interval(
    by_session: Floats,
    statistic: Callable[[Floats], Floats],
    *,
    block: float,
    seed: int,
    repeats: int = BOOTSTRAPS,
    level: float = 0.95,
) -> dict[str, float]:
    """Return ``value``, ``low`` and ``high`` of a statistic of sums over sessions.

    Parameters
    ----------
    by_session
        [n_sessions, k]: what each session adds to the sums, in order of time.
    statistic
        From sums [..., k] to values [...].
    block
        Mean block length in sessions.
    """
    drawn = by_session[draws(len(by_session), block=block, repeats=repeats, seed=seed)].sum(axis=1)
    values = statistic(drawn)
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    value = float(statistic(by_session.sum(axis=0)))
    return {"value": value, "low": float(low), "high": float(high)}


def mean_interval(
    series: Floats, *, at_least: int, seed: int, level: float = 0.95
) -> dict[str, float]:
    """Return the mean of a series over sessions with its bootstrap interval."""
    sums = np.column_stack([series, np.ones(len(series))])
    block = block_sessions(series, at_least=at_least)
    return {
        **interval(sums, lambda s: s[..., 0] / s[..., 1], block=block, seed=seed, level=level),
        "block_sessions": block,
    }


def ratio_interval(series: Floats, *, at_least: int, seed: int) -> dict[str, float]:
    """Return mean over standard deviation (ICIR, Sharpe ratio a session) with its interval."""
    sums = np.column_stack([series, series**2, np.ones(len(series))])

    def ratio(total: Floats) -> Floats:
        mean = total[..., 0] / total[..., 2]
        variance = np.maximum(total[..., 1] / total[..., 2] - mean**2, 0.0)
        return _ratio(mean, np.sqrt(variance))

    block = block_sessions(series, at_least=at_least)
    return {**interval(sums, ratio, block=block, seed=seed), "block_sessions": block}


def direction_figures(
    sessions: npt.NDArray[Any],
    probability: Floats,
    y: Labels,
    *,
    horizon: int,
    seed: int,
    repeats: int = BOOTSTRAPS,
) -> dict[str, Any]:
    """Return every figure of forecast directions with its interval, and the base rate beside them.

    ``sessions`` are the rows' sessions, in any order; ``y`` is 1 for up. A P(up) above one half
    forecasts up.
    """
    at = np.unique(sessions, return_inverse=True)[1]
    n_sessions = int(at.max()) + 1
    # Per session: the four counts, the squared distances, the rows.
    columns = np.column_stack(
        [confusion(y, probability > 0.5), (probability - y) ** 2, np.ones(len(y))]
    )
    sums = np.stack(
        [np.bincount(at, weights=column, minlength=n_sessions) for column in columns.T], axis=1
    )
    hits = (sums[:, 0] + sums[:, 3]) / sums[:, 5]
    block = block_sessions(hits, at_least=horizon)
    drawn = sums[draws(n_sessions, block=block, repeats=repeats, seed=seed)].sum(axis=1)
    total = sums.sum(axis=0)

    def figure(statistic: Callable[[Floats], Floats]) -> dict[str, float]:
        low, high = np.percentile(statistic(drawn), [2.5, 97.5])
        return {"value": float(statistic(total)), "low": float(low), "high": float(high)}

    n, ups = len(y), int(y.sum())
    right = int(total[0] + total[3])
    wilson_low, wilson_high = wilson(right, n)
    return {
        "n": n,
        "sessions": n_sessions,
        "block_sessions": block,
        "accuracy": {
            **figure(accuracy),
            "wilson_low": wilson_low,
            "wilson_high": wilson_high,
        },
        "balanced_accuracy": figure(balanced_accuracy),
        "mcc": figure(mcc),
        "brier": figure(lambda s: s[..., 4] / s[..., 5]),
        "calibration_error": calibration_error(probability, y),
        "base_rate": max(ups, n - ups) / n,
        "share_up": ups / n,
        "share_forecast_up": float((probability > 0.5).mean()),
        "by_coverage": accuracy_by_coverage(probability, y),
    }


def score_figures(scored: pl.DataFrame, *, horizon: int, seed: int) -> dict[str, Any]:
    """Return IC, RankIC and their ICIR (mean over standard deviation, a session) with intervals.

    ``scored`` has ``session``, ``score`` and ``label_return``.
    """
    daily = information_coefficients(scored)
    found: dict[str, Any] = {"sessions": daily.height}
    for name in ("ic", "rank_ic"):
        series = daily[name].to_numpy()
        found[name] = mean_interval(series, at_least=horizon, seed=seed)
        found[f"{name}_ir"] = ratio_interval(series, at_least=horizon, seed=seed)
    return found


def by_group(
    groups: npt.NDArray[Any], figures: Callable[[npt.NDArray[np.bool_]], Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Return figures of each group of rows (a year, a regime), by its name, ascending."""
    return {str(name): figures(groups == name) for name in np.unique(groups)}


def permutation_importance(
    metric: Callable[[Floats], float],
    X: Floats,
    *,
    names: Sequence[str],
    repeats: int,
    seed: int,
) -> pl.DataFrame:
    """Return how far a test metric falls when one feature's values are dealt out anew.

    ``metric`` takes test features, [n_rows, n_features], and is better when higher (Breiman 2001).
    Columns ``name``, ``importance`` (mean fall) and ``spread`` (standard deviation over repeats),
    the most important first.
    """
    rng = np.random.default_rng(seed)
    whole = metric(X)
    rows = []
    for column, name in enumerate(names):
        falls = []
        for _ in range(repeats):
            dealt = X.copy()
            dealt[:, column] = rng.permutation(X[:, column])
            falls.append(whole - metric(dealt))
        rows.append((name, float(np.mean(falls)), float(np.std(falls))))
    return pl.DataFrame(rows, schema=["name", "importance", "spread"], orient="row").sort(
        ["importance", "name"], descending=[True, False]
    )


def population_stability(expected: Floats, observed: Floats, *, bins: int = 10) -> float:
    """Return the population stability index of a feature against its training values.

    Sum over bins of (o - e) ln(o / e), shares of rows; bins are the training values' quantiles,
    missing values a bin of their own, and an empty share counts as half a row. Below 0.1 little has
    moved, above 0.25 much (Siddiqi 2006).
    """
    there = expected[~np.isnan(expected)]
    edges = np.unique(np.quantile(there, np.arange(1, bins) / bins)) if len(there) else np.empty(0)
    shares = []
    for values in (expected, observed):
        missing = np.isnan(values)
        bucket = np.searchsorted(edges, values[~missing], side="left")
        counts = np.append(np.bincount(bucket, minlength=len(edges) + 1), missing.sum())
        shares.append(np.maximum(counts, 0.5 * (counts.sum() > 0)) / max(len(values), 1))
    before, after = shares
    # A bin that neither has (no missing value on either side) says nothing.
    used = (before > 0.5 / max(len(expected), 1)) | (after > 0.5 / max(len(observed), 1))
    return float(((after - before) * np.log(after / before))[used].sum())


def _four(counts: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    return counts[..., 0], counts[..., 1], counts[..., 2], counts[..., 3]


def _ratio(above: Floats, below: Floats, empty: float = 0.0) -> Floats:
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(above, below, out=np.full_like(above, empty), where=below > 0)
