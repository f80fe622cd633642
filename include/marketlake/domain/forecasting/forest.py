"""A random forest: grown by scikit-learn, kept and asked as plain arrays.

Growing needs scikit-learn; asking is a page of NumPy on the trees' nodes, with the very bits of
scikit-learn's ``predict_proba``. The file is an archive of those arrays: a thousand trees are read
in milliseconds, by anything that reads NumPy, and a daily task needs no scikit-learn.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from marketlake.domain.forecasting.archive import archived
from marketlake.domain.prices import Floats

if TYPE_CHECKING:
    from marketlake.domain.forecasting.classifiers import Samples

Integers = npt.NDArray[np.int32]

PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {
        "trees": 300,
        "max_depth": 8,
        "min_rows_in_leaf": 50,
        "feature_fraction": 0.2,
        "row_fraction": 0.5,
    }
)
_BLOCK_ROWS = 1024
"""Rows that are asked at a time: what is gathered of them stays in the processor's cache."""


@dataclass(frozen=True)
class Forest:
    """All trees' nodes one after the other, a node before those it leads to.

    ``roots`` [n_trees] is each tree's first node. A row at a node goes on to ``left`` when its
    ``feature`` is at most ``threshold``, or missing where ``missing_left`` says so, and to
    ``right`` otherwise; a leaf leads to itself. ``up`` is the share of label 1 among the rows that
    grew the node. Those five and ``feature`` are [n_nodes]; ``n_features`` [1] says how many
    features there are.
    """

    n_features: Integers
    roots: Integers
    feature: Integers
    threshold: Floats
    left: Integers
    right: Integers
    missing_left: npt.NDArray[np.bool_]
    up: Floats


_TYPES = {
    "n_features": np.dtype(np.int32),
    "roots": np.dtype(np.int32),
    "feature": np.dtype(np.int32),
    "threshold": np.dtype(np.float64),
    "left": np.dtype(np.int32),
    "right": np.dtype(np.int32),
    "missing_left": np.dtype(np.bool_),
    "up": np.dtype(np.float64),
}


def fit(
    samples: Samples, y: npt.NDArray[np.int64], *, seed: int, parameters: Mapping[str, Any]
) -> Forest:
    """Grow a forest on ``samples.flat``, in float32 as scikit-learn sees it."""
    from sklearn.ensemble import RandomForestClassifier

    model = RandomForestClassifier(
        n_estimators=parameters["trees"],
        max_depth=parameters["max_depth"],
        min_samples_leaf=parameters["min_rows_in_leaf"],
        max_features=parameters["feature_fraction"],
        max_samples=parameters["row_fraction"],
        random_state=seed,
        n_jobs=2,
    ).fit(samples.flat.astype(np.float32), y)
    return forest_of(model)


def forest_of(model: Any) -> Forest:
    """Return the nodes of a fitted ``RandomForestClassifier`` of labels 0 and 1."""
    trees = [estimator.tree_ for estimator in model.estimators_]
    counts = [tree.node_count for tree in trees]
    roots = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int32)

    def every(name: str) -> npt.NDArray[Any]:
        return np.concatenate([getattr(tree, name) for tree in trees])

    own = np.arange(sum(counts))
    start = np.repeat(roots, counts)
    leaf = every("children_left") < 0
    return Forest(
        n_features=np.array([model.n_features_in_], dtype=np.int32),
        roots=roots,
        feature=np.where(leaf, 0, every("feature")).astype(np.int32),
        threshold=np.where(leaf, 0.0, every("threshold")),
        left=np.where(leaf, own, start + every("children_left")).astype(np.int32),
        right=np.where(leaf, own, start + every("children_right")).astype(np.int32),
        missing_left=every("missing_go_to_left").astype(np.bool_) & ~leaf,
        up=every("value")[:, 0, 1].copy(),
    )


def probability(model: Forest, samples: Samples) -> Floats:
    """Return P(1), [n_rows]: the mean of the trees' shares.

    Raises
    ------
    ValueError
        When the rows have another number of features than the forest.
    """
    if samples.flat.shape[1] != model.n_features[0]:
        raise ValueError(f"{samples.flat.shape[1]} features for a forest of {model.n_features[0]}")
    X = samples.flat.astype(np.float32)
    blocks = [_asked(model, X[at : at + _BLOCK_ROWS]) for at in range(0, len(X), _BLOCK_ROWS)]
    return np.concatenate([np.empty(0), *blocks])


def _asked(model: Forest, X: npt.NDArray[np.float32]) -> Floats:
    missing, rows = np.isnan(X), np.arange(len(X))
    at = np.repeat(model.roots[:, None], len(X), axis=1)
    while True:
        column = model.feature[at]
        goes_left = X[rows, column] <= model.threshold[at]
        goes_left |= missing[rows, column] & model.missing_left[at]
        after = np.where(goes_left, model.left[at], model.right[at])
        if np.array_equal(after, at):
            break
        at = after
    # Tree by tree, as scikit-learn adds them: NumPy's own sum takes another order for one row.
    total = np.zeros(len(X))
    for tree in at:
        total += model.up[tree]
    return np.asarray(total / len(model.roots), dtype=np.float64)


def dump(model: Forest) -> bytes:
    """Return NumPy's archive of the arrays (``.npz``), the same bytes for the same forest."""
    members = {}
    for name in _TYPES:
        content = io.BytesIO()
        np.save(content, getattr(model, name), allow_pickle=False)
        members[f"{name}.npy"] = content.getvalue()
    return archived(members)


def load(content: bytes) -> Forest:
    """Return the forest of :func:`dump`'s bytes; numbers are all that is read.

    Raises
    ------
    ValueError
        When they are no forest: other arrays, shares that are none, or nodes that lead outside or
        back. Bytes that are no archive raise what NumPy raises.
    """
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        if set(file.files) != set(_TYPES):
            raise ValueError(f"arrays {sorted(file.files)}, not {sorted(_TYPES)}")
        arrays = {name: file[name] for name in _TYPES}
    lengths = {"n_features": 1, "roots": len(arrays["roots"])}
    for name, values in arrays.items():
        shape = (lengths.get(name, len(arrays["up"])),)
        if values.dtype != _TYPES[name] or values.shape != shape:
            raise ValueError(f"{name}: {values.dtype} {values.shape}, not {_TYPES[name]} {shape}")
    model = Forest(**arrays)
    # An infinite threshold is a split of what is missing from what is there.
    if not ((model.up >= 0.0) & (model.up <= 1.0)).all() or np.isnan(model.threshold).any():
        raise ValueError("shares outside of 0 to 1, or thresholds that are missing")
    nodes = np.arange(len(model.up))
    leaf = model.left == nodes
    if not (
        len(model.roots)
        and model.roots[0] == 0
        and (np.diff(model.roots) > 0).all()
        and model.roots[-1] < len(nodes)
        and _within(model.feature, 0, int(model.n_features[0]))
        and _within(model.left, nodes, len(nodes))
        and _within(model.right, np.where(leaf, nodes, nodes + 1), len(nodes))
        and np.array_equal(model.right[leaf], nodes[leaf])
    ):
        raise ValueError("nodes that lead outside of the forest, or back")
    return model


def _within(values: Integers, low: npt.NDArray[np.int64] | int, high: int) -> bool:
    return bool(((values >= low) & (values < high)).all())
