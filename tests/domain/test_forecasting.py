"""Forecasting: labels by hand, figures against statsmodels and scipy, training, gate, signals."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
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
from marketlake.contracts.factors import CLOSE_ONLY, FACTORS
from marketlake.contracts.features import FEATURES
from marketlake.domain import forecasting, prices
from marketlake.domain.forecasting import gate, metrics
from marketlake.domain.forecasting.assessment import Profile
from marketlake.domain.forecasting.training import Training
from marketlake.errors import ContractViolation, LookaheadError
from scipy.stats import spearmanr
from statsmodels.api import OLS
from statsmodels.stats.proportion import proportion_confint

from tests.domain.market import NO_ACTIONS, actions_of, bars_of, made_market, weekdays

NAMES = [item.name for item in FEATURES]
MON, TUE, WED, THU, FRI = weekdays(date(2022, 8, 22), 5)
SMALL = Profile(
    "small",
    {
        "linear": {"penalty_per_row": 0.2},
        "random_forest": {"trees": 10, "max_depth": 3},
        "lightgbm": {"rounds": 20, "min_data_in_leaf": 100},
    },
    seeds=(7,),
    folds=3,
    lags=2,
)


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


def test_a_position_is_filled_at_the_close_after_its_decision_and_earns_from_there() -> None:
    closes = np.array([[100.0, 10.0], [110.0, 11.0], [60.5, np.nan], [60.5, 12.0]])
    days = [MON, TUE, WED, THU]
    got = forecasting.next_returns(
        bars_of(closes, sessions=days, symbols=["A", "B"]),
        actions_of((WED, "A", 2.0, None)),
        sessions=days,
        symbols=["A", "B"],
    )
    assert got["session"].to_list() == [day for day in days for _ in "AB"]
    # A, decided on Monday and bought for 110 on Tuesday, is worth 2 * 60.5 on Wednesday.
    assert got["next_return"].to_list()[::2] == [pytest.approx(0.1), 0.0, None, None]
    assert got["next_return"].to_list()[1] is None, "B has no close on Wednesday"
    of_one_session = forecasting.next_returns(
        bars_of(closes[:1], sessions=days[:1], symbols=["A", "B"]),
        actions_of(),
        sessions=days[:1],
        symbols=["A", "B"],
    )
    assert of_one_session["next_return"].to_list() == [None, None]


def test_a_market_that_walks_at_random_keeps_its_moves_and_loses_their_direction() -> None:
    market = made_market(5)
    rng = np.random.default_rng(1)
    walked = forecasting.walked_bars(market.bars, market.actions, sessions=market.sessions, rng=rng)
    assert walked.select("session", "symbol").equals(market.bars.select("session", "symbol"))
    column = market.symbols.index("S01")
    closes = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    ).adjusted()[:, column]
    moves = np.diff(np.log(closes[np.isfinite(closes)]))
    paths = walked.filter(pl.col("symbol") == "S01").sort("session")["close_usd"].to_numpy()
    after = np.diff(np.log(paths))
    assert np.abs(after) == pytest.approx(np.abs(moves), abs=1e-12)
    assert abs(np.sign(after * moves).mean()) < 4 / np.sqrt(len(moves))


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


# ----------------------------------------------------------------------------------------- training


def _frames(skill: float, *, n_sessions: int = 300) -> tuple[forecasting.Inputs, date]:
    """Random features; labels of five sessions that the first feature foretells with `skill`."""
    rng = np.random.default_rng(21)
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
    made = rng.normal(size=(keys.height, len(CLOSE_ONLY))).astype(np.float32)
    others = [
        pl.lit(None, pl.Float32).alias(item.name) for item in FACTORS if not item.is_close_only
    ]
    return (
        forecasting.Inputs(
            keys.hstack(pl.DataFrame(X, schema=NAMES)).with_columns(simulated=pl.lit(False)),
            keys.hstack(pl.DataFrame(made, schema=list(CLOSE_ONLY))).with_columns(
                *others, closes_simulated=pl.lit(False), simulated=pl.lit(True)
            ),
            keys.with_columns(label_return=pl.Series(label), label_end=pl.Series(ends)),
        ),
        sessions[-1],
    )


def _train(inputs: forecasting.Inputs, as_of: date, **changes: Any) -> Training:
    return forecasting.train(
        inputs,
        next_returns=inputs.labels.select(
            "session", "symbol", next_return=pl.col("label_return") / 5
        ),
        **{
            "as_of": as_of,
            "sessions": weekdays(date(2018, 1, 1), 305),
            "horizon": 5,
            "profile": SMALL,
            "seed": 7,
            "cost_bps": 5.0,
        }
        | changes,
    )


@lru_cache(maxsize=2)
def _trained(skill: float) -> Training:
    return _train(*_frames(skill))


def _document(skill: float) -> dict[str, Any]:
    return _trained(skill).document


def test_the_document_is_plain_json_and_has_the_members_of_its_contract() -> None:
    document = _document(1.0)
    text = json.dumps(document, allow_nan=False)
    assert json.loads(text) == document
    assert list(document) == [field.name for field in contract("core_models__model").fields]
    assert document["trials"] == 2 + len(document["report"]["tried"])
    assert len(document["report"]["tried"]) == len(document["models"])
    assert [text.split(":")[0] for text in document["caveats"]] == ["costs"]
    assert document["features"] == [*NAMES, *CLOSE_ONLY]


def test_the_document_names_every_file_with_its_hash_and_the_files_predict() -> None:
    training = _trained(1.0)
    assert [one["name"] for one in training.document["files"]] == sorted(training.files)
    for one in training.document["files"]:
        assert hashlib.sha256(training.files[one["name"]]).hexdigest() == one["sha256"]
    predictor = forecasting.Predictor.of(training.files)
    assert list(predictor.names) == training.document["features"]
    assert predictor.channels == tuple(NAMES)


def test_factors_that_no_generator_made_are_all_seen() -> None:
    inputs, as_of = _frames(0.0, n_sessions=120)
    own = {item.name: pl.lit(0.5, pl.Float32) for item in FACTORS if not item.is_close_only}
    real = replace(inputs, factors=inputs.factors.with_columns(simulated=pl.lit(False), **own))
    document = _train(real, as_of, sessions=weekdays(date(2018, 1, 1), 125)).document
    assert document["features"] == [*NAMES, *(item.name for item in FACTORS)]
    assert document["fit_window"]["simulated"] is False


def test_the_document_says_what_it_knows_and_then_what_it_was_told_of_its_data() -> None:
    inputs, as_of = _frames(0.0, n_sessions=120)
    made = replace(inputs, features=inputs.features.with_columns(simulated=pl.lit(True)))
    document = _train(
        made, as_of, sessions=weekdays(date(2018, 1, 1), 125), caveats=["told: so"]
    ).document
    assert [text.split(":")[0] for text in document["caveats"]] == ["costs", "simulation", "told"]


def test_a_universe_too_small_to_rank_is_refused_not_scored_nan() -> None:
    inputs, as_of = _frames(0.3)
    two = pl.col("symbol").is_in(["S00", "S01"])
    with pytest.raises(ContractViolation, match="at least 3 symbols"):
        _train(
            replace(inputs, features=inputs.features.filter(two), labels=inputs.labels.filter(two)),
            as_of,
        )


@pytest.mark.parametrize("name", [*SMALL.models, "ensemble"])
def test_skill_that_is_there_is_found_with_an_interval_above_zero(name: str) -> None:
    figures = _document(1.0)["validation"]["metrics"][name]
    assert figures["rank_ic"]["low"] > 0.1
    assert figures["accuracy"]["low"] > 0.5


@pytest.mark.parametrize("name", [*SMALL.models, "ensemble"])
def test_skill_that_is_not_there_is_not_found(name: str) -> None:
    figures = _document(0.0)["validation"]["metrics"][name]
    for measure, chance in (("rank_ic", 0.0), ("accuracy", 0.5)):
        figure = figures[measure]
        # Of four models at 95 % one may lie outside by luck; three standard errors hold all.
        half = (figure["high"] - figure["low"]) / 2
        assert abs(figure["value"] - chance) < 3 / 1.96 * half


def test_folds_say_what_they_knew_and_tested() -> None:
    document = _document(0.0)
    days = [str(day) for day in weekdays(date(2018, 1, 1), 305)]
    folds = document["validation"]["folds"]
    assert [fold["fold"] for fold in folds] == [1, 2, 3]
    for fold in folds:
        between = days.index(fold["test_first"]) - days.index(fold["train_known_by"])
        assert between >= document["validation"]["embargo_sessions"]
        known = days.index(fold["train_known_by"])
        assert fold["train_rows"] == 20 * (known - 5 + 1)


def test_figures_are_by_regime_where_regimes_are_given() -> None:
    inputs, as_of = _frames(0.0, n_sessions=120)
    days = weekdays(date(2018, 1, 1), 125)
    states = pl.DataFrame({"session": days, "regime": ["bull"] * 100 + ["bear"] * 25})
    figures = _train(inputs, as_of, sessions=days, regimes=states).document["report"]["models"]
    counted = figures["ensemble"]["by_regime"]
    assert sorted(counted) == ["bear", "bull"]
    assert sum(group["n"] for group in counted.values()) == figures["ensemble"]["n"]
    assert counted["bear"]["n"] == 20 * 20


def test_what_earlier_trainings_tried_counts_once_and_the_same_again_not_at_all() -> None:
    inputs, as_of = _frames(0.0, n_sessions=120)
    days = weekdays(date(2018, 1, 1), 125)
    first = _train(inputs, as_of, sessions=days).document
    again = _train(inputs, as_of, sessions=days, earlier=[first, first]).document
    assert again["trials"] == first["trials"]
    stiffer = replace(SMALL, models={**SMALL.models, "linear": {"penalty_per_row": 0.7}})
    other = _train(inputs, as_of, sessions=days, profile=stiffer, earlier=[first]).document
    assert other["trials"] == first["trials"] + 2, "one member and the vote are others"
    luckier = _train(inputs, as_of, sessions=days, seed=8, earlier=[other]).document
    assert luckier["trials"] == other["trials"] + len(first["models"]), "so is another seed"
    back = _train(inputs, as_of, sessions=days, earlier=[luckier]).document
    assert back["trials"] == luckier["trials"], "what was tried stays tried"
    older = {**first, "report": {**first["report"]}}
    del older["report"]["tried"]
    after = _train(inputs, as_of, sessions=days, earlier=[older]).document
    assert after["trials"] == first["trials"] + first["trials"]
    assert after["report"]["deflated_sharpe"]["trials"] == after["trials"]


def test_rows_with_too_many_missing_features_do_not_train() -> None:
    inputs, as_of = _frames(0.0, n_sessions=120)
    first = inputs.features["session"].min()
    holes = inputs.features.with_columns(
        pl.when(pl.col("session") == first).then(None).otherwise(pl.col(name)).alias(name)
        for name in NAMES[:5]
    )
    days = weekdays(date(2018, 1, 1), 125)
    document = _train(replace(inputs, features=holes), as_of, sessions=days).document
    assert document["fit_window"]["rows"] == inputs.labels.height - 20
    assert document["fit_window"]["first_session"] > str(first)


def test_an_infinite_feature_is_refused_by_name() -> None:
    inputs, as_of = _frames(0.0)
    broken = inputs.features.with_columns(beta_60d=pl.lit(float("inf")))
    with pytest.raises(ContractViolation, match="beta_60d"):
        _train(replace(inputs, features=broken), as_of)


_TRAIN_AGAIN = """
import hashlib, json, sys
import polars as pl
from datetime import date
from marketlake.domain import forecasting, prices
from tests.domain.test_forecasting import _train
names = ("features", "factors", "labels")
read = [pl.read_parquet(f"{sys.argv[1]}/{name}.parquet") for name in names]
training = _train(forecasting.Inputs(*read), date.fromisoformat(sys.argv[2]))
print(hashlib.sha256(json.dumps(training.document, sort_keys=True).encode()).hexdigest())
"""


def test_another_process_with_other_threads_trains_the_same_bytes(tmp_path: Path) -> None:
    inputs, as_of = _frames(1.0)
    # Another order of rows, too: the training sorts.
    inputs.features.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(
        tmp_path / "features.parquet"
    )
    inputs.factors[::-1].write_parquet(tmp_path / "factors.parquet")
    inputs.labels[::-1].write_parquet(tmp_path / "labels.parquet")
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
    # The document holds every file's hash.
    here = hashlib.sha256(json.dumps(_document(1.0), sort_keys=True).encode()).hexdigest()
    assert result.stdout.strip() == here


def test_the_seed_reaches_the_trees() -> None:
    inputs, as_of = _frames(1.0)
    other, here = _train(inputs, as_of, seed=8).files, _trained(1.0).files
    assert other["lightgbm_0.txt"] != here["lightgbm_0.txt"]
    assert other["linear_0.json"] == here["linear_0.json"]


# --------------------------------------------------------------------------------------------- gate


def _report(**changes: Any) -> dict[str, Any]:
    report: dict[str, Any] = {
        "models": {"ensemble": {"rank_ic": {"low": 0.01}, "calibration_error": 0.02}},
        "null_panel": {"clean": True},
        "deflated_sharpe": {"value": 0.97},
        "backtest_overfitting": {"pbo": 0.2},
    }
    return report | changes


def test_a_training_that_shows_everything_passes_the_gate() -> None:
    checks = gate.judge(_report())
    assert all(one["passed"] for one in checks)
    assert gate.in_words(checks) == "every check of the gate holds (6)"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"models": {"ensemble": {"rank_ic": {"low": 0.0}, "calibration_error": 0.02}}},
            "rank IC, low end of 95 % 0, must be above 0",
        ),
        (
            {"models": {"ensemble": {"rank_ic": {"low": 0.01}, "calibration_error": 0.051}}},
            "calibration error 0.051, must be at most 0.05",
        ),
        (
            {
                "models": {
                    "ensemble": {"rank_ic": {"low": 0.01}, "calibration_error": 0.02},
                    "linear": {"rank_ic": {"low": 0.31}},
                }
            },
            "highest rank IC of a model, low end of 95 % 0.31, must be at most 0.3",
        ),
        ({"null_panel": {"clean": False}}, "null panel clean 0, must be at least 1"),
        ({"deflated_sharpe": {"value": 0.95}}, "deflated Sharpe ratio 0.95, must be above 0.95"),
        (
            {"backtest_overfitting": {"pbo": 0.5}},
            "probability of backtest overfitting 0.5, must be below 0.5",
        ),
    ],
)
def test_each_check_alone_keeps_a_training_unproven_and_is_named(
    changes: dict[str, Any], named: str
) -> None:
    checks = gate.judge(_report(**changes))
    assert [one["passed"] for one in checks].count(False) == 1
    assert gate.in_words(checks) == f"1 of 6 checks of the gate failed: {named}"


# ---------------------------------------------------------------------------- promotion and signals


def _effective(document: dict[str, Any]) -> date:
    return date.fromisoformat(document["as_of"]) + timedelta(days=3)


def test_a_promotion_holds_its_evidence_and_starts_after_its_training() -> None:
    document = _document(1.0)
    row = forecasting.promotion_row(document, model_sha256="ab", calendar_next=_effective(document))
    assert list(row) == [field.name for field in contract("core_models__promotion").fields]
    assert row["champion"] == "ensemble"
    assert row["rank_ic_low"] <= row["rank_ic"] <= row["rank_ic_high"]
    assert row["effective_from"] > row["as_of"]
    # Nothing was computed with prices that walk at random, and no honest forecast is that good.
    assert row["passed_gate"] is False
    assert "2 of 6 checks of the gate failed: highest rank IC" in row["reason"]
    assert "null panel clean 0" in row["reason"]
    held = [{**one, "passed": True} for one in document["gate"]]
    proven = forecasting.promotion_row(
        {**document, "gate": held}, model_sha256="ab", calendar_next=_effective(document)
    )
    assert proven["passed_gate"] is True
    # Reason and columns are the figures that the gate looked at.
    judged = document["report"]["models"]["ensemble"]["rank_ic"]
    assert (row["rank_ic"], row["rank_ic_low"]) == (judged["value"], judged["low"])


def test_an_ensemble_without_evidence_says_so() -> None:
    document = _document(0.0)
    row = forecasting.promotion_row(document, model_sha256="ab", calendar_next=_effective(document))
    assert row["passed_gate"] is False
    assert "deflated Sharpe ratio" in row["reason"]


def test_a_promotion_that_would_look_back_is_refused() -> None:
    document = _document(1.0)
    with pytest.raises(LookaheadError):
        forecasting.promotion_row(
            document, model_sha256="ab", calendar_next=date.fromisoformat(document["as_of"])
        )


def test_what_passed_the_gate_predicts_until_another_that_passed() -> None:
    days = weekdays(date(2020, 1, 1), 10)
    rows = [
        {"as_of": days[at], "effective_from": days[at + 1], "passed_gate": passed}
        for at, passed in ((0, False), (2, True), (4, False), (6, True))
    ]
    ruling = [forecasting.champion_row(rows, session=day) for day in days]
    assert ruling[0] is None
    assert ruling[1:3] == [rows[0]] * 2, "nothing has passed yet"
    assert ruling[3:7] == [rows[1]] * 4, "what did not pass replaces nothing"
    assert ruling[7:] == [rows[3]] * 3


def _today() -> tuple[date, pl.DataFrame, pl.DataFrame]:
    """Features of two sessions after the training, and factors of the last of them."""
    inputs, as_of = _frames(0.0)
    days = weekdays(as_of + timedelta(days=1), 2)
    known = sorted(inputs.features["session"].unique())[:2]
    moved = dict(zip(known, days, strict=True))
    session = pl.col("session").replace_strict(moved, return_dtype=pl.Date)
    features = inputs.features.filter(pl.col("session").is_in(known)).with_columns(session)
    factors = inputs.factors.filter(pl.col("session").is_in(known)).with_columns(session)
    return days[-1], features, factors.filter(pl.col("session") == days[-1])


def _predict(
    document: dict[str, Any] | None = None,
    features: pl.DataFrame | None = None,
    factors: pl.DataFrame | None = None,
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    training, (session, own, of_session) = _trained(1.0), _today()
    return forecasting.predict(
        document or training.document,
        forecasting.Predictor.of(training.files),
        session=session,
        model_sha256="ab",
        features=own if features is None else features,
        factors=of_session if factors is None else factors,
    )


def test_signals_are_ranked_centred_and_carry_their_evidence() -> None:
    document = _document(1.0)
    signals, skipped = _predict()
    declared = [field.name for field in contract("core_signals__signal").fields]
    assert [*signals.columns, "known_at_utc"] == declared
    assert skipped == []
    assert signals["rank"].to_list() == list(range(1, 21))
    assert signals["score_bps"].is_sorted(descending=True)
    assert abs(signals["score_bps"].sum()) < 1e-8
    assert signals["probability_up"].is_sorted(descending=True)
    table = document["models"]["ensemble"]["calibration"]
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
        assert 0 < row["probability_right"] < 1
    assert set(signals["side"]) >= {"long", "short"}


def test_without_skill_out_of_fold_every_weak_bucket_stays_flat() -> None:
    document = json.loads(json.dumps(_document(1.0)))
    document["validation"]["base_rate"]["value"] = 0.99
    signals, _ = _predict(document)
    assert set(signals["side"]) == {"flat"}


def test_a_member_without_enough_features_is_named_and_not_scored() -> None:
    _, features, _ = _today()
    holes = features.with_columns(
        pl.when(pl.col("symbol") == "S03").then(None).otherwise(pl.col(name)).alias(name)
        for name in NAMES[:5]
    )
    signals, skipped = _predict(features=holes)
    assert [item["symbol"] for item in skipped] == ["S03"]
    assert "S03" not in signals["symbol"].to_list()
    assert signals.height == 19


def test_a_member_without_factors_is_named_and_not_scored() -> None:
    _, _, factors = _today()
    signals, skipped = _predict(factors=factors.filter(pl.col("symbol") != "S04"))
    assert skipped == [{"symbol": "S04", "reason": "it has no factors"}]
    assert "S04" not in signals["symbol"].to_list()
    with pytest.raises(ContractViolation, match=r"S19.*no factors"):
        _predict(factors=factors.head(0))


def test_a_signal_is_simulated_when_its_row_or_its_training_was() -> None:
    document = _document(1.0)
    _, features, factors = _today()
    one = features.with_columns(simulated=pl.col("symbol") == "S03")
    signals, _ = _predict(features=one)
    assert signals.filter(pl.col("simulated"))["symbol"].to_list() == ["S03"]
    other = factors.with_columns(closes_simulated=pl.col("symbol") == "S05")
    signals, _ = _predict(features=one, factors=other)
    assert sorted(signals.filter(pl.col("simulated"))["symbol"]) == ["S03", "S05"]
    trained_so = {**document, "fit_window": {**document["fit_window"], "simulated": True}}
    signals, _ = _predict(trained_so, one)
    assert signals["simulated"].all()


def test_a_model_refuses_the_sessions_it_was_trained_on_and_a_session_without_features() -> None:
    training, (session, features, factors) = _trained(1.0), _today()
    predictor = forecasting.Predictor.of(training.files)
    for asked, match, error in (
        (date.fromisoformat(training.document["as_of"]), "training session", LookaheadError),
        (session + timedelta(days=7), "pass the session's rows", ContractViolation),
    ):
        with pytest.raises(error, match=match):
            forecasting.predict(
                training.document,
                predictor,
                session=asked,
                model_sha256="ab",
                features=features,
                factors=factors,
            )


def test_the_accuracy_table_has_chance_beside_every_model() -> None:
    document = _document(1.0)
    rows = forecasting.accuracy_rows(document, session=MON, champion="ensemble")
    assert rows.columns == [
        field.name for field in contract("out_ml_models__model_accuracy").fields
    ]
    measures = {
        "accuracy",
        "balanced_accuracy",
        "brier",
        "calibration_error",
        "ic",
        "mcc",
        "rank_ic",
        "side_hit_rate",
    }
    assert set(rows.select("model_name", "measure").iter_rows()) == {
        ("base_rate", "accuracy"),
        *((name, measure) for name in document["models"] for measure in measures),
    }
    assert set(rows.filter(pl.col("champion"))["model_name"]) == {"ensemble"}
    judged = document["report"]["models"]["linear"]
    of = {row["measure"]: row for row in rows.filter(model_name="linear").to_dicts()}
    # One forecast behind all of them: with these counts, each follows from the others.
    assert of["accuracy"]["value"] == judged["accuracy"]["value"]
    assert of["accuracy"]["n"] == of["mcc"]["n"] == judged["n"]
    assert of["ic"]["n"] == of["rank_ic"]["n"] == judged["sessions"] < judged["n"]
