"""A worker's slot is free when its task's process has ended, not a heartbeat later."""

import json
import os
import signal
import time
import uuid
from configparser import ConfigParser
from importlib import import_module
from typing import Any

import httpx
import pytest
import structlog
from airflow.sdk.api.client import Client
from airflow.sdk.api.datamodels._generated import BundleInfo, TaskInstance
from airflow.sdk.execution_time import supervisor
from marketlake.orchestration.supervision import PromptCoordinator, PromptSubprocess
from marketlake.settings import PROJECT_ROOT, Settings, current_settings
from marketlake.storage.ledger import LedgerClient
from marketlake.types import RunIdentity

LINGERS_S = 0.3
STARTED = {
    "dag_run": {
        "dag_id": "ingest_market_data",
        "run_id": "one",
        "logical_date": None,
        "data_interval_start": None,
        "data_interval_end": None,
        "start_date": "2022-12-28T22:00:00Z",
        "end_date": None,
        "run_after": "2022-12-28T22:00:00Z",
        "run_type": "backfill",
        "state": "running",
        "partition_key": "2022-12-28",
        "consumed_asset_events": [],
    },
    "max_tries": 0,
    "should_retry": False,
}


def _api_server(request: httpx.Request) -> httpx.Response:
    is_start = request.url.path.endswith("/run")
    return httpx.Response(200, json=STARTED) if is_start else httpx.Response(204)


def _closes_its_sockets_and_lingers() -> None:
    os.closerange(0, 256)
    time.sleep(LINGERS_S)
    os._exit(0)


def _task(run_id: str = "one") -> dict[str, Any]:
    return {
        "what": TaskInstance(
            id=uuid.uuid4(),
            task_id="plan",
            dag_id="ingest_market_data",
            run_id=run_id,
            try_number=1,
            dag_version_id=uuid.uuid4(),
        ),
        "dag_rel_path": "ingest_market_data.py",
        "bundle_info": BundleInfo(name="dags-folder"),
        "client": Client(
            base_url="http://api-server", token="", transport=httpx.MockTransport(_api_server)
        ),
    }


def test_the_end_of_a_process_is_seen_when_it_ends() -> None:
    began = time.monotonic()
    process = PromptSubprocess.start(target=_closes_its_sockets_and_lingers, **_task())

    assert process.wait() == 0

    took_s = time.monotonic() - began
    assert LINGERS_S <= took_s < supervisor.MIN_HEARTBEAT_INTERVAL / 2


def _is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_ledger_hears_of_a_killed_process(
    ledger: LedgerClient, storage_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETLAKE_HOME", str(storage_settings.home))
    current_settings.cache_clear()
    run = RunIdentity("ingest_market_data", f"killed {uuid.uuid4().hex}", "plan")

    process = PromptSubprocess.start(target=_is_killed, **_task(run.run_id))

    assert process.wait() == -signal.SIGKILL
    (entry,) = ledger.entries(run_id=run.run_id)
    assert (entry.key, entry.kind) == (f"{run.key}/end", "task_failed")
    assert "SIGKILL; Airflow's state: failed" in entry.payload["message"]


def _prints_and_ends() -> None:
    os.write(1, b"said by the task\n")
    os._exit(0)


@pytest.mark.parametrize(
    ("asked", "configured", "is_shown"),
    [
        (True, {}, False),
        (True, {"LOGGING": "True"}, True),
        (True, {"CELERY": "True"}, True),
        (False, {"LOGGING": "True", "CELERY": "False"}, False),
    ],
)
def test_a_task_s_log_goes_to_stdout_too_where_a_setting_says_so(
    asked: bool,
    configured: dict[str, str],
    is_shown: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for section, value in configured.items():
        monkeypatch.setenv(f"AIRFLOW__{section}__TASK_LOGS_TO_STDOUT", value)
    with structlog.testing.capture_logs() as shown:
        PromptCoordinator().execute_task(
            subprocess_logs_to_stdout=asked,
            target=_prints_and_ends,
            logger=structlog.wrap_logger(structlog.testing.ReturnLogger(), processors=[]),
            **_task(),
        )
    assert ("said by the task" in [entry["event"] for entry in shown]) is is_shown


def test_airflow_is_configured_to_run_every_task_so() -> None:
    configured = ConfigParser(interpolation=None)
    configured.read(PROJECT_ROOT / "airflow.cfg")
    coordinators = json.loads(configured["sdk"]["coordinators"])
    name = json.loads(configured["sdk"]["queue_to_coordinator"])["default"]

    module, _, classname = coordinators[name]["classpath"].rpartition(".")

    assert getattr(import_module(module), classname) is PromptCoordinator
