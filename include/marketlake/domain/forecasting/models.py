"""The models: how each is fitted, how its state is written, how it scores.

A state is JSON (numbers, or LightGBM's own text form): loading it runs no code. The parameters are
fixed here and were not searched for; a change to one is a new trial and adds to ``TRIALS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from marketlake.domain.prices import Floats

State = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One kind of model.

    ``fit(X, y, seed=, names=)`` returns its state; ``score(state, X)`` a fraction for each row.
    X is [n_rows, n_features] with NaN for missing, y is [n_rows] without NaN.
    """

    name: str
    kind: str
    parameters: Mapping[str, Any]
    fit: Callable[..., dict[str, Any]]
    score: Callable[[State, Floats], Floats]


_LINEAR: Mapping[str, Any] = MappingProxyType(
    {
        "penalty_per_row": 0.02,
        "clip": 5.0,
        "missing": "0 after scaling, which is the mean of the fitting rows",
    }
)

_LIGHTGBM: Mapping[str, Any] = MappingProxyType(
    {
        "objective": "regression",
        "learning_rate": 0.03,
        "num_leaves": 15,
        "min_data_in_leaf": 500,
        "lambda_l2": 10.0,
        "feature_fraction": 0.7,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "max_bin": 63,
        "deterministic": True,
        "force_row_wise": True,
        # The same trees come out of any number of threads; on shared cores one is the fastest.
        "num_threads": 1,
        "verbosity": -1,
        "rounds": 200,
    }
)


def _fit_linear(X: Floats, y: Floats, *, seed: int, names: Sequence[str]) -> dict[str, Any]:
    """Ridge on features standardised by the fitting rows; the penalty grows with the rows."""
    del seed, names  # a closed form: nothing is random, and order alone names the features
    there = ~np.isnan(X)
    count = np.maximum(there.sum(axis=0), 1)
    mean = np.where(there, X, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(there, (X - mean) ** 2, 0.0).sum(axis=0) / count)
    scale = np.where(spread > 0, spread, 1.0)
    Z = _standardise(X, mean, scale)
    intercept = float(y.mean())
    # einsum, not BLAS: the same sums in the same order whatever the number of threads.
    gram = np.einsum("ni,nj->ij", Z, Z) + _LINEAR["penalty_per_row"] * len(y) * np.eye(X.shape[1])
    moment = np.einsum("ni,n->i", Z, y - intercept)
    return {
        "intercept": intercept,
        "coefficients": np.linalg.solve(gram, moment).tolist(),
        "means": mean.tolist(),
        "scales": scale.tolist(),
        "clip": _LINEAR["clip"],
    }


def _standardise(X: Floats, mean: Floats, scale: Floats) -> Floats:
    clip = _LINEAR["clip"]
    return np.nan_to_num(np.clip((X - mean) / scale, -clip, clip), nan=0.0)


def _score_linear(state: State, X: Floats) -> Floats:
    Z = _standardise(X, np.array(state["means"]), np.array(state["scales"]))
    score: Floats = np.einsum("ni,i->n", Z, np.array(state["coefficients"])) + state["intercept"]
    return score


def _fit_lightgbm(X: Floats, y: Floats, *, seed: int, names: Sequence[str]) -> dict[str, Any]:
    import lightgbm  # slow to import, and only two functions need it

    parameters = {key: value for key, value in _LIGHTGBM.items() if key != "rounds"} | {
        "seed": seed
    }
    # Bin edges come from the rows given here and from no later fold.
    data = lightgbm.Dataset(X, label=y, feature_name=list(names), params=parameters)
    booster = lightgbm.train(parameters, data, num_boost_round=_LIGHTGBM["rounds"])
    return {"model": booster.model_to_string()}


def _score_lightgbm(state: State, X: Floats) -> Floats:
    import lightgbm

    booster = lightgbm.Booster(model_str=state["model"])
    return np.asarray(booster.predict(X, num_threads=1), dtype=np.float64)


MODELS: tuple[Model, ...] = (
    Model("linear", "ridge regression", _LINEAR, _fit_linear, _score_linear),
    Model("lightgbm", "gradient boosted trees", _LIGHTGBM, _fit_lightgbm, _score_lightgbm),
)
TRIALS = len(MODELS)
"""Configurations ever tried on this question, those given up included."""


def model(name: str) -> Model:
    """Return a model by name; KeyError names the known ones."""
    for item in MODELS:
        if item.name == name:
            return item
    raise KeyError(f"no model {name!r}; there are {[item.name for item in MODELS]}")
