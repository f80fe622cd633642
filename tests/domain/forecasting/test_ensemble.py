"""Joining, calibrating, covering and validating, against scikit-learn and by counting."""

from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.domain.forecasting.classifiers import Samples, classifier
from marketlake.domain.forecasting.ensemble import (
    Calibration,
    fit_calibration,
    fit_conformal,
    fit_stack,
    fit_validator,
    fit_vote,
    log_odds,
)
from marketlake.domain.forecasting.fitted import FitWindow
from marketlake.domain.forecasting.skill import brier, calibration_error
from marketlake.errors import ContractViolation

WINDOW = FitWindow.of([date(2020, 1, 1)], [date(2020, 1, 8)])


def drawn(n: int = 4000, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities and what came of them."""
    rng = np.random.default_rng(seed)
    p = rng.beta(4, 4, n)
    return p, (rng.random(n) < p).astype(np.int64)


def test_a_vote_gives_weight_to_models_that_beat_the_base_rate_and_none_to_noise() -> None:
    p, y = drawn()
    noise = np.random.default_rng(1).beta(2, 2, len(p))
    vote = fit_vote(["knows", "noise", "half"], np.column_stack([p, noise, 0.5 + (p - 0.5) / 2]), y)
    assert vote.weights[1] == 0
    assert vote.weights.sum() == pytest.approx(1)
    assert vote.weights[0] > vote.weights[2] > 0
    equal = fit_vote(["a", "b"], np.column_stack([noise, noise]), y)
    assert equal.weights.tolist() == [0.5, 0.5]


def test_a_stack_is_a_logistic_regression_on_log_odds_and_beats_its_worse_member() -> None:
    p, y = drawn()
    noise = np.random.default_rng(1).beta(2, 2, len(p))
    columns = np.column_stack([p, noise])
    stack = fit_stack(["knows", "noise"], columns, y)
    assert stack.coefficients[0] == pytest.approx(1, abs=0.15)
    assert abs(stack.coefficients[1]) < 0.1
    assert brier(stack.join(columns), y) < brier(noise, y) - 0.02


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_puts_an_overconfident_model_right_on_later_rows(method: str) -> None:
    p, y = drawn(20_000)
    overconfident = 1 / (1 + np.exp(-3 * log_odds(p)))
    earlier, later = slice(0, 10_000), slice(10_000, None)
    found = fit_calibration(overconfident[earlier], y[earlier], method=method)
    before = calibration_error(overconfident[later], y[later])
    after = calibration_error(found.apply(overconfident[later]), y[later])
    assert before > 0.1
    assert after < 0.02
    again = Calibration.of(found.state())
    assert again.apply(overconfident).tobytes() == found.apply(overconfident).tobytes()
    assert (np.diff(found.apply(np.sort(overconfident))) >= 0).all()


def test_platts_slope_is_that_of_an_unpenalised_logistic_regression() -> None:
    from sklearn.linear_model import LogisticRegression

    p, y = drawn(50_000)
    slope, offset = fit_calibration(p, y, method="platt").values
    theirs = LogisticRegression(C=np.inf, tol=1e-10).fit(log_odds(p)[:, None], y)
    # His targets are smoothed by a row or two among 25,000.
    assert slope == pytest.approx(theirs.coef_[0, 0], abs=2e-3)
    assert offset == pytest.approx(theirs.intercept_[0], abs=2e-3)


def test_isotonic_calibration_is_that_of_scikit_learn() -> None:
    from sklearn.isotonic import IsotonicRegression

    p, y = drawn(500)
    theirs = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(p, y)
    grid = np.linspace(0, 1, 301)
    ours = fit_calibration(p, y, method="isotonic").apply(grid)
    np.testing.assert_allclose(ours, theirs.predict(grid), atol=1e-12)


def test_a_score_that_points_the_wrong_way_says_nothing_rather_than_the_opposite() -> None:
    p, y = drawn()
    found = fit_calibration(1 - p, y, method="platt")
    assert np.ptp(found.apply(np.linspace(0.1, 0.9, 9))) == 0
    assert found.apply(np.array([0.3]))[0] == pytest.approx(y.mean(), abs=0.01)


def test_calibration_on_one_direction_is_refused() -> None:
    with pytest.raises(ContractViolation, match="both directions"):
        fit_calibration(np.full(5, 0.5), np.ones(5, dtype=np.int64), method="platt")


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 9999), alpha=st.sampled_from([0.05, 0.1, 0.2]))
def test_conformal_sets_hold_the_truth_as_often_as_they_promise(seed: int, alpha: float) -> None:
    p, y = drawn(4000, seed)
    found = fit_conformal(p[:2000], y[:2000], alpha=alpha)
    sets = found.sets(p[2000:])
    truth = y[2000:]
    for direction in (0, 1):
        covered = sets[truth == direction, direction].mean()
        # Five standard deviations of two samples of a thousand: the worst of many is looked for.
        assert covered > 1 - alpha - 5 * np.sqrt(2 * alpha * (1 - alpha) / 1000)


def test_too_few_calibration_rows_for_alpha_give_both_directions() -> None:
    found = fit_conformal(np.array([0.4, 0.6]), np.array([0, 1]), alpha=0.1)
    assert found.sets(np.array([0.01, 0.99])).all()


def test_a_validator_learns_where_the_first_model_is_right() -> None:
    rng = np.random.default_rng(5)
    n = 4000
    easy = rng.integers(0, 2, n)
    y = rng.integers(0, 2, n)
    # Where it is easy the first model is right nine times in ten, elsewhere one time in two.
    right = rng.random(n) < np.where(easy == 1, 0.9, 0.5)
    p = np.where((y == 1) == right, 0.6, 0.4)
    samples = Samples(
        np.column_stack([easy, rng.normal(size=n)]).astype(float), np.zeros((n, 1, 1))
    )
    half = np.arange(n // 2)
    fitted = fit_validator(
        samples.rows(half),
        p[half] - 0.5,
        y[half],
        seed=1,
        window=WINDOW,
        forest=classifier("random_forest").with_parameters(trees=30, feature_fraction=1.0),
    )
    rest = np.arange(n // 2, n)
    says = fitted.value.right(samples.rows(rest), p[rest] - 0.5)
    assert says[easy[rest] == 1].mean() == pytest.approx(0.9, abs=0.04)
    assert says[easy[rest] == 0].mean() == pytest.approx(0.5, abs=0.05)
    assert fitted.window is WINDOW
