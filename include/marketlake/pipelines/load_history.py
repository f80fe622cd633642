"""Load history through the same vendor path and the same gates, one manifest a year."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.clock import utc_now
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_BAR,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.contracts.features import MAX_LOOKBACK_SESSIONS
from marketlake.errors import ConfigError
from marketlake.pipelines import build_features, build_warehouse, source_answers, universe
from marketlake.pipelines import ingest_market_data as ingest
from marketlake.pipelines import validate_market_data as validate
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.gating import refuse_bad
from marketlake.types import ArtifactRef, Partition

logger = logging.getLogger(__name__)
_SYMBOLS_AT_ONCE = 100


def plan_years(ctx: RunContext, through: date) -> list[int]:
    """Return the years from the market's first session to ``through``."""
    market = ctx.settings.market
    ctx.calendar.require_due(through, utc_now(), delay_minutes=market.publish_delay_minutes)
    if through < market.first_session or (market.last_session and through > market.last_session):
        raise ConfigError(
            expected=f"a session from {market.first_session} to {market.last_session}",
            was=str(through),
            where="parameter 'through' of load_history",
            todo="choose a session inside the market",
        )
    return list(range(market.first_session.year, through.year + 1))


def _sessions_of(ctx: RunContext, year: int, through: date) -> list[date]:
    """Return a year's sessions up to ``through``, and those that its objects already hold.

    A year that has been published never shrinks: its later sessions may lie nowhere else.
    """
    partition = Partition.of_year(year)
    held = [
        date.fromisoformat(ctx.lake.manifest(contract, partition).sessions[-1])
        for contract in (CORE_MARKET_SOURCE_BAR, CORE_MARKET_DAILY_BAR, CORE_FEATURES_DAILY)
        if partition in ctx.lake.partitions(contract)
    ]
    first = max(ctx.settings.market.first_session, date(year, 1, 1))
    return ctx.calendar.sessions(first, min(max([through, *held]), date(year, 12, 31)))


def fetch(ctx: RunContext, through: date, *, source: str) -> list[ArtifactRef]:
    """Ask one source for the whole history at once, and stage it by year.

    One call a symbol then serves every year; some vendors always send everything they have. So many
    symbols at a time keep what is held in memory small.
    """
    years = {year: _sessions_of(ctx, year, through) for year in plan_years(ctx, through)}
    sessions = [session for own in years.values() for session in own]
    symbols = universe.symbols_over(ctx.settings.market, sessions)
    spans = {Partition.of_year(year): own for year, own in years.items()}
    staged = []
    for start in range(0, len(symbols), _SYMBOLS_AT_ONCE):
        some = symbols[start : start + _SYMBOLS_AT_ONCE]
        talk = source_answers.ask(ctx, source, some, sessions[0], sessions[-1])
        staged += source_answers.stage(ctx, talk, spans, part=f"{source}-{start:05d}")
        logger.info("%s: %d of %d symbols", source, start + len(some), len(symbols))
    return staged


def publish_years(
    ctx: RunContext, through: date, *, staged: Sequence[Sequence[ArtifactRef]]
) -> list[ArtifactRef]:
    """Publish what the sources said, year by year, the newest first: it has their answers."""
    fetched = [ref for own in staged for ref in own]
    responses: dict[str, ArtifactRef] = {}
    published = []
    for year in reversed(plan_years(ctx, through)):
        refs = ingest.publish_span(
            ctx,
            Partition.of_year(year),
            _sessions_of(ctx, year, through),
            staged=fetched,
            responses=responses,
        )
        responses |= {
            name: ref
            for name in ctx.settings.market.sources
            for ref in refs
            if ref.contract == source_answers.raw_contract(name, "response").name
        }
        published += refs
        logger.info("published what the sources said of %d", year)
    return published


def validate_year(ctx: RunContext, through: date, *, year: int) -> list[ArtifactRef]:
    """Judge one year of bars and actions, and publish what passes."""
    partition, sessions = Partition.of_year(year), _sessions_of(ctx, year, through)
    accepted = validate.gate_span(ctx, partition, sessions)
    return validate.publish_span(ctx, partition, sessions, staged=accepted)


def compute_features(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Compute and publish the features of the whole history, one artifact a year."""
    years = {year: _sessions_of(ctx, year, through) for year in plan_years(ctx, through)}
    last = max(years.values())[-1]
    frame, _ = build_features.compute_span(ctx, first=min(years.values())[0], last=last)
    refs = []
    for year, sessions in years.items():
        partition = Partition.of_year(year)
        rows = frame.filter(pl.col("session").dt.year() == year)
        refuse_bad(ctx, CORE_FEATURES_DAILY, partition, rows)
        window = ctx.history_window(sessions[-1], len(sessions) + MAX_LOOKBACK_SESSIONS)
        parents = [
            ref
            for contract, days in (
                (CORE_MARKET_DAILY_BAR, window),
                (CORE_MARKET_CORPORATE_ACTION, window),
                (CORE_REFERENCE_UNIVERSE_MEMBER, sessions),
            )
            for ref in ctx.lake.refs_for(contract, days)
        ]
        refs.append(
            ctx.publish(CORE_FEATURES_DAILY, partition, rows, sessions=sessions, parents=parents)
        )
    return refs


def load_warehouse(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Load every year into Postgres and rebuild the dbt models over all of it."""
    ctx.warehouse.ensure_schema()
    loaded: dict[str, dict[str, int]] = {}
    for contract in (*build_warehouse.LOADED, CORE_FEATURES_DAILY):
        counts = [
            build_warehouse.load_sessions(ctx, contract, sessions, as_of=sessions[-1])
            for year in plan_years(ctx, through)
            if (sessions := _sessions_of(ctx, year, through))
        ]
        loaded[contract.name] = {
            name: sum(count[name] for count in counts) for name in ("inserted", "deleted")
        }
    return [build_warehouse.run_dbt(ctx, through, loaded=loaded, only_session=None)]
