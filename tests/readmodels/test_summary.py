from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from marketlake.errors import MissingPartition, SourceUnavailable
from marketlake.readmodels.summary import daily_summary
from marketlake.settings import SandboxSettings, Settings
from marketlake.types import ArtifactRef

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient

RUNS: list[dict[str, Any]] = [
    {
        "dag_id": "load_history",
        "partition_key": None,
        "state": "success",
        "duration": 41.25,
        "start_date": "2026-01-01T00:00:00Z",
        "dag_run_id": "manual__1",
    },
    {
        "dag_id": "ingest_market_data",
        "partition_key": "2022-12-23",
        "state": "success",
        "duration": 3.5,
        "start_date": "2026-01-01T00:01:00Z",
        "dag_run_id": "backfill__1",
    },
]


@pytest.fixture(scope="module")
def settings(storage_settings: Settings, sandbox_settings: Settings, lake: Lake) -> Settings:
    return storage_settings.model_copy(
        update={
            "lake": storage_settings.lake.model_copy(update={"bucket": lake.bucket}),
            "sandbox": sandbox_settings.sandbox,
        }
    )


def test_before_the_first_report_the_message_says_what_to_run(
    settings: Settings, ledger: LedgerClient
) -> None:
    with pytest.raises(MissingPartition, match="marketlake backfill"):
        daily_summary(settings, runs=[])


def test_the_summary_tells_what_was_published_and_what_may_be_trusted(
    settings: Settings, day: dict[str, ArtifactRef]
) -> None:
    summary = daily_summary(settings, runs=RUNS)
    json.dumps(summary, allow_nan=False)
    assert summary["session"] == "2022-12-23"
    assert [row["symbol"] for row in summary["signals"]] == ["XOM", "BAC", "KO", "HD", "PG", "PFE"]
    assert summary["risk"] == [
        {"measure": "var_95_pct", "value": 1.7, "n": 500},
        {"measure": "beta", "value": 0.9, "n": 500},
    ]
    assert summary["gates"] == [
        {
            "session": "2022-12-23",
            "verdict": "passed",
            "rows_in": 21,
            "rows_quarantined": 0,
            "sources": 3,
            "sources_answered": 2,
            "source_rows_quarantined": 1,
        }
    ]
    assert {item["sha256"] for item in summary["artifacts"]} == {ref.sha256 for ref in day.values()}
    assert summary["keeping"] == (
        "replaced versions stay at least 2,557 days; raw answers of sessions older than 365 days "
        "are copied below archive/ by archive_lake (this store moves none)"
    )
    assert summary["ledger"]["ok"] is True
    assert summary["ledger"]["size"] >= len(day)
    assert [(run["dag_id"], run["seconds"]) for run in summary["runs"]] == [
        ("load_history", 41.25),
        ("ingest_market_data", 3.5),
    ]


def test_each_source_s_planted_fault_is_reported_with_what_found_it(
    settings: Settings, day: dict[str, ArtifactRef]
) -> None:
    faults = daily_summary(settings, runs=[])["planted_faults"]
    assert {(fault["symbol"], fault["vendor"]): fault["found_by"] for fault in faults} == {
        ("JPM", "yahoo"): ["gate: not_above(low_usd, high_usd)", "integrity: swapped_ohlc"],
        ("WMT", "iex"): ["consensus: one_venue_print"],
    }
    assert {fault["session"] for fault in faults} == {"2022-12-23"}


def test_faults_of_a_source_that_is_not_asked_are_not_listed(
    settings: Settings, day: dict[str, ArtifactRef]
) -> None:
    market = settings.market.model_copy(update={"sources": ("yahoo",)})
    alone = settings.model_copy(update={"market": market})
    faults = daily_summary(alone, runs=[])["planted_faults"]
    assert [fault["vendor"] for fault in faults] == ["yahoo"]


def test_a_dead_sandbox_is_named(settings: Settings, day: dict[str, ArtifactRef]) -> None:
    dead = settings.model_copy(update={"sandbox": SandboxSettings(http_port=1)})
    with pytest.raises(SourceUnavailable, match="marketlake status"):
        daily_summary(dead, runs=[])
