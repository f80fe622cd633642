"""Classic indicators of a symbol's block of sessions, compiled as one piece.

First the indicators by their textbook formulas, in their own units and for any window; then
``fill``, which takes the catalog's windows and brings all to a scale that symbols share. Rows of
the result are in the order of ``contracts.factors.INDICATORS``. Only exponential averages pass over
a block's whole warm-up; what has a window begins as far back as the longest of them looks. What
does not belong: Parabolic SAR, SuperTrend, Connors' streaks and KAMA, whose memory has no bound;
the Chikou span, which is the close of 26 sessions later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marketlake.contracts.factors import INDICATORS
from marketlake.domain.features.basis import cut_all, put
from marketlake.domain.features.compiled import entry, kernel
from marketlake.domain.features.windows import (
    before,
    correlation,
    differences,
    ema,
    highest,
    lowest,
    mean,
    mean_power_about,
    negative,
    sessions_since_highest,
    since,
    spreads_of_changes,
    squares,
    std,
    std_of,
    weighted_mean,
    wilder,
)
from marketlake.domain.prices import Floats

WARM_UP = max(factor.warm_up_sessions for factor in INDICATORS)
_LOOKBACK = 77
"""Sessions before the newest that a window of the catalog sees at most, Hurst's aside: Senkou B."""
_HURST, _HURST_LAG = 126, 20
_ROW = {factor.name: row for row, factor in enumerate(INDICATORS)}
_CHOPPINESS, _DOLLAR_VOLUME = _ROW["choppiness_14d"], _ROW["log_dollar_volume_20d"]
_LOG_2 = float(np.log(2.0))


# --- trend and momentum of one series -------------------------------------------------------------


@kernel
def rsi(c: Floats, window: int) -> Floats:
    """Wilder (1978), 0 to 100."""
    change = differences(c, 1)
    gain, loss = np.empty(c.shape), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            moved = change[s, i]
            gain[s, i] = moved if moved > 0.0 else moved * 0.0
            loss[s, i] = -moved if moved < 0.0 else moved * 0.0
    return _share(wilder(gain, window), wilder(loss, window))


@kernel
def stochastic_rsi(strength: Floats, window: int, smoothing: int) -> tuple[Floats, Floats]:
    """%K and %D of an RSI in its own range."""
    place = _place(strength, lowest(strength, window), highest(strength, window), 100.0)
    k = mean(place, smoothing)
    return k, mean(k, smoothing)


@kernel
def macd(fast: Floats, slow: Floats, signal: int) -> tuple[Floats, Floats]:
    """The difference of two EMAs, and its EMA."""
    line = _minus(fast, slow)
    return line, ema(line, signal)


@kernel
def chande_momentum(c: Floats, window: int) -> Floats:
    """100 (gains - losses) / (gains + losses), Wilder-smoothed."""
    change = differences(c, 1)
    return _percent(wilder(change, window), wilder(_size(change), window))


@kernel
def trix(c: Floats, span: int) -> Floats:
    """Change of a triple EMA, %."""
    return rate_of_change(ema(ema(ema(c, span), span), span), 1)


@kernel
def true_strength(c: Floats, long_span: int, short_span: int) -> Floats:
    """Blau's doubly smoothed momentum, -100 to 100."""
    change = differences(c, 1)
    up = ema(ema(change, long_span), short_span)
    return _percent(up, ema(ema(_size(change), long_span), short_span))


@kernel
def rate_of_change(c: Floats, sessions: int) -> Floats:
    """Change over that many sessions, %."""
    old, out = before(c, sessions), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            out[s, i] = 100.0 * (c[s, i] / old[s, i] - 1.0)
    return out


@kernel
def coppock(c: Floats, short_roc: int, long_roc: int, window: int) -> Floats:
    """The weighted mean of two rates of change."""
    return weighted_mean(_plus(rate_of_change(c, short_roc), rate_of_change(c, long_roc)), window)


@kernel
def know_sure_thing(c: Floats, changes: Sequence[int], windows: Sequence[int]) -> Floats:
    """Pring's KST: 1, 2, 3 and 4 times the mean of each rate of change."""
    total = mean(rate_of_change(c, changes[0]), windows[0])
    for k in range(1, 4):
        term = mean(rate_of_change(c, changes[k]), windows[k])
        for s in range(c.shape[0]):
            for i in range(c.shape[1]):
                total[s, i] += (k + 1.0) * term[s, i]
    return total


@kernel
def detrended_price(c: Floats, window: int) -> Floats:
    """The close half a window ago less the mean."""
    return _minus(before(c, window // 2 + 1), mean(c, window))


@kernel
def dema(once: Floats, twice: Floats) -> Floats:
    """Double EMA, of an EMA and its own."""
    return _twice_less(once, twice)


@kernel
def tema(once: Floats, twice: Floats, thrice: Floats) -> Floats:
    """Triple EMA, of an EMA, its own, and that one's."""
    out = np.empty(once.shape)
    for s in range(once.shape[0]):
        for i in range(once.shape[1]):
            out[s, i] = 3.0 * once[s, i] - 3.0 * twice[s, i] + thrice[s, i]
    return out


@kernel
def trima(c: Floats, window: int) -> Floats:
    """Triangular mean: the mean of a mean."""
    return mean(mean(c, (window + 1) // 2), window // 2 + 1)


@kernel
def hull(c: Floats, window: int) -> Floats:
    """Hull's moving average."""
    twice = _twice_less(weighted_mean(c, window // 2), weighted_mean(c, window))
    return weighted_mean(twice, int(np.sqrt(window)))


@kernel
def efficiency(c: Floats, window: int) -> Floats:
    """Kaufman: the way gone over the path gone."""
    way, path = differences(c, window), mean(_size(differences(c, 1)), window)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            way[s, i] = abs(way[s, i]) / (window * path[s, i])
    return way


@kernel
def bollinger(c: Floats, window: int, width: float) -> tuple[Floats, Floats, Floats]:
    """Middle, upper, lower."""
    middle, spread = mean(c, window), std(c, window, 0)
    upper, lower = np.empty(c.shape), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            upper[s, i] = middle[s, i] + width * spread[s, i]
            lower[s, i] = middle[s, i] - width * spread[s, i]
    return middle, upper, lower


@kernel
def ulcer(c: Floats, window: int) -> Floats:
    """Root mean square of the drawdowns from the window's highest, %."""
    top = highest(c, window)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            drawdown = 100.0 * (c[s, i] / top[s, i] - 1.0)
            top[s, i] = drawdown * drawdown
    return _root(mean(top, window))


def hurst(c: Floats, window: int, max_lag: int) -> Floats:
    """Slope of log std(c[t] - c[t - lag]) on log lag, for lags 2 .. max_lag.

    NaN where any lag has fewer than 80 % of its differences.
    """
    spreads, out = np.empty((max_lag - 1, *c.shape)), np.empty_like(c)
    spreads_of_changes(c, window, max_lag, 0, spreads)
    _put_slope(np.log(spreads), _slope_weights(max_lag), out)
    return out


def _slope_weights(max_lag: int) -> Floats:
    x = np.log(np.arange(2, max_lag + 1, dtype=np.float64))
    centred = x - x.mean()
    return np.asarray(centred / (centred @ centred))


@kernel
def _put_slope(values: Floats, weights: Floats, out: Floats) -> None:
    for s in range(out.shape[0]):
        for i in range(out.shape[1]):
            out[s, i] = 0.0
        for k in range(weights.size):
            for i in range(out.shape[1]):
                out[s, i] += weights[k] * values[k, s, i]


# --- ranges ---------------------------------------------------------------------------------------


@kernel
def true_range(h: Floats, low: Floats, c: Floats) -> Floats:
    """NaN where the bar before is missing: a gap in the data is not a move."""
    last, out = before(c, 1), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            top = h[s, i] if h[s, i] > last[s, i] else last[s, i]
            bottom = low[s, i] if low[s, i] < last[s, i] else last[s, i]
            # Comparisons may drop a NaN, sums do not.
            known = h[s, i] + low[s, i] + last[s, i]
            out[s, i] = top - bottom if known == known else np.nan
    return out


@kernel
def directional(h: Floats, low: Floats, span: Floats, window: int) -> tuple[Floats, Floats, Floats]:
    """Wilder's +DI, -DI and ADX; ``span`` is his average of the true range."""
    up, down = differences(h, 1), negative(differences(low, 1))
    plus, minus = np.empty(h.shape), np.empty(h.shape)
    for s in range(h.shape[0]):
        for i in range(h.shape[1]):
            a, b = up[s, i], down[s, i]
            plus[s, i] = a if (a > b) & (a > 0.0) else 0.0 * (a + b)
            minus[s, i] = b if (b > a) & (b > 0.0) else 0.0 * (a + b)
    plus, minus = wilder(plus, window), wilder(minus, window)
    for s in range(h.shape[0]):
        for i in range(h.shape[1]):
            a, b = plus[s, i], minus[s, i]
            up[s, i] = 100.0 * abs(a - b) / (a + b)
    return _percent(plus, span), _percent(minus, span), wilder(up, window)


@kernel
def stochastic(h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """Fast %K: where the close stands in the window's range, 0 to 100."""
    return _place(c, lowest(low, window), highest(h, window), 100.0)


@kernel
def commodity_channel(typical: Floats, average: Floats, window: int) -> Floats:
    """CCI, about the typical price's mean; NaN where the window is flat but for rounding."""
    out = mean_power_about(typical, average, window, 1)
    for s in range(out.shape[0]):
        for i in range(out.shape[1]):
            away = out[s, i] if out[s, i] > 1e-12 * average[s, i] else np.nan
            out[s, i] = (typical[s, i] - average[s, i]) / (0.015 * away)
    return out


@kernel
def aroon(h: Floats, low: Floats, window: int) -> tuple[Floats, Floats]:
    """Up and down, 0 to 100."""
    up = sessions_since_highest(h, window + 1)
    down = sessions_since_highest(negative(low), window + 1)
    for s in range(h.shape[0]):
        for i in range(h.shape[1]):
            up[s, i] = 100.0 * (window - up[s, i]) / window
            down[s, i] = 100.0 * (window - down[s, i]) / window
    return up, down


@kernel
def keltner(typical: Floats, span: Floats, window: int) -> tuple[Floats, Floats]:
    """Mean typical price and mean true range."""
    return mean(typical, window), mean(span, window)


@kernel
def midpoint(h: Floats, low: Floats, window: int) -> Floats:
    """The middle of the range: Ichimoku's Tenkan (9), Kijun (26) and Senkou B (52)."""
    return _middle(highest(h, window), lowest(low, window))


@kernel
def ultimate(h: Floats, low: Floats, c: Floats, short: int, middle: int, long: int) -> Floats:
    """Williams' ultimate oscillator, 0 to 100."""
    span, pressure, last = true_range(h, low, c), np.empty(c.shape), before(c, 1)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            bottom = low[s, i] if low[s, i] < last[s, i] else last[s, i]
            known = low[s, i] + last[s, i]
            pressure[s, i] = c[s, i] - bottom if known == known else np.nan
    a = _over(mean(pressure, short), mean(span, short))
    b = _over(mean(pressure, middle), mean(span, middle))
    out = _over(mean(pressure, long), mean(span, long))
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            out[s, i] = 100.0 * (4.0 * a[s, i] + 2.0 * b[s, i] + out[s, i]) / 7.0
    return out


@kernel
def mass_index(h: Floats, low: Floats, span: int, window: int) -> Floats:
    """Sum of a smoothed range over its own smoothing."""
    once = ema(_minus(h, low), span)
    out = mean(_over(once, ema(once, span)), window)
    for s in range(h.shape[0]):
        for i in range(h.shape[1]):
            out[s, i] *= window
    return out


@kernel
def vortex(h: Floats, low: Floats, c: Floats, window: int) -> tuple[Floats, Floats]:
    """VI+ and VI-."""
    path = mean(true_range(h, low, c), window)
    plus = mean(_size(_minus(h, before(low, 1))), window)
    return _over(plus, path), _over(mean(_size(_minus(low, before(h, 1))), window), path)


def choppiness(h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """100 for a path that leads nowhere, 0 for a straight one."""
    return np.asarray(100.0 * np.log10(_crookedness(h, low, c, window)) / math.log10(window))


@kernel
def _crookedness(h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    path, top, bottom = mean(true_range(h, low, c), window), highest(h, window), lowest(low, window)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            path[s, i] = window * path[s, i] / (top[s, i] - bottom[s, i])
    return path


@kernel
def awesome(h: Floats, low: Floats, fast: int, slow: int) -> Floats:
    """The difference of two means of the bar's middle."""
    middle = _middle(h, low)
    return _minus(mean(middle, fast), mean(middle, slow))


@kernel
def relative_vigor(o: Floats, h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """The smoothed bodies over the smoothed ranges."""
    up, all_of_it = _symmetric(_minus(c, o)), _symmetric(_minus(h, low))
    return _over(mean(up, window), mean(all_of_it, window))


@kernel
def _symmetric(x: Floats) -> Floats:
    one, two, three, out = before(x, 1), before(x, 2), before(x, 3), np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] + 2.0 * one[s, i] + 2.0 * two[s, i] + three[s, i]
    return out


@kernel
def range_volatilities(logs: tuple[Floats, ...], window: int, made: Floats) -> None:
    """Put Parkinson, Garman-Klass, Rogers-Satchell and Yang-Zhang, per session.

    ``logs`` are those of h/o, l/o, c/o, o/c[-1] and h/l.
    """
    up, down, body, overnight, span = logs
    parkinson, garman, rogers = np.empty(up.shape), np.empty(up.shape), np.empty(up.shape)
    for s in range(up.shape[0]):
        for i in range(up.shape[1]):
            u, d, b = up[s, i], down[s, i], body[s, i]
            square = span[s, i] * span[s, i]
            parkinson[s, i] = square / (4.0 * _LOG_2)
            garman[s, i] = 0.5 * square - (2.0 * _LOG_2 - 1.0) * b * b
            rogers[s, i] = u * (u - b) + d * (d - b)
    rogers = mean(rogers, window)
    k = 0.34 / (1.34 + (window + 1.0) / (window - 1.0))
    night, yang = std(overnight, window, 1), std(body, window, 1)
    for s in range(up.shape[0]):
        for i in range(up.shape[1]):
            a, b = night[s, i], yang[s, i]
            yang[s, i] = a * a + k * b * b + (1.0 - k) * rogers[s, i]
    _put(_root(mean(parkinson, window)), made[0])
    _put(_root(mean(garman, window)), made[1])
    _put(_root(rogers), made[2])
    _put(_root(yang), made[3])


# --- volume ---------------------------------------------------------------------------------------


@kernel
def signed_volume(c: Floats, v: Floats) -> Floats:
    """The daily step of on-balance volume."""
    out = differences(c, 1)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            change = out[s, i]
            sign = 1.0 if change > 0.0 else (-1.0 if change < 0.0 else change)
            out[s, i] = sign * v[s, i]
    return out


@kernel
def money_flow(h: Floats, low: Floats, c: Floats, v: Floats, window: int) -> Floats:
    """MFI, 0 to 100."""
    typical = _typical(h, low, c)
    change, up, down = differences(typical, 1), np.empty(c.shape), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            moved, flow = change[s, i], typical[s, i] * v[s, i]
            up[s, i] = flow if moved > 0.0 else 0.0 * (moved + flow)
            down[s, i] = flow if moved < 0.0 else 0.0 * (moved + flow)
    return _share(mean(up, window), mean(down, window))


@kernel
def chaikin_money_flow(h: Floats, low: Floats, c: Floats, v: Floats, window: int) -> Floats:
    """Volume weighted by where the bar closed, over volume."""
    place = np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            top, bottom, last = h[s, i], low[s, i], c[s, i]
            stand = ((last - bottom) - (top - last)) / (top - bottom)
            place[s, i] = stand if top > bottom else 0.0 * (top + bottom + last)
    return volume_weighted(place, v, window)


@kernel
def volume_weighted(price: Floats, v: Floats, window: int) -> Floats:
    """Rolling VWAP of typical prices, or VWMA of closes."""
    value, volume = np.empty(v.shape), np.empty(v.shape)
    for s in range(v.shape[0]):
        for i in range(v.shape[1]):
            value[s, i] = price[s, i] * v[s, i]
            volume[s, i] = v[s, i] + 0.0 * price[s, i]
    return _over(mean(value, window), mean(volume, window))


@kernel
def force(c: Floats, v: Floats, span: int) -> Floats:
    """The smoothed change times volume."""
    return ema(_times(differences(c, 1), v), span)


# --- the parts of formulas ------------------------------------------------------------------------


@kernel
def _plus(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] + y[s, i]
    return out


@kernel
def _minus(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] - y[s, i]
    return out


@kernel
def _times(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] * y[s, i]
    return out


@kernel
def _over(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] / y[s, i]
    return out


@kernel
def _percent(x: Floats, y: Floats) -> Floats:
    """Return 100 x / y."""
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = 100.0 * x[s, i] / y[s, i]
    return out


@kernel
def _away(x: Floats, y: Floats) -> Floats:
    """Return x / y - 1."""
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = x[s, i] / y[s, i] - 1.0
    return out


@kernel
def _share(x: Floats, y: Floats) -> Floats:
    """The share of x in both, %."""
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = 100.0 * (x[s, i] / (x[s, i] + y[s, i]))
    return out


@kernel
def _place(x: Floats, low: Floats, high: Floats, scale: float) -> Floats:
    """Where x stands between low (0) and high (the scale)."""
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = scale * (x[s, i] - low[s, i]) / (high[s, i] - low[s, i])
    return out


@kernel
def _middle(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = (x[s, i] + y[s, i]) / 2.0
    return out


@kernel
def _typical(h: Floats, low: Floats, c: Floats) -> Floats:
    out = np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            out[s, i] = (h[s, i] + low[s, i] + c[s, i]) / 3.0
    return out


@kernel
def _twice_less(x: Floats, y: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = 2.0 * x[s, i] - y[s, i]
    return out


@kernel
def _size(x: Floats) -> Floats:
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = abs(x[s, i])
    return out


@kernel
def _root(x: Floats) -> Floats:
    """The square root; 0 of what rounding put below 0."""
    out = np.empty(x.shape)
    for s in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[s, i] = np.sqrt(0.0 if x[s, i] < 0.0 else x[s, i])
    return out


# --- the catalog's windows ------------------------------------------------------------------------


@kernel
def _put(x: Floats, out: Floats) -> None:
    """Put the newest sessions of x, as many as ``out`` has."""
    ahead = x.shape[1] - out.shape[1]
    for s in range(out.shape[0]):
        own, to = x[s, ahead:], out[s]
        for i in range(to.size):
            to[i] = own[i]


@kernel
def _put_averages(bars: Floats, made: Floats) -> None:
    """Put what is made of exponential averages; their sums begin with the block's warm-up."""
    h, low, c, v = bars[1], bars[2], bars[3], bars[4]
    recent = c.shape[1] - made.shape[2] - _LOOKBACK
    strength = rsi(c, 14)
    k, d = stochastic_rsi(since(strength, recent), 14, 3)
    _put(strength, made[0])
    _put(k, made[1])
    _put(d, made[2])
    slow = ema(c, 26)
    line, signal = macd(ema(c, 12), slow, 9)
    _put(_percent(line, c), made[3])
    _put(_percent(signal, c), made[4])
    _put(_percent(_minus(line, signal), c), made[5])
    _put(_percent(line, slow), made[6])
    _put(chande_momentum(c, 14), made[7])
    _put(trix(c, 15), made[8])
    _put(true_strength(c, 25, 13), made[9])
    once = ema(c, 10)
    twice = ema(once, 10)
    _put(_away(c, dema(once, twice)), made[13])
    _put(_away(c, tema(once, twice, ema(twice, 10))), made[14])
    span = wilder(true_range(h, low, c), 14)
    plus, minus, adx = directional(h, low, span, 14)
    _put(_percent(span, c), made[26])
    _put(plus, made[27])
    _put(minus, made[28])
    _put(adx, made[29])
    _put(mass_index(h, low, 9, 25), made[44])
    average = ema(c, 13)
    _put(_percent(_minus(h, average), c), made[57])
    _put(_percent(_minus(low, average), c), made[58])
    pushed, usual = since(force(c, v, 13), recent), mean(since(v, recent), 13)
    _put(_percent(pushed, _times(since(c, recent), usual)), made[65])


@kernel
def _put_of_closes(c: Floats, made: Floats) -> None:
    _put(coppock(c, 11, 14, 10), made[10])
    _put(know_sure_thing(c, (10, 15, 20, 30), (10, 10, 10, 15)), made[11])
    _put(_percent(detrended_price(c, 20), c), made[12])
    _put(_away(c, trima(c, 20)), made[15])
    _put(_away(c, hull(c, 16)), made[16])
    _put(efficiency(c, 10), made[17])
    middle, upper, lower = bollinger(c, 20, 2.0)
    _put(_place(c, lower, upper, 1.0), made[18])
    _put(_percent(_minus(upper, lower), middle), made[19])
    _put(ulcer(c, 14), made[20])


@kernel
def _put_of_returns(c: Floats, made: Floats, spread: Floats) -> None:
    """Autocorrelation, variance ratio, fourth moment of simple returns, and their spread."""
    r, weekly = _away(c, before(c, 1)), std(_away(c, before(c, 5)), 60, 1)
    centred, n = squares(r, 60)
    daily = std_of(centred, n, 60, 1)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            a, b = weekly[s, i], daily[s, i]
            weekly[s, i] = (a * a) / (5.0 * b * b)
    _put(correlation(r, before(r, 1), 20), made[0])
    _put(weekly, made[1])
    _put(mean_power_about(r, mean(r, 60), 60, 4), made[2])
    _put(std_of(centred, n, 60, 0), spread)


@kernel
def _put_of_ranges(bars: Floats, logs: tuple[Floats, ...], made: Floats) -> None:
    o, h, low, c = bars[0], bars[1], bars[2], bars[3]
    span = true_range(h, low, c)
    _put(_percent(span, c), made[0])
    place = stochastic(h, low, c, 14)
    _put(place, made[5])
    _put(mean(place, 3), made[6])
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            place[s, i] -= 100.0
    _put(place, made[7])
    typical = _typical(h, low, c)
    middle, width = keltner(typical, span, 20)
    _put(commodity_channel(typical, middle, 20), made[8])
    up, down = aroon(h, low, 25)
    _put(up, made[9])
    _put(down, made[10])
    _put(_minus(up, down), made[11])
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            up[s, i] = (c[s, i] - middle[s, i]) / (1.5 * width[s, i])
            down[s, i] = 100.0 * 3.0 * width[s, i] / middle[s, i]
    _put(up, made[12])
    _put(down, made[13])
    tenkan, kijun = midpoint(h, low, 9), midpoint(h, low, 26)
    _put(_away(tenkan, c), made[14])
    _put(_away(kijun, c), made[15])
    _put(_away(before(_middle(tenkan, kijun), 26), c), made[16])
    _put(_away(before(midpoint(h, low, 52), 26), c), made[17])
    _put(ultimate(h, low, c, 7, 14, 28), made[18])
    plus, minus = vortex(h, low, c, 14)
    _put(plus, made[20])
    _put(minus, made[21])
    _put(_crookedness(h, low, c, 14), made[22])
    _put(_place(c, low, h, 1.0), made[23])
    top, bottom = highest(h, 20), lowest(low, 20)
    _put(_place(c, bottom, top, 1.0), made[24])
    _put(_percent(_minus(top, bottom), c), made[25])
    _put(_percent(awesome(h, low, 5, 34), c), made[26])
    _put(relative_vigor(o, h, low, c, 10), made[27])
    range_volatilities(logs, 20, made[28:32])
    _put(_away(o, before(c, 1)), made[34])


@kernel
def _put_of_volumes(bars: Floats, turnover: Floats, made: Floats) -> None:
    h, low, c, v = bars[1], bars[2], bars[3], bars[4]
    average, r = mean(v, 20), _away(c, before(c, 1))
    _put(_over(mean(signed_volume(c, v), 20), average), made[0])
    _put(money_flow(h, low, c, v, 14), made[1])
    _put(chaikin_money_flow(h, low, c, v, 20), made[2])
    _put(_away(c, volume_weighted(_typical(h, low, c), v, 20)), made[3])
    _put(_away(c, volume_weighted(c, v, 20)), made[4])
    ease, impact = differences(_middle(h, low), 1), np.empty(c.shape)
    for s in range(c.shape[0]):
        for i in range(c.shape[1]):
            span, usual = h[s, i] - low[s, i], v[s, i] / average[s, i]
            ease[s, i] = 1e4 * ease[s, i] * span / (c[s, i] * c[s, i]) / usual
            impact[s, i] = 1e6 * abs(r[s, i]) / turnover[s, i]
    _put(mean(ease, 14), made[6])
    _put(mean(impact, 20), made[7])
    _put(_over(_minus(v, average), std(v, 20, 1)), made[8])
    _put(mean(turnover, 20), made[9])
    _put(_over(mean(_times(r, v), 20), average), made[10])


@entry
def _put_all(
    bars: Floats, logs: tuple[Floats, ...], turnover: Floats, made: Floats, spreads: Floats
) -> None:
    """Put all indicators but the last step of those that take a logarithm or a power.

    Compiled as one piece: threads would wait for each other's Python. ``logs`` and ``turnover``
    are of the last sessions, ``spreads`` takes Hurst's and then that of returns.
    """
    size, wanted = bars.shape[2], made.shape[2]
    _put_averages(bars, made)
    hurst_first = size - wanted - _HURST + 1
    closes = since(bars[3], hurst_first)
    spreads_of_changes(closes, _HURST, _HURST_LAG, _HURST - 1, spreads[:-1])
    recent = np.empty((bars.shape[0], bars.shape[1], wanted + _LOOKBACK))
    for row in range(bars.shape[0]):
        _put(bars[row], recent[row])
    _put_of_closes(recent[3], made)
    _put_of_returns(recent[3], made[22:25], spreads[_HURST_LAG - 1])
    _put_of_ranges(recent, logs, made[25:60])
    _put_of_volumes(recent, turnover, made[60:])


@entry
def _finish(closes: Floats, slopes: Floats, logs: Floats, powers: Floats, made: Floats) -> None:
    """Take the last steps; no factor where there is no close, and none is infinite."""
    ahead = closes.shape[1] - made.shape[2]
    _put_slope(logs, slopes, made[21])
    for s in range(made.shape[1]):
        for j in range(made.shape[2]):
            made[24, s, j] = made[24, s, j] / powers[s, j] - 3.0
    for row in range(made.shape[0]):
        for s in range(made.shape[1]):
            for j in range(made.shape[2]):
                value, c = made[row, s, j], closes[s, ahead + j]
                is_valid = (abs(value) < np.inf) & (c == c)
                made[row, s, j] = value if is_valid else np.nan


def fill(
    arrays: tuple[Floats, ...],
    *,
    symbols: NDArray[np.int64],
    blocks: NDArray[np.int64],
    out: NDArray[np.floating],
) -> None:
    """Write the indicators of a run of symbols; the arguments are those of ``alpha158.fill``."""
    slopes = _slope_weights(_HURST_LAG)
    for start, wanted, end, column in blocks:
        bars = cut_all(arrays, symbols, start - WARM_UP, start, end)
        shape = bars.shape[1], end - wanted
        made, spreads = np.empty((len(INDICATORS), *shape)), np.empty((_HURST_LAG, *shape))
        first = wanted - _LOOKBACK
        recent = bars[:, :, first - end :]
        with np.errstate(divide="ignore", invalid="ignore"):
            turnover = _turnover(arrays, symbols, first, recent[3] + recent[4])
            # NumPy's logarithms and powers take many values at a time, compiled code one.
            _put_all(bars, _range_logs(recent), turnover, made, spreads)
            made[_CHOPPINESS] = 100.0 * np.log10(made[_CHOPPINESS]) / math.log10(14)
            made[_DOLLAR_VOLUME] = np.log10(made[_DOLLAR_VOLUME])
            logs, powers = np.log(spreads[:-1]), spreads[-1] ** 4
        _finish(bars[3], slopes, logs, powers, made)
        put(made, out[:, :, column : column + end - wanted])


def _range_logs(bars: Floats) -> tuple[Floats, ...]:
    o, h, low, c = bars[:4]
    overnight = np.full_like(c, np.nan)
    overnight[:, 1:] = o[:, 1:] / c[:, :-1]
    return np.log(h / o), np.log(low / o), np.log(c / o), np.log(overnight), np.log(h / low)


def _turnover(
    arrays: tuple[Floats, ...], symbols: NDArray[np.int64], first: int, usable: Floats
) -> Floats:
    """Close times volume as traded, USD; a price basis would change it. NaN as ``usable`` is."""
    out = np.full_like(usable, np.nan)
    own, known = slice(*symbols), slice(max(first, 0), first + usable.shape[1])
    out[:, max(-first, 0) :] = arrays[3][own, known] * arrays[4][own, known]
    return np.where(np.isnan(usable), np.nan, out)
