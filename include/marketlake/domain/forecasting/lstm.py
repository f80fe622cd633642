"""A small LSTM in Keras 3 on JAX's CPU: the same seed and rows give the same weights.

Keras reads its backend once, from the environment, when it is first imported; it is imported only
inside the functions here. A file that was written is Keras's own archive with its dates fixed, and
is read in Keras's safe mode, which runs no code from it.
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
_SCALER = "scaler.json"
_PREDICT_ROWS = 1024
"""Rows a call: every call has this shape, so that a row's sum never depends on its company."""


@dataclass(frozen=True)
class LstmModel:
    """A Keras model with the scaler of its channels."""

    scaler: Scaler
    network: Any


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


@lru_cache(maxsize=8)
def _scorer(config: str) -> Any:
    """Return a network to predict with, one a configuration, whose weights are set for each use."""
    return _keras().Sequential.from_config(json.loads(config))


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
    bare = _keras().Sequential.from_config(fresh.get_config())
    bare.set_weights(network.get_weights())
    return LstmModel(scaler, bare)


def probability(model: LstmModel, samples: Samples) -> Floats:
    """Return P(1), [n_rows]."""
    network = _scorer(json.dumps(model.network.get_config(), default=str, sort_keys=True))
    network.set_weights(model.network.get_weights())
    Z = model.scaler.apply(samples.sequence).astype(np.float32)
    padded = np.zeros((-(-len(Z) // _PREDICT_ROWS) * _PREDICT_ROWS, *Z.shape[1:]), np.float32)
    padded[: len(Z)] = Z
    scores = [
        np.asarray(network.predict_on_batch(padded[at : at + _PREDICT_ROWS]))[:, 0]
        for at in range(0, len(padded), _PREDICT_ROWS)
    ]
    return np.concatenate([np.empty(0), *scores])[: len(Z)].astype(np.float64)


def dump(model: LstmModel) -> bytes:
    """Return Keras's archive with the scaler in it, members by name, dates fixed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        model.network.save(file)
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    # Keras names shared objects by their address in memory, and says when it saved.
    addresses: dict[str, str] = {}
    members["config.json"] = re.sub(
        r'(?<="shared_object_id": )\d+',
        lambda found: addresses.setdefault(found[0], str(len(addresses) + 1)),
        members["config.json"].decode(),
    ).encode()
    about = json.loads(members["metadata.json"])
    about["date_saved"] = "1980-01-01@00:00:00"
    members["metadata.json"] = json.dumps(about, sort_keys=True).encode()
    members[_SCALER] = json.dumps(
        {
            "means": model.scaler.means.tolist(),
            "scales": model.scaler.scales.tolist(),
            "clip": model.scaler.clip,
        }
    ).encode()
    return archived(members)


def load(content: bytes) -> LstmModel:
    """Return the model of :func:`dump`'s bytes."""
    keras = _keras()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        state = json.loads(archive.read(_SCALER))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.keras"
        file.write_bytes(content)
        network = keras.saving.load_model(file, compile=False, safe_mode=True)
    scaler = Scaler(np.array(state["means"]), np.array(state["scales"]), state["clip"])
    return LstmModel(scaler, network)
