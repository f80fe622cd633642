"""Let the champion of the session predict, and say how good it has been."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
    CORE_SIGNALS_SIGNAL,
    OUT_ML_MODELS_DAILY_PREDICTIONS,
    OUT_ML_MODELS_MODEL_ACCURACY,
)
from marketlake.domain import forecasting
from marketlake.errors import ConfigError, ContractViolation
from marketlake.pipelines import universe
from marketlake.pipelines.build_warehouse import load_artifact
from marketlake.pipelines.context import RunContext, as_polars
from marketlake.types import ArtifactRef, Partition


def champion_for(ctx: RunContext, session: date) -> tuple[dict[str, Any], ArtifactRef]:
    """Return the promotion that rules at a session: the last with ``effective_from <= session``.

    Raises
    ------
    ConfigError
        When no model had been promoted by then; the message names the command that trains one.
    """
    promotions = [
        (row, manifest.ref(ctx.lake.bucket))
        for manifest in ctx.lake.manifests(CORE_MODELS_PROMOTION)
        for row in ctx.table(manifest.ref(ctx.lake.bucket)).to_dicts()
        if row["effective_from"] <= session
    ]
    if not promotions:
        raise ConfigError(
            expected=f"a model promoted with effective_from on or before {session}",
            was="none",
            where=f"{CORE_MODELS_PROMOTION.name} in the lake",
            todo=f"marketlake train --as-of {ctx.calendar.previous(session, 10)}",
        )
    return max(promotions, key=lambda item: (item[0]["effective_from"], item[0]["as_of"]))


def model_document(
    ctx: RunContext, promotion: dict[str, Any]
) -> tuple[dict[str, Any], ArtifactRef]:
    """Return the promoted model's document, refusing one whose hash is not the promoted one."""
    ref = ctx.lake.ref(CORE_MODELS_MODEL, Partition.of_session(promotion["as_of"]))
    if ref.sha256 != promotion["model_sha256"]:
        raise ContractViolation(
            expected=f"the promoted model {promotion['model_sha256']}",
            was=ref.sha256,
            where=ref.uri,
            todo=f"promote it again: marketlake train --as-of {promotion['as_of']}",
        )
    return ctx.document(ref), ref


def predict(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Predict every member of the session and stage signals, predictions and accuracy."""
    partition = Partition.of_session(session)
    promotion, promotion_ref = champion_for(ctx, session)
    document, model_ref = model_document(ctx, promotion)
    features_ref = ctx.lake.ref(CORE_FEATURES_DAILY, partition)
    features = as_polars(ctx.lake.read(CORE_FEATURES_DAILY, [session], as_of=session))
    signals, not_predicted = forecasting.predict(
        document,
        champion=promotion["champion"],
        model_sha256=promotion["model_sha256"],
        features=features,
    )
    signals = signals.join(features.select("symbol", "known_at_utc"), on="symbol", how="left")
    absent = sorted(
        set(universe.members(ctx.settings.market, session)["symbol"]) - set(features["symbol"])
    )
    predictions = {
        "session": session.isoformat(),
        "model": {
            "name": promotion["champion"],
            "as_of": promotion["as_of"].isoformat(),
            "effective_from": promotion["effective_from"].isoformat(),
            "sha256": promotion["model_sha256"],
            "passed_gate": promotion["passed_gate"],
        },
        "validation": document["validation"],
        "signals": [
            {
                name: value
                for name, value in row.items()
                if name not in {"session", "known_at_utc", "model_name", "model_sha256"}
            }
            for row in signals.sort("rank").iter_rows(named=True)
        ],
        "not_predicted": [
            *not_predicted,
            *({"symbol": symbol, "reason": "no bar at the session"} for symbol in absent),
        ],
        "caveats": document["caveats"],
    }
    accuracy = forecasting.accuracy_rows(document, session=session, champion=promotion["champion"])
    staged = [
        ctx.stage(CORE_SIGNALS_SIGNAL, partition, "signals", signals),
        ctx.stage(OUT_ML_MODELS_DAILY_PREDICTIONS, partition, "predictions", predictions),
        ctx.stage(OUT_ML_MODELS_MODEL_ACCURACY, partition, "accuracy", accuracy),
    ]
    inputs = [features_ref, model_ref, promotion_ref]
    ctx.record_calculation("predictions", inputs=inputs, outputs=staged)
    return [*staged, *inputs]


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish the session's signals, predictions and accuracy; record each decision."""
    partition = Partition.of_session(session)
    made = {ref.contract: ref for ref in staged}
    inputs = [
        made[contract.name]
        for contract in (CORE_FEATURES_DAILY, CORE_MODELS_MODEL, CORE_MODELS_PROMOTION)
    ]
    frame = ctx.staged(CORE_SIGNALS_SIGNAL, staged)
    signals = ctx.publish(CORE_SIGNALS_SIGNAL, partition, frame, sessions=[session], parents=inputs)
    others = [
        ctx.publish(
            contract,
            partition,
            ctx.lake.read_ref(made[contract.name]),
            sessions=[session],
            parents=parents,
        )
        for contract, parents in (
            (OUT_ML_MODELS_DAILY_PREDICTIONS, [signals, *inputs]),
            (OUT_ML_MODELS_MODEL_ACCURACY, inputs[1:]),
        )
    ]
    _record_decisions(ctx, session, frame)
    load_artifact(ctx, CORE_SIGNALS_SIGNAL, signals)
    return [signals, *others]


def _record_decisions(ctx: RunContext, session: date, signals: pl.DataFrame) -> None:
    for row in signals.filter(pl.col("side") != "flat").sort("rank").iter_rows(named=True):
        ctx.ledger.record(
            "decision",
            name="signal",
            session=session.isoformat(),
            symbol=row["symbol"],
            side=row["side"],
            score_bps=row["score_bps"],
            confidence=row["confidence"],
            model_name=row["model_name"],
            model_sha256=row["model_sha256"],
        )
