"""Absent bars, told apart: what the exchange, the listing, a halt or the vendor is the reason of.

What does not belong: bars that are there.
"""

from __future__ import annotations

import polars as pl

from marketlake.calendars import Calendar
from marketlake.domain.integrity.findings import CRITICAL, INFO, WARNING, findings
from marketlake.domain.integrity.measures import SERIES, days
from marketlake.domain.integrity.rules import Limits

LISTING_SCHEMA = {
    "symbol": pl.String,
    "source": pl.String,
    "valid_from": pl.Date,
    "valid_to": pl.Date,
}
HALT_SCHEMA = {"session": pl.Date, "symbol": pl.String}
EVERY_SYMBOL = "*"
_ENOUGH_TO_BLAME_THE_SOURCE = 3


def closed_days(bars: pl.DataFrame, calendar: Calendar) -> pl.DataFrame:
    """Find bars of days on which the exchange does not trade."""
    return findings(
        bars.join(days(calendar), on="session", how="anti").unique(["session", *SERIES]),
        "not_a_session",
        CRITICAL,
        pl.format("the exchange was closed on {}", pl.col("session").dt.strftime("%A, %Y-%m-%d")),
    )


def absences(
    there: pl.DataFrame,
    sessions: pl.DataFrame,
    *,
    listings: pl.DataFrame,
    halts: pl.DataFrame,
    calendar: Calendar,
    limits: Limits,
) -> pl.DataFrame:
    """Find sessions without a bar.

    A series is expected from its first bar on, and one that is listed in its days of validity, too.

    Parameters
    ----------
    there
        ``session``, ``symbol``, ``source`` of the bars, before and in ``sessions``; of those
        before, the first and the last of each series are enough.
    sessions
        Column ``session``: those to be judged, in a row.
    listings, halts
        Columns of :data:`LISTING_SCHEMA` (``valid_to`` null while valid) and :data:`HALT_SCHEMA`.
    """
    known = days(calendar).select("session", "ordinal", "half_day")
    judged = sessions.join(known, on="session")["ordinal"]
    if judged.is_empty():
        return findings(known.clear().with_columns(symbol=None, source=None), "", "", "")
    begin, end = judged.min(), pl.lit(judged.max(), pl.Int64) + 1
    numbered = there.join(known, on="session")
    listed = listings.sort("valid_from").join_asof(
        known.rename({"ordinal": "listed", "session": "valid_from"}).drop("half_day"),
        on="valid_from",
        strategy="forward",
    )
    own = pl.col("ordinal").unique().sort()
    bars = numbered.group_by(SERIES).agg(own, last=own.shift(1)).explode("ordinal", "last")
    never = listed.select(SERIES).join(bars, on=SERIES, how="anti")
    breaks = pl.concat(
        [
            bars,
            bars.group_by(SERIES).agg(end.alias("ordinal"), pl.max("ordinal").alias("last")),
            never.select(*SERIES, end.alias("ordinal"), pl.lit(None, pl.Int64).alias("last")),
        ]
    )
    since = pl.coalesce("last", pl.col("listed") - 1)
    grid = (
        breaks.filter((pl.col("ordinal") - pl.col("last").fill_null(-1)) > 1)
        .join(listed, on=SERIES, how="left")
        .filter(pl.col("last").is_not_null() | pl.col("listed").is_not_null())
        .with_columns(
            ordinal=pl.int_ranges(
                pl.max_horizontal(pl.col("last").fill_null(-1) + 1, begin),
                pl.min_horizontal("ordinal", end),
            )
        )
        .explode("ordinal", empty_as_null=False)
        .drop_nulls("ordinal")
        .join(known, on="ordinal")
        .with_columns(absent=pl.max_horizontal(pl.col("ordinal") - since, 0))
    )
    return _explained(grid, numbered, halts, limits)


def _explained(
    grid: pl.DataFrame, numbered: pl.DataFrame, halts: pl.DataFrame, limits: Limits
) -> pl.DataFrame:
    early = pl.col("session") < pl.col("valid_from")
    late = (pl.col("session") > pl.col("valid_to")).fill_null(value=False)
    gone = (pl.col("absent") > limits.delisted_after_sessions) & pl.col("valid_from").is_null()
    halted = pl.struct("session", "symbol").is_in(halts.select("session", "symbol").to_struct())
    reason = (
        pl.when(early.fill_null(value=False))
        .then(pl.lit("not_yet_listed"))
        .when(late | gone)
        .then(pl.lit("delisted"))
        .when(halted)
        .then(pl.lit("halted"))
        .otherwise(pl.lit("missing_bar"))
    )
    grid = grid.with_columns(rule=reason)
    silent = (
        grid.filter(pl.col("rule") == "missing_bar")
        .group_by("session", "source")
        .agg(pl.len().alias("expected_bars"))
        .filter(pl.col("expected_bars") >= _ENOUGH_TO_BLAME_THE_SOURCE)
    )
    there = numbered.filter(pl.col("session").is_in(silent["session"].implode()))
    silent = silent.join(there, on=["session", "source"], how="anti")
    is_half = pl.when("half_day").then(pl.lit(", a half day")).otherwise(pl.lit(""))
    text = (
        pl.when(pl.col("rule") == "not_yet_listed")
        .then(pl.format("listed from {}", "valid_from"))
        .when(late)
        .then(pl.format("listed until {}", "valid_to"))
        .when(pl.col("rule") == "delisted")
        .then(pl.format("no bar for {} sessions: presumed delisted", "absent"))
        .when(pl.col("rule") == "halted")
        .then(pl.lit("trading in it was halted"))
        .otherwise(pl.format("the exchange was open{} and there is no bar", is_half))
    )
    is_missing = pl.col("rule") == "missing_bar"
    return pl.concat(
        [
            findings(
                grid,
                pl.col("rule"),
                pl.when(is_missing).then(pl.lit(WARNING)).otherwise(pl.lit(INFO)),
                text,
                observed=pl.col("absent"),
                expected=pl.lit(0.0),
                limit=pl.when(is_missing).then(0.0),
            ),
            findings(
                silent.with_columns(symbol=pl.lit(EVERY_SYMBOL)),
                "silent_source",
                CRITICAL,
                "the exchange was open and the source has no bar at all",
                observed=pl.lit(0.0),
                expected=pl.col("expected_bars"),
                limit=1.0,
            ),
        ]
    )
