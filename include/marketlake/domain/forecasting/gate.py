"""What a training must show before its ensemble may replace the one that predicts.

Every check has a limit that stood before the figures were seen; one that fails keeps the training
unproven. What does not belong here: which of several proven ones predicts at a session.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marketlake.domain.forecasting.nulls import IMPLAUSIBLE_RANK_IC

MAX_CALIBRATION_ERROR = 0.05
MIN_DEFLATED_SHARPE = 0.95
MAX_BACKTEST_OVERFITTING = 0.5


def judge(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the checks of a training's report, each with its value, its limit and whether it held.

    The rank IC's 95 % interval is above 0, and no model's is so far above that its inputs must know
    the answer; the calibration error of the probabilities is small; the null panel is clean; the
    ensemble's Sharpe ratio is above what the best of all trials would show by luck (Bailey and
    Lopez de Prado 2014); the probability that choosing by backtest picks a model below the median
    is less than one half (CSCV, Bailey et al. 2017).
    """
    ensemble = report["models"]["ensemble"]
    clean = bool(report["null_panel"]["clean"])
    sharpe = float(report["deflated_sharpe"]["value"])
    overfitting = float(report["backtest_overfitting"]["pbo"])
    highest = max(float(model["rank_ic"]["low"]) for model in report["models"].values())
    rank_ic, error = float(ensemble["rank_ic"]["low"]), float(ensemble["calibration_error"])
    return [
        _check("rank IC, low end of 95 %", rank_ic, "above", 0.0, rank_ic > 0.0),
        _check(
            "highest rank IC of a model, low end of 95 %",
            highest,
            "at most",
            IMPLAUSIBLE_RANK_IC,
            highest <= IMPLAUSIBLE_RANK_IC,
        ),
        _check(
            "calibration error",
            error,
            "at most",
            MAX_CALIBRATION_ERROR,
            error <= MAX_CALIBRATION_ERROR,
        ),
        _check("null panel clean", float(clean), "at least", 1.0, clean),
        _check(
            "deflated Sharpe ratio",
            sharpe,
            "above",
            MIN_DEFLATED_SHARPE,
            sharpe > MIN_DEFLATED_SHARPE,
        ),
        _check(
            "probability of backtest overfitting",
            overfitting,
            "below",
            MAX_BACKTEST_OVERFITTING,
            overfitting < MAX_BACKTEST_OVERFITTING,
        ),
    ]


def in_words(checks: list[dict[str, Any]]) -> str:
    """Return what failed, or that all held."""
    failed = [
        f"{one['check']} {one['value']:.4g}, must be {one['must_be']} {one['limit']:g}"
        for one in checks
        if not one["passed"]
    ]
    if not failed:
        return f"every check of the gate holds ({len(checks)})"
    return f"{len(failed)} of {len(checks)} checks of the gate failed: " + "; ".join(failed)


def _check(name: str, value: float, must_be: str, limit: float, passed: bool) -> dict[str, Any]:
    return {
        "check": name,
        "value": value,
        "must_be": must_be,
        "limit": limit,
        "passed": bool(passed),
    }
