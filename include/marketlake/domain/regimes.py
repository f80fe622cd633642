"""The market regime from the benchmark's past alone, by a fixed rule.

What does not belong: fitted regimes (a model with parameters is a forecast) and anything that
smooths over sessions after the one it speaks about.
"""

from __future__ import annotations

from datetime import date
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation

TREND_SESSIONS = 200
SLOPE_SESSIONS = 20
VOLATILITY_SESSIONS = 20
PERCENTILE_SESSIONS = 504
CALM_BELOW, STRESSED_ABOVE = 1 / 3, 0.8
HISTORY_SESSIONS = 60
_LOOKBACK = max(TREND_SESSIONS + SLOPE_SESSIONS, VOLATILITY_SESSIONS + PERCENTILE_SESSIONS)
SESSIONS_NEEDED = _LOOKBACK + HISTORY_SESSIONS - 1
"""Sessions to pass to :func:`classify`; more change nothing."""

RULE = (
    f"bull: close above its {TREND_SESSIONS}-session mean and that mean above where it was "
    f"{SLOPE_SESSIONS} sessions ago; bear: both below; sideways: neither. "
    f"Volatility: percentile of the {VOLATILITY_SESSIONS}-session standard deviation of daily "
    f"returns among the {PERCENTILE_SESSIONS} ending with the session; calm below "
    f"{CALM_BELOW:.0%}, stressed above {STRESSED_ABOVE:.0%}, else normal."
)


def classify(benchmark: pl.DataFrame) -> dict[str, Any]:
    """Classify the last session of the benchmark's history.

    Parameters
    ----------
    benchmark
        ``session`` ascending and ``close_usd`` (an index has no corporate actions), at least
        ``SESSIONS_NEEDED`` rows.

    Returns
    -------
    dict
        The document of ``out_risk_analysis__market_regime``; fractions unless a name says
        otherwise.

    Raises
    ------
    ContractViolation
        When there are too few rows, they do not ascend, or a close is missing: a regime is not
        guessed.
    """
    rows = benchmark.select("session", "close_usd").tail(SESSIONS_NEEDED)
    sessions: list[date] = rows["session"].to_list()
    closes = rows["close_usd"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    _require_history(sessions, closes)
    trend = _windows(closes, TREND_SESSIONS).mean(axis=-1)
    returns = closes[1:] / closes[:-1] - 1.0
    volatility = _windows(returns, VOLATILITY_SESSIONS).std(axis=-1, ddof=1)
    states = []
    for back in range(HISTORY_SESSIONS - 1, -1, -1):
        now = -1 - back
        recent = volatility[len(volatility) - PERCENTILE_SESSIONS - back :][:PERCENTILE_SESSIONS]
        percentile = float((recent <= volatility[now]).mean())
        slope = float(trend[now] / trend[now - SLOPE_SESSIONS] - 1.0)
        distance = float(closes[now] / trend[now] - 1.0)
        states.append(
            {
                "session": sessions[now].isoformat(),
                "regime": _regime(distance, slope),
                "volatility_state": _volatility_state(percentile),
                "distance_from_mean": distance,
                "slope_of_mean": slope,
                "volatility_percentile": percentile,
            }
        )
    today = states[-1]
    return {
        "session": today["session"],
        "regime": today["regime"],
        "volatility_state": today["volatility_state"],
        "evidence": {
            "close_usd": float(closes[-1]),
            "mean_usd": float(trend[-1]),
            "distance_from_mean": today["distance_from_mean"],
            "slope_of_mean": today["slope_of_mean"],
            "volatility_annual_pct": float(volatility[-1] * np.sqrt(252.0) * 100.0),
            "volatility_percentile": today["volatility_percentile"],
            "limits": {"calm_below": CALM_BELOW, "stressed_above": STRESSED_ABOVE},
        },
        "history": states,
        "rule": RULE,
    }


def _require_history(sessions: list[date], closes: Floats) -> None:
    problems = []
    if len(sessions) < SESSIONS_NEEDED:
        problems.append(f"{len(sessions)} sessions")
    if any(first >= second for first, second in pairwise(sessions)):
        problems.append("sessions that do not ascend")
    if not (closes > 0).all():
        problems.append(f"{int((~(closes > 0)).sum())} sessions without a close")
    if problems:
        raise ContractViolation(
            expected=f"{SESSIONS_NEEDED} ascending sessions, each with a close above 0",
            was=", ".join(problems),
            where="benchmark history of regimes.classify",
            todo="load the benchmark's missing sessions (`marketlake load-history`), then re-run",
        )


def _windows(values: Floats, length: int) -> Floats:
    # A copy a window: each is summed by itself, whatever came before it.
    return np.ascontiguousarray(sliding_window_view(values, length))


def _regime(distance: float, slope: float) -> str:
    if distance > 0 and slope > 0:
        return "bull"
    if distance < 0 and slope < 0:
        return "bear"
    return "sideways"


def _volatility_state(percentile: float) -> str:
    if percentile < CALM_BELOW:
        return "calm"
    return "stressed" if percentile > STRESSED_ABOVE else "normal"
