"""Made series for the integrity tests: random walks on New York's sessions, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from marketlake.calendars import Calendar
from marketlake.domain.integrity import ACTION_SCHEMA, Reference, detect

CALENDAR = Calendar.of("XNYS")
PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
LAST = date(2018, 12, 31)


def walk(
    n: int = 120, *, symbols: Sequence[str] = ("AAA",), source: str = "yahoo", seed: int = 1
) -> pl.DataFrame:
    """Return calm bars of the ``n`` sessions up to the end of 2018, daily moves of 1 %."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        close = 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, n)))
        opened = close * np.exp(rng.normal(0.0, 0.004, n))
        reach = np.exp(np.abs(rng.normal(0.0, 0.003, (2, n))))
        parts.append(
            pl.DataFrame(
                {
                    "session": CALENDAR.window(LAST, n),
                    "symbol": symbol,
                    "source": source,
                    "open_usd": opened,
                    "high_usd": np.maximum(opened, close) * reach[0],
                    "low_usd": np.minimum(opened, close) / reach[1],
                    "close_usd": close,
                    "volume_shares": np.round(1e6 * np.exp(rng.normal(0.0, 0.2, n))),
                }
            )
        )
    return pl.concat(parts)


def at(bars: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:
    """Return the bars with other values in one row."""
    here = pl.int_range(pl.len()) == row
    return bars.with_columns(
        pl.when(here).then(value).otherwise(name).alias(name) for name, value in values.items()
    )


def scaled(bars: pl.DataFrame, first: int, last: int, factor: float) -> pl.DataFrame:
    """Return the bars with the prices of some rows, both ends included, times a factor."""
    here = pl.int_range(pl.len()).is_between(first, last)
    return bars.with_columns(
        pl.when(here).then(pl.col(name) * factor).otherwise(name).alias(name) for name in PRICES
    )


def split(session: date, ratio: float, symbol: str = "AAA") -> pl.DataFrame:
    """Return one split."""
    return pl.DataFrame([(session, symbol, ratio, None)], schema=ACTION_SCHEMA, orient="row")


def dividend(session: date, paid: float, symbol: str = "AAA") -> pl.DataFrame:
    """Return one dividend."""
    return pl.DataFrame([(session, symbol, None, paid)], schema=ACTION_SCHEMA, orient="row")


def said(bars: pl.DataFrame, reference: Reference | None = None, **span: date) -> set[tuple]:
    """Return (session, symbol, rule, severity) of every finding but those on volume."""
    found = detect(bars, reference or Reference(calendar=CALENDAR), **span)
    rows = found.filter(~pl.col("rule").str.contains("volume"))
    return set(rows.select("session", "symbol", "rule", "severity").rows())
