"""A task that is killed has an end in the ledger, and its next try does the work."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

import psutil
import pytest
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.stack import Platform
from marketlake.storage.ledger import LedgerClient, Recorded

from tests.acceptance.processes import task_processes
from tests.integration.conftest import wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]

SLOW = pytest.mark.slow
ENDS = ("task_finished", "task_failed")
FETCH = "marketlake.pipelines.load_history.fetch"


def the_task(platform: Platform, task: int) -> list[int]:
    return [task]


def the_task_and_its_supervisor(platform: Platform, task: int) -> list[int]:
    return [psutil.Process(task).ppid(), task]


def the_scheduler_with_all_its_tasks(platform: Platform, task: int) -> list[int]:
    pid = platform.components["scheduler"].process.pid
    assert pid is not None
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


@pytest.mark.parametrize(
    ("victims", "seen_by", "said"),
    [
        (the_task, "supervisor", "signal SIGKILL; Airflow's state: up_for_retry"),
        # Only after it has missed its heartbeats does the scheduler hold it for dead.
        pytest.param(
            the_task_and_its_supervisor, "listener", "finished with state failed", marks=SLOW
        ),
        # The one that comes after it sets the task back, and tells nobody.
        pytest.param(the_scheduler_with_all_its_tasks, "next try", "when try 2 began", marks=SLOW),
    ],
)
def test_the_ledger_hears_how_a_killed_task_ended(
    platform: Platform, victims: Callable[[Platform, int], list[int]], seen_by: str, said: str
) -> None:
    settings = platform.settings
    ledger = LedgerClient(settings.ledger)
    with AirflowApi(settings.airflow) as api:
        run_id = api.trigger("load_history", conf={"through": "2010-01-29"})

        def told(kind: str) -> list[Recorded]:
            return ledger.entries(kind, "load_history", run_id=run_id)

        def killed() -> bool:
            fetching = any(entry.payload["step"] == FETCH for entry in told("task_started"))
            processes = task_processes(settings.home) if fetching else []
            try:
                chosen = victims(platform, processes[-1]) if processes else []
                os.kill(processes[-1], 0)
            except (IndexError, psutil.NoSuchProcess, ProcessLookupError):
                return False  # it has ended, or not begun
            for victim in chosen:
                with suppress(ProcessLookupError):  # it ended with those before it
                    os.kill(victim, signal.SIGKILL)
            return True

        wait_until(killed, what="a task that fetches", within_s=120, every_s=0.01)
        platform.up()  # starts what is down, which is nothing or the scheduler
        wait_until(lambda: told("task_failed"), what="the end of the killed task")
        entry = told("task_failed")[0]
        assert entry.key.endswith("/1/end")
        assert entry.payload["seen_by"] == seen_by
        assert said in entry.payload["message"]
        again = {**entry.run, "try_number": 2}
        wait_until(
            lambda: again in [entry.run for entry in told("task_finished")],
            what="the end of its next try",
        )
        wait_until(
            lambda: api.run("load_history", run_id)["state"] == "success", what="the whole run"
        )
    ended = {entry.key.rpartition("/")[0] for kind in ENDS for entry in told(kind)}
    assert {entry.key.rpartition("/")[0] for entry in told("task_started")} <= ended
    assert told("task_failed") == [entry] or victims is the_scheduler_with_all_its_tasks
