"""Train the ensemble as of a session, and put it to the gate."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.clock import utc_now
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MODELS_FILE,
    CORE_MODELS_MODEL,
    CORE_MODELS_PROMOTION,
    OUT_ML_MODELS_LSTM_MODEL,
    OUT_REPORTS_TRAINING,
)
from marketlake.domain import features, forecasting, regimes
from marketlake.domain.reporting import training_page
from marketlake.errors import ConfigError
from marketlake.pipelines import universe
from marketlake.pipelines.context import RunContext
from marketlake.types import ArtifactRef, Partition

LSTM_FILE = "lstm_0.keras"

logger = logging.getLogger(__name__)


def train(ctx: RunContext, as_of: date, *, profile: str | None = None) -> list[ArtifactRef]:
    """Fit the ensemble on what was known at ``as_of``; publish it with its validation and files.

    ``profile`` is that of the settings unless it is given.
    """
    ctx.calendar.require_session(as_of)
    settings, market = ctx.settings.models, ctx.settings.market
    every = ctx.calendar.sessions(market.first_session, as_of)
    chosen = replace(
        forecasting.PROFILES[profile or settings.profile],
        join=settings.join,
        calibration=settings.calibration,
    )
    used = [session for session in every if session >= settings.train_from]
    if not used:
        raise ConfigError(
            expected=f"a session to train as of after models.train_from, {settings.train_from}",
            was=str(as_of),
            where="train_models",
            todo="train as of a later session, or set MARKETLAKE_MODELS__TRAIN_FROM",
        )
    used = used[-(chosen.history_sessions or len(used)) :]
    # Factors of the first session look back further than the labels.
    sessions = every[features.sessions_needed(every, used[0]) :]
    bars, actions, bar_refs = ctx.known_bars(sessions, as_of=as_of)
    # A session that its gate refused has no bar, and so no features to wait for.
    with_bars = bars.filter(pl.col("session").is_in(used))["session"].unique().sort().to_list()
    published, feature_refs = ctx.read(CORE_FEATURES_DAILY, with_bars, as_of=as_of)
    members, member_refs = ctx.members(used, as_of=as_of)
    earlier = _earlier(ctx, as_of)
    of_market = _Market(ctx, bars, actions, members.select("session", "symbol"), sessions, used[0])
    training = forecasting.train(
        of_market.inputs(published),
        next_returns=forecasting.next_returns(
            bars, actions, sessions=sessions, symbols=of_market.symbols
        ),
        as_of=as_of,
        sessions=sessions,
        horizon=settings.horizon_sessions,
        profile=chosen,
        seed=settings.seed,
        cost_bps=settings.cost_bps,
        regimes=regimes.by_session(_benchmark(bars, sessions, symbol=market.benchmark)),
        walked=lambda rng: of_market.walked(rng).inputs(),
        earlier=[ctx.document(ref) for ref in earlier],
        caveats=universe.caveats(market),
        progress=lambda text: logger.info("training as of %s: %s", as_of, text),
    )
    # What this replaces is no parent: it would be older than itself.
    before = [ref for ref in earlier if ref.partition != Partition.of_session(as_of).key]
    parents = [*bar_refs, *feature_refs, *member_refs, *before]
    refs = _publish(ctx, as_of, training.document, training.files, parents=parents)
    ctx.record_calculation(
        "training",
        inputs=[*bar_refs, *feature_refs, *member_refs, *earlier],
        outputs=refs,
        seed=settings.seed,
        **settings.model_dump(mode="json", exclude={"seed", "profile"}),
        profile=chosen.name,
        seeds=training.document["models"]["ensemble"]["seeds"],
    )
    return refs


def promote(ctx: RunContext, as_of: date, *, trained: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish what the gate says of the training, from when on it may predict, and the report."""
    by_contract = {ref.contract: ref for ref in trained}
    model, files = by_contract[CORE_MODELS_MODEL.name], by_contract[CORE_MODELS_FILE.name]
    document, partition = ctx.document(model), Partition.of_session(as_of)
    row = forecasting.promotion_row(
        document, model_sha256=model.sha256, calendar_next=ctx.calendar.next(as_of)
    )
    promotion = ctx.publish(
        CORE_MODELS_PROMOTION,
        partition,
        pl.DataFrame([row]),
        sessions=[as_of],
        parents=[model, files],
    )
    report = ctx.publish(
        OUT_REPORTS_TRAINING,
        partition,
        {
            "as_of": as_of.isoformat(),
            "model_sha256": model.sha256,
            "passed_gate": row["passed_gate"],
        },
        sessions=[as_of],
        parents=[model],
        export=training_page.render(document),
    )
    # The content knows data time only; that it was decided afterwards is for the record.
    ctx.ledger.record(
        "decision",
        name="promotion",
        retrospective=utc_now() > ctx.calendar.close_at(row["effective_from"]),
        **{name: str(value) for name, value in row.items()},
    )
    return [promotion, report]


def _earlier(ctx: RunContext, as_of: date) -> list[ArtifactRef]:
    """Return the documents of the trainings as of sessions up to this one.

    Those as of later sessions are left out: a training must not depend on what came after it.
    """
    return [
        manifest.ref(ctx.lake.bucket)
        for manifest in ctx.lake.manifests(CORE_MODELS_MODEL)
        if max(manifest.sessions) <= as_of.isoformat()
    ]


class _Market:
    """Bars that a training knows, and what it computes from them."""

    def __init__(
        self,
        ctx: RunContext,
        bars: pl.DataFrame,
        actions: pl.DataFrame,
        members: pl.DataFrame,
        sessions: Sequence[date],
        first: date,
    ) -> None:
        self._ctx, self._bars, self._actions = ctx, bars, actions
        self._members, self._sessions, self._first = members, sessions, first
        self.symbols: list[str] = members["symbol"].unique().sort().to_list()

    def inputs(self, published: pl.DataFrame | None = None) -> forecasting.Inputs:
        """Return features, factors and labels; features are computed where none are given."""
        bars, actions, sessions, symbols = self._bars, self._actions, self._sessions, self.symbols
        settings = self._ctx.settings
        return forecasting.Inputs(
            features.compute_features(
                bars,
                actions,
                sessions=sessions,
                symbols=symbols,
                benchmark=settings.market.benchmark,
                first_output=self._first,
                members=self._members,
            )
            if published is None
            else published,
            features.compute_factors(
                bars,
                actions,
                sessions=sessions,
                symbols=symbols,
                first_output=self._first,
                members=self._members,
            ),
            forecasting.labels(
                bars,
                actions,
                sessions=sessions,
                symbols=symbols,
                horizon=settings.models.horizon_sessions,
                members=self._members,
            ),
        )

    def walked(self, rng: np.random.Generator) -> _Market:
        """Return the market with prices that walk at random."""
        bars = forecasting.walked_bars(self._bars, self._actions, sessions=self._sessions, rng=rng)
        none = self._actions.head(0)
        return _Market(self._ctx, bars, none, self._members, self._sessions, self._first)


def _benchmark(bars: pl.DataFrame, sessions: Sequence[date], *, symbol: str) -> pl.DataFrame:
    """Return the benchmark's close at every session, null where it has none."""
    closes = bars.filter(pl.col("symbol") == symbol).select("session", "close_usd")
    every = pl.DataFrame({"session": sessions}, schema={"session": pl.Date})
    return every.join(closes, on="session", how="left", maintain_order="left")


def _publish(
    ctx: RunContext,
    as_of: date,
    document: Mapping[str, Any],
    files: Mapping[str, bytes],
    *,
    parents: Sequence[ArtifactRef],
) -> list[ArtifactRef]:
    partition = Partition.of_session(as_of)
    contents = pl.DataFrame(
        {
            "as_of": as_of,
            "name": name,
            "sha256": hashlib.sha256(files[name]).hexdigest(),
            "content": files[name],
        }
        for name in sorted(files)
    )
    kept = ctx.publish(CORE_MODELS_FILE, partition, contents, sessions=[as_of], parents=parents)
    model = ctx.publish(
        CORE_MODELS_MODEL, partition, document, sessions=[as_of], parents=[kept, *parents]
    )
    lstm = ctx.publish(
        OUT_ML_MODELS_LSTM_MODEL,
        partition,
        _lstm(document, files[LSTM_FILE]),
        sessions=[as_of],
        parents=[kept, model],
        export=files[LSTM_FILE],
    )
    for number, trial in enumerate(document["report"]["tuning"]):
        ctx.ledger.record("trial", as_of=as_of.isoformat(), number=number, **trial)
    ctx.ledger.record(
        "model",
        as_of=as_of.isoformat(),
        sha256=model.sha256,
        files={one["name"]: one["sha256"] for one in document["files"]},
        profile=document["profile"],
        seeds=document["models"]["ensemble"]["seeds"],
        trials=document["trials"],
        models=sorted(document["models"]),
    )
    return [kept, model, lstm]


def _lstm(document: Mapping[str, Any], archive: bytes) -> dict[str, Any]:
    profile = forecasting.PROFILES[document["profile"]]
    return {
        "as_of": document["as_of"],
        "file": LSTM_FILE,
        "sha256": hashlib.sha256(archive).hexdigest(),
        "channels": list(forecasting.CHANNELS),
        "lags": profile.lags,
        "model": document["models"]["lstm"],
        "out_of_fold": document["validation"]["metrics"]["lstm"],
        "base_rate": document["validation"]["base_rate"],
    }
