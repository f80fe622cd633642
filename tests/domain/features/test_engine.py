"""The engine and its catalog: what is missing, what is cut into blocks, and the price basis."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from marketlake.contracts.factors import (
    ALPHA158,
    ALPHA158_WINDOWS,
    CLOSE_ONLY,
    FACTORS,
    INDICATORS,
)
from marketlake.contracts.features import FEATURES
from marketlake.domain import prices
from marketlake.domain.features import compiled, engine, nested
from marketlake.domain.prices import Bars, Floats
from marketlake.errors import ContractViolation

from tests.domain.features.made import made_bars, with_closes
from tests.domain.market import actions_of, bars_of, weekdays

ROW = {item.name: row for row, item in enumerate(FACTORS)}


def compute(bars: Bars, **changes: object) -> Floats:
    values = np.empty((len(FACTORS), *bars.closes.shape))
    engine.fill(bars, first_output=bars.sessions[0], out=values, **changes)  # type: ignore[arg-type]
    return values


def test_the_catalog_has_over_two_hundred_columns_of_their_own() -> None:
    names = [item.name for item in (*FACTORS, *FEATURES)]
    assert len(ALPHA158) == 158
    assert len(FACTORS) >= 200
    assert len(set(names)) == len(names)
    assert all(item.formula and item.source and item.inputs for item in FACTORS)
    assert all(item.warm_up_sessions >= item.window_sessions - 1 for item in FACTORS)
    assert len(CLOSE_ONLY) > 80


def test_the_kernels_are_written_for_the_catalogs_windows() -> None:
    assert nested.WINDOWS == ALPHA158_WINDOWS
    assert max(item.warm_up_sessions for item in ALPHA158) == nested.WARM_UP


@given(
    st.lists(st.sampled_from([1.0, 2.0, 2.5, 3.0, 7.0, np.nan]), min_size=61, max_size=130),
    st.sampled_from([(0.8, 0.2), (0.5, 0.05)]),
)
@example([np.nan] * 61 + [2.0, np.nan, 3.0, 1.0, 2.0] + [np.nan] * 64, (0.8, 0.2))
@settings(max_examples=60, deadline=None)
def test_quantiles_are_numpys_with_ties_and_with_gaps(
    values: list[float], shares: tuple[float, float]
) -> None:
    x = np.array([values, values[::-1]])
    n = nested.sums((~np.isnan(x)).astype(np.float64))
    for share, found in zip(shares, nested.quantiles(x, n, *shares), strict=True):
        for level, window in enumerate(nested.WINDOWS):
            for s, i in np.ndindex(2, x.shape[1] - nested.WARM_UP):
                last = nested.WARM_UP + i
                there = x[s, last - window + 1 : last + 1]
                there = there[~np.isnan(there)]
                said = np.quantile(there, share) if len(there) else np.nan
                assert found[level, s, last] == pytest.approx(said, rel=1e-14, nan_ok=True)


def test_no_kernel_is_left_out_of_the_name_of_the_cache() -> None:
    folder = Path(compiled.__file__).parent
    compiling = {
        file.stem
        for file in folder.glob("*.py")
        if file.stem == "compiled"
        or any(
            isinstance(node, ast.ImportFrom) and str(node.module).endswith("features.compiled")
            for node in ast.walk(ast.parse(file.read_text()))
        )
    }
    # The command asks where the cache is, and has no kernel.
    assert compiling - {"__main__"} == set(compiled.KERNEL_MODULES)


def test_a_whole_history_has_every_factor_from_its_warm_up_on() -> None:
    bars = made_bars(1, is_whole=True)
    values = compute(bars)
    for row, item in enumerate(FACTORS):
        there = np.isfinite(values[row])
        assert there[:, item.warm_up_sessions :].all(), item.name
        first = there.argmax(axis=1).max()
        assert first <= item.warm_up_sessions, item.name


def test_neither_threads_nor_blocks_nor_the_other_symbols_change_a_bit() -> None:
    bars = made_bars(2, n_symbols=19)
    expected = compute(bars, threads=1)
    blocks = engine.factor_blocks(
        bars, first_output=bars.sessions[0], dtype=np.float64, threads=3, symbols_a_block=5
    )
    found = np.concatenate([block.values for block in blocks], axis=1)
    assert found.tobytes() == expected.tobytes()


def test_blocks_are_float32_and_name_their_symbols() -> None:
    bars = made_bars(3, n_symbols=5)
    first = bars.sessions[600]
    blocks = list(engine.factor_blocks(bars, first_output=first, symbols_a_block=2))
    assert [block.symbols for block in blocks] == [("S00", "S01"), ("S02", "S03"), ("S04",)]
    assert blocks[0].sessions == bars.sessions[600:]
    expected = compute(bars)[:, :2, 600:].astype(np.float32)
    assert blocks[0].values.tobytes() == expected.tobytes()


def test_each_half_of_the_catalog_can_be_computed_alone() -> None:
    bars = made_bars(4)
    whole = compute(bars)
    for half, rows in ((ALPHA158, slice(0, 158)), (INDICATORS, slice(158, None))):
        values = np.empty((len(half), *bars.closes.shape))
        engine.fill(bars, first_output=bars.sessions[0], factors=half, out=values)
        assert values.tobytes() == np.ascontiguousarray(whole[rows]).tobytes()
    with pytest.raises(ContractViolation, match="a selection of 3"):
        next(engine.factor_blocks(bars, first_output=bars.sessions[0], factors=FACTORS[:3]))
    with pytest.raises(ContractViolation, match="first output"):
        next(engine.factor_blocks(bars, first_output=weekdays(bars.sessions[-1], 2)[1]))


def test_a_session_without_a_close_has_no_factor_and_stays_a_gap() -> None:
    bars = made_bars(5, is_whole=True)
    bars.closes[0, 500] = np.nan
    values = compute(bars)
    assert np.isnan(values[:, 0, 500]).all()
    after = {name for name, row in ROW.items() if np.isnan(values[row, 0, 501])}
    assert after >= {"true_range_pct", "overnight_return"}, "a gap is not bridged"
    assert np.isnan(values[ROW["alpha_roc_5d"], 0, 505])
    assert np.isfinite(values[ROW["alpha_roc_5d"], 0, 504])
    assert (
        np.isfinite(values[:, 1]).sum()
        == np.isfinite(compute(made_bars(5, is_whole=True))[:, 1]).sum()
    )


def test_a_window_needs_four_fifths_of_its_values() -> None:
    bars = made_bars(6, is_whole=True)
    bars.closes[0, 585:589] = np.nan  # four of the last twenty
    row = ROW["alpha_ma_20d"]
    assert np.isfinite(compute(bars)[row, 0, 600])
    bars.closes[0, 589] = np.nan
    values = compute(bars)
    assert np.isnan(values[row, 0, 600])
    assert np.isnan(values[ROW["bollinger_percent_b_20d"], 0, 600])
    assert np.isfinite(values[ROW["alpha_ma_30d"], 0, 600])


def test_a_new_listing_has_nothing_before_four_fifths_of_a_window() -> None:
    bars = made_bars(7, is_whole=True)
    for name in ("opens", "highs", "lows", "closes", "volumes"):
        getattr(bars, name)[1, :400] = np.nan
    values = compute(bars)[:, 1]
    assert np.isnan(values[:, :400]).all()
    assert np.flatnonzero(np.isfinite(values[ROW["alpha_std_60d"]]))[0] == 400 + 47
    assert np.flatnonzero(np.isfinite(values[ROW["alpha_kmid"]]))[0] == 400
    assert np.flatnonzero(np.isfinite(values[ROW["stochastic_k_14d"]]))[0] == 400 + 11


def test_prices_of_a_halt_are_flat_and_nothing_is_made_of_rounding() -> None:
    bars = made_bars(8, is_whole=True)
    flat = with_closes(bars, np.full_like(bars.closes, 17.43))
    flat = replace(flat, volumes=np.zeros_like(bars.volumes))
    values = compute(flat)[:, :, 400:]
    assert not np.isinf(values).any()
    zero = ["alpha_std_60d", "alpha_resi_20d", "alpha_beta_30d", "alpha_kmid2", "true_range_pct",
            "ulcer_index_14d", "alpha_sump_20d", "garman_klass_volatility_20d"]  # fmt: skip
    for name in zero:
        assert np.abs(values[ROW[name]]).max() < 1e-12, name
    nothing = ["alpha_rsqr_20d", "alpha_corr_20d", "alpha_cord_10d", "alpha_vma_5d", "hurst_126d",
               "rsi_wilder_14d", "bollinger_percent_b_20d", "adx_14d", "cci_20d", "obv_20d",
               "excess_kurtosis_60d", "autocorrelation_20d", "choppiness_14d"]  # fmt: skip
    for name in nothing:
        assert np.isnan(values[ROW[name]]).all(), name


@pytest.mark.parametrize("bad", [0.0, -3.0, np.inf])
def test_a_price_that_cannot_be_is_a_missing_one(bad: float) -> None:
    bars = made_bars(9, is_whole=True)
    bars.highs[0, 450] = np.nan
    expected = compute(bars)
    bars.highs[0, 450] = bad
    assert compute(bars).tobytes() == expected.tobytes()


def test_what_missed_a_split_is_what_had_none() -> None:
    """A split by two rescales by a power of two, so that not one bit may change."""
    plain = made_bars(10, is_whole=True)
    ratio = np.ones_like(plain.closes)
    ratio[:, 333] = 2.0
    halves = np.cumprod(ratio, axis=1)
    split = replace(
        plain,
        **{name: getattr(plain, name) / halves for name in ("opens", "highs", "lows", "closes")},
        volumes=plain.volumes * halves,
        price_factors=1.0 / ratio,
        share_factors=ratio,
    )
    shapeless = [row for row, item in enumerate(FACTORS) if not item.name.startswith("alpha_")]
    close = {"rtol": 1e-9, "atol": 1e-9, "equal_nan": True}
    np.testing.assert_allclose(compute(split)[shapeless], compute(plain)[shapeless], **close)
    # log(v + 1) and 1e-12 know the unit of a volume and of a price.
    np.testing.assert_allclose(compute(split), compute(plain), rtol=1e-4, atol=1e-5)


def test_adjusted_prices_say_the_same_as_traded_ones_with_their_actions() -> None:
    bars = made_bars(13)
    adjusted = replace(
        bars,
        **{
            name: getattr(bars, name) / np.cumprod(bars.price_factors, axis=1)
            for name in ("opens", "highs", "lows", "closes")
        },
        volumes=bars.volumes / np.cumprod(bars.share_factors, axis=1),
        price_factors=np.ones_like(bars.closes),
        share_factors=np.ones_like(bars.closes),
    )
    one, other = compute(bars), compute(adjusted)
    # The unit of the volume of dollars, of log(v + 1), and the ties that rounding makes or breaks.
    loose = [row for row, item in enumerate(FACTORS) if "volume_shares" not in item.inputs]
    differing = ~np.isclose(one[loose], other[loose], rtol=1e-6, atol=1e-6, equal_nan=True)
    assert differing.mean() < 1e-4


def test_a_block_becomes_rows_where_there_was_a_bar() -> None:
    bars = made_bars(14, is_whole=True)
    bars.closes[1, 639] = np.nan
    first = bars.sessions[638]
    block = next(engine.factor_blocks(bars, first_output=first, dtype=np.float64))
    frame = block.frame()
    assert frame.columns == ["session", "symbol", *(item.name for item in FACTORS)]
    last = bars.sessions[639]
    assert frame.select("session", "symbol").rows() == [
        *((first, symbol) for symbol in bars.symbols),
        *((last, symbol) for symbol in ("S00", "S02")),
    ]
    assert frame["alpha_roc_5d"][4] == block.values[ROW["alpha_roc_5d"], 2, 1]
    assert frame.to_numpy().shape == (5, 2 + len(FACTORS))


def test_numba_is_loaded_by_the_first_computation_and_not_before() -> None:
    code = (
        "import sys, marketlake.contracts.factors\n"
        "from marketlake.domain.features import engine\n"
        "sys.exit('numba' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_compiled_code_is_kept_where_it_can_be_and_else_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout, home = tmp_path / "checkout", tmp_path / "home"
    checkout.mkdir()
    for name in compiled.KERNEL_MODULES:
        (checkout / f"{name}.py").write_text("pass\n")
    monkeypatch.setattr(compiled, "_HERE", checkout)
    monkeypatch.setenv("HOME", str(home))
    in_checkout = compiled._folder()
    assert in_checkout is not None
    assert Path(in_checkout).parent == checkout / "__pycache__"

    (checkout / "windows.py").write_text("pass  # changed\n")
    assert compiled._folder() != in_checkout, "a kernel may call one of another file"

    shutil.rmtree(checkout / "__pycache__")
    (checkout / "__pycache__").write_text("in the way, as a read-only folder would be")
    at_home = compiled._folder()
    assert at_home is not None
    assert Path(at_home).is_relative_to(home)

    shutil.rmtree(home)
    home.write_text("in the way")
    assert compiled._folder() is None


def test_frames_become_bars_with_their_factors() -> None:
    days = weekdays(made_bars(1).sessions[0], 4)
    frame = bars_of(np.array([[10.0], [10.0], [5.0], [4.0]]), sessions=days, symbols=["A"])
    frame = frame.with_columns(
        pl.col("close_usd").alias("open_usd"),
        (pl.col("close_usd") + 1).alias("high_usd"),
        (pl.col("close_usd") - 1).alias("low_usd"),
        pl.lit(100, pl.Int64).alias("volume_shares"),
    )
    actions = actions_of((days[2], "A", 2.0, None), (days[3], "A", None, 0.5))
    bars = prices.whole_bars(frame, actions, sessions=days, symbols=["A", "B"])
    assert bars.highs[0].tolist() == [11.0, 11.0, 6.0, 5.0]
    assert bars.price_factors[0].tolist() == [1.0, 1.0, 0.5, 0.9]
    assert bars.share_factors[0].tolist() == [1.0, 1.0, 2.0, 1.0]
    assert np.isnan(bars.closes[1]).all()
    assert bars.volumes.flags.c_contiguous
