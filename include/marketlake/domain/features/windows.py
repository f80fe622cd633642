"""Statistics over trailing windows of many series, by the catalog's rule for missing values.

Series are the rows of a float64 matrix with NaN where there is no value, and so are the results. A
statistic is that of what is there, and NaN where fewer than 80 % of its window's values (or of its
weight) are; the first ``window - 1`` results see a window that begins with nothing. Windows are
summed by themselves, newest value first: no running sum, nothing drifts, and a value needs no more
history than its window. Exponential smoothing has a finite window too: after
``memory_sessions(alpha)`` one millionth of the weight would be left.

Sums are of all windows at once, four values to a pass: as many windows at a time as the processor
takes, and each in its own order. Zeros in front of a series stand for the sessions before it.
"""

from __future__ import annotations

import math

import numpy as np

from marketlake.contracts.factors import WEIGHT_LEFT
from marketlake.domain.features.compiled import kernel
from marketlake.domain.prices import Floats

MIN_THERE = 0.8


@kernel
def ema(x: Floats, span: int) -> Floats:
    """Return the exponential moving average of that span."""
    return smooth(x, 2.0 / (span + 1.0))


@kernel
def wilder(x: Floats, window: int) -> Floats:
    """Return Wilder's moving average."""
    return smooth(x, 1.0 / window)


@kernel
def lowest(x: Floats, window: int) -> Floats:
    """Return the lowest of what is there."""
    return negative(highest(negative(x), window))


@kernel
def before(x: Floats, sessions: int) -> Floats:
    """Return the value that many sessions ago, NaN where it is missing."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        old, new, later = x[row], out[row], out[row, sessions:]
        for i in range(min(sessions, new.size)):
            new[i] = np.nan
        for i in range(later.size):
            later[i] = old[i]
    return out


@kernel
def since(x: Floats, first: int) -> Floats:
    """Return the sessions from ``first`` on."""
    out = np.empty((x.shape[0], x.shape[1] - first))
    for row in range(x.shape[0]):
        old, new = x[row, first:], out[row]
        for i in range(new.size):
            new[i] = old[i]
    return out


@kernel
def negative(x: Floats) -> Floats:
    """Return -x."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[row, i] = -x[row, i]
    return out


@kernel
def _there(x: Floats, ahead: int) -> tuple[Floats, Floats]:
    """1 where x is finite, and x where it is; zeros elsewhere and ``ahead`` of it."""
    there, filled = np.zeros(ahead + x.size), np.zeros(ahead + x.size)
    own_there, own_filled = there[ahead:], filled[ahead:]
    for i in range(x.size):
        is_there = abs(x[i]) < np.inf
        own_there[i] = 1.0 if is_there else 0.0
        own_filled[i] = x[i] if is_there else 0.0
    return there, filled


@kernel
def _sum(filled: Floats, ahead: int, window: int) -> Floats:
    total = np.zeros(filled.size - ahead)
    rest = window - window % 4
    for back in range(0, rest, 4):
        old = filled[ahead - back - 3 :]
        for i in range(total.size):
            total[i] = total[i] + old[i + 3] + old[i + 2] + old[i + 1] + old[i]
    for back in range(rest, window):
        old = filled[ahead - back :]
        for i in range(total.size):
            total[i] += old[i]
    return total


@kernel
def _count(x: Floats, window: int) -> Floats:
    """How many are there; of whole numbers a running sum is exact."""
    n, there = np.empty(x.size), np.zeros(window + x.size)
    own = there[window:]
    for i in range(x.size):
        own[i] = 1.0 if abs(x[i]) < np.inf else 0.0
    total = 0.0
    for i in range(x.size):
        total += own[i] - there[i]
        n[i] = total
    return n


@kernel
def mean(x: Floats, window: int) -> Floats:
    """Return the mean of what is there."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        there, filled = _there(x[row], window)
        total, n, average = _sum(filled, window, window), _sum(there, window, window), out[row]
        for i in range(average.size):
            average[i] = total[i] / n[i] if n[i] >= MIN_THERE * window else np.nan
    return out


@kernel
def std(x: Floats, window: int, ddof: int) -> Floats:
    """Return the standard deviation: exactly 0 where all values of a window are equal."""
    centred, n = squares(x, window)
    return std_of(centred, n, window, ddof)


@kernel
def squares(x: Floats, window: int) -> tuple[Floats, Floats]:
    """Return the sum of the squared distances from a window's mean, and how many are there."""
    centred, n = np.empty(x.shape), np.empty(x.shape)
    for row in range(x.shape[0]):
        there, near = _there(x[row], window)
        last = 0.0
        for i in range(near.size):
            last = near[i] if there[i] > 0.0 else last
            near[i] = last  # the newest value there is: squares are taken about it
        total, squared = np.zeros(x.shape[1]), np.zeros(x.shape[1])
        _add_distances(near, there, window, total, squared)
        own, count, known = centred[row], n[row], _count(x[row], window)
        for i in range(own.size):
            own[i] = squared[i] - total[i] * total[i] / known[i]
            count[i] = known[i]
    return centred, n


@kernel
def _add_distances(
    near: Floats, there: Floats, window: int, total: Floats, squared: Floats
) -> None:
    """Add the windows' distances from their newest value, and the squares of those.

    ``near`` and ``there`` begin ``window`` sessions before the first of the windows' ends.
    """
    rest = window - window % 4
    about = near[window:]
    for back in range(0, rest, 4):
        old, weight = near[window - back - 3 :], there[window - back - 3 :]
        for i in range(total.size):
            a = (old[i + 3] - about[i]) * weight[i + 3]
            b = (old[i + 2] - about[i]) * weight[i + 2]
            c = (old[i + 1] - about[i]) * weight[i + 1]
            d = (old[i] - about[i]) * weight[i]
            total[i] = total[i] + a + b + c + d
            squared[i] = squared[i] + a * a + b * b + c * c + d * d
    for back in range(rest, window):
        old, weight = near[window - back :], there[window - back :]
        for i in range(total.size):
            a = (old[i] - about[i]) * weight[i]
            total[i] += a
            squared[i] += a * a


@kernel
def std_of(centred: Floats, n: Floats, window: int, ddof: int) -> Floats:
    """Return the standard deviation from what :func:`squares` returns."""
    out = np.empty(n.shape)
    for row in range(n.shape[0]):
        own, count, spread = centred[row], n[row], out[row]
        for i in range(spread.size):
            is_valid = (count[i] >= MIN_THERE * window) & (count[i] > ddof)
            variance = (own[i] if own[i] > 0.0 else 0.0) / (count[i] - ddof)
            spread[i] = np.sqrt(variance) if is_valid else np.nan
    return out


@kernel
def weighted_mean(x: Floats, window: int) -> Floats:
    """Return the linearly weighted mean: ``window`` for the newest value, 1 for the oldest."""
    out = np.empty(x.shape)
    least = MIN_THERE * window * (window + 1) / 2.0
    for row in range(x.shape[0]):
        there, filled = _there(x[row], window)
        total, weight, average = np.zeros(x.shape[1]), np.zeros(x.shape[1]), out[row]
        for back in range(window):
            share = float(window - back)
            old, old_there = filled[window - back :], there[window - back :]
            for i in range(total.size):
                total[i] += share * old[i]
                weight[i] += share * old_there[i]
        for i in range(average.size):
            average[i] = total[i] / weight[i] if weight[i] >= least else np.nan
    return out


@kernel
def smooth(x: Floats, alpha: float) -> Floats:
    """Return the exponential smoothing over its memory, weights scaled to sum to 1.

    Its sums run from the beginning of x, which is therefore fixed by the calendar.
    """
    out = np.empty(x.shape)
    keep = 1.0 - alpha
    length = math.ceil(math.log(WEIGHT_LEFT) / math.log(keep))
    lost = keep**length
    least = MIN_THERE * (1.0 - lost) / alpha
    size = x.shape[1]
    totals, weights = np.empty((2, size)), np.empty((2, size))
    for row in range(0, x.shape[0], 2):
        # Each step waits for the one before: two rows at a time wait no longer than one.
        second = min(row + 1, x.shape[0] - 1)
        (there, filled), (b_there, b_filled) = _there(x[row], length), _there(x[second], length)
        total, weight, b_total, b_weight = 0.0, 0.0, 0.0, 0.0
        for i in range(size):
            total = keep * total + filled[length + i] - lost * filled[i]
            weight = keep * weight + there[length + i] - lost * there[i]
            b_total = keep * b_total + b_filled[length + i] - lost * b_filled[i]
            b_weight = keep * b_weight + b_there[length + i] - lost * b_there[i]
            totals[0, i], weights[0, i] = total, weight
            totals[1, i], weights[1, i] = b_total, b_weight
        for k in range(2):
            total_of, weight_of, average = totals[k], weights[k], out[second if k else row]
            for i in range(size):
                average[i] = total_of[i] / weight_of[i] if weight_of[i] >= least else np.nan
    return out


@kernel
def highest(x: Floats, window: int) -> Floats:
    """Return the highest of what is there: of 2, 4, 8 ... sessions, then of the window."""
    out = np.empty(x.shape)
    size = x.shape[1]
    best, longer = np.empty(size), np.empty(size)
    for row in range(x.shape[0]):
        own, result, n = x[row], out[row], _count(x[row], window)
        for i in range(size):
            best[i] = own[i] if own[i] > -np.inf else -np.inf
        width = 1
        while width < window:
            step = min(width, window - width)
            now, newer = longer[step:], best[step:]
            for i in range(min(step, size)):
                longer[i] = best[i]
            for i in range(now.size):
                now[i] = best[i] if best[i] > newer[i] else newer[i]
            best, longer = longer, best
            width += step
        for i in range(size):
            result[i] = best[i] if n[i] >= MIN_THERE * window else np.nan
    return out


@kernel
def sessions_since_highest(x: Floats, window: int) -> Floats:
    """Return the sessions since the latest of the highest values."""
    out = np.zeros(x.shape)
    for row in range(x.shape[0]):
        n, value, best = _count(x[row], window), x[row], np.full(x.shape[1], -np.inf)
        for back in range(window):
            so_far, ago = best[back:], out[row, back:]
            for i in range(so_far.size):
                is_higher = value[i] > so_far[i]
                so_far[i] = value[i] if is_higher else so_far[i]
                ago[i] = float(back) if is_higher else ago[i]
        for i in range(n.size):
            out[row, i] = out[row, i] if n[i] >= MIN_THERE * window else np.nan
    return out


@kernel
def mean_power_about(x: Floats, centre: Floats, window: int, power: int) -> Floats:
    """Return the mean of ``|x - centre of the window's last session| ** power``, power 1 or 4."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        there, filled = _there(x[row], window)
        total, about, average = np.zeros(x.shape[1]), centre[row], out[row]
        n = _count(x[row], window)
        for back in range(window):
            old, weight = filled[window - back :], there[window - back :]
            for i in range(total.size):
                away = abs(old[i] - about[i])
                total[i] += weight[i] * (away if power == 1 else away * away * away * away)
        for i in range(average.size):
            average[i] = total[i] / n[i] if n[i] >= MIN_THERE * window else np.nan
    return out


@kernel
def correlation(x: Floats, y: Floats, window: int) -> Floats:
    """Return the correlation over the sessions where both are there, NaN for a flat window.

    Its sums are oldest value first.
    """
    out = np.empty(x.shape)
    size = x.shape[1]
    for row in range(x.shape[0]):
        one, other, both = np.zeros(window + size), np.zeros(window + size), np.zeros(window + size)
        for i in range(size):
            if abs(x[row, i] + y[row, i]) < np.inf:
                one[window + i], other[window + i], both[window + i] = x[row, i], y[row, i], 1.0
        n, mean_x, mean_y = _sum(both, window, window), np.zeros(size), np.zeros(size)
        for back in range(window - 1, -1, -1):
            a, b = one[window - back :], other[window - back :]
            for i in range(size):
                mean_x[i] += a[i]
                mean_y[i] += b[i]
        for i in range(size):
            mean_x[i] /= n[i]
            mean_y[i] /= n[i]
        xx, yy, xy = np.zeros(size), np.zeros(size), np.zeros(size)
        for back in range(window - 1, -1, -1):
            a, b, weight = one[window - back :], other[window - back :], both[window - back :]
            for i in range(size):
                dx, dy = (a[i] - mean_x[i]) * weight[i], (b[i] - mean_y[i]) * weight[i]
                xx[i] += dx * dx
                yy[i] += dy * dy
                xy[i] += dx * dy
        for i in range(size):
            is_valid = (n[i] >= MIN_THERE * window) & (xx[i] > 0.0) & (yy[i] > 0.0)
            out[row, i] = xy[i] / np.sqrt(xx[i] * yy[i]) if is_valid else np.nan
    return out


@kernel
def spreads_of_changes(c: Floats, window: int, max_lag: int, first: int, out: Floats) -> None:
    """Put std(c[t] - c[t - lag]) of what a window of c holds, for lags 2 .. ``max_lag``.

    ``out`` is [max_lag - 1, n_series, sessions from ``first`` on].
    """
    for lag in range(2, max_lag + 1):
        length = window - lag
        # Missing values stand for sessions before the first.
        changed = differences(c, lag)
        for row in range(c.shape[0]):
            there, near = _there(changed[row], length)
            last = 0.0
            for i in range(near.size):
                last = near[i] if there[i] > 0.0 else last
                near[i] = last
            to = out[lag - 2, row]
            there, near = there[first:], near[first:]
            total, squared = np.zeros(to.size), np.zeros(to.size)
            n = _count(changed[row], length)[first:]
            _add_distances(near, there, length, total, squared)
            for i in range(to.size):
                centred = squared[i] - total[i] * total[i] / n[i]
                spread = np.sqrt((centred if centred > 0.0 else 0.0) / n[i])
                to[i] = spread if n[i] >= MIN_THERE * length else np.nan


@kernel
def differences(x: Floats, sessions: int) -> Floats:
    """Return the change over that many sessions."""
    out = np.empty(x.shape)
    for row in range(x.shape[0]):
        old, own, change = x[row], x[row, sessions:], out[row, sessions:]
        for i in range(min(sessions, x.shape[1])):
            out[row, i] = np.nan
        for i in range(change.size):
            change[i] = own[i] - old[i]
    return out
