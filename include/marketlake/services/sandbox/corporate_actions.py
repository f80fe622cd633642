"""Seeded splits and dividends that are exactly consistent with a given adjusted series.

The policy looks only backwards: a split happens when the price has risen far above where the last
one left it, a dividend on a seeded day of its quarter. What does not belong here: prices.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marketlake.services.sandbox.counter_random import Floats, constant, uniform
from marketlake.services.sandbox.world import Dates

_DAILY_SPLIT_CHANCE = 0.05
_PAYERS = 0.8
_YIELDS_A_YEAR = (0.004, 0.034)


@dataclass(frozen=True)
class Actions:
    """Actions by position in the session array; ``yields`` are dividend / close before."""

    split_positions: npt.NDArray[np.int64]
    split_ratios: Floats
    dividend_positions: npt.NDArray[np.int64]
    yields: Floats

    def factors(self, length: int) -> Floats:
        """Return, for each session, what actions since the first did to one share's price."""
        steps = np.ones(length)
        steps[self.split_positions] /= self.split_ratios
        steps[self.dividend_positions] *= 1.0 - self.yields
        return np.asarray(np.cumprod(steps), dtype=np.float64)


def simulate_actions(seed: int, symbol: str, sessions: Dates, adjusted: Floats) -> Actions:
    """Return the actions of a symbol whose adjusted closes are ``adjusted``."""
    days = sessions.astype("datetime64[D]").astype(np.int64)
    dividend_positions, yields = _dividends(seed, symbol, sessions, days)
    steps = np.ones(len(sessions))
    steps[dividend_positions] = 1.0 - yields
    unsplit = adjusted * np.cumprod(steps)
    positions, ratios = _splits(seed, symbol, days, unsplit, set(dividend_positions.tolist()))
    return Actions(
        split_positions=np.asarray(positions, dtype=np.int64),
        split_ratios=np.asarray(ratios, dtype=np.float64),
        dividend_positions=dividend_positions,
        yields=yields,
    )


def _dividends(
    seed: int, symbol: str, sessions: Dates, days: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], Floats]:
    if constant(seed, f"{symbol}/pays dividends") > _PAYERS:
        return np.empty(0, dtype=np.int64), np.empty(0)
    phase = int(constant(seed, f"{symbol}/dividend month") * 3)
    target = 3 + int(constant(seed, f"{symbol}/dividend day") * 20)
    months = sessions.astype("datetime64[M]")
    day_of_month = (sessions.astype("datetime64[D]") - months.astype("datetime64[D]")).astype(int)
    due = (months.astype(np.int64) % 3 == phase) & (day_of_month + 1 >= target)
    due[0] = False  # an ex-date needs a close before it
    positions = np.flatnonzero(due)
    positions = positions[np.unique(months[positions], return_index=True)[1]]
    low, high = _YIELDS_A_YEAR
    yearly = low + (high - low) * constant(seed, f"{symbol}/dividend yield")
    vary = 0.85 + 0.3 * uniform(seed, f"{symbol}/dividend", days[positions])
    return positions, yearly / 4.0 * vary


def _splits(
    seed: int,
    symbol: str,
    days: npt.NDArray[np.int64],
    unsplit: Floats,
    taken: set[int],
) -> tuple[list[int], list[float]]:
    patience = 1.8 + 1.4 * constant(seed, f"{symbol}/split at")
    willing = uniform(seed, f"{symbol}/split", days) < _DAILY_SPLIT_CHANCE
    base, shares = float(unsplit[0]), 1.0
    positions: list[int] = []
    ratios: list[float] = []
    for position in np.flatnonzero(willing).tolist():
        if position == 0 or position in taken:
            continue
        rise = float(unsplit[position - 1]) / shares / base
        if rise < patience:
            continue
        ratio = float(min(4, max(2, round(rise))))
        shares *= ratio
        base = float(unsplit[position - 1]) / shares
        positions.append(position)
        ratios.append(ratio)
    return positions, ratios
