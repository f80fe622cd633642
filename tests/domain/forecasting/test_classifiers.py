"""Every model finds what is there, trains the same bytes again, and is read without its code."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marketlake.domain.forecasting import forest, lstm
from marketlake.domain.forecasting.classifiers import (
    CLASSIFIERS,
    Classifier,
    Samples,
    TrainedClassifier,
    classifier,
    lightgbm_by_fold,
    read,
)
from marketlake.domain.forecasting.ensemble import Ensemble, fit_calibration, fit_vote
from marketlake.domain.forecasting.fitted import FitWindow
from marketlake.errors import BadPayload, LookaheadError

from tests.domain.market import weekdays

NAMES = [item.name for item in CLASSIFIERS]
WINDOW = FitWindow.of([date(2020, 1, 1)], [date(2020, 1, 8)])
SMALL = {
    "random_forest": {"trees": 20},
    "xgboost": {"rounds": 20},
    "lightgbm": {"rounds": 20},
    "lstm": {"epochs": 3, "batch_rows": 100, "learning_rate": 0.02},
}


def small(name: str) -> Classifier:
    return classifier(name).with_parameters(**SMALL.get(name, {}))


@lru_cache
def made(seed: int = 0, n: int = 1500) -> tuple[Samples, np.ndarray]:
    rng = np.random.default_rng(seed)
    sequence = rng.normal(size=(n, 5, 4))
    flat = np.concatenate([sequence.reshape(n, -1), rng.normal(size=(n, 3))], axis=1)
    y = (flat[:, 19] + 0.5 * flat[:, 15] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)
    flat[rng.random(flat.shape) < 0.02] = np.nan
    return Samples(flat, sequence), y


@lru_cache
def trained(name: str, seed: int = 1) -> TrainedClassifier:
    samples, y = made()
    return small(name).train(samples, y, seed=seed, window=WINDOW).value


@pytest.mark.parametrize("name", NAMES)
def test_a_model_finds_what_is_there(name: str) -> None:
    samples, y = made(seed=1)
    p = trained(name).probability(samples)
    assert p.shape == (1500,)
    assert ((p > 0) & (p < 1)).all()
    assert ((p > 0.5) == (y == 1)).mean() > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_a_model_read_from_its_file_predicts_the_same_bytes_and_writes_the_same_file(
    name: str,
) -> None:
    samples, _ = made()
    one = trained(name)
    content = one.dump()
    again = read(name, content)
    assert again.probability(samples).tobytes() == one.probability(samples).tobytes()
    assert again.dump() == content


@pytest.mark.parametrize("name", NAMES)
def test_a_row_scores_the_same_whatever_rows_stand_beside_it(name: str) -> None:
    samples, _ = made()
    few = np.array([3, 700, 12])
    whole = trained(name).probability(samples)
    assert trained(name).probability(samples.rows(few)).tobytes() == whole[few].tobytes()
    assert trained(name).probability(samples.rows(few[:0])).shape == (0,)


_AGAIN = """
import hashlib, sys
sys.path.insert(0, sys.argv[1])
from tests.domain.forecasting.test_classifiers import NAMES, trained
print({name: hashlib.sha256(trained(name).dump()).hexdigest() for name in NAMES})
"""


@pytest.mark.slow
def test_another_process_trains_the_same_bytes() -> None:
    import hashlib

    root = os.fspath(__import__("pathlib").Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", _AGAIN, root],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "5"},
        capture_output=True,
        text=True,
        check=True,
    )
    ours = {name: hashlib.sha256(trained(name).dump()).hexdigest() for name in NAMES}
    assert done.stdout.strip().splitlines()[-1] == str(ours)


# Not the LSTM, whose every fit compiles for seconds, and not the linear model, which has no seed.
@pytest.mark.parametrize("name", ["random_forest", "xgboost", "lightgbm"])
def test_another_seed_is_another_model(name: str) -> None:
    samples, _ = made()
    one, other = (trained(name, seed).probability(samples) for seed in (1, 2))
    assert not np.array_equal(one, other)


def test_the_linear_model_is_the_logistic_regression_of_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    samples, y = made()
    whole = Samples(np.nan_to_num(samples.flat), samples.sequence)
    item = classifier("linear").with_parameters(clip=100.0)
    ours = item.train(whole, y, seed=1, window=WINDOW).value.probability(whole)
    Z = StandardScaler().fit_transform(whole.flat)
    theirs = LogisticRegression(C=1 / (0.02 * len(y)), tol=1e-5, max_iter=500).fit(Z, y)
    np.testing.assert_allclose(ours, theirs.predict_proba(Z)[:, 1], atol=1e-9)


def test_an_elastic_net_leaves_features_without_worth_at_0() -> None:
    samples, y = made()
    item = classifier("linear").with_parameters(l1_share=0.9, penalty_per_row=0.1)
    model = item.train(samples, y, seed=1, window=WINDOW).value.model
    assert model.coefficients[19] > 0
    assert (model.coefficients == 0).sum() > 10


def test_folds_that_share_bins_are_those_fitted_alone_but_for_the_edges_of_the_first() -> None:
    samples, y = made()
    item = small("lightgbm")
    days = weekdays(date(2020, 1, 1), 4)
    trains = [np.arange(500), np.arange(1000)]
    windows = [FitWindow.of(days[:1], days[1:2]), FitWindow.of(days[:1], days[2:3])]

    def folds(samples: Samples, y: np.ndarray) -> list[bytes]:
        found = lightgbm_by_fold(item, samples, y, trains=trains, windows=windows, seed=1)
        assert [one.window for one in found] == windows
        return [one.value.dump() for one in found]

    first, second = folds(samples, y)
    alone = item.train(samples.rows(trains[0]), y[trains[0]], seed=1, window=windows[0]).value
    assert first == alone.dump()
    # No edge and no tree knows a row after its fold's training.
    later = samples.flat.copy()
    later[1000:] *= -50
    assert folds(Samples(later, samples.sequence), np.r_[y[:1000], 1 - y[1000:]]) == [first, second]
    later = samples.flat.copy()
    later[500:] *= -50
    assert folds(Samples(later, samples.sequence), y)[0] == first


def test_a_column_that_begins_after_the_first_fold_is_used_from_then_on() -> None:
    samples, y = made()
    X = samples.flat.copy()
    X[:, 3] = np.where(np.arange(len(X)) < 500, np.nan, y + 0.01 * X[:, 4])
    late = Samples(X, samples.sequence)
    days = weekdays(date(2020, 1, 1), 5)
    trains = [np.arange(400), np.arange(800), np.arange(1000)]
    windows = [FitWindow.of(days[:1], days[number : number + 1]) for number in (1, 2, 3)]
    item = small("lightgbm")
    found = lightgbm_by_fold(item, late, y, trains=trains, windows=windows, seed=1)
    alone = [
        item.train(late.rows(at), y[at], seed=1, window=window).value.dump()
        for at, window in zip(trains, windows, strict=True)
    ]
    assert [one.value.dump() for one in found[:2]] == alone[:2], "its own edges until it is there"
    assert [one.window for one in found] == windows
    used = [int(one.value.model.feature_importance()[3]) for one in found]
    assert used[0] == 0
    assert min(used[1:]) > 0


def test_what_a_column_lacks_later_changes_no_earlier_fold() -> None:
    samples, y = made()
    item = small("lightgbm")
    days = weekdays(date(2020, 1, 1), 5)
    trains = [np.arange(500), np.arange(1000), np.arange(1500)]
    windows = [FitWindow.of(days[:1], days[number : number + 1]) for number in (1, 2, 3)]

    def folds(X: np.ndarray) -> list[bytes]:
        shown = Samples(X, samples.sequence)
        found = lightgbm_by_fold(item, shown, y, trains=trains, windows=windows, seed=1)
        return [one.value.dump() for one in found]

    before = folds(samples.flat)
    gap, begins = samples.flat.copy(), samples.flat.copy()
    gap[1400, 3] = np.nan
    assert folds(gap)[:2] == before[:2]
    begins[:1000, 5] = 1.0
    same = folds(begins)[:2]
    begins[1000:, 5] = np.nan
    assert folds(begins)[:2] == same


def test_bin_edges_from_a_later_window_are_refused() -> None:
    samples, y = made()
    days = weekdays(date(2020, 1, 1), 4)
    early, later, last = (FitWindow.of(days[:1], [day]) for day in days[1:])
    trains = [np.arange(500), np.arange(1000)]
    for windows in ([last, early], [early, last, later]):
        with pytest.raises(LookaheadError, match="the earliest training window first"):
            lightgbm_by_fold(
                small("lightgbm"),
                samples,
                y,
                trains=[*trains, np.arange(700)][: len(windows)],
                windows=windows,
                seed=1,
            )


def test_a_forest_is_asked_as_scikit_learn_asks_it() -> None:
    from sklearn.ensemble import RandomForestClassifier

    samples, y = made(n=2500)
    X = samples.flat.astype(np.float32)
    theirs = RandomForestClassifier(
        n_estimators=50, max_depth=7, min_samples_leaf=5, random_state=3
    ).fit(X, y)
    ours = forest.forest_of(theirs)
    assert ours.missing_left.any()
    assert not ours.missing_left.all()
    # All there is to know is whether a value is there: a threshold that nothing is above.
    absent = np.where(np.isnan(X[:, :1]), np.nan, 0.0)
    by_absence = RandomForestClassifier(n_estimators=5, max_depth=1, random_state=3).fit(
        absent, np.isnan(absent[:, 0]).astype(int)
    )
    split = forest.forest_of(by_absence)
    assert np.isinf(split.threshold).any()
    assert forest.dump(forest.load(forest.dump(split))) == forest.dump(split)
    assert np.array_equal(
        forest.probability(split, Samples(absent, samples.sequence)),
        by_absence.predict_proba(absent)[:, 1],
    )
    assert np.array_equal(forest.probability(ours, samples), theirs.predict_proba(X)[:, 1])
    one = samples.rows(np.array([7]))
    assert np.array_equal(forest.probability(ours, one), theirs.predict_proba(X[7:8])[:, 1])
    assert forest.probability(ours, samples.rows(np.empty(0, np.int64))).shape == (0,)
    with pytest.raises(ValueError, match="3 features for a forest of 23"):
        forest.probability(ours, Samples(samples.flat[:, :3], samples.sequence))


@pytest.mark.parametrize(
    "changes",
    [
        {"left": lambda nodes: np.where(np.arange(len(nodes)) == 2, 0, nodes)},
        {"right": lambda nodes: np.where(np.arange(len(nodes)) == 0, len(nodes), nodes)},
        {"feature": lambda numbers: numbers + 23},
        {"right": lambda nodes: np.where(np.arange(len(nodes)) == len(nodes) - 1, 0, nodes)},
        {"roots": lambda roots: roots[:0]},
        {"roots": lambda roots: np.repeat(roots, 9)},
        {"roots": lambda roots: np.where(roots == roots[-1], 2**30, roots)},
        {"up": lambda shares: np.where(shares == shares[0], np.nan, shares)},
        {"threshold": lambda values: np.where(values == values[0], np.nan, values)},
        {"up": lambda shares: shares[:-1]},
        {"threshold": lambda values: values.astype(np.float32)},
        {"up": lambda shares: shares.astype(object)},
        {"code": lambda _: np.zeros(3)},
    ],
    ids=[
        "back",
        "outside",
        "no-such-feature",
        "leaf-goes-on",
        "no-tree",
        "trees-again",
        "tree-outside",
        "no-share",
        "no-threshold",
        "short",
        "type",
        "pickle",
        "more",
    ],
)
def test_a_file_that_is_no_forest_is_refused(changes: dict[str, Callable[..., Any]]) -> None:
    with np.load(io.BytesIO(trained("random_forest").dump())) as file:
        arrays = {name: file[name] for name in file.files}
    for name, change in changes.items():
        arrays[name] = change(arrays.get(name))
    content = io.BytesIO()
    np.savez(content, **arrays)
    for broken in (content.getvalue(), trained("random_forest").dump()[:-100]):
        with pytest.raises(BadPayload, match="do not load"):
            read("random_forest", broken)


def test_a_network_of_other_layers_is_refused() -> None:
    keras = lstm._keras()
    # A Lambda layer is Python bytecode in the file.
    network = keras.Sequential([keras.Input((5, 4)), keras.layers.Lambda(lambda x: x * 2)])
    content = lstm._archive(network, trained("lstm").model.scaler)
    with pytest.raises(BadPayload, match="Lambda"):
        read("lstm", content)


def test_the_networks_forward_pass_is_that_of_keras(tmp_path: Path) -> None:
    samples, _ = made(seed=2)
    model = trained("lstm").model
    file = tmp_path / "lstm_model.keras"
    file.write_bytes(trained("lstm").dump())
    network = lstm._keras().saving.load_model(file, compile=False, safe_mode=True)
    scaled = model.scaler.apply(samples.sequence).astype(np.float32)
    by_keras = np.asarray(network.predict_on_batch(scaled))[:, 0]
    np.testing.assert_allclose(lstm.probability(model, samples), by_keras, atol=2e-6)


def test_linear_forest_and_lstm_load_neither_keras_nor_jax_nor_scikit_learn(tmp_path: Path) -> None:
    # LightGBM and XGBoost import scikit-learn themselves, where it is there.
    names = ["linear", "random_forest", "lstm"]
    for name in names:
        (tmp_path / name).write_bytes(trained(name).dump())
    code = (
        "import sys; from pathlib import Path; import numpy as np;"
        "from marketlake.domain.forecasting.classifiers import Samples, read;"
        "samples = Samples(np.ones((2, 23)), np.ones((2, 5, 4)));"
        "print([read(file.name, file.read_bytes()).probability(samples).shape"
        " for file in Path(sys.argv[1]).iterdir()]);"
        "print(sorted({'keras', 'jax', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    assert done.stdout.split("\n")[:2] == ["[(2,), (2,), (2,)]", "[]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_of_something_else_is_refused(name: str) -> None:
    with pytest.raises(BadPayload, match="the ledger has"):
        read(name, b"\x80\x04no model")


def test_an_unknown_model_or_parameter_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="lightgbm"):
        classifier("oracle")
    with pytest.raises(KeyError, match="leaves"):
        classifier("lightgbm").with_parameters(leaves=3)


def test_an_ensemble_read_from_its_files_predicts_the_same_bytes() -> None:
    samples, y = made()
    members = {name: (trained(name), trained(name, 2)) for name in ("linear", "lightgbm")}
    columns = np.column_stack([trained(name).probability(samples) for name in members])
    vote = fit_vote(list(members), columns, y)
    ensemble = Ensemble(members, vote, fit_calibration(vote.join(columns), y, method="platt"))
    files = ensemble.files()
    assert sorted(files) == [
        "ensemble.json",
        "lightgbm_0.txt",
        "lightgbm_1.txt",
        "linear_0.json",
        "linear_1.json",
    ]
    again = Ensemble.of(files)
    fresh, truth = made(seed=4)
    assert again.probability(fresh).tobytes() == ensemble.probability(fresh).tobytes()
    assert again.files() == files
    assert ((ensemble.probability(fresh) > 0.5) == (truth == 1)).mean() > 0.7
