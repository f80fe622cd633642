"""The look-ahead checker of the factor engine, over arrays.

A computation takes whole bars and returns float64 [n_columns, n_symbols, n_sessions]. What it says
of the sessions up to a cut must stay the same, bit for bit, whatever happens after the cut: later
bars deleted, mangled, emptied, or the actions of the future invented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from marketlake.domain.prices import Bars, Floats

from tests.domain.features.made import QUANTITIES, until
from tests.property.lookahead import LookaheadFound

Computation = Callable[[Bars], Floats]


def deleted(bars: Bars, end: int) -> Bars:
    return until(bars, end)


def mangled(bars: Bars, end: int) -> Bars:
    rng = np.random.default_rng(end)
    changed = {}
    for name in QUANTITIES:
        matrix = getattr(bars, name).copy()
        matrix[:, end:] *= rng.uniform(0.3, 3.0, matrix[:, end:].shape)
        changed[name] = matrix
    return replace(bars, **changed)


def emptied(bars: Bars, end: int) -> Bars:
    """Later bars are missing, and those that were missing are there."""
    changed = {}
    for name in QUANTITIES:
        matrix = getattr(bars, name).copy()
        later = matrix[:, end:]
        matrix[:, end:] = np.where(np.isnan(later), 33.0, np.nan)
        changed[name] = matrix
    return replace(bars, **changed)


def acted(bars: Bars, end: int) -> Bars:
    """Later splits and dividends that nobody knew of."""
    price, share = bars.price_factors.copy(), bars.share_factors.copy()
    price[:, end::3] *= 0.47
    share[:, end::5] *= 3.0
    return replace(bars, price_factors=price, share_factors=share)


CHANGES = {change.__name__: change for change in (deleted, mangled, emptied, acted)}


def assert_causal(compute: Computation, bars: Bars, cut: int) -> None:
    """Raise LookaheadFound naming the rows of the result that changed at or before ``cut``."""
    before = compute(bars)[:, :, : cut + 1]
    for name, change in CHANGES.items():
        after = compute(change(bars, cut + 1))[:, :, : cut + 1]
        same = _bits(before) == _bits(after)
        if not same.all():
            rows = np.flatnonzero(~same.all(axis=(1, 2))).tolist()
            message = f"later bars {name}: what was said by session {cut} changed in rows {rows}"
            raise LookaheadFound(message)


def _bits(values: Floats) -> np.ndarray:
    return np.where(np.isnan(values), np.nan, np.ascontiguousarray(values)).view(np.int64)
