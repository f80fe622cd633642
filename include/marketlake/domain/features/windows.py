"""Statistics over trailing windows of many series, by the catalog's rule for missing values.

Series are the rows of a float64 matrix with NaN where there is no value, and so are the results. A
statistic is that of what is there, and NaN where fewer than 80 % of its window's values (or of its
weight) are; the first ``window - 1`` results see a window that begins with nothing. Windows are
summed by themselves, newest value first: no running sum, nothing drifts. Exponential smoothing has
a finite window too: after ``memory_sessions(alpha)`` one millionth of the weight would be left.
"""

from __future__ import annotations

import numpy as np

from marketlake.contracts.factors import memory_sessions
from marketlake.domain.features.compiled import entry, kernel
from marketlake.domain.prices import Floats

MIN_THERE = 0.8


def ema(x: Floats, span: int) -> Floats:
    """Return the exponential moving average of that span."""
    return smooth(x, 2.0 / (span + 1.0), memory_sessions(2.0 / (span + 1.0)))


def wilder(x: Floats, window: int) -> Floats:
    """Return Wilder's moving average."""
    return smooth(x, 1.0 / window, memory_sessions(1.0 / window))


def lowest(x: Floats, window: int) -> Floats:
    """Return the lowest of what is there."""
    return -highest(-x, window)


def before(x: Floats, sessions: int) -> Floats:
    """Return the value that many sessions ago, NaN where it is missing."""
    out = np.full_like(x, np.nan)
    out[:, sessions:] = x[:, :-sessions]
    return out


@kernel
def _there(x: Floats) -> tuple[Floats, Floats]:
    there, filled = np.empty(x.size), np.empty(x.size)
    for i in range(x.size):
        is_there = abs(x[i]) < np.inf
        there[i] = 1.0 if is_there else 0.0
        filled[i] = x[i] if is_there else 0.0
    return there, filled


@kernel
def _sum(filled: Floats, window: int) -> Floats:
    total = np.zeros(filled.size)
    for back in range(window):
        later = total[back:]
        for i in range(later.size):
            later[i] += filled[i]
    return total


@entry
def mean(x: Floats, window: int) -> Floats:
    """Return the mean of what is there."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        there, filled = _there(x[row])
        total, n = _sum(filled, window), _sum(there, window)
        for i in range(n.size):
            out[row, i] = total[i] / n[i] if n[i] >= MIN_THERE * window else np.nan
    return out


@entry
def std(x: Floats, window: int, ddof: int) -> Floats:
    """Return the standard deviation: exactly 0 where all values of a window are equal."""
    size = x.shape[1]
    out = np.full(x.shape, np.nan)
    near = np.empty(size)
    for row in range(x.shape[0]):
        there, filled = _there(x[row])
        last = 0.0
        for i in range(size):
            last = filled[i] if there[i] > 0.0 else last
            near[i] = last  # the newest value there is: squares are taken about it
        total, squares, n = np.zeros(size), np.zeros(size), _sum(there, window)
        for back in range(window):
            about, sums, sums_of_squares = near[back:], total[back:], squares[back:]
            for i in range(about.size):
                away = (near[i] - about[i]) * there[i]
                sums[i] += away
                sums_of_squares[i] += away * away
        for i in range(size):
            if n[i] >= MIN_THERE * window and n[i] > ddof:
                centred = squares[i] - total[i] * total[i] / n[i]
                out[row, i] = np.sqrt(max(centred, 0.0) / (n[i] - ddof))
    return out


@entry
def weighted_mean(x: Floats, window: int) -> Floats:
    """Return the linearly weighted mean: ``window`` for the newest value, 1 for the oldest."""
    size = x.shape[1]
    out = np.empty(x.shape)
    least = MIN_THERE * window * (window + 1) / 2.0
    for row in range(x.shape[0]):
        there, filled = _there(x[row])
        total, weight = np.zeros(size), np.zeros(size)
        for back in range(window):
            share = float(window - back)
            sums, weights = total[back:], weight[back:]
            for i in range(sums.size):
                sums[i] += share * filled[i]
                weights[i] += share * there[i]
        for i in range(size):
            out[row, i] = total[i] / weight[i] if weight[i] >= least else np.nan
    return out


@entry
def smooth(x: Floats, alpha: float, length: int) -> Floats:
    """Return the exponential smoothing over ``length`` sessions, weights scaled to sum to 1.

    Its sums run from the beginning of x, which is therefore fixed by the calendar.
    """
    out = np.empty(x.shape)
    keep = 1.0 - alpha
    lost = keep**length
    least = MIN_THERE * (1.0 - lost) / alpha
    for row in range(x.shape[0]):
        there, filled = _there(x[row])
        total, weight = 0.0, 0.0
        for i in range(there.size):
            total = keep * total + filled[i]
            weight = keep * weight + there[i]
            if i >= length:
                total -= lost * filled[i - length]
                weight -= lost * there[i - length]
            out[row, i] = total / weight if weight >= least else np.nan
    return out


@entry
def highest(x: Floats, window: int) -> Floats:
    """Return the highest of what is there."""
    out = np.full(x.shape, -np.inf)
    for row in range(x.shape[0]):
        there, _ = _there(x[row])
        n, value = _sum(there, window), x[row]
        for back in range(window):
            best = out[row, back:]
            for i in range(best.size):
                best[i] = value[i] if value[i] > best[i] else best[i]
        for i in range(n.size):
            out[row, i] = out[row, i] if n[i] >= MIN_THERE * window else np.nan
    return out


@entry
def sessions_since_highest(x: Floats, window: int) -> Floats:
    """Return the sessions since the latest of the highest values."""
    out = np.zeros(x.shape)
    for row in range(x.shape[0]):
        there, _ = _there(x[row])
        n, value, best = _sum(there, window), x[row], np.full(x.shape[1], -np.inf)
        for back in range(window):
            so_far, ago = best[back:], out[row, back:]
            for i in range(so_far.size):
                is_higher = value[i] > so_far[i]
                so_far[i] = value[i] if is_higher else so_far[i]
                ago[i] = float(back) if is_higher else ago[i]
        for i in range(n.size):
            out[row, i] = out[row, i] if n[i] >= MIN_THERE * window else np.nan
    return out


@entry
def mean_power_about(x: Floats, centre: Floats, window: int, power: int) -> Floats:
    """Return the mean of ``|x - centre of the window's last session| ** power``, power 1 or 4."""
    size = x.shape[1]
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        there, filled = _there(x[row])
        total, n = np.zeros(size), _sum(there, window)
        for back in range(window):
            about, sums = centre[row, back:], total[back:]
            for i in range(sums.size):
                away = abs(filled[i] - about[i])
                sums[i] += there[i] * (away if power == 1 else away * away * away * away)
        for i in range(size):
            out[row, i] = total[i] / n[i] if n[i] >= MIN_THERE * window else np.nan
    return out


@entry
def correlation(x: Floats, y: Floats, window: int) -> Floats:
    """Return the correlation over the sessions where both are there, NaN for a flat window."""
    size = x.shape[1]
    out = np.full(x.shape, np.nan)
    for row in range(x.shape[0]):
        for i in range(size):
            n, sx, sy = 0.0, 0.0, 0.0
            first = max(0, i - window + 1)
            for j in range(first, i + 1):
                if abs(x[row, j] + y[row, j]) < np.inf:
                    n, sx, sy = n + 1.0, sx + x[row, j], sy + y[row, j]
            if n < MIN_THERE * window:
                continue
            xx, yy, xy = 0.0, 0.0, 0.0
            for j in range(first, i + 1):
                if abs(x[row, j] + y[row, j]) < np.inf:
                    dx, dy = x[row, j] - sx / n, y[row, j] - sy / n
                    xx, yy, xy = xx + dx * dx, yy + dy * dy, xy + dx * dy
            if xx > 0.0 and yy > 0.0:
                out[row, i] = xy / np.sqrt(xx * yy)
    return out
