"""Many models as one: weights from out-of-fold performance, stacking, calibration, validation.

Everything here is fitted on out-of-fold probabilities, whose models never saw the label they
forecast, and on labels that ended before the rows it is used on. Probabilities are P(up).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from marketlake.domain.forecasting.classifiers import (
    Classifier,
    Labels,
    Samples,
    TrainedClassifier,
    classifier,
)
from marketlake.domain.forecasting.fitted import Fitted, FitWindow
from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation

_EDGE = 1e-6


def log_odds(probability: Floats) -> Floats:
    """Return log(p / (1 - p)), p kept a millionth away from 0 and 1."""
    clipped = np.clip(probability, _EDGE, 1 - _EDGE)
    return np.asarray(np.log(clipped) - np.log1p(-clipped), dtype=np.float64)


# ------------------------------------------------------------------------------------------ joining


@dataclass(frozen=True)
class Vote:
    """A weighted vote: the weights are at least 0 and sum to 1."""

    names: tuple[str, ...]
    weights: Floats

    @property
    def shares(self) -> Floats:
        """How much each model counts; they sum to 1."""
        return self.weights

    def join(self, probabilities: Floats) -> Floats:
        """Return the weighted mean of [n_rows, n_models]."""
        return np.asarray(np.einsum("nm,m->n", probabilities, self.weights), dtype=np.float64)


def fit_vote(names: Sequence[str], out_of_fold: Floats, y: Labels) -> Vote:
    """Weigh each model by how far its out-of-fold Brier score beats that of the base rate.

    ``out_of_fold`` is [n_rows, n_models] without NaN. Where none beats it all weigh the same.
    """
    base = float(((y.mean() - y) ** 2).mean())
    gains = np.maximum(base - ((out_of_fold - y[:, None]) ** 2).mean(axis=0), 0.0)
    total = gains.sum()
    n = len(names)
    return Vote(tuple(names), gains / total if total > 0 else np.full(n, 1.0 / n))


@dataclass(frozen=True)
class Stack:
    """A logistic regression on the models' log-odds."""

    names: tuple[str, ...]
    coefficients: Floats
    intercept: float

    @property
    def shares(self) -> Floats:
        """How much each model counts, by the size of its coefficient; they sum to 1."""
        sizes = np.abs(self.coefficients)
        total = sizes.sum()
        return sizes / total if total > 0 else np.full(len(sizes), 1.0 / len(sizes))

    def join(self, probabilities: Floats) -> Floats:
        """Return P(up) of [n_rows, n_models]."""
        from scipy.special import expit

        logit = np.einsum("nm,m->n", log_odds(probabilities), self.coefficients)
        return np.asarray(expit(logit + self.intercept), dtype=np.float64)


def fit_stack(
    names: Sequence[str], out_of_fold: Floats, y: Labels, *, penalty_per_row: float = 1e-3
) -> Stack:
    """Fit the stack on out-of-fold probabilities, [n_rows, n_models] without NaN."""
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    model = LogisticRegression(C=1.0 / (penalty_per_row * len(y)), max_iter=500, tol=1e-8)
    with threadpool_limits(limits=1, user_api="blas"):  # as the linear model
        model.fit(log_odds(out_of_fold), y)
    return Stack(tuple(names), model.coef_[0].copy(), float(model.intercept_[0]))


# -------------------------------------------------------------------------------------- calibration


@dataclass(frozen=True)
class Calibration:
    """A rising map from P to P, linear between its knots and flat outside."""

    method: Literal["platt", "isotonic"]
    knots: Floats
    values: Floats

    def apply(self, probability: Floats) -> Floats:
        """Return calibrated probabilities."""
        if self.method == "isotonic":
            return np.asarray(np.interp(probability, self.knots, self.values), dtype=np.float64)
        from scipy.special import expit

        slope, offset = self.values
        return np.asarray(expit(slope * log_odds(probability) + offset), dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "method": self.method,
            "knots": self.knots.tolist(),
            "values": self.values.tolist(),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> Calibration:
        """Return it from its JSON values."""
        return cls(state["method"], np.array(state["knots"]), np.array(state["values"]))


def fit_calibration(
    probability: Floats, y: Labels, *, method: Literal["platt", "isotonic"]
) -> Calibration:
    """Fit on out-of-fold probabilities of labels that ended before those it will be used on.

    Platt (1999) uses his smoothed targets, (n1 + 1) / (n1 + 2) and 1 / (n0 + 2), and a slope of at
    least 0; isotonic is the pool-adjacent-violators fit.
    """
    if not 0 < y.sum() < len(y):
        raise ContractViolation(
            expected="labels of both directions to calibrate on",
            was=f"{int(y.sum())} ups among {len(y)}",
            where="calibration",
            todo="calibrate on a longer window",
        )
    if method == "isotonic":
        from sklearn.isotonic import IsotonicRegression

        model = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(probability, y)
        return Calibration(method, model.X_thresholds_.copy(), model.y_thresholds_.copy())
    ups = float(y.sum())
    downs = len(y) - ups
    targets = np.where(y == 1, (ups + 1) / (ups + 2), 1 / (downs + 2))
    slope, offset = _platt(log_odds(probability), targets)
    if slope < 0:
        # A score that points the wrong way is no reason to bet against it.
        slope, offset = 0.0, float(log_odds(np.array([targets.mean()]))[0])
    return Calibration(method, np.empty(0), np.array([slope, offset]))


def _platt(x: Floats, targets: Floats) -> tuple[float, float]:
    """Newton's method on the cross-entropy of expit(slope x + offset), a ridge of 1e-9."""
    from scipy.special import expit

    A = np.column_stack([x, np.ones_like(x)])
    beta = np.array([0.0, float(log_odds(np.array([targets.mean()]))[0])])
    for _ in range(50):
        p = expit(np.einsum("ni,i->n", A, beta))
        gradient = np.einsum("ni,n->i", A, p - targets)
        curvature = np.einsum("ni,n,nj->ij", A, p * (1 - p), A) + 1e-9 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        beta = beta - step
        if np.abs(step).max() < 1e-12:
            break
    return float(beta[0]), float(beta[1])


@dataclass(frozen=True)
class Conformal:
    """Label-conditional split conformal prediction (Vovk 2012): a threshold for each direction.

    Sets of directions hold the true one with probability ``1 - alpha`` in each class, when
    calibration rows and new rows are exchangeable; over time they are not quite, so coverage is
    reported, never assumed.
    """

    alpha: float
    thresholds: tuple[float, float]

    def sets(self, probability: Floats) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return [n_rows, 2]: whether down and up are in each row's set."""
        scores = np.column_stack([probability, 1 - probability])
        return np.asarray(scores <= np.array(self.thresholds), dtype=np.bool_)


def fit_conformal(probability: Floats, y: Labels, *, alpha: float) -> Conformal:
    """Take from calibration rows how improbable the true direction may look."""
    thresholds = []
    for direction in (0, 1):
        of_class = probability[y == direction]
        scores = np.sort(of_class if direction == 0 else 1 - of_class)
        rank = int(np.ceil((1 - alpha) * (len(scores) + 1)))
        thresholds.append(float(scores[rank - 1]) if 0 < rank <= len(scores) else 1.0)
    return Conformal(alpha, (thresholds[0], thresholds[1]))


# ----------------------------------------------------------------------------------------- ensemble


@dataclass(frozen=True)
class Ensemble:
    """Members, how they are joined, and the calibration of what they say together.

    A member of several seeds is the mean of their probabilities.
    """

    members: Mapping[str, tuple[TrainedClassifier, ...]]
    joint: Vote | Stack
    calibration: Calibration

    def member_probabilities(self, samples: Samples) -> Floats:
        """Return [n_rows, n_models] in the order of ``joint.names``."""
        columns = [
            np.mean([one.probability(samples) for one in self.members[name]], axis=0)
            for name in self.joint.names
        ]
        return np.column_stack(columns)

    def probability(self, samples: Samples) -> Floats:
        """Return calibrated P(up), [n_rows]."""
        return self.calibration.apply(self.joint.join(self.member_probabilities(samples)))

    def files(self) -> dict[str, bytes]:
        """Return its files: one a member and seed, and ``ensemble.json``."""
        weights = (
            {"kind": "vote", "weights": self.joint.weights.tolist()}
            if isinstance(self.joint, Vote)
            else {
                "kind": "stack",
                "coefficients": self.joint.coefficients.tolist(),
                "intercept": self.joint.intercept,
            }
        )
        about = {
            "names": list(self.joint.names),
            "seeds": {name: len(ones) for name, ones in self.members.items()},
            "joint": weights,
            "calibration": self.calibration.state(),
        }
        files = {
            f"{name}_{number}{one.classifier.suffix}": one.dump()
            for name, ones in self.members.items()
            for number, one in enumerate(ones)
        }
        return {**files, "ensemble.json": json.dumps(about, allow_nan=False).encode()}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Ensemble:
        """Return the ensemble of :meth:`files`; no code in them is run."""
        from marketlake.domain.forecasting.classifiers import read

        about = json.loads(files["ensemble.json"])
        names = tuple(about["names"])
        joint = about["joint"]
        return cls(
            {
                name: tuple(
                    read(name, files[f"{name}_{number}{classifier(name).suffix}"])
                    for number in range(seeds)
                )
                for name, seeds in about["seeds"].items()
            },
            Vote(names, np.array(joint["weights"]))
            if joint["kind"] == "vote"
            else Stack(names, np.array(joint["coefficients"]), joint["intercept"]),
            Calibration.of(about["calibration"]),
        )


# --------------------------------------------------------------------------------------- validation


@dataclass(frozen=True)
class Validator:
    """A second model that says of each signal how likely it is right (meta-labelling).

    Lopez de Prado 2018, chapter 3.6: the first model chooses the side, the second, a random forest
    on the same features and the first one's margin, learns from out-of-fold sides which were right.
    A score above 0 is the side up, as of a signal: its vote less the mean vote of the session.
    """

    forest: TrainedClassifier

    def right(self, samples: Samples, score: Floats) -> Floats:
        """Return P(the side of ``score`` is right), [n_rows]."""
        return self.forest.probability(_with_side(samples, score))


def fit_validator(
    samples: Samples,
    score: Floats,
    y: Labels,
    *,
    seed: int,
    window: FitWindow,
    forest: Classifier | None = None,
) -> Fitted[Validator]:
    """Fit on out-of-fold scores of the first model and what came true."""
    trained = (forest or classifier("random_forest")).train(
        _with_side(samples, score), is_right(score, y), seed=seed, window=window
    )
    return Fitted(Validator(trained.value), window)


def is_right(score: Floats, y: Labels) -> Labels:
    """Return 1 where the side of the score is the direction that came, else 0."""
    return np.asarray((score > 0) == (y == 1), dtype=np.int64)


def centred(score: Floats, sessions: npt.NDArray[Any]) -> Floats:
    """Return scores less the mean of their session."""
    at = np.unique(sessions, return_inverse=True)[1]
    mean = np.bincount(at, weights=score) / np.bincount(at)
    return np.asarray(score - mean[at], dtype=np.float64)


def _with_side(samples: Samples, score: Floats) -> Samples:
    side = np.where(score > 0, 1.0, -1.0)
    return Samples(np.column_stack([samples.flat, side, np.abs(score)]), samples.sequence)
