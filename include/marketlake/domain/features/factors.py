"""``core_factors__daily``: the factors of every universe member, and what of them is simulated."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl

from marketlake.contracts.factors import CLOSE, FACTORS
from marketlake.domain import prices
from marketlake.domain.features.engine import factor_blocks
from marketlake.domain.prices import Bools

_OTHERS = tuple(sorted({name for item in FACTORS for name in item.inputs} - {CLOSE}))
_LOOKBACK = max(item.warm_up_sessions for item in FACTORS)
_SYMBOLS_A_FRAME = 100
"""A frame of a few sessions costs more to make than to compute: few and large ones."""


def compute_factors(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
    first_output: date,
    members: pl.DataFrame,
    threads: int = 2,
) -> pl.DataFrame:
    """Compute every factor of the catalog.

    Parameters
    ----------
    bars, actions
        Rows of ``core_market__daily_bar`` and ``core_market__corporate_action``. Rows after
        ``sessions[-1]`` are ignored.
    sessions
        Exchange sessions, ascending, from the one of
        :func:`~marketlake.domain.features.engine.sessions_needed` on.
    symbols
        Whose factors are computed.
    first_output
        First session to return rows for.
    members
        ``session``, ``symbol``: only these rows are returned.
    threads
        How many threads compute; no value depends on it.

    Returns
    -------
    polars.DataFrame
        ``core_factors__daily`` without ``known_at_utc``, float32, sorted by session and symbol; a
        row for each member with a bar at the session, null where the catalog says NaN.
    """
    whole = prices.whole_bars(bars, actions, sessions=sessions, symbols=symbols)
    blocks = factor_blocks(
        whole,
        first_output=first_output,
        threads=threads,
        symbols_a_block=_SYMBOLS_A_FRAME,
    )
    closes, anything = _simulated(bars, actions, sessions=sessions, symbols=symbols)
    parts, first = [], 0
    for block in blocks:
        own = slice(-len(block.sessions), None), slice(first, first + len(block.symbols))
        first += len(block.symbols)
        flags = block.keys().with_columns(
            closes_simulated=closes[own].ravel(), simulated=anything[own].ravel()
        )
        # Joined by block: of the whole history there is one frame, and its sorted self.
        parts.append(
            block.frame()
            .join(members, on=["session", "symbol"], how="semi")
            .join(flags, on=["session", "symbol"], how="left")
        )
    return pl.concat(parts).sort("session", "symbol")


def _simulated(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
) -> tuple[Bools, Bools]:
    """Say whether the closes, and whether anything, that factors look at came from a generator.

    Of each session and symbol: [n_sessions, n_symbols].
    """

    def made(quantity: str) -> Bools:
        marks = prices.simulated(bars, quantity, sessions=sessions, symbols=symbols)
        return prices.any_within(marks, _LOOKBACK)

    panel = prices.panel(bars, actions, sessions=sessions, symbols=symbols)
    adjustments = prices.simulated_adjustments(actions, panel)
    closes = made(CLOSE) | prices.any_within(adjustments, _LOOKBACK - 1)
    return closes, np.logical_or.reduce([closes, *map(made, _OTHERS)])
