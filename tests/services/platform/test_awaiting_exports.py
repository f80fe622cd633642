"""The main job waits for the audit files of its sessions, and for nothing that will not come.

Airflow's answers are scripted: what is tested is when the waiting ends.
"""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from marketlake.services.platform import daily_runs
from marketlake.settings import Settings

FIRST, SECOND = date(2022, 12, 27), date(2022, 12, 28)


def row(session: date, state: str, *, run_id: str = "run") -> dict[str, Any]:
    return {
        "dag_id": "export_audit",
        "dag_run_id": f"{run_id} {session}",
        "partition_key": session.isoformat(),
        "state": state,
        "queued_at": "2026-11-23T09:00:00+00:00",
        "start_date": None,
        "end_date": None,
    }


class Answers:
    """Airflow's answers to one question after the other; the last one stays."""

    def __init__(self, *answers: list[dict[str, Any]]) -> None:
        self.asked = 0
        self._answers = answers

    def runs(self, dag_id: str, **filters: str) -> list[dict[str, Any]]:
        assert (dag_id, filters) == (
            "export_audit",
            {"partition_key_prefix_pattern": "2022-12"},
        )
        self.asked += 1
        return self._answers[min(self.asked, len(self._answers)) - 1]

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        task = {"dag_id": dag_id, "dag_run_id": run_id, "task_id": "export", "state": "failed"}
        return [{**task, "map_index": -1, "try_number": 1}]

    def log(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"event": "the lake did not answer"}]


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return the seconds slept; the clock moves by them alone."""
    slept: list[float] = []
    monkeypatch.setattr(daily_runs, "sleep_s", slept.append)
    monkeypatch.setattr(daily_runs, "monotonic_s", lambda: sum(slept))
    return slept


def wait(answers: Answers) -> list[daily_runs.FailedTask]:
    return daily_runs.await_exports(Settings(), answers, [FIRST, SECOND])  # type: ignore[arg-type]


def test_nothing_is_waited_for_when_all_are_done(slept: list[float]) -> None:
    assert wait(Answers([row(FIRST, "success"), row(SECOND, "success")])) == []
    assert slept == []


def test_a_run_under_way_or_queued_is_waited_for(slept: list[float]) -> None:
    answers = Answers(
        [row(FIRST, "running"), row(SECOND, "queued")],
        [row(FIRST, "success"), row(SECOND, "running")],
        [row(FIRST, "success"), row(SECOND, "success")],
    )
    assert wait(answers) == []
    assert answers.asked == 3


def test_a_run_that_never_comes_is_waited_for_only_shortly(slept: list[float]) -> None:
    assert wait(Answers([])) == []
    assert 10 <= sum(slept) <= 12


def test_a_failed_export_is_told_and_a_later_one_of_its_session_replaces_it(
    slept: list[float],
) -> None:
    failed = row(SECOND, "failed")
    (told,) = wait(Answers([row(FIRST, "success"), failed]))
    assert (told.dag_id, told.task_id, told.session) == ("export_audit", "export", SECOND)
    assert told.error == "the lake did not answer"
    assert wait(Answers([row(FIRST, "success"), failed, row(SECOND, "success")])) == []
