"""An auditor with nothing but the published files and plain pandas gets the same numbers."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from marketlake.calendars import Calendar
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_MODELS_FILE,
    CORE_MODELS_MODEL,
    CORE_REFERENCE_UNIVERSE_MEMBER,
    CORE_SIGNALS_SIGNAL,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.pipelines import daily_line
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition

from tests.pipelines.conftest import AS_OF

FIRST = date(2022, 12, 21)
SCRIPT = PROJECT_ROOT / "tests" / "golden" / "recompute_session.py"
FILES: dict[str, Contract] = {
    "factors": CORE_FACTORS_DAILY,
    "signals": CORE_SIGNALS_SIGNAL,
    "portfolio_risk": OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
    "members": CORE_REFERENCE_UNIVERSE_MEMBER,
}


def export(settings: Settings, session: date, folder: Path) -> list[str]:
    """Write what the script reads; return its arguments."""
    lake = Lake(settings.lake)
    window = Calendar.of("XNYS").window(session, settings.risk.window_sessions + 1)
    for name, contract in (
        ("bars", CORE_MARKET_DAILY_BAR),
        ("actions", CORE_MARKET_CORPORATE_ACTION),
    ):
        pq.write_table(lake.read(contract, window, as_of=session), folder / f"{name}.parquet")
    for name, contract in FILES.items():
        ref = lake.ref(contract, Partition.of_session(session))
        pq.write_table(lake.read_ref(ref), folder / f"{name}.parquet")
    model = lake.read_ref(lake.ref(CORE_MODELS_MODEL, Partition.of_session(AS_OF)))
    (folder / "model.json").write_text(json.dumps(model))
    (folder / "model").mkdir()
    files = lake.read_ref(lake.ref(CORE_MODELS_FILE, Partition.of_session(AS_OF)))
    for name, content in zip(files["name"].to_pylist(), files["content"].to_pylist(), strict=True):
        (folder / "model" / name).write_bytes(content)
    lags = json.loads((folder / "model" / "predictor.json").read_text())["lags"]
    features = lake.read(CORE_FEATURES_DAILY, window[-lags:], as_of=session)
    pq.write_table(features, folder / "features.parquet")
    return [str(folder), "--risk-sessions", str(len(window))]


@pytest.mark.parametrize(
    "session", [FIRST, pytest.param(date(2022, 12, 22), marks=pytest.mark.slow)]
)
def test_features_top_score_var_and_exposures_are_recomputed_to_the_ninth_place(
    line: Settings, tmp_path: Path, session: date
) -> None:
    # The sessions before it, too: whichever test of this lake runs first.
    for day in Calendar.of("XNYS").sessions(FIRST, session):
        daily_line.run_session(line, day, run_id=f"audited-{session}-{day}")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *export(line, session, tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(done.stdout.split()[0]) > 19 * 22
