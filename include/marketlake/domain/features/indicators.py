"""Classic indicators of a symbol's block of sessions, all in one pass.

First the indicators by their textbook formulas, in their own units and for any window; then
``fill``, which takes the catalog's windows and brings all to a scale that symbols share. Rows of
the result are in the order of ``contracts.factors.INDICATORS``. What does not belong: Parabolic
SAR, SuperTrend, Connors' streaks and KAMA, whose memory has no bound; the Chikou span, which is
the close of 26 sessions later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from marketlake.contracts.factors import INDICATORS
from marketlake.domain.features.basis import cut_all, put
from marketlake.domain.features.windows import (
    before,
    correlation,
    ema,
    highest,
    lowest,
    mean,
    mean_power_about,
    sessions_since_highest,
    std,
    weighted_mean,
    wilder,
)
from marketlake.domain.prices import Floats

WARM_UP = max(factor.warm_up_sessions for factor in INDICATORS)


# --- trend and momentum of one series -------------------------------------------------------------


def rsi(c: Floats, window: int) -> Floats:
    """Wilder (1978), 0 to 100."""
    change = c - before(c, 1)
    gain = wilder(np.where(change > 0.0, change, change * 0.0), window)
    loss = wilder(np.where(change < 0.0, -change, change * 0.0), window)
    return 100.0 * (gain / (gain + loss))


def stochastic_rsi(c: Floats, window: int, smoothing: int) -> tuple[Floats, Floats]:
    """%K and %D of the RSI in its own range."""
    strength = rsi(c, window)
    low, high = lowest(strength, window), highest(strength, window)
    k = mean(100.0 * (strength - low) / (high - low), smoothing)
    return k, mean(k, smoothing)


def macd(c: Floats, fast: int, slow: int, signal: int) -> tuple[Floats, Floats]:
    """The difference of two EMAs, and its EMA."""
    line = ema(c, fast) - ema(c, slow)
    return line, ema(line, signal)


def ppo(c: Floats, fast: int, slow: int) -> Floats:
    """The difference of two EMAs, % of the slow one."""
    average = ema(c, slow)
    return 100.0 * (ema(c, fast) - average) / average


def chande_momentum(c: Floats, window: int) -> Floats:
    """100 (gains - losses) / (gains + losses), Wilder-smoothed."""
    change = c - before(c, 1)
    return 100.0 * wilder(change, window) / wilder(np.abs(change), window)


def trix(c: Floats, span: int) -> Floats:
    """Change of a triple EMA, %."""
    average = ema(ema(ema(c, span), span), span)
    return 100.0 * (average / before(average, 1) - 1.0)


def true_strength(c: Floats, long_span: int, short_span: int) -> Floats:
    """Blau's doubly smoothed momentum, -100 to 100."""
    change = c - before(c, 1)
    up = ema(ema(change, long_span), short_span)
    return 100.0 * up / ema(ema(np.abs(change), long_span), short_span)


def rate_of_change(c: Floats, sessions: int) -> Floats:
    """Change over that many sessions, %."""
    return 100.0 * (c / before(c, sessions) - 1.0)


def coppock(c: Floats, short_roc: int, long_roc: int, window: int) -> Floats:
    """The weighted mean of two rates of change."""
    return weighted_mean(rate_of_change(c, short_roc) + rate_of_change(c, long_roc), window)


def know_sure_thing(c: Floats, changes: Sequence[int], windows: Sequence[int]) -> Floats:
    """Pring's KST: 1, 2, 3 and 4 times the mean of each rate of change."""
    terms = zip((1.0, 2.0, 3.0, 4.0), changes, windows, strict=True)
    weighted = [weight * mean(rate_of_change(c, n), window) for weight, n, window in terms]
    return np.asarray(np.sum(weighted, axis=0))


def detrended_price(c: Floats, window: int) -> Floats:
    """The close half a window ago less the mean."""
    return before(c, window // 2 + 1) - mean(c, window)


def dema(c: Floats, span: int) -> Floats:
    """Double EMA."""
    once = ema(c, span)
    return 2.0 * once - ema(once, span)


def tema(c: Floats, span: int) -> Floats:
    """Triple EMA."""
    once = ema(c, span)
    twice = ema(once, span)
    return 3.0 * once - 3.0 * twice + ema(twice, span)


def trima(c: Floats, window: int) -> Floats:
    """Triangular mean: the mean of a mean."""
    return mean(mean(c, (window + 1) // 2), window // 2 + 1)


def hull(c: Floats, window: int) -> Floats:
    """Hull's moving average."""
    twice = 2.0 * weighted_mean(c, window // 2) - weighted_mean(c, window)
    return weighted_mean(twice, int(np.sqrt(window)))


def efficiency(c: Floats, window: int) -> Floats:
    """Kaufman: the way gone over the path gone."""
    path = window * mean(np.abs(c - before(c, 1)), window)
    return np.abs(c - before(c, window)) / path


def bollinger(c: Floats, window: int, width: float) -> tuple[Floats, Floats, Floats]:
    """Middle, upper, lower."""
    middle, away = mean(c, window), width * std(c, window, 0)
    return middle, middle + away, middle - away


def ulcer(c: Floats, window: int) -> Floats:
    """Root mean square of the drawdowns from the window's highest, %."""
    drawdown = 100.0 * (c / highest(c, window) - 1.0)
    return np.sqrt(mean(drawdown * drawdown, window))


def hurst(c: Floats, window: int, max_lag: int) -> Floats:
    """Slope of log std(c[t] - c[t - lag]) on log lag, for lags 2 .. max_lag.

    NaN where any lag has fewer than 80 % of its differences.
    """
    lags = range(2, max_lag + 1)
    x = np.log(np.array(lags, dtype=np.float64))
    spreads = [std(c - before(c, lag), window - lag, 0) for lag in lags]
    centred = x - x.mean()
    slope = np.zeros_like(c)
    for weight, spread in zip(centred / (centred @ centred), spreads, strict=True):
        slope += weight * np.log(spread)
    return slope


# --- ranges ---------------------------------------------------------------------------------------


def true_range(h: Floats, low: Floats, c: Floats) -> Floats:
    """NaN where the bar before is missing: a gap in the data is not a move."""
    last = before(c, 1)
    return np.maximum(h, last) - np.minimum(low, last)


def directional(h: Floats, low: Floats, c: Floats, window: int) -> tuple[Floats, Floats, Floats]:
    """Wilder's +DI, -DI and ADX."""
    up, down = h - before(h, 1), before(low, 1) - low
    plus = np.where((up > down) & (up > 0.0), up, 0.0 * (up + down))
    minus = np.where((down > up) & (down > 0.0), down, 0.0 * (up + down))
    span = wilder(true_range(h, low, c), window)
    plus_di, minus_di = wilder(plus, window), wilder(minus, window)
    spread = 100.0 * np.abs(plus_di - minus_di) / (plus_di + minus_di)
    return 100.0 * plus_di / span, 100.0 * minus_di / span, wilder(spread, window)


def stochastic(h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """Fast %K: where the close stands in the window's range, 0 to 100."""
    bottom, top = lowest(low, window), highest(h, window)
    return 100.0 * (c - bottom) / (top - bottom)


def commodity_channel(typical: Floats, window: int) -> Floats:
    """CCI; NaN where the window is flat but for rounding."""
    average = mean(typical, window)
    away = mean_power_about(typical, average, window, 1)
    return (typical - average) / (0.015 * np.where(away > 1e-12 * average, away, np.nan))


def aroon(h: Floats, low: Floats, window: int) -> tuple[Floats, Floats]:
    """Up and down, 0 to 100."""
    up = sessions_since_highest(h, window + 1)
    down = sessions_since_highest(-low, window + 1)
    return 100.0 * (window - up) / window, 100.0 * (window - down) / window


def keltner(h: Floats, low: Floats, c: Floats, window: int) -> tuple[Floats, Floats]:
    """Mean typical price and mean true range."""
    return mean((h + low + c) / 3.0, window), mean(true_range(h, low, c), window)


def midpoint(h: Floats, low: Floats, window: int) -> Floats:
    """The middle of the range: Ichimoku's Tenkan (9), Kijun (26) and Senkou B (52)."""
    return (highest(h, window) + lowest(low, window)) / 2.0


def ultimate(h: Floats, low: Floats, c: Floats, short: int, middle: int, long: int) -> Floats:
    """Williams' ultimate oscillator, 0 to 100."""
    span, pressure = true_range(h, low, c), c - np.minimum(low, before(c, 1))
    a, b = mean(pressure, short) / mean(span, short), mean(pressure, middle) / mean(span, middle)
    return 100.0 * (4.0 * a + 2.0 * b + mean(pressure, long) / mean(span, long)) / 7.0


def mass_index(h: Floats, low: Floats, span: int, window: int) -> Floats:
    """Sum of a smoothed range over its own smoothing."""
    once = ema(h - low, span)
    return window * mean(once / ema(once, span), window)


def vortex(h: Floats, low: Floats, c: Floats, window: int) -> tuple[Floats, Floats]:
    """VI+ and VI-."""
    path = mean(true_range(h, low, c), window)
    plus = mean(np.abs(h - before(low, 1)), window)
    return plus / path, mean(np.abs(low - before(h, 1)), window) / path


def choppiness(h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """100 for a path that leads nowhere, 0 for a straight one."""
    path = window * mean(true_range(h, low, c), window)
    straight = np.log10(path / (highest(h, window) - lowest(low, window)))
    return np.asarray(100.0 * straight / math.log10(window))


def awesome(h: Floats, low: Floats, fast: int, slow: int) -> Floats:
    """The difference of two means of the bar's middle."""
    middle = (h + low) / 2.0
    return mean(middle, fast) - mean(middle, slow)


def relative_vigor(o: Floats, h: Floats, low: Floats, c: Floats, window: int) -> Floats:
    """The smoothed bodies over the smoothed ranges."""
    body, span = c - o, h - low
    up = body + 2.0 * before(body, 1) + 2.0 * before(body, 2) + before(body, 3)
    all_of_it = span + 2.0 * before(span, 1) + 2.0 * before(span, 2) + before(span, 3)
    return mean(up, window) / mean(all_of_it, window)


def range_volatilities(
    o: Floats, h: Floats, low: Floats, c: Floats, window: int
) -> tuple[Floats, Floats, Floats, Floats]:
    """Parkinson, Garman-Klass, Rogers-Satchell and Yang-Zhang, per session."""
    up, down, body = np.log(h / o), np.log(low / o), np.log(c / o)
    overnight = np.log(o / before(c, 1))
    span = np.log(h / low) ** 2
    parkinson = mean(span / (4.0 * np.log(2.0)), window)
    garman_klass = mean(0.5 * span - (2.0 * np.log(2.0) - 1.0) * body * body, window)
    rogers_satchell = mean(up * (up - body) + down * (down - body), window)
    k = 0.34 / (1.34 + (window + 1.0) / (window - 1.0))
    night, day = std(overnight, window, 1), std(body, window, 1)
    yang_zhang = night * night + k * day * day + (1.0 - k) * rogers_satchell
    return (
        np.sqrt(parkinson),
        np.sqrt(np.maximum(garman_klass, 0.0)),
        np.sqrt(np.maximum(rogers_satchell, 0.0)),
        np.sqrt(np.maximum(yang_zhang, 0.0)),
    )


# --- volume ---------------------------------------------------------------------------------------


def signed_volume(c: Floats, v: Floats) -> Floats:
    """The daily step of on-balance volume."""
    return np.sign(c - before(c, 1)) * v


def money_flow(h: Floats, low: Floats, c: Floats, v: Floats, window: int) -> Floats:
    """MFI, 0 to 100."""
    typical = (h + low + c) / 3.0
    change, flow = typical - before(typical, 1), typical * v
    up = mean(np.where(change > 0.0, flow, 0.0 * (change + flow)), window)
    down = mean(np.where(change < 0.0, flow, 0.0 * (change + flow)), window)
    return 100.0 * (up / (up + down))


def chaikin_money_flow(h: Floats, low: Floats, c: Floats, v: Floats, window: int) -> Floats:
    """Volume weighted by where the bar closed, over volume."""
    place = np.where(h > low, ((c - low) - (h - c)) / (h - low), 0.0 * (h + low + c))
    return mean(place * v, window) / mean(v + 0.0 * place, window)


def volume_weighted(price: Floats, v: Floats, window: int) -> Floats:
    """Rolling VWAP of typical prices, or VWMA of closes."""
    return mean(price * v, window) / mean(v + 0.0 * price, window)


def force(c: Floats, v: Floats, span: int) -> Floats:
    """The smoothed change times volume."""
    return ema((c - before(c, 1)) * v, span)


# --- the catalog's windows ------------------------------------------------------------------------


def _of_closes(c: Floats, made: Floats) -> None:
    made[0] = rsi(c, 14)
    made[1], made[2] = stochastic_rsi(c, 14, 3)
    line, signal = macd(c, 12, 26, 9)
    made[3], made[4], made[5] = 100.0 * line / c, 100.0 * signal / c, 100.0 * (line - signal) / c
    made[6] = ppo(c, 12, 26)
    made[7] = chande_momentum(c, 14)
    made[8] = trix(c, 15)
    made[9] = true_strength(c, 25, 13)
    made[10] = coppock(c, 11, 14, 10)
    made[11] = know_sure_thing(c, (10, 15, 20, 30), (10, 10, 10, 15))
    made[12] = 100.0 * detrended_price(c, 20) / c
    made[13] = c / dema(c, 10) - 1.0
    made[14] = c / tema(c, 10) - 1.0
    made[15] = c / trima(c, 20) - 1.0
    made[16] = c / hull(c, 16) - 1.0
    made[17] = efficiency(c, 10)
    middle, upper, lower = bollinger(c, 20, 2.0)
    made[18], made[19] = (c - lower) / (upper - lower), 100.0 * (upper - lower) / middle
    made[20] = ulcer(c, 14)
    made[21] = hurst(c, 126, 20)


def _of_returns(c: Floats, made: Floats) -> None:
    """Autocorrelation, variance ratio and excess kurtosis of simple returns."""
    r, weekly = c / before(c, 1) - 1.0, std(c / before(c, 5) - 1.0, 60, 1)
    daily, spread = std(r, 60, 1), std(r, 60, 0)
    made[0] = correlation(r, before(r, 1), 20)
    made[1] = (weekly * weekly) / (5.0 * daily * daily)
    made[2] = mean_power_about(r, mean(r, 60), 60, 4) / spread**4 - 3.0


def _of_ranges(o: Floats, h: Floats, low: Floats, c: Floats, made: Floats) -> None:
    span = true_range(h, low, c)
    made[0], made[1] = 100.0 * span / c, 100.0 * wilder(span, 14) / c
    made[2], made[3], made[4] = directional(h, low, c, 14)
    made[5] = stochastic(h, low, c, 14)
    made[6] = mean(made[5], 3)
    made[7] = made[5] - 100.0
    made[8] = commodity_channel((h + low + c) / 3.0, 20)
    made[9], made[10] = aroon(h, low, 25)
    made[11] = made[9] - made[10]
    middle, width = keltner(h, low, c, 20)
    made[12], made[13] = (c - middle) / (1.5 * width), 100.0 * 3.0 * width / middle
    tenkan, kijun = midpoint(h, low, 9), midpoint(h, low, 26)
    made[14], made[15] = tenkan / c - 1.0, kijun / c - 1.0
    made[16] = before((tenkan + kijun) / 2.0, 26) / c - 1.0
    made[17] = before(midpoint(h, low, 52), 26) / c - 1.0
    made[18] = ultimate(h, low, c, 7, 14, 28)
    made[19] = mass_index(h, low, 9, 25)
    made[20], made[21] = vortex(h, low, c, 14)
    made[22] = choppiness(h, low, c, 14)
    made[23] = (c - low) / (h - low)
    top, bottom = highest(h, 20), lowest(low, 20)
    made[24], made[25] = (c - bottom) / (top - bottom), 100.0 * (top - bottom) / c
    made[26] = 100.0 * awesome(h, low, 5, 34) / c
    made[27] = relative_vigor(o, h, low, c, 10)
    made[28], made[29], made[30], made[31] = range_volatilities(o, h, low, c, 20)
    average = ema(c, 13)
    made[32], made[33] = 100.0 * (h - average) / c, 100.0 * (low - average) / c
    made[34] = o / before(c, 1) - 1.0


def _of_volumes(
    h: Floats, low: Floats, c: Floats, v: Floats, turnover: Floats, made: Floats
) -> None:
    typical = (h + low + c) / 3.0
    average = mean(v, 20)
    made[0] = mean(signed_volume(c, v), 20) / average
    made[1] = money_flow(h, low, c, v, 14)
    made[2] = chaikin_money_flow(h, low, c, v, 20)
    made[3] = c / volume_weighted(typical, v, 20) - 1.0
    made[4] = c / volume_weighted(c, v, 20) - 1.0
    made[5] = 100.0 * force(c, v, 13) / (c * mean(v, 13))
    moved = (h + low) / 2.0 - before((h + low) / 2.0, 1)
    made[6] = mean(1e4 * moved * (h - low) / (c * c) / (v / average), 14)
    r = c / before(c, 1) - 1.0
    made[7] = mean(1e6 * np.abs(r) / turnover, 20)
    made[8] = (v - average) / std(v, 20, 1)
    made[9] = np.log10(mean(turnover, 20))
    made[10] = mean(r * v, 20) / average


def fill(
    arrays: tuple[Floats, ...],
    *,
    symbols: NDArray[np.int64],
    blocks: NDArray[np.int64],
    out: NDArray[np.floating],
) -> None:
    """Write the indicators of a run of symbols; the arguments are those of ``alpha158.fill``."""
    for start, wanted, end, column in blocks:
        bars = cut_all(arrays, symbols, start - WARM_UP, start, end)
        opens, highs, lows, closes, volumes = bars
        made = np.empty((len(INDICATORS), *closes.shape))
        with np.errstate(divide="ignore", invalid="ignore"):
            _of_closes(closes, made[:22])
            _of_returns(closes, made[22:25])
            _of_ranges(opens, highs, lows, closes, made[25:60])
            turnover = _turnover(arrays, symbols, start - WARM_UP, closes + volumes)
            _of_volumes(highs, lows, closes, volumes, turnover, made[60:])
        values = made[:, :, WARM_UP + wanted - start :]
        values[:, np.isnan(closes[:, WARM_UP + wanted - start :])] = np.nan
        values[np.isinf(values)] = np.nan
        put(values, out[:, :, column : column + end - wanted])


def _turnover(
    arrays: tuple[Floats, ...], symbols: NDArray[np.int64], first: int, usable: Floats
) -> Floats:
    """Close times volume as traded, USD; a price basis would change it. NaN as ``usable`` is."""
    out = np.full_like(usable, np.nan)
    own, known = slice(*symbols), slice(max(first, 0), first + usable.shape[1])
    out[:, max(-first, 0) :] = arrays[3][own, known] * arrays[4][own, known]
    return np.where(np.isnan(usable), np.nan, out)
