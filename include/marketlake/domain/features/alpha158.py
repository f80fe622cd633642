"""The 158 factors of Qlib's Alpha158, all of some symbols' block of sessions in one pass.

The windowed statistics are those of ``nested``; the kernels here turn them into factors. Rows of
the result are in the order of ``contracts.factors.ALPHA158``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from marketlake.contracts.factors import ALPHA158
from marketlake.domain.features import nested
from marketlake.domain.features.basis import cut_all, put
from marketlake.domain.features.compiled import entry, kernel
from marketlake.domain.features.nested import WARM_UP, WINDOWS
from marketlake.domain.prices import Floats

_LEVELS = 5
_NEAR_ZERO = 1e-12
"""What Alpha158 adds to a denominator that may be zero."""
_FLAT = 1e-9
"""A standard deviation below this share of the mean is rounding: the window is flat."""
_FLAT_QLIB = 2e-5
_LONG_AGO = np.iinfo(np.int64).min


def fill(
    arrays: tuple[Floats, ...],
    *,
    symbols: NDArray[np.int64],
    blocks: NDArray[np.int64],
    out: NDArray[np.floating],
    like_qlib: bool,
) -> None:
    """Write the factors of a run of symbols.

    Parameters
    ----------
    arrays
        ``prices.Bars.arrays``.
    symbols
        First and end row of the arrays to compute: [2].
    blocks
        One row a calendar block: its first session, the first one wanted of it, its end, and where
        that goes in ``out``: [n_blocks, 4].
    out
        [158, n_symbols, n_sessions] of any float type.
    like_qlib
        Qlib's rule where values are missing (any one value of a window is enough, a comparison
        with nothing is False) in place of the catalog's.
    """
    least = np.array([1.0 if like_qlib else np.ceil(0.8 * window) for window in WINDOWS])
    there = arrays[3][symbols[0] : symbols[1]] > 0.0
    listed = np.where(there.any(axis=1), there.argmax(axis=1), there.shape[1])
    # One for all blocks: given back after each, its pages would be asked for again.
    buffer = np.empty(len(ALPHA158) * len(there) * int((blocks[:, 2] - blocks[:, 1]).max()))
    for start, wanted, end, column in blocks:
        first = wanted - WARM_UP
        bars = cut_all(arrays, symbols, min(first, start), start, end)
        bars = np.ascontiguousarray(bars[:, :, first - min(first, start) :])
        shape = len(ALPHA158), len(there), end - wanted
        made = buffer[: math.prod(shape)].reshape(shape)
        volumes = bars[4]
        # NumPy's logarithm takes many values at a time, compiled code one.
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.log(volumes + 1.0), np.log(_ratios(volumes) + 1.0)
        _put(bars, logs, listed - first, least, like_qlib, made)
        put(made, out[:, :, column : column + end - wanted])


@entry
def _put(
    bars: Floats,
    logs: tuple[Floats, Floats],
    listed: NDArray[np.int64],
    least: Floats,
    like_qlib: bool,
    made: Floats,
) -> None:
    """Put all factors; ``logs`` are of the volumes plus 1, and of their ratios plus 1.

    Compiled as one piece: threads would wait for each other's Python.
    """
    _put_of_prices(bars, listed, least, like_qlib, made)
    _put_of_volumes(bars, logs, least, like_qlib, made)


@kernel
def _put_of_prices(
    bars: Floats, listed: NDArray[np.int64], least: Floats, like_qlib: bool, made: Floats
) -> None:
    highs, lows, c = bars[1], bars[2], bars[3]
    _put_shapes(bars, made[:13])

    there, filled = nested.present(c)
    n, sc = nested.sums(there), nested.sums(filled)
    weights = nested.merge_weights(n)
    position = there * np.arange(c.shape[1])
    sp = nested.sums(position)
    cc = nested.moments(filled, sc, filled, sc, there, n, weights)
    pp = nested.moments(position, sp, position, sp, there, n, weights)
    pc = nested.moments(position, sp, filled, sc, there, n, weights)
    _put_lines(c, n, sc, sp, cc, pp, pc, least, like_qlib, made[13:43])

    upper, lower = nested.quantiles(c, n, 0.8, 0.2)
    _put_ranks(c, n, upper, lower, nested.standing(c), least, made[53:68])

    n_high, n_low = nested.sums(nested.present(highs)[0]), nested.sums(nested.present(lows)[0])
    top, top_at = nested.highest(np.where(np.isnan(highs), -np.inf, highs))
    bottom, bottom_at = nested.highest(np.where(np.isnan(lows), -np.inf, -lows))
    # Qlib counts the places of a window that begins before the listing from the listing.
    from_listing = listed if like_qlib else np.full_like(listed, _LONG_AGO)
    _put_extremes(
        c, n_high, top, top_at, n_low, bottom, bottom_at, from_listing, least,
        made[43:53], made[68:88],
    )  # fmt: skip

    there, filled = nested.present(_changes(c))
    n = nested.sums(there)
    gains, losses = nested.sums(np.maximum(filled, 0.0)), nested.sums(np.maximum(-filled, 0.0))
    _put_gains(c, n, gains, losses, least, made[113:128])
    if like_qlib:  # there, a comparison with nothing is False, and counts
        for s in range(len(listed)):
            for i in range(c.shape[1]):
                there[s, i] = 1.0 if i >= listed[s] else 0.0
        n = nested.sums(there)
    ups = nested.sums((filled > 0.0).astype(np.float64))
    downs = nested.sums((filled < 0.0).astype(np.float64))
    _put_counts(c, n, ups, downs, least, made[98:113])


@kernel
def _put_of_volumes(
    bars: Floats, logs: tuple[Floats, Floats], least: Floats, like_qlib: bool, made: Floats
) -> None:
    c, v = bars[3], bars[4]
    ratio = _ratios(c)
    _put_correlation(c, logs[0], c, least, like_qlib, made[88:93])
    _put_correlation(ratio, logs[1], c, least, like_qlib, made[93:98])
    _put_spread(v, c, v, True, least, like_qlib, made[128:138])
    _put_spread(np.abs(ratio - 1.0) * v, c, v, False, least, like_qlib, made[133:143])

    there, filled = nested.present(_changes(v))
    gains, losses = nested.sums(np.maximum(filled, 0.0)), nested.sums(np.maximum(-filled, 0.0))
    _put_gains(c, nested.sums(there), gains, losses, least, made[143:158])


@kernel
def _put_correlation(
    x: Floats, y: Floats, c: Floats, least: Floats, like_qlib: bool, out: Floats
) -> None:
    there, _ = nested.present(x + y)
    x, y = np.where(there > 0.0, x, 0.0), np.where(there > 0.0, y, 0.0)
    n, sx, sy = nested.sums(there), nested.sums(x), nested.sums(y)
    weights = nested.merge_weights(n)
    xx = nested.moments(x, sx, x, sx, there, n, weights)
    yy = nested.moments(y, sy, y, sy, there, n, weights)
    xy = nested.moments(x, sx, y, sy, there, n, weights)
    _put_ratios(c, n, sx, sy, xx, yy, xy, least, like_qlib, out)


@kernel
def _put_spread(
    x: Floats, c: Floats, v: Floats, is_volume: bool, least: Floats, like_qlib: bool, out: Floats
) -> None:
    there, filled = nested.present(x)
    n, total = nested.sums(there), nested.sums(filled)
    squares = nested.moments(filled, total, filled, total, there, n, nested.merge_weights(n))
    _put_spreads(c, v, n, total, squares, is_volume, like_qlib, least, out)


@kernel
def _changes(x: Floats) -> Floats:
    out = np.full_like(x, np.nan)
    for s in range(x.shape[0]):
        for i in range(1, x.shape[1]):
            out[s, i] = x[s, i] - x[s, i - 1]
    return out


@entry
def _ratios(x: Floats) -> Floats:
    out = np.full_like(x, np.nan)
    for s in range(x.shape[0]):
        for i in range(1, x.shape[1]):
            out[s, i] = x[s, i] / x[s, i - 1]
    return out


# --- from statistics to factors: ``out`` is [rows, n_symbols, sessions wanted] --------------------


@kernel
def _is_valid(n: float, least: float, today: float) -> bool:
    return (n >= least) & (today == today)


@kernel
def _is_flat(moment: float, total: float, n: float, like_qlib: bool) -> bool:
    flat = _FLAT_QLIB if like_qlib else _FLAT * abs(total) / n
    return moment <= flat * flat * (n - 1.0)


@kernel
def _put_shapes(bars: Floats, out: Floats) -> None:
    """The nine factors of a bar's own shape, then open, high, low and typical price over close."""
    for s in range(out.shape[1]):
        for j in range(out.shape[2]):
            i = WARM_UP + j
            o, h, low, c = bars[0, s, i], bars[1, s, i], bars[2, s, i], bars[3, s, i]
            # Written so that a missing open stays missing: max and min may drop a NaN.
            above = h - (c if c > o else o)
            below = (o if c > o else (c if c <= o else np.nan)) - low
            span = h - low + _NEAR_ZERO
            out[0, s, j] = (c - o) / o
            out[1, s, j] = (h - low) / o
            out[2, s, j] = (c - o) / span
            out[3, s, j] = above / o
            out[4, s, j] = above / span
            out[5, s, j] = below / o
            out[6, s, j] = below / span
            out[7, s, j] = (2.0 * c - h - low) / o
            out[8, s, j] = (2.0 * c - h - low) / span
            out[9, s, j] = o / c
            out[10, s, j] = h / c
            out[11, s, j] = low / c
            out[12, s, j] = (h + low + c) / 3.0 / c


@kernel
def _put_lines(
    c: Floats,
    n: Floats,
    sc: Floats,
    sp: Floats,
    cc: Floats,
    pp: Floats,
    pc: Floats,
    least: Floats,
    like_qlib: bool,
    out: Floats,
) -> None:
    """ROC, MA, STD, BETA, RSQR, RESI."""
    for level, window in enumerate(WINDOWS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                last, count = c[s, i], n[level, s, i]
                total, moment = sc[level, s, i], cc[level, s, i]
                is_valid = _is_valid(count, least[level], last)
                mean, slope = total / count, pc[level, s, i] / pp[level, s, i]
                is_flat = _is_flat(moment, total, count, like_qlib)
                # Whole numbers up to the last division: the same bits at any place in the block.
                residual = last - mean - slope * ((i * count - sp[level, s, i]) / count)
                out[level, s, j] = c[s, i - window] / last
                out[5 + level, s, j] = mean / last if is_valid else np.nan
                std = np.sqrt(moment / (count - 1.0))
                out[10 + level, s, j] = std / last if is_valid else np.nan
                out[15 + level, s, j] = slope / last if is_valid else np.nan
                square = slope * pc[level, s, i] / moment
                out[20 + level, s, j] = square if is_valid and not is_flat else np.nan
                out[25 + level, s, j] = residual / last if is_valid else np.nan


@kernel
def _put_ranks(
    c: Floats, n: Floats, upper: Floats, lower: Floats, place: Floats, least: Floats, out: Floats
) -> None:
    """QTLU, QTLD, RANK."""
    for level in range(_LEVELS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                is_valid = _is_valid(n[level, s, i], least[level], c[s, i])
                out[level, s, j] = upper[level, s, i] / c[s, i] if is_valid else np.nan
                out[5 + level, s, j] = lower[level, s, i] / c[s, i] if is_valid else np.nan
                out[10 + level, s, j] = place[level, s, i] / n[level, s, i] if is_valid else np.nan


@kernel
def _put_extremes(
    c: Floats,
    n_high: Floats,
    top: Floats,
    top_at: Floats,
    n_low: Floats,
    bottom: Floats,
    bottom_at: Floats,
    listed: NDArray[np.int64],
    least: Floats,
    levels_out: Floats,
    places_out: Floats,
) -> None:
    """MAX and MIN; RSV, IMAX, IMIN and IMXD. ``bottom`` is the highest of -low."""
    for level, window in enumerate(WINDOWS):
        for s in range(levels_out.shape[1]):
            for j in range(levels_out.shape[2]):
                i = WARM_UP + j
                has_high = _is_valid(n_high[level, s, i], least[level], c[s, i])
                has_low = _is_valid(n_low[level, s, i], least[level], c[s, i])
                high, low = top[level, s, i], -bottom[level, s, i]
                oldest = max(i - window + 1, listed[s])
                high_place, low_place = top_at[level, s, i], bottom_at[level, s, i]
                levels_out[level, s, j] = high / c[s, i] if has_high else np.nan
                levels_out[5 + level, s, j] = low / c[s, i] if has_low else np.nan
                stand = (c[s, i] - low) / (high - low + _NEAR_ZERO)
                places_out[level, s, j] = stand if has_high and has_low else np.nan
                places = (high_place - oldest + 1) / window
                places_out[5 + level, s, j] = places if has_high else np.nan
                places = (low_place - oldest + 1) / window
                places_out[10 + level, s, j] = places if has_low else np.nan
                places = (high_place - low_place) / window
                places_out[15 + level, s, j] = places if has_high and has_low else np.nan


@kernel
def _put_ratios(
    c: Floats,
    n: Floats,
    sx: Floats,
    sy: Floats,
    xx: Floats,
    yy: Floats,
    xy: Floats,
    least: Floats,
    like_qlib: bool,
    out: Floats,
) -> None:
    """CORR and CORD."""
    for level in range(_LEVELS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                count, a, b = n[level, s, i], xx[level, s, i], yy[level, s, i]
                is_valid = _is_valid(count, least[level], c[s, i])
                is_valid &= not _is_flat(a, sx[level, s, i], count, like_qlib)
                is_valid &= not _is_flat(b, sy[level, s, i], count, like_qlib)
                out[level, s, j] = xy[level, s, i] / np.sqrt(a * b) if is_valid else np.nan


@kernel
def _put_counts(
    c: Floats, n: Floats, ups: Floats, downs: Floats, least: Floats, out: Floats
) -> None:
    """CNTP, CNTN, CNTD."""
    for level in range(_LEVELS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                count = n[level, s, i]
                is_valid = _is_valid(count, least[level], c[s, i])
                up, down = ups[level, s, i] / count, downs[level, s, i] / count
                out[level, s, j] = up if is_valid else np.nan
                out[5 + level, s, j] = down if is_valid else np.nan
                out[10 + level, s, j] = up - down if is_valid else np.nan


@kernel
def _put_gains(
    c: Floats, n: Floats, gains: Floats, losses: Floats, least: Floats, out: Floats
) -> None:
    """SUMP, SUMN, SUMD of prices, VSUMP, VSUMN, VSUMD of volumes."""
    for level in range(_LEVELS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                is_valid = _is_valid(n[level, s, i], least[level], c[s, i])
                up, down = gains[level, s, i], losses[level, s, i]
                total = up + down + _NEAR_ZERO
                out[level, s, j] = up / total if is_valid else np.nan
                out[5 + level, s, j] = down / total if is_valid else np.nan
                out[10 + level, s, j] = (up - down) / total if is_valid else np.nan


@kernel
def _put_spreads(
    c: Floats,
    v: Floats,
    n: Floats,
    total: Floats,
    squares: Floats,
    is_volume: bool,
    like_qlib: bool,
    least: Floats,
    out: Floats,
) -> None:
    """VMA and VSTD, over the last volume; or WVMA in the last five rows, over the mean."""
    for level in range(_LEVELS):
        for s in range(out.shape[1]):
            for j in range(out.shape[2]):
                i = WARM_UP + j
                count = n[level, s, i]
                is_valid = _is_valid(count, least[level], c[s, i])
                mean = total[level, s, i] / count
                base = v[s, i] if is_volume else mean
                is_valid &= (not is_volume) | like_qlib | (base > 0.0)
                std = np.sqrt(squares[level, s, i] / (count - 1.0))
                out[5 + level, s, j] = std / (base + _NEAR_ZERO) if is_valid else np.nan
                if is_volume:
                    out[level, s, j] = mean / (base + _NEAR_ZERO) if is_valid else np.nan
