"""Load history through the same vendor path and the same gates, one manifest a year."""

from __future__ import annotations

from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
)
from marketlake.errors import ConfigError
from marketlake.pipelines import build_features, build_warehouse, universe
from marketlake.pipelines import ingest_market_data as ingest
from marketlake.pipelines import validate_market_data as validate
from marketlake.pipelines.context import RunContext
from marketlake.types import ArtifactRef, Partition


def plan_years(ctx: RunContext, through: date) -> list[int]:
    """Return the years from the market's first session to ``through``."""
    market = ctx.settings.market
    ctx.calendar.require_session(through)
    if through < market.first_session or (market.last_session and through > market.last_session):
        raise ConfigError(
            expected=f"a session from {market.first_session} to {market.last_session}",
            was=str(through),
            where="parameter 'through' of load_history",
            todo="choose a session inside the market",
        )
    return list(range(market.first_session.year, through.year + 1))


def _sessions_of(ctx: RunContext, year: int, through: date) -> list[date]:
    first = max(ctx.settings.market.first_session, date(year, 1, 1))
    return ctx.calendar.sessions(first, min(through, date(year, 12, 31)))


def load_year(ctx: RunContext, through: date, *, year: int) -> list[ArtifactRef]:
    """Fetch, gate and publish one year of bars and actions."""
    partition = Partition.of_year(year)
    sessions = _sessions_of(ctx, year, through)
    symbols = sorted(
        {symbol for day in (sessions[0], sessions[-1]) for symbol in _symbols(ctx, day)}
    )
    staged = ingest.fetch_span(ctx, partition, sessions, symbols=symbols, part="history")
    raw = ingest.publish_span(ctx, partition, sessions, staged=staged)
    accepted = validate.gate_span(ctx, partition, sessions)
    core = validate.publish_span(ctx, partition, sessions, staged=accepted)
    return [*raw, *core]


def _symbols(ctx: RunContext, session: date) -> list[str]:
    return universe.symbols_at(ctx.settings.market, session)


def compute_features(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Compute and publish the features of the whole history, one artifact a year."""
    market = ctx.settings.market
    frame, _ = build_features.compute_span(ctx, first=market.first_session, last=through)
    refs = []
    for year in plan_years(ctx, through):
        partition = Partition.of_year(year)
        rows = frame.filter(pl.col("session").dt.year() == year)
        build_features.refuse_bad_features(ctx, partition, rows)
        sessions = _sessions_of(ctx, year, through)
        parents = [
            ctx.lake.ref(contract, Partition.of_year(earlier))
            for contract in (CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION)
            for earlier in (year - 1, year)
            if earlier >= market.first_session.year
        ]
        refs.append(
            ctx.publish(CORE_FEATURES_DAILY, partition, rows, sessions=sessions, parents=parents)
        )
    return refs


def load_warehouse(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Load every year into Postgres and rebuild the dbt models over all of it."""
    partitions = [Partition.of_year(year) for year in plan_years(ctx, through)]
    loaded: dict[str, Any] = build_warehouse.load_partitions(ctx, partitions)
    for partition in partitions:
        build_warehouse.load_artifact(
            ctx, CORE_FEATURES_DAILY, ctx.lake.ref(CORE_FEATURES_DAILY, partition)
        )
    return [build_warehouse.run_dbt(ctx, through, loaded=loaded, only_session=None)]
