"""Make Airflow work and wait for it: backfills of sessions, runs of on-demand DAGs.

What does not belong: how progress looks (``cli``) and what a run computes (``pipelines``).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import ConfigError, SourceUnavailable, Timeout
from marketlake.services.platform.airflow import airflow_environment
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.following import (
    DAILY_CHAIN,
    EXPORT,
    DagRun,
    SessionProgress,
    follow,
)
from marketlake.services.platform.process import last_words, run_to_end
from marketlake.settings import Settings

T = TypeVar("T")
Reprocess = Literal["none", "failed", "completed"]

_POLL_S = 2.0
_LIST_EVERY_S = 30.0
_CLOCKS_DIFFER = timedelta(seconds=5)
_CREATE_TIMEOUT_S = 180
STILL_LIMIT_S = 2400.0  # a task may take half an hour, and is then seen to end
_SILENCE_LIMIT_S = 120.0
_EXPORT_BEGINS_WITHIN_S = 10.0
_DONE = ("success", "failed")


@dataclass(frozen=True)
class FailedTask:
    """A task that failed for good: its error in one line, and where its log is."""

    dag_id: str
    task_id: str
    session: date | None
    error: str
    log: Path


def create_backfill(
    settings: Settings,
    api: AirflowApi,
    first: date,
    last: date,
    *,
    reprocess: Reprocess = "none",
    max_active_runs: int = 10,
) -> None:
    """Run ``airflow backfill create`` on the chain's first DAG; Airflow then runs the rest.

    Raises
    ------
    ConfigError
        When Airflow refuses; the message has its last words.
    """
    _wait_until_no_backfill_is_active(api)
    log = settings.home / "logs" / "backfill.log"
    code = run_to_end(
        [
            sys.executable, "-m", "airflow", "backfill", "create",
            "--dag-id", DAILY_CHAIN[0],
            "--from-date", first.isoformat(),
            "--to-date", last.isoformat(),
            "--reprocess-behavior", reprocess,
            "--max-active-runs", str(max_active_runs),
        ],
        env=airflow_environment(settings),
        cwd=settings.home,
        log=log,
        within_s=_CREATE_TIMEOUT_S,
    )  # fmt: skip
    if code != 0:
        raise ConfigError(
            expected=f"`airflow backfill create` for {first} to {last} to be accepted",
            was=f"exit code {code}: {last_words(log)}",
            where=DAILY_CHAIN[0],
            todo="see Browse > Backfills in the UI; the range must hold sessions that are over",
        )


def resume_failed(api: AirflowApi, progress: Sequence[SessionProgress]) -> list[DagRun]:
    """Clear what failed after the chain's first DAG; a backfill only knows the first."""
    stopped = [run for session in progress if (run := session.failed) is not None]
    resumed = [run for run in stopped if run.dag_id != DAILY_CHAIN[0]]
    for run in resumed:
        api.clear_failed(run.dag_id, run.run_id)
    return resumed


def hasten_waiting(api: AirflowApi, progress: Sequence[SessionProgress]) -> list[DagRun]:
    """Let tasks that wait for their next try run now; return the runs that had some.

    The scheduler of a market without an end starts the newest session by itself, maybe before
    there is any history: its tasks have gone to wait for that, by now for minutes.
    """
    hastened = []
    for run in (run for session in progress for run in session.runs if run.state == "running"):
        tasks = api.tasks(run.dag_id, run.run_id)
        waiting = sorted({str(t["task_id"]) for t in tasks if t["state"] == "up_for_retry"})
        if waiting:
            api.clear(run.dag_id, run.run_id, task_ids=waiting)
            hastened.append(run)
    return hastened


def session_progress(api: AirflowApi, sessions: Sequence[date]) -> list[SessionProgress]:
    """Ask Airflow how far the sessions are; an api-server that recovers is waited for."""
    return follow(sessions, _patiently(lambda: api.runs(**_key_filter(sessions))))


def await_sessions(
    api: AirflowApi,
    sessions: Sequence[date],
    on_progress: Callable[[list[SessionProgress]], None],
) -> list[SessionProgress]:
    """Wait until every session has passed the whole chain or stands at a failure.

    Raises
    ------
    Timeout
        When nothing has moved for longer than a task may take.
    """
    watched = _Watched(api, sessions)
    seen: list[SessionProgress] | None = None
    moved_at = monotonic_s()
    while True:
        progress = _patiently(watched.look)
        if progress != seen:
            seen, moved_at = progress, monotonic_s()
            on_progress(progress)
        if all(session.is_settled for session in progress):
            return progress
        _require_movement(moved_at, [str(p.session) for p in progress if not p.is_settled])
        sleep_s(_POLL_S)


class _Watched:
    """The runs of some sessions, of which only those that changed are asked for again.

    Listing them all costs the api-server 0.1 CPU-s for every hundred that there ever were.
    """

    def __init__(self, api: AirflowApi, sessions: Sequence[date]) -> None:
        self._api = api
        self._sessions = sessions
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._known_at: datetime | None = None
        self._listed_at_s = 0.0

    def look(self) -> list[SessionProgress]:
        """Ask Airflow what has changed."""
        began, began_s = utc_now(), monotonic_s()
        filters = _key_filter(self._sessions)
        # Now and then all of them, because somebody may have deleted one.
        everything = self._known_at is None or began_s - self._listed_at_s > _LIST_EVERY_S
        if self._known_at is not None and not everything:
            filters["updated_at_gte"] = (self._known_at - _CLOCKS_DIFFER).isoformat()
        found = {(row["dag_id"], row["dag_run_id"]): row for row in self._api.runs(**filters)}
        self._rows = found if everything else self._rows | found
        self._known_at = began
        if everything:
            self._listed_at_s = began_s
        return follow(self._sessions, self._rows.values())


def await_on_demand(
    api: AirflowApi,
    dag_id: str,
    run_id: str,
    on_tasks: Callable[[list[dict[str, Any]]], None],
) -> str:
    """Wait for an on-demand run and return how it ended: success or failed."""
    states: list[tuple[str, int, str | None]] | None = None
    moved_at = monotonic_s()
    while True:
        run = _patiently(lambda: api.run(dag_id, run_id))
        tasks = _patiently(lambda: api.tasks(dag_id, run_id))
        now = [(task["task_id"], task["map_index"], task["state"]) for task in tasks]
        if now != states:
            states, moved_at = now, monotonic_s()
            on_tasks(tasks)
        if run["state"] in _DONE:
            return str(run["state"])
        _require_movement(moved_at, [run_id])
        sleep_s(_POLL_S)


def await_exports(
    settings: Settings, api: AirflowApi, sessions: Sequence[date]
) -> list[FailedTask]:
    """Wait for the audit files that the sessions' reports set off; return what failed of them.

    They come while other work goes on, so this rarely waits. A session that has no run (it was
    reported before there were exports) is waited for no longer than a run takes to be made.
    """
    begun, moved_at = monotonic_s(), monotonic_s()
    seen: dict[date, DagRun] = {}
    while True:
        rows = _patiently(lambda: api.runs(EXPORT, **_key_filter(sessions)))
        found = [DagRun.from_answer(row) for row in rows if row["partition_key"]]
        runs = {run.session: run for run in found if run.session in sessions}
        if runs != seen:
            seen, moved_at = runs, monotonic_s()
        under_way = [str(run.session) for run in runs.values() if run.state not in _DONE]
        absent = len(runs) < len(sessions) and monotonic_s() - begun < _EXPORT_BEGINS_WITHIN_S
        if not under_way and not absent:
            failed = [run for run in runs.values() if run.state == "failed"]
            return [task for run in failed for task in failed_tasks(settings, api, run)]
        _require_movement(moved_at, [f"{EXPORT} {session}" for session in under_way])
        sleep_s(_POLL_S)


def latest_on_demand(
    api: AirflowApi, dag_id: str, conf: Mapping[str, str]
) -> dict[str, Any] | None:
    """Return the newest run with these parameters that has not failed, None if there is none."""
    usable = [
        run
        for run in api.runs(dag_id)
        if dict(run["conf"] or {}) == dict(conf) and run["state"] != "failed"
    ]
    return usable[-1] if usable else None


def failed_tasks(settings: Settings, api: AirflowApi, run: DagRun) -> list[FailedTask]:
    """Return what failed in a run, with the error each log ends with."""
    return failures_of(settings, api, run.dag_id, run.run_id, session=run.session)


def failures_of(
    settings: Settings, api: AirflowApi, dag_id: str, run_id: str, *, session: date | None = None
) -> list[FailedTask]:
    """Return the failed tasks of one run."""
    return [
        FailedTask(dag_id, _label(task), session, _error_line(api.log(task)), _log(settings, task))
        for task in api.tasks(dag_id, run_id)
        if task["state"] == "failed"
    ]


def _key_filter(sessions: Sequence[date]) -> dict[str, str]:
    """Return the narrowest filter by year or month that holds all the sessions."""
    for shape in ("%Y-%m", "%Y"):
        shared = {session.strftime(shape) for session in sessions}
        if len(shared) == 1:
            return {"partition_key_prefix_pattern": shared.pop()}
    return {}


def _label(task: Mapping[str, Any]) -> str:
    index = int(task["map_index"])
    return str(task["task_id"]) if index < 0 else f"{task['task_id']}[{index}]"


def _error_line(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return the exception a task log ends with, else its last line."""
    for line in reversed(lines):
        for detail in line.get("error_detail") or []:
            return f"{detail.get('exc_type')}: {detail.get('exc_value')}"
    return str(lines[-1].get("event", "")) if lines else "no log"


def _log(settings: Settings, task: Mapping[str, Any]) -> Path:
    folder = settings.home / "logs" / "tasks" / f"dag_id={task['dag_id']}"
    folder = folder / f"run_id={task['dag_run_id']}" / f"task_id={task['task_id']}"
    if int(task["map_index"]) >= 0:
        folder = folder / f"map_index={task['map_index']}"
    return folder / f"attempt={max(int(task['try_number']), 1)}.log"


def _wait_until_no_backfill_is_active(api: AirflowApi) -> None:
    """Airflow allows one backfill a DAG, and closes a finished one only after a while."""
    deadline = monotonic_s() + 120
    while monotonic_s() < deadline:
        active = api.active_backfills(DAILY_CHAIN[0])
        if not active:
            return
        sleep_s(_POLL_S)
    raise ConfigError(
        expected=f"no backfill of {DAILY_CHAIN[0]} in progress",
        was=f"backfill {active[0]['id']} ({active[0]['from_date']} to {active[0]['to_date']})",
        where="Browse > Backfills in the UI",
        todo="wait for it, or cancel it there",
    )


def _patiently(question: Callable[[], T]) -> T:
    """Ask until Airflow answers: a busy or restarting api-server does not end a wait."""
    deadline = monotonic_s() + _SILENCE_LIMIT_S
    while True:
        try:
            return question()
        except SourceUnavailable:
            if monotonic_s() > deadline:
                raise
            sleep_s(_POLL_S)


def _require_movement(moved_at: float, waiting: Sequence[str]) -> None:
    if monotonic_s() - moved_at > STILL_LIMIT_S:
        raise Timeout(
            expected=f"some task to begin or end within {STILL_LIMIT_S:.0f} s",
            was="nothing moved",
            where=", ".join(waiting),
            todo="`marketlake status`, then `marketlake logs scheduler`",
        )


def require_running(api: AirflowApi, settings: Settings) -> None:
    """Raise when Airflow does not answer, before anything is asked of it."""
    health = api.health()
    for name in ("scheduler", "dag_processor"):
        if health[name]["status"] != "healthy":
            raise SourceUnavailable(
                expected=f"a healthy {name}",
                was=str(health[name]["status"]),
                where=str(settings.home / "logs" / f"{name.replace('_', '-')}.log"),
                todo="`marketlake up` restarts what died",
            )
