"""No factor of the catalog looks ahead, and one that does is caught: every kind of leak."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.contracts.factors import FACTORS
from marketlake.domain.features import engine
from marketlake.domain.prices import Bars, Floats

from tests.domain.features.made import between, made_bars
from tests.property.causality import Computation, assert_causal
from tests.property.lookahead import LookaheadFound


def every_factor(bars: Bars) -> Floats:
    values = np.empty((len(FACTORS), *bars.closes.shape))
    engine.fill(bars, first_output=bars.sessions[0], out=values)
    return values


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(330, 620))
def test_no_factor_changes_with_what_comes_later(seed: int, cut: int) -> None:
    bars = made_bars(seed)
    known = np.isfinite(every_factor(bars)[:, :, 330 : cut + 1])
    assert known.any(axis=(1, 2)).all(), "each factor must have values for the check to bite"
    assert_causal(every_factor, bars, cut)


@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(0, 639))
def test_the_newest_session_equals_the_full_recompute_bit_for_bit(seed: int, at: int) -> None:
    bars = made_bars(seed)
    full = every_factor(bars)[:, :, at]
    first = engine.sessions_needed(bars.sessions, bars.sessions[at])
    newest = np.empty((len(FACTORS), len(bars.symbols), 1))
    engine.fill(between(bars, first, at + 1), first_output=bars.sessions[at], out=newest)
    assert newest[:, :, 0].tobytes() == full.tobytes()


@pytest.mark.parametrize("quantity", ["opens", "highs", "lows", "closes", "volumes"])
def test_a_factor_depends_on_its_declared_inputs_and_on_nothing_else(quantity: str) -> None:
    bars = made_bars(11)
    rng = np.random.default_rng(1)
    matrix = getattr(bars, quantity)
    changed = replace(bars, **{quantity: matrix * rng.uniform(0.9, 1.1, matrix.shape)})
    one, other = every_factor(bars), every_factor(changed)
    differs = ((one != other) & ~(np.isnan(one) & np.isnan(other))).any(axis=(1, 2))
    name = {"closes": "adjusted_close", "volumes": "volume_shares"}.get(
        quantity, f"{quantity[:-1]}_usd"
    )
    assert {item.name for item, yes in zip(FACTORS, differs, strict=True) if yes} == {
        item.name for item in FACTORS if name in item.inputs
    }


def test_a_factor_sees_no_session_before_its_declared_warm_up() -> None:
    bars = made_bars(12, n_symbols=2)
    at = 600
    full = every_factor(bars)[:, :, at]
    first = engine.sessions_needed(bars.sessions, bars.sessions[at])
    for warm_up in sorted({item.warm_up_sessions for item in FACTORS}):
        forgetful = {
            name: getattr(bars, name).copy()
            for name in ("opens", "highs", "lows", "closes", "volumes")
        }
        for matrix in forgetful.values():
            matrix[:, : at - warm_up] *= 1.7
        changed = between(replace(bars, **forgetful), first, at + 1)
        newest = np.empty((len(FACTORS), len(bars.symbols), 1))
        engine.fill(changed, first_output=bars.sessions[at], out=newest)
        rows = [k for k, item in enumerate(FACTORS) if item.warm_up_sessions <= warm_up]
        # Where a recursion forgets a session it rounds once more.
        np.testing.assert_allclose(newest[rows, :, 0], full[rows], rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------------ planted leaks


def _closes(bars: Bars) -> pd.DataFrame:
    """Return adjusted closes, from the first session on: one column a symbol."""
    return pd.DataFrame((bars.closes / np.cumprod(bars.price_factors, axis=1)).T)


def _as_result(*frames: pd.DataFrame) -> Floats:
    return np.stack([frame.to_numpy(np.float64).T for frame in frames])


def _returns(bars: Bars) -> pd.DataFrame:
    return _closes(bars).pct_change(fill_method=None)


def leak_of_the_next_session(bars: Bars) -> Floats:
    return _as_result(_returns(bars).shift(-1))


def leak_of_a_centred_window(bars: Bars) -> Floats:
    return _as_result(_closes(bars).rolling(5, center=True, min_periods=1).mean())


def leak_of_a_full_sample_scaler(bars: Bars) -> Floats:
    r = _returns(bars)
    return _as_result((r - r.mean()) / r.std())


def leak_of_a_full_sample_rank(bars: Bars) -> Floats:
    return _as_result(_returns(bars).rank(pct=True))


def leak_of_a_backward_fill(bars: Bars) -> Floats:
    return _as_result(_closes(bars).bfill())


def leak_of_a_future_maximum(bars: Bars) -> Floats:
    closes = _closes(bars)
    return _as_result(closes / closes[::-1].rolling(10, min_periods=1).max()[::-1])


def leak_of_the_label(bars: Bars) -> Floats:
    closes = _closes(bars)
    return _as_result(_returns(bars), closes.shift(-5) / closes - 1.0)


def leak_of_a_join_off_by_one(bars: Bars) -> Floats:
    """A session's features joined with the close of the session after."""
    average = _closes(bars).rolling(10, min_periods=1).mean()
    return _as_result(_closes(bars).shift(-1) / average)


def leak_of_a_revised_value(bars: Bars) -> Floats:
    """A volume that the vendor corrects two sessions later, under its first date."""
    volumes = pd.DataFrame(bars.volumes.T)
    revised = volumes + 0.01 * volumes.shift(-2).fillna(0.0)
    return _as_result(revised / revised.rolling(20, min_periods=1).mean())


def leak_of_prices_adjusted_with_later_actions(bars: Bars) -> Floats:
    later = np.cumprod(bars.price_factors[:, ::-1], axis=1)[:, ::-1] / bars.price_factors
    return (bars.closes * later)[None]


def leak_of_a_filter_run_both_ways(bars: Bars) -> Floats:
    smooth = _returns(bars).ewm(alpha=0.2).mean()
    return _as_result(smooth[::-1].ewm(alpha=0.2).mean()[::-1])


def leak_of_survivors(bars: Bars) -> Floats:
    """The mean of the symbols that are there at the end."""
    there = ~np.isnan(bars.closes[:, -1])
    mean = np.nanmean(np.where(there[:, None], bars.closes, np.nan), axis=0)
    return np.broadcast_to(mean, bars.closes.shape)[None].copy()


def leak_of_one_factor_among_all(bars: Bars) -> Floats:
    """The catalog with one column of one factor a session early."""
    values = every_factor(bars)
    values[177, :, :-1] = values[177, :, 1:]
    return values


LEAKS = [
    leak_of_the_next_session,
    leak_of_a_centred_window,
    leak_of_a_full_sample_scaler,
    leak_of_a_full_sample_rank,
    leak_of_a_backward_fill,
    leak_of_a_future_maximum,
    leak_of_the_label,
    leak_of_a_join_off_by_one,
    leak_of_a_revised_value,
    leak_of_prices_adjusted_with_later_actions,
    leak_of_a_filter_run_both_ways,
    leak_of_survivors,
    leak_of_one_factor_among_all,
]


@pytest.mark.filterwarnings("ignore:Mean of empty slice")
@pytest.mark.parametrize("leak", LEAKS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(330, 620))
def test_a_planted_leak_is_caught_every_time(leak: Computation, seed: int, cut: int) -> None:
    bars = made_bars(seed)
    # A fill backwards shows where something was to be filled, and so must the cut be.
    for name in ("closes", "opens", "highs", "lows"):
        getattr(bars, name)[1, cut] = np.nan
    with pytest.raises(LookaheadFound):
        assert_causal(leak, bars, cut)


def _honest(bars: Bars) -> Floats:
    closes = _closes(bars)
    return _as_result(
        _returns(bars),
        closes.rolling(5, min_periods=1).mean() / closes,
        (closes - closes.expanding().mean()) / closes.expanding().std(),
        closes.ffill(),
        closes / closes.rolling(10, min_periods=1).max(),
    )


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), cut=st.integers(330, 620))
def test_the_honest_twins_of_the_leaks_raise_no_alarm(seed: int, cut: int) -> None:
    assert_causal(_honest, made_bars(seed), cut)
