"""The independent script agrees with the domain on real closes, and notices a wrong number."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from marketlake.domain import features, forecasting, risk
from marketlake.domain.forecasting.assessment import Profile

from tests.domain.market import BENCHMARK, Market, made_market, real_market, with_closes_alone

SCRIPT = Path(__file__).with_name("recompute_session.py")
RISK_SESSIONS = 300


SMALL = Profile(
    "small",
    {
        "linear": {},
        "random_forest": {"trees": 10, "max_depth": 3},
        "xgboost": {"rounds": 15},
        "lightgbm": {"rounds": 15, "min_data_in_leaf": 50},
        "lstm": {"units": 4, "epochs": 2},
    },
    seeds=(7, 8),
    folds=2,
    lags=4,
)


def _export(market: Market, folder: Path) -> None:
    session, as_of = market.sessions[-1], market.sessions[-2]
    frame = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=market.sessions[0],
    )
    factors = features.compute_factors(
        with_closes_alone(market.bars),
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        first_output=market.sessions[0],
        members=market.bars.select("session", "symbol"),
    ).with_columns(simulated=pl.lit(True))
    known = pl.col("session") <= as_of
    given = (market.bars, market.actions)
    before = {"sessions": market.sessions[:-1], "symbols": market.symbols}
    training = forecasting.train(
        forecasting.Inputs(
            frame.filter(known),
            factors.filter(known),
            forecasting.labels(*given, **before, horizon=5),
        ),
        next_returns=forecasting.next_returns(*given, **before),
        as_of=as_of,
        sessions=market.sessions[:-1],
        horizon=5,
        profile=SMALL,
        seed=7,
        cost_bps=5.0,
    )
    window = frame.filter(pl.col("session") >= market.sessions[-SMALL.lags])
    today = factors.filter(pl.col("session") == session)
    signals, _ = forecasting.predict(
        training.document,
        forecasting.Predictor.of(training.files),
        session=session,
        model_sha256="x",
        features=window,
        factors=today,
    )
    measures = risk.book_risk(
        market.bars,
        market.actions,
        market.members,
        session=session,
        sessions=market.sessions[-RISK_SESSIONS:],
        benchmark=BENCHMARK,
        volatility_window=60,
        book_value_usd=1_000_000.0,
    )
    (folder / "model.json").write_text(json.dumps(training.document))
    (folder / "model").mkdir()
    for name, content in training.files.items():
        (folder / "model" / name).write_bytes(content)
    for name, table in {
        "bars": market.bars,
        "actions": market.actions,
        "members": market.members,
        "features": window,
        "factors": today,
        "signals": signals,
        "portfolio_risk": measures,
    }.items():
        table.write_parquet(folder / f"{name}.parquet")


def _run(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), "--risk-sessions", str(RISK_SESSIONS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _real() -> Market:
    market = real_market()
    # Four years are enough to train on here.
    first = market.sessions[-1000]
    return Market(
        market.sessions[-1000:],
        market.symbols,
        market.bars.filter(pl.col("session") >= first),
        market.actions,
    )


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("session")
    _export(_real(), folder)
    return folder


def test_the_script_imports_nothing_of_ours() -> None:
    imports = [line for line in SCRIPT.read_text().splitlines() if "import" in line]
    assert not [line for line in imports if "marketlake" in line]


def test_a_session_of_the_real_closes_is_recomputed_to_the_ninth_place(exported: Path) -> None:
    result = _run(exported)
    assert result.returncode == 0, result.stdout + result.stderr
    compared = int(result.stdout.split()[0])
    features_, scores, book, sectors, by_symbol = 20 * 22, 2 * 20, 10, 2, 2 * 20
    assert compared == features_ + scores + book + sectors + by_symbol


def test_a_market_with_actions_and_gaps_is_recomputed_too(tmp_path: Path) -> None:
    _export(made_market(11, n_symbols=12), tmp_path)
    result = _run(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_number_that_is_off_by_a_millionth_is_found_in_every_table(
    exported: Path, tmp_path: Path
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    tampered = {"features": "beta_60d", "signals": "score_bps", "portfolio_risk": "value"}
    for table, column in tampered.items():
        rows = pl.read_parquet(exported / f"{table}.parquet")
        # The last row of features is of the session itself.
        one = np.arange(rows.height) == rows.height - 1
        off = np.where(one, 1e-6 * rows[column].abs().max(), 0.0)
        rows.with_columns(pl.col(column) + pl.Series(off)).write_parquet(
            tmp_path / f"{table}.parquet"
        )
    result = _run(tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "3 differences" in result.stdout
