"""Train the ensemble as of a session: the files that predict, and the document that describes them.

Features, labels and returns come in as frames; nothing later than ``as_of`` may be among them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.contracts.factors import CLOSE_ONLY, FACTORS
from marketlake.contracts.features import FEATURES
from marketlake.domain.forecasting import gate, metrics
from marketlake.domain.forecasting.assessment import (
    KEY,
    Panel,
    Profile,
    Trained,
    panel_of,
    train_ensemble,
)
from marketlake.domain.forecasting.classifiers import classifier
from marketlake.domain.forecasting.predictor import Predictor
from marketlake.domain.forecasting.validation import walk_forward_splits
from marketlake.errors import ContractViolation

NAMES = tuple(item.name for item in FEATURES)
MAX_MISSING = 0.2
"""A row with a larger share of missing features neither trains nor is predicted."""
ENSEMBLE = "ensemble"
_MIN_SYMBOLS = 3
EARLIER_TRIALS = 2
"""Tried on this question before any document was kept: a ridge and LightGBM on returns."""


@dataclass(frozen=True)
class Inputs:
    """What a training knows.

    ``features`` has rows of ``core_features__daily``, ``factors`` of ``core_factors__daily``,
    ``labels`` is what :func:`marketlake.domain.forecasting.labels` returned.
    """

    features: pl.DataFrame
    factors: pl.DataFrame
    labels: pl.DataFrame


@dataclass(frozen=True)
class Training:
    """``document`` is that of ``core_models__model``; ``files`` are the predictor's, by name."""

    document: dict[str, Any]
    files: Mapping[str, bytes]


def train(
    inputs: Inputs,
    *,
    next_returns: pl.DataFrame,
    as_of: date,
    sessions: Sequence[date],
    horizon: int,
    profile: Profile,
    seed: int,
    cost_bps: float,
    regimes: pl.DataFrame | None = None,
    walked: Callable[[np.random.Generator], Inputs] | None = None,
    earlier: Sequence[Mapping[str, Any]] = (),
    caveats: Sequence[str] = (),
    progress: Callable[[str], None] = lambda text: None,
) -> Training:
    """Validate by purged walk-forward, then fit everything on what was known at ``as_of``.

    Parameters
    ----------
    inputs
        Features, factors and labels; null or NaN means missing.
    next_returns
        What :func:`marketlake.domain.forecasting.next_returns` returned, for the portfolios.
    as_of, sessions
        The session the training knows; the exchange's sessions up to it, ascending.
    horizon
        Sessions a label spans; also the embargo.
    profile, seed
        How much is trained; the first of the profile's seeds, the others follow it.
    cost_bps
        What a traded dollar pays in the portfolios.
    regimes
        ``session``, ``regime``: each session's, from its past; figures are then by regime too.
    walked
        Gives the inputs of the same market with prices that walk at random, for the null panel;
        None leaves that null out, and then the panel is not clean.
    earlier
        The documents of trainings before, one that this replaces among them; what they tried counts
        as trials of this one too.
    caveats
        What the document must also say of its data, after what the training itself knows.
    progress
        Gets a line at each step.

    Raises
    ------
    LookaheadError
        When a feature's session or a label's end is after ``as_of``.
    ContractViolation
        When there are too few sessions or symbols, or a feature is infinite.
    """
    names = columns(inputs)
    chosen = replace(
        profile,
        seeds=tuple(seed + number for number in range(len(profile.seeds))),
        channels=NAMES,
    )

    def panel(of: Inputs) -> Panel:
        return panel_of(
            joined(of.features.filter(enough_features()), of.factors, names=names),
            of.labels,
            names=names,
            sessions=sessions,
            as_of=as_of,
            profile=chosen,
        )

    known = panel(inputs)
    _require_cross_sections(known)
    trained = train_ensemble(
        known,
        profile=chosen,
        horizon=horizon,
        embargo=horizon,
        next_returns=next_returns,
        cost_bps=cost_bps,
        earlier_trials=EARLIER_TRIALS,
        tried_before={one for document in earlier for one in _tried(document)},
        regimes=regimes,
        recompute=None if walked is None else lambda rng: panel(walked(rng)),
        progress=progress,
    )
    files = Predictor.of_training(trained, names=names, profile=chosen).files()
    simulated = bool(inputs.features["simulated"].any() or inputs.factors["closes_simulated"].any())
    return Training(
        {
            "as_of": as_of.isoformat(),
            "horizon_sessions": horizon,
            "profile": profile.name,
            "fit_window": {
                "first_session": str(known.rows["session"].min()),
                "last_session": str(known.rows["session"].max()),
                "last_label_end": str(known.rows["label_end"].max()),
                "rows": known.rows.height,
                "simulated": simulated,
            },
            "features": list(names),
            "validation": _validation(known, trained, horizon=horizon),
            "models": _models(known, trained, horizon=horizon),
            "files": [
                {
                    "name": name,
                    "sha256": hashlib.sha256(files[name]).hexdigest(),
                    "bytes": len(files[name]),
                }
                for name in sorted(files)
            ],
            "report": trained.report,
            "gate": gate.judge(trained.report),
            "trials": trained.report["trials"],
            "caveats": [*_caveats(simulated=simulated), *caveats],
        },
        files,
    )


def columns(inputs: Inputs) -> tuple[str, ...]:
    """Return what models see: features, and factors that no generator had a part in."""
    made = bool(inputs.factors["simulated"].any())
    return NAMES + (CLOSE_ONLY if made else tuple(factor.name for factor in FACTORS))


def joined(features: pl.DataFrame, factors: pl.DataFrame, *, names: Sequence[str]) -> pl.DataFrame:
    """Return rows of features with those of the factors that are among ``names`` beside them.

    Raises
    ------
    ContractViolation
        When one of them is infinite.
    """
    own = [name for name in names if name not in NAMES]
    rows = features.select(*KEY, *NAMES).join(factors.select(*KEY, *own), on=KEY, how="left")
    infinite = rows.select(pl.col(list(names)).is_infinite().any()).row(0, named=True)
    bad = [name for name, is_bad in infinite.items() if is_bad]
    if bad:
        raise ContractViolation(
            expected="finite features, or null",
            was=f"infinite values of {bad}",
            where="core_features__daily or core_factors__daily",
            todo="find the feature's division by zero in domain.features",
        )
    return rows


def enough_features() -> pl.Expr:
    """Whether a row has enough features to be used."""
    missing = pl.sum_horizontal(pl.col(NAMES).fill_nan(None).is_null())
    return missing <= MAX_MISSING * len(NAMES)


def centred_scores(probability: pl.Expr, *, scale: float, over: Sequence[str]) -> pl.Expr:
    """Return expected returns above their mean forecast, fractions: ``(2 p - 1) scale``."""
    score = (2.0 * probability - 1.0) * scale
    return score - score.mean().over(over)


def _tried(document: Mapping[str, Any]) -> set[str]:
    """Return what a training and those before it tried; of an older one, as many as it counted."""
    report = document["report"]
    counted = [f"{document['as_of']} {number}" for number in range(document["trials"])]
    return set(report.get("tried", counted))


def _require_cross_sections(panel: Panel) -> None:
    widest = int(np.unique(panel.sessions, return_counts=True)[1].max())
    if widest < _MIN_SYMBOLS:
        raise ContractViolation(
            expected=f"a session with at least {_MIN_SYMBOLS} symbols, for a rank correlation",
            was=f"at most {widest} with features and a label",
            where="training",
            todo="train on a universe of at least that many symbols",
        )


def _label_scale(panel: Panel) -> float:
    """Return the mean size of a label: what a sure direction would earn."""
    return float(panel.rows["label_return"].abs().mean())  # type: ignore[arg-type]


def _scored(panel: Panel, trained: Trained) -> dict[str, pl.DataFrame]:
    """Return each model's out-of-fold scores as signals have them, the ensemble's last."""
    rows = trained.scored.with_columns(
        score=centred_scores(
            pl.col("probability"), scale=_label_scale(panel), over=["model", "session"]
        )
    )
    return {
        str(name): rows.filter(pl.col("model") == name)
        for name in rows["model"].unique(maintain_order=True)
    }


def _validation(panel: Panel, trained: Trained, *, horizon: int) -> dict[str, Any]:
    scored = _scored(panel, trained)
    days = panel.spans.sessions
    return {
        "scheme": (
            "expanding walk-forward; a row trains when its label ended at least the embargo "
            "before the first tested session; the first fold only teaches how to weigh; hit-rate "
            "intervals: Wilson, 95 %, with n / horizon independent predictions since labels "
            "overlap; rank-IC intervals: Newey-West, 95 %"
        ),
        "embargo_sessions": horizon,
        "folds": [
            {
                "fold": number,
                "train_rows": len(split.train),
                "train_known_by": panel.spans.window(split.train).known_by.isoformat(),
                "test_first": days[int(panel.spans.start[split.test].min())].isoformat(),
                "test_last": days[int(panel.spans.start[split.test].max())].isoformat(),
            }
            for number, split in enumerate(
                walk_forward_splits(panel.spans, folds=trained.profile.folds, embargo=horizon),
                start=1,
            )
        ],
        "base_rate": metrics.base_rate(scored[ENSEMBLE], horizon=horizon),
        "metrics": {name: metrics.evaluate(rows, horizon=horizon) for name, rows in scored.items()},
    }


def _models(panel: Panel, trained: Trained, *, horizon: int) -> dict[str, Any]:
    ensemble, profile = trained.ensemble.value, trained.profile
    weights = trained.report["weights"]
    members = {
        name: {
            "kind": name,
            "parameters": dict(classifier(name).with_parameters(**changes).parameters),
            "seeds": list(profile.seeds[: len(ensemble.members[name])]),
            "weight": weights[name],
        }
        for name, changes in profile.models.items()
    }
    return {
        **members,
        ENSEMBLE: {
            "kind": "stack, calibrated" if profile.join == "stack" else "weighted vote, calibrated",
            "parameters": {"weights": weights, "calibration": ensemble.calibration.state()},
            "seeds": list(profile.seeds),
            "label_scale": _label_scale(panel),
            "calibration": metrics.calibrate(_scored(panel, trained)[ENSEMBLE], horizon=horizon),
        },
    }


def _caveats(*, simulated: bool) -> list[str]:
    costs = "costs: in the portfolios of the report only; scores are not a trading result"
    return [costs, "simulation: some training rows have simulated inputs"] if simulated else [costs]
