"""What the rules look at, bar by bar: moves, levels, deseasonalised volume, equal bars.

Every measure of a bar is made of that bar and at most :data:`MEMORY` bars of its series before it,
by selections and explicit sums (no running sum, whose last bits would depend on where a history
begins). That is why the batch and the bar-by-bar feed agree bit for bit. What does not belong:
thresholds and verdicts.
"""

from __future__ import annotations

from datetime import date
from functools import lru_cache
from itertools import accumulate
from typing import Literal

import polars as pl

from marketlake.calendars import Calendar
from marketlake.errors import ContractViolation

Basis = Literal["split_adjusted", "as_traded"]
PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
BAR = (*PRICES, "volume_shares")
SERIES = ("symbol", "source")
KEY = ("session", *SERIES)

LEVEL_BARS = 5
"""Bars before, whose median close says where a price should be."""
REPEAT_BARS = 10
"""How far back a bar is compared with earlier ones of its series."""
_DIVIDEND_BARS = 5
_VOLUME_LEVEL_BARS = 21
_WEEKDAY_BARS = 65
_EXPIRY_BARS = 130
_SPREAD_BARS = 120
MEMORY = 360
"""Bars of a series that a later bar may depend on: more than the volume's windows end to end."""
_TO_SIGMA = 1.4826


def require_bars(bars: pl.DataFrame) -> None:
    """Raise ContractViolation when a column is missing."""
    missing = sorted({*KEY, *BAR} - set(bars.columns))
    if missing:
        raise ContractViolation(
            expected=f"bars with {', '.join((*KEY, *BAR))}",
            was=f"no {', '.join(missing)}",
            where="domain.integrity",
            todo="rename the vendor's columns where its answer is parsed",
        )


def whole() -> pl.Expr:
    """Whether all four prices are there and above zero; other bars are found, and not measured."""
    return pl.all_horizontal((pl.col(name) > 0) & pl.col(name).is_finite() for name in PRICES)


@lru_cache(maxsize=4)
def days(calendar: Calendar) -> pl.DataFrame:
    """Return every session of an exchange with ``ordinal``, ``half_day`` and ``expiry``.

    Monthly options expire on the third Friday, or the session before where that is a holiday.
    """
    sessions = calendar.sessions(date(1990, 1, 1), date(2049, 12, 31))
    hours = [
        (calendar.close_at(day) - calendar.open_at(day)).total_seconds() / 3600 for day in sessions
    ]
    start = pl.col("session").dt.month_start()
    to_friday = (12 - start.dt.weekday().cast(pl.Int64)) % 7 + 14
    upto = pl.col("session").filter(pl.col("session") <= start + pl.duration(days=to_friday))
    return pl.DataFrame({"session": sessions, "hours": hours}).select(
        pl.col("session").cast(pl.Date),
        pl.int_range(pl.len()).alias("ordinal"),
        (pl.col("hours") < pl.col("hours").max() - 1.0).alias("half_day"),
        (pl.col("session") == upto.max().over(start)).alias("expiry"),
    )


def moved(bars: pl.DataFrame, actions: pl.DataFrame, *, basis: Basis) -> pl.DataFrame:
    """Return ``bars``, sorted by series, with ``move``: log close to close, actions taken out.

    Parameters
    ----------
    bars
        One :func:`whole` row a session, symbol and source. Where a vendor's ``adj_close_usd`` is
        there, that series is the one that claims to be continuous, so its moves are taken.
    actions
        ``session`` (ex-date), ``symbol``, ``split_ratio``, ``dividend_usd`` in the bars' basis. An
        action takes effect at the first bar from its ex-date on.
    basis
        Whether a split is expected to show in the prices (``as_traded``) or not.

    Returns
    -------
    polars.DataFrame
        Also ``bar_no``, ``before`` and ``session_before`` (close and session of the bar before),
        ``dividend`` (0 without any), ``due`` (log move that the listed actions explain) and
        ``expected`` (the same, by the vendor's adjusted close where there is one).
    """
    bars = bars.sort(*SERIES, "session", maintain_order=True).with_columns(
        before=pl.col("close_usd").shift(1).over(SERIES),
        session_before=pl.col("session").shift(1).over(SERIES),
        bar_no=pl.int_range(pl.len()).over(SERIES),
    )
    bars = bars.join(
        _taking_effect(bars, actions), on=KEY, how="left", maintain_order="left"
    ).with_columns(pl.col("ratio").fill_null(1.0), pl.col("dividend").fill_null(0.0))
    kept = pl.max_horizontal(1.0 - pl.col("dividend") / pl.col("before"), pl.lit(0.01))
    due = (kept / pl.col("ratio") if basis == "as_traded" else kept).log()
    moves = (pl.col("close_usd") / pl.col("before")).log()
    if "adj_close_usd" in bars.columns:
        adjusted = pl.when(pl.col("adj_close_usd") > 0).then("adj_close_usd")
        expected = pl.coalesce(moves - (adjusted / adjusted.shift(1).over(SERIES)).log(), due)
    else:
        expected = due
    return bars.with_columns(move=moves - expected, expected=expected, due=due).drop("ratio")


def _taking_effect(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Return the bars at which actions take effect, with their ratio and dividend."""
    named = bars.filter(pl.col("symbol").is_in(actions["symbol"].unique().implode()))
    there = named.select(*KEY, "session_before").sort("session")
    ex_dates = (
        actions.select("symbol", "split_ratio", "dividend_usd", ex_date="session")
        .cast({"ex_date": bars.schema["session"]})
        .join(there.select(SERIES).unique(), on="symbol")
        .sort("ex_date")
    )
    return (
        ex_dates.join_asof(
            there,
            left_on="ex_date",
            right_on="session",
            by=SERIES,
            strategy="forward",
            check_sortedness=False,
        )
        .filter(pl.col("ex_date") > pl.col("session_before"))
        .group_by(KEY)
        .agg(
            pl.col("split_ratio").drop_nulls().product().alias("ratio"),
            pl.col("dividend_usd").drop_nulls().sum().alias("dividend"),
        )
    )


def measured(
    bars: pl.DataFrame, actions: pl.DataFrame, calendar: Calendar | None, *, basis: Basis
) -> pl.DataFrame:
    """Return ``bars`` with every measure that the rules of :mod:`.rules` look at.

    Returns
    -------
    polars.DataFrame
        Beside the columns of :func:`moved`: ``off_level`` (log close against the median of the
        last five, actions taken out), ``reach`` (the greatest log move of high, low or close from
        the close before), ``move_before``, ``same_as`` (how many bars ago prices and volume were
        the same, null if not), ``flat`` (no range and no volume), ``volume_move`` (log volume
        against its level), ``volume_sigmas`` (the same without weekday and expiry effects, in
        robust standard deviations of its series).
    """
    bars = moved(bars, actions, basis=basis)
    reached = [(pl.col(name) / pl.col("before")).log() - pl.col("expected") for name in PRICES]
    paid = [back("dividend", k) for k in range(1, _DIVIDEND_BARS + 1)]
    bars = bars.with_columns(
        off_level=_median_of_five(list(accumulate(back("move", k) for k in range(LEVEL_BARS)))),
        move_before=back("move", 1),
        flat=(pl.col("high_usd") == pl.col("low_usd")) & (pl.col("volume_shares") == 0),
        same_as=pl.coalesce(
            pl.when(pl.all_horizontal(pl.col(name) == back(name, k) for name in BAR)).then(k)
            for k in range(1, REPEAT_BARS + 1)
        ),
        paid_before=pl.coalesce(pl.when(one > 0).then(one) for one in paid),
        open_reach=reached[0],
        high_reach=reached[1],
        low_reach=reached[2],
    )
    reaches = [pl.col("move"), pl.col("high_reach"), pl.col("low_reach")]
    largest = pl.max_horizontal(reach.abs() for reach in reaches)
    reach = pl.coalesce(pl.when(reach.abs() == largest).then(reach) for reach in reaches)
    return _volume_measures(bars.with_columns(reach=reach), calendar)


def back(name: str, k: int) -> pl.Expr:
    """Return the value ``k`` bars ago; the frame is sorted, so no grouping is needed."""
    return pl.when(pl.col("bar_no") >= k).then(pl.col(name).shift(k))


def _median_of_five(values: list[pl.Expr]) -> pl.Expr:
    """Return the median of five columns; of what is there where some are null."""
    low, high = pl.min_horizontal, pl.max_horizontal
    a, b, c, d, e = values
    one, other = high(low(a, b), low(c, d)), low(high(a, b), high(c, d))
    return high(low(one, other), low(high(one, other), e))


def _volume_measures(bars: pl.DataFrame, calendar: Calendar | None) -> pl.DataFrame:
    """Add the volume's measures; half days and days without trading are neither judged nor used."""
    if calendar is None:
        marks = {"half_day": pl.lit(False), "expiry": pl.lit(False)}
        bars = bars.with_columns(**marks)
    else:
        known = days(calendar).select("session", "half_day", "expiry")
        bars = bars.join(known, on="session", how="left", maintain_order="left")
    level, series = _VOLUME_LEVEL_BARS, list(SERIES)
    bars = bars.with_columns(
        weekday=pl.col("session").dt.weekday(),
        log_volume=pl.when(pl.col("volume_shares") > 0, ~pl.col("half_day")).then(
            pl.col("volume_shares").log()
        ),
    )
    usual = pl.col("log_volume").rolling_median(level, min_samples=level // 2).shift(1)
    bars = bars.with_columns(volume_move=pl.col("log_volume") - usual.over(SERIES))
    bars = bars.with_columns(
        rest=pl.col("volume_move")
        - _usual_of("volume_move", _WEEKDAY_BARS, 6).over(*series, "weekday").fill_null(0.0)
    )
    bars = bars.with_columns(
        rest=pl.col("rest")
        - pl.when("expiry")
        .then(_usual_of("rest", _EXPIRY_BARS, 3).over(*series, "expiry"))
        .fill_null(0.0)
    )
    spread = pl.col("rest").abs().rolling_median(_SPREAD_BARS, min_samples=_SPREAD_BARS // 3)
    return bars.with_columns(
        volume_sigmas=pl.col("rest") / (_TO_SIGMA * spread.shift(1).over(SERIES))
    )


def _usual_of(name: str, window: int, at_least: int) -> pl.Expr:
    """Return the median of a group's values among the ``window`` bars before each bar."""
    return pl.col(name).rolling_median_by(
        "bar_no", f"{window}i", min_samples=at_least, closed="left"
    )
