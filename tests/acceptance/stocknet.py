"""StockNet's public split: every model and the ensemble, chosen on train and dev, tested once.

The configuration is committed with its hash; the test rows open for that hash alone. What was tried
on the way is counted, by hand and by the grid. Nothing here was chosen by the test's figures.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from marketlake.domain.forecasting import skill
from marketlake.domain.forecasting.classifiers import CLASSIFIERS, classifier
from marketlake.domain.forecasting.ensemble import (
    fit_calibration,
    fit_conformal,
    fit_validator,
    fit_vote,
)
from marketlake.domain.forecasting.fitted import Fitted, Positions
from marketlake.domain.forecasting.validation import (
    FinalWindow,
    Split,
    lock_final,
    purged,
    tune,
    walk_forward_splits,
)
from marketlake.errors import LookaheadError

from tests.acceptance import figures
from tests.corpora.stocknet_task import LAGS, PAPER_COUNTS, PAPERS, PHASES, Task, read_task

Memory = dict[tuple[Any, ...], np.ndarray]
CONFIGURATION = figures.FOLDER / "stocknet-configuration.json"
FOLDS, TUNING_SEED, SEEDS, BOOTSTRAP_SEED = 5, 1, (1, 2, 3, 4, 5), 20151001
INPUTS = ("price", "price_text")
GRID: dict[str, list[dict[str, Any]]] = {
    "linear": [{"penalty_per_row": 0.2}, {"penalty_per_row": 0.02, "l1_share": 0.5}],
    "random_forest": [
        {"trees": 200, "max_depth": 4, "min_rows_in_leaf": 200},
        {"trees": 200, "max_depth": 7, "min_rows_in_leaf": 100},
    ],
    "xgboost": [{"max_depth": 2, "rounds": 100}, {"max_depth": 4, "rounds": 100}],
    "lightgbm": [
        {"num_leaves": 4, "min_data_in_leaf": 300},
        {"num_leaves": 15, "min_data_in_leaf": 300},
    ],
    "lstm": [{"units": 16, "epochs": 10}],
}
TRIED_BY_HAND = 41
"""Models fitted and looked at on train and dev before the grid: other features, other depths."""
COMMITTED = "84ae1da1ae829f7f5ecd0d544c7ccec7427f8a876099cfead6408026dd7fd7a5"
"""Hash of the one configuration that the test rows open for, whatever a file says of itself."""
COMMITTED_PARAMETERS = "a8277fa1c76dc93ef8d65b144ff5f5acadd90cae78ae40a74294ce9e2961b35f"
"""Hash of all its models' parameters, with those that it leaves at their defaults."""
TARGET = {"accuracy_pct": 58.3, "mcc": 0.09}


def sha256(configuration: Mapping[str, Any]) -> str:
    """Return the hash of a configuration without its own hash."""
    bare = {name: value for name, value in configuration.items() if name != "sha256"}
    return _hash(bare)


def parameters_sha256(configuration: Mapping[str, Any]) -> str:
    """Return the hash of every parameter that its models are fitted with."""
    return _hash(
        {
            name: {
                model: dict(classifier(model).with_parameters(**one["parameters"]).parameters)
                for model, one in models.items()
            }
            for name, models in configuration["models"].items()
        }
    )


def _hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read_configuration(file: Path = CONFIGURATION) -> dict[str, Any] | None:
    """Return the committed configuration, None where none has been chosen yet."""
    if not file.exists():
        return None
    configuration: dict[str, Any] = json.loads(file.read_text())
    require_hash(configuration)
    return configuration


def require_hash(configuration: Mapping[str, Any], committed: str = COMMITTED) -> None:
    """Refuse a configuration that is not the committed one: the test has been looked at.

    Nor may a default that it relies on have moved since.

    Raises
    ------
    LookaheadError
        When its hash is another.
    """
    hashes = {
        "the configuration that was chosen on train and dev": (sha256(configuration), committed),
        "its models' parameters": (parameters_sha256(configuration), COMMITTED_PARAMETERS),
    }
    for what, (was, expected) in hashes.items():
        if was != expected:
            raise LookaheadError(
                expected=f"{what}, {expected}",
                was=was,
                where="StockNet's test period",
                todo="the test period was looked at; judge another configuration on later data",
            )


# ------------------------------------------------------------------------------------------- choice


def locked(task: Task) -> tuple[Positions, FinalWindow]:
    """Return the rows of train and dev, and the test rows behind their lock."""
    # Samples begin the session before their target: that is where the test's first label starts.
    first = task.rows["known"][int(task.phase("test")[0])]
    return lock_final(task.spans, first_session=first)


def windows(task: Task) -> list[Split]:
    """Return the walk-forward within train, and last train against dev; positions in the task."""
    train, dev = task.phase("train"), task.phase("dev")
    within = walk_forward_splits(task.spans.rows(train), folds=FOLDS, embargo=0)
    return [Split(train[one.train], train[one.test], one.groups) for one in within] + [
        purged(task.spans, train=train, test=dev, groups=(FOLDS + 1,), embargo=0)
    ]


def choose(task: Task, memory: Memory) -> dict[str, Any]:
    """Return the configuration: the grid's best mean MCC, for every input and model."""
    splits = windows(task)
    development = np.sort(np.concatenate([task.phase("train"), task.phase("dev")]))
    position = {row: at for at, row in enumerate(development)}
    inner = [
        Split(
            *(np.array([position[row] for row in side]) for side in (one.train, one.test)),
            one.groups,
        )
        for one in splits
    ]
    y = task.rows["up"].to_numpy()
    chosen: dict[str, Any] = {}
    for name in INPUTS:
        for item in CLASSIFIERS:

            def score(
                changes: dict[str, Any],
                fit: Positions,
                test: Positions,
                model: str = item.name,
                name: str = name,
            ) -> float:
                up = _once(memory, task, name, model, changes, fit, test) > 0.5
                return float(skill.mcc(skill.confusion(y[test], up).sum(axis=0)))

            tuned = tune(
                GRID[item.name],
                spans=task.spans,
                train=development,
                inner=lambda spans: inner,
                score=score,
            )
            figures.say(
                f"{name} {item.name}: {[round(float(np.mean(s)), 3) for s in tuned.scores]}"
            )
            chosen.setdefault(name, {})[item.name] = {
                "parameters": GRID[item.name][tuned.chosen],
                "mcc_by_window": [[round(value, 4) for value in scores] for scores in tuned.scores],
            }
    trials = TRIED_BY_HAND + len(INPUTS) * sum(len(candidates) for candidates in GRID.values())
    configuration = {
        "chosen_on": {phase: [str(day) for day in PHASES[phase]] for phase in ("train", "dev")},
        "windows": f"{FOLDS} walk-forward windows within train, then train against dev",
        "by": "mean MCC over the windows",
        "lag_sessions": LAGS,
        "features": task.names,
        "seeds": list(SEEDS),
        "fitted_for_the_test_on": "train and dev",
        "ensemble": "vote, weights by out-of-fold Brier gain; direction by its P(up) > 0.5",
        "trials": trials,
        "models": chosen,
    }
    return {**configuration, "sha256": sha256(configuration)}


def _once(
    memory: Memory,
    task: Task,
    name: str,
    model: str,
    changes: Mapping[str, Any],
    fit: Positions,
    test: Positions,
) -> np.ndarray:
    """Return P(up) of the tuning seed; what was fitted for the choice is not fitted again."""
    key = (name, model, json.dumps(changes), int(fit[-1]), int(test[-1]))
    if key not in memory:
        found = _fit(task, name, model, changes, fit, seed=TUNING_SEED)
        memory[key] = _probability(task, name, found, test)
    return memory[key]


def _fit(
    task: Task, name: str, model: str, changes: Mapping[str, Any], rows: Positions, *, seed: int
) -> Fitted[Any]:
    return (
        classifier(model)
        .with_parameters(**changes)
        .train(
            task.samples[name].rows(rows),
            task.rows["up"].to_numpy()[rows],
            seed=seed,
            window=task.spans.window(rows),
        )
    )


def _probability(task: Task, name: str, found: Fitted[Any], rows: Positions) -> np.ndarray:
    at = task.spans.rows(rows)
    model = found.on(
        [at.sessions[start] for start in at.start], [at.sessions[end] for end in at.end]
    )
    return np.asarray(model.probability(task.samples[name].rows(rows)))


# --------------------------------------------------------------------------------------------- test


def run_test(task: Task, configuration: Mapping[str, Any], memory: Memory) -> dict[str, Any]:
    """Fit on train and dev, open the test rows for the committed configuration, and score."""
    require_hash(configuration)
    development, final = locked(task)
    splits = windows(task)
    test = final.open(COMMITTED)
    y = task.rows["up"].to_numpy()
    found: dict[str, Any] = {}
    for name in INPUTS:
        out_of_fold, tested = {}, {}
        for model, choice in configuration["models"][name].items():
            began = time.perf_counter()
            changes = choice["parameters"]
            out_of_fold[model] = np.concatenate(
                [_once(memory, task, name, model, changes, one.train, one.test) for one in splits]
            )
            tested[model] = np.stack(
                [
                    _probability(
                        task, name, _fit(task, name, model, changes, development, seed=seed), test
                    )
                    for seed in configuration["seeds"]
                ]
            )
            figures.say(f"{name} {model}: {time.perf_counter() - began:.0f} s")
        found[name] = _scored(task, name, splits, out_of_fold, tested, test, y)
    return found


def _scored(
    task: Task,
    name: str,
    splits: list[Split],
    out_of_fold: dict[str, np.ndarray],
    tested: dict[str, np.ndarray],
    test: Positions,
    y: np.ndarray,
) -> dict[str, Any]:
    """Return the figures of each model and of the ensemble of one input."""
    sessions = task.rows["session"].to_numpy()
    seen = np.concatenate([one.test for one in splits])
    known = np.column_stack(list(out_of_fold.values()))
    vote = fit_vote(list(out_of_fold), known, y[seen])
    n_seeds = len(next(iter(tested.values())))
    by_seed = np.stack(
        [vote.join(np.column_stack([p[seed] for p in tested.values()])) for seed in range(n_seeds)]
    )
    joined, joined_known = by_seed.mean(axis=0), vote.join(known)
    calibration = fit_calibration(joined_known, y[seen], method="platt")
    calibrated = calibration.apply(joined)
    conformal = fit_conformal(joined_known, y[seen], alpha=0.2).sets(joined)
    validator = fit_validator(
        task.samples[name].rows(seen),
        joined_known - 0.5,
        y[seen],
        seed=1,
        window=task.spans.window(seen),
    )
    right = validator.value.right(task.samples[name].rows(test), joined - 0.5)
    top = right >= np.quantile(right, 0.75)
    hits = (joined > 0.5) == (y[test] == 1)
    models = {
        model: _figures(sessions[test], probabilities, y[test])
        for model, probabilities in {**tested, "ensemble": by_seed}.items()
    }
    for model, probabilities in {**out_of_fold, "ensemble": joined_known}.items():
        counts = skill.confusion(y[seen], probabilities > 0.5).sum(axis=0)
        models[model]["out_of_fold"] = {
            "accuracy_pct": 100 * float(skill.accuracy(counts)),
            "mcc": float(skill.mcc(counts)),
            "n": len(seen),
        }
    return {
        "models": models,
        "weights": dict(zip(vote.names, vote.weights.tolist(), strict=True)),
        "calibrated": {
            "slope": float(calibration.values[0]),
            "brier": skill.brier(calibrated, y[test]),
            "calibration_error": skill.calibration_error(calibrated, y[test]),
            "by_coverage": skill.accuracy_by_coverage(joined, y[test]),
        },
        "conformal": {
            "alpha": 0.2,
            "coverage": float(conformal[np.arange(len(test)), y[test]].mean()),
            "mean_size": float(conformal.sum(axis=1).mean()),
        },
        "validator": {
            "accuracy_pct_of_the_quarter_it_trusts_most": 100 * float(hits[top].mean()),
            "n": int(top.sum()),
        },
    }


def _figures(sessions: np.ndarray, by_seed: np.ndarray, y: np.ndarray) -> dict[str, Any]:
    """Return the figures of the seeds' mean P(up), and how the single seeds did."""
    whole = skill.direction_figures(
        sessions, by_seed.mean(axis=0), y, horizon=1, seed=BOOTSTRAP_SEED
    )
    counts = np.stack([skill.confusion(y, p > 0.5).sum(axis=0) for p in by_seed])
    accuracies, correlations = 100 * skill.accuracy(counts), skill.mcc(counts)
    percent = {name: 100 * value for name, value in whole["accuracy"].items()}
    return {
        "accuracy_pct": percent,
        "mcc": whole["mcc"],
        "balanced_accuracy_pct": 100 * whole["balanced_accuracy"]["value"],
        "brier": whole["brier"]["value"],
        "calibration_error": whole["calibration_error"],
        "share_forecast_up": whole["share_forecast_up"],
        "seeds": {
            "n": len(by_seed),
            "accuracy_pct": [float(value) for value in accuracies],
            "mcc": [float(value) for value in correlations],
        },
    }


# ------------------------------------------------------------------------------------------ command


def measure(
    shared_data: Path, *, configuration_file: Path = CONFIGURATION, memory: Memory | None = None
) -> dict[str, Any]:
    """Test what is committed; without its file choose again, which must come to the same."""
    task = read_task(shared_data)
    memory = {} if memory is None else memory
    configuration = read_configuration(configuration_file)
    if configuration is None:
        configuration = choose(task, memory)
        configuration_file.write_text(json.dumps(configuration, indent=2) + "\n")
        figures.say(f"wrote {configuration_file}")
    y, test = task.rows["up"].to_numpy(), task.phase("test")
    return {
        "configuration_sha256": configuration["sha256"],
        "trials": configuration["trials"],
        "samples": {phase: len(task.phase(phase)) for phase in PHASES},
        "samples_of_the_paper": PAPER_COUNTS,
        "base_rate_pct": 100 * float(max(y[test].mean(), 1 - y[test].mean())),
        "share_up": float(y[test].mean()),
        "papers": {
            name: {"accuracy_pct": 100 * one["accuracy"], "mcc": one["mcc"]}
            for name, one in PAPERS.items()
        },
        "target": TARGET,
        "results": run_test(task, configuration, memory),
        "intervals": "stationary bootstrap over sessions, 95 %; wilson counts every row as new",
    }


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    best = found["results"]["price_text"]["models"]["ensemble"]
    met = (
        best["accuracy_pct"]["value"] > TARGET["accuracy_pct"]
        and best["mcc"]["value"] > TARGET["mcc"]
    )
    return [] if met else [f"the ensemble's accuracy and MCC are not above {TARGET}"]


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    rows = [
        (
            name,
            model,
            one["accuracy_pct"]["value"],
            f"{one['accuracy_pct']['low']:.1f} .. {one['accuracy_pct']['high']:.1f}",
            f"{one['mcc']['value']:+.3f}",
            f"{one['mcc']['low']:+.3f} .. {one['mcc']['high']:+.3f}",
            f"{min(one['seeds']['accuracy_pct']):.1f} .. {max(one['seeds']['accuracy_pct']):.1f}",
            f"{one['out_of_fold']['mcc']:+.3f}",
        )
        for name, result in found["results"].items()
        for model, one in result["models"].items()
    ]
    rows += [
        ("", name, one["accuracy_pct"], "", f"{one['mcc']:+.3f}", "", "", "")
        for name, one in found["papers"].items()
    ]
    figures.table(
        f"StockNet, {found['samples']['test']} movements, base rate {found['base_rate_pct']:.1f} %",
        ("input", "model", "accuracy %", "95 %", "MCC", "95 %", "by seed", "MCC before"),
        rows,
    )
    figures.say(f"samples {found['samples']}, paper {found['samples_of_the_paper']}")
    figures.say(f"{found['trials']} configurations tried before the test")
