"""The timetable as a pure function of (last run, restriction, now)."""

from datetime import UTC, date, datetime, timedelta

import pytest
from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, TimeRestriction
from airflow.utils.types import DagRunType
from hypothesis import given
from hypothesis import strategies as st
from marketlake.calendars import Calendar
from marketlake.orchestration.timetable import ExchangeSessionTimetable
from marketlake.settings import MarketSettings

FIRST = date(2010, 1, 4)
LAST = date(2022, 12, 28)
ANY_TIME = TimeRestriction(earliest=None, latest=None, catchup=False)
CALENDAR = Calendar.of("XNYS")


def timetable(
    *, last_session: date | None = LAST, now: datetime = datetime(2026, 1, 2, tzinfo=UTC)
) -> ExchangeSessionTimetable:
    return ExchangeSessionTimetable(
        "XNYS", delay_minutes=30, first_session=FIRST, last_session=last_session, now=lambda: now
    )


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def backfill(schedule: ExchangeSessionTimetable, first: str, last: str) -> list[DagRunInfo]:
    return list(schedule.iter_partition_dagrun_infos(earliest=at(first), latest=at(last)))


def next_run(
    schedule: ExchangeSessionTimetable,
    last: DagRunInfo | None = None,
    restriction: TimeRestriction = ANY_TIME,
) -> DagRunInfo | None:
    return schedule.next_dagrun_info_v2(last_dagrun_info=last, restriction=restriction)


# New York closes at 16:00 local time, and at 13:00 on the half day after Thanksgiving (NYSE's
# published trading hours); the rest is the offset of New York from UTC.
@pytest.mark.parametrize(
    ("session", "closes_at"),
    [
        ("2022-11-25", "2022-11-25T18:00"),
        ("2022-03-11", "2022-03-11T21:00"),
        ("2022-03-14", "2022-03-14T20:00"),
        ("2022-11-04", "2022-11-04T20:00"),
        ("2022-11-07", "2022-11-07T21:00"),
    ],
)
def test_a_session_is_due_half_an_hour_after_its_close_on_half_days_and_across_dst(
    session, closes_at
):
    [run] = backfill(timetable(), session, session)

    assert run.run_after == at(closes_at) + timedelta(minutes=30)
    assert run.partition_key == session
    assert run.partition_date == at(session)
    assert run.logical_date is None


def test_a_backfill_makes_a_run_for_each_session_and_none_for_weekends_and_holidays():
    keys = [run.partition_key for run in backfill(timetable(), "2022-11-19", "2022-11-28")]

    # Thanksgiving was on 2022-11-24.
    assert keys == ["2022-11-21", "2022-11-22", "2022-11-23", "2022-11-25", "2022-11-28"]


def test_a_backfill_of_a_holiday_makes_no_run():
    assert backfill(timetable(), "2022-12-26", "2022-12-26") == []


def test_a_backfill_stays_between_the_first_and_the_last_session_of_the_market():
    keys = [run.partition_key for run in backfill(timetable(), "2022-12-27", "2023-01-10")]

    assert keys == ["2022-12-27", "2022-12-28"]
    assert backfill(timetable(), "2009-12-01", "2010-01-03") == []
    assert backfill(timetable(), "2023-01-01", "2023-01-31") == []


def test_a_backfill_leaves_out_sessions_that_are_not_due_yet():
    live = timetable(last_session=None, now=at("2022-11-25T18:29"))
    later = timetable(last_session=None, now=at("2022-11-25T18:30"))

    assert [run.partition_key for run in backfill(live, "2022-11-23", "2022-11-30")] == [
        "2022-11-23"
    ]
    assert [run.partition_key for run in backfill(later, "2022-11-23", "2022-11-30")] == [
        "2022-11-23",
        "2022-11-25",
    ]


def test_a_range_that_starts_during_a_day_leaves_that_day_out():
    keys = [run.partition_key for run in backfill(timetable(), "2022-12-20T09:00", "2022-12-21")]

    assert keys == ["2022-12-21"]


@given(
    first=st.dates(date(2009, 6, 1), date(2023, 6, 1)),
    days=st.integers(min_value=0, max_value=60),
)
def test_a_backfill_iterates_exactly_the_sessions_of_the_range(first, days):
    last = first + timedelta(days=days)

    runs = backfill(timetable(), first.isoformat(), last.isoformat())

    expected = [s for s in CALENDAR.sessions(first, last) if FIRST <= s <= LAST]
    assert [run.partition_key for run in runs] == [s.isoformat() for s in expected]
    assert [run.run_after for run in runs] == [CALENDAR.known_at(s, 30) for s in expected]


def test_a_market_that_has_ended_schedules_nothing_by_itself():
    ended = timetable()
    [last] = backfill(ended, "2022-12-20", "2022-12-20")

    assert next_run(ended) is None
    assert next_run(ended, last) is None
    assert ended.periodic, "or Airflow refuses to backfill it"


@given(minutes=st.integers(min_value=0, max_value=12 * 365 * 24 * 60))
def test_a_live_market_makes_one_run_for_the_newest_session_due_and_then_waits(minutes):
    now = at("2015-01-02") + timedelta(minutes=minutes)
    live = timetable(last_session=None, now=now)

    first = next_run(live)
    assert first is not None
    session = date.fromisoformat(first.partition_key)
    assert first.run_after == CALENDAR.known_at(session, 30) <= now
    assert now < CALENDAR.known_at(CALENDAR.next(session), 30)

    second = next_run(live, first)
    assert second is not None
    assert second.partition_key == CALENDAR.next(session).isoformat()
    assert second.run_after > now


def test_a_live_market_skips_what_it_missed_unless_it_catches_up():
    live = timetable(last_session=None, now=at("2022-12-23T22:00"))
    [last] = backfill(live, "2022-12-19", "2022-12-19")
    catching_up = TimeRestriction(earliest=None, latest=None, catchup=True)

    assert next_run(live, last).partition_key == "2022-12-23"
    assert next_run(live, last, catching_up).partition_key == "2022-12-20"


def test_a_start_date_and_an_end_date_bound_what_is_scheduled():
    live = timetable(last_session=None, now=at("2022-12-23T22:00"))

    later = TimeRestriction(earliest=at("2022-12-24"), latest=None, catchup=False)
    ended = TimeRestriction(earliest=None, latest=at("2022-12-22"), catchup=False)
    from_the_start = TimeRestriction(earliest=None, latest=None, catchup=True)
    assert next_run(live, None, later).partition_key == "2022-12-27"
    assert next_run(live, None, ended) is None
    assert next_run(live, None, from_the_start).partition_key == "2010-01-04"


@pytest.mark.parametrize(
    "key", ["2022-12-26", "2022-11-24", "2022-12-24", "28.12.2022", "20221228", "2022-13-01", "x"]
)
def test_a_key_that_is_no_session_is_refused(key):
    with pytest.raises(InvalidPartitionKeyError, match="session"):
        timetable().resolve_partition_date(key)


@pytest.mark.parametrize("key", ["2009-12-31", "2022-12-29", "1066-10-14", "2222-12-27"])
def test_a_key_outside_the_market_is_refused(key):
    with pytest.raises(InvalidPartitionKeyError, match="2010-01-04 to 2022-12-28"):
        timetable().resolve_partition_date(key)


def test_a_session_in_the_future_of_a_live_market_is_refused():
    live = timetable(last_session=None, now=at("2022-12-20T22:00"))

    assert live.resolve_partition_date("2022-12-20") == at("2022-12-20")
    with pytest.raises(InvalidPartitionKeyError, match="to now"):
        live.resolve_partition_date("2022-12-21")


@pytest.mark.parametrize("now", ["2022-11-25T12:00", "2022-11-25T18:29"])
def test_a_session_of_today_is_refused_until_it_is_due(now):
    with pytest.raises(InvalidPartitionKeyError, match="due at 2022-11-25 18:30"):
        timetable(last_session=None, now=at(now)).resolve_partition_date("2022-11-25")

    due = timetable(last_session=None, now=at("2022-11-25T18:30"))
    assert due.resolve_partition_date("2022-11-25") == at("2022-11-25")


def test_a_session_key_is_its_midnight_and_no_key_is_no_date():
    assert timetable().resolve_partition_date("2022-11-25") == at("2022-11-25")
    assert timetable().resolve_partition_date(None) is None


def test_a_run_id_names_the_session_and_is_never_used_twice():
    ids = {
        timetable().generate_run_id(
            run_type=DagRunType.BACKFILL_JOB,
            run_after=at("2022-12-28T21:30"),
            data_interval=None,
            partition_key="2022-12-28",
        )
        for _ in range(50)
    }

    assert len(ids) == 50
    assert all(run_id.startswith("backfill__2022-12-28__") for run_id in ids)


@pytest.mark.parametrize("last_session", [LAST, None])
def test_a_timetable_survives_serialization(last_session):
    original = timetable(last_session=last_session)

    copy = ExchangeSessionTimetable.deserialize(original.serialize())

    assert copy.serialize() == original.serialize()
    assert copy.summary == original.summary
    assert backfill(copy, "2022-12-01", "2022-12-31") == backfill(
        original, "2022-12-01", "2022-12-31"
    )


def test_the_settings_say_which_market_and_when():
    packaged = ExchangeSessionTimetable.of(MarketSettings())
    live = ExchangeSessionTimetable.of(MarketSettings(name="folder", publish_delay_minutes=45))

    assert packaged.serialize() == timetable().serialize()
    assert live.summary == "XNYS sessions, close + 45 min"
