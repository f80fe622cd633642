"""Fetch a session's bars and actions from each source, and land them as they came.

The same steps serve a session and a history: plan, fetch (a task for each source), publish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import polars as pl

from marketlake.clock import utc_now
from marketlake.contracts.catalog import (
    CORE_MARKET_SOURCE_ACTION,
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_SOURCE_ANSWER,
    CORE_REFERENCE_INSTRUMENT,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.errors import ConfigError, EmptyAnswer
from marketlake.pipelines import source_answers, universe
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.source_answers import raw_contract
from marketlake.types import ArtifactRef, Partition


def plan(ctx: RunContext, session: date) -> list[str]:
    """Return the symbols to fetch; raise ConfigError for a session that is none to run."""
    market = ctx.settings.market
    if not market.first_session <= session <= (market.last_session or session):
        raise ConfigError(
            expected=f"a session from {market.first_session} to {market.last_session or 'today'}",
            was=str(session),
            where="MARKETLAKE_MARKET__FIRST_SESSION and __LAST_SESSION",
            todo="run a session of the market, or change where the market begins or ends",
        )
    ctx.calendar.require_due(session, utc_now(), delay_minutes=market.publish_delay_minutes)
    return universe.symbols_over(market, [session])


def fetch(
    ctx: RunContext, session: date, *, source: str, symbols: Sequence[str]
) -> list[ArtifactRef]:
    """Ask one source for the session and stage what it said; a source that fails is dropped."""
    talk = source_answers.ask(ctx, source, symbols, session, session)
    return source_answers.stage(ctx, talk, {Partition.of_session(session): [session]}, part=source)


def publish(
    ctx: RunContext, session: date, *, staged: Sequence[Sequence[ArtifactRef]]
) -> list[ArtifactRef]:
    """Publish what the sources said of the session, and the reference data of its members."""
    return publish_span(
        ctx,
        Partition.of_session(session),
        [session],
        staged=[ref for own in staged for ref in own],
    )


def publish_span(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    *,
    staged: Sequence[ArtifactRef],
    responses: Mapping[str, ArtifactRef] | None = None,
) -> list[ArtifactRef]:
    """Publish one partition's raw, as-traded and reference artifacts.

    ``responses`` are answers that are published already, by source: those about several partitions.

    Raises
    ------
    EmptyAnswer
        When no source has a bar; nothing is published then.
    """
    own = [ref for ref in staged if ref.partition == partition.key]
    answers = ctx.staged(CORE_QUALITY_SOURCE_ANSWER, own)
    told = answers.filter(pl.col("outcome") != "not_configured")["source"].unique()
    sources = [name for name in ctx.settings.market.sources if name in told]
    bars = ctx.staged(CORE_MARKET_SOURCE_BAR, own) if sources else None
    if bars is None or bars.is_empty():
        raise EmptyAnswer(
            expected="bars of at least one source",
            was="; ".join(_why(answers)),
            where=f"{', '.join(ctx.settings.market.sources)}, {partition.key}",
            todo="correct what the reasons name, or wait, then clear the run's fetch tasks; "
            "nothing was published",
        )
    raw = []
    for name in sources:
        said = (responses or {}).get(name) or _publish(
            ctx, partition, sessions, own, name=name, what="response", parents=[]
        )
        raw += [
            said,
            *(
                _publish(ctx, partition, sessions, own, name=name, what=what, parents=[said])
                for what in ("daily_bar", "action")
            ),
        ]
    market = ctx.settings.market
    published = [
        ctx.publish(contract, partition, frame, sessions=sessions, parents=parents)
        for contract, frame, parents in (
            (CORE_QUALITY_SOURCE_ANSWER, answers, []),
            (CORE_MARKET_SOURCE_BAR, bars, raw),
            (CORE_MARKET_SOURCE_ACTION, ctx.staged(CORE_MARKET_SOURCE_ACTION, own), raw),
            (CORE_REFERENCE_INSTRUMENT, universe.instruments(market, sessions[-1]), []),
            (
                CORE_REFERENCE_UNIVERSE_MEMBER,
                universe.members_over(market, list(sessions)),
                [],
            ),
        )
    ]
    ctx.record_calculation(
        "as_traded_source_bars", inputs=raw, outputs=published[1:3], sources=sources
    )
    return [*raw, *published]


def _publish(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    staged: Sequence[ArtifactRef],
    *,
    name: str,
    what: str,
    parents: Sequence[ArtifactRef],
) -> ArtifactRef:
    contract = raw_contract(name, what)
    frame = ctx.staged(contract, staged)
    return ctx.publish(contract, partition, frame, sessions=sessions, parents=parents)


def _why(answers: pl.DataFrame) -> list[str]:
    """Say of each source why it has nothing, once for each reason."""
    reasons = answers.group_by("source", "outcome", "reason", maintain_order=True).agg("symbol")
    return [
        f"{source} {outcome.replace('_', ' ')} ({', '.join(symbols)})"
        + (f": {reason}" if reason else "")
        for source, outcome, reason, symbols in reasons.iter_rows()
    ]
