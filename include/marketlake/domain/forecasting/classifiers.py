"""Models of direction behind one interface: each gives P(up) for every row.

A classifier is fitted on the rows it is given and on nothing else: scalers and bin edges come from
them. It is written in a form that runs no code when it is read (JSON, LightGBM's and XGBoost's own
text, NumPy's arrays, Keras's archive) and predicts the same bytes afterwards.
What does not belong: which rows those are (``validation``), and joining models (``ensemble``).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from marketlake.domain.forecasting.fitted import Fitted, FitWindow, Positions, Scaler, fit_scaler
from marketlake.domain.prices import Floats
from marketlake.errors import BadPayload, LookaheadError

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """What models see of each row.

    ``flat`` is [n_rows, n_features], ``sequence`` [n_rows, n_lags, n_channels] with the newest lag
    last; NaN is missing. Nothing in either may be later than the row's session.
    """

    flat: Floats
    sequence: Floats

    def __len__(self) -> int:
        return len(self.flat)

    def rows(self, at: Positions) -> Samples:
        """Return some rows."""
        return Samples(self.flat[at], self.sequence[at])


@dataclass(frozen=True)
class Classifier:
    """One kind of model.

    ``fit(samples, y, seed=, parameters=)`` returns the model of labels 0 and 1;
    ``probability(model, samples)`` P(1) as [n_rows]; ``dump`` and ``load`` are bytes and back,
    ``suffix`` their file name's end.
    """

    name: str
    suffix: str
    parameters: Mapping[str, Any]
    fit: Callable[..., Any]
    probability: Callable[[Any, Samples], Floats]
    dump: Callable[[Any], bytes]
    load: Callable[[bytes], Any]

    def with_parameters(self, **changes: Any) -> Classifier:
        """Return it with other parameters; a name that it does not have is refused."""
        unknown = changes.keys() - self.parameters.keys()
        if unknown:
            raise KeyError(f"{self.name} has no parameters {sorted(unknown)}")
        return replace(self, parameters=MappingProxyType({**self.parameters, **changes}))

    def train(
        self, samples: Samples, y: Labels, *, seed: int, window: FitWindow
    ) -> Fitted[TrainedClassifier]:
        """Fit on all rows given; ``window`` says which labels these are."""
        model = self.fit(samples, y, seed=seed, parameters=self.parameters)
        return Fitted(TrainedClassifier(self, model), window)


@dataclass(frozen=True)
class TrainedClassifier:
    """A classifier with its model."""

    classifier: Classifier
    model: Any

    def probability(self, samples: Samples) -> Floats:
        """Return P(up), [n_rows]; nothing of no rows."""
        if not len(samples):
            return np.empty(0)
        return self.classifier.probability(self.model, samples)

    def dump(self) -> bytes:
        """Return the file that :func:`read` takes."""
        return self.classifier.dump(self.model)


def read(name: str, content: bytes) -> TrainedClassifier:
    """Return a trained classifier from its file; no code in the file is run.

    Raises
    ------
    BadPayload
        When the file is not one that the classifier of that name writes.
    """
    item = classifier(name)
    try:
        return TrainedClassifier(item, item.load(content))
    except BadPayload:
        raise
    except Exception as error:
        raise BadPayload(
            expected=f"a {item.suffix} file written by {name}",
            was=f"{len(content)} bytes that do not load: {error}",
            where="trained model",
            todo="take the file whose hash the ledger has for this model",
        ) from error


# ------------------------------------------------------------------------------------------- linear


@dataclass(frozen=True)
class LinearModel:
    """Coefficients on standardised features; log-odds are ``intercept + Z @ coefficients``."""

    scaler: Scaler
    coefficients: Floats
    intercept: float


def _fit_linear(
    samples: Samples, y: Labels, *, seed: int, parameters: Mapping[str, Any]
) -> LinearModel:
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    scaler = fit_scaler(samples.flat, clip=parameters["clip"])
    Z = scaler.apply(samples.flat)
    share = parameters["l1_share"]
    model = LogisticRegression(
        C=1.0 / (parameters["penalty_per_row"] * len(y)),
        l1_ratio=share,
        solver="saga" if share else "lbfgs",
        max_iter=parameters["max_iter"],
        tol=1e-5,
        random_state=seed,
    )
    # One BLAS thread: with several, the last bits of sums depend on how many there are.
    with threadpool_limits(limits=1, user_api="blas"):
        model.fit(Z, y)
    return LinearModel(scaler, model.coef_[0].copy(), float(model.intercept_[0]))


def _probability_linear(model: LinearModel, samples: Samples) -> Floats:
    from scipy.special import expit

    # einsum, not BLAS: the same sum for a row whatever rows stand beside it.
    logit = np.einsum("ni,i->n", model.scaler.apply(samples.flat), model.coefficients)
    return np.asarray(expit(logit + model.intercept), dtype=np.float64)


def _dump_linear(model: LinearModel) -> bytes:
    return json.dumps(
        {
            "means": model.scaler.means.tolist(),
            "scales": model.scaler.scales.tolist(),
            "clip": model.scaler.clip,
            "coefficients": model.coefficients.tolist(),
            "intercept": model.intercept,
        },
        allow_nan=False,
    ).encode()


def _load_linear(content: bytes) -> LinearModel:
    state = json.loads(content)
    scaler = Scaler(np.array(state["means"]), np.array(state["scales"]), state["clip"])
    return LinearModel(scaler, np.array(state["coefficients"]), state["intercept"])


# ------------------------------------------------------------------------------------------ boosted


def _fit_xgboost(samples: Samples, y: Labels, *, seed: int, parameters: Mapping[str, Any]) -> Any:
    import xgboost

    data = xgboost.QuantileDMatrix(samples.flat, label=y, max_bin=parameters["max_bin"], nthread=2)
    return xgboost.train(
        {
            "objective": "binary:logistic",
            "tree_method": "hist",
            "eta": parameters["learning_rate"],
            "max_depth": parameters["max_depth"],
            "min_child_weight": parameters["min_child_weight"],
            "lambda": parameters["lambda_l2"],
            "colsample_bytree": parameters["feature_fraction"],
            "subsample": parameters["row_fraction"],
            "max_bin": parameters["max_bin"],
            "seed": seed,
            "nthread": 2,
            "verbosity": 0,
        },
        data,
        num_boost_round=parameters["rounds"],
    )


def _probability_xgboost(model: Any, samples: Samples) -> Floats:
    return np.asarray(model.inplace_predict(samples.flat), dtype=np.float64)


def _dump_xgboost(model: Any) -> bytes:
    return bytes(model.save_raw(raw_format="json"))


def _load_xgboost(content: bytes) -> Any:
    import xgboost

    model = xgboost.Booster()
    model.load_model(bytearray(content))
    return model


def _lightgbm_settings(parameters: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {
        **{name: value for name, value in parameters.items() if name != "rounds"},
        "objective": "binary",
        "deterministic": True,
        "force_row_wise": True,
        # The same trees come out of any number of threads; on shared cores one is the fastest.
        "num_threads": 1,
        "verbosity": -1,
        "seed": seed,
    }


def _fit_lightgbm(samples: Samples, y: Labels, *, seed: int, parameters: Mapping[str, Any]) -> Any:
    import lightgbm

    settings = _lightgbm_settings(parameters, seed)
    data = lightgbm.Dataset(samples.flat, label=y, params=settings)
    booster = lightgbm.train(settings, data, num_boost_round=parameters["rounds"])
    return lightgbm.Booster(model_str=booster.model_to_string())


def lightgbm_by_fold(
    item: Classifier,
    samples: Samples,
    y: Labels,
    *,
    trains: Sequence[Positions],
    windows: Sequence[FitWindow],
    seed: int,
) -> list[Fitted[TrainedClassifier]]:
    """Fit LightGBM on each of a walk-forward's training windows, binning rows once where it can.

    A fold takes the bin edges of an earlier one whose columns have what its own have: values to
    split at, and missing ones. Where they differ it begins anew with its own edges, for LightGBM
    would leave out a column that was constant where it was binned, and read one that is missing for
    the first time as 0. So no fold's model depends on rows after its training; it differs from that
    of :meth:`Classifier.train` by its edges only, and by nothing where it has its own.
    ``trains`` ascend: each window holds those before it.

    Raises
    ------
    LookaheadError
        When a window ends before an earlier one, whose edges it might take from its future.
    """
    import lightgbm

    ends = [window.known_by for window in windows]
    if ends != sorted(ends):
        raise LookaheadError(
            expected="training windows in the order of their ends",
            was=", ".join(map(str, ends)),
            where="LightGBM's bin edges, from an early fold",
            todo="put the earliest training window first, or fit the folds one by one",
        )
    settings = _lightgbm_settings(item.parameters, seed)
    found = []
    for run in _runs_of_a_kind(samples.flat, trains):
        first = trains[run[0]]
        edges = lightgbm.Dataset(samples.flat[first], label=y[first], params=settings).construct()
        used = np.unique(np.concatenate([trains[number] for number in run]))
        whole = lightgbm.Dataset(
            samples.flat[used], label=y[used], params=settings, reference=edges
        ).construct()
        for number in run:
            booster = lightgbm.train(
                settings,
                whole.subset(np.searchsorted(used, np.sort(trains[number]))),
                num_boost_round=item.parameters["rounds"],
            )
            model = lightgbm.Booster(model_str=booster.model_to_string())
            found.append(Fitted(TrainedClassifier(item, model), windows[number]))
    return found


def _runs_of_a_kind(X: Floats, trains: Sequence[Positions]) -> list[list[int]]:
    """Return runs of neighbouring windows whose columns vary, and are missing, in the same way."""
    runs: list[list[int]] = []
    kinds: npt.NDArray[np.bool_] | None = None
    for number, at in enumerate(trains):
        rows = X[at]
        varies = np.fmin.reduce(rows, axis=0) < np.fmax.reduce(rows, axis=0)
        own = np.stack([varies, np.isnan(rows).any(axis=0)])
        if kinds is not None and np.array_equal(own, kinds):
            runs[-1].append(number)
        else:
            runs.append([number])
        kinds = own
    return runs


def _probability_lightgbm(model: Any, samples: Samples) -> Floats:
    return np.asarray(model.predict(samples.flat, num_threads=1), dtype=np.float64)


def _dump_lightgbm(model: Any) -> bytes:
    return str(model.model_to_string()).encode()


def _load_lightgbm(content: bytes) -> Any:
    import lightgbm

    return lightgbm.Booster(model_str=content.decode())


def _parameters(**values: Any) -> Mapping[str, Any]:
    return MappingProxyType(values)


def _classifiers() -> tuple[Classifier, ...]:
    from marketlake.domain.forecasting import forest, lstm

    return (
        Classifier(
            "linear",
            ".json",
            _parameters(penalty_per_row=0.02, l1_share=0.0, clip=5.0, max_iter=500),
            _fit_linear,
            _probability_linear,
            _dump_linear,
            _load_linear,
        ),
        Classifier(
            "random_forest",
            ".npz",
            forest.PARAMETERS,
            forest.fit,
            forest.probability,
            forest.dump,
            forest.load,
        ),
        Classifier(
            "xgboost",
            ".json",
            _parameters(
                learning_rate=0.03,
                max_depth=4,
                min_child_weight=50.0,
                lambda_l2=10.0,
                feature_fraction=0.3,
                row_fraction=0.7,
                max_bin=64,
                rounds=150,
            ),
            _fit_xgboost,
            _probability_xgboost,
            _dump_xgboost,
            _load_xgboost,
        ),
        Classifier(
            "lightgbm",
            ".txt",
            _parameters(
                learning_rate=0.03,
                num_leaves=15,
                min_data_in_leaf=200,
                lambda_l2=10.0,
                feature_fraction=0.3,
                bagging_fraction=0.7,
                bagging_freq=1,
                max_bin=63,
                rounds=150,
            ),
            _fit_lightgbm,
            _probability_lightgbm,
            _dump_lightgbm,
            _load_lightgbm,
        ),
        Classifier(
            "lstm",
            ".keras",
            lstm.PARAMETERS,
            lstm.fit,
            lstm.probability,
            lstm.dump,
            lstm.load,
        ),
    )


def classifier(name: str) -> Classifier:
    """Return a classifier by name; KeyError names the known ones."""
    known = {item.name: item for item in CLASSIFIERS}
    if name not in known:
        raise KeyError(f"no classifier {name!r}; there are {list(known)}")
    return known[name]


CLASSIFIERS: tuple[Classifier, ...] = _classifiers()
