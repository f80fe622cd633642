"""Several vendors' bars of one made history, and one-line changes to them."""

from __future__ import annotations

from datetime import date
from typing import Any

import numpy as np
import polars as pl
from marketlake.domain.consensus import Consensus, reconcile

from tests.corpora.price_faults import ACTION_SCHEMA, PRICES
from tests.domain.market import weekdays

SOURCES = ("alpha", "beta", "gamma")
SESSIONS = tuple(weekdays(date(2020, 1, 1), 90))
T = 80
"""The session on which things happen; history before it, some sessions after it."""
NO_ACTIONS = pl.DataFrame(schema=ACTION_SCHEMA)


def history(
    *, symbols: tuple[str, ...] = ("AAA",), n: int = len(SESSIONS), seed: int = 1
) -> pl.DataFrame:
    """Return one true history: a random walk, with ranges and volumes."""
    rng = np.random.default_rng(seed)
    parts = []
    for symbol in symbols:
        close = 80.0 * np.exp(np.cumsum(rng.normal(0.0, 0.02, n)))
        open_ = close * (1 + rng.normal(0.0, 0.01, n))
        ends = np.stack([open_, close])
        parts.append(
            pl.DataFrame(
                {
                    "session": list(SESSIONS[:n]),
                    "symbol": symbol,
                    "open_usd": open_,
                    "high_usd": ends.max(0) * (1 + rng.uniform(0.004, 0.01, n)),
                    "low_usd": ends.min(0) * (1 - rng.uniform(0.004, 0.01, n)),
                    "close_usd": close,
                    "volume_shares": np.round(rng.uniform(1e6, 2e6, n)),
                }
            )
        )
    return pl.concat(parts)


def told_by(truth: pl.DataFrame, *sources: str) -> pl.DataFrame:
    """Return the history as each of the sources tells it."""
    return pl.concat(truth.with_columns(source=pl.lit(name)) for name in sources or SOURCES)


def changed(
    bars: pl.DataFrame, source: str, *, at: int | range = T, **values: pl.Expr | float
) -> pl.DataFrame:
    """Return the bars with one source's values changed on one or more sessions."""
    days = [SESSIONS[one] for one in ([at] if isinstance(at, int) else at)]
    here = (pl.col("source") == source) & pl.col("session").is_in(days)
    new = {
        name: value if isinstance(value, pl.Expr) else pl.lit(value)
        for name, value in values.items()
    }
    return bars.with_columns(
        pl.when(here).then(value).otherwise(name).alias(name) for name, value in new.items()
    )


def times(factor: float, *names: str) -> dict[str, pl.Expr]:
    """Return changes that multiply some prices, by default all four."""
    return {name: pl.col(name) * factor for name in names or PRICES}


def agree(bars: pl.DataFrame, actions: pl.DataFrame = NO_ACTIONS, **options: Any) -> Consensus:
    return reconcile(bars, actions, sessions=SESSIONS, **options)


def bar(found: Consensus, at: int = T) -> dict[str, Any]:
    return found.bars.filter(pl.col("session") == SESSIONS[at]).row(0, named=True)


def complaints(found: Consensus, at: int = T) -> dict[str, str]:
    """Return the class of each source that is apart on a session."""
    rows = found.disagreements.filter(pl.col("session") == SESSIONS[at])
    return dict(rows.select("source", "class").iter_rows())
