"""Compute the feature catalog for a session from the bars and actions known by then."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
)
from marketlake.contracts.features import MAX_LOOKBACK_SESSIONS
from marketlake.domain import features
from marketlake.pipelines.build_warehouse import load_sessions
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.gating import refuse_bad
from marketlake.types import ArtifactRef, Partition


def compute(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Compute one session's features and stage them; what they were made from comes along."""
    frame, inputs = compute_span(ctx, first=session, last=session)
    staged = ctx.stage(CORE_FEATURES_DAILY, Partition.of_session(session), "features", frame)
    ctx.record_calculation(
        "features", inputs=inputs, outputs=[staged], max_lookback=MAX_LOOKBACK_SESSIONS
    )
    return [staged, *inputs]


def compute_span(
    ctx: RunContext, *, first: date, last: date
) -> tuple[pl.DataFrame, list[ArtifactRef]]:
    """Return core_features__daily rows for ``first..last`` and what they were made from."""
    outputs = ctx.calendar.sessions(first, last)
    window = ctx.history_window(last, len(outputs) + MAX_LOOKBACK_SESSIONS)
    bars, actions, inputs = ctx.known_bars(window, as_of=last)
    members, member_refs = ctx.members(outputs, as_of=last)
    frame = features.compute_features(
        bars,
        actions,
        sessions=window,
        symbols=members["symbol"].unique().sort().to_list(),
        benchmark=ctx.settings.market.benchmark,
        first_output=first,
        members=members.select("session", "symbol"),
    )
    known_at = pl.DataFrame(
        {"session": outputs, "known_at_utc": [ctx.known_at(day) for day in outputs]},
        schema={"session": pl.Date, "known_at_utc": pl.Datetime("us", "UTC")},
    )
    return frame.join(known_at, on="session", how="left"), inputs + member_refs


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Gate the staged features, publish them and load them for analysts."""
    partition = Partition.of_session(session)
    frame = ctx.staged(CORE_FEATURES_DAILY, staged)
    refuse_bad(ctx, CORE_FEATURES_DAILY, partition, frame)
    ref = ctx.publish(
        CORE_FEATURES_DAILY,
        partition,
        frame,
        sessions=[session],
        parents=[ref for ref in staged if ref.contract != CORE_FEATURES_DAILY.name],
    )
    load_sessions(ctx, CORE_FEATURES_DAILY, [session], as_of=session)
    return [ref]
