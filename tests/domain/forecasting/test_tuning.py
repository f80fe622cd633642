"""The search stays inside the rows it is given, counts every trial, and finds what is better."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np
import pytest
from marketlake.domain.forecasting.assessment import Profile, train_ensemble
from marketlake.domain.forecasting.classifiers import Samples
from marketlake.domain.forecasting.tuning import SPACES, Tuned, tune
from marketlake.domain.forecasting.validation import LabelSpans

from tests.domain.forecasting.test_assessment import HORIZON, SMALL, frames, panel
from tests.domain.market import weekdays

N_SESSIONS, N_SYMBOLS = 150, 20
DAYS = weekdays(date(2020, 1, 1), N_SESSIONS + 5)
# Far too cautious for what is there: trees of so large leaves cannot split.
GIVEN = {"rounds": 15, "min_data_in_leaf": 1000, "learning_rate": 0.01}


@lru_cache
def made() -> tuple[Samples, np.ndarray, LabelSpans]:
    rng = np.random.default_rng(3)
    n = N_SESSIONS * N_SYMBOLS
    X = rng.normal(size=(n, 4))
    y = (X[:, 0] + 0.5 * rng.normal(size=n) > 0).astype(np.int64)
    starts = np.repeat(np.arange(N_SESSIONS), N_SYMBOLS)
    spans = LabelSpans.of(
        [DAYS[at] for at in starts], [DAYS[at + 5] for at in starts], sessions=DAYS
    )
    return Samples(X, X[:, None]), y, spans


def searched(y: np.ndarray | None = None, *, rows: int = 2400) -> Tuned:
    samples, own, spans = made()
    return tune(
        "lightgbm",
        GIVEN,
        samples=samples,
        y=own if y is None else y,
        spans=spans,
        at=np.arange(rows),
        trials=8,
        embargo=5,
        seed=1,
    )


def test_the_given_parameters_are_the_first_trial_and_better_ones_are_found() -> None:
    found = searched()
    assert len(found.trials) == 8
    first = found.trials[0]
    assert first["model"] == "lightgbm"
    assert first["parameters"]["min_data_in_leaf"] == 1000
    best = min(trial["brier"] for trial in found.trials)
    assert best < first["brier"] - 0.005
    assert found.parameters["rounds"] == 15
    for name, where in SPACES["lightgbm"].items():
        assert where.low <= found.parameters[name] <= where.high


def test_the_same_search_gives_the_same_trials_and_sees_no_row_that_it_was_not_given() -> None:
    _, y, _ = made()
    later = y.copy()
    later[2400:] = 1 - later[2400:]
    assert searched(later) == searched()


def test_a_tuned_training_counts_each_trial_and_reports_what_was_chosen() -> None:
    profile: Profile = replace(SMALL, tuned={"lightgbm": 3})
    trained = train_ensemble(
        panel(1.0),
        profile=profile,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=frames(1.0)[2],
        cost_bps=5.0,
        earlier_trials=10,
    )
    tried = trained.report["tuning"]
    assert len(tried) == 3
    # The chosen LightGBM is one of its three trials.
    assert trained.report["trials"] == 10 + 3 + (len(SMALL.models) - 1) + 1
    assert trained.report["deflated_sharpe"]["trials"] == trained.report["trials"]
    chosen = trained.profile.models["lightgbm"]
    best = min(tried, key=lambda trial: trial["brier"])
    assert {name: chosen[name] for name in best["parameters"]} == best["parameters"]


@pytest.mark.parametrize("name", SPACES)
def test_every_parameter_of_a_space_is_one_of_its_model(name: str) -> None:
    from marketlake.domain.forecasting.classifiers import classifier

    assert set(SPACES[name]) <= set(classifier(name).parameters)
