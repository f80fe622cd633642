"""The feature catalog: every feature's name, formula, window and inputs, declared once.

Every feature uses closes only. ``P`` is the adjusted close as of the session (as-traded close and
the corporate actions known by then), ``r`` its simple daily return, ``m`` the benchmark's.
**NaN rule**: a feature that looks at end points is NaN when an end point is missing; a rolling
statistic is NaN when fewer than 80 % of its window's values are there; nothing is filled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Feature:
    """One column of ``core_features__daily``.

    ``lookback`` is the number of sessions before the newest one that the value depends on.
    ``inputs`` are quantities of a bar, so that simulated inputs can be followed.
    """

    name: str
    formula: str
    lookback: int
    source: str
    inputs: tuple[str, ...] = ("adjusted_close",)


_JT = "Jegadeesh and Titman (1993), doi:10.1111/j.1540-6261.1993.tb04702.x"
_QLIB = "Alpha158 of Qlib (Yang et al. 2020, arXiv:2009.11189)"
_WILDER = "Wilder (1978), New Concepts in Technical Trading Systems, with Cutler's simple means"

FEATURES: tuple[Feature, ...] = (
    Feature("return_1d", "P[t]/P[t-1] - 1", 1, _QLIB),
    Feature("return_5d", "P[t]/P[t-5] - 1", 5, _QLIB),
    Feature("return_10d", "P[t]/P[t-10] - 1", 10, _QLIB),
    Feature("return_20d", "P[t]/P[t-20] - 1", 20, _QLIB),
    Feature("return_60d", "P[t]/P[t-60] - 1", 60, _QLIB),
    Feature("momentum_120d", "P[t]/P[t-120] - 1", 120, _JT),
    Feature("momentum_252d_skip_21d", "P[t-21]/P[t-252] - 1", 252, _JT),
    Feature("volatility_10d", "std(r, 10), ddof 1", 10, _QLIB),
    Feature("volatility_20d", "std(r, 20), ddof 1", 20, _QLIB),
    Feature("volatility_60d", "std(r, 60), ddof 1", 60, _QLIB),
    Feature("volatility_ratio_10d_60d", "volatility_10d / volatility_60d", 60, _QLIB),
    Feature("downside_volatility_20d", "sqrt(mean(min(r, 0)^2, 20))", 20, "Sortino (1994)"),
    Feature("sma_distance_20d", "P[t]/mean(P, 20) - 1", 19, _QLIB),
    Feature("sma_distance_50d", "P[t]/mean(P, 50) - 1", 49, _QLIB),
    Feature("sma_distance_200d", "P[t]/mean(P, 200) - 1", 199, _QLIB),
    Feature("zscore_20d", "(P[t] - mean(P, 20)) / std(P, 20), ddof 1", 19, _QLIB),
    Feature("rsi_14d", "100 * U/(U + D); U, D = mean gain, mean loss over 14 r", 14, _WILDER),
    Feature("drawdown_252d", "P[t]/max(P, 252) - 1", 251, "standard"),
    Feature(
        "beta_60d",
        "cov(r, m, 60)/var(m, 60), ddof 1",
        60,
        "Sharpe (1964)",
        ("adjusted_close", "benchmark_close"),
    ),
    Feature(
        "residual_return_20d",
        "return_20d - beta_60d * benchmark return_20d",
        60,
        "Blitz, Huij and Martens (2011)",
        ("adjusted_close", "benchmark_close"),
    ),
    Feature("skewness_60d", "third standardised moment of r over 60 (biased)", 60, "standard"),
    Feature(
        "rank_return_20d",
        "rank of return_20d across the universe, average ties, scaled to [0, 1]",
        20,
        _JT,
    ),
)

MAX_LOOKBACK_SESSIONS = max(feature.lookback for feature in FEATURES)
