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

from marketlake.domain import rolling
from marketlake.domain.prices import Bools, Floats
from marketlake.domain.rolling import MIN_THERE
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
_WHERE = "benchmark history of regimes.classify"

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
        ``session`` and ``close_usd`` (an index has no corporate actions): one row for every
        exchange session of the window, ascending, at least ``SESSIONS_NEEDED``. The last is the
        session to classify. A close that is missing is null; it is never filled or bridged, and
        a statistic needs 80 % of its window.

    Returns
    -------
    dict
        The document of ``out_risk_analysis__market_regime``; fractions unless a name says
        otherwise. ``history`` leaves out sessions whose regime is not known.

    Raises
    ------
    ContractViolation
        When there are too few rows, they do not ascend, the last has no close, or too many of
        the others have none: a regime is not guessed.
    """
    rows = benchmark.select("session", "close_usd").tail(SESSIONS_NEEDED)
    sessions: list[date] = rows["session"].to_list()
    closes = rows["close_usd"].cast(pl.Float64).fill_null(np.nan).to_numpy()
    _require_history(sessions, closes)
    statistics, trend, volatility = _statistics(closes)
    known: Bools = np.asarray(~np.isnan(statistics).any(axis=1), dtype=np.bool_)
    _require_known(sessions[-1], known=bool(known[-1]))
    states = [
        {
            "session": session.isoformat(),
            "regime": _regime(distance, slope),
            "volatility_state": _volatility_state(percentile),
            "distance_from_mean": distance,
            "slope_of_mean": slope,
            "volatility_percentile": percentile,
        }
        for session, (distance, slope, percentile) in zip(
            np.array(sessions[-HISTORY_SESSIONS:])[known], statistics[known].tolist(), strict=True
        )
    ]
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


def by_session(benchmark: pl.DataFrame) -> pl.DataFrame:
    """Return the regime of every session that has one, each from its own past.

    ``benchmark`` is that of :func:`classify`, of any length. Returns ``session`` and ``regime``,
    ascending: for each session what classifying it as the last would say.
    """
    rows = benchmark.select("session", "close_usd")
    found = {"session": pl.Date, "regime": pl.String}
    if rows.height < _LOOKBACK:
        return pl.DataFrame(schema=found)
    statistics, _, _ = _statistics(rows["close_usd"].cast(pl.Float64).fill_null(np.nan).to_numpy())
    known: Bools = np.asarray(~np.isnan(statistics).any(axis=1), dtype=np.bool_)
    return pl.DataFrame(
        {
            "session": rows["session"].tail(len(statistics)).filter(pl.Series(known)),
            "regime": [_regime(*one) for one in statistics[known, :2].tolist()],
        },
        schema=found,
    )


def _statistics(closes: Floats) -> tuple[Floats, Floats, Floats]:
    """Return what decides, one row for each of the last sessions, and the two series behind it.

    Columns are distance from the mean, slope of the mean and percentile of volatility; the first
    row is of the first session that has everything it looks back on.
    """
    n_rows = len(closes) - _LOOKBACK + 1
    trend = rolling.mean(_windows(closes, TREND_SESSIONS))
    volatility = rolling.std(_windows(closes[1:] / closes[:-1] - 1.0, VOLATILITY_SESSIONS))
    ranked = _windows(volatility, PERCENTILE_SESSIONS)
    below = np.where(np.isnan(ranked), np.nan, ranked <= ranked[:, -1:])
    statistics = np.column_stack(
        [
            closes[-n_rows:] / trend[-n_rows:] - 1.0,
            (trend[SLOPE_SESSIONS:] / trend[:-SLOPE_SESSIONS] - 1.0)[-n_rows:],
            np.where(np.isnan(ranked[:, -1]), np.nan, rolling.mean(below)),
        ]
    )
    return statistics, trend, volatility


def _require_history(sessions: list[date], closes: Floats) -> None:
    problems = []
    if len(sessions) < SESSIONS_NEEDED:
        problems.append(f"{len(sessions)} sessions")
    if any(first >= second for first, second in pairwise(sessions)):
        problems.append("sessions that do not ascend")
    if (closes <= 0).any():
        problems.append(f"{int((closes <= 0).sum())} closes not above 0")
    if problems:
        raise ContractViolation(
            expected=f"{SESSIONS_NEEDED} ascending sessions, their closes above 0 or missing",
            was=", ".join(problems),
            where=_WHERE,
            todo="load the benchmark's missing sessions (`marketlake load-history`), then re-run",
        )
    if np.isnan(closes[-1]):
        raise ContractViolation(
            expected=f"a close of the benchmark at {sessions[-1]}",
            was="none",
            where=_WHERE,
            todo="look at the session's core_market__daily_bar and its quarantine, then re-run",
        )


def _require_known(session: date, *, known: bool) -> None:
    if not known:
        raise ContractViolation(
            expected=f"{MIN_THERE:.0%} of the closes of each window that ends with {session}",
            was="fewer",
            where=_WHERE,
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
