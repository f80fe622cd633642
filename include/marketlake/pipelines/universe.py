"""Who is traded at a session: the universe file and the sector table, read once a process."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from pathlib import Path

import polars as pl

from marketlake.errors import ConfigError
from marketlake.settings import MarketSettings

SURVIVORSHIP_CAVEAT = (
    "survivorship: not controlled (the universe has no dated membership; "
    "its symbols are known to have survived)"
)


def caveats(settings: MarketSettings) -> list[str]:
    """Return the notes that every headline of this market must carry."""
    notes = [] if membership_is_dated(settings) else [SURVIVORSHIP_CAVEAT]
    return notes + simulation_notes(settings)


def simulation_notes(settings: MarketSettings) -> list[str]:
    """Return what of this market a generator made."""
    notes = []
    if settings.name == "packaged":
        notes.append(
            "closes are real total-return histories; as-traded levels, corporate actions, open, "
            "high, low and volume are simulated and labelled in simulated_fields"
        )
        notes.append(
            "benchmark: the S&P 500 price index, without dividends, beside total-return stocks; "
            "betas hardly change, residual returns are too high by about 0.15 % in 20 sessions"
        )
    if settings.name == "generated":
        notes.append("simulated: every price of this market was made by a generator")
    return notes


@lru_cache(maxsize=8)
def _universe(path: Path) -> pl.DataFrame:
    return _read(
        path, {"symbol": pl.String, "valid_from": pl.Date, "valid_to": pl.Date}, "universe"
    )


@lru_cache(maxsize=8)
def _sectors(path: Path) -> pl.DataFrame:
    return _read(path, {"symbol": pl.String, "name": pl.String, "sector": pl.String}, "sector")


def _read(path: Path, schema: dict[str, type[pl.DataType]], what: str) -> pl.DataFrame:
    try:
        frame = pl.read_csv(path, schema=schema)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(
            expected=f"a CSV with the columns {', '.join(schema)}",
            was=str(error).splitlines()[0],
            where=f"{what} file {path}",
            todo=f"correct the file or the setting MARKETLAKE_MARKET__{what.upper()}_FILE",
        ) from None
    if frame.is_empty() or frame["symbol"].null_count():
        raise ConfigError(
            expected="at least one row, each with a symbol",
            was=f"{frame.height} rows, {frame['symbol'].null_count()} without a symbol",
            where=f"{what} file {path}",
            todo="add the missing symbols",
        )
    key = [name for name in ("symbol", "valid_from") if name in schema]
    twice = frame.filter(frame.select(key).is_duplicated())["symbol"].unique().sort().to_list()
    if twice:
        raise ConfigError(
            expected=f"one row for each {' and '.join(key)}",
            was=f"several for {', '.join(twice)}",
            where=f"{what} file {path}",
            todo="remove the repeated rows",
        )
    return frame


def membership_is_dated(settings: MarketSettings) -> bool:
    """Return whether any membership has a date, which is what controls survivorship."""
    frame = _universe(settings.universe_file)
    return frame["valid_from"].null_count() + frame["valid_to"].null_count() < 2 * frame.height


def members(settings: MarketSettings, session: date) -> pl.DataFrame:
    """Return the members at a session: symbol, sector; sorted by symbol."""
    dated = (
        _universe(settings.universe_file)
        .filter(
            (pl.col("valid_from").is_null() | (pl.col("valid_from") <= session))
            & (pl.col("valid_to").is_null() | (pl.col("valid_to") >= session))
        )
        .join(_sectors(settings.sector_file), on="symbol", how="left")
        .sort("symbol")
    )
    without = dated.filter(pl.col("sector").is_null())["symbol"].to_list()
    if without or dated.is_empty():
        raise ConfigError(
            expected=f"a sector for each of the members at {session}",
            was=f"no sector for {without}" if without else "no member at all",
            where=f"{settings.universe_file} and {settings.sector_file}",
            todo="add the missing lines",
        )
    return dated.select("symbol", "sector")


def members_over(settings: MarketSettings, sessions: list[date]) -> pl.DataFrame:
    """Return core_reference__universe_member rows for several sessions."""
    dated = membership_is_dated(settings)
    frames = [
        members(settings, session).with_columns(
            session=pl.lit(session), membership_dated=pl.lit(dated)
        )
        for session in sessions
    ]
    return pl.concat(frames).select("session", "symbol", "sector", "membership_dated")


def instruments(settings: MarketSettings, session: date) -> pl.DataFrame:
    """Return core_reference__instrument rows as known at a session, and the index.

    A membership that begins later is not known yet, nor is an end that lies ahead.
    """
    equities = (
        _universe(settings.universe_file)
        .join(_sectors(settings.sector_file), on="symbol", how="left")
        .filter(pl.col("valid_from").is_null() | (pl.col("valid_from") <= session))
        .select(
            "symbol",
            pl.col("name").fill_null(pl.col("symbol")),
            pl.col("sector").fill_null("unknown"),
            pl.lit("equity").alias("kind"),
            pl.lit("USD").alias("currency"),
            pl.col("valid_from").fill_null(settings.first_session),
            pl.when(pl.col("valid_to") < session).then("valid_to"),
        )
    )
    benchmark = pl.DataFrame(
        {
            "symbol": [settings.benchmark],
            "name": [settings.benchmark],
            "sector": ["Index"],
            "kind": ["index"],
            "currency": ["USD"],
            "valid_from": [settings.first_session],
            "valid_to": [None],
        },
        schema=equities.schema,
    )
    return pl.concat([equities, benchmark]).sort("symbol", "valid_from")


def symbols_over(settings: MarketSettings, sessions: list[date]) -> list[str]:
    """Return what is fetched for some sessions: all who are members at any, and the benchmark."""
    return [
        *members_over(settings, sessions)["symbol"].unique().sort().to_list(),
        settings.benchmark,
    ]


def listings(settings: MarketSettings, sources: Sequence[str]) -> pl.DataFrame:
    """Return from when to when each source should have a symbol: symbol, source, valid_from, _to.

    A membership without dates says nothing of when its symbol was listed, and has no row.
    """
    dated = _universe(settings.universe_file).filter(pl.col("valid_from").is_not_null())
    return dated.join(pl.DataFrame({"source": sources}), how="cross").select(
        "symbol", "source", "valid_from", "valid_to"
    )
