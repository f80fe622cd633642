"""When a report is late, and which runs are held to it."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowRescheduleException
from airflow.sdk.execution_time.context import set_current_context
from airflow.timetables.base import TimeRestriction
from marketlake.clock import utc_now
from marketlake.orchestration.deadlines import deadline_timetable, held_to_deadline, looks_at
from marketlake.orchestration.timetable import ExchangeSessionTimetable
from marketlake.settings import DeadlineSettings, MarketSettings, Settings

HOUR = timedelta(hours=1)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def market(name: str = "packaged", *, minutes: int = 60) -> Settings:
    return Settings(market=MarketSettings(name=name), deadlines=DeadlineSettings(minutes=minutes))


# New York closes at 16:00 local time, and at 13:00 on the half day after Thanksgiving (NYSE's
# published trading hours); reports are due 30 minutes later.
@pytest.mark.parametrize(
    ("session", "deadline"),
    [
        ("2022-11-25", "2022-11-25T19:30"),  # half day
        ("2022-03-11", "2022-03-11T22:30"),  # the last session of winter time
        ("2022-03-14", "2022-03-14T21:30"),  # the first of summer time
        ("2022-11-07", "2022-11-07T22:30"),
    ],
)
def test_the_deadline_follows_the_close_on_half_days_and_across_dst(session, deadline):
    [run] = deadline_timetable(market()).iter_partition_dagrun_infos(
        earliest=at(session), latest=at(session)
    )

    assert (run.partition_key, run.run_after) == (session, at(deadline))


def test_the_deadline_is_so_long_after_the_session_is_due():
    settings = market("generated", minutes=45)
    due = ExchangeSessionTimetable.of(settings.market).serialize()
    late = deadline_timetable(settings).serialize()

    assert late.pop("delay_minutes") - due.pop("delay_minutes") == 45
    assert late == due


def test_a_market_that_has_ended_has_no_deadlines():
    anything = TimeRestriction(earliest=None, latest=None, catchup=False)

    def coming(name: str):
        return deadline_timetable(market(name)).next_dagrun_info_v2(
            last_dagrun_info=None, restriction=anything
        )

    assert coming("packaged") is None
    assert coming("generated").partition_key


def a_run(run_type: str, *, due_at: datetime, started_at: datetime) -> dict:
    run = SimpleNamespace(run_type=run_type, run_after=due_at, start_date=started_at)
    return {"dag_run": run}


def test_a_scheduled_run_looks_when_the_deadline_has_passed():
    now = utc_now()
    with set_current_context(a_run("scheduled", due_at=now, started_at=now)):
        assert held_to_deadline()


@pytest.mark.parametrize("run_type", ["backfill", "manual", "asset_triggered"])
def test_other_runs_have_no_deadline(run_type):
    long_ago = at("2022-11-25T19:30")
    with set_current_context(a_run(run_type, due_at=long_ago, started_at=utc_now())):
        assert not held_to_deadline()


def test_a_platform_that_was_off_gets_the_same_minutes_again():
    back_at = utc_now() - timedelta(minutes=20)
    run = a_run("scheduled", due_at=back_at - 5 * HOUR, started_at=back_at)

    with set_current_context(run), pytest.raises(AirflowRescheduleException) as put_aside:
        held_to_deadline()
    assert put_aside.value.reschedule_date == back_at + HOUR

    run["dag_run"].start_date -= HOUR
    with set_current_context(run):
        assert held_to_deadline()


def test_a_busy_minute_is_no_reason_to_look_later():
    due_at = at("2022-11-25T19:30")

    def looked(started_at: datetime) -> datetime:
        return looks_at(due_at=due_at, started_at=started_at, grace=HOUR)

    assert looked(due_at + timedelta(minutes=2)) == due_at + timedelta(minutes=2)
    assert looked(due_at + timedelta(minutes=6)) == due_at + timedelta(minutes=66)
