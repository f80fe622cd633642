"""Whether the best of many trials is more than luck: deflated Sharpe ratio and PBO."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation

_EULER = 0.5772156649015329


def probabilistic_sharpe(
    sharpe: float, *, benchmark: float, n: int, skew: float = 0.0, kurtosis: float = 3.0
) -> float:
    """Return P(true Sharpe ratio > ``benchmark``), both a period (Bailey and Lopez de Prado 2012).

    ``n`` periods; ``kurtosis`` is 3 for a normal distribution.
    """
    from scipy.stats import norm

    spread = 1 - skew * sharpe + (kurtosis - 1) / 4 * sharpe**2
    return float(norm.cdf((sharpe - benchmark) * np.sqrt(n - 1) / np.sqrt(spread)))


def expected_best_sharpe(variance: float, *, trials: int) -> float:
    """Return the Sharpe ratio to expect of the best of ``trials`` that are all worth nothing.

    ``variance`` is that of the trials' Sharpe ratios a period.
    """
    from scipy.stats import norm

    if trials <= 1:
        return 0.0
    first, second = norm.ppf(1 - 1 / trials), norm.ppf(1 - 1 / (trials * np.e))
    return float(np.sqrt(variance) * ((1 - _EULER) * first + _EULER * second))


def deflated_sharpe(
    sharpe: float,
    *,
    n: int,
    trials: int,
    variance: float,
    skew: float = 0.0,
    kurtosis: float = 3.0,
) -> float:
    """Return P(true Sharpe ratio > 0) of the best of ``trials``.

    Bailey and Lopez de Prado 2014; see :func:`probabilistic_sharpe` for the arguments.
    """
    return probabilistic_sharpe(
        sharpe,
        benchmark=expected_best_sharpe(variance, trials=trials),
        n=n,
        skew=skew,
        kurtosis=kurtosis,
    )


def backtest_overfitting(returns: Floats, *, blocks: int = 16) -> dict[str, Any]:
    """Return the probability of backtest overfitting by CSCV (Bailey, Borwein et al. 2017).

    Parameters
    ----------
    returns
        [n_periods, n_trials]: what each configuration earned, or any score that adds up, a period.
    blocks
        Even number of runs of periods; all halves of them are chosen on, the rest tested.

    Returns
    -------
    dict
        ``pbo`` (share of choices whose best configuration is at or below the median of the rest),
        ``logits`` of its relative rank, and ``loss``: share of choices that lose out of sample.
    """
    n_periods, n_trials = returns.shape
    if blocks % 2 or blocks > n_periods or n_trials < 2:
        raise ContractViolation(
            expected="an even number of blocks, a period for each, and two trials",
            was=f"{blocks} blocks, {n_periods} periods, {n_trials} trials",
            where="probability of backtest overfitting",
            todo="record every trial's out-of-fold returns",
        )
    runs = np.array_split(np.arange(n_periods), blocks)
    # Sharpe ratios of any union of runs follow from each run's sums.
    sums = np.stack([returns[run].sum(axis=0) for run in runs])
    squares = np.stack([(returns[run] ** 2).sum(axis=0) for run in runs])
    lengths = np.array([len(run) for run in runs])
    logits, losses = [], 0
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.isin(np.arange(blocks), chosen)
        best = int(np.argmax(_sharpe(sums, squares, lengths, inside)))
        outside = _sharpe(sums, squares, lengths, ~inside)
        below = float(
            (outside < outside[best]).sum() + 0.5 * ((outside == outside[best]).sum() - 1)
        )
        rank = (below + 1) / (n_trials + 1)
        logits.append(float(np.log(rank / (1 - rank))))
        losses += bool(outside[best] < 0)
    return {
        "pbo": float(np.mean(np.array(logits) <= 0)),
        "loss": losses / len(logits),
        "logits": logits,
    }


def _sharpe(
    sums: Floats,
    squares: Floats,
    lengths: npt.NDArray[np.int64],
    inside: npt.NDArray[np.bool_],
) -> Floats:
    n = lengths[inside].sum()
    mean = sums[inside].sum(axis=0) / n
    variance = np.maximum(squares[inside].sum(axis=0) / n - mean**2, 0.0)
    spread = np.sqrt(variance)
    ratio: Floats = np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)
    return ratio
