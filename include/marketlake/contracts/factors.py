"""The factor catalog: Alpha158 and the classic indicators, each declared once, in column order.

``o h l c`` are prices and ``v`` shares on one basis (corporate actions known by the session),
``x[-n]`` is x n sessions before, and mean, std, sum, min, max, rank, quantile are over the window
that ends with the session. An EMA of span n has weight ``2/(n+1)`` on the newest value, Wilder's
average of n has ``1/n``; both look back until one millionth of the weight is left.

**NaN rule**, that of ``contracts.features``: end points must be there; a statistic of a window
needs 80 % of its values (a weighted one 80 % of its weight); a session without a bar has no factor;
a change needs the bar of the session before (gaps are not bridged); nothing is ever filled. A ratio
whose denominator is 0 is NaN, but where Alpha158 itself adds 1e-12 to a span that may be 0.

**Inputs**: in the packaged market only the adjusted close is real, the rest is simulated: models
that run on it use ``CLOSE_ONLY``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

OPEN, HIGH, LOW, CLOSE, VOLUME = (
    "open_usd",
    "high_usd",
    "low_usd",
    "adjusted_close",
    "volume_shares",
)
WEIGHT_LEFT = 1e-6


def memory_sessions(alpha: float) -> int:
    """Return the sessions of an exponential smoothing's window, the newest among them."""
    return math.ceil(math.log(WEIGHT_LEFT) / math.log(1.0 - alpha))


@dataclass(frozen=True)
class Factor:
    """One column.

    ``window_sessions`` is the longest window of its name; ``warm_up_sessions`` how many sessions
    before the newest its value depends on; ``inputs`` are quantities of a bar.
    """

    name: str
    formula: str
    window_sessions: int
    warm_up_sessions: int
    inputs: tuple[str, ...]
    source: str

    @property
    def is_close_only(self) -> bool:
        """Whether it needs nothing but closes."""
        return self.inputs == (CLOSE,)


_QLIB = "Alpha158 of Qlib (Yang et al. 2020, arXiv:2009.11189), {}"
_SHAPE_INPUTS = (OPEN, HIGH, LOW, CLOSE)
_SHAPES = (
    ("kmid", "(c - o)/o", (OPEN, CLOSE)),
    ("klen", "(h - l)/o", (OPEN, HIGH, LOW)),
    ("kmid2", "(c - o)/(h - l + 1e-12)", _SHAPE_INPUTS),
    ("kup", "(h - max(o, c))/o", (OPEN, HIGH, CLOSE)),
    ("kup2", "(h - max(o, c))/(h - l + 1e-12)", _SHAPE_INPUTS),
    ("klow", "(min(o, c) - l)/o", (OPEN, LOW, CLOSE)),
    ("klow2", "(min(o, c) - l)/(h - l + 1e-12)", _SHAPE_INPUTS),
    ("ksft", "(2 c - h - l)/o", _SHAPE_INPUTS),
    ("ksft2", "(2 c - h - l)/(h - l + 1e-12)", (HIGH, LOW, CLOSE)),
    ("open0", "o/c", (OPEN, CLOSE)),
    ("high0", "h/c", (HIGH, CLOSE)),
    ("low0", "l/c", (LOW, CLOSE)),
    ("vwap0", "(h + l + c)/3/c: no vendor's daily bar has a VWAP", (HIGH, LOW, CLOSE)),
)
_GAIN, _LOSS = "sum(max(d, 0), n)", "sum(max(-d, 0), n)"
_C, _HLC, _V, _CV = (CLOSE,), (HIGH, LOW, CLOSE), (VOLUME,), (CLOSE, VOLUME)
# Stem, formula of the window n, inputs, and how many sessions it sees before its window.
_WINDOWED = (
    ("roc", "c[-n]/c", _C, 1),
    ("ma", "mean(c, n)/c", _C, 0),
    ("std", "std(c, n)/c, ddof 1", _C, 0),
    ("beta", "slope of c on time over n, /c", _C, 0),
    ("rsqr", "R squared of c on time over n", _C, 0),
    ("resi", "(c - its value on that line)/c", _C, 0),
    ("max", "max(h, n)/c", (HIGH, CLOSE), 0),
    ("min", "min(l, n)/c", (LOW, CLOSE), 0),
    ("qtlu", "quantile(c, n, 0.8)/c, linear", _C, 0),
    ("qtld", "quantile(c, n, 0.2)/c, linear", _C, 0),
    ("rank", "rank of c among the n / n, average ties", _C, 0),
    ("rsv", "(c - min(l, n))/(max(h, n) - min(l, n) + 1e-12)", _HLC, 0),
    ("imax", "place of max(h, n) in its window, 1/n (oldest) to 1", (HIGH,), 0),
    ("imin", "place of min(l, n) in its window, 1/n (oldest) to 1", (LOW,), 0),
    ("imxd", "imax - imin", (HIGH, LOW), 0),
    ("corr", "correlation of c and log(v + 1) over n", _CV, 0),
    ("cord", "correlation of c/c[-1] and log(v/v[-1] + 1) over n", _CV, 1),
    ("cntp", "share of n with c > c[-1]", _C, 1),
    ("cntn", "share of n with c < c[-1]", _C, 1),
    ("cntd", "cntp - cntn", _C, 1),
    ("sump", f"{_GAIN}/(sum(|d|, n) + 1e-12), d = c - c[-1]", _C, 1),
    ("sumn", f"{_LOSS}/(sum(|d|, n) + 1e-12), d = c - c[-1]", _C, 1),
    ("sumd", "sump - sumn", _C, 1),
    ("vma", "mean(v, n)/v", _V, 0),
    ("vstd", "std(v, n)/v, ddof 1", _V, 0),
    ("wvma", "std(w, n)/(mean(w, n) + 1e-12), w = |c/c[-1] - 1| v", _CV, 1),
    ("vsump", f"{_GAIN}/(sum(|d|, n) + 1e-12), d = v - v[-1]", _V, 1),
    ("vsumn", f"{_LOSS}/(sum(|d|, n) + 1e-12), d = v - v[-1]", _V, 1),
    ("vsumd", "vsump - vsumn", _V, 1),
)
ALPHA158_WINDOWS = (5, 10, 20, 30, 60)

ALPHA158: tuple[Factor, ...] = (
    *(
        Factor(f"alpha_{stem}", formula, 1, 0, inputs, _QLIB.format(stem.upper()))
        for stem, formula, inputs in _SHAPES
    ),
    *(
        Factor(
            f"alpha_{stem}_{n}d",
            formula,
            n,
            n - 1 + earlier,
            inputs,
            _QLIB.format(f"{stem.upper()}{n}"),
        )
        for stem, formula, inputs, earlier in _WINDOWED
        for n in ALPHA158_WINDOWS
    ),
)


def _ema(span: int) -> int:
    """Sessions before the newest."""
    return memory_sessions(2.0 / (span + 1.0)) - 1


def _wilder(window: int) -> int:
    return memory_sessions(1.0 / window) - 1


_WILDER = "Wilder (1978), New Concepts in Technical Trading Systems"
_BOLLINGER = "Bollinger (2001), Bollinger on Bollinger Bands"
_ICHIMOKU = "Hosoda (1969), Ichimoku Kinko Hyo; its cloud as known 26 sessions before"
_ELDER = "Elder (1993), Trading for a Living"
_MULLOY = "Mulloy (1994), Technical Analysis of Stocks & Commodities 12(1)"
_OHLC, _HLCV = (OPEN, HIGH, LOW, CLOSE), (HIGH, LOW, CLOSE, VOLUME)

INDICATORS: tuple[Factor, ...] = (
    Factor(
        "rsi_wilder_14d",
        "100 U/(U + D); U, D = Wilder(gain), Wilder(loss)",
        14,
        1 + _wilder(14),
        _C,
        _WILDER,
    ),
    Factor(
        "stochastic_rsi_k_14d",
        "mean of 3 of 100 (RSI - min)/(max - min), RSI and range of 14",
        14,
        1 + _wilder(14) + 13 + 2,
        _C,
        "Chande and Kroll (1994), The New Technical Trader",
    ),
    Factor(
        "stochastic_rsi_d_14d",
        "mean of 3 of stochastic_rsi_k_14d",
        14,
        1 + _wilder(14) + 13 + 4,
        _C,
        "Chande and Kroll (1994), The New Technical Trader",
    ),
    Factor("macd_12d_26d", "100 (EMA(c, 12) - EMA(c, 26))/c", 26, _ema(26), _C, "Appel (1979)"),
    Factor(
        "macd_signal_12d_26d_9d",
        "100 EMA(EMA(c, 12) - EMA(c, 26), 9)/c",
        26,
        _ema(26) + _ema(9),
        _C,
        "Appel (1979)",
    ),
    Factor(
        "macd_histogram_12d_26d_9d",
        "macd_12d_26d - macd_signal_12d_26d_9d",
        26,
        _ema(26) + _ema(9),
        _C,
        "Aspray (1986)",
    ),
    Factor(
        "ppo_12d_26d",
        "100 (EMA(c, 12) - EMA(c, 26))/EMA(c, 26)",
        26,
        _ema(26),
        _C,
        "Appel (2005), Technical Analysis: Power Tools",
    ),
    Factor(
        "chande_momentum_14d",
        "100 Wilder(d, 14)/Wilder(|d|, 14), d = c - c[-1]",
        14,
        1 + _wilder(14),
        _C,
        "Chande and Kroll (1994), in Wilder's smoothing",
    ),
    Factor(
        "trix_15d",
        "100 (E/E[-1] - 1), E = EMA(EMA(EMA(c, 15), 15), 15)",
        15,
        3 * _ema(15) + 1,
        _C,
        "Hutson (1983), Technical Analysis of Stocks & Commodities 1(5)",
    ),
    Factor(
        "true_strength_25d_13d",
        "100 EMA(EMA(d, 25), 13)/EMA(EMA(|d|, 25), 13), d = c - c[-1]",
        25,
        1 + _ema(25) + _ema(13),
        _C,
        "Blau (1991), Technical Analysis of Stocks & Commodities 9(11)",
    ),
    Factor(
        "coppock_11d_14d_10d",
        "linearly weighted mean of 10 of the % changes over 11 and 14",
        14,
        14 + 9,
        _C,
        "Coppock (1962), Barron's",
    ),
    Factor(
        "know_sure_thing",
        "1, 2, 3, 4 times the means of 10, 10, 10, 15 of % changes over 10, 15, 20, 30",
        30,
        30 + 14,
        _C,
        "Pring (1992), Technical Analysis of Stocks & Commodities 10(9)",
    ),
    Factor("detrended_price_20d", "100 (c[-11] - mean(c, 20))/c", 20, 19, _C, "standard"),
    Factor(
        "dema_distance_10d",
        "c/(2 E - EMA(E, 10)) - 1, E = EMA(c, 10)",
        10,
        2 * _ema(10),
        _C,
        _MULLOY,
    ),
    Factor(
        "tema_distance_10d",
        "c/(3 E - 3 E2 + EMA(E2, 10)) - 1, E = EMA(c, 10), E2 = EMA(E, 10)",
        10,
        3 * _ema(10),
        _C,
        _MULLOY,
    ),
    Factor("trima_distance_20d", "c/mean(mean(c, 10), 11) - 1", 20, 19, _C, "standard"),
    Factor(
        "hull_distance_16d",
        "c/W(2 W(c, 8) - W(c, 16), 4) - 1, W the linearly weighted mean",
        16,
        15 + 3,
        _C,
        "Hull (2005)",
    ),
    Factor(
        "efficiency_ratio_10d",
        "|c - c[-10]|/sum(|c - c[-1]|, 10)",
        10,
        10,
        _C,
        "Kaufman (1995), Smarter Trading",
    ),
    Factor(
        "bollinger_percent_b_20d",
        "(c - lower)/(upper - lower); bands are mean(c, 20) -+ 2 std, ddof 0",
        20,
        19,
        _C,
        _BOLLINGER,
    ),
    Factor(
        "bollinger_bandwidth_20d",
        "100 (upper - lower)/mean(c, 20)",
        20,
        19,
        _C,
        _BOLLINGER,
    ),
    Factor(
        "ulcer_index_14d",
        "sqrt(mean(x^2, 14)), x = 100 (c/max(c, 14) - 1)",
        14,
        26,
        _C,
        "Martin and McCann (1989), The Investor's Guide to Fidelity Funds",
    ),
    Factor(
        "hurst_126d",
        "slope of log std(c - c[-k]) in 126 sessions on log k, k = 2 .. 20",
        126,
        125,
        _C,
        "Hurst (1951); by the spread of differences",
    ),
    Factor(
        "autocorrelation_20d",
        "correlation of r and r[-1] over 20, r = c/c[-1] - 1",
        20,
        21,
        _C,
        "standard",
    ),
    Factor(
        "variance_ratio_5d_60d",
        "var(c/c[-5] - 1, 60)/(5 var(r, 60)), r = c/c[-1] - 1",
        60,
        64,
        _C,
        "Lo and MacKinlay (1988), doi:10.1093/rfs/1.1.41",
    ),
    Factor(
        "excess_kurtosis_60d",
        "fourth standardised moment of r over 60 (biased) - 3",
        60,
        60,
        _C,
        "standard",
    ),
    Factor("true_range_pct", "100 TR/c, TR = max(h, c[-1]) - min(l, c[-1])", 1, 1, _HLC, _WILDER),
    Factor("atr_pct_14d", "100 Wilder(TR, 14)/c", 14, 1 + _wilder(14), _HLC, _WILDER),
    Factor("plus_di_14d", "100 Wilder(+DM, 14)/Wilder(TR, 14)", 14, 1 + _wilder(14), _HLC, _WILDER),
    Factor(
        "minus_di_14d", "100 Wilder(-DM, 14)/Wilder(TR, 14)", 14, 1 + _wilder(14), _HLC, _WILDER
    ),
    Factor(
        "adx_14d",
        "Wilder(100 |+DI - -DI|/(+DI + -DI), 14)",
        14,
        1 + 2 * _wilder(14),
        (HIGH, LOW),
        _WILDER,
    ),
    Factor(
        "stochastic_k_14d",
        "100 (c - min(l, 14))/(max(h, 14) - min(l, 14))",
        14,
        13,
        _HLC,
        "Lane (1984)",
    ),
    Factor("stochastic_d_14d_3d", "mean(stochastic_k_14d, 3)", 14, 15, _HLC, "Lane (1984)"),
    Factor("williams_r_14d", "stochastic_k_14d - 100", 14, 13, _HLC, "Williams (1973)"),
    Factor(
        "cci_20d",
        "(p - mean(p, 20))/(0.015 mean|p - mean(p, 20)|), p = (h + l + c)/3",
        20,
        19,
        _HLC,
        "Lambert (1980), Commodities",
    ),
    Factor(
        "aroon_up_25d", "100 (25 - sessions since max(h, 26))/25", 25, 25, (HIGH,), "Chande (1995)"
    ),
    Factor(
        "aroon_down_25d", "100 (25 - sessions since min(l, 26))/25", 25, 25, (LOW,), "Chande (1995)"
    ),
    Factor(
        "aroon_oscillator_25d",
        "aroon_up_25d - aroon_down_25d",
        25,
        25,
        (HIGH, LOW),
        "Chande (1995)",
    ),
    Factor(
        "keltner_position_20d",
        "(c - mean(p, 20))/(1.5 mean(TR, 20)), p = (h + l + c)/3",
        20,
        20,
        _HLC,
        "Keltner (1960), with true ranges",
    ),
    Factor(
        "keltner_width_20d",
        "100 * 3 mean(TR, 20)/mean(p, 20)",
        20,
        20,
        _HLC,
        "Keltner (1960), with true ranges",
    ),
    Factor(
        "ichimoku_tenkan_distance_9d",
        "middle(9)/c - 1, middle(n) = (max(h, n) + min(l, n))/2",
        9,
        8,
        _HLC,
        _ICHIMOKU,
    ),
    Factor("ichimoku_kijun_distance_26d", "middle(26)/c - 1", 26, 25, _HLC, _ICHIMOKU),
    Factor(
        "ichimoku_senkou_a_distance_26d",
        "((middle(9) + middle(26))/2)[-26]/c - 1",
        26,
        25 + 26,
        _HLC,
        _ICHIMOKU,
    ),
    Factor("ichimoku_senkou_b_distance_52d", "middle(52)[-26]/c - 1", 52, 51 + 26, _HLC, _ICHIMOKU),
    Factor(
        "ultimate_oscillator_7d_14d_28d",
        "100 (4 B(7) + 2 B(14) + B(28))/7, B(n) = mean(c - min(l, c[-1]), n)/mean(TR, n)",
        28,
        28,
        _HLC,
        "Williams (1985)",
    ),
    Factor(
        "mass_index_25d",
        "sum(E/EMA(E, 9), 25), E = EMA(h - l, 9)",
        25,
        2 * _ema(9) + 24,
        (HIGH, LOW),
        "Dorsey (1992)",
    ),
    Factor(
        "vortex_plus_14d",
        "mean(|h - l[-1]|, 14)/mean(TR, 14)",
        14,
        14,
        _HLC,
        "Botes and Siepman (2010)",
    ),
    Factor(
        "vortex_minus_14d",
        "mean(|l - h[-1]|, 14)/mean(TR, 14)",
        14,
        14,
        _HLC,
        "Botes and Siepman (2010)",
    ),
    Factor(
        "choppiness_14d",
        "100 log10(sum(TR, 14)/(max(h, 14) - min(l, 14)))/log10(14)",
        14,
        14,
        _HLC,
        "Dreiss (1993)",
    ),
    Factor("internal_bar_strength", "(c - l)/(h - l)", 1, 0, _HLC, "standard"),
    Factor(
        "donchian_position_20d",
        "(c - min(l, 20))/(max(h, 20) - min(l, 20))",
        20,
        19,
        _HLC,
        "Donchian (1960)",
    ),
    Factor(
        "donchian_width_20d", "100 (max(h, 20) - min(l, 20))/c", 20, 19, _HLC, "Donchian (1960)"
    ),
    Factor(
        "awesome_oscillator_5d_34d",
        "100 (mean((h + l)/2, 5) - mean((h + l)/2, 34))/c",
        34,
        33,
        _HLC,
        "Williams (1995), Trading Chaos",
    ),
    Factor(
        "relative_vigor_10d",
        "mean(S(c - o), 10)/mean(S(h - l), 10), S(x) = x + 2 x[-1] + 2 x[-2] + x[-3]",
        10,
        12,
        _OHLC,
        "Ehlers (2002), Technical Analysis of Stocks & Commodities 20(1)",
    ),
    Factor(
        "parkinson_volatility_20d",
        "sqrt(mean(log(h/l)^2, 20)/(4 log 2))",
        20,
        19,
        (HIGH, LOW),
        "Parkinson (1980), doi:10.1086/296071",
    ),
    Factor(
        "garman_klass_volatility_20d",
        "sqrt(mean(log(h/l)^2/2 - (2 log 2 - 1) log(c/o)^2, 20))",
        20,
        19,
        _OHLC,
        "Garman and Klass (1980), doi:10.1086/296072",
    ),
    Factor(
        "rogers_satchell_volatility_20d",
        "sqrt(mean(log(h/c) log(h/o) + log(l/c) log(l/o), 20))",
        20,
        19,
        _OHLC,
        "Rogers and Satchell (1991), doi:10.1214/aoap/1177005835",
    ),
    Factor(
        "yang_zhang_volatility_20d",
        "sqrt(var(log(o/c[-1]), 20) + k var(log(c/o), 20) + (1 - k) RS), "
        "k = 0.34/(1.34 + 21/19), RS = rogers_satchell_volatility_20d^2",
        20,
        20,
        _OHLC,
        "Yang and Zhang (2000), doi:10.1086/209650",
    ),
    Factor("elder_bull_power_13d", "100 (h - EMA(c, 13))/c", 13, _ema(13), (HIGH, CLOSE), _ELDER),
    Factor("elder_bear_power_13d", "100 (l - EMA(c, 13))/c", 13, _ema(13), (LOW, CLOSE), _ELDER),
    Factor("overnight_return", "o/c[-1] - 1", 1, 1, (OPEN, CLOSE), "standard"),
    Factor(
        "obv_20d",
        "sum(sign(c - c[-1]) v, 20)/sum(v, 20), the change of OBV in 20 sessions",
        20,
        20,
        _CV,
        "Granville (1963)",
    ),
    Factor(
        "money_flow_index_14d",
        "100 U/(U + D); U, D = mean of p v of 14 where p rose, fell; p = (h + l + c)/3",
        14,
        14,
        _HLCV,
        "Quong and Soudack (1989)",
    ),
    Factor(
        "chaikin_money_flow_20d",
        "sum(v ((c - l) - (h - c))/(h - l), 20)/sum(v, 20)",
        20,
        19,
        _HLCV,
        "Chaikin",
    ),
    Factor(
        "vwap_distance_20d",
        "c/(sum(p v, 20)/sum(v, 20)) - 1, p = (h + l + c)/3",
        20,
        19,
        _HLCV,
        "standard",
    ),
    Factor("vwma_distance_20d", "c/(sum(c v, 20)/sum(v, 20)) - 1", 20, 19, _CV, "standard"),
    Factor(
        "force_index_13d",
        "100 EMA((c - c[-1]) v, 13)/(c mean(v, 13))",
        13,
        1 + _ema(13),
        _CV,
        _ELDER,
    ),
    Factor(
        "ease_of_movement_14d",
        "mean(1e4 (m - m[-1])/c * (h - l)/c * mean(v, 20)/v, 14), m = (h + l)/2",
        14,
        19 + 13,
        _HLCV,
        "Arms (1996), Trading Without Fear",
    ),
    Factor(
        "amihud_illiquidity_20d",
        "mean(|c/c[-1] - 1|/(c v as traded), 20), per million USD",
        20,
        20,
        _CV,
        "Amihud (2002), doi:10.1016/S1386-4181(01)00024-6",
    ),
    Factor("volume_zscore_20d", "(v - mean(v, 20))/std(v, 20), ddof 1", 20, 19, _V, "standard"),
    Factor("log_dollar_volume_20d", "log10(mean(c v as traded, 20)), USD", 20, 19, _CV, "standard"),
    Factor(
        "price_volume_trend_20d",
        "sum((c/c[-1] - 1) v, 20)/sum(v, 20)",
        20,
        20,
        _CV,
        "standard",
    ),
)

FACTORS: tuple[Factor, ...] = ALPHA158 + INDICATORS
CLOSE_ONLY: tuple[str, ...] = tuple(factor.name for factor in FACTORS if factor.is_close_only)
