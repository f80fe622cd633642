"""Fit every model as of a session and say how it did out of fold.

Features and labels come in as frames; nothing later than ``as_of`` may be among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.contracts.features import FEATURES
from marketlake.domain.forecasting import metrics
from marketlake.domain.forecasting.models import MODELS, TRIALS, Model
from marketlake.domain.forecasting.splits import Fold, walk_forward
from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation, LookaheadError

NAMES = [item.name for item in FEATURES]
MAX_MISSING = 0.2
"""A row with a larger share of missing features neither trains nor is predicted."""


def train(
    features: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    as_of: date,
    horizon: int,
    folds: int,
    seed: int,
    caveats: Sequence[str] = (),
) -> dict[str, Any]:
    """Validate by purged walk-forward, then fit each model on everything known at ``as_of``.

    Parameters
    ----------
    features
        Rows of ``core_features__daily``; null or NaN means missing.
    labels
        What :func:`marketlake.domain.forecasting.labels` returned.
    as_of
        The session the training knows.
    horizon
        Sessions a label spans; also the embargo.
    folds, seed
        Test runs of the walk-forward; seed of LightGBM's sampling.
    caveats
        What the document must also say of its data, after what the training itself knows.

    Returns
    -------
    dict
        The document of ``core_models__model``: JSON values only, no NaN. Scores, labels and
        calibration edges are fractions.

    Raises
    ------
    LookaheadError
        When a feature's session or a label's end is after ``as_of``.
    ContractViolation
        When there are too few sessions or symbols, or a feature is infinite.
    """
    rows = _rows(features, labels, as_of=as_of)
    sessions: list[date] = rows["session"].unique().sort().to_list()
    steps = walk_forward(sessions, folds=folds, embargo=horizon)
    scored = walk_forward_scores(rows, steps=steps, seed=seed)
    simulated = bool(rows["simulated"].any())
    return {
        "as_of": as_of.isoformat(),
        "horizon_sessions": horizon,
        "fit_window": {
            "first_session": sessions[0].isoformat(),
            "last_session": sessions[-1].isoformat(),
            "last_label_end": rows["label_end"].max().isoformat(),  # type: ignore[union-attr]
            "rows": rows.height,
            "simulated": simulated,
        },
        "features": NAMES,
        "validation": _validation(scored, rows, steps=steps, horizon=horizon),
        "models": {
            item.name: {
                "kind": item.kind,
                "parameters": dict(item.parameters),
                "seed": seed,
                "state": item.fit(matrix(rows), _targets(rows), seed=seed, names=NAMES),
                "calibration": metrics.calibrate(_of_model(scored, item), horizon=horizon),
            }
            for item in MODELS
        },
        "trials": TRIALS,
        "caveats": [*_caveats(simulated=simulated), *caveats],
    }


def walk_forward_scores(rows: pl.DataFrame, *, steps: Sequence[Fold], seed: int) -> pl.DataFrame:
    """Score every test row of every fold by models that knew only what its fold knew.

    Parameters
    ----------
    rows
        Features with ``session``, ``symbol``, ``label_return`` and ``label_end``.

    Returns
    -------
    polars.DataFrame
        ``model``, ``fold``, ``session``, ``symbol``, ``score`` (fraction, centred by
        :func:`centre`), ``label_return``; sorted by model, session and symbol.
    """
    parts = []
    for step in steps:
        known = rows.filter(pl.col("label_end") <= step.known_by)
        tested = rows.filter(pl.col("session").is_between(step.test_first, step.test_last))
        X, y = matrix(known), _targets(known)
        for item in MODELS:
            state = item.fit(X, y, seed=seed, names=NAMES)
            parts.append(
                tested.select(
                    pl.lit(item.name).alias("model"),
                    pl.lit(step.number).alias("fold"),
                    "session",
                    "symbol",
                    pl.Series("score", item.score(state, matrix(tested))),
                    "label_return",
                ).with_columns(centre())
            )
    return pl.concat(parts).sort("model", "session", "symbol")


def centre() -> pl.Expr:
    """Take the session's mean off each score, as it is taken off each label."""
    return pl.col("score") - pl.col("score").mean().over("session")


def matrix(features: pl.DataFrame) -> Floats:
    """Return the features in catalog order, [n_rows, n_features], NaN where missing."""
    values = features.select(pl.col(NAMES).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    if np.isinf(values).any():
        bad = [NAMES[column] for column in np.flatnonzero(np.isinf(values).any(axis=0))]
        raise ContractViolation(
            expected="finite features, or null",
            was=f"infinite values of {bad}",
            where="core_features__daily",
            todo="find the feature's division by zero in domain.features",
        )
    return np.ascontiguousarray(values)


def enough_features() -> pl.Expr:
    """Whether a row has enough features to be used."""
    missing = pl.sum_horizontal(pl.col(NAMES).fill_nan(None).is_null())
    return missing <= MAX_MISSING * len(NAMES)


def refuse_late(features: pl.DataFrame, labels: pl.DataFrame, *, as_of: date) -> None:
    """Raise LookaheadError when a feature's session or a label's end is after the training's."""
    for frame, column in ((features, "session"), (labels, "label_end")):
        late = frame.filter(pl.col(column) > as_of)
        if late.height:
            raise LookaheadError(
                expected=f"{column} up to {as_of}",
                was=f"{late.height} rows up to {late[column].max()!r}",
                where="training",
                todo="read features and labels as of the training session",
            )


def _rows(features: pl.DataFrame, labels: pl.DataFrame, *, as_of: date) -> pl.DataFrame:
    refuse_late(features, labels, as_of=as_of)
    usable = features.filter(enough_features())
    return usable.join(labels, on=["session", "symbol"]).sort("session", "symbol")


def _targets(rows: pl.DataFrame) -> Floats:
    return rows["label_return"].to_numpy()


def _of_model(scored: pl.DataFrame, item: Model) -> pl.DataFrame:
    return scored.filter(pl.col("model") == item.name)


def _validation(
    scored: pl.DataFrame, rows: pl.DataFrame, *, steps: Sequence[Fold], horizon: int
) -> dict[str, Any]:
    return {
        "scheme": (
            "expanding walk-forward; a row trains when its label ended at least the embargo "
            "before the first tested session; hit-rate intervals: Wilson, 95 %, with n / horizon "
            "independent predictions since labels overlap; rank-IC intervals: Newey-West, 95 %"
        ),
        "embargo_sessions": horizon,
        "folds": [
            {
                "fold": step.number,
                "train_rows": rows.filter(pl.col("label_end") <= step.known_by).height,
                "train_known_by": step.known_by.isoformat(),
                "test_first": step.test_first.isoformat(),
                "test_last": step.test_last.isoformat(),
            }
            for step in steps
        ],
        "base_rate": metrics.base_rate(_of_model(scored, MODELS[0]), horizon=horizon),
        "metrics": {
            item.name: metrics.evaluate(_of_model(scored, item), horizon=horizon) for item in MODELS
        },
    }


def _caveats(*, simulated: bool) -> list[str]:
    costs = "costs: not included; scores are not a trading result"
    return [costs, "simulation: some training rows have simulated inputs"] if simulated else [costs]
