"""Compute the feature catalog for a session from the bars and actions known by then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
)
from marketlake.contracts.features import MAX_LOOKBACK_SESSIONS
from marketlake.domain import features
from marketlake.errors import GateFailed
from marketlake.pipelines import universe
from marketlake.pipelines.build_warehouse import load_artifact
from marketlake.pipelines.context import RunContext
from marketlake.quality.gate import judge
from marketlake.types import ArtifactRef, Partition


def compute(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Compute one session's features and stage them."""
    frame, inputs = compute_span(ctx, first=session, last=session)
    staged = ctx.stage(CORE_FEATURES_DAILY, Partition.of_session(session), "features", frame)
    ctx.record_calculation(
        "features", inputs=inputs, outputs=[staged], max_lookback=MAX_LOOKBACK_SESSIONS
    )
    return [staged]


def compute_span(
    ctx: RunContext, *, first: date, last: date
) -> tuple[pl.DataFrame, list[ArtifactRef]]:
    """Return core_features__daily rows for ``first..last`` and what they were made from."""
    market = ctx.settings.market
    outputs = ctx.calendar.sessions(first, last)
    window = ctx.history_window(last, len(outputs) + MAX_LOOKBACK_SESSIONS)
    bars, actions, inputs = ctx.known_bars(
        CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION, window, as_of=last
    )
    membership = universe.members_over(market, outputs).select("session", "symbol")
    frame = features.compute_features(
        bars,
        actions,
        sessions=window,
        symbols=membership["symbol"].unique().sort().to_list(),
        benchmark=market.benchmark,
        first_output=first,
        members=membership,
    )
    known_at = pl.DataFrame(
        {"session": outputs, "known_at_utc": [ctx.known_at(day) for day in outputs]},
        schema={"session": pl.Date, "known_at_utc": pl.Datetime("us", "UTC")},
    )
    return (
        frame.join(known_at, on="session", how="left"),
        inputs,
    )


def inputs_of(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Return the partitions that a session's features are made from."""
    window = ctx.history_window(session, 1 + MAX_LOOKBACK_SESSIONS)
    return [
        ref
        for contract in (CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION)
        for ref in ctx.lake.refs_for(contract, window)
    ]


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Gate the staged features, publish them and load them for analysts."""
    frame = ctx.staged(CORE_FEATURES_DAILY, staged)
    refuse_bad_features(ctx, Partition.of_session(session), frame)
    ref = ctx.publish(
        CORE_FEATURES_DAILY,
        Partition.of_session(session),
        frame,
        sessions=[session],
        parents=inputs_of(ctx, session),
    )
    load_artifact(ctx, CORE_FEATURES_DAILY, ref)
    return [ref]


def refuse_bad_features(ctx: RunContext, partition: Partition, frame: pl.DataFrame) -> None:
    """Raise GateFailed when any feature breaks its contract: our own numbers get no quarantine."""
    judgement = judge(
        CORE_FEATURES_DAILY,
        frame.to_pandas(),
        partition=partition,
        max_quarantined_fraction=1.0,
    )
    bad = judgement.report["rows_quarantined"]
    ctx.ledger.record(
        "gate",
        contract=CORE_FEATURES_DAILY.name,
        partition=partition.key,
        verdict="failed" if bad else judgement.report["verdict"],
        rows_in=judgement.report["rows_in"],
        rows_quarantined=bad,
    )
    if bad or judgement.report["verdict"] != "passed":
        reasons = sorted(set(judgement.quarantined["reason"])) if bad else ["table-level check"]
        raise GateFailed(
            expected="every feature inside its contract's range",
            was=f"{bad} bad rows: {'; '.join(reasons)}",
            where=f"{CORE_FEATURES_DAILY.name}/{partition.key}",
            todo="this is a fault of the feature engine or its inputs; nothing was published",
        )
