"""Let the champion of the session predict, and say how good it has been."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MODELS_FILE,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
    CORE_SIGNALS_SIGNAL,
    OUT_ML_MODELS_DAILY_PREDICTIONS,
    OUT_ML_MODELS_MODEL_ACCURACY,
)
from marketlake.domain import forecasting
from marketlake.errors import ConfigError
from marketlake.pipelines.build_features import compute_span
from marketlake.pipelines.build_warehouse import load_sessions
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.gating import refuse_bad
from marketlake.types import ArtifactRef, Partition

# An entry holds a megabyte; a signal is about 250 bytes of it.
_SIGNALS_AN_ENTRY = 2000
# Lags pass over sessions that their gate refused.
_SPARE_SESSIONS = 5


def champion_for(
    ctx: RunContext, session: date
) -> tuple[dict[str, Any], ArtifactRef, ArtifactRef, ArtifactRef]:
    """Return the promotion that rules at a session, its reference, its model's and its files'.

    They are the very versions that were promoted, whatever has been trained since.

    Raises
    ------
    ConfigError
        When no model had been promoted by then; the message names the command that trains one.
    """
    rows = [
        (row, manifest)
        for manifest in ctx.lake.manifests(CORE_MODELS_PROMOTION)
        # One of before the ensemble promoted a model that nothing can read any more.
        if manifest.was_made_from(CORE_MODELS_FILE)
        for row in ctx.table(manifest.ref(ctx.lake.bucket)).to_dicts()
    ]
    ruling = forecasting.champion_row([row for row, _ in rows], session=session)
    if ruling is None:
        raise ConfigError(
            expected=f"a model promoted with effective_from on or before {session}",
            was="none",
            where=f"{CORE_MODELS_PROMOTION.name} in the lake",
            todo=f"marketlake train --as-of {ctx.calendar.previous(session, 10)}",
        )
    (manifest,) = (manifest for row, manifest in rows if row == ruling)
    parents = {ref.contract: ref for ref in manifest.parents}
    model, files = parents[CORE_MODELS_MODEL.name], parents[CORE_MODELS_FILE.name]
    return ruling, manifest.ref(ctx.lake.bucket), model, files


def predict(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Predict every member of the session and stage signals, predictions and accuracy."""
    partition = Partition.of_session(session)
    promotion, promotion_ref, model_ref, files_ref = champion_for(ctx, session)
    document = ctx.document(model_ref)
    kept = ctx.table(files_ref)
    predictor = forecasting.Predictor.of(dict(zip(kept["name"], kept["content"], strict=True)))
    features, feature_refs = _features(ctx, session, lags=predictor.lags)
    factors, factor_refs = ctx.read(CORE_FACTORS_DAILY, [session], as_of=session)
    members, member_refs = ctx.members([session], as_of=session)
    signals, not_predicted = forecasting.predict(
        document,
        predictor,
        session=session,
        model_sha256=promotion["model_sha256"],
        features=features,
        factors=factors,
    )
    today = features.filter(pl.col("session") == session)
    signals = signals.join(
        today.select("symbol", "known_at_utc"), on="symbol", how="left", maintain_order="left"
    )
    absent = sorted(set(members["symbol"]) - set(today["symbol"]))
    predictions = {
        "session": session.isoformat(),
        "model": {
            "name": promotion["champion"],
            "as_of": promotion["as_of"].isoformat(),
            "effective_from": promotion["effective_from"].isoformat(),
            "sha256": promotion["model_sha256"],
            "passed_gate": promotion["passed_gate"],
            "reason": promotion["reason"],
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
    inputs = [
        *feature_refs,
        *factor_refs,
        *member_refs,
        model_ref,
        files_ref,
        promotion_ref,
    ]
    ctx.record_calculation(
        "predictions",
        inputs=inputs,
        outputs=staged,
        lags=predictor.lags,
        model_as_of=promotion["as_of"].isoformat(),
        model_sha256=promotion["model_sha256"],
    )
    return [*staged, *inputs]


def _features(
    ctx: RunContext, session: date, *, lags: int
) -> tuple[pl.DataFrame, list[ArtifactRef]]:
    """Return features of the session and of the sessions before it, and what they came from.

    Those before are computed, to the same bits as they were published: a backfill of many sessions
    at once need not wait for its neighbours.
    """
    published, refs = ctx.read(CORE_FEATURES_DAILY, [session], as_of=session)
    window = ctx.history_window(session, lags + _SPARE_SESSIONS)
    computed, inputs = compute_span(ctx, first=window[0], last=session)
    before = computed.filter(pl.col("session") < session).select(published.columns)
    return pl.concat([before, published]), [*refs, *inputs]


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish the session's signals, predictions and accuracy; record what was decided."""
    partition = Partition.of_session(session)
    signals, predictions, accuracy, *inputs = staged
    frame = ctx.table(signals)
    refuse_bad(ctx, CORE_SIGNALS_SIGNAL, partition, frame)
    models = {CORE_MODELS_MODEL.name, CORE_MODELS_FILE.name, CORE_MODELS_PROMOTION.name}
    published = ctx.publish(
        CORE_SIGNALS_SIGNAL, partition, frame, sessions=[session], parents=inputs
    )
    documents = [
        ctx.publish(
            OUT_ML_MODELS_DAILY_PREDICTIONS,
            partition,
            ctx.document(predictions),
            sessions=[session],
            parents=[published, *inputs],
        ),
        ctx.publish(
            OUT_ML_MODELS_MODEL_ACCURACY,
            partition,
            ctx.table(accuracy),
            sessions=[session],
            parents=[ref for ref in inputs if ref.contract in models],
        ),
    ]
    _record_decision(ctx, session, published, inputs, ctx.document(predictions))
    load_sessions(ctx, CORE_SIGNALS_SIGNAL, [session], as_of=session)
    return [published, *documents]


def _record_decision(
    ctx: RunContext,
    session: date,
    published: ArtifactRef,
    inputs: Sequence[ArtifactRef],
    predictions: dict[str, Any],
) -> None:
    """Record what was decided of every symbol, together; to stay flat is a decision too."""
    decided = [
        {
            **{name: row[name] for name in ("rank", "symbol", "side", "score_bps", "confidence")},
            "limits": forecasting.limits_of(row),
        }
        for row in predictions["signals"]
    ]
    for start in range(0, len(decided), _SIGNALS_AN_ENTRY):
        ctx.ledger.record(
            "decision",
            name="signal",
            session=session.isoformat(),
            artifact=published.versioned_name,
            data=[ref.versioned_name for ref in inputs],
            model_name=predictions["model"]["name"],
            model_sha256=predictions["model"]["sha256"],
            signals=decided[start : start + _SIGNALS_AN_ENTRY],
            n_signals=len(decided),
        )
