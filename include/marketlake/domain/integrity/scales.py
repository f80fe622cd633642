"""On which scale each bar of one series is: the wrong unit, or a split that did not reach it.

Looks at both sides of every bar it is given; to decide as of a session, give nothing later. What
does not belong: frames, and any factor that is neither a power of ten nor a listed split.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LOG_10 = float(np.log(10.0))
_NEAR = 0.25
"""Share of a factor, in logs, by which a jump may miss it: the noise of the market beside it."""
_NEAR_ALONE = 0.12
_BLOCK_BARS = 40
_SIGMAS = 5.0
_NEIGHBOURS = 3


@dataclass(frozen=True)
class Scales:
    """What to divide by: ``splits`` and ``units`` per bar, ``cells`` per bar and price.

    ``confidence`` is the share of the traded bars that agree on the unit.
    """

    splits: Floats
    units: Floats
    cells: Floats
    confidence: float


def scales(
    prices: Floats, moves: Floats, traded: Floats, splits: Sequence[tuple[int, float]]
) -> Scales:
    """Find the scale of each bar.

    Parameters
    ----------
    prices
        Open, high, low, close, all above zero, [n_bars, 4].
    moves
        Log move of the close against the bar before, actions taken out, [n_bars].
    traded
        1.0 where there was volume; a price nobody traded at says little of the unit.
    splits
        Position of the first bar from the ex-date on, and ratio.
    """
    logs = np.log(prices)
    middle = np.median(logs, axis=1)
    level = np.cumsum(np.nan_to_num(moves)) + middle - logs[:, 3]
    drift = middle - level
    steps = _steps(level)
    sigma = 1.4826 * float(np.median(np.abs(steps[1:]))) if len(steps) > 1 else 0.0
    by_split = np.zeros(len(level))
    for position, ratio in splits:
        # One after the other: what belongs to one split must not look like another's.
        by_split += _unadjusted(_steps(level - by_split), position, float(np.log(ratio)), sigma)
    level = level - by_split
    powers = _powers(_steps(level))
    state = np.cumsum(powers)
    weights = traded if traded.any() else np.ones_like(traded)
    shares = {value: weights[state == value].sum() for value in sorted(set(state))}
    home = max(shares, key=lambda value: (shares[value], (state == value).sum()))
    by_unit = (state - home) * _LOG_10
    cells = _odd_cells(logs - (by_split + by_unit)[:, None], level - by_unit, drift)
    return Scales(
        np.exp(by_split),
        10.0 ** (state - home),
        10.0**cells,
        float(shares[home] / weights.sum()),
    )


def _steps(level: Floats) -> Floats:
    return np.diff(level, prepend=level[0])


def _unadjusted(steps: Floats, position: int, factor: float, sigma: float) -> Floats:
    """Return ``factor`` for the bars near a split that are still on the old scale, 0 for others.

    A block is left by the jump that undoes the one that began it. A jump down to today's scale
    that no other belongs to puts all of the history before it on the old one; that is a lot to
    conclude, so it must fit the ratio more closely.
    """
    result = np.zeros(len(steps))
    if abs(factor) < _SIGMAS * sigma or factor == 0.0:
        return result
    size = steps / factor
    jumps = [int(at) for at in np.flatnonzero(np.abs(np.abs(size) - 1.0) < _NEAR)]
    while jumps:
        at = jumps.pop(0)
        back = jumps[0] if jumps and jumps[0] - at <= _BLOCK_BARS else None
        if back is not None and size[at] * size[back] < 0:
            jumps.pop(0)
            close_by = min(abs(at - position), abs(back - position)) <= _BLOCK_BARS
            if size[at] > 0 and close_by:
                result[at:back] += factor
        elif abs(size[at] + 1.0) < _NEAR_ALONE and abs(at - position) <= _BLOCK_BARS:
            result[:at] += factor
    return result


def _powers(steps: Floats) -> Floats:
    """Return the power of ten, 100 or more, that each step is near; 0 for every other step."""
    power = np.round(np.abs(steps) / _LOG_10)
    near = np.abs(np.abs(steps) - power * _LOG_10) < _NEAR * np.maximum(power, 1.0) * _LOG_10
    return np.where(near & (power >= 2), np.sign(steps) * power, 0.0)


def _odd_cells(logs: Floats, level: Floats, drift: Floats) -> Floats:
    """Return the power of ten by which single prices of a bar are off its neighbours' middle."""
    n = len(logs)
    if np.ptp(logs, axis=1).max(initial=0.0) < _LOG_10:
        return np.zeros_like(logs)
    around = np.full((n, 2 * _NEIGHBOURS), np.nan)
    for k in range(1, _NEIGHBOURS + 1):
        around[k:, k - 1] = level[:-k]
        around[:-k, -k] = level[k:]
    with np.errstate(all="ignore"):
        usual = np.nanmedian(around, axis=1) if n > 1 else level
    off = logs - (usual + drift)[:, None]
    off = np.where((np.ptp(logs, axis=1) > _LOG_10)[:, None], off, 0.0)
    return _powers(off)
