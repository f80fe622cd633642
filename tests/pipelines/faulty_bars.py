"""A small market of three sources with faults that have one right answer, and their proposals."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import polars as pl
from marketlake.calendars import Calendar
from marketlake.contracts.catalog import CORE_MARKET_SOURCE_BAR, CORE_QUALITY_REPAIR_PROPOSAL
from marketlake.domain import integrity
from marketlake.pipelines.context import RunContext
from marketlake.types import ArtifactRef, Partition

SESSION = date(2022, 12, 23)
KNOWN_AT = datetime(2022, 12, 23, 21, 15, tzinfo=UTC)
IN_CENTS = "unit:KO:yahoo:2022-12-22"
MISSING = "missing_bar:PG:iex:2022-12-23"
PRICES = ["open_usd", "high_usd", "low_usd", "close_usd"]
_SOURCES = ("alpha_vantage", "iex", "yahoo")


def source_bars() -> pl.DataFrame:
    """Return rows of core_market__source_bar.

    On the last two sessions Yahoo gives KO in cents; on the last, IEX has no bar of PG.
    """
    sessions = Calendar.of("XNYS").window(SESSION, 40)
    rng = np.random.default_rng(1)
    rows = []
    for symbol, start in (("KO", 60.0), ("PG", 150.0)):
        closes = start * np.exp(np.cumsum(rng.normal(0, 0.01, len(sessions))))
        for minutes, source in enumerate(_SOURCES):
            for day, close in zip(sessions, closes.round(2), strict=True):
                cents = 100.0 if (symbol, source) == ("KO", "yahoo") and day >= sessions[-2] else 1
                if (symbol, source, day) == ("PG", "iex", SESSION):
                    continue
                prices = (close - 0.1, close + 0.5, close - 0.5, close)
                rows.append(
                    {
                        "session": day,
                        "symbol": symbol,
                        "source": source,
                        "repeat_no": 0,
                        **{name: price * cents for name, price in zip(PRICES, prices, strict=True)},
                        "volume_shares": 1e6,
                        "simulated_fields": ["open_usd", "volume_shares"],
                        "known_at_utc": KNOWN_AT
                        + timedelta(days=(day - SESSION).days)
                        + timedelta(minutes=minutes),
                    }
                )
    return pl.DataFrame(rows).select(item.name for item in CORE_MARKET_SOURCE_BAR.fields)


def proposals(bars: pl.DataFrame) -> pl.DataFrame:
    """Return rows of core_quality__repair_proposal, as seen from the last session."""
    found = integrity.propose(
        bars, pl.DataFrame(schema=integrity.ACTION_SCHEMA), as_of=SESSION, basis="as_traded"
    )
    return found.select(item.name for item in CORE_QUALITY_REPAIR_PROPOSAL.fields)


def publish(ctx: RunContext, last_sessions: int = 1) -> None:
    """Publish the bars and proposals of the last sessions."""
    bars = source_bars()
    found = proposals(bars)
    for day in Calendar.of("XNYS").window(SESSION, last_sessions):
        parents: list[ArtifactRef] = []
        for contract, frame in (
            (CORE_MARKET_SOURCE_BAR, bars),
            (CORE_QUALITY_REPAIR_PROPOSAL, found),
        ):
            own = frame.filter(session=day)
            parents = [
                ctx.publish(
                    contract, Partition.of_session(day), own, sessions=[day], parents=parents
                )
            ]
