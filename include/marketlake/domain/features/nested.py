"""Statistics over the nested windows of Alpha158, 5, 10, 20, 30 and 60 sessions at once.

A sum over 10 is that over 5 and that over 5 five sessions before, and so on up: one addition a
window. Moments merge the same way (Chan, Golub and LeVeque 1979). Nothing is subtracted out of a
running sum, so nothing drifts, and each value is a function of its own window. Matrices are
[n_symbols, size], statistics [5, n_symbols, size]; the first ``WARM_UP`` of each size only serve
the later ones.
"""

from __future__ import annotations

import numpy as np

from marketlake.domain.features.compiled import kernel
from marketlake.domain.prices import Floats

WINDOWS = (5, 10, 20, 30, 60)
WARM_UP = 60
_LEVELS = 5
_HALVES = ((1, 0, 0, 5), (2, 1, 1, 10), (3, 2, 1, 20), (4, 3, 3, 30))
"""A window, the two it is made of, and how far back the older one ends."""


@kernel
def present(x: Floats) -> tuple[Floats, Floats]:
    """Return 1 where x is finite and 0 elsewhere, and x with zeros there."""
    there, filled = np.empty(x.shape), np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            is_there = abs(x[s, i]) < np.inf
            there[s, i] = 1.0 if is_there else 0.0
            filled[s, i] = x[s, i] if is_there else 0.0
    return there, filled


@kernel
def sums(x: Floats) -> Floats:
    """Return the sums of x, which is zero where missing."""
    size = x.shape[1]
    out = np.zeros((_LEVELS, *x.shape))
    for s in range(x.shape[0]):
        for back in range(5):
            base, values = out[0, s, back:], x[s]
            for i in range(size - back):
                base[i] += values[i]
        for level, newer, older, shift in _HALVES:
            left, right, total = out[newer, s], out[older, s], out[level, s]
            for i in range(shift):
                total[i] = left[i]
            later, result = left[shift:], total[shift:]
            for i in range(size - shift):
                result[i] = later[i] + right[i]
    return out


@kernel
def merge_weights(n: Floats) -> Floats:
    """Return 1 / (a b (a + b)) for the two halves of each window, 0 where one of them is empty."""
    weights = np.zeros(n.shape)
    for level, newer, older, shift in _HALVES:
        for s in range(n.shape[1]):
            a, b, out = n[newer, s, shift:], n[older, s], weights[level, s, shift:]
            for i in range(a.size):
                product = a[i] * b[i] * (a[i] + b[i])
                out[i] = 1.0 / product if product > 0.0 else 0.0
    return weights


@kernel
def moments(
    x: Floats, sx: Floats, y: Floats, sy: Floats, there: Floats, n: Floats, weights: Floats
) -> Floats:
    """Return sum((x - mean x)(y - mean y)) over what is there, given the sums of x and y."""
    size = x.shape[1]
    out = np.empty(n.shape)
    near_x, near_y = np.empty(size), np.empty(size)
    for s in range(x.shape[0]):
        # The base is taken about the newest value: exactly zero where all values are equal.
        last_x, last_y = 0.0, 0.0
        for i in range(size):
            if there[s, i] > 0.0:
                last_x, last_y = x[s, i], y[s, i]
            near_x[i], near_y[i] = last_x, last_y
        dx, dy, dxy = np.zeros(size), np.zeros(size), np.zeros(size)
        for back in range(5):
            for i in range(size - back):
                a = (x[s, i] - near_x[back + i]) * there[s, i]
                b = (y[s, i] - near_y[back + i]) * there[s, i]
                dx[back + i] += a
                dy[back + i] += b
                dxy[back + i] += a * b
        for i in range(size):
            out[0, s, i] = dxy[i] - dx[i] * dy[i] / n[0, s, i] if n[0, s, i] > 0.0 else 0.0
        for level, newer, older, shift in _HALVES:
            left, right, result = out[newer, s], out[older, s], out[level, s]
            for i in range(shift):
                result[i] = left[i]
            _merge(
                left[shift:], right, sx[newer, s, shift:], sx[older, s], sy[newer, s, shift:],
                sy[older, s], n[newer, s, shift:], n[older, s], weights[level, s, shift:],
                result[shift:],
            )  # fmt: skip
    return out


@kernel
def _merge(
    newer: Floats,
    older: Floats,
    xa: Floats,
    xb: Floats,
    ya: Floats,
    yb: Floats,
    na: Floats,
    nb: Floats,
    weights: Floats,
    out: Floats,
) -> None:
    for i in range(out.size):
        dx = nb[i] * xa[i] - na[i] * xb[i]
        dy = nb[i] * ya[i] - na[i] * yb[i]
        out[i] = newer[i] + older[i] + dx * dy * weights[i]


@kernel
def highest(x: Floats) -> tuple[Floats, Floats]:
    """Return the highest of each window and the position of the earliest such.

    x is -inf where missing.
    """
    size = x.shape[1]
    best, at = np.empty((_LEVELS, *x.shape)), np.empty((_LEVELS, *x.shape))
    for s in range(x.shape[0]):
        for i in range(size):
            best[0, s, i], at[0, s, i] = x[s, i], i
        for back in range(1, 5):
            now, now_at, values = best[0, s, back:], at[0, s, back:], x[s]
            for i in range(size - back):
                is_older = values[i] >= now[i]
                now[i] = values[i] if is_older else now[i]
                now_at[i] = float(i) if is_older else now_at[i]
        for level, newer, older, shift in _HALVES:
            for i in range(shift):
                best[level, s, i], at[level, s, i] = best[newer, s, i], at[newer, s, i]
            a, a_at = best[newer, s, shift:], at[newer, s, shift:]
            b, b_at = best[older, s], at[older, s]
            out, out_at = best[level, s, shift:], at[level, s, shift:]
            for i in range(out.size):
                is_older = b[i] >= a[i]
                out[i] = b[i] if is_older else a[i]
                out_at[i] = b_at[i] if is_older else a_at[i]
    return best, at


@kernel
def standing(x: Floats) -> Floats:
    """Return how many of each window are below the newest, plus half of those equal, plus half.

    The newest is one of those equal: the average rank, from 1.
    """
    out = np.empty((_LEVELS, *x.shape))
    count = np.empty(x.shape[1])
    for s in range(x.shape[0]):
        count[:] = 0.5
        back = 0
        for level, window in enumerate(WINDOWS):
            while back < window:
                new, counted, old = x[s, back:], count[back:], x[s]
                for i in range(new.size):
                    counted[i] += 1.0 if old[i] < new[i] else (0.5 if old[i] == new[i] else 0.0)
                back += 1
            out[level, s] = count
    return out


@kernel
def quantiles(
    x: Floats, n: Floats, upper_share: float, lower_share: float
) -> tuple[Floats, Floats]:
    """Return two quantiles (linear) of what is there, from position ``WARM_UP`` on.

    x is NaN where missing, ``n`` how many are there.
    """
    upper, lower = np.full((_LEVELS, *x.shape), np.nan), np.full((_LEVELS, *x.shape), np.nan)
    for s in range(x.shape[0]):
        for level, window in enumerate(WINDOWS):
            values, there = x[s, WARM_UP - window :], n[level, s, WARM_UP:]
            _put_quantiles(
                values, window, upper_share * (there - 1.0), upper[level, s, WARM_UP:],
                lower_share * (there - 1.0), lower[level, s, WARM_UP:],
            )  # fmt: skip
    return upper, lower


@kernel
def _put_quantiles(
    x: Floats, window: int, high_at: Floats, high: Floats, low_at: Floats, low: Floats
) -> None:
    """Put the values at two places (from 0) of the windows that end at ``window`` and later.

    Nothing is sorted: each value comes with its rank among those before it, which goes up or down
    by one at most as the window moves on, and the values at the ranks around a place are picked.
    Each step is taken for all windows at once, as many at a time as the processor takes: whole
    numbers are floats because x is, and every element is read before one is chosen.
    """
    # A missing value compares with nothing: it moves no other, and its rank stays missing.
    ranks = np.where(x == x, 0.0, np.nan)
    for back in range(1, window):
        new, rank = x[back:], ranks[back:]
        for i in range(new.size):
            rank[i] += 1.0 if x[i] <= new[i] else 0.0
    high_rank, low_rank = np.floor(high_at), np.floor(low_at)
    above_high, above_low = np.full(high.size, np.nan), np.full(low.size, np.nan)
    for back in range(window):
        if back:
            # Windows that are not full yet lose nothing.
            own, new, rank = x[: window - back], x[back:], ranks[: window - back]
            for i in range(own.size):
                rank[i] += 1.0 if own[i] > new[i] else 0.0
            own, new, rank = x[window - back :], x[window:], ranks[window - back :]
            for i in range(new.size):
                up, down = own[i] > new[i], own[i] >= x[i]
                rank[i] += (1.0 if up else 0.0) - (1.0 if down else 0.0)
        own, rank = x[window - back :], ranks[window - back :]
        _pick(own, rank, high_rank, high, above_high)
        _pick(own, rank, low_rank, low, above_low)
    _interpolate(high, above_high, high_at - high_rank)
    _interpolate(low, above_low, low_at - low_rank)


@kernel
def _pick(own: Floats, rank: Floats, wanted: Floats, at: Floats, above: Floats) -> None:
    for i in range(at.size):
        value, before, before_above = own[i], at[i], above[i]
        at[i] = value if rank[i] == wanted[i] else before
        above[i] = value if rank[i] == wanted[i] + 1.0 else before_above


@kernel
def _interpolate(at: Floats, above: Floats, share: Floats) -> None:
    for i in range(at.size):
        if above[i] == above[i]:  # else one value alone is there
            at[i] += (above[i] - at[i]) * share[i]
