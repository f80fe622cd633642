from __future__ import annotations

import copy
import os
import re
import subprocess
from typing import Any

import pytest
from marketlake.cli.summary import render
from rich.console import Console

SUMMARY: dict[str, Any] = {
    "session": "2022-12-23",
    "sessions": ["2022-12-22", "2022-12-23"],
    "runs": [
        {"dag_id": "load_history", "partition_key": None, "state": "success", "seconds": 41.25},
        {"dag_id": "ingest", "partition_key": "2022-12-22", "state": "failed", "seconds": 1.0},
        {"dag_id": "ingest", "partition_key": "2022-12-23", "state": "failed", "seconds": 1.0},
        {"dag_id": "ingest", "partition_key": "2022-12-23", "state": "success", "seconds": 3.5},
    ],
    "artifacts": [
        {
            "uri": "s3://lake/out/out_reports__daily/session=2022-12-23/part.json",
            "export_uri": "s3://lake/reports/daily_report_20221223.html",
            "rows": 1,
            "sha256": "0123456789abcdef" * 4,
        }
    ],
    "signals": [
        {
            "rank": 1,
            "symbol": "XOM",
            "side": "long",
            "score_bps": 12.0,
            "confidence": 0.51,
            "confidence_low": 0.50,
            "confidence_high": 0.52,
            "confidence_n": 9000,
            "probability_right": 0.523,
            "base_rate": 0.505,
            "simulated": True,
        }
    ],
    "risk": [{"measure": "var_95_usd", "value": 17000.0, "n": 500}],
    "gates": [
        {
            "session": "2022-12-23",
            "verdict": "passed",
            "rows_in": 21,
            "rows_quarantined": 1,
            "sources": 3,
            "sources_answered": 2,
            "source_rows_quarantined": 4,
        }
    ],
    "planted_faults": [
        {
            "session": "2022-12-23",
            "symbol": symbol,
            "vendor": vendor,
            "story": story,
            "found_by": found_by,
        }
        for symbol, vendor, story, found_by in (
            ("JPM", "iex", "swapped", ["gate: x", "consensus: y"]),
            ("KO", "yahoo", "bar missing", []),
        )
    ],
    "ledger": {
        "ok": True,
        "size": 1234,
        "root_hash": "ab" * 32,
        "faults": [],
        "public_key": "marketlake+01234567+AbCd",
    },
    "keeping": "replaced versions stay at least 2,557 days",
    "ui": {
        "url": "http://127.0.0.1:19080",
        "user": "admin",
        "report_export": "s3://lake/reports/daily_report_20221223.html",
    },
    "try_next": [{"command": "marketlake signals", "shows": "all signals"}],
}


def _printed(summary: dict[str, Any]) -> str:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render(summary, login="user admin"))
    return captured.get()


@pytest.mark.parametrize(
    "part",
    [
        "41.2 s",
        "3.5 s",
        "s3://lake/reports/daily_report_20221223.html",
        "0123456789ab",
        "+12.0 bps",
        "51.0% [50.0%, 52.0%]",
        "9,000",
        "50.5%",
        "52.3%",
        "simulated",
        "17,000.00 USD",
        "2022-12-23 passed 2 of 3 4 21 1",
        "2022-12-23 JPM iex swapped gate: x; consensus: y",
        "NOT FOUND",
        "verified: 1,234 entries, root abab",
        "http://127.0.0.1:19080 user admin",
        "http://127.0.0.1:19080/marketlake/reports/",
        "http://127.0.0.1:19080/marketlake/docs/dbt/",
        "replaced versions stay at least 2,557 days",
        "bin/marketlake signals ",
    ],
)
def test_a_person_reads(part: str) -> None:
    assert part in re.sub(" +", " ", _printed(SUMMARY))


def test_what_to_try_next_can_be_pasted_into_a_shell() -> None:
    printed = _printed(SUMMARY).split("What to try next")[1].splitlines()[1:]
    entering, trying = (re.split(r"\s{2,}", line.strip())[0] for line in printed)
    script = f"{entering} && command -v {trying.removesuffix(' signals')}"
    shown = subprocess.run(
        ["bash", "-c", script], cwd="/", env={"PATH": os.defpath}, capture_output=True, timeout=30,
        check=False,
    )  # fmt: skip
    assert shown.returncode == 0, script


def test_the_newest_run_of_a_session_is_shown() -> None:
    (row,) = [line for line in _printed(SUMMARY).splitlines() if line.startswith("ingest")]
    assert row.split() == ["ingest", "failed", "3.5", "s"]


def test_a_ledger_that_does_not_verify_lists_its_faults() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["ledger"] |= {"ok": False, "faults": ["entry 7: its bytes differ"]}
    assert "NOT VERIFIED" in _printed(summary)
    assert "entry 7: its bytes differ" in _printed(summary)


def test_a_ledger_whose_signatures_nobody_pinned_is_not_called_verified() -> None:
    summary = copy.deepcopy(SUMMARY)
    summary["ledger"]["public_key"] = None
    printed = " ".join(_printed(summary).split())
    assert "NOT VERIFIED: 1,234 entries" in printed
    assert "MARKETLAKE_LEDGER__PUBLIC_KEY" in printed


def test_without_planted_faults_it_says_so() -> None:
    assert "none in these sessions" in _printed(SUMMARY | {"planted_faults": []})
