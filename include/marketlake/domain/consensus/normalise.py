"""Like with like: every source's bars brought to as-traded prices, each on its session.

What does not belong: choosing between sources (``reconcile``) and reading a vendor's answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from marketlake.errors import ContractViolation, LookaheadError
from marketlake.types import Basis, Semantics

_BY = ["source", "symbol"]
PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_SPLIT_ADJUSTED: tuple[Basis, ...] = ("split_adjusted", "total_return")


def align_stamps(bars: pl.DataFrame, *, time_zone: str = "America/New_York") -> pl.DataFrame:
    """Replace ``stamp_utc`` by the ``session`` it falls on at the exchange.

    Daily bars come stamped midnight or open of the exchange; read in UTC or elsewhere, either may
    fall on another day.
    """
    local = pl.col("stamp_utc").dt.convert_time_zone(time_zone)
    return bars.with_columns(local.dt.date().alias("session")).drop("stamp_utc")


def normalise(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    semantics: Mapping[str, Semantics],
    as_of: date,
    answered_on: Mapping[str, date] | None = None,
) -> pl.DataFrame:
    """Bring the bars of all sources to as-traded prices and volumes.

    Parameters
    ----------
    bars
        ``source``, ``session``, ``symbol``, open, high, low, close in USD and ``volume_shares``,
        on each source's own basis. Nulls stay null.
    actions
        ``session`` (ex-date), ``symbol``, ``kind`` (split or dividend), ``split_ratio`` (new
        shares per old), ``dividend_usd`` (per share as traded before the ex-date).
    semantics
        One entry for every source in ``bars``.
    as_of
        The session the sources answered on: adjusted histories are undone with the actions after
        a bar's session and up to this one. A bar or an action later than it is an error.
    answered_on
        Sources that answered earlier than ``as_of`` (a recorded history), and when.

    Returns
    -------
    polars.DataFrame
        ``bars`` with as-traded values, in the same order.
    """
    _require_known(bars, actions, as_of)
    unknown = set(bars["source"].unique()) - set(semantics)
    if unknown:
        raise ContractViolation(
            expected="declared semantics for every source",
            was=f"none for {', '.join(sorted(unknown))}",
            where="consensus.normalise",
            todo="declare what the source's prices and volumes mean",
        )
    when = answered_on or {}
    table = pl.DataFrame(
        [
            (name, one.basis in _SPLIT_ADJUSTED, one.basis == "total_return",
             one.volume_follows_dividends, when.get(name, as_of))
            for name, one in semantics.items()
        ],
        {"source": pl.String, "_split": pl.Boolean, "_total": pl.Boolean, "_volume": pl.Boolean,
         "_answered": pl.Date},
        orient="row",
    )  # fmt: skip
    rows = bars.with_row_index("_row").join(table, on="source", how="left", maintain_order="left")
    actions = actions.join(table.select("source", "_answered"), how="cross").filter(
        pl.col("session") <= pl.col("_answered")
    )
    rows = _later(rows, _split_steps(actions), "_ratio")
    ratio = pl.when("_split").then("_ratio").otherwise(1.0)
    rows = rows.with_columns(*(pl.col(name) * ratio for name in PRICES))
    rows = _later(rows, _dividend_steps(rows, actions), "_factor")
    factor = pl.when("_total").then("_factor").otherwise(1.0)
    volume_factor = pl.when("_volume").then(factor).otherwise(1.0)
    return (
        rows.with_columns(
            *(pl.col(name) / factor for name in PRICES),
            pl.col("volume_shares") / ratio * volume_factor,
        )
        .sort("_row")
        .select(bars.columns)
    )


def _require_known(bars: pl.DataFrame, actions: pl.DataFrame, as_of: date) -> None:
    for what, frame in (("bars", bars), ("actions", actions)):
        later = frame.filter(pl.col("session") > as_of)
        if not later.is_empty():
            raise LookaheadError(
                expected=f"{what} known by {as_of}",
                was=f"{later.height} of later sessions, the first {later['session'].sort()[0]}",
                where="consensus.normalise",
                todo="cut the frame at the session, or name the session the sources answered on",
            )


def _split_steps(actions: pl.DataFrame) -> pl.DataFrame:
    splits = actions.filter((pl.col("kind") == "split") & pl.col("split_ratio").is_not_null())
    return splits.select(*_BY, "session", step="split_ratio")


def _later(rows: pl.DataFrame, steps: pl.DataFrame, name: str) -> pl.DataFrame:
    """Add the product of the steps whose ex-date is after each row's session."""
    steps = (
        steps.group_by(*_BY, "session")
        .agg(pl.col("step").product())
        .sort(*_BY, "session")
        .with_columns(pl.col("step").cum_prod(reverse=True).over(_BY).alias(name))
        .select(*_BY, (pl.col("session") - pl.duration(days=1)).alias("session"), name)
        .sort("session")
    )
    found = rows.sort("session").join_asof(
        steps, on="session", by=_BY, strategy="forward", check_sortedness=False
    )
    return found.with_columns(pl.col(name).fill_null(1.0))


def _dividend_steps(rows: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return the factor each dividend put on a total-return source's earlier prices.

    A vendor's factor is ``1 - dividend / close`` with the as-traded close before the ex-date. That
    close is not given: it is the adjusted one over the later factors, plus the dividend.
    """
    dividends = (
        actions.filter((pl.col("kind") == "dividend") & pl.col("dividend_usd").is_not_null())
        .group_by(*_BY, "session")
        .agg(pl.col("dividend_usd").sum())
        .with_columns((pl.col("session") - pl.duration(days=1)).alias("before"))
        .sort("before")
    )
    closes = (
        rows.filter(pl.col("_total") & pl.col("close_usd").is_not_null())
        .select("source", "symbol", pl.col("session").alias("before"), "close_usd")
        .sort("before")
    )
    known = (
        dividends.sort("before")
        .join_asof(
            closes,
            on="before",
            by=_BY,
            strategy="backward",
            check_sortedness=False,
        )
        .drop_nulls("close_usd")
        .sort("source", "symbol", "session", descending=[False, False, True])
    )
    steps: list[float] = []
    current, later = None, 1.0
    for source, symbol, close, dividend in known.select(
        "source", "symbol", "close_usd", "dividend_usd"
    ).iter_rows():
        if (source, symbol) != current:
            current, later = (source, symbol), 1.0
        ex_dividend = close / later
        steps.append(ex_dividend / (ex_dividend + dividend))
        later *= steps[-1]
    return known.select("source", "symbol", "session", pl.Series("step", steps, dtype=pl.Float64))
