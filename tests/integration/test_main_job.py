"""The two commands of the README, and what a person may then do in the UI."""

from __future__ import annotations

import json
from datetime import date

import httpx
import pytest
from marketlake.contracts.catalog import CATALOG
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.following import DAILY_CHAIN
from marketlake.services.sandbox.faults import PLANTED
from pydantic import BaseModel, SecretStr

from tests.integration.conftest import SESSIONS, ContentHashes, Installation, wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

LAST = date(2022, 12, 28)


def secrets_of(settings: BaseModel, inside: str = "") -> dict[str, str]:
    """Return every secret among the settings by its place."""
    found: dict[str, str] = {}
    for name, value in settings:
        if isinstance(value, SecretStr):
            found[inside + name] = value.get_secret_value()
        elif isinstance(value, BaseModel):
            found |= secrets_of(value, f"{inside}{name}.")
    assert all(found.values()), found.keys()
    return found


def test_the_main_job_says_what_came_out(main_job: tuple[Installation, str]) -> None:
    _, printed = main_job
    for words in (
        "DAG runs", "report_daily", "Artifacts of 2022-12-28", "s3://lake/reports/daily_report",
        "Strongest signals of 2022-12-28", "base rate", "var_95_pct", "Gates", "passed",
        "Faults planted in the vendors' data", "verified:", "Airflow UI", "password",
    ):  # fmt: skip
        assert words in printed, words


def test_every_planted_fault_was_found(main_job: tuple[Installation, str]) -> None:
    _, printed = main_job
    table = printed.split("Faults planted in the vendors' data")[1].split("Ledger")[0]
    rows = [line for line in table.splitlines() if line.startswith("2022-12-")]
    assert {tuple(row.split()[:3]) for row in rows} == {
        (fault.session.isoformat(), fault.symbol, fault.vendor) for fault in PLANTED
    }
    assert "NOT FOUND" not in table
    assert all("gate:" in row or "consensus:" in row or "integrity:" in row for row in rows), rows


def test_every_session_has_every_daily_artifact(
    ran: Installation, first_hashes: ContentHashes
) -> None:
    daily = {item.name for item in CATALOG if item.owner in DAILY_CHAIN and not item.record}
    for session in SESSIONS:
        published = {name for name, key in first_hashes if key == f"session={session}"}
        assert published >= daily, session


def test_status_names_the_ui_and_the_ui_answers(ran: Installation) -> None:
    status = json.loads(ran.must("status", "--json"))
    assert status["ready"]
    assert httpx.get(status["ui_url"], timeout=30, follow_redirects=True).status_code == 200


def test_a_second_main_job_keeps_everything(ran: Installation, first_hashes: ContentHashes) -> None:
    printed = ran.must("run")
    assert printed.count("  kept") >= 3
    assert ran.hashes() == first_hashes


def test_a_trigger_without_a_partition_key_fails_at_once_and_says_why(
    ran: Installation, api: AirflowApi
) -> None:
    run_id = api.trigger("ingest_market_data")
    wait_until(
        lambda: api.run("ingest_market_data", run_id)["state"] == "failed",
        what="the keyless run to fail",
        within_s=60,
    )
    (plan,) = [
        task for task in api.tasks("ingest_market_data", run_id) if task["task_id"] == "plan"
    ]
    assert plan["try_number"] == 1
    log = json.dumps(api.log(plan))
    assert "ConfigError" in log
    assert "trigger with a partition key" in log


def test_a_trigger_with_a_partition_key_runs_the_whole_chain_to_the_same_bytes(
    ran: Installation, api: AirflowApi, first_hashes: ContentHashes
) -> None:
    run_id = api.trigger("ingest_market_data", partition_key=LAST.isoformat())
    wait_until(
        lambda: (now := ran.progress(api, LAST)).runs[0].run_id == run_id and now.is_settled,
        what="the chain behind the triggered run",
    )
    assert ran.progress(api, LAST).is_complete
    assert ran.hashes() == first_hashes


def test_clearing_a_past_task_runs_what_follows_it_again(
    ran: Installation, api: AirflowApi, first_hashes: ContentHashes
) -> None:
    session = date(2022, 12, 23)
    before = ran.progress(api, session)
    validated = before.runs[1]
    api.clear(validated.dag_id, validated.run_id, task_ids=["publish"])
    wait_until(
        lambda: (
            (now := ran.progress(api, session)).is_complete
            and all(
                run.run_id != old.run_id
                for run, old in zip(now.runs[2:], before.runs[2:], strict=True)
            )
        ),
        what="five new runs after the cleared one",
    )
    assert ran.hashes() == first_hashes


def test_nothing_secret_is_in_a_log(ran: Installation, first_hashes: ContentHashes) -> None:
    secrets = secrets_of(ran.settings)
    assert {"airflow.password", "lake.access_key", "sandbox.control_token"} < set(secrets)
    logs = [path for path in (ran.home / "logs").rglob("*") if path.is_file()]
    assert {"api-server.log", "scheduler.log", "sandbox.log"} <= {path.name for path in logs}
    assert [path for path in logs if "dag_id=ingest_market_data" in str(path)]
    told = [
        (name, path)
        for path in logs
        for text in [path.read_text(errors="replace")]
        for name, secret in secrets.items()
        if secret in text
    ]
    assert told == []
