"""The ensemble as of a session finds what is there, says so of nothing, knows no later label."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from functools import lru_cache

import numpy as np
import polars as pl
import pytest
from marketlake.domain.forecasting import assessment, skill
from marketlake.domain.forecasting.assessment import (
    Panel,
    Profile,
    Trained,
    joined_by_time,
    out_of_fold,
    panel_of,
    samples_of,
    train_ensemble,
)
from marketlake.domain.forecasting.classifiers import Samples, classifier
from marketlake.domain.forecasting.ensemble import Calibration, Ensemble, fit_validator
from marketlake.domain.forecasting.predictor import Predictor
from marketlake.domain.forecasting.validation import walk_forward_splits
from marketlake.errors import BadPayload, ContractViolation, LookaheadError

from tests.domain.market import weekdays

HORIZON, N_SESSIONS, N_SYMBOLS = 3, 160, 15
SESSIONS = weekdays(date(2019, 1, 1), N_SESSIONS + HORIZON)
NAMES = ["signal", "noise_1", "noise_2"]
SMALL = Profile(
    "small",
    {
        "linear": {},
        "random_forest": {"trees": 15, "max_depth": 3},
        "lightgbm": {"rounds": 20, "min_data_in_leaf": 50},
    },
    seeds=(7,),
    folds=4,
    lags=2,
)


def frames(skill: float, seed: int = 0) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Features, labels that the first feature foretells with `skill`, and next returns."""
    rng = np.random.default_rng(seed)
    keys = pl.DataFrame(
        {
            "session": np.repeat(np.array(SESSIONS[:N_SESSIONS], dtype="datetime64[D]"), N_SYMBOLS),
            "symbol": [f"S{number:02d}" for number in range(N_SYMBOLS)] * N_SESSIONS,
        }
    )
    X = rng.normal(size=(keys.height, 3))
    label = 0.02 * (skill * X[:, 0] + rng.normal(size=keys.height))
    ends = np.repeat(np.array(SESSIONS[HORIZON:], dtype="datetime64[D]"), N_SYMBOLS)
    return (
        keys.hstack(pl.DataFrame(X, schema=NAMES)),
        keys.with_columns(label_return=pl.Series(label), label_end=pl.Series(ends)),
        keys.with_columns(next_return=pl.Series(label / HORIZON)),
    )


def panel(skill: float, seed: int = 0) -> Panel:
    features, labels, _ = frames(skill, seed)
    return panel_of(
        features, labels, names=NAMES, sessions=SESSIONS, as_of=SESSIONS[-1], profile=SMALL
    )


@lru_cache(maxsize=2)
def trained(skill: float) -> Trained:
    return train_ensemble(
        panel(skill),
        profile=SMALL,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=frames(skill)[2],
        cost_bps=5.0,
        earlier_trials=10,
        recompute=lambda rng: panel(0.0, int(rng.integers(1000))),
    )


def test_skill_that_is_there_is_found_by_every_model_and_the_ensemble_and_pays() -> None:
    report = trained(1.0).report
    for figures in report["models"].values():
        assert figures["mcc"]["low"] > 0.2
        assert figures["rank_ic"]["low"] > 0.3
    assert report["models"]["ensemble"]["accuracy"]["value"] > 0.7
    assert report["portfolio"]["long_short"]["1"]["sharpe"]["low"] > 0
    assert report["deflated_sharpe"]["value"] > 0.95
    assert report["trials"] == 14
    assert len(report["tried"]) == len(report["models"])


def test_skill_that_is_not_there_is_not_found_and_the_report_is_not_fooled() -> None:
    report = trained(0.0).report
    figures = report["models"]["ensemble"]
    assert figures["mcc"]["low"] < 0 < figures["mcc"]["high"]
    # Three standard errors of a mean over 96 sessions of 15 stocks.
    assert abs(figures["rank_ic"]["value"]) < 0.08
    assert report["deflated_sharpe"]["value"] < 0.95


@pytest.mark.parametrize("skill", [0.0, 1.0])
def test_the_null_panel_of_an_honest_pipeline_is_clean(skill: float) -> None:
    found = trained(skill).report["null_panel"]
    assert found["clean"]
    assert found["not_run"] == []
    assert found["planted_leak"]["value"] > 0.5


def test_a_null_that_was_not_run_is_named_and_is_not_clean() -> None:
    found = assessment.null_panel(
        panel(0.0), horizon=HORIZON, embargo=HORIZON, seed=1, recompute=None
    )
    assert found["not_run"] == ["random_walk_prices"]
    assert not found["clean"]


def test_the_report_is_plain_json_and_counts_each_row_once() -> None:
    report = trained(1.0).report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    n = report["models"]["ensemble"]["n"]
    assert all(figures["n"] == n for figures in report["models"].values())
    assert sum(year["n"] for year in report["models"]["ensemble"]["by_year"].values()) == n
    assert set(report["drift"]) == set(NAMES)
    assert report["importance"][0]["name"] == "signal"
    assert report["importance"][0]["importance"] > 10 * abs(report["importance"][1]["importance"])
    assert 0.6 < report["conformal"]["coverage"] <= 1


def test_what_predicts_was_fitted_by_the_last_label_end_and_serves_no_earlier_session() -> None:
    one = trained(1.0)
    assert one.ensemble.window.known_by == SESSIONS[-1]
    with pytest.raises(LookaheadError):
        one.ensemble.at(SESSIONS[-2])
    ensemble = one.ensemble.at(SESSIONS[-1])
    features = frames(1.0, seed=9)[0]
    _, samples = samples_of(features, names=NAMES, channels=(), lags=SMALL.lags)
    again = Ensemble.of(ensemble.files())
    p = ensemble.probability(samples)
    assert again.probability(samples).tobytes() == p.tobytes()
    right = one.validator.at(SESSIONS[-1]).right(samples, p - 0.5)
    assert right.min() > 0.3
    assert right.max() < 1


def test_training_again_gives_the_same_report() -> None:
    one = trained(1.0)
    features, labels, returns = frames(1.0)
    again = train_ensemble(
        panel_of(
            features.sample(fraction=1.0, shuffle=True, seed=3),
            labels[::-1],
            names=NAMES,
            sessions=SESSIONS,
            as_of=SESSIONS[-1],
            profile=SMALL,
        ),
        profile=SMALL,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=returns[::-1],
        cost_bps=5.0,
        earlier_trials=10,
        recompute=lambda rng: panel(0.0, int(rng.integers(1000))),
    )
    assert json.dumps(again.report) == json.dumps(one.report)
    assert again.ensemble.value.files() == one.ensemble.value.files()


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_a_stack_in_place_of_the_vote_is_fitted_judged_kept_and_predicts(calibration: str) -> None:
    profile = replace(SMALL, join="stack", calibration=calibration)
    one = train_ensemble(
        panel(1.0),
        profile=profile,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=frames(1.0)[2],
        cost_bps=5.0,
        earlier_trials=10,
    )
    vote = trained(1.0).report
    assert one.report["join"] == "stack"
    assert sum(one.report["weights"].values()) == pytest.approx(1.0)
    assert one.report["weights"] != vote["weights"]
    assert one.report["models"]["linear"] == vote["models"]["linear"]
    assert one.report["models"]["ensemble"]["rank_ic"]["low"] > 0.3
    assert one.report["models"]["ensemble"]["calibration_error"] < 0.05
    assert not set(one.report["tried"]) <= set(vote["tried"]), "another ensemble is another trial"
    predictor = Predictor.of_training(one, names=tuple(NAMES), profile=profile)
    later = frames(1.0, seed=9)[0].with_columns(pl.col("session").dt.offset_by("1y"))
    session = later["session"].max()
    again = Predictor.of(predictor.files())
    assert again.forecast(later, session=session).equals(predictor.forecast(later, session=session))


def test_a_predictor_read_from_its_files_forecasts_the_same_bytes_and_nothing_earlier() -> None:
    one = Predictor.of_training(trained(1.0), names=tuple(NAMES), profile=SMALL)
    files = one.files()
    again = Predictor.of(files)
    assert again.files() == files
    later = frames(1.0, seed=9)[0].with_columns(pl.col("session").dt.offset_by("1y"))
    session = later["session"].max()
    found = one.forecast(later, session=session)
    assert found.equals(again.forecast(later, session=session))
    assert found["symbol"].to_list() == sorted(found["symbol"].unique())
    assert found.height == N_SYMBOLS
    assert set(found["conformal_set"]) <= {"up", "down", "both", "none"}
    # The session alone with the lags it needs says the same as a long history.
    window = sorted(later["session"].unique())[-SMALL.lags :]
    assert one.forecast(later.filter(pl.col("session").is_in(window)), session=session).equals(
        found
    )
    changed = pl.concat([later, later.with_columns(pl.col("session").dt.offset_by("1y"))])
    assert one.forecast(changed, session=session).equals(found)
    with pytest.raises(LookaheadError, match="when the last label was known"):
        one.forecast(later, session=SESSIONS[-2])


def test_p_right_is_of_the_side_that_the_signal_takes_where_every_p_is_below_one_half() -> None:
    features = frames(1.0, seed=9)[0].with_columns(pl.col("session").dt.offset_by("1y"))
    session = features["session"].max()
    one = Predictor.of_training(trained(1.0), names=tuple(NAMES), profile=SMALL)
    rng = np.random.default_rng(1)
    score = rng.normal(size=3000)
    up = np.ones(3000, dtype=np.int64)
    # It was taught that the side up is right, the side down wrong.
    taught = fit_validator(
        Samples(rng.normal(size=(3000, 3)), np.zeros((3000, 1, 1))),
        score,
        up,
        seed=1,
        window=one.ensemble.window,
        forest=classifier("random_forest").with_parameters(trees=30, feature_fraction=1.0),
    ).value
    low = Calibration("platt", np.empty(0), np.array([0.01, -1.0]))
    ensemble = replace(one.ensemble, value=replace(one.ensemble.value, calibration=low))
    found = replace(one, ensemble=ensemble, validator=taught).forecast(features, session=session)
    assert found["probability_up"].max() < 0.5
    above = found["vote"] > found["vote"].mean()
    assert 0 < above.sum() < len(above)
    assert found.filter(above)["probability_right"].min() > 0.9
    assert found.filter(~above)["probability_right"].max() < 0.1


def test_the_second_model_is_judged_on_folds_it_had_not_seen() -> None:
    skilled, none = (trained(skill).report["validator"] for skill in (1.0, 0.0))
    assert skilled["share_right"] > 0.7
    # Strong scores are right more often: it knows, and its probabilities beat the share alone.
    assert skilled["brier"]["high"] < skilled["brier_of_share"]
    assert skilled["top_quarter"]["low"] > skilled["share_right"]
    assert none["brier"]["high"] > none["brier_of_share"]


def test_a_figure_that_no_session_has_is_refused() -> None:
    with pytest.raises(ContractViolation, match="a score that is the same for all"):
        skill.mean_interval(np.empty(0), at_least=3, seed=1)


def test_a_session_of_one_symbol_spoils_no_figure() -> None:
    features, labels, returns = frames(0.5)
    alone = (pl.col("session") != SESSIONS[120]) | (pl.col("symbol") == "S00")
    made = panel_of(
        features.filter(alone),
        labels,
        names=NAMES,
        sessions=SESSIONS,
        as_of=SESSIONS[-1],
        profile=SMALL,
    )
    report = train_ensemble(
        made,
        profile=SMALL,
        horizon=HORIZON,
        embargo=HORIZON,
        next_returns=returns,
        cost_bps=5.0,
        earlier_trials=10,
    ).report
    json.dumps(report, allow_nan=False)
    assert report["deflated_sharpe"]["value"] > 0.5


def test_a_predictor_with_an_exchanged_file_is_refused() -> None:
    files = Predictor.of_training(trained(1.0), names=tuple(NAMES), profile=SMALL).files()
    for change in ({"linear_0.json": files["linear_0.json"] + b" "}, {"validator.npz": b""}):
        with pytest.raises(BadPayload, match="with SHA-256"):
            Predictor.of(files | change)
    for change in ({}, {"sha256.json": b"{"}, {"sha256.json": b"[]"}):
        with pytest.raises(BadPayload, match=r"sha256\.json"):
            Predictor.of(change)


@pytest.mark.parametrize("name", ["random_forest_0.npz", "validator.npz"])
def test_a_predictor_of_another_version_says_to_train_again(name: str) -> None:
    files = Predictor.of_training(trained(1.0), names=tuple(NAMES), profile=SMALL).files()
    older = f"{name.partition('.')[0]}.skops"
    files[older] = files.pop(name)
    hashes = json.loads(files["sha256.json"])
    hashes[older] = hashes.pop(name)
    files["sha256.json"] = json.dumps(hashes).encode()
    with pytest.raises(BadPayload, match="marketlake train") as refused:
        Predictor.of(files)
    assert name in str(refused.value)


def test_no_joined_probability_changes_with_later_labels() -> None:
    features, labels, _ = frames(0.5)
    cut = SESSIONS[110]
    rng = np.random.default_rng(5)
    noise = pl.Series(rng.normal(size=labels.height))
    changed = labels.with_columns(
        pl.when(pl.col("label_end") > cut)
        .then(noise)
        .otherwise("label_return")
        .alias("label_return")
    )
    spoiled = features.with_columns(
        pl.when(pl.col("session") > cut).then(9.0).otherwise(pl.col(name)).alias(name)
        for name in NAMES
    )

    def joined(features: pl.DataFrame, labels: pl.DataFrame) -> pl.DataFrame:
        made = panel_of(
            features, labels, names=NAMES, sessions=SESSIONS, as_of=SESSIONS[-1], profile=SMALL
        )
        splits = walk_forward_splits(made.spans, folds=4, embargo=HORIZON)
        found = joined_by_time(
            made, splits, out_of_fold(made, splits, profile=SMALL), profile=SMALL
        )
        keys = made.rows[found["at"].to_numpy()].select("session", "symbol")
        # "covered" compares with what came: it is known when the label has ended.
        return keys.hstack(found.drop("at", "covered")).filter(pl.col("session") <= cut)

    before = joined(features, labels)
    assert before.height > 500
    assert before.equals(joined(spoiled, changed))


def test_features_or_labels_known_later_are_refused() -> None:
    features, labels, _ = frames(0.0)
    for x, y in (
        (features, labels.filter(pl.col("label_end") <= SESSIONS[50])),
        (features.head(15), labels),
    ):
        with pytest.raises(LookaheadError, match="as of the training session"):
            panel_of(x, y, names=NAMES, sessions=SESSIONS, as_of=SESSIONS[50], profile=SMALL)


def test_sequences_hold_a_symbols_own_last_rows_newest_last() -> None:
    features, _, _ = frames(0.0)
    keys, samples = samples_of(features, names=NAMES, channels=("signal",), lags=3)
    at = keys.with_row_index("at").filter(pl.col("symbol") == "S03")["at"].to_numpy()
    own = features.filter(pl.col("symbol") == "S03")["signal"].to_numpy()
    assert samples.sequence.shape == (features.height, 3, 1)
    np.testing.assert_array_equal(samples.sequence[at[10], :, 0], own[8:11])
    assert np.isnan(samples.sequence[at[0], :2, 0]).all()
    np.testing.assert_array_equal(samples.flat[at, 0], own)
