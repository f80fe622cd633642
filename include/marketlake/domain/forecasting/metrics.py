"""How good scores were: hit rates and rank correlations, each with an interval.

Labels over ``horizon`` sessions overlap, so neighbouring predictions are not new evidence. Hit
rates count ``n / horizon`` independent predictions for their interval; the rank correlation's
interval allows for autocorrelation (Newey and West 1987, Bartlett weights, ``horizon`` lags).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation

_Z95 = 1.959963984540054
_BUCKETS = 5


def wilson(hits: float, n: float) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion; (0, 1) when ``n`` is 0."""
    if n <= 0:
        return 0.0, 1.0
    rate, z2 = hits / n, _Z95**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z95 / (1 + z2 / n) * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n))
    # The interval holds its estimate; at 0 and 1 rounding alone would put it outside.
    return min(max(0.0, float(centre - half)), rate), max(min(1.0, float(centre + half)), rate)


def newey_west(values: Floats, *, lags: int) -> tuple[float, float, float]:
    """Return the mean of a series and its 95 % interval, autocorrelation allowed for.

    ``values`` has no NaN and at least one element; ``lags`` is the Bartlett bandwidth.
    """
    mean, n = float(values.mean()), len(values)
    centred = values - mean
    variance = float((centred * centred).sum()) / n
    for lag in range(1, min(lags, n - 1) + 1):
        weight = 1 - lag / (lags + 1)
        variance += 2 * weight * float((centred[lag:] * centred[:-lag]).sum()) / n
    half = _Z95 * float(np.sqrt(max(variance, 0.0) / n))
    return mean, mean - half, mean + half


def rank_correlations(scored: pl.DataFrame) -> pl.DataFrame:
    """Return each session's Spearman correlation of ``score`` with ``label_return``.

    Returns
    -------
    polars.DataFrame
        ``session``, ``rank_ic``, ascending. Sessions where it is not defined (fewer than three
        rows, or all scores or labels equal) have no row.
    """
    ranked = scored.select(
        "session", *(pl.col(name).rank("average").over("session") for name in _PAIR)
    )
    return (
        ranked.group_by("session")
        .agg(pl.corr(*_PAIR).alias("rank_ic"), pl.len().alias("n"))
        .filter(pl.col("n") >= 3, pl.col("rank_ic").is_finite())
        .select("session", "rank_ic")
        .sort("session")
    )


def evaluate(scored: pl.DataFrame, *, horizon: int) -> dict[str, Any]:
    """Summarise out-of-fold scores.

    Parameters
    ----------
    scored
        ``session``, ``fold``, ``score``, ``label_return``; no nulls.
    horizon
        Sessions a label spans.

    Returns
    -------
    dict
        ``accuracy`` (share of scores on the right side of 0) and ``rank_ic`` (mean of the daily
        rank correlations), each with ``value``, ``low``, ``high``, ``n``; and the mean rank
        correlation of each fold.

    Raises
    ------
    ContractViolation
        When no session has a rank correlation.
    """
    hits = int(scored.select(_HIT.sum()).item())
    correlations = rank_correlations(scored)
    if correlations.is_empty():
        raise ContractViolation(
            expected="a session with at least 3 rows whose scores and labels differ",
            was=f"none among {scored.height} rows of {scored['session'].n_unique()} sessions",
            where="rank correlation of out-of-fold scores",
            todo="train on a universe of at least 3 symbols that have features and labels",
        )
    mean, low, high = newey_west(correlations["rank_ic"].to_numpy(), lags=horizon)
    by_fold = (
        correlations.join(scored.select("session", "fold").unique(), on="session")
        .group_by("fold")
        .agg(pl.col("rank_ic").sort_by("session").mean())
        .sort("fold")
    )
    return {
        "accuracy": _proportion(hits, scored.height, horizon=horizon),
        "rank_ic": {
            "value": mean,
            "low": low,
            "high": high,
            "n": correlations.height,
            "newey_west_lags": horizon,
        },
        "rank_ic_by_fold": by_fold["rank_ic"].to_list(),
    }


def base_rate(scored: pl.DataFrame, *, horizon: int) -> dict[str, Any]:
    """Return the hit rate of always taking the commoner direction, with its interval."""
    ups = int(scored.select((pl.col("label_return") > 0).sum()).item())
    return _proportion(max(ups, scored.height - ups), scored.height, horizon=horizon)


def calibrate(scored: pl.DataFrame, *, horizon: int) -> list[dict[str, Any]]:
    """Return hit rates by fifths of absolute score, weakest first.

    A score belongs to the first bucket whose ``up_to`` (a fraction) is not below it; the last
    bucket's ``up_to`` is None. Every bucket has at least one row as long as scores differ.
    """
    strength = scored["score"].abs().to_numpy()
    levels = np.arange(1, _BUCKETS) / _BUCKETS
    edges = np.quantile(strength, levels, method="inverted_cdf")
    hit = scored.select(_HIT).to_series().to_numpy()
    bucket = np.searchsorted(edges, strength, side="left")
    return [
        {
            "up_to": float(edges[number]) if number < len(edges) else None,
            **_proportion(
                int(hit[bucket == number].sum()), int((bucket == number).sum()), horizon=horizon
            ),
        }
        for number in range(_BUCKETS)
    ]


_PAIR = ("score", "label_return")
_HIT = ((pl.col("score") > 0) == (pl.col("label_return") > 0)).alias("hit")


def _proportion(hits: int, n: int, *, horizon: int) -> dict[str, Any]:
    low, high = wilson(hits / horizon, n / horizon)
    return {
        "value": hits / n if n else 0.5,
        "low": low,
        "high": high,
        "hits": hits,
        "n": n,
        "n_independent": n / horizon,
    }
