"""Train models as of a session, and promote the better one from the first session it may see."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.clock import utc_now
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
)
from marketlake.domain import forecasting
from marketlake.pipelines import universe
from marketlake.pipelines.context import RunContext
from marketlake.types import ArtifactRef, Partition


def train(ctx: RunContext, as_of: date) -> list[ArtifactRef]:
    """Fit every model on what was known at ``as_of`` and publish them with their validation."""
    ctx.calendar.require_session(as_of)
    settings, market = ctx.settings.models, ctx.settings.market
    sessions = ctx.calendar.sessions(max(settings.train_from, market.first_session), as_of)
    bars, actions, bar_refs = ctx.known_bars(sessions, as_of=as_of)
    # A session that its gate refused has no bar, and so no features to wait for.
    with_bars = bars["session"].unique().sort().to_list()
    features, feature_refs = ctx.read(CORE_FEATURES_DAILY, with_bars, as_of=as_of)
    members, member_refs = ctx.members(sessions, as_of=as_of)
    labels = forecasting.labels(
        bars,
        actions,
        sessions=sessions,
        symbols=members["symbol"].unique().sort().to_list(),
        horizon=settings.horizon_sessions,
        members=members.select("session", "symbol"),
    )
    document = forecasting.train(
        features,
        labels,
        as_of=as_of,
        horizon=settings.horizon_sessions,
        folds=settings.folds,
        seed=settings.seed,
        caveats=universe.caveats(market),
    )
    ref = ctx.publish(
        CORE_MODELS_MODEL,
        Partition.of_session(as_of),
        document,
        sessions=[as_of],
        parents=[*bar_refs, *feature_refs, *member_refs],
    )
    ctx.ledger.record(
        "model",
        as_of=as_of.isoformat(),
        sha256=ref.sha256,
        seed=settings.seed,
        trials=document["trials"],
        models=sorted(document["models"]),
    )
    return [ref]


def promote(ctx: RunContext, as_of: date, *, trained: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish which of the trained models predicts, and from which session on."""
    (model,) = (ref for ref in trained if ref.contract == CORE_MODELS_MODEL.name)
    row = forecasting.promotion_row(
        ctx.document(model), model_sha256=model.sha256, calendar_next=ctx.calendar.next(as_of)
    )
    ref = ctx.publish(
        CORE_MODELS_PROMOTION,
        Partition.of_session(as_of),
        pl.DataFrame([row]),
        sessions=[as_of],
        parents=[model],
    )
    # The content knows data time only; that it was decided afterwards is for the record.
    ctx.ledger.record(
        "decision",
        name="promotion",
        retrospective=utc_now() > ctx.calendar.close_at(row["effective_from"]),
        **{name: str(value) for name, value in row.items()},
    )
    return [ref]
