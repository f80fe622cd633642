"""A folder of Parquet files replayed as a market.

Files have the columns symbol, date, open, high, low, close, volume, and optionally adj_close,
dividend (cash a share on its ex-date) and split (new shares per old). With dividend or split
columns the closes are taken as traded and adjusted by those actions; without them closes are
shown as they are and ``adj_close`` is scaled to what each session could know. What does not belong
here: other file formats.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np
import polars as pl

from marketlake.errors import ConfigError
from marketlake.services.sandbox.counter_random import Floats
from marketlake.services.sandbox.world import Series, World

_REQUIRED = ("symbol", "date", "open", "high", "low", "close", "volume")


def folder_world(folder: Path) -> World:
    """Read every Parquet file of a folder into one market."""
    by_symbol = _bars(folder).group_by("symbol", maintain_order=True)
    return World.of({str(key[0]): _series(str(key[0]), part) for key, part in by_symbol})


def folder_spans(folder: Path) -> dict[str, tuple[date, date]]:
    """Return the first and the last day of each symbol in a folder."""
    days = _bars(folder).group_by("symbol").agg(first=pl.min("date"), last=pl.max("date"))
    return {symbol: (first, last) for symbol, first, last in days.iter_rows()}


def _bars(folder: Path) -> pl.DataFrame:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise ConfigError(
            expected="a folder with at least one .parquet file",
            was="none",
            where=str(folder),
            todo="set MARKETLAKE_SANDBOX__DATA to a folder of bars",
        )
    frame = pl.concat([_read(file) for file in files], how="diagonal_relaxed")
    return frame.unique(["symbol", "date"], keep="last").sort("symbol", "date")


def _read(file: Path) -> pl.DataFrame:
    frame = pl.read_parquet(file)
    missing = [name for name in _REQUIRED if name not in frame.columns]
    if missing:
        raise ConfigError(
            expected=f"the columns {', '.join(_REQUIRED)}",
            was=f"no {', '.join(missing)}",
            where=str(file),
            todo="rename the file's columns",
        )
    numbers = [pl.col(name).cast(pl.Float64) for name in frame.columns if name not in _REQUIRED[:2]]
    day = pl.col("date")
    if frame.schema["date"] == pl.String:
        day = day.str.slice(0, 10).str.to_date()
    return frame.select(pl.col("symbol").cast(pl.String), day.cast(pl.Date), *numbers)


def _series(symbol: str, frame: pl.DataFrame) -> Series:
    sessions = frame["date"].to_numpy().astype("datetime64[D]")

    def column(name: str, absent: float) -> Floats:
        if name not in frame.columns:
            return np.full(frame.height, absent)
        values = frame[name].cast(pl.Float64).fill_null(absent)
        return np.asarray(values.to_numpy(), dtype=np.float64)

    splits, dividends = column("split", 1.0), column("dividend", 0.0)
    split = (splits != 1.0) & (splits > 0.0)
    paid = dividends > 0.0
    has_actions = "split" in frame.columns or "dividend" in frame.columns
    given = column("adj_close", np.nan) if "adj_close" in frame.columns else None
    return Series(
        symbol=symbol,
        kind="index" if symbol.startswith("^") else "equity",
        sessions=sessions,
        open_usd=column("open", np.nan),
        high_usd=column("high", np.nan),
        low_usd=column("low", np.nan),
        close_usd=column("close", np.nan),
        volume_shares=column("volume", np.nan),
        split_sessions=sessions[split],
        split_ratios=splits[split],
        dividend_sessions=sessions[paid],
        dividends_usd=dividends[paid],
        given_adj_close=None if has_actions else given,
    )
