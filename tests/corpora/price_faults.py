"""Vendor faults put into clean daily bars at known, seeded cells.

A corpus is made of a real history (nobody here made the prices), a fault class, and cells. The
functions are pure: the same frame, cells and seed give the same faulty frame.

Frames have ``session``, ``symbol``, ``open_usd``, ``high_usd``, ``low_usd``, ``close_usd`` and
``volume_shares``; other columns pass through. The history is read as split-adjusted: an adjustment
fault is a run of sessions that ends the session before the action's ex-date, as in a vendor's
history that an action did not reach (or should not have reached).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
BAR = (*PRICES, "volume_shares")
SPLIT_RATIOS = (2.0, 3.0, 4.0, 1.5, 7.0, 10.0, 0.5, 0.1, 0.2)
EDGE = 30
"""Sessions at either end of a symbol's history that no cell is drawn from."""
SPACING = 40
"""Least number of sessions between two cells of a symbol; longer than any run of a fault."""

ACTION_SCHEMA = {
    "session": pl.Date,
    "symbol": pl.String,
    "kind": pl.String,
    "split_ratio": pl.Float64,
    "dividend_usd": pl.Float64,
}


@dataclass(frozen=True)
class Injected:
    """A faulty frame and what was done to it.

    ``cells``: a row a cell with ``symbol``, ``session``, ``last_session`` (of the run), ``fault``,
    ``detail`` (factor, ratio, offset in sessions, or share of volume) and ``close_move``, the
    greatest relative change of a close in the run (0 for duplicate and missing_day).
    ``actions``: the splits and dividends that make the adjustment faults faults.
    """

    frame: pl.DataFrame
    cells: pl.DataFrame
    actions: pl.DataFrame


@dataclass(frozen=True)
class _Symbol:
    """One symbol's bars as [n_sessions, 5] and the row its fault begins at."""

    bars: np.ndarray
    at: int
    rng: np.random.Generator


_Change = tuple[int, np.ndarray, float]  # sessions in the run, their new bars, the detail


def _x100(one: _Symbol) -> _Change:
    """Pounds for pence, or the reverse: the whole bar, or in three of ten cells the close alone."""
    factor = float(one.rng.choice([100.0, 0.01]))
    fields = slice(3, 4) if one.rng.random() < 0.3 else slice(0, 4)
    bar = one.bars[one.at : one.at + 1].copy()
    bar[:, fields] *= factor
    return 1, bar, factor


def _split_not_applied(one: _Symbol) -> _Change:
    length = int(one.rng.integers(3, 16))
    ratio = float(one.rng.choice(SPLIT_RATIOS))
    run = one.bars[one.at : one.at + length].copy()
    run[:, :4] *= ratio
    run[:, 4] = np.round(run[:, 4] / ratio)
    return length, run, ratio


def _dividend_adjusted(one: _Symbol) -> _Change:
    """The dividend that follows the run is taken off the run; yields of 0.3 to 2.5 %."""
    length = int(one.rng.integers(3, 16))
    factor = float(1.0 - one.rng.uniform(0.003, 0.025))
    run = one.bars[one.at : one.at + length].copy()
    run[:, :4] *= factor
    return length, run, factor


def _stale_repeat(one: _Symbol) -> _Change:
    return 1, one.bars[one.at - 1 : one.at].copy(), -1.0


def _swapped_ohlc(one: _Symbol) -> _Change:
    """The four prices in another order; the order is drawn until the bar changes."""
    bar = one.bars[one.at : one.at + 1].copy()
    for _ in range(50):
        bar[:, :4] = one.bars[one.at, one.rng.permutation(4)]
        if (bar != one.bars[one.at]).any():
            break
    return 1, bar, 0.0


def _wrong_day(one: _Symbol) -> _Change:
    """The bar of two to five sessions earlier, or in three of ten cells of the next session."""
    early = one.rng.random() < 0.3
    offset = 1 if early else -int(one.rng.integers(2, 6))
    return 1, one.bars[one.at + offset : one.at + offset + 1].copy(), float(offset)


def _one_venue_print(one: _Symbol) -> _Change:
    """What one venue saw: 1 to 8 % of the volume, a narrower range, its own last trade.

    The last trade is 0.2 to 3 % away from the auction.
    """
    open_, high, low, close, volume = one.bars[one.at]
    share = float(one.rng.uniform(0.01, 0.08))
    last = close * (1.0 + one.rng.choice([-1.0, 1.0]) * one.rng.uniform(0.002, 0.03))
    middle = (high + low) / 2.0
    high, low = middle + 0.8 * (high - middle), middle - 0.8 * (middle - low)
    first = min(max(open_, low), high)
    bar = [first, max(high, last, first), min(low, last, first), last, np.round(volume * share)]
    return 1, np.array([bar]), share


def _price_spike(one: _Symbol) -> _Change:
    """A close 11 to 40 % away that nobody traded; the bar still contains its prices."""
    bar = one.bars[one.at : one.at + 1].copy()
    factor = float(1.0 + one.rng.choice([-1.0, 1.0]) * one.rng.uniform(0.11, 0.40))
    bar[0, 3] *= factor
    bar[0, 1], bar[0, 2] = bar[0, :4].max(), bar[0, :4].min()
    return 1, bar, factor


_CHANGES: dict[str, Callable[[_Symbol], _Change]] = {
    "x100": _x100,
    "split_not_applied": _split_not_applied,
    "dividend_adjusted": _dividend_adjusted,
    "stale_repeat": _stale_repeat,
    "swapped_ohlc": _swapped_ohlc,
    "wrong_day": _wrong_day,
    "one_venue_print": _one_venue_print,
    "price_spike": _price_spike,
}
FAULTS = (*_CHANGES, "duplicate", "missing_day")


def draw_cells(
    frame: pl.DataFrame, n: int, *, seed: int, avoid: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Draw ``n`` cells (``session``, ``symbol``), apart from each other and from ``avoid``."""
    rng = np.random.default_rng(seed)
    rows = frame.select("symbol", "session").unique().sort("symbol", "session")
    rows = rows.with_columns(
        pl.int_range(pl.len()).over("symbol").alias("at"),
        pl.len().over("symbol").alias("of"),
    ).with_row_index("row")
    taken = np.zeros(rows.height + 2 * SPACING, dtype=bool)
    if avoid is not None:
        for row in rows.join(avoid, on=["symbol", "session"], how="semi")["row"]:
            taken[row : row + 2 * SPACING + 1] = True
    inside = rows.filter(pl.col("at").is_between(EDGE, pl.col("of") - EDGE - 1))["row"].to_numpy()
    chosen: list[int] = []
    for row in rng.permutation(inside):
        if len(chosen) == n:
            break
        if not taken[row + SPACING]:
            chosen.append(int(row))
            taken[row : row + 2 * SPACING + 1] = True
    if len(chosen) < n:
        raise ValueError(f"{n} cells do not fit into {rows.height} rows: {len(chosen)} do")
    return rows[sorted(chosen)].select("session", "symbol")


def inject(frame: pl.DataFrame, fault: str, cells: pl.DataFrame, *, seed: int) -> Injected:
    """Put one fault class into ``frame`` at ``cells`` (see :func:`draw_cells`)."""
    rng = np.random.default_rng([seed, FAULTS.index(fault)])
    ordered = frame.sort("symbol", "session")
    if fault in ("duplicate", "missing_day"):
        return _rows_changed(ordered, fault, cells, rng)
    bars = ordered.select(pl.col(BAR).cast(pl.Float64)).to_numpy().copy()
    first_row = dict(ordered.with_row_index("row").group_by("symbol").agg(pl.min("row")).rows())
    last_row = dict(ordered.with_row_index("row").group_by("symbol").agg(pl.max("row")).rows())
    sessions = ordered["session"].to_list()
    at = ordered.select("symbol", "session").with_row_index("row")
    found, actions = [], []
    clean = bars.copy()
    for row, symbol in (
        at.join(cells, on=["symbol", "session"], how="semi").select("row", "symbol").iter_rows()
    ):
        own = clean[first_row[symbol] : last_row[symbol] + 1]
        length, run, detail = _CHANGES[fault](_Symbol(own, row - first_row[symbol], rng))
        moved = np.abs(run[:, 3] / clean[row : row + length, 3] - 1.0)
        bars[row : row + length] = run
        found.append(
            (symbol, sessions[row], sessions[row + length - 1], fault, detail, float(moved.max()))
        )
        ex_date = sessions[row + length]
        if fault == "split_not_applied":
            actions.append((ex_date, symbol, "split", detail, None))
        elif fault == "dividend_adjusted":
            paid = clean[row + length - 1, 3] * (1.0 - detail)
            actions.append((ex_date, symbol, "dividend", None, float(paid)))
    changed = ordered.with_columns(
        pl.Series(name, bars[:, column]).cast(ordered.schema[name])
        for column, name in enumerate(BAR)
    )
    return Injected(changed, _cells(found), pl.DataFrame(actions, ACTION_SCHEMA, orient="row"))


def _rows_changed(
    ordered: pl.DataFrame, fault: str, cells: pl.DataFrame, rng: np.random.Generator
) -> Injected:
    """A row given twice (every other time with another close), or not at all."""
    hit = ordered.join(cells, on=["symbol", "session"], how="semi")
    if fault == "missing_day":
        changed = ordered.join(cells, on=["symbol", "session"], how="anti")
        details = np.zeros(hit.height)
    else:
        details = rng.choice([1.0, 1.012], hit.height)
        again = hit.with_columns(
            close_usd=pl.col("close_usd") * pl.Series(details),
        )
        changed = pl.concat([ordered, again]).sort("symbol", "session", maintain_order=True)
    found = [
        (symbol, session, session, fault, float(detail), 0.0)
        for (symbol, session), detail in zip(
            hit.select("symbol", "session").iter_rows(), details, strict=True
        )
    ]
    return Injected(changed, _cells(found), pl.DataFrame(schema=ACTION_SCHEMA))


def _cells(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    return pl.DataFrame(
        rows,
        {
            "symbol": pl.String,
            "session": pl.Date,
            "last_session": pl.Date,
            "fault": pl.String,
            "detail": pl.Float64,
            "close_move": pl.Float64,
        },
        orient="row",
    )
