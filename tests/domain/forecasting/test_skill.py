"""Figures against scikit-learn, scipy, arch, the papers' worked examples, and by hand."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.domain.forecasting import nulls, portfolio, selection, skill
from marketlake.errors import ContractViolation
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    matthews_corrcoef,
)

from tests.domain.market import weekdays


def drawn(n: int = 500, seed: int = 0, skill_of: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.beta(2, 2, n)
    return p, (rng.random(n) < 0.5 + skill_of * (p - 0.5)).astype(np.int64)


# ---------------------------------------------------------------------------------------- direction


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 9999), n=st.integers(2, 300))
def test_figures_of_direction_are_those_of_scikit_learn(seed: int, n: int) -> None:
    p, y = drawn(n, seed)
    up = p > 0.5
    counts = skill.confusion(y, up).sum(axis=0)
    assert float(skill.mcc(counts)) == pytest.approx(matthews_corrcoef(y, up), abs=1e-12)
    assert float(skill.accuracy(counts)) == pytest.approx((up == y).mean())
    if 0 < y.sum() < n:
        assert float(skill.balanced_accuracy(counts)) == pytest.approx(
            balanced_accuracy_score(y, up)
        )
        assert skill.brier(p, y) == pytest.approx(brier_score_loss(y, p))


def test_calibration_error_by_hand() -> None:
    p = np.array([0.05, 0.15, 0.15, 0.95, 0.95])
    y = np.array([0, 0, 1, 1, 1])
    # Bins: {0.05} gap 0.05; {0.15, 0.15} mean 0.15 against 0.5, gap 0.35; {0.95, 0.95} gap 0.05.
    assert skill.calibration_error(p, y) == pytest.approx((0.05 + 2 * 0.35 + 2 * 0.05) / 5)
    assert [row["n"] for row in skill.reliability(p, y)] == [1, 2, 2]


def test_accuracy_rises_as_coverage_falls_when_confidence_means_something() -> None:
    p, y = drawn(20_000)
    curve = skill.accuracy_by_coverage(p, y)
    assert [row["coverage"] for row in curve] == pytest.approx([0.1, 0.25, 0.5, 0.75, 1.0])
    assert [row["accuracy"] for row in curve] == sorted(
        (row["accuracy"] for row in curve), reverse=True
    )
    assert curve[-1]["accuracy"] == pytest.approx(((p > 0.5) == y).mean())
    flat = skill.accuracy_by_coverage(np.full(100, 0.6), np.ones(100, dtype=np.int64))
    assert all(row["n"] == 100 for row in flat), "rows that tie come in together"


def scored_frame(seed: int = 0, n_sessions: int = 40, skill_of: float = 0.3) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    score = rng.normal(size=n_sessions * 20)
    return pl.DataFrame(
        {
            "session": np.repeat(
                np.array(weekdays(date(2020, 1, 1), n_sessions), dtype="datetime64[D]"), 20
            ),
            "symbol": [f"S{number:02d}" for number in range(20)] * n_sessions,
            "score": score,
            "label_return": skill_of * score + rng.normal(size=len(score)),
        }
    )


def test_information_coefficients_are_those_of_scipy() -> None:
    scored = scored_frame()
    for session, ic, rank_ic in skill.information_coefficients(scored).iter_rows():
        rows = scored.filter(pl.col("session") == session)
        x, y = rows["score"].to_numpy(), rows["label_return"].to_numpy()
        assert ic == pytest.approx(pearsonr(x, y).statistic)
        assert rank_ic == pytest.approx(spearmanr(x, y).statistic)


def test_the_mean_and_the_ratio_of_daily_correlations_come_with_intervals_around_them() -> None:
    scored = scored_frame(n_sessions=200)
    found = skill.score_figures(scored, horizon=1, seed=1)
    daily = skill.information_coefficients(scored)["rank_ic"].to_numpy()
    assert found["rank_ic"]["value"] == pytest.approx(daily.mean())
    assert found["rank_ic_ir"]["value"] == pytest.approx(daily.mean() / daily.std())
    for name in ("ic", "rank_ic", "ic_ir", "rank_ic_ir"):
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    # Independent sessions: the bootstrap's interval is about that of a mean.
    width = found["rank_ic"]["high"] - found["rank_ic"]["low"]
    assert width == pytest.approx(2 * 1.96 * daily.std() / np.sqrt(200), rel=0.25)


def test_the_stationary_bootstrap_is_that_of_arch() -> None:
    from arch.bootstrap import StationaryBootstrap

    series = np.random.default_rng(2).normal(0.1, 1.0, 300)
    sums = np.column_stack([series, np.ones(300)])
    ours = skill.interval(sums, lambda s: s[..., 0] / s[..., 1], block=5, seed=11, repeats=1000)
    theirs = StationaryBootstrap(5, series, seed=np.random.default_rng(11)).conf_int(
        lambda x: x.mean(), reps=1000, method="percentile", size=0.95
    )
    assert (ours["low"], ours["high"]) == pytest.approx(tuple(theirs[:, 0]))


def test_rows_that_move_together_are_not_counted_as_new_evidence() -> None:
    rng = np.random.default_rng(3)
    sessions = np.repeat(np.arange(60), 50)
    # All rows of a session are right or wrong together.
    y = rng.integers(0, 2, len(sessions))
    p = np.where(np.repeat(rng.random(60) < 0.5, 50) == (y == 1), 0.6, 0.4)
    found = skill.direction_figures(sessions, p, y, horizon=1, seed=1, repeats=500)
    accuracy = found["accuracy"]
    assert accuracy["high"] - accuracy["low"] > 4 * (
        accuracy["wilson_high"] - accuracy["wilson_low"]
    )


def test_figures_of_direction_do_not_depend_on_the_order_of_the_rows() -> None:
    p, y = drawn(600)
    sessions = np.repeat(np.arange(60), 10)
    turned = np.random.default_rng(0).permutation(600)
    one = skill.direction_figures(sessions, p, y, horizon=1, seed=1, repeats=200)
    other = skill.direction_figures(
        sessions[turned], p[turned], y[turned], horizon=1, seed=1, repeats=200
    )
    assert one["accuracy"] == pytest.approx(other["accuracy"])
    assert one["mcc"] == pytest.approx(other["mcc"])


def test_permutation_importance_is_near_that_of_scikit_learn_and_0_for_noise() -> None:
    from sklearn.inspection import permutation_importance
    from sklearn.linear_model import LinearRegression

    rng = np.random.default_rng(4)
    X = rng.normal(size=(2000, 3))
    y = X[:, 0] + 0.5 * X[:, 1] + 0.1 * rng.normal(size=2000)
    model = LinearRegression().fit(X, y)
    theirs = permutation_importance(model, X, y, n_repeats=10, random_state=0).importances_mean
    ours = skill.permutation_importance(
        lambda Z: float(model.score(Z, y)), X, names=["a", "b", "c"], repeats=10, seed=0
    )
    assert ours["name"].to_list() == ["a", "b", "c"]
    assert ours["importance"].to_list() == pytest.approx(theirs.tolist(), rel=0.05, abs=1e-3)


def test_population_stability_by_hand_and_at_its_usual_marks() -> None:
    before = np.repeat([0.0, 1.0], 50)
    after = np.repeat([0.0, 1.0], [30, 70])
    # Two bins, 50 % / 50 % against 30 % / 70 %.
    expected = (0.3 - 0.5) * np.log(0.3 / 0.5) + (0.7 - 0.5) * np.log(0.7 / 0.5)
    assert skill.population_stability(before, after, bins=2) == pytest.approx(expected)
    rng = np.random.default_rng(5)
    train = rng.normal(size=5000)
    assert skill.population_stability(train, rng.normal(size=5000)) < 0.02
    assert skill.population_stability(train, rng.normal(1.0, 1.0, 5000)) > 0.25
    missing = np.where(rng.random(5000) < 0.5, np.nan, train)
    assert skill.population_stability(train, missing) > 0.25


# ---------------------------------------------------------------------------------------- selection


def test_the_deflated_sharpe_ratio_of_the_papers_worked_example() -> None:
    # Bailey and Lopez de Prado 2014, "A numerical example": annual SR 2.5 over 1,250 days, skew -3,
    # kurtosis 10, variance of the trials' annual SR 1/2: 100 trials give 0.1132 and 0.9004.
    sharpe, variance = 2.5 / np.sqrt(250), 0.5 / 250
    assert selection.expected_best_sharpe(variance, trials=100) == pytest.approx(0.1132, abs=1e-4)
    shape = {"n": 1250, "variance": variance, "skew": -3.0, "kurtosis": 10.0}
    assert selection.deflated_sharpe(sharpe, trials=100, **shape) == pytest.approx(0.9004, abs=1e-4)
    # With 46 trials the same paper's strategy is at the 95 % level.
    assert selection.deflated_sharpe(sharpe, trials=46, **shape) == pytest.approx(0.9505, abs=1e-3)


def test_the_probabilistic_sharpe_ratio_of_the_papers_worked_example() -> None:
    # Bailey and Lopez de Prado 2012: two years of months, annual SR 1.59, skew -2.448, kurtosis
    # 10.164: 0.913, and 0.982 if returns were normal.
    sharpe = 0.458
    assert selection.probabilistic_sharpe(
        sharpe, benchmark=0.0, n=24, skew=-2.448, kurtosis=10.164
    ) == pytest.approx(0.913, abs=2e-3)
    assert selection.probabilistic_sharpe(sharpe, benchmark=0.0, n=24) == pytest.approx(
        0.982, abs=2e-3
    )


def test_one_trial_is_not_deflated() -> None:
    assert selection.expected_best_sharpe(1.0, trials=1) == 0.0


def test_the_expected_best_of_many_is_about_that_of_a_simulation() -> None:
    best = np.random.default_rng(0).normal(size=(20_000, 50)).max(axis=1).mean()
    assert selection.expected_best_sharpe(1.0, trials=50) == pytest.approx(best, rel=0.02)


def test_choosing_among_noise_is_overfitting_and_among_skill_is_not() -> None:
    rng = np.random.default_rng(1)
    noise = [
        selection.backtest_overfitting(rng.normal(size=(240, 20)), blocks=8)["pbo"]
        for _ in range(30)
    ]
    assert np.mean(noise) == pytest.approx(0.5, abs=0.12)
    returns = rng.normal(size=(240, 20))
    returns[:, 7] += 1.0
    found = selection.backtest_overfitting(returns, blocks=8)
    assert found["pbo"] == 0.0
    assert found["loss"] == 0.0
    assert len(found["logits"]) == 70


def test_the_probability_of_overfitting_is_what_plain_counting_gives() -> None:
    from itertools import combinations

    returns = np.random.default_rng(7).normal(size=(42, 5))
    runs = np.array_split(np.arange(42), 6)
    below = []
    for chosen in combinations(range(6), 3):
        inside = np.concatenate([runs[number] for number in chosen])
        outside = np.setdiff1d(np.arange(42), inside)
        ratios = [
            returns[rows].mean(axis=0) / returns[rows].std(axis=0) for rows in (inside, outside)
        ]
        rank = spearman_rank(ratios[1])[int(np.argmax(ratios[0]))]
        below.append(rank / 6 <= 0.5)
    assert selection.backtest_overfitting(returns, blocks=6)["pbo"] == pytest.approx(np.mean(below))


def spearman_rank(values: np.ndarray) -> np.ndarray:
    return values.argsort().argsort() + 1


def test_an_odd_number_of_blocks_or_a_single_trial_is_refused() -> None:
    for shape, blocks in (((50, 4), 7), ((50, 1), 8), ((5, 4), 8)):
        with pytest.raises(ContractViolation, match="every trial"):
            selection.backtest_overfitting(np.zeros(shape), blocks=blocks)


# ---------------------------------------------------------------------------------------- portfolio


def test_a_portfolio_by_hand_with_its_costs() -> None:
    monday, tuesday = weekdays(date(2022, 8, 22), 2)
    scored = pl.DataFrame(
        {
            "session": [monday] * 4 + [tuesday] * 4,
            "symbol": ["A", "B", "C", "D"] * 2,
            "score": [4.0, 3.0, 2.0, 1.0, 1.0, 2.0, 3.0, 4.0],
            "next_return": [0.02, 0.0, 0.0, -0.04, 0.01, 0.0, 0.0, 0.03],
        }
    )
    returns = scored.select("session", "symbol", "next_return")
    sessions, symbols, book = portfolio.weights_of(
        scored, share=0.25, holding_sessions=1, long_only=False
    )
    assert sessions.to_list() == [monday, tuesday]
    assert symbols == ["A", "B", "C", "D"]
    assert book.tolist() == [[0.5, 0, 0, -0.5], [-0.5, 0, 0, 0.5]]
    found = portfolio.portfolio(scored, returns, cost_bps=100.0, share=0.25)
    # Monday: 0.5 x 2 % + 0.5 x 4 % = 3 %, traded 1. Tuesday: -0.5 % + 1.5 % = 1 %; held by then
    # 0.5 x 1.02 / 1.03 and -0.5 x 0.96 / 1.03.
    traded = (0.5 + 0.5 * 1.02 / 1.03) + (0.5 + 0.5 * 0.96 / 1.03)
    free, once = (found["long_short"][multiple] for multiple in ("0", "1"))
    assert free["annual_return"]["value"] == pytest.approx(252 * 0.02)
    assert once["annual_return"]["value"] == pytest.approx(252 * (0.04 - 0.01 * (1 + traded)) / 2)
    assert found["long_only"]["0"]["annual_return"]["value"] == pytest.approx(252 * 0.025)


def test_costs_only_take_and_twice_as_much_at_twice_the_costs() -> None:
    scored = scored_frame(n_sessions=60)
    returns = scored.select("session", "symbol", next_return=0.01 * pl.col("label_return"))
    found = portfolio.portfolio(scored, returns, cost_bps=5.0, holding_sessions=5)
    for name in ("long_short", "long_only"):
        none, once, twice = (found[name][m]["annual_return"]["value"] for m in ("0", "1", "2"))
        assert none > once > twice
        assert none - once == pytest.approx(once - twice)


def test_equal_scores_share_their_places_whatever_their_names() -> None:
    days = weekdays(date(2022, 8, 22), 3)
    scored = pl.DataFrame(
        {
            "session": [day for day in days for _ in range(4)],
            "symbol": ["A", "B", "C", "D"] * 3,
            # All the same; two at the top; a pair in the middle.
            "score": [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 0.0, 3.0, 1.0, 1.0, 0.0],
        }
    )
    for shuffled in (scored, scored[::-1]):
        _, _, book = portfolio.weights_of(shuffled, share=0.25, holding_sessions=1, long_only=False)
        assert book.tolist() == [[0, 0, 0, 0], [0.25, 0.25, 0, -0.5], [0.5, 0, 0, -0.5]]
        _, _, book = portfolio.weights_of(shuffled, share=0.5, holding_sessions=1, long_only=True)
        assert book.tolist() == [[0.25] * 4, [0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0]]


def test_what_is_still_held_earns_on_sessions_that_do_not_score_it_any_more() -> None:
    days = weekdays(date(2022, 8, 22), 30)
    keys = pl.DataFrame({"session": np.repeat(np.array(days, dtype="datetime64[D]"), 4)})
    keys = keys.with_columns(symbol=pl.Series(["A", "B", "C", "D"] * 30))
    scored = keys.with_columns(
        score=pl.col("symbol").replace_strict({"A": 4.0, "B": 3.0, "C": 2.0, "D": 1.0})
    )
    # A's label needs a close that never comes: its last scored session is the 15th. It falls on.
    known = scored.filter((pl.col("symbol") != "A") | (pl.col("session") < days[15]))
    falls = (pl.col("symbol") == "A") & pl.col("session").is_between(days[15], days[18])
    returns = keys.with_columns(next_return=pl.when(falls).then(-0.1).otherwise(0.0))
    found = portfolio.portfolio(known, returns, cost_bps=0.0, share=0.25, holding_sessions=5)
    lost = -0.1 * (0.8 + 0.6 + 0.4 + 0.2)
    assert found["long_only"]["0"]["annual_return"]["value"] == pytest.approx(252 * lost / 30)


def test_a_book_of_several_sessions_is_the_mean_of_their_choices_and_trades_less() -> None:
    scored = scored_frame(n_sessions=60)
    _, _, daily = portfolio.weights_of(scored, share=0.2, holding_sessions=1, long_only=False)
    _, _, held = portfolio.weights_of(scored, share=0.2, holding_sessions=5, long_only=False)
    np.testing.assert_allclose(held[10], daily[6:11].mean(axis=0), atol=1e-15)
    assert np.abs(np.diff(held, axis=0)).sum() < 0.5 * np.abs(np.diff(daily, axis=0)).sum()
    np.testing.assert_allclose(daily.sum(axis=1), 0, atol=1e-12)


# -------------------------------------------------------------------------------------------- nulls


def test_shuffled_labels_stay_in_their_session() -> None:
    sessions = np.repeat([3, 1, 2], [4, 5, 6])
    values = np.arange(15.0)
    dealt = nulls.shuffled(values, sessions, rng=np.random.default_rng(1))
    assert not np.array_equal(dealt, values)
    for session in (1, 2, 3):
        assert sorted(dealt[sessions == session]) == sorted(values[sessions == session])


def test_random_walk_prices_keep_every_move_and_gap_but_no_direction_and_no_memory() -> None:
    rng = np.random.default_rng(2)
    steps = np.cumsum(
        0.01 * np.convolve(rng.normal(size=3009), np.ones(10), "valid")[:, None], axis=0
    )
    closes = 50 * np.exp(steps)
    closes[100:110] = np.nan
    walked = nulls.random_walk(closes, rng=rng)
    assert np.array_equal(np.isnan(walked), np.isnan(closes))
    moves, was = (np.diff(np.log(x[~np.isnan(x)])) for x in (walked, closes))
    np.testing.assert_allclose(np.abs(moves), np.abs(was), atol=1e-12)
    assert abs((moves > 0).mean() - 0.5) < 0.04
    assert abs(np.corrcoef(moves[1:], moves[:-1])[0, 1]) < 0.06
    assert np.corrcoef(was[1:], was[:-1])[0, 1] > 0.8


def test_a_random_walk_does_not_return_to_where_it_ended() -> None:
    rng = np.random.default_rng(4)
    closes = 50 * np.exp(np.cumsum(0.02 * rng.normal(size=(1512, 500)), axis=0))
    walked = np.log(nulls.random_walk(closes, rng=rng))
    past, future = walked[252:-5:5] - walked[:-257:5], walked[257::5] - walked[252:-5:5]
    daily = [
        np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1]
        for a, b in zip(past, future, strict=True)
    ]
    # Of 251 sessions without overlap, 500 symbols each: four standard errors.
    assert abs(np.mean(daily)) < 4 / np.sqrt(500 * len(daily))


def test_the_null_panel_is_clean_only_if_nulls_score_nothing_and_the_leak_is_caught() -> None:
    nothing = {"value": 0.01, "low": -0.01, "high": 0.03}
    something = {"value": 0.04, "low": 0.01, "high": 0.07}
    leak = {"value": 0.9, "low": 0.88, "high": 0.92}
    clean = nulls.verdict(shuffled_labels=nothing, random_walk_prices=nothing, planted_leak=leak)
    assert clean["clean"]
    for spoiled in (
        {"shuffled_labels": something},
        {"random_walk_prices": something},
        {"planted_leak": something},
    ):
        figures = {
            "shuffled_labels": nothing,
            "random_walk_prices": nothing,
            "planted_leak": leak,
            **spoiled,
        }
        assert not nulls.verdict(**figures)["clean"]
