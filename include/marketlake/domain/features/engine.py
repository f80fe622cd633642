"""The factors of ``contracts.factors``, for a whole history or its newest session, by one path.

Sessions are computed in blocks of one calendar year each: a block's prices are on the basis of its
own first session and its recursions begin ``INDICATORS``' warm-up before it, so a session's values
are the same bits however much other history is passed. Symbols are computed in runs, so that what
is held at a time does not grow with their number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketlake.contracts.factors import ALPHA158, FACTORS, INDICATORS, Factor
from marketlake.domain.prices import Bars
from marketlake.errors import ContractViolation

MAX_WARM_UP_SESSIONS = max(factor.warm_up_sessions for factor in FACTORS)
_SYMBOLS_A_TASK = 8
"""Enough work for a thread, little enough that its intermediate values stay in the cache."""


@dataclass(frozen=True)
class FactorBlock:
    """Some symbols' values, [n_factors, n_symbols, n_sessions]; NaN where the catalog says so."""

    factors: tuple[Factor, ...]
    symbols: tuple[str, ...]
    sessions: tuple[date, ...]
    values: NDArray[np.floating]

    def keys(self) -> pl.DataFrame:
        """Return ``session`` and ``symbol`` of every value of a factor, sorted by session."""
        symbols = pl.Series(self.symbols, dtype=pl.String)
        days = np.array(self.sessions, dtype="datetime64[D]")
        return pl.DataFrame(
            {
                "session": np.repeat(days, len(symbols)),
                "symbol": symbols.gather(np.tile(np.arange(len(symbols)), len(days))),
            }
        )

    def frame(self) -> pl.DataFrame:
        """Return ``session``, ``symbol`` and a column a factor, null for NaN, sorted so.

        Sessions at which a symbol has no factor at all, those without a bar, have no row.
        """
        turned = self.values.transpose(0, 2, 1).reshape(len(self.factors), -1)
        columns = {item.name: row for item, row in zip(self.factors, turned, strict=True)}
        names = list(columns)
        return (
            self.keys()
            .with_columns(pl.DataFrame(columns).fill_nan(None))
            .filter(pl.any_horizontal(pl.col(names).is_not_null()))
            .sort("session", "symbol")
        )


def sessions_needed(sessions: Sequence[date], first_output: date) -> int:
    """Return the index of the first session that any factor of ``first_output`` depends on.

    Parameters
    ----------
    sessions
        Exchange sessions, ascending; ``first_output`` is among them.
    first_output
        First session to compute.
    """
    year = next(i for i, day in enumerate(sessions) if day.year == first_output.year)
    return max(0, year - MAX_WARM_UP_SESSIONS)


def factor_blocks(
    bars: Bars,
    *,
    first_output: date,
    factors: tuple[Factor, ...] = FACTORS,
    dtype: type[np.floating] = np.float32,
    threads: int = 2,
    symbols_a_block: int = 32,
    like_qlib: bool = False,
) -> Iterator[FactorBlock]:
    """Yield the factors of one run of symbols after another, in the order of ``bars``.

    Parameters
    ----------
    bars
        Bars from the session of :func:`sessions_needed` on; with fewer, what is missing is missing.
    first_output
        First session to return.
    factors
        ``FACTORS``, or one of its halves ``ALPHA158`` and ``INDICATORS``.
    dtype
        Of the values returned; they are computed in float64.
    threads, symbols_a_block
        How many threads compute, and how many symbols are held: of a long history as many as memory
        serves again from block to block. Neither changes a value.
    like_qlib
        Alpha158 by Qlib's rule for missing values in place of the catalog's, for comparison.

    Raises
    ------
    ContractViolation
        When ``first_output`` is none of the sessions, or ``factors`` another selection.
    """
    outputs = _outputs(bars, first_output)
    for first in range(0, len(bars.symbols), symbols_a_block):
        end = min(first + symbols_a_block, len(bars.symbols))
        values = np.empty((len(factors), end - first, len(outputs)), dtype=dtype)
        fill(
            bars,
            first_output=first_output,
            factors=factors,
            first_symbol=first,
            out=values,
            threads=threads,
            like_qlib=like_qlib,
        )
        yield FactorBlock(factors, bars.symbols[first:end], outputs, values)


def fill(
    bars: Bars,
    *,
    first_output: date,
    factors: tuple[Factor, ...] = FACTORS,
    first_symbol: int = 0,
    out: NDArray[np.floating],
    threads: int = 2,
    like_qlib: bool = False,
) -> None:
    """Write the factors of as many symbols as ``out`` has, from ``first_symbol`` on.

    ``out`` is C-ordered float32 or float64, [n_factors, n_symbols, n_sessions]; for the rest see
    :func:`factor_blocks`.
    """
    from marketlake.domain.features import alpha158, indicators

    blocks = _calendar_blocks(bars.sessions, len(bars.sessions) - len(_outputs(bars, first_output)))
    halves = {ALPHA158: (True, False), INDICATORS: (False, True), FACTORS: (True, True)}
    if factors not in halves:
        raise ContractViolation(
            expected="the factors FACTORS, ALPHA158 or INDICATORS",
            was=f"a selection of {len(factors)}",
            where="domain.features.engine",
            todo="compute a half of the catalog and select its columns",
        )
    has_alpha158, has_indicators = halves[factors]
    split = len(ALPHA158) if has_alpha158 else 0

    def task(first: int) -> None:
        end = min(first + _SYMBOLS_A_TASK, out.shape[1])
        symbols = np.array([first_symbol + first, first_symbol + end])
        if has_alpha158:
            alpha158.fill(
                bars.arrays,
                symbols=symbols,
                blocks=blocks,
                out=out[:split, first:end],
                like_qlib=like_qlib,
            )
        if has_indicators:
            indicators.fill(bars.arrays, symbols=symbols, blocks=blocks, out=out[split:, first:end])

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(task, range(0, out.shape[1], _SYMBOLS_A_TASK)))  # raises what a task raised


def compile_kernels(factors: tuple[Factor, ...]) -> None:
    """Compute the factors of two made-up symbols, by the kernels of both result types."""
    sessions = tuple(date(2022, 1, 3) + timedelta(days=number) for number in range(30))
    flat = np.ones((2, len(sessions)))
    bars = Bars(sessions, ("A", "B"), flat, flat, flat, flat, flat, flat, flat)
    for dtype in (np.float32, np.float64):
        list(factor_blocks(bars, first_output=sessions[0], factors=factors, dtype=dtype))


def _outputs(bars: Bars, first_output: date) -> tuple[date, ...]:
    if first_output not in bars.sessions:
        raise ContractViolation(
            expected="a first output that is one of the sessions",
            was=str(first_output),
            where="domain.features.engine",
            todo="pass an exchange session inside the bars' sessions",
        )
    return bars.sessions[bars.sessions.index(first_output) :]


def _calendar_blocks(sessions: Sequence[date], first: int) -> NDArray[np.int64]:
    """One row a calendar year: its first session, the first wanted, its end, the output column."""
    years = np.array([day.year for day in sessions])
    starts = [0, *(np.flatnonzero(np.diff(years)) + 1), len(sessions)]
    return np.array(
        [
            (start, max(start, first), end, max(start, first) - first)
            for start, end in pairwise(starts)
            if end > first
        ],
        dtype=np.int64,
    )
