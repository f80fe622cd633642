"""After the main job: a signal is explained, made again, and proven by somebody who has a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from marketlake.storage.lake import Lake

from tests.integration.conftest import SESSIONS, Installation

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

SIGNAL = f"{SESSIONS[-1]}/KO"
AUDITED = {
    "audit_logs/api_calls/YYYYMMDD_HH.json",
    "audit_logs/calculations/YYYYMMDD_HH.json",
    "audit_logs/decisions/trade_decision_YYYYMMDD_HHMMSS.json",
    "audit_logs/master_log_YYYYMM.db",
    "snapshots/data_fetch/snapshot_YYYYMMDD_HHMMSS.json",
    "snapshots/analysis/snapshot_YYYYMMDD_HHMMSS.json",
    "snapshots/signals/snapshot_YYYYMMDD_HHMMSS.json",
}


def test_the_named_audit_files_and_snapshots_are_there(ran: Installation) -> None:
    rows = json.loads(ran.must("artifacts", "--spec", "--json"))
    assert {row["file"] for row in rows if row["sha256"]} >= AUDITED


def test_a_signal_is_traced_to_the_vendors_bytes_with_every_link_proven(ran: Installation) -> None:
    told = ran.must("trace", SIGNAL)
    assert "every link proven in the ledger" in told
    for vendor in ("yahoo", "alpha_vantage", "iex"):
        assert f"raw_{vendor}__response" in told
    why = json.loads(ran.must("why", SIGNAL, "--json"))
    decided = why["proof"]["decision"]
    assert decided["symbol"] == "KO"
    assert decided["artifact"] == why["proof"]["artifact"]
    assert why["limits"][0]["passed"] == (why["what"]["side"] != "flat")


def test_a_signal_is_made_again_to_the_same_bytes(ran: Installation) -> None:
    found = json.loads(ran.must("replay", SIGNAL, "--json"))
    assert found["identical"]
    compared = [item for step in found["steps"] for item in step["outputs"]]
    assert f"core/core_signals__signal/session={SESSIONS[-1]}/part.parquet" in {
        item["artifact"] for item in compared
    }
    assert all(item["equal"] for item in compared if not item["record"])


def test_whoever_has_a_file_and_the_key_verifies_it_without_the_platform(
    ran: Installation, tmp_path: Path
) -> None:
    ran.must("audit", "export", str(tmp_path / "ledger.db"))
    ran.must("audit", "verifier", str(tmp_path / "verify_ledger.pyz"))
    key = ran.must("audit", "key").strip()
    lake = Lake(ran.settings.lake)
    months = lake.list_keys("audit_logs/master_log_")
    for name in months:
        (tmp_path / Path(name).name).write_bytes(lake.get_bytes(name))
    # -I: nothing of this project, its folder or its environment; what is installed stays.
    verify = [sys.executable, "-I", str(tmp_path / "verify_ledger.pyz"), "--public-key", key]
    for file in ("ledger.db", *(Path(name).name for name in months)):
        done = subprocess.run(
            [*verify, "--json", str(tmp_path / file)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, (file, done.stdout, done.stderr)
    assert months
