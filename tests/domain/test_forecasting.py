"""Forecasting: labels by hand, figures against statsmodels, scikit-learn and scipy, and skill."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from datetime import date, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.contracts.catalog import contract
from marketlake.contracts.features import FEATURES
from marketlake.domain import forecasting
from marketlake.domain.forecasting import metrics, models, splits
from marketlake.errors import ContractViolation, LookaheadError
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from tests.domain.market import NO_ACTIONS, actions_of, bars_of, made_market, weekdays

NAMES = [item.name for item in FEATURES]
MON, TUE, WED, THU, FRI = weekdays(date(2022, 8, 22), 5)


# ------------------------------------------------------------------------------------------- labels


def test_a_label_is_the_return_over_the_horizon_above_the_mean_of_the_universe() -> None:
    closes = np.array([[100.0, 10.0], [101.0, 10.0], [103.0, 11.0], [104.0, 12.0], [99.0, 9.0]])
    got = forecasting.labels(
        bars_of(closes, sessions=[MON, TUE, WED, THU, FRI], symbols=["A", "B"]),
        NO_ACTIONS,
        sessions=[MON, TUE, WED, THU, FRI],
        symbols=["A", "B"],
        horizon=2,
    )
    assert got["session"].to_list() == [MON, MON, TUE, TUE, WED, WED]
    assert got["label_end"].to_list() == [WED, WED, THU, THU, FRI, FRI]
    # Monday: A +3 %, B +10 %, mean 6.5 %.
    assert got["label_return"].to_list()[:2] == pytest.approx([-0.035, 0.035], rel=1e-12)


def test_a_label_leaves_actions_out_and_needs_both_ends() -> None:
    closes = np.array([[100.0, 10.0, 5.0], [100.0, 10.0, 5.0], [50.0, 9.9, np.nan]])
    got = forecasting.labels(
        bars_of(closes, sessions=[MON, TUE, WED], symbols=["A", "B", "C"]),
        actions_of((WED, "A", 2.0, None), (TUE, "B", None, 0.1)),
        sessions=[MON, TUE, WED],
        symbols=["A", "B", "C"],
        horizon=2,
    )
    assert got["symbol"].to_list() == ["A", "B"]
    assert got["label_return"].to_list() == pytest.approx([0.0, 0.0], abs=1e-12)


def test_labels_of_too_short_a_history_are_an_empty_frame_of_the_same_columns() -> None:
    got = forecasting.labels(
        bars_of(np.ones((2, 1)), sessions=[MON, TUE], symbols=["A"]),
        NO_ACTIONS,
        sessions=[MON, TUE],
        symbols=["A"],
        horizon=5,
    )
    assert got.shape == (0, 4)


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), horizon=st.integers(1, 20))
def test_labels_sum_to_zero_over_each_session_and_end_in_time(seed: int, horizon: int) -> None:
    market = made_market(seed, n_sessions=100)
    got = forecasting.labels(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        horizon=horizon,
    )
    sums = got.group_by("session").agg(pl.col("label_return").sum())["label_return"]
    assert sums.abs().max() < 1e-12
    assert got["label_end"].max() <= market.sessions[-1]
    assert (got["label_end"] > got["session"]).all()


# ------------------------------------------------------------------------------------------- splits


def test_folds_cover_all_but_the_first_run_and_leave_the_embargo_out() -> None:
    sessions = weekdays(date(2020, 1, 1), 32)
    first, second = splits.walk_forward(sessions, folds=2, embargo=3)
    assert (first.test_first, first.test_last) == (sessions[11], sessions[21])
    assert (second.test_first, second.test_last) == (sessions[22], sessions[31])
    assert (first.known_by, second.known_by) == (sessions[7], sessions[18])


def test_too_few_sessions_for_the_folds_are_refused() -> None:
    with pytest.raises(ContractViolation, match="load more history"):
        splits.walk_forward(weekdays(date(2020, 1, 1), 60), folds=5, embargo=5)


# ------------------------------------------------------------------------------------------ metrics


@settings(max_examples=200, deadline=None)
@given(n=st.integers(1, 60_000), share=st.floats(0, 1))
def test_wilson_intervals_are_those_of_statsmodels(n: int, share: float) -> None:
    hits = round(share * n)
    expected = proportion_confint(hits, n, method="wilson")
    assert metrics.wilson(hits, n) == pytest.approx(expected, abs=1e-12)
    low, high = metrics.wilson(hits, n)
    assert 0 <= low <= hits / n <= high <= 1


def test_nothing_seen_is_no_knowledge() -> None:
    assert metrics.wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("lags", [0, 1, 5, 20])
def test_newey_west_intervals_are_those_of_statsmodels(lags: int) -> None:
    rng = np.random.default_rng(3)
    values = np.convolve(rng.normal(0.02, 0.2, 505), np.ones(5) / 5, mode="valid")
    fit = OLS(values, np.ones(len(values))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": False}
    )
    mean, low, high = metrics.newey_west(values, lags=lags)
    assert mean == pytest.approx(fit.params[0], rel=1e-12)
    assert (low, high) == pytest.approx(tuple(fit.conf_int(0.05)[0]), rel=1e-9)


def _random_scores(seed: int, skill: float, *, n_sessions: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    sessions = weekdays(date(2020, 1, 1), n_sessions)
    n = n_sessions * 20
    score = rng.normal(size=n)
    return pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions, dtype="datetime64[D]"), 20),
            "fold": np.repeat([1, 2], n // 2),
            "score": score,
            "label_return": skill * score + rng.normal(size=n),
        }
    )


def test_rank_correlations_are_those_of_scipy_ties_and_all() -> None:
    scored = _random_scores(1, 0.3, n_sessions=20).with_columns(pl.col("score").round(0))
    got = metrics.rank_correlations(scored)
    for session, value in got.iter_rows():
        rows = scored.filter(pl.col("session") == session)
        expected = spearmanr(rows["score"].to_numpy(), rows["label_return"].to_numpy()).statistic
        assert value == pytest.approx(expected, rel=1e-12)
    assert got.height == 20


def test_a_session_whose_scores_are_all_equal_has_no_rank_correlation() -> None:
    scored = _random_scores(1, 0.3, n_sessions=2).with_columns(
        pl.when(pl.col("session") == date(2020, 1, 1)).then(0.0).otherwise("score").alias("score")
    )
    assert metrics.rank_correlations(scored)["session"].to_list() == [date(2020, 1, 2)]


def test_an_interval_widens_with_the_overlap_of_labels() -> None:
    scored = _random_scores(2, 0.0)
    one, five = (metrics.evaluate(scored, horizon=horizon)["accuracy"] for horizon in (1, 5))
    assert one["value"] == five["value"]
    assert one["n"] == five["n"] == 4000
    assert five["n_independent"] == 800
    assert five["high"] - five["low"] > 2 * (one["high"] - one["low"])


def test_calibration_counts_each_prediction_once_and_skill_shows_in_the_strong_scores() -> None:
    scored = _random_scores(3, 0.5)
    table = metrics.calibrate(scored, horizon=1)
    assert sum(bucket["n"] for bucket in table) == scored.height
    assert [bucket["n"] for bucket in table] == [800] * 5
    assert table[-1]["up_to"] is None
    assert table[-1]["value"] > table[0]["value"] + 0.1
    assert all(bucket["low"] <= bucket["value"] <= bucket["high"] for bucket in table)
    hits = sum(bucket["hits"] for bucket in table)
    assert hits == metrics.evaluate(scored, horizon=1)["accuracy"]["hits"]


# ------------------------------------------------------------------------------------------- models


def _matrix(n: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(8)
    X = rng.normal(2.0, 3.0, (n, len(NAMES)))
    return X, 0.01 * X[:, 0] - 0.02 * X[:, 3] + rng.normal(0, 0.05, n)


def test_the_linear_model_is_the_ridge_of_scikit_learn() -> None:
    X, y = _matrix()
    item = models.model("linear")
    state = item.fit(X, y, seed=1, names=NAMES)
    Z = np.clip((X - X.mean(axis=0)) / X.std(axis=0), -5, 5)
    reference = Ridge(alpha=0.02 * len(y), fit_intercept=False).fit(Z, y - y.mean())
    np.testing.assert_allclose(state["coefficients"], reference.coef_, rtol=1e-9)
    np.testing.assert_allclose(
        item.score(state, X), reference.predict(Z) + y.mean(), rtol=1e-9, atol=1e-12
    )


def test_a_missing_feature_counts_as_the_mean_of_the_fitting_rows_for_the_linear_model() -> None:
    X, y = _matrix()
    item = models.model("linear")
    state = item.fit(X, y, seed=1, names=NAMES)
    holes, means = X[:5].copy(), X[:5].copy()
    holes[:, 3], means[:, 3] = np.nan, state["means"][3]
    np.testing.assert_array_equal(item.score(state, holes), item.score(state, means))


def test_a_constant_feature_neither_breaks_nor_moves_the_linear_model() -> None:
    X, y = _matrix()
    X[:, 5] = 7.0
    X[:, 6] = np.nan
    state = models.model("linear").fit(X, y, seed=1, names=NAMES)
    assert state["coefficients"][5] == state["coefficients"][6] == 0.0


@pytest.mark.parametrize("name", [item.name for item in models.MODELS])
def test_a_state_scores_the_same_after_a_round_trip_through_json(name: str) -> None:
    X, y = _matrix()
    item = models.model(name)
    state = item.fit(X, y, seed=1, names=NAMES)
    again = json.loads(json.dumps(state, allow_nan=False))
    assert item.score(again, X).tobytes() == item.score(state, X).tobytes()
    alone = np.concatenate([item.score(state, X[at : at + 1]) for at in range(20)])
    assert alone.tobytes() == item.score(state, X[:20]).tobytes()


def test_an_unknown_model_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="lightgbm"):
        models.model("oracle")


# ----------------------------------------------------------------------------------------- training


def _frames(skill: float, *, n_sessions: int = 300) -> tuple[pl.DataFrame, pl.DataFrame, date]:
    """Random features; labels of five sessions that the first feature foretells with `skill`."""
    rng = np.random.default_rng(12)
    sessions = weekdays(date(2018, 1, 1), n_sessions + 5)
    keys = pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions[:n_sessions], dtype="datetime64[D]"), 20),
            "symbol": [f"S{number:02d}" for number in range(20)] * n_sessions,
        }
    )
    X = rng.normal(size=(keys.height, len(NAMES)))
    label = 0.03 * (skill * X[:, 0] + rng.normal(size=keys.height))
    ends = np.repeat(np.array(sessions[5:], dtype="datetime64[D]"), 20)
    features = keys.hstack(pl.DataFrame(X, schema=NAMES)).with_columns(simulated=pl.lit(False))
    return (
        features,
        keys.with_columns(label_return=pl.Series(label), label_end=pl.Series(ends)),
        sessions[-1],
    )


@lru_cache(maxsize=2)
def _document(skill: float) -> dict[str, Any]:
    features, labels, as_of = _frames(skill)
    return forecasting.train(features, labels, as_of=as_of, horizon=5, folds=2, seed=7)


def _today(document: dict[str, Any]) -> pl.DataFrame:
    features, _, as_of = _frames(0.0)
    first = features["session"].min()
    return features.filter(pl.col("session") == first).with_columns(
        session=pl.lit(as_of + timedelta(days=3))
    )


def test_the_document_is_plain_json_and_has_the_members_of_its_contract() -> None:
    document = _document(0.3)
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert list(document) == [field.name for field in contract("core_models__model").fields]
    assert document["trials"] >= len(document["models"])
    assert document["caveats"] == ["costs: not included; scores are not a trading result"]


def test_the_document_says_what_it_knows_and_then_what_it_was_told_of_its_data() -> None:
    features, labels, as_of = _frames(0.0)
    document = forecasting.train(
        features.with_columns(simulated=pl.lit(True)),
        labels,
        as_of=as_of,
        horizon=5,
        folds=2,
        seed=7,
        caveats=["told: so"],
    )
    assert [text.split(":")[0] for text in document["caveats"]] == ["costs", "simulation", "told"]


def test_a_universe_too_small_to_rank_is_refused_not_scored_nan() -> None:
    features, labels, as_of = _frames(0.3)
    two = pl.col("symbol").is_in(["S00", "S01"])
    with pytest.raises(ContractViolation, match="rank correlation"):
        forecasting.train(
            features.filter(two), labels.filter(two), as_of=as_of, horizon=5, folds=2, seed=7
        )


@pytest.mark.parametrize("name", ["linear", "lightgbm"])
def test_skill_that_is_there_is_found_with_an_interval_above_zero(name: str) -> None:
    figures = _document(0.3)["validation"]["metrics"][name]
    assert figures["rank_ic"]["low"] > 0.1
    assert figures["accuracy"]["low"] > 0.5


@pytest.mark.parametrize("name", ["linear", "lightgbm"])
def test_skill_that_is_not_there_is_not_found(name: str) -> None:
    figures = _document(0.0)["validation"]["metrics"][name]
    assert figures["rank_ic"]["low"] < 0 < figures["rank_ic"]["high"]
    assert figures["accuracy"]["low"] < 0.5 < figures["accuracy"]["high"]


def test_rows_with_too_many_missing_features_do_not_train() -> None:
    features, labels, as_of = _frames(0.0)
    first = features["session"].min()
    holes = features.with_columns(
        pl.when(pl.col("session") == first).then(None).otherwise(pl.col(name)).alias(name)
        for name in NAMES[:5]
    )
    document = forecasting.train(holes, labels, as_of=as_of, horizon=5, folds=2, seed=7)
    assert document["fit_window"]["rows"] == labels.height - 20
    assert document["fit_window"]["first_session"] > str(first)


def test_an_infinite_feature_is_refused_by_name() -> None:
    features, labels, as_of = _frames(0.0)
    broken = features.with_columns(beta_60d=pl.lit(float("inf")))
    with pytest.raises(ContractViolation, match="beta_60d"):
        forecasting.train(broken, labels, as_of=as_of, horizon=5, folds=2, seed=7)


_TRAIN_AGAIN = """
import hashlib, json, sys
import polars as pl
from datetime import date
from marketlake.domain import forecasting
features, labels = (pl.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in ("x", "y"))
document = forecasting.train(
    features, labels, as_of=date.fromisoformat(sys.argv[2]), horizon=5, folds=2, seed=7
)
print(hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest())
"""


def test_another_process_with_other_threads_trains_the_same_bytes(tmp_path: Path) -> None:
    features, labels, as_of = _frames(0.3)
    # Another order of rows, too: the training sorts.
    features.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "x.parquet")
    labels[::-1].write_parquet(tmp_path / "y.parquet")
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "POLARS_MAX_THREADS": "1",
        "PYTHONHASHSEED": "1",
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    result = subprocess.run(
        [sys.executable, "-c", _TRAIN_AGAIN, str(tmp_path), as_of.isoformat()],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
        env=environment,
    )
    here = hashlib.sha256(json.dumps(_document(0.3), sort_keys=True).encode()).hexdigest()
    assert result.stdout.strip() == here


def test_the_seed_reaches_the_trees() -> None:
    features, labels, as_of = _frames(0.3)
    other = forecasting.train(features, labels, as_of=as_of, horizon=5, folds=2, seed=8)
    models_ = _document(0.3)["models"]
    assert other["models"]["lightgbm"]["state"] != models_["lightgbm"]["state"]
    assert other["models"]["linear"]["state"] == models_["linear"]["state"]


# ---------------------------------------------------------------------------- promotion and signals


def test_the_champion_has_the_highest_rank_ic_and_starts_after_its_training() -> None:
    document = _document(0.3)
    as_of = date.fromisoformat(document["as_of"])
    row = forecasting.promotion_row(
        document, model_sha256="ab", calendar_next=as_of + timedelta(days=3)
    )
    assert list(row) == [field.name for field in contract("core_models__promotion").fields]
    figures = document["validation"]["metrics"]
    best = max(figures, key=lambda name: figures[name]["rank_ic"]["value"])
    assert row["champion"] == best
    assert row["rank_ic_low"] <= row["rank_ic"] <= row["rank_ic_high"]
    assert row["passed_gate"] is True
    assert row["effective_from"] > as_of


def test_a_champion_without_evidence_says_so() -> None:
    document = _document(0.0)
    row = forecasting.promotion_row(
        document,
        model_sha256="ab",
        calendar_next=date.fromisoformat(document["as_of"]) + timedelta(3),
    )
    assert row["passed_gate"] is False
    assert "does not exclude zero" in row["reason"]


def test_a_promotion_that_would_look_back_is_refused() -> None:
    document = _document(0.3)
    with pytest.raises(LookaheadError):
        forecasting.promotion_row(
            document, model_sha256="ab", calendar_next=date.fromisoformat(document["as_of"])
        )


@pytest.mark.parametrize("name", ["linear", "lightgbm"])
def test_signals_are_ranked_centred_and_carry_their_evidence(name: str) -> None:
    document = _document(0.3)
    today = _today(document)
    signals, skipped = forecasting.predict(document, name, model_sha256="ab", features=today)
    declared = [field.name for field in contract("core_signals__signal").fields]
    assert [*signals.columns, "known_at_utc"] == declared
    assert skipped == []
    assert signals["rank"].to_list() == list(range(1, 21))
    assert signals["score_bps"].is_sorted(descending=True)
    assert abs(signals["score_bps"].sum()) < 1e-8
    table = document["models"][name]["calibration"]
    for row in signals.iter_rows(named=True):
        strength = abs(row["score_bps"]) / 1e4
        bucket = next(
            item
            for item in table
            if item["up_to"] is None or strength <= item["up_to"] * (1 + 1e-12)
        )
        assert row["confidence"] == bucket["value"]
        assert row["confidence_n"] == bucket["n"]
        assert row["confidence_low"] <= row["confidence"] <= row["confidence_high"]
        beats = bucket["value"] > row["base_rate"]
        assert row["side"] == (("long" if row["score_bps"] > 0 else "short") if beats else "flat")
    assert set(signals["side"]) >= {"long", "short"}


def test_without_skill_out_of_fold_every_weak_bucket_stays_flat() -> None:
    document = json.loads(json.dumps(_document(0.3)))
    document["validation"]["base_rate"]["value"] = 0.99
    signals, _ = forecasting.predict(
        document, "linear", model_sha256="ab", features=_today(document)
    )
    assert set(signals["side"]) == {"flat"}


def test_a_member_without_enough_features_is_named_and_not_scored() -> None:
    document = _document(0.3)
    today = _today(document).with_columns(
        pl.when(pl.col("symbol") == "S03").then(None).otherwise(pl.col(name)).alias(name)
        for name in NAMES[:5]
    )
    signals, skipped = forecasting.predict(document, "linear", model_sha256="ab", features=today)
    assert [item["symbol"] for item in skipped] == ["S03"]
    assert "S03" not in signals["symbol"].to_list()
    assert signals.height == 19


def test_a_signal_is_simulated_when_its_row_or_its_training_was() -> None:
    document = _document(0.3)
    one = _today(document).with_columns(simulated=pl.col("symbol") == "S03")
    signals, _ = forecasting.predict(document, "linear", model_sha256="ab", features=one)
    assert signals.filter(pl.col("simulated"))["symbol"].to_list() == ["S03"]
    trained_so = {**document, "fit_window": {**document["fit_window"], "simulated": True}}
    signals, _ = forecasting.predict(trained_so, "linear", model_sha256="ab", features=one)
    assert signals["simulated"].all()


def test_a_model_refuses_the_sessions_it_was_trained_on_and_more_than_one_at_a_time() -> None:
    document = _document(0.3)
    features, _, _ = _frames(0.0)
    with pytest.raises(ContractViolation, match="one session"):
        forecasting.predict(document, "linear", model_sha256="ab", features=features)
    last = features.filter(pl.col("session") == features["session"].max())
    with pytest.raises(LookaheadError, match="training session"):
        forecasting.predict(document, "linear", model_sha256="ab", features=last)


def test_the_accuracy_table_has_chance_beside_every_model() -> None:
    document = _document(0.3)
    rows = forecasting.accuracy_rows(document, session=MON, champion="lightgbm")
    assert rows.columns == [
        field.name for field in contract("out_ml_models__model_accuracy").fields
    ]
    assert set(rows.select("model_name", "measure").iter_rows()) == {
        ("base_rate", "accuracy"),
        ("linear", "accuracy"),
        ("linear", "rank_ic"),
        ("lightgbm", "accuracy"),
        ("lightgbm", "rank_ic"),
    }
    assert set(rows.filter(pl.col("champion"))["model_name"]) == {"lightgbm"}
