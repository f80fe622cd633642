"""Choose a model's parameters by walk-forward inside the first fold's training rows.

Every fold that is tested afterwards lies behind those rows, so nothing that is chosen here has seen
a test. Each trial counts as one when the figures are held against luck.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from marketlake.domain.forecasting import skill
from marketlake.domain.forecasting.classifiers import Labels, Samples, classifier
from marketlake.domain.forecasting.fitted import Positions
from marketlake.domain.forecasting.validation import LabelSpans, walk_forward_splits

INNER_FOLDS = 3


@dataclass(frozen=True)
class Range:
    """Where a parameter is looked for; whole numbers where both ends are."""

    low: float
    high: float
    is_log: bool = False


SPACES: Mapping[str, Mapping[str, Range]] = MappingProxyType(
    {
        "lightgbm": {
            "num_leaves": Range(3, 31),
            "min_data_in_leaf": Range(50, 1000, is_log=True),
            "learning_rate": Range(0.01, 0.1, is_log=True),
            "lambda_l2": Range(0.1, 100.0, is_log=True),
            "feature_fraction": Range(0.1, 0.8),
        },
        "xgboost": {
            "max_depth": Range(2, 5),
            "min_child_weight": Range(5.0, 200.0, is_log=True),
            "learning_rate": Range(0.01, 0.1, is_log=True),
            "lambda_l2": Range(0.1, 100.0, is_log=True),
            "feature_fraction": Range(0.1, 0.8),
        },
    }
)


@dataclass(frozen=True)
class Tuned:
    """The parameters with the lowest Brier score, and every trial in order."""

    parameters: Mapping[str, Any]
    trials: list[dict[str, Any]]


def tune(
    name: str,
    given: Mapping[str, Any],
    *,
    samples: Samples,
    y: Labels,
    spans: LabelSpans,
    at: Positions,
    trials: int,
    embargo: int,
    seed: int,
) -> Tuned:
    """Search a model's space (:data:`SPACES`) by the tree-structured Parzen estimator of Optuna.

    Parameters
    ----------
    name, given
        The model, and the parameters that the first trial has; what is not in the space stays.
    samples, y, spans
        All rows, their labels 0 and 1, their label intervals.
    at
        The rows that may be used.
    trials
        How many configurations are tried, the given one among them.
    embargo, seed
        Sessions kept clear between training labels and tests; seed of search and models.

    Returns
    -------
    Tuned
        Each trial has ``model``, ``parameters`` and ``brier``, its mean over the inner folds.
    """
    import optuna

    item = classifier(name).with_parameters(**given)
    space = SPACES[name]
    own, labels, inside = samples.rows(at), y[at], spans.rows(at)
    splits = walk_forward_splits(inside, folds=INNER_FOLDS, embargo=embargo)
    tried: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        chosen = {key: _suggest(trial, key, where) for key, where in space.items()}
        scores = []
        for split in splits:
            fitted = item.with_parameters(**chosen).train(
                own.rows(split.train),
                labels[split.train],
                seed=seed,
                window=inside.window(split.train),
            )
            tested = inside.window(split.test)
            starts, ends = zip(*tested.spans, strict=True)
            p = fitted.on(starts, ends).probability(own.rows(split.test))
            scores.append(skill.brier(p, labels[split.test]))
        score = float(np.mean(scores))
        tried.append({"model": name, "parameters": chosen, "brier": score})
        return score

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed))
        study.enqueue_trial({key: item.parameters[key] for key in space})
        study.optimize(objective, n_trials=trials)
    finally:
        optuna.logging.set_verbosity(verbosity)
    best = min(tried, key=lambda one: one["brier"])
    return Tuned({**given, **best["parameters"]}, tried)


def _suggest(trial: Any, name: str, where: Range) -> float | int:
    if isinstance(where.low, int) and isinstance(where.high, int):
        return int(trial.suggest_int(name, where.low, where.high, log=where.is_log))
    return float(trial.suggest_float(name, where.low, where.high, log=where.is_log))
