"""Indicators against the third-party answers that QuantConnect's LEAN is itself tested with.

Real SPY prices, answers from charting packages; the tolerance is LEAN's own (1e-3, absolute, but
where its test says otherwise). Each case compares from the session at which what came before the
file can no longer be seen: an exponential average of theirs begins with a simple one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from marketlake.domain.features import indicators as ind
from marketlake.domain.features import windows as win
from marketlake.domain.prices import Floats

Series = dict[str, Floats]


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


CASES = [
    Case("spy_with_indicators.txt", "SMA14", lambda s: win.mean(s["close"], 14), tolerance=1e-2),
    Case("spy_with_indicators.txt", "EMA14", lambda s: win.ema(s["close"], 14), 130, 1e-2),
    Case("spy_with_indicators.txt", "RSI 14 Wilder", lambda s: ind.rsi(s["close"], 14), 200),
    Case("spy_ema.csv", "EMA14", lambda s: win.ema(s["close"], 14), 130),
    Case("spy_with_macd.txt", "MACD", lambda s: ind.macd(s["close"], 12, 26, 9)[0], 200),
    Case("spy_with_macd.txt", "Signal", lambda s: ind.macd(s["close"], 12, 26, 9)[1], 250),
    Case("spy_bollinger_bands.txt", "Moving Average 20",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[0]),
    Case("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Top",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[1]),
    Case("spy_bollinger_bands.txt", "Bollinger Bands® 20 2 Bottom",
         lambda s: ind.bollinger(s["close"], 20, 2.0)[2]),
    Case("spy_with_adx.txt", "+DI14", lambda s: ind.directional(*_hlc(s), 14)[0], 200, 1e-4),
    Case("spy_with_adx.txt", "-DI14", lambda s: ind.directional(*_hlc(s), 14)[1], 200, 1e-4),
    Case("spy_with_adx.txt", "ADX 14", lambda s: ind.directional(*_hlc(s), 14)[2], 380),
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
    Case("spy_with_StochRSI.csv", "k", lambda s: ind.stochastic_rsi(s["close"], 14, 3)[0], 220),
    Case("spy_with_StochRSI.csv", "d", lambda s: ind.stochastic_rsi(s["close"], 14, 3)[1], 220),
    Case("spy_with_cci.txt", "Commodity Channel Index (CCI) 14",
         lambda s: ind.commodity_channel(_typical(s), 14), 14, 1e-2),
    Case("spy_mfi.txt", "Money Flow Index 20",
         lambda s: ind.money_flow(*_hlc(s), s["volume"], 20), 21),
    Case("spy_aroon_oscillator.txt", "Aroon Oscillator 14",
         lambda s: np.subtract(*ind.aroon(s["high"], s["low"], 14)), 15),
    Case("spy_with_keltner.csv", "Middle Band", lambda s: ind.keltner(*_hlc(s), 20)[0], 20),
    Case("spy_with_keltner.csv", "Keltner Channels 20 Top",
         lambda s: ind.keltner(*_hlc(s), 20)[0] + 1.5 * ind.keltner(*_hlc(s), 20)[1], 21),
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
    Case("spy_ultosc.txt", "ULTOSC_7_14_28", lambda s: ind.ultimate(*_hlc(s), 7, 14, 28), 29),
    Case("spy_cmf.txt", "CMF_20", lambda s: ind.chaikin_money_flow(*_hlc(s), s["volume"], 20), 20),
    Case("spy_cmo.txt", "CMO_5", lambda s: ind.chande_momentum(s["close"], 5), 70),
    Case("spy_trix.txt", "TRIX_5", lambda s: ind.trix(s["close"], 5), 130),
    Case("spy_tsi.csv", "TSI_25_13", lambda s: ind.true_strength(s["close"], 25, 13), 290),
    Case("spy_dema.txt", "DEMA_5", lambda s: ind.dema(s["close"], 5), 90),
    Case("spy_tema.txt", "TEMA_5", lambda s: ind.tema(s["close"], 5), 130),
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
]  # fmt: skip


def _read(shared_data: Path, file: str) -> pd.DataFrame:
    archive = shared_data / "ref_indicators_lean" / "lean_indicator_testdata.zip"
    with zipfile.ZipFile(archive) as zipped:
        text = zipped.read(f"Tests/TestData/{file}").decode("utf-8-sig")
    frame = pd.read_csv(io.StringIO(text), index_col=False)
    return frame.rename(columns=str.strip)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.file}-{case.column}")
def test_an_indicator_is_what_a_third_party_says(case: Case, shared_data: Path) -> None:
    frame = _read(shared_data, case.file)
    inputs = {
        name.lower(): frame[name].to_numpy(np.float64)[None]
        for name in frame
        if name.lower() in {"open", "high", "low", "close", "volume"}
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        found = case.compute(inputs)[0]
    said = pd.to_numeric(frame[case.column], errors="coerce").to_numpy()
    compared = np.isfinite(said) & (np.arange(len(said)) >= case.settled)
    assert compared.sum() >= 10
    if case.column == "OBV":  # theirs begins at another level
        found = found - found[compared][0] + said[compared][0]
    np.testing.assert_allclose(
        found[compared], said[compared], rtol=case.relative, atol=case.tolerance
    )
