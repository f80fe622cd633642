"""StockNet's task: the papers' samples, features that know nothing later, one configuration."""

from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from marketlake.domain.forecasting.classifiers import CLASSIFIERS, classifier
from marketlake.domain.forecasting.validation import lock_final
from marketlake.errors import LookaheadError

from tests.acceptance import figures, stocknet
from tests.corpora.stocknet_task import (
    PAPER_COUNTS,
    PHASES,
    Task,
    build,
    movements,
    of_phase,
    read_bars,
)
from tests.domain.market import weekdays

SESSIONS = weekdays(date(2014, 6, 2), 190)


def made_bars(seed: int = 0) -> pl.DataFrame:
    """Twenty stocks of two sectors."""
    rng = np.random.default_rng(seed)
    closes = 50 * np.exp(np.cumsum(0.015 * rng.normal(size=(len(SESSIONS), 20)), axis=0))
    spread = 0.01 * rng.random((len(SESSIONS), 20))
    symbols = [f"S{number:02d}" for number in range(20)]
    return pl.DataFrame(
        {
            "session": np.repeat(np.array(SESSIONS, dtype="datetime64[D]"), 20),
            "symbol": symbols * len(SESSIONS),
            "open": (closes * np.exp(0.005 * rng.normal(size=closes.shape))).ravel(),
            "high": (closes * (1 + spread)).ravel(),
            "low": (closes * (1 - spread)).ravel(),
            "close": closes.ravel(),
            "adjusted": (0.9 * closes).ravel(),
            "volume": rng.uniform(1e5, 1e6, closes.size),
            "sector": ["one", "two"] * (closes.size // 2),
        }
    ).sort("symbol", "session")


def made_tweets(seed: int = 0) -> pl.DataFrame:
    """Scored tweets of any day, weekends too."""
    rng = np.random.default_rng(seed)
    n = 3000
    days = [SESSIONS[0] + timedelta(days=int(shift)) for shift in rng.integers(0, 260, n)]
    scores = ["vader", "afinn", "finance", "good", "bad", "earnings", "analyst", "retweet"]
    return pl.DataFrame(
        {
            "symbol": [f"S{number:02d}" for number in rng.integers(0, 20, n)],
            "day": days,
            "text": [f"t{number}" for number in range(n)],
            **{name: rng.normal(size=n) for name in scores},
        }
    )


def known_by(task: Task, target: date) -> tuple[pl.DataFrame, list[bytes]]:
    rows = task.rows.with_row_index("at").filter(pl.col("session") <= target)
    at = rows["at"].to_numpy()
    parts = [task.samples[name].rows(at) for name in ("price", "price_text")]
    return (
        rows.drop("at").select("symbol", "session", "known"),
        [np.nan_to_num(x, nan=9e9).tobytes() for part in parts for x in (part.flat, part.sequence)],
    )


@pytest.mark.parametrize("at", [150, 171, 183])
def test_what_models_see_of_a_target_does_not_change_with_its_own_session_or_later_ones(
    at: int,
) -> None:
    """The target's own bar is its label: only the row's being there may depend on it."""
    bars, tweets = made_bars(), made_tweets()
    target = SESSIONS[at]
    rows, before = known_by(build(bars, tweets), target)
    assert rows.height > 800
    rng = np.random.default_rng(9)
    later = pl.col("session") > target
    own = pl.col("session") == target
    spoiled = bars.with_columns(
        pl.when(later)
        .then(pl.col(name) * pl.Series(rng.uniform(0.5, 2.0, bars.height)))
        .when(own)
        # The same movement keeps the row; everything else of the target's bar is another.
        .then(pl.col(name) * (1.0 if name == "adjusted" else 1.7))
        .otherwise(pl.col(name))
        .alias(name)
        for name in ("open", "high", "low", "close", "adjusted", "volume")
    )
    other = pl.concat(
        [
            tweets.filter(pl.col("day") < target),
            tweets.filter(pl.col("day") >= target).with_columns(pl.col("vader") * -3 + 1),
            tweets.filter(pl.col("day") >= target),
        ]
    )
    again, after = known_by(build(spoiled, other), target)
    assert again.equals(rows)
    assert after == before
    deleted, short = known_by(
        build(bars.filter(~later), tweets.filter(pl.col("day") < target)), target
    )
    assert deleted.equals(rows)
    assert short == before


def test_the_test_phase_is_locked_away_from_what_is_chosen_on() -> None:
    task = build(made_bars(), made_tweets())
    # The made market ends before the real test: its last months stand in for it.
    first = SESSIONS[170]
    rows = task.rows
    test = rows.with_row_index("at").filter(pl.col("session") >= first)
    assert test.height > 100
    development, final = lock_final(task.spans, first_session=SESSIONS[169])
    assert rows["session"][development.tolist()].max() < first
    assert final.open("one").tolist() == test["at"].to_list()


def test_the_samples_are_the_papers(shared_data: Path) -> None:
    rows = movements(read_bars(shared_data))
    found = {phase: of_phase(rows, phase).height for phase in PHASES}
    assert found["dev"] == PAPER_COUNTS["dev"]
    assert found["test"] == PAPER_COUNTS["test"]
    # The paper has 20,339: one more comes out of the prices it published.
    assert found["train"] == PAPER_COUNTS["train"] + 1


def test_a_configuration_with_another_hash_is_refused() -> None:
    configuration = stocknet.read_configuration()
    assert configuration is not None, "the chosen configuration is committed"
    stocknet.require_hash(configuration)
    changed = json.loads(json.dumps(configuration))
    changed["models"]["price_text"]["lightgbm"]["parameters"]["num_leaves"] += 1
    # Its own word for its hash counts for nothing.
    changed["sha256"] = stocknet.sha256(changed)
    with pytest.raises(LookaheadError, match="judge another configuration on later data"):
        stocknet.require_hash(changed)
    with pytest.raises(LookaheadError, match="StockNet's test period"):
        stocknet.run_test(build(made_bars(), made_tweets()), changed, memory={})


def test_the_hash_of_the_parameters_knows_those_that_are_left_at_their_defaults() -> None:
    configuration = stocknet.read_configuration()
    assert configuration is not None
    own = configuration["models"]["price"]["xgboost"]["parameters"]
    assert "min_child_weight" not in own
    own["min_child_weight"] = classifier("xgboost").parameters["min_child_weight"]
    assert stocknet.parameters_sha256(configuration) == stocknet.COMMITTED_PARAMETERS
    own["min_child_weight"] += 1
    assert stocknet.parameters_sha256(configuration) != stocknet.COMMITTED_PARAMETERS


def test_a_changed_configuration_file_is_refused(tmp_path: Path) -> None:
    changed = json.loads(stocknet.CONFIGURATION.read_text())
    changed["seeds"] = [1]
    file = tmp_path / "configuration.json"
    file.write_text(json.dumps(changed))
    with pytest.raises(LookaheadError, match="chosen on train and dev"):
        stocknet.read_configuration(file)


def test_the_committed_figures_are_those_of_the_committed_configuration() -> None:
    configuration = stocknet.read_configuration()
    assert configuration is not None
    found = json.loads((figures.FOLDER / "stocknet.json").read_text())
    assert found["configuration_sha256"] == configuration["sha256"] == stocknet.COMMITTED
    assert found["trials"] == configuration["trials"]
    assert found["samples"]["test"] == PAPER_COUNTS["test"]
    for name in stocknet.INPUTS:
        models = found["results"][name]["models"]
        assert set(models) == {item.name for item in CLASSIFIERS} | {"ensemble"}
        for one in models.values():
            assert one["seeds"]["n"] >= 5
            accuracy = one["accuracy_pct"]
            assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    ends = configuration["chosen_on"]
    assert ends["dev"][1] < "2015-10-01"
