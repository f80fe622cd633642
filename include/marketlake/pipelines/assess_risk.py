"""Measure the reference book's risk and call the market regime, from the past alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    OUT_RISK_ANALYSIS_MARKET_REGIME,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.domain import regimes, risk
from marketlake.pipelines import universe
from marketlake.pipelines.build_warehouse import load_artifact
from marketlake.pipelines.context import RunContext, as_polars
from marketlake.types import ArtifactRef, Partition

REGIME_WINDOW_SESSIONS = 252 * 3
"""Three years: 200 sessions of trend warm-up and two years to rank volatility in."""


def classify_regime(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Classify the session's market regime and stage the document."""
    window = ctx.history_window(session, REGIME_WINDOW_SESSIONS)
    bars = as_polars(ctx.lake.read(CORE_MARKET_DAILY_BAR, window, as_of=session))
    benchmark = (
        bars.filter(pl.col("symbol") == ctx.settings.market.benchmark)
        .select("session", "close_usd")
        .sort("session")
    )
    document = regimes.classify(benchmark)
    staged = ctx.stage(
        OUT_RISK_ANALYSIS_MARKET_REGIME, Partition.of_session(session), "regime", document
    )
    ctx.record_calculation(
        "market_regime",
        inputs=ctx.lake.refs_for(CORE_MARKET_DAILY_BAR, window),
        outputs=[staged],
        window_sessions=len(window),
    )
    return [staged]


def measure_risk(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Measure the reference book at the session and stage its rows."""
    settings = ctx.settings.risk
    window = ctx.history_window(session, settings.window_sessions + 1)
    bars, actions, inputs = ctx.known_bars(
        CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION, window, as_of=session
    )
    rows = risk.book_risk(
        bars,
        actions,
        universe.members(ctx.settings.market, session),
        session=session,
        sessions=window,
        benchmark=ctx.settings.market.benchmark,
        volatility_window=settings.volatility_window_sessions,
        book_value_usd=settings.book_value_usd,
    )
    staged = ctx.stage(
        OUT_RISK_ANALYSIS_PORTFOLIO_RISK, Partition.of_session(session), "risk", rows
    )
    ctx.record_calculation(
        "portfolio_risk", inputs=inputs, outputs=[staged], **settings.model_dump()
    )
    return [staged]


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish regime and risk and load the risk table for analysts."""
    partition = Partition.of_session(session)
    made = {ref.contract: ref for ref in staged}
    refs = []
    for contract, length in (
        (OUT_RISK_ANALYSIS_MARKET_REGIME, REGIME_WINDOW_SESSIONS),
        (OUT_RISK_ANALYSIS_PORTFOLIO_RISK, ctx.settings.risk.window_sessions + 1),
    ):
        window = ctx.history_window(session, length)
        parents = ctx.lake.refs_for(CORE_MARKET_DAILY_BAR, window)
        if contract is OUT_RISK_ANALYSIS_PORTFOLIO_RISK:
            parents += ctx.lake.refs_for(CORE_MARKET_CORPORATE_ACTION, window)
        refs.append(
            ctx.publish(
                contract,
                partition,
                ctx.lake.read_ref(made[contract.name]),
                sessions=[session],
                parents=parents,
            )
        )
    load_artifact(ctx, OUT_RISK_ANALYSIS_PORTFOLIO_RISK, refs[-1])
    return refs
