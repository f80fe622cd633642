"""Which runs count for a session, including sessions that were processed more than once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from marketlake.services.platform.following import follow

SESSION = date(2022, 12, 28)
CHAIN = ("ingest", "validate", "report")
START = datetime(2026, 1, 1, tzinfo=UTC)


def run(
    dag_id: str, queued_s: float, *, state: str = "success", session: date = SESSION
) -> dict[str, Any]:
    queued = START + timedelta(seconds=queued_s)
    return {
        "dag_id": dag_id,
        "dag_run_id": f"{dag_id}-{queued_s}",
        "partition_key": session.isoformat(),
        "state": state,
        "queued_at": queued.isoformat(),
        "start_date": None if state == "queued" else (queued + timedelta(seconds=1)).isoformat(),
        "end_date": (queued + timedelta(seconds=5)).isoformat() if state == "success" else None,
    }


def whole_chain(at_s: float) -> list[dict[str, Any]]:
    return [run("ingest", at_s), run("validate", at_s + 5), run("report", at_s + 10)]


def test_a_session_is_complete_when_every_dag_has_succeeded() -> None:
    (progress,) = follow([SESSION], whole_chain(0), chain=CHAIN)
    assert progress.is_complete
    assert progress.is_settled
    assert [one.seconds for one in progress.runs] == [4.0, 4.0, 4.0]


def test_a_session_without_runs_is_neither_complete_nor_settled() -> None:
    (progress,) = follow([SESSION], [], chain=CHAIN)
    assert progress.runs == ()
    assert not progress.is_settled


def test_after_a_reprocess_the_old_downstream_runs_no_longer_count() -> None:
    (progress,) = follow([SESSION], [*whole_chain(0), run("ingest", 100)], chain=CHAIN)
    assert [one.run_id for one in progress.runs] == ["ingest-100"]
    assert not progress.is_settled


def test_a_finished_reprocess_is_complete_with_its_own_runs() -> None:
    (progress,) = follow([SESSION], [*whole_chain(0), *whole_chain(100)], chain=CHAIN)
    assert [one.run_id for one in progress.runs] == ["ingest-100", "validate-105", "report-110"]
    assert progress.is_complete


def test_a_queued_reprocess_hides_every_older_downstream_run() -> None:
    rows = [*whole_chain(0), run("ingest", 100, state="queued")]
    (progress,) = follow([SESSION], rows, chain=CHAIN)
    assert [one.run_id for one in progress.runs] == ["ingest-100"]


def test_a_failure_settles_a_session_and_names_the_run() -> None:
    rows = [run("ingest", 0), run("validate", 5, state="failed")]
    (progress,) = follow([SESSION], rows, chain=CHAIN)
    assert progress.is_settled
    assert not progress.is_complete
    assert progress.failed is not None
    assert progress.failed.run_id == "validate-5"


def test_a_session_has_begun_unless_its_first_dag_is_missing_or_failed() -> None:
    failed_later = [run("ingest", 0), run("validate", 5, state="failed")]
    cases = [([], False), ([run("ingest", 0, state="failed")], False), (failed_later, True)]
    for rows, expected in cases:
        (progress,) = follow([SESSION], rows, chain=CHAIN)
        assert progress.has_begun is expected


def test_runs_of_other_sessions_and_without_a_session_are_left_out() -> None:
    unkeyed = run("ingest", 0) | {"partition_key": None}
    other = run("ingest", 0, session=date(2022, 12, 27))
    (progress,) = follow([SESSION], [unkeyed, other], chain=CHAIN)
    assert progress.runs == ()


@given(st.permutations([*whole_chain(0), *whole_chain(100), run("ingest", 200, state="running")]))
def test_the_order_of_airflows_answer_does_not_matter(rows: list[dict[str, Any]]) -> None:
    (progress,) = follow([SESSION], rows, chain=CHAIN)
    assert [one.run_id for one in progress.runs] == ["ingest-200"]
