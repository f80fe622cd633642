"""Recorded vendor histories as the frames the domain works on. Read from the shared data only."""

from __future__ import annotations

import io
import zipfile
from datetime import date
from pathlib import Path

import polars as pl
from marketlake.types import Semantics

from tests.corpora.price_faults import ACTION_SCHEMA

VENDORS = ("google", "iex", "stooq", "yahoo")
SEMANTICS = {
    "google": Semantics("split_adjusted"),
    "iex": Semantics("split_adjusted"),
    "yahoo": Semantics("split_adjusted"),
    "stooq": Semantics("total_return", volume_follows_dividends=True),
}
OVERLAP = (date(2013, 2, 8), date(2017, 8, 11))
_NAMES = {"open": "open_usd", "high": "high_usd", "low": "low_usd", "close": "close_usd"}
_CASH_AT_MOST = 0.1


def stocknet(shared_data: Path) -> pl.DataFrame:
    """Return Yahoo's daily bars of the StockNet stocks that have every session."""
    archive = shared_data / "us_daily_yahoo_stocknet" / "price_raw_88.zip"
    parts = []
    with zipfile.ZipFile(archive) as zipped:
        for name in sorted(zipped.namelist()):
            if name.startswith("price/raw/") and name.endswith(".csv"):
                rows = pl.read_csv(
                    io.BytesIO(zipped.read(name)),
                    null_values="null",
                    infer_schema_length=None,
                    schema_overrides={"Volume": pl.Float64},
                    try_parse_dates=True,
                )
                parts.append(rows.with_columns(symbol=pl.lit(Path(name).stem)))
    bars = pl.concat(parts).select(
        pl.col("Date").alias("session"),
        "symbol",
        *(pl.col(old.title()).alias(new) for old, new in _NAMES.items()),
        pl.col("Volume").alias("volume_shares"),
    )
    whole = bars["session"].n_unique()
    return bars.drop_nulls().filter(pl.len().over("symbol") == whole).sort("symbol", "session")


def four_vendors(shared_data: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, date]]:
    """Return the bars of google, iex, stooq and yahoo, the dividends, and each one's last session.

    The dividends are those in the ratio of Yahoo's two closes, a step of over 10 % being no cash
    dividend; splits are not in the recording, so split-adjusted is the common basis. Where Yahoo
    has no history stooq's is left out: nothing undoes its dividends.
    """
    folder = shared_data / "us_daily_sp500_4vendor_dev"
    read = {
        name: pl.read_parquet(folder / f"{name}.parquet").with_columns(
            pl.col("symbol").cast(pl.String)
        )
        for name in VENDORS
    }
    bars = pl.concat(
        frame.select(
            pl.lit(name).alias("source"),
            pl.col("date").alias("session"),
            "symbol",
            *(pl.col(old).cast(pl.Float64).alias(new) for old, new in _NAMES.items()),
            pl.col("volume").cast(pl.Float64).alias("volume_shares"),
        )
        for name, frame in read.items()
    )
    bars = bars.filter(
        (pl.col("source") != "stooq")
        | pl.col("symbol").is_in(read["yahoo"]["symbol"].unique().to_list())
    )
    ratio = pl.col("adj close") / pl.col("close")
    dividends = (
        read["yahoo"]
        .sort("symbol", "date")
        .with_columns(
            (ratio.shift(1) / ratio).over("symbol").alias("step"),
            pl.col("close").shift(1).over("symbol").alias("before"),
        )
        .filter(pl.col("step").is_between(1 - _CASH_AT_MOST, 1 - 2e-4))
        .select(
            pl.col("date").alias("session"),
            "symbol",
            pl.lit("dividend").alias("kind"),
            pl.lit(None, pl.Float64).alias("split_ratio"),
            ((1 - pl.col("step")) * pl.col("before")).alias("dividend_usd"),
        )
    )
    last = dict(bars.group_by("source").agg(pl.max("session")).rows())
    return bars, dividends.cast(pl.Schema(ACTION_SCHEMA)), last
