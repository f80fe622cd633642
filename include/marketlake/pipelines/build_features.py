"""Compute features and factors of a session from the bars and actions known by then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import polars as pl

from marketlake.contracts.catalog import CORE_FACTORS_DAILY, CORE_FEATURES_DAILY
from marketlake.contracts.features import MAX_LOOKBACK_SESSIONS
from marketlake.domain import features
from marketlake.domain.features.engine import MAX_WARM_UP_SESSIONS
from marketlake.pipelines.build_warehouse import load_sessions
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.gating import refuse_bad
from marketlake.types import ArtifactRef, Partition


def compute(ctx: RunContext, session: date) -> dict[str, list[ArtifactRef]]:
    """Compute one session's features and factors; stage each with what it was made from."""
    partition = Partition.of_session(session)
    features, feature_inputs = compute_span(ctx, first=session, last=session)
    factors, factor_inputs = compute_factors(ctx, session)
    staged = {
        "features": [ctx.stage(CORE_FEATURES_DAILY, partition, "features", features)],
        "factors": [ctx.stage(CORE_FACTORS_DAILY, partition, "factors", factors)],
    }
    inputs = {"features": feature_inputs, "factors": factor_inputs}
    lookbacks = {"features": MAX_LOOKBACK_SESSIONS, "factors": MAX_WARM_UP_SESSIONS}
    for name, own in staged.items():
        ctx.record_calculation(name, inputs=inputs[name], outputs=own, max_lookback=lookbacks[name])
    return {name: [*own, *inputs[name]] for name, own in staged.items()}


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


def compute_factors(ctx: RunContext, session: date) -> tuple[pl.DataFrame, list[ArtifactRef]]:
    """Return core_factors__daily rows of a session and what they were made from."""
    every = ctx.calendar.sessions(ctx.settings.market.first_session, session)
    window = every[features.sessions_needed(every, session) :]
    bars, actions, inputs = ctx.known_bars(window, as_of=session)
    members, member_refs = ctx.members([session], as_of=session)
    frame = features.compute_factors(
        bars,
        actions,
        sessions=window,
        symbols=members["symbol"].unique().sort().to_list(),
        first_output=session,
        members=members.select("session", "symbol"),
    )
    known_at = pl.lit(ctx.known_at(session), dtype=pl.Datetime("us", "UTC"))
    return frame.with_columns(known_at.alias("known_at_utc")), inputs + member_refs


def publish(
    ctx: RunContext, session: date, *, staged: Mapping[str, Sequence[ArtifactRef]]
) -> list[ArtifactRef]:
    """Gate what was staged and publish it; load the features for analysts."""
    partition = Partition.of_session(session)
    published = []
    for contract, own in (
        (CORE_FEATURES_DAILY, staged["features"]),
        (CORE_FACTORS_DAILY, staged["factors"]),
    ):
        frame = ctx.staged(contract, own)
        refuse_bad(ctx, contract, partition, frame)
        parents = [ref for ref in own if ref.contract != contract.name]
        published.append(
            ctx.publish(contract, partition, frame, sessions=[session], parents=parents)
        )
    load_sessions(ctx, CORE_FEATURES_DAILY, [session], as_of=session)
    return published
