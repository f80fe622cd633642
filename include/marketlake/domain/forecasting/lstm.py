"""A small LSTM, trained in Keras 3 on JAX's CPU: the same seed and rows give the same weights.

Keras reads its backend once, from the environment, when it is first imported; it is imported only
to train, which takes seconds. Forecasting is a page of NumPy on the learnt weights, so that a daily
task needs neither Keras nor JAX, and a row's sum never depends on its company. A file that was
written is Keras's own archive with its dates fixed; only its numbers are read from it.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from marketlake.domain.forecasting.archive import archived
from marketlake.domain.forecasting.fitted import Scaler, fit_scaler
from marketlake.domain.prices import Floats
from marketlake.errors import ConfigError

if TYPE_CHECKING:
    from marketlake.domain.forecasting.classifiers import Samples

PARAMETERS: Mapping[str, Any] = MappingProxyType(
    {
        "units": 16,
        "dropout": 0.2,
        "l2": 1e-3,
        "learning_rate": 1e-3,
        "batch_rows": 512,
        "epochs": 15,
        "clip": 5.0,
    }
)
_SCALER, _CONFIG, _WEIGHTS = "scaler.json", "config.json", "model.weights.h5"
_LAYERS = ["InputLayer", "LSTM", "Dropout", "Dense"]
_PLACES = {
    "kernel": "layers/lstm/cell/vars/0",
    "recurrent": "layers/lstm/cell/vars/1",
    "bias": "layers/lstm/cell/vars/2",
    "up": "layers/dense/vars/0",
    "up_bias": "layers/dense/vars/1",
}
"""Where Keras's archive keeps each array (gates in the order input, forget, cell, output)."""


@dataclass(frozen=True)
class LstmModel:
    """Learnt weights with the scaler of their channels, and Keras's archive of both.

    ``weights`` has ``kernel`` [n_channels, 4 n_units], ``recurrent`` [n_units, 4 n_units], ``bias``
    [4 n_units], ``up`` [n_units, 1] and ``up_bias`` [1].
    """

    scaler: Scaler
    weights: Mapping[str, Floats]
    archive: bytes


def _keras() -> Any:
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    import keras

    if keras.backend.backend() != "jax":
        raise ConfigError(
            expected="Keras on its jax backend",
            was=keras.backend.backend(),
            where="KERAS_BACKEND",
            todo="unset KERAS_BACKEND, or set it to jax",
        )
    return keras


def _network(lags: int, channels: int, parameters: Mapping[str, Any], *, seed: int) -> Any:
    """Return a network with the seed's first weights."""
    keras = _keras()
    # Layers draw from Keras's global generator: the seed sets it anew for every network.
    keras.utils.set_random_seed(seed)
    layers, decay = keras.layers, keras.regularizers.L2(parameters["l2"])
    return keras.Sequential(
        [
            keras.Input((lags, channels), name="lags"),
            layers.LSTM(parameters["units"], kernel_regularizer=decay, name="lstm"),
            layers.Dropout(parameters["dropout"], seed=seed, name="dropout"),
            layers.Dense(1, activation="sigmoid", kernel_regularizer=decay, name="up"),
        ],
        name="direction",
    )


@lru_cache(maxsize=8)
def _trainer(lags: int, channels: int, parameters: str) -> tuple[Any, list[Any]]:
    """Return a compiled network and its optimiser's first state, one a shape.

    Compiling takes far longer than training: folds and seeds of one shape share it.
    """
    keras = _keras()
    known = json.loads(parameters)
    network = _network(lags, channels, known, seed=0)
    network.compile(keras.optimizers.Adam(known["learning_rate"]), loss="binary_crossentropy")
    network.optimizer.build(network.trainable_variables)
    return network, [variable.numpy() for variable in network.optimizer.variables]


def fit(
    samples: Samples, y: npt.NDArray[np.int64], *, seed: int, parameters: Mapping[str, Any]
) -> LstmModel:
    """Train for a fixed number of epochs; ``samples.sequence`` is [n_rows, n_lags, n_channels]."""
    scaler = fit_scaler(samples.sequence, clip=parameters["clip"])
    _, lags, channels = samples.sequence.shape
    network, first = _trainer(lags, channels, json.dumps(dict(parameters), sort_keys=True))
    fresh = _network(lags, channels, parameters, seed=seed)
    # Nothing of an earlier fit stays: weights, the dropout's generator, the optimiser's moments.
    for variable, start in zip(network.variables, fresh.variables, strict=True):
        variable.assign(start)
    for variable, start in zip(network.optimizer.variables, first, strict=True):
        variable.assign(start)
    Z = scaler.apply(samples.sequence).astype(np.float32)
    rng = np.random.default_rng(seed)
    rows = min(parameters["batch_rows"], len(y))
    for _ in range(parameters["epochs"]):
        # Whole batches only, in an order of our own: one compiled shape, one generator.
        order = rng.permutation(len(y))[: len(y) // rows * rows]
        network.fit(
            Z[order],
            y[order].astype(np.float32),
            batch_size=rows,
            epochs=1,
            shuffle=False,
            verbose=0,
        )
    # What is kept is the bare network with what was learnt: no optimiser and no loss.
    fresh.set_weights(network.get_weights())
    return load(_archive(fresh, scaler))


def probability(model: LstmModel, samples: Samples) -> Floats:
    """Return P(1), [n_rows]: the network's forward pass, in float64."""
    from scipy.special import expit

    Z, weights = model.scaler.apply(samples.sequence), model.weights
    units = len(weights["recurrent"])
    hidden = cell = np.zeros((len(Z), units))
    # einsum, not BLAS: the same sums for a row whatever rows stand beside it.
    for lag in range(Z.shape[1]):
        gates = (
            np.einsum("nc,cg->ng", Z[:, lag], weights["kernel"])
            + np.einsum("nu,ug->ng", hidden, weights["recurrent"])
            + weights["bias"]
        )
        given, kept, candidate, shown = np.split(gates, 4, axis=1)
        cell = expit(kept) * cell + expit(given) * np.tanh(candidate)
        hidden = expit(shown) * np.tanh(cell)
    logit = np.einsum("nu,u->n", hidden, weights["up"][:, 0]) + weights["up_bias"][0]
    return np.asarray(expit(logit), dtype=np.float64)


def dump(model: LstmModel) -> bytes:
    """Return Keras's archive with the scaler in it."""
    return model.archive


def load(content: bytes) -> LstmModel:
    """Return the model of :func:`dump`'s bytes; numbers are all that is read.

    Raises
    ------
    ValueError
        When its layers are not those that are trained here.
    """
    import h5py

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        state = json.loads(archive.read(_SCALER))
        layers = [
            layer["class_name"] for layer in json.loads(archive.read(_CONFIG))["config"]["layers"]
        ]
        stored = io.BytesIO(archive.read(_WEIGHTS))
    if layers != _LAYERS:
        raise ValueError(f"layers {layers}, not {_LAYERS}")
    with h5py.File(stored, "r") as file:
        weights = {name: np.asarray(file[place], np.float64) for name, place in _PLACES.items()}
    scaler = Scaler(np.array(state["means"]), np.array(state["scales"]), state["clip"])
    return LstmModel(scaler, weights, content)


def _archive(network: Any, scaler: Scaler) -> bytes:
    """Return Keras's archive of a network with its scaler, members by name, dates fixed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        network.save(file)
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    # Keras names shared objects by their address in memory, and says when it saved.
    addresses: dict[str, str] = {}
    members[_CONFIG] = re.sub(
        r'(?<="shared_object_id": )\d+',
        lambda found: addresses.setdefault(found[0], str(len(addresses) + 1)),
        members[_CONFIG].decode(),
    ).encode()
    about = json.loads(members["metadata.json"])
    about["date_saved"] = "1980-01-01@00:00:00"
    members["metadata.json"] = json.dumps(about, sort_keys=True).encode()
    members[_SCALER] = json.dumps(
        {"means": scaler.means.tolist(), "scales": scaler.scales.tolist(), "clip": scaler.clip}
    ).encode()
    return archived(members)
