"""Measure the reference book's risk and call the market regime, from the past alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.contracts.catalog import (
    CORE_MARKET_DAILY_BAR,
    OUT_RISK_ANALYSIS_MARKET_REGIME,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.domain import regimes, risk
from marketlake.pipelines.build_warehouse import load_sessions
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.gating import refuse_bad
from marketlake.types import ArtifactRef, Partition

_WEEK_SESSIONS = 5


def classify_regime(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Classify the session's market regime and stage the document.

    The benchmark may have one source, and that may be down: then the regime is the one of its last
    close, of which ``evidence.as_of`` says when it was; after a week without it is not guessed.
    """
    window = ctx.history_window(session, regimes.SESSIONS_NEEDED + _WEEK_SESSIONS - 1)
    bars, inputs = ctx.read(CORE_MARKET_DAILY_BAR, window, as_of=session)
    closes = bars.filter(pl.col("symbol") == ctx.settings.market.benchmark)
    benchmark = pl.DataFrame({"session": window}).join(
        closes.select("session", "close_usd"), on="session", how="left", maintain_order="left"
    )
    told = benchmark.drop_nulls("close_usd")["session"].to_list()
    as_of = told[-1] if told and told[-1] in window[-_WEEK_SESSIONS:] else session
    regime = regimes.classify(benchmark.filter(pl.col("session") <= as_of))
    if as_of != session:
        late = {"as_of": as_of.isoformat(), **regime["evidence"]}
        regime = {**regime, "session": session.isoformat(), "evidence": late}
    staged = ctx.stage(
        OUT_RISK_ANALYSIS_MARKET_REGIME, Partition.of_session(session), "regime", regime
    )
    ctx.record_calculation(
        "market_regime", inputs=inputs, outputs=[staged], window_sessions=len(window)
    )
    return [staged, *inputs]


def measure_risk(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Measure the reference book at the session and stage its rows."""
    settings = ctx.settings.risk
    window = ctx.history_window(session, settings.window_sessions + 1)
    bars, actions, bar_refs = ctx.known_bars(window, as_of=session)
    members, member_refs = ctx.members([session], as_of=session)
    rows = risk.book_risk(
        bars,
        actions,
        members.select("symbol", "sector"),
        session=session,
        sessions=window,
        benchmark=ctx.settings.market.benchmark,
        volatility_window=settings.volatility_window_sessions,
        book_value_usd=settings.book_value_usd,
    )
    staged = ctx.stage(
        OUT_RISK_ANALYSIS_PORTFOLIO_RISK, Partition.of_session(session), "risk", rows
    )
    inputs = bar_refs + member_refs
    ctx.record_calculation(
        "portfolio_risk", inputs=inputs, outputs=[staged], **settings.model_dump()
    )
    return [staged, *inputs]


def publish(
    ctx: RunContext,
    session: date,
    *,
    regime: Sequence[ArtifactRef],
    measured: Sequence[ArtifactRef],
) -> list[ArtifactRef]:
    """Publish regime and risk, each with what it was made from; load risk for analysts."""
    partition = Partition.of_session(session)
    (document, *regime_inputs), (rows, *risk_inputs) = regime, measured
    table = ctx.table(rows)
    refuse_bad(ctx, OUT_RISK_ANALYSIS_PORTFOLIO_RISK, partition, table)
    refs = [
        ctx.publish(contract, partition, content, sessions=[session], parents=parents)
        for contract, content, parents in (
            (OUT_RISK_ANALYSIS_MARKET_REGIME, ctx.document(document), regime_inputs),
            (OUT_RISK_ANALYSIS_PORTFOLIO_RISK, table, risk_inputs),
        )
    ]
    load_sessions(ctx, OUT_RISK_ANALYSIS_PORTFOLIO_RISK, [session], as_of=session)
    return refs
