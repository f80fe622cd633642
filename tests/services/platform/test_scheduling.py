"""What counts as work that the scheduler leaves lying, and what only waits its turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from marketlake.services.platform.scheduling import Work

NOW = datetime(2026, 1, 5, 12, tzinfo=UTC)
DAGS = {"chain": {"is_paused": False}, "asleep": {"is_paused": True}}
POOLS = [{"name": "free", "open_slots": 2}, {"name": "full", "open_slots": 0}]


def ago(seconds: float) -> str:
    return (NOW - timedelta(seconds=seconds)).isoformat()


def run(state: str, waited_s: float, dag_id: str = "chain") -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "dag_run_id": f"{state}-{waited_s}",
        "state": state,
        "queued_at": ago(waited_s),
        "run_after": ago(waited_s + 1000),
        "start_date": ago(waited_s),
        "last_scheduling_decision": ago(waited_s) if state == "running" else None,
    }


def task(state: str, waited_s: float, pool: str = "free", dag_id: str = "chain") -> dict[str, Any]:
    return {
        "dag_id": dag_id,
        "task_id": "step",
        "dag_run_id": "run",
        "state": state,
        "pool": pool,
        "queued_when": ago(waited_s),
        "scheduled_when": ago(waited_s + 1),
    }


def ages(runs: list[dict[str, Any]], tasks: list[dict[str, Any]]) -> list[float]:
    work = Work(dags=DAGS, runs=tuple(runs), tasks=tuple(tasks), pools=tuple(POOLS))
    return [waiting.age_s(NOW) for waiting in work.waiting(parallelism=2)]


def test_a_queued_run_waits_for_the_scheduler_unless_a_run_of_its_dag_is_under_way() -> None:
    assert ages([run("queued", 40)], []) == [40]
    assert ages([run("queued", 40), run("running", 1)], []) == [1]


def test_runs_under_way_count_by_the_one_looked_at_last() -> None:
    assert ages([run("running", 50), run("running", 2)], []) == [2]


def test_a_run_that_was_never_looked_at_waits_since_its_start() -> None:
    assert ages([run("running", 7) | {"last_scheduling_decision": None}], []) == [7]


def test_a_task_waits_for_the_scheduler_when_its_pool_has_a_slot() -> None:
    assert ages([], [task("scheduled", 9), task("scheduled", 90, pool="full")]) == [10]


def test_a_task_handed_to_the_executor_waits_whatever_its_pool_has_left() -> None:
    assert ages([], [task("queued", 9, pool="full")]) == [9]


def test_nothing_waits_for_the_scheduler_while_every_worker_is_at_work() -> None:
    busy = [task("running", 600), task("running", 600)]
    assert ages([], [*busy, task("queued", 90), task("scheduled", 90)]) == []
    assert ages([], [*busy[:1], task("queued", 90)]) == [90]


@pytest.mark.parametrize("dag_id", ["asleep", "gone"])
def test_what_belongs_to_a_paused_or_removed_dag_waits_for_a_person(dag_id: str) -> None:
    work = [run("queued", 90, dag_id), run("running", 90, dag_id)]
    assert ages(work, [task("scheduled", 90, dag_id=dag_id)]) == []
