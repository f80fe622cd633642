"""Every factor against a plain pandas reading of its formula, on bars with every nuisance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from marketlake.contracts.factors import ALPHA158, FACTORS, INDICATORS, memory_sessions
from marketlake.domain.features import engine
from marketlake.domain.prices import Bars, Floats

from tests.domain.features.made import made_bars
from tests.domain.features.plain_alpha158 import plain_alpha158


def _adjusted(bars: Bars, row: int) -> pd.DataFrame:
    """Return bars on the basis of the first session; a bar without a close is none."""
    price = np.cumprod(bars.price_factors[row])
    frame = pd.DataFrame(
        {
            "open": bars.opens[row] / price,
            "high": bars.highs[row] / price,
            "low": bars.lows[row] / price,
            "close": bars.closes[row] / price,
            "volume": bars.volumes[row] / np.cumprod(bars.share_factors[row]),
            "turnover": bars.closes[row] * bars.volumes[row],
        }
    )
    return frame.where(frame["close"].notna())


def _computed(bars: Bars) -> Floats:
    values = np.empty((len(FACTORS), *bars.closes.shape))
    engine.fill(bars, first_output=bars.sessions[0], out=values)
    return values


@pytest.mark.parametrize("is_whole", [True, False])
def test_alpha158_is_its_expressions_in_plain_pandas(is_whole: bool) -> None:
    # One calendar year: the blocks' bases differ by rounding, and so do ties.
    bars = made_bars(21, n_symbols=1, n_sessions=130, is_whole=is_whole)
    found = _computed(bars)[: len(ALPHA158), 0]
    said = plain_alpha158(_adjusted(bars, 0))
    assert [f"alpha_{name}" for name in said] == [item.name for item in ALPHA158]
    differing = {}
    for row, name in enumerate(said):
        one, other = found[row], said[name].to_numpy()
        is_close = np.isclose(one, other, rtol=1e-7, atol=1e-8, equal_nan=True)
        if not is_close.all():
            differing[name] = np.abs(one - other)[~is_close]
    if not is_whole:
        # An action rounds one price to two that are all but equal, and either may come first: in
        # one window of all, by one place of at least 48.
        places = differing.pop("rank_60d", np.zeros(1))
        assert len(places) == 1
        assert places[0] <= 1 / 48
    assert not differing


def _mean_distance(x: np.ndarray) -> float:
    return np.nanmean(np.abs(x - np.nanmean(x)))


def _plain_indicators(bars: pd.DataFrame) -> dict[str, pd.Series]:
    o, h, low, c, v = (bars[name] for name in ("open", "high", "low", "close", "volume"))

    def weighted(x: pd.Series, alpha: float) -> pd.Series:
        weights = (1 - alpha) ** np.arange(memory_sessions(alpha))[::-1]
        padded = np.concatenate([np.full(len(weights) - 1, np.nan), x.to_numpy()])
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(weights))
        there = ~np.isnan(windows)
        share = there @ weights
        mean = np.where(there, windows, 0.0) @ weights / np.where(share > 0, share, np.nan)
        return pd.Series(np.where(share >= 0.8 * weights.sum(), mean, np.nan), index=x.index)

    def ema(x: pd.Series, span: int) -> pd.Series:
        return weighted(x, 2 / (span + 1))

    def wilder(x: pd.Series, n: int) -> pd.Series:
        return weighted(x, 1 / n)

    def rolling(x: pd.Series, n: int) -> pd.core.window.Rolling:
        return x.rolling(n, min_periods=int(np.ceil(0.8 * n)))

    def mean(x: pd.Series, n: int) -> pd.Series:
        return rolling(x, n).mean()

    def linear(x: pd.Series, n: int) -> pd.Series:
        def one(y: np.ndarray) -> float:
            y = np.concatenate([np.full(n - len(y), np.nan), y])
            w = np.arange(1, n + 1) * ~np.isnan(y)
            return np.nansum(w * y) / w.sum() if w.sum() >= 0.8 * n * (n + 1) / 2 else np.nan

        return x.rolling(n, min_periods=1).apply(one, raw=True)

    d, r, typical = c.diff(), c / c.shift(1) - 1, (h + low + c) / 3
    gain, loss = wilder(d.clip(lower=0), 14), wilder(-d.clip(upper=0), 14)
    rsi = 100 - 100 / (1 + gain / loss)
    place = 100 * (rsi - rolling(rsi, 14).min()) / (rolling(rsi, 14).max() - rolling(rsi, 14).min())
    line = ema(c, 12) - ema(c, 26)
    triple = ema(ema(ema(c, 15), 15), 15)
    roc = {n: 100 * (c / c.shift(n) - 1) for n in (10, 11, 14, 15, 20, 30)}
    once, twice = ema(c, 10), ema(ema(c, 10), 10)
    std20 = rolling(c, 20).std(ddof=0)
    tr = pd.concat([h - low, (h - c.shift(1)).abs(), (low - c.shift(1)).abs()], axis=1).max(
        axis=1, skipna=False
    )
    up, down = h - h.shift(1), low.shift(1) - low
    both = up + down
    plus = up.where((up > down) & (up > 0), 0.0).where(both.notna())
    minus = down.where((down > up) & (down > 0), 0.0).where(both.notna())
    plus_di, minus_di = wilder(plus, 14), wilder(minus, 14)
    dx = 100 * (plus_di - minus_di).abs() / (plus_di + minus_di)

    def top(n: int) -> pd.Series:
        return rolling(h, n).max()

    def bottom(n: int) -> pd.Series:
        return rolling(low, n).min()

    def middle(n: int) -> pd.Series:
        return (top(n) + bottom(n)) / 2

    def ago(x: pd.Series) -> pd.Series:
        return rolling(x, 26).apply(lambda y: np.nanargmax(y[::-1]), raw=True)

    aroon_up, aroon_down = 100 * (25 - ago(h)) / 25, 100 * (25 - ago(-low)) / 25
    fast = 100 * (c - bottom(14)) / (top(14) - bottom(14))
    floor = pd.concat([low, c.shift(1)], axis=1).min(axis=1, skipna=False)
    bought = {n: mean(c - floor, n) / mean(tr, n) for n in (7, 14, 28)}
    single = ema(h - low, 9)

    def symmetric(x: pd.Series) -> pd.Series:
        return x + 2 * x.shift(1) + 2 * x.shift(2) + x.shift(3)

    log = np.log
    rs = mean(log(h / c) * log(h / o) + log(low / c) * log(low / o), 20)
    night, day = rolling(log(o / c.shift(1)), 20).var(), rolling(log(c / o), 20).var()
    k = 0.34 / (1.34 + 21 / 19)
    change, flow = typical.diff(), typical * v
    inflow = mean(flow.where(change > 0, 0.0).where((change + flow).notna()), 14)
    outflow = mean(flow.where(change < 0, 0.0).where((change + flow).notna()), 14)
    money = ((c - low) - (h - c)) / (h - low)
    moved = ((h + low) / 2).diff()

    def hurst(x: np.ndarray) -> float:
        spreads = []
        for lag in range(2, 21):
            away = x[lag:] - x[:-lag]
            if np.isfinite(away).sum() < 0.8 * (126 - lag):
                return np.nan
            spreads.append(np.nanstd(away))
        return np.polyfit(log(np.arange(2, 21)), log(spreads), 1)[0]

    def pair(x: pd.Series, y: pd.Series, n: int) -> pd.Series:
        return mean(x, n) / mean(y.where(x.notna()), n)

    return {
        "rsi_wilder_14d": rsi,
        "stochastic_rsi_k_14d": mean(place, 3),
        "stochastic_rsi_d_14d": mean(mean(place, 3), 3),
        "macd_12d_26d": 100 * line / c,
        "macd_signal_12d_26d_9d": 100 * ema(line, 9) / c,
        "macd_histogram_12d_26d_9d": 100 * (line - ema(line, 9)) / c,
        "ppo_12d_26d": 100 * line / ema(c, 26),
        "chande_momentum_14d": 100 * (gain - loss) / (gain + loss),
        "trix_15d": 100 * (triple / triple.shift(1) - 1),
        "true_strength_25d_13d": 100 * ema(ema(d, 25), 13) / ema(ema(d.abs(), 25), 13),
        "coppock_11d_14d_10d": linear(roc[11] + roc[14], 10),
        "know_sure_thing": mean(roc[10], 10) + 2 * mean(roc[15], 10) + 3 * mean(roc[20], 10)
        + 4 * mean(roc[30], 15),
        "detrended_price_20d": 100 * (c.shift(11) - mean(c, 20)) / c,
        "dema_distance_10d": c / (2 * once - twice) - 1,
        "tema_distance_10d": c / (3 * once - 3 * twice + ema(twice, 10)) - 1,
        "trima_distance_20d": c / mean(mean(c, 10), 11) - 1,
        "hull_distance_16d": c / linear(2 * linear(c, 8) - linear(c, 16), 4) - 1,
        "efficiency_ratio_10d": (c - c.shift(10)).abs() / (10 * mean(d.abs(), 10)),
        "bollinger_percent_b_20d": (c - mean(c, 20) + 2 * std20) / (4 * std20),
        "bollinger_bandwidth_20d": 100 * 4 * std20 / mean(c, 20),
        "ulcer_index_14d": np.sqrt(mean((100 * (c / rolling(c, 14).max() - 1)) ** 2, 14)),
        "hurst_126d": c.rolling(126, min_periods=1).apply(hurst, raw=True).where(
            np.arange(len(c)) >= 125
        ),
        "autocorrelation_20d": rolling(r, 20).corr(r.shift(1)),
        "variance_ratio_5d_60d": rolling(c / c.shift(5) - 1, 60).var() / (5 * rolling(r, 60).var()),
        "excess_kurtosis_60d": rolling(r, 60).apply(
            lambda x: np.nanmean((x - np.nanmean(x)) ** 4) / np.nanvar(x) ** 2 - 3, raw=True
        ),
        "true_range_pct": 100 * tr / c,
        "atr_pct_14d": 100 * wilder(tr, 14) / c,
        "plus_di_14d": 100 * plus_di / wilder(tr, 14),
        "minus_di_14d": 100 * minus_di / wilder(tr, 14),
        "adx_14d": wilder(dx, 14),
        "stochastic_k_14d": fast,
        "stochastic_d_14d_3d": mean(fast, 3),
        "williams_r_14d": -100 * (top(14) - c) / (top(14) - bottom(14)),
        "cci_20d": (typical - mean(typical, 20))
        / (0.015 * rolling(typical, 20).apply(_mean_distance, raw=True)),
        "aroon_up_25d": aroon_up,
        "aroon_down_25d": aroon_down,
        "aroon_oscillator_25d": aroon_up - aroon_down,
        "keltner_position_20d": (c - mean(typical, 20)) / (1.5 * mean(tr, 20)),
        "keltner_width_20d": 300 * mean(tr, 20) / mean(typical, 20),
        "ichimoku_tenkan_distance_9d": middle(9) / c - 1,
        "ichimoku_kijun_distance_26d": middle(26) / c - 1,
        "ichimoku_senkou_a_distance_26d": ((middle(9) + middle(26)) / 2).shift(26) / c - 1,
        "ichimoku_senkou_b_distance_52d": middle(52).shift(26) / c - 1,
        "ultimate_oscillator_7d_14d_28d": 100 * (4 * bought[7] + 2 * bought[14] + bought[28]) / 7,
        "mass_index_25d": 25 * mean(single / ema(single, 9), 25),
        "vortex_plus_14d": mean((h - low.shift(1)).abs(), 14) / mean(tr, 14),
        "vortex_minus_14d": mean((low - h.shift(1)).abs(), 14) / mean(tr, 14),
        "choppiness_14d": 100 * np.log10(
            14 * mean(tr, 14) / (top(14) - bottom(14))
        ) / np.log10(14),
        "internal_bar_strength": (c - low) / (h - low),
        "donchian_position_20d": (c - bottom(20)) / (top(20) - bottom(20)),
        "donchian_width_20d": 100 * (top(20) - bottom(20)) / c,
        "awesome_oscillator_5d_34d": 100 * (mean((h + low) / 2, 5) - mean((h + low) / 2, 34)) / c,
        "relative_vigor_10d": mean(symmetric(c - o), 10) / mean(symmetric(h - low), 10),
        "parkinson_volatility_20d": np.sqrt(
            mean(log(h / low) ** 2, 20) / (4 * log(2))
        ),
        "garman_klass_volatility_20d": np.sqrt(
            mean(log(h / low) ** 2 / 2 - (2 * log(2) - 1) * log(c / o) ** 2, 20)
        ),
        "rogers_satchell_volatility_20d": np.sqrt(rs),
        "yang_zhang_volatility_20d": np.sqrt(night + k * day + (1 - k) * rs),
        "elder_bull_power_13d": 100 * (h - ema(c, 13)) / c,
        "elder_bear_power_13d": 100 * (low - ema(c, 13)) / c,
        "overnight_return": o / c.shift(1) - 1,
        "obv_20d": mean(np.sign(d) * v, 20) / mean(v, 20),
        "money_flow_index_14d": 100 - 100 / (1 + inflow / outflow),
        "chaikin_money_flow_20d": pair(money * v, v, 20),
        "vwap_distance_20d": c / pair(typical * v, v, 20) - 1,
        "vwma_distance_20d": c / pair(c * v, v, 20) - 1,
        "force_index_13d": 100 * ema(d * v, 13) / (c * mean(v, 13)),
        "ease_of_movement_14d": mean(
            (1e4 * moved * (h - low) / c**2 * mean(v, 20) / v).replace([np.inf, -np.inf], np.nan),
            14,
        ),
        "amihud_illiquidity_20d": mean(
            (1e6 * r.abs() / bars["turnover"]).replace([np.inf, -np.inf], np.nan), 20
        ),
        "volume_zscore_20d": (v - mean(v, 20)) / rolling(v, 20).std(),
        "log_dollar_volume_20d": np.log10(mean(bars["turnover"], 20)),
        "price_volume_trend_20d": mean(r * v, 20) / mean(v, 20),
    }  # fmt: skip


@pytest.mark.parametrize("is_whole", [True, False])
def test_the_indicators_are_their_formulas_in_plain_pandas(is_whole: bool) -> None:
    bars = made_bars(22, n_symbols=1, n_sessions=520, is_whole=is_whole)
    found = _computed(bars)[len(ALPHA158) :, 0, 390:]
    frame = _adjusted(bars, 0)
    said = _plain_indicators(frame)
    assert [*said] == [item.name for item in INDICATORS]
    differing = {}
    for row, (name, values) in enumerate(said.items()):
        other = values.where(frame["close"].notna()).replace([np.inf, -np.inf], np.nan).to_numpy()
        is_close = np.isclose(found[row], other[390:], rtol=1e-6, atol=1e-7, equal_nan=True)
        if not is_close.all():
            differing[name] = (~is_close).sum()
    assert not differing
