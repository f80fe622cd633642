"""A task that is killed has an end in the ledger, and its next try does the work."""

from __future__ import annotations

import os
import signal

import pytest
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.stack import Platform
from marketlake.storage.ledger import LedgerClient, Recorded

from tests.acceptance.processes import task_processes
from tests.integration.conftest import wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]

FETCH = "marketlake.pipelines.load_history.fetch"


def test_the_ledger_hears_how_a_killed_task_ended(platform: Platform) -> None:
    settings = platform.settings
    ledger = LedgerClient(settings.ledger)
    with AirflowApi(settings.airflow) as api:
        run_id = api.trigger("load_history", conf={"through": "2010-01-29"})

        def told(kind: str) -> list[Recorded]:
            return ledger.entries(kind, "load_history", run_id=run_id)

        def killed() -> bool:
            fetching = any(entry.payload["step"] == FETCH for entry in told("task_started"))
            processes = task_processes(settings.home) if fetching else []
            for pid in processes[-1:]:
                os.kill(pid, signal.SIGKILL)
            return bool(processes)

        wait_until(killed, what="a task that fetches", within_s=120, every_s=0.01)
        wait_until(lambda: told("task_failed"), what="the end of the killed task")
        (entry,) = told("task_failed")
        assert entry.key.endswith("/1/end")
        assert entry.payload["seen_by"] == "supervisor"
        assert "signal SIGKILL; Airflow's state: up_for_retry" in entry.payload["message"]
        again = {**entry.run, "try_number": 2}
        wait_until(
            lambda: again in [entry.run for entry in told("task_finished")],
            what="the end of its next try",
        )
        wait_until(
            lambda: api.run("load_history", run_id)["state"] == "success", what="the whole run"
        )
    assert told("task_failed") == [entry]
