"""Bars of several sources as arrays: [n_sessions, n_symbols, n_sources] and four prices.

What does not belong: any judgement; an answer that cannot be used is only reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketlake.domain.consensus.normalise import PRICES
from marketlake.errors import ContractViolation, EmptyAnswer

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

_KEY = ["source", "session", "symbol"]


@dataclass(frozen=True)
class Panel:
    """As-traded bars; NaN where a source did not answer or gave no positive price.

    ``prices`` is [n_sessions, n_symbols, n_sources, 4] in the order open, high, low, close;
    ``volumes`` is [n_sessions, n_symbols, n_sources]. ``duplicates`` and ``off_session`` hold the
    rows (source, session, symbol) that were not taken, and why they were not is their name.
    """

    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    sources: tuple[str, ...]
    prices: Floats
    volumes: Floats
    duplicates: pl.DataFrame
    off_session: pl.DataFrame

    @property
    def answered(self) -> Bools:
        """Whether a source gave a close, [n_sessions, n_symbols, n_sources]."""
        return ~np.isnan(self.prices[..., 3])


def panel_of(bars: pl.DataFrame, sessions: Sequence[date]) -> Panel:
    """Lay bars out as arrays.

    Identical rows given twice count once. Of rows that contradict each other none is taken, since
    nothing says which is meant.
    """
    if bars.is_empty():
        raise EmptyAnswer(
            expected="bars of at least one source",
            was="none",
            where="consensus",
            todo="check why every source was dropped; nothing may be published",
        )
    if bars.select(pl.any_horizontal(pl.col(_KEY).is_null()).any()).item():
        raise ContractViolation(
            expected="a source, a session and a symbol in every row",
            was="nulls among them",
            where="consensus",
            todo="keep such rows out when the source's answer is read",
        )
    rows = bars.select(*_KEY, *PRICES, pl.col("volume_shares").cast(pl.Float64))
    repeated = bars.group_by(_KEY).len().filter(pl.col("len") > 1).select(_KEY)
    twice = rows.join(repeated, on=_KEY, how="semi").unique()
    identical = twice.group_by(_KEY).len().filter(pl.col("len") == 1).select(_KEY)
    once = pl.concat(
        [rows.join(repeated, on=_KEY, how="anti"), twice.join(identical, on=_KEY, how="semi")]
    )
    listed = pl.DataFrame({"session": sorted(set(sessions))}, {"session": pl.Date})
    off_session = bars.join(listed, on="session", how="anti").select(_KEY).unique()
    symbols = bars["symbol"].unique().sort()
    sources = bars["source"].unique().sort()
    kept = (
        once.join(listed.with_row_index("_t"), on="session")
        .join(symbols.to_frame().with_row_index("_s"), on="symbol")
        .join(sources.to_frame().with_row_index("_n"), on="source")
    )
    t, s, n = (kept[name].to_numpy() for name in ("_t", "_s", "_n"))
    shape = (listed.height, symbols.len(), sources.len())
    prices, volumes = np.full((*shape, 4), np.nan), np.full(shape, np.nan)
    for field, name in enumerate(PRICES):
        values = kept[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        prices[t, s, n, field] = np.where((values > 0) & np.isfinite(values), values, np.nan)
    volumes[t, s, n] = kept["volume_shares"].fill_null(np.nan).to_numpy()
    return Panel(
        sessions=tuple(listed["session"]),
        symbols=tuple(symbols),
        sources=tuple(sources),
        prices=prices,
        volumes=volumes,
        duplicates=repeated.join(listed, on="session", how="semi").sort(_KEY),
        off_session=off_session.sort(_KEY),
    )


def lower_median(values: Floats) -> Floats:
    """Return the lower median along the last axis, NaN apart; NaN where nothing is there."""
    ordered = np.sort(values, axis=-1)  # NaN last
    there = (~np.isnan(values)).sum(axis=-1, keepdims=True)
    middle = np.maximum(there - 1, 0) // 2
    return np.asarray(np.take_along_axis(ordered, middle, axis=-1)[..., 0])
