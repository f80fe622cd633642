"""The whole daily line as plain calls, in the order the DAGs run it.

The orchestrator does not use this module: it is the same line without an orchestrator, for tests
and for measuring what orchestration costs.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

from marketlake.pipelines import (
    assess_risk,
    build_features,
    build_warehouse,
    export_audit,
    ingest_market_data,
    load_history,
    predict_signals,
    report_daily,
    train_models,
    validate_market_data,
)
from marketlake.pipelines.context import open_context, recorded
from marketlake.pipelines.snapshots import snapshot_of
from marketlake.settings import Settings
from marketlake.types import ArtifactRef, RunIdentity


class _Line:
    """Runs steps one after another, each as a task of its own in the ledger."""

    def __init__(self, settings: Settings, dag_id: str, session: date, run_id: str) -> None:
        self._settings = settings
        self._dag_id = dag_id
        self._session = session
        self._run_id = run_id

    def step(self, function: Callable[..., Any], **inputs: Any) -> Any:
        run = RunIdentity(self._dag_id, self._run_id, function.__name__)
        if "year" in inputs or "source" in inputs:
            task_id = f"{function.__name__}_{inputs.get('source', '')}".rstrip("_")
            run = RunIdentity(self._dag_id, self._run_id, task_id, map_index=inputs.get("year", -1))
        step = f"{function.__module__}.{function.__qualname__}"
        with (
            open_context(self._settings, run) as ctx,
            recorded(ctx.ledger, ctx.touched, step=step),
            snapshot_of(ctx, self._session, function, inputs),
        ):
            return function(ctx, self._session, **inputs)


def ingest_session(settings: Settings, session: date, *, run_id: str) -> list[ArtifactRef]:
    """Ask every source for a session and publish what they said."""
    ingest = _Line(settings, "ingest_market_data", session, run_id)
    symbols = ingest.step(ingest_market_data.plan)
    staged = [
        ingest.step(ingest_market_data.fetch, source=name, symbols=symbols)
        for name in settings.market.sources
    ]
    published: list[ArtifactRef] = ingest.step(ingest_market_data.publish, staged=staged)
    return published


def validate_session(settings: Settings, session: date, *, run_id: str) -> list[ArtifactRef]:
    """Judge what the sources said of a session and publish what passes."""
    validate = _Line(settings, "validate_market_data", session, run_id)
    accepted = validate.step(validate_market_data.gate)
    published: list[ArtifactRef] = validate.step(
        validate_market_data.compare_sources, staged=accepted
    )
    published += validate.step(validate_market_data.report_integrity, staged=accepted)
    published += validate.step(validate_market_data.publish, staged=accepted)
    return published


def run_session(settings: Settings, session: date, *, run_id: str) -> list[ArtifactRef]:
    """Run every daily step for one session and return what was published."""

    def line(dag_id: str) -> _Line:
        return _Line(settings, dag_id, session, run_id)

    published = ingest_session(settings, session, run_id=run_id)
    published += validate_session(settings, session, run_id=run_id)
    warehouse = line("build_warehouse")
    loaded = warehouse.step(build_warehouse.load)
    published += warehouse.step(build_warehouse.publish, loaded=loaded)
    features = line("build_features")
    published += features.step(build_features.publish, staged=features.step(build_features.compute))
    signals = line("predict_signals")
    published += signals.step(predict_signals.publish, staged=signals.step(predict_signals.predict))
    risk = line("assess_risk")
    published += risk.step(
        assess_risk.publish,
        regime=risk.step(assess_risk.classify_regime),
        measured=risk.step(assess_risk.measure_risk),
    )
    published += line("report_daily").step(report_daily.publish)
    line("export_audit").step(export_audit.export)
    return published


def prepare(settings: Settings, through: date, *, run_id: str) -> list[ArtifactRef]:
    """Load history through a session and compute its features and warehouse."""
    history = _Line(settings, "load_history", through, run_id)
    published: list[ArtifactRef] = []
    years = history.step(load_history.plan_years)
    staged = [history.step(load_history.fetch, source=name) for name in settings.market.sources]
    published += history.step(load_history.publish_years, staged=staged)
    for year in years:
        published += history.step(load_history.validate_year, year=year)
    published += history.step(load_history.compute_features)
    published += history.step(load_history.load_warehouse)
    return published


def train(settings: Settings, as_of: date, *, run_id: str) -> list[ArtifactRef]:
    """Train as of a session and promote."""
    training = _Line(settings, "train_models", as_of, run_id)
    trained: list[ArtifactRef] = training.step(train_models.train)
    promoted: list[ArtifactRef] = training.step(train_models.promote, trained=trained)
    return trained + promoted
