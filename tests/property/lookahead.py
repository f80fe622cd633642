"""The harness: nothing that is known on a session may depend on anything later.

A computation takes a market and returns rows with a column ``known_on``. The harness computes on
the market as it is and on markets that differ only after a cut session: everything later deleted,
mangled, or invented. Rows known by the cut must stay the same, bit for bit. What a decision earns
has a harness of its own, the other way round: no close that the decision knew may enter it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date

import numpy as np
import polars as pl

from tests.domain.market import BENCHMARK, Market, actions_of, bars_of, weekdays

Computation = Callable[[Market], pl.DataFrame]
Change = Callable[[Market, date], Market]


class LookaheadFound(AssertionError):
    """A row known by the cut changed when only later data did."""


def delete_later(market: Market, cut: date) -> Market:
    return market.until(cut)


def mangle_later(market: Market, cut: date) -> Market:
    """Scale each later close by its own factor, drop some, and add later splits and dividends."""
    rng = np.random.default_rng(99)
    later = pl.col("session") > cut
    factor = pl.Series(rng.uniform(0.3, 3.0, market.bars.height))
    kept = pl.Series(rng.random(market.bars.height) > 0.2)
    bars = market.bars.with_columns(
        pl.when(later).then(pl.col("close_usd") * factor).otherwise("close_usd"),
        pl.when(later)
        .then(pl.lit(["adjusted_close", "benchmark_close"]))
        .otherwise("simulated_fields")
        .alias("simulated_fields"),
    ).filter(~later | kept)
    ex_dates = [session for session in market.sessions if session > cut][:3]
    invented = [
        row
        for symbol in market.symbols
        for ex_date in ex_dates
        for row in ((ex_date, symbol, 7.0, None), (ex_date, symbol, None, 0.01))
    ]
    earlier = market.actions.filter(~later)
    return replace(market, bars=bars, actions=pl.concat([earlier, actions_of(*invented)]))


def invent_later(market: Market, cut: date) -> Market:
    """Replace what comes after the cut by a longer, quite different future."""
    rng = np.random.default_rng(7)
    known = market.until(cut)
    new = [day for day in weekdays(cut, 41) if day > cut]
    columns = [*market.symbols, BENCHMARK]
    closes = rng.uniform(1.0, 1000.0, (len(new), len(columns)))
    return replace(
        known,
        sessions=(*known.sessions, *new),
        bars=pl.concat([known.bars, bars_of(closes, sessions=new, symbols=columns)]),
    )


CHANGES: dict[str, Change] = {
    "deleted": delete_later,
    "mangled": mangle_later,
    "invented": invent_later,
}


def assert_no_lookahead(
    compute: Computation, market: Market, cut: date, *, changes: dict[str, Change] | None = None
) -> None:
    """Raise LookaheadFound naming the columns that changed."""
    before = _known(compute(market), cut)
    assert before.height > 0, f"nothing is known by {cut}: the check would be empty"
    for name, change in (changes or CHANGES).items():
        after = _known(compute(change(market, cut)), cut)
        if after.height != before.height:
            message = f"later data {name}: {before.height} rows became {after.height}"
            raise LookaheadFound(message)
        different = [
            column for column in before.columns if not _same_bits(before[column], after[column])
        ]
        if different:
            message = f"later data {name}: rows known by {cut} changed in {different}"
            raise LookaheadFound(message)


def mangle_known(market: Market, cut: date) -> Market:
    """Scale each close up to the cut by its own factor."""
    rng = np.random.default_rng(98)
    factor = pl.Series(rng.uniform(0.3, 3.0, market.bars.height))
    known = pl.col("session") <= cut
    close = pl.when(known).then(pl.col("close_usd") * factor).otherwise("close_usd")
    return replace(market, bars=market.bars.with_columns(close))


def assert_filled_later(compute: Computation, market: Market, cut: date) -> None:
    """Raise LookaheadFound where a decision of the cut or later is filled at a close it knew.

    ``compute`` returns rows with ``session``, that of the decision, and what it earns.
    """
    decided = pl.col("session") >= cut
    before, after = (
        compute(each).filter(decided).sort("session", "symbol")
        for each in (market, mangle_known(market, cut))
    )
    at_the_cut = before.filter(pl.col("session") == cut).drop_nulls()
    assert at_the_cut.height > 0, f"nothing is earned on a decision at {cut}: an empty check"
    different = [
        column for column in before.columns if not _same_bits(before[column], after[column])
    ]
    if different:
        message = f"closes known by {cut} mangled: what is decided then changed in {different}"
        raise LookaheadFound(message)


def _known(rows: pl.DataFrame, cut: date) -> pl.DataFrame:
    known = rows.filter(pl.col("known_on") <= cut)
    keys = [name for name in ("known_on", "session", "symbol", "model") if name in rows.columns]
    return known.sort(keys, maintain_order=True)


def _same_bits(one: pl.Series, other: pl.Series) -> bool:
    if one.dtype != pl.Float64:
        return one.equals(other)
    values = (series.fill_null(np.nan).to_numpy() for series in (one, other))
    first, second = (np.where(np.isnan(value), np.nan, value) for value in values)
    return first.tobytes() == second.tobytes()
