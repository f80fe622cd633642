"""Markets that the domain's tests compute on: a made one with every nuisance, and the real closes.

The made market has splits, dividends, missing bars and a late listing, all from a seed. The real
one is the 20 adjusted closes and the S&P 500 that skfolio ships, read from its files (importing
skfolio takes ten seconds).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

BENCHMARK = "^GSPC"
ACTION_SCHEMA = {
    "session": pl.Date,
    "symbol": pl.String,
    "kind": pl.String,
    "split_ratio": pl.Float64,
    "dividend_usd": pl.Float64,
    "simulated_fields": pl.List(pl.String),
}
NO_ACTIONS = pl.DataFrame(schema=ACTION_SCHEMA)


@dataclass(frozen=True)
class Market:
    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    bars: pl.DataFrame
    actions: pl.DataFrame

    def until(self, last: date) -> Market:
        """Return the market as it was known at the end of a session."""
        return replace(
            self,
            sessions=tuple(session for session in self.sessions if session <= last),
            bars=self.bars.filter(pl.col("session") <= last),
            actions=self.actions.filter(pl.col("session") <= last),
        )

    def window(self, last: date, length: int) -> tuple[date, ...]:
        """Return the `length` sessions that end with `last`."""
        end = self.sessions.index(last) + 1
        return self.sessions[max(end - length, 0) : end]

    @property
    def members(self) -> pl.DataFrame:
        return pl.DataFrame(
            {
                "symbol": self.symbols,
                "sector": ["Energy" if n % 3 else "Utilities" for n in range(len(self.symbols))],
            }
        )


def weekdays(first: date, n: int) -> list[date]:
    days = (first + timedelta(days=offset) for offset in range(2 * n + 7))
    return [day for day in days if day.weekday() < 5][:n]


def bars_of(
    closes: np.ndarray,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
    simulated: Sequence[str] = (),
) -> pl.DataFrame:
    """Return long bars of a close matrix; NaN means no bar."""
    frame = pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions, dtype="datetime64[D]"), len(symbols)),
            "symbol": list(symbols) * len(sessions),
            "close_usd": closes.ravel(),
        }
    )
    listed = pl.lit(list(simulated), dtype=pl.List(pl.String)).alias("simulated_fields")
    return frame.filter(pl.col("close_usd").is_not_nan()).with_columns(listed)


def with_closes_alone(bars: pl.DataFrame) -> pl.DataFrame:
    """Return bars of closes with every other quantity laid on, for what sees closes alone."""
    close = pl.col("close_usd")
    return bars.with_columns(
        open_usd=close, high_usd=close, low_usd=close, volume_shares=pl.lit(1e6)
    )


def actions_of(*rows: tuple[date, str, float | None, float | None]) -> pl.DataFrame:
    """Return actions given as (ex-date, symbol, split ratio or None, dividend or None)."""
    return pl.DataFrame(
        [
            (session, symbol, "split" if ratio else "dividend", ratio, dividend, [])
            for session, symbol, ratio, dividend in rows
        ],
        schema=ACTION_SCHEMA,
        orient="row",
    )


def made_market(seed: int, *, n_sessions: int = 330, n_symbols: int = 5) -> Market:
    """Return a random market with splits, simulated dividends, gaps and a late listing."""
    rng = np.random.default_rng(seed)
    sessions = weekdays(date(2020, 1, 1), n_sessions)
    symbols = [f"S{number:02d}" for number in range(n_symbols)]
    market = rng.normal(0.0003, 0.01, n_sessions)
    own = rng.normal(0.0, 0.015, (n_sessions, n_symbols))
    closes = 50.0 * np.exp(np.cumsum(own + market[:, None], axis=0))
    rows: list[tuple[date, str, float | None, float | None]] = []
    for column, symbol in enumerate(symbols):
        for at in rng.choice(np.arange(1, n_sessions), 2, replace=False):
            ratio = float(rng.choice([2.0, 3.0, 0.5, 1.5]))
            closes[at:, column] /= ratio
            rows.append((sessions[at], symbol, ratio, None))
        rows += [
            (sessions[at], symbol, None, float(0.01 * closes[at - 1, column]))
            for at in rng.choice(np.arange(1, n_sessions), 4, replace=False)
        ]
    closes[rng.random(closes.shape) < 0.01] = np.nan
    closes[: n_sessions // 3, -1] = np.nan
    level = 3000.0 * np.exp(np.cumsum(market))
    return Market(
        tuple(sessions),
        tuple(symbols),
        bars_of(np.column_stack([closes, level]), sessions=sessions, symbols=[*symbols, BENCHMARK]),
        actions_of(*rows).with_columns(
            pl.when(pl.col("kind") == "dividend")
            .then(pl.lit(["dividend_usd"]))
            .otherwise("simulated_fields")
            .alias("simulated_fields")
        ),
    )


@lru_cache(maxsize=1)
def real_closes() -> pd.DataFrame:
    """Return skfolio's 20 adjusted closes and the S&P 500, from 2009 on."""
    spec = importlib.util.find_spec("skfolio")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = Path(spec.submodule_search_locations[0]) / "datasets" / "data"
    closes, index = (
        pd.read_csv(folder / name, index_col=0, parse_dates=True)
        for name in ("sp500_dataset.csv.gz", "sp500_index.csv.gz")
    )
    return closes.assign(**{BENCHMARK: index.iloc[:, 0]}).loc["2009-01-01":]


@lru_cache(maxsize=1)
def real_market() -> Market:
    """Return the real closes as if they had traded so, without actions."""
    closes = real_closes()
    sessions = [stamp.date() for stamp in closes.index]
    return Market(
        tuple(sessions),
        tuple(symbol for symbol in closes.columns if symbol != BENCHMARK),
        bars_of(closes.to_numpy(), sessions=sessions, symbols=list(closes.columns)),
        NO_ACTIONS,
    )
