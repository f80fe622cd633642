"""Indicators against the third-party answers that QuantConnect's LEAN is itself tested with.

Real SPY prices, answers from charting packages; the tolerance is LEAN's own (1e-3, absolute, but
where its test says otherwise) or, where that is smaller, what the file's digits allow. Each case
compares from the session at which what came before the file can no longer be seen: an exponential
average of theirs begins with a simple one. Every file is in a case or in ``EXCLUDED``.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from marketlake.contracts.factors import ALPHA158, FACTORS, Factor
from marketlake.domain import rolling
from marketlake.domain.features import closes, engine
from marketlake.domain.features import indicators as ind
from marketlake.domain.features import windows as win
from marketlake.domain.prices import Bars, Floats
from numpy.lib.stride_tricks import sliding_window_view

from tests.domain.market import weekdays

Series = dict[str, Floats]
"""``open``, ``high``, ``low``, ``close``, ``volume``, each [1, n_sessions], as far as a file has
them; of a file with two symbols those of the second, and ``first_close``."""


@dataclass(frozen=True)
class Case:
    file: str
    column: str
    compute: Callable[[Series], Floats]
    settled: int = 0
    tolerance: float = 1e-3
    relative: float = 0.0


def _hlc(s: Series) -> tuple[Floats, Floats, Floats]:
    return s["high"], s["low"], s["close"]


def _typical(s: Series) -> Floats:
    return (s["high"] + s["low"] + s["close"]) / 3.0


def _macd(s: Series) -> tuple[Floats, Floats]:
    return ind.macd(win.ema(s["close"], 12), win.ema(s["close"], 26), 9)


def _emas(s: Series, span: int) -> tuple[Floats, Floats, Floats]:
    once = win.ema(s["close"], span)
    twice = win.ema(once, span)
    return once, twice, win.ema(twice, span)


def _directional(s: Series) -> tuple[Floats, Floats, Floats]:
    span = win.wilder(ind.true_range(*_hlc(s)), 14)
    return ind.directional(s["high"], s["low"], span, 14)


def _keltner(s: Series) -> tuple[Floats, Floats]:
    return ind.keltner(_typical(s), ind.true_range(*_hlc(s)), 20)


def _column(s: Series, name: str, factors: tuple[Factor, ...] = ALPHA158) -> Floats:
    """Return a column of the catalog; what a file lacks of a bar is its close."""
    quantities = [s.get(each, s["close"]) for each in ("open", "high", "low", "close", "volume")]
    no_actions = np.ones_like(s["close"])
    days = tuple(weekdays(date(1998, 1, 1), no_actions.size))
    values = np.empty((len(factors), *no_actions.shape))
    bars = Bars(days, ("SPY",), *quantities, no_actions, no_actions)
    engine.fill(bars, first_output=days[0], factors=factors, out=values)
    return values[[item.name for item in factors].index(name)]


def _range_volatilities(s: Series, window: int) -> Floats:
    made = np.empty((4, *s["close"].shape))
    logs = ind._range_logs(np.stack([s["open"], *_hlc(s)]))
    ind.range_volatilities(logs, window, made)
    return made


def _windows(x: Floats, length: int) -> Floats:
    """Return the ``length`` values that end at each session, the last axis."""
    before = np.full((len(x), length - 1), np.nan)
    return sliding_window_view(np.hstack([before, x]), length, axis=-1)


def _returns(c: Floats) -> Floats:
    return c / win.before(c, 1) - 1.0


CASES = [
    Case("spy_with_indicators.txt", "SMA14", lambda s: win.mean(s["close"], 14), tolerance=1e-2),
    Case("spy_with_indicators.txt", "EMA14", lambda s: win.ema(s["close"], 14), 130, 1e-2),
    Case("spy_with_indicators.txt", "RSI 14 Wilder", lambda s: ind.rsi(s["close"], 14), 200),
    Case("spy_with_indicators.txt", "MACD 12 26",
         lambda s: _macd(s)[0], 200, 2e-3),
    Case("spy_ema.csv", "EMA14", lambda s: win.ema(s["close"], 14), 130),
    Case("spy_with_macd.txt", "MACD", lambda s: _macd(s)[0], 200),
    Case("spy_with_macd.txt", "Signal", lambda s: _macd(s)[1], 250),
    Case("spy_bollinger_bands.txt", "Moving Average 20",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[0]),
    Case("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Top",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[1]),
    Case("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Bottom",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[2]),
    Case("spy_with_macd.txt", "Histogram",
         lambda s: np.subtract(*_macd(s)), 250, 3e-5),
    Case("spy_bollinger_bands.txt", "BandWidth", lambda s: 100.0 * np.subtract(
        *ind.bollinger(s["close"], 20, 2.0)[1:]) / win.mean(s["close"], 20), 0, 1.5e-4),
    Case("spy_bollinger_bands.txt", "%B",
         lambda s: (s["close"] - ind.bollinger(s["close"], 20, 2.0)[2])
         / np.subtract(*ind.bollinger(s["close"], 20, 2.0)[1:]), 0, 1e-4),
    Case("spy_sm.csv", "mid_bb",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[0], 0, 0.0, 1e-15),
    Case("spy_sm.csv", "bb high",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[1], 0, 0.0, 1e-15),
    Case("spy_sm.csv", "bb low",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[2], 0, 0.0, 1e-15),
    Case("spy_with_adx.txt", "+DI14", lambda s: _directional(s)[0], 200, 1e-4),
    Case("spy_with_adx.txt", "-DI14", lambda s: _directional(s)[1], 200, 1e-4),
    Case("spy_with_adx.txt", "ADX 14", lambda s: _directional(s)[2], 380),
    Case("spy_tr.txt", "TR", lambda s: ind.true_range(*_hlc(s)), 2),
    Case("spy_atr.txt", "Average True Range 14",
         lambda s: win.mean(ind.true_range(*_hlc(s)), 14), 15),
    Case("spy_atr_wilder.txt", "Average True Range 14",
         lambda s: win.wilder(ind.true_range(*_hlc(s)), 14), 200),
    Case("spy_natr.txt", "NATR_5",
         lambda s: 100.0 * win.wilder(ind.true_range(*_hlc(s)), 5) / s["close"], 70),
    Case("spy_with_stoch12k3.txt", "Stochastics 12 %K 3",
         lambda s: win.mean(ind.stochastic(*_hlc(s), 12), 3), 14),
    Case("spy_with_stoch12k3.txt", "%D 5",
         lambda s: win.mean(win.mean(ind.stochastic(*_hlc(s), 12), 3), 5), 18),
    Case("spy_with_williamsR14.txt", "Williams %R 14",
         lambda s: ind.stochastic(*_hlc(s), 14) - 100.0, 14),
    Case("spy_with_StochRSI.csv", "k",
         lambda s: ind.stochastic_rsi(ind.rsi(s["close"], 14), 14, 3)[0], 220),
    Case("spy_with_StochRSI.csv", "d",
         lambda s: ind.stochastic_rsi(ind.rsi(s["close"], 14), 14, 3)[1], 220),
    Case("spy_with_cci.txt", "Commodity Channel Index (CCI) 14",
         lambda s: ind.commodity_channel(_typical(s), win.mean(_typical(s), 14), 14), 14, 1e-2),
    Case("spy_mfi.txt", "Money Flow Index 20",
         lambda s: ind.money_flow(*_hlc(s), s["volume"], 20), 21),
    Case("spy_aroon_oscillator.txt", "Aroon Oscillator 14",
         lambda s: np.subtract(*ind.aroon(s["high"], s["low"], 14)), 15),
    Case("spy_with_keltner.csv", "Middle Band", lambda s: _keltner(s)[0], 20),
    Case("spy_with_keltner.csv", "Keltner Channels 20 Top",
         lambda s: _keltner(s)[0] + 1.5 * _keltner(s)[1], 21),
    Case("spy_with_keltner.csv", "Keltner Channels 20 Bottom",
         lambda s: _keltner(s)[0] - 1.5 * _keltner(s)[1], 21, 1e-4),
    Case("spy_with_ichimoku.csv", "Tenkan", lambda s: ind.midpoint(s["high"], s["low"], 9), 9),
    Case("spy_with_ichimoku.csv", "Kijun", lambda s: ind.midpoint(s["high"], s["low"], 26), 26),
    Case("spy_with_ichimoku.csv", "Senkou A", lambda s: win.before(
        (ind.midpoint(s["high"], s["low"], 9) + ind.midpoint(s["high"], s["low"], 26)) / 2.0, 26
    ), 52),
    Case("spy_with_ichimoku.csv", "Senkou B",
         lambda s: win.before(ind.midpoint(s["high"], s["low"], 52), 26), 78),
    Case("spy_with_don50.txt", "Donchian Channels 50 Top",
         lambda s: win.highest(s["high"], 50), 50),
    Case("spy_with_don50.txt", "Donchian Channels 50 Bottom",
         lambda s: win.lowest(s["low"], 50), 50),
    Case("spy_with_don50.txt", "Donchian Channels 50 Mean",
         lambda s: ind.midpoint(s["high"], s["low"], 50), 50, 5e-14),
    Case("spy_midprice.txt", "MIDPRICE_5",
         lambda s: ind.midpoint(s["high"], s["low"], 5), 0, 5e-14),
    Case("spy_midpoint.txt", "MIDPOINT_5",
         lambda s: ind.midpoint(s["close"], s["close"], 5), 0, 5e-14),
    Case("spy_max.txt", "MAX_5", lambda s: win.highest(s["close"], 5), 0, 0.0),
    Case("spy_min.txt", "MIN_5", lambda s: win.lowest(s["close"], 5), 0, 0.0),
    Case("spy_ultosc.txt", "ULTOSC_7_14_28", lambda s: ind.ultimate(*_hlc(s), 7, 14, 28), 29),
    Case("spy_cmf.txt", "CMF_20", lambda s: ind.chaikin_money_flow(*_hlc(s), s["volume"], 20), 20),
    Case("spy_cmo.txt", "CMO_5", lambda s: ind.chande_momentum(s["close"], 5), 70),
    Case("spy_trix.txt", "TRIX_5", lambda s: ind.trix(s["close"], 5), 130),
    Case("spy_tsi.csv", "TSI_25_13", lambda s: ind.true_strength(s["close"], 25, 13), 290),
    Case("spy_dema.txt", "DEMA_5", lambda s: ind.dema(*_emas(s, 5)[:2]), 90),
    Case("spy_tema.txt", "TEMA_5", lambda s: ind.tema(*_emas(s, 5)), 130),
    Case("spy_trima.txt", "TRIMA_5", lambda s: ind.trima(s["close"], 5), 5),
    Case("spy_trima.txt", "TRIMA_6", lambda s: ind.trima(s["close"], 6), 6),
    Case("spy_hma.txt", "HMA_16", lambda s: ind.hull(s["close"], 16), 20),
    Case("spy_ker.txt", "KER", lambda s: ind.efficiency(s["close"], 10), 11),
    Case("spy_dpo.csv", "DPO", lambda s: ind.detrended_price(s["close"], 21), 21),
    Case("spy_mass_index_25.txt", "MassIndex",
         lambda s: ind.mass_index(s["high"], s["low"], 9, 25), 160),
    Case("spy_with_vtx.csv", "plus_vtx", lambda s: ind.vortex(*_hlc(s), 14)[0], 15),
    Case("spy_with_vtx.csv", "minus_vtx", lambda s: ind.vortex(*_hlc(s), 14)[1], 15),
    Case("spy_with_chop.csv", "CHOP14", lambda s: ind.choppiness(*_hlc(s), 14), 15),
    Case("spy_coppock_curve.csv", "CoppockCurve",
         lambda s: ind.coppock(s["close"], 11, 14, 10), 24),
    Case("spy_with_kst.csv", "kst", lambda s: ind.know_sure_thing(
        s["close"], (5, 10, 15, 25), (5, 5, 5, 10)
    ), 36, 1e-6),
    Case("spy_with_ForceIndex.csv", "ForceIndex20",
         lambda s: ind.force(s["close"], s["volume"], 20), 150, 0.0, 1e-3),
    Case("spy_with_ibs.csv", "IBS",
         lambda s: (s["close"] - s["low"]) / (s["high"] - s["low"])),
    Case("spy_ao.txt", "AO", lambda s: ind.awesome(s["high"], s["low"], 5, 34), 34),
    Case("spy_with_vwap.txt", "Moving VWAP 50",
         lambda s: ind.volume_weighted(
             (_typical(s) * 3.0 + s["open"]) / 4.0, s["volume"], 50), 50),
    Case("spy_with_vwma.csv", "VWMA20",
         lambda s: ind.volume_weighted(s["close"], s["volume"], 20), 20),
    Case("spy_rvi.txt", "RVI",
         lambda s: ind.relative_vigor(s["open"], *_hlc(s), 10), 14),
    Case("spy_hurst_exponent.csv", "hurst_exponent", lambda s: ind.hurst(s["close"], 252, 20), 252),
    Case("spy_with_obv.txt", "OBV",
         lambda s: np.nancumsum(ind.signed_volume(s["close"], s["volume"]), axis=1), 2, 0.0, 1e-3),
    Case("spy_ad.txt", "AD", lambda s: np.cumsum(
        ind.chaikin_money_flow(*_hlc(s), s["volume"], 1) * s["volume"], axis=1), 0, 0.0, 1e-14),
    Case("spy_with_rma.csv", "SMA10", lambda s: win.mean(s["close"], 10), 9, 5e-13),
    Case("spx_lwma.csv", "LWMA", lambda s: win.weighted_mean(s["close"], 6), 5),
    # Theirs is of running sums, and rounds like them.
    Case("spy_var.txt", "Var", lambda s: win.std(s["close"], 10, 0) ** 2, 0, 2e-10),
    Case("spy_with_rsv.csv", "RSV9",
         lambda s: _range_volatilities(s, 9)[2], 0, 3e-16),
    # Seven digits of a price's ratio, in %.
    Case("spy_with_rocp50.txt", "Rate of Change % 50",
         lambda s: ind.rate_of_change(s["close"], 50), 0, 2e-5),
    # Theirs are of simple means where the catalog's PPO and MACD are of exponential ones.
    Case("spy_apo.txt", "APO_5_10",
         lambda s: ind.awesome(s["close"], s["close"], 5, 10), 0, 5e-13),
    Case("spy_ppo.txt", "PPO_5_10",
         lambda s: 100.0 * ind.awesome(s["close"], s["close"], 5, 10) / win.mean(s["close"], 10),
         0, 5e-13),
    Case("spy_bop.txt", "BOP", lambda s: _column(s, "alpha_kmid2"), 0, 2e-12),
    Case("spy_rocr.txt", "ROCR_5", lambda s: 1.0 / _column(s, "alpha_roc_5d"), 0, 1e-14),
    # The line's value at the next session: the close, less what it is above the line, plus a step.
    Case("spy_tsf.csv", "tsf",
         lambda s: s["close"]
         * (1.0 - _column(s, "alpha_resi_5d") + _column(s, "alpha_beta_5d")), 4, 0.0, 2e-15),
    Case("spy_tdd.csv", "tdd", lambda s: np.sqrt(
        rolling.mean(np.minimum(_windows(_returns(s["close"]), 3), 0.0) ** 2)), 3, 3e-17),
    Case("spy_qqq_corr.csv", "Correlation_Pearson",
         lambda s: win.correlation(s["first_close"], s["close"], 252), 251, 5e-12),
    Case("bi_datatest.csv", "Beta", lambda s: closes._beta(
        _windows(_returns(s["first_close"]), 5), _windows(_returns(s["close"]), 5)), 5, 6e-10),
]  # fmt: skip

EASE_OF_MOVEMENT = "spy_emv.txt"

EXCLUDED = {
    "no answers: prices alone, a licence, exchange hours": (
        "LICENSE",
        "PROVENANCE.txt",
        "Data/market-hours/market-hours-database.json",
        "SampleMarketHoursDatabase.json",
        "symbol-properties/symbol-properties-database.csv",
        "spy_10_min.txt",
        "spy_ohlcv.txt",
        "stock_prices.csv",
    ),
    "no options in the catalog: greeks and implied volatilities": ("greeks/", "greeksindicator/"),
    "no candle patterns in the catalog": (
        "eurusd_candle_patterns.txt",
        "ewz_candle_patterns.txt",
        "spy_candle_patterns.txt",
    ),
    "no breadth of a market in the catalog": (
        "arms_data.txt",
        "mcclellan_data.csv",
        "nhnl_data.csv",
    ),
    "no such moving average or filter in the catalog": (
        "frama.txt",
        "spy_alma.txt",
        "spy_mama.csv",
        "spy_swiss.txt",
        "spy_t3.txt",
        "spy_vidya.txt",
        "spy_with_McGinleyDynamic.csv",
        "spy_with_hilbert.csv",
        "spy_with_zlema.csv",
    ),
    "no such indicator in the catalog: its memory has no bound": (
        "dwac_supertrend.txt",
        "spy_asi.csv",
        "spy_crsi.csv",
        "spy_kama.txt",
        "spy_sarext.txt",
    ),
    "no such indicator in the catalog": (
        "eurusd60_dem.txt",
        "spy_acceleration_bands_20_4.txt",
        "spy_ad_osc.txt",
        "spy_adr.csv",
        "spy_aps.txt",
        "spy_arima.csv",
        "spy_do.csv",
        "spy_heikin_ashi.txt",
        "spy_logr14.txt",
        "spy_pivot_pnt_hl.txt",
        "spy_pso.csv",
        "spy_rdv.txt",
        "spy_si.csv",
        "spy_stc.txt",
        "spy_with_ChandeKrollStop.csv",
        "spy_with_fisher.txt",
        "spy_with_kvo.csv",
        "spy_with_roc50.txt",
        "spy_with_sobv.csv",
        "spy_wto.csv",
        "spy_zigzag.csv",
        "td_sequential_test_data.csv",
        "tp_datatest.csv",
        "vp_datatest.csv",
    ),
    "no such figure of returns in the catalog": (
        "alpha_indicator_datatest.csv",
        "spy_qqq_cov.csv",
        "spy_sortino.csv",
        "spy_sr.txt",
    ),
    "other definition: of a normal distribution, ours is a return that was seen": (
        "spy_valueatrisk.csv",
    ),
}


def _folder(shared_data: Path) -> Path:
    return shared_data / "ref_indicators_lean"


def _read(shared_data: Path, file: str) -> pd.DataFrame:
    with zipfile.ZipFile(_folder(shared_data) / "lean_indicator_testdata.zip") as zipped:
        text = zipped.read(f"Tests/TestData/{file}").decode("utf-8-sig")
    frame = pd.read_csv(io.StringIO(text), index_col=False).rename(columns=str.strip)
    if "Symbol" not in frame:
        return frame
    first, second = (rows for _, rows in frame.groupby("Symbol", sort=False))
    return second.merge(
        first[["Date", "Close"]].rename(columns={"Close": "first_close"}), on="Date"
    )


def _series(frame: pd.DataFrame) -> Series:
    quantities = {"open", "high", "low", "close", "volume", "first_close"}
    return {
        name.lower(): frame[name].to_numpy(np.float64)[None]
        for name in frame
        if name.lower() in quantities
    }


def test_every_file_is_compared_or_excluded_for_a_reason(shared_data: Path) -> None:
    listed = set()
    for path in _folder(shared_data).iterdir():
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as zipped:
                listed |= {name.removeprefix("Tests/TestData/") for name in zipped.namelist()}
        else:
            listed.add(path.name)
    excluded = [name for names in EXCLUDED.values() for name in names]
    compared = {case.file for case in CASES} | {EASE_OF_MOVEMENT}
    assert len(excluded) == len(set(excluded))
    assert not compared & set(excluded)
    folders = tuple(name for name in excluded if name.endswith("/"))
    assert all(any(name.startswith(folder) for name in listed) for folder in folders)
    rest = {name for name in listed if not name.startswith(folders)}
    assert rest == compared | set(excluded) - set(folders)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.column}")
def test_an_indicator_is_what_a_third_party_says(case: Case, shared_data: Path) -> None:
    frame = _read(shared_data, case.file)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = case.compute(_series(frame))[0]
    said = pd.to_numeric(frame[case.column], errors="coerce").to_numpy()
    compared = np.isfinite(said) & (np.arange(len(said)) >= case.settled)
    assert compared.sum() >= 10
    if case.column == "OBV":  # theirs begins at another level
        found = found - found[compared][0] + said[compared][0]
    np.testing.assert_allclose(
        found[compared], said[compared], rtol=case.relative, atol=case.tolerance
    )


def test_ease_of_movement_is_the_mean_of_what_a_third_party_says_of_single_sessions(
    shared_data: Path,
) -> None:
    """Theirs is 1e4 (m - m[-1]) (h - l)/v; ours is in shares of the close and the mean volume."""
    frame = _read(shared_data, EASE_OF_MOVEMENT)
    # Quiet sessions before the file, so that the mean volume is there from its first session on.
    earlier = 20
    quiet = pd.concat([frame.iloc[[0]].assign(High=frame["Close"], Low=frame["Close"])] * earlier)
    whole = pd.concat([quiet, frame], ignore_index=True)
    found = _column(_series(whole), "ease_of_movement_14d", FACTORS)[0, earlier:]
    scale = (whole["Volume"].rolling(20).mean() / whole["Close"] ** 2).to_numpy()[earlier:]
    said = (frame["EMV"] * scale).rolling(14).mean().to_numpy()
    compared = np.isfinite(said)
    assert compared.sum() == len(frame) - 14
    # Nine decimals, scaled like the rest.
    np.testing.assert_allclose(found[compared], said[compared], rtol=0, atol=5e-10 * scale.max())
