"""Whether the scheduler schedules, judged from the work that waits for it.

A scheduler can answer and beat, and start nothing all the same: its executor may hang, or its loop.
What does not belong: whether its process runs (``process``) and its heartbeat (``airflow``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from configparser import RawConfigParser
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from marketlake.clock import sleep_s, utc_now
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.settings import PROJECT_ROOT

PATIENCE_S = 30.0
"""Work that waits longer than this, with nothing before it, is not being scheduled."""

_SECOND_LOOK_S = 5.0
_OPEN_RUNS = ("queued", "running")
_OPEN_TASKS = ("scheduled", "queued", "running")


@dataclass(frozen=True)
class Waiting:
    """A run or task that only the scheduler can move on, and since when it could have."""

    name: str
    state: str
    since: datetime

    def age_s(self, now: datetime) -> float:
        """Return how long it has waited."""
        return (now - self.since).total_seconds()


@dataclass(frozen=True)
class Work:
    """What Airflow has to do at one moment, as its REST API tells it."""

    dags: Mapping[str, Mapping[str, Any]]
    runs: tuple[Mapping[str, Any], ...]
    tasks: tuple[Mapping[str, Any], ...]
    pools: tuple[Mapping[str, Any], ...]

    @classmethod
    def now(cls, api: AirflowApi) -> Work:
        """Ask Airflow."""
        return cls(
            dags=api.dags(),
            runs=tuple(run for state in _OPEN_RUNS for run in api.runs(state=state)),
            tasks=tuple(task for state in _OPEN_TASKS for task in api.task_instances(state)),
            pools=tuple(api.pools()),
        )

    def waiting(self, *, parallelism: int) -> list[Waiting]:
        """Return what nothing holds back: no pause, no other run, no full pool or executor.

        Runs in progress count by the one looked at last: each round of the scheduler's loop looks
        at some of them (at twenty, so not always at each).
        """
        return [*self._waiting_runs(), *self._waiting_tasks(parallelism)]

    def _waiting_runs(self) -> Iterable[Waiting]:
        active = [run for run in self.runs if not self._is_paused(run["dag_id"])]
        busy = {run["dag_id"] for run in active if run["state"] == "running"}
        looked_at = []
        for run in active:
            name = f"{run['dag_id']} {run['dag_run_id']}"
            if run["state"] == "running":
                decided_at = run["last_scheduling_decision"] or run["start_date"]
                looked_at.append(Waiting(name, "running", _instant(decided_at)))
            elif run["dag_id"] not in busy:
                since = max(_instant(run["queued_at"]), _instant(run["run_after"]))
                yield Waiting(name, "queued", since)
        if looked_at:
            yield max(looked_at, key=lambda item: item.since)

    def _waiting_tasks(self, parallelism: int) -> Iterable[Waiting]:
        if sum(task["state"] == "running" for task in self.tasks) >= parallelism:
            return
        full = {pool["name"] for pool in self.pools if pool["open_slots"] == 0}
        for task in self.tasks:
            if self._is_paused(task["dag_id"]):
                continue
            name = f"{task['dag_id']}.{task['task_id']} {task['dag_run_id']}"
            if task["state"] == "queued":  # it holds its slot already
                yield Waiting(name, "queued", _instant(task["queued_when"]))
            elif task["state"] == "scheduled" and task["pool"] not in full:
                yield Waiting(name, "scheduled", _instant(task["scheduled_when"]))

    def _is_paused(self, dag_id: str) -> bool:
        return bool(self.dags.get(dag_id, {"is_paused": True})["is_paused"])


def longest_wait(api: AirflowApi, *, since: datetime | None = None) -> Waiting | None:
    """Return what has waited longest for the scheduler (at most from ``since`` on), if anything."""
    waiting = Work.now(api).waiting(parallelism=_parallelism())
    oldest = min(waiting, key=lambda item: item.since, default=None)
    if oldest is None or since is None or oldest.since >= since:
        return oldest
    return Waiting(oldest.name, oldest.state, since)


def stalled_work(
    api: AirflowApi, *, scheduler_since: datetime | None = None, patience_s: float = PATIENCE_S
) -> Waiting | None:
    """Return what the scheduler leaves lying, None when it schedules.

    What looks forgotten is looked at twice: a slot may have become free this moment.
    """
    first = longest_wait(api, since=scheduler_since)
    if first is None or first.age_s(utc_now()) <= patience_s:
        return None
    sleep_s(_SECOND_LOOK_S)
    second = longest_wait(api, since=scheduler_since)
    unmoved = second is not None and second.since <= first.since + timedelta(seconds=1)
    return second if unmoved else None


def _parallelism() -> int:
    file = RawConfigParser()
    file.read(PROJECT_ROOT / "airflow.cfg")
    return file.getint("core", "parallelism")


def _instant(text: str | None) -> datetime:
    return utc_now() if text is None else datetime.fromisoformat(text)
