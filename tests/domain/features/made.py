"""Whole bars with every nuisance, from a seed: splits, dividends, gaps, halts, a late listing."""

from __future__ import annotations

from dataclasses import fields, replace
from datetime import date

import numpy as np
from marketlake.domain.prices import Bars, Floats

from tests.domain.market import weekdays

QUANTITIES = ("opens", "highs", "lows", "closes", "volumes")
MATRICES = (*QUANTITIES, "price_factors", "share_factors")


def made_bars(
    seed: int, *, n_symbols: int = 3, n_sessions: int = 640, is_whole: bool = False
) -> Bars:
    """Return random bars; with ``is_whole``, without actions and with nothing missing."""
    rng = np.random.default_rng(seed)
    shape = n_symbols, n_sessions
    closes = 40.0 * np.exp(np.cumsum(rng.normal(0.0003, 0.02, shape), axis=1))
    opens = closes * np.exp(rng.normal(0.0, 0.01, shape))
    highs = np.maximum(opens, closes) * (1.0 + rng.exponential(0.005, shape)) + 0.02
    lows = np.minimum(opens, closes) / (1.0 + rng.exponential(0.005, shape))
    volumes = np.round(np.exp(rng.normal(13.0, 0.6, shape)))
    bars = Bars(
        tuple(weekdays(date(2018, 7, 2), n_sessions)),
        tuple(f"S{number:02d}" for number in range(n_symbols)),
        *(np.round(prices, 2) for prices in (opens, highs, lows, closes)),
        volumes,
        np.ones(shape),
        np.ones(shape),
    )
    return bars if is_whole else _with_nuisances(bars, rng)


def _with_nuisances(bars: Bars, rng: np.random.Generator) -> Bars:
    shape = bars.closes.shape
    price, share = np.ones(shape), np.ones(shape)
    for row in range(shape[0]):
        for at in rng.choice(np.arange(1, shape[1]), 3, replace=False):
            share[row, at] = rng.choice([2.0, 3.0, 0.5])
            price[row, at] = 1.0 / share[row, at]
        for at in rng.choice(np.arange(1, shape[1]), 6, replace=False):
            price[row, at] *= rng.uniform(0.98, 0.999)
    traded = {name: getattr(bars, name) * np.cumprod(price, axis=1) for name in QUANTITIES[:4]}
    traded["volumes"] = bars.volumes * np.cumprod(share, axis=1)
    gone = rng.random(shape) < 0.01
    halted = int(rng.integers(shape[1] // 2, shape[1] - 40))
    gone[0, halted : halted + 7] = True
    if shape[0] > 1:
        gone[-1, : int(rng.integers(5, shape[1] // 5))] = True
    for name, matrix in traded.items():
        alone = rng.random(shape) < 0.003  # one quantity of a bar alone
        traded[name] = np.where(gone | alone, np.nan, matrix)
    traded["volumes"] = np.where(rng.random(shape) < 0.003, 0.0, traded["volumes"])
    return replace(bars, **traded, price_factors=price, share_factors=share)


def until(bars: Bars, end: int) -> Bars:
    """Return the bars of the sessions before ``end``."""
    return between(bars, 0, end)


def between(bars: Bars, first: int, end: int) -> Bars:
    cut = {name: np.ascontiguousarray(getattr(bars, name)[:, first:end]) for name in MATRICES}
    return replace(bars, sessions=bars.sessions[first:end], **cut)


def with_closes(bars: Bars, closes: Floats) -> Bars:
    """Return bars that are nothing but a close: open, high and low are the same."""
    return replace(bars, opens=closes, highs=closes, lows=closes, closes=closes)


assert {field.name for field in fields(Bars)} == {"sessions", "symbols", *MATRICES}
