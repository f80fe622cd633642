from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.calendars import Calendar
from marketlake.errors import ConfigError

DAYS = st.dates(date(1995, 1, 1), date(2045, 12, 31))


@pytest.fixture(scope="module")
def xnys() -> Calendar:
    return Calendar.of("XNYS")


@pytest.mark.parametrize(
    ("year", "trading_days"),
    [(1996, 254), (2001, 248), (2012, 250), (2019, 252), (2020, 253), (2021, 252), (2022, 251)],
)
def test_years_have_the_trading_days_that_the_exchange_published(
    xnys: Calendar, year: int, trading_days: int
) -> None:
    # NYSE trading days per year, as in the exchange's own history of closings.
    assert len(xnys.sessions(date(year, 1, 1), date(year, 12, 31))) == trading_days


@pytest.mark.parametrize(
    "closed",
    [
        date(2001, 9, 11),
        date(2001, 9, 14),
        date(2012, 10, 29),  # Hurricane Sandy
        date(2012, 10, 30),
        date(2018, 12, 5),  # mourning of George H. W. Bush
        date(2022, 6, 20),  # Juneteenth, observed
        date(2022, 12, 26),  # Christmas, observed
        date(2022, 12, 24),  # a Saturday
    ],
)
def test_days_on_which_the_exchange_was_closed_are_no_sessions(
    xnys: Calendar, closed: date
) -> None:
    assert not xnys.is_session(closed)


@pytest.mark.parametrize(
    ("session", "opens", "closes"),
    [
        (date(2022, 12, 28), (14, 30), (21, 0)),  # winter
        (date(2022, 7, 1), (13, 30), (20, 0)),  # summer time
        (date(2022, 11, 25), (14, 30), (18, 0)),  # half day after Thanksgiving
        (date(2023, 7, 3), (13, 30), (17, 0)),  # half day in summer time
        (date(2022, 3, 14), (13, 30), (20, 0)),  # first session after the clocks changed
    ],
)
def test_open_and_close_follow_summer_time_and_half_days(
    xnys: Calendar, session: date, opens: tuple[int, int], closes: tuple[int, int]
) -> None:
    day = datetime(session.year, session.month, session.day, tzinfo=UTC)
    assert xnys.open_at(session) == day + timedelta(hours=opens[0], minutes=opens[1])
    assert xnys.close_at(session) == day + timedelta(hours=closes[0], minutes=closes[1])
    assert xnys.open_at(session).tzinfo is UTC


def test_a_day_that_is_no_session_is_refused_with_its_neighbours(xnys: Calendar) -> None:
    with pytest.raises(ConfigError, match=r"2022-12-26.*2022-12-23 or 2022-12-27"):
        xnys.require_session(date(2022, 12, 26))
    assert xnys.require_session(date(2022, 12, 27)) == date(2022, 12, 27)


def test_a_window_ends_with_its_session_and_skips_holidays(xnys: Calendar) -> None:
    assert xnys.window(date(2022, 12, 28), 4) == [
        date(2022, 12, 22),
        date(2022, 12, 23),
        date(2022, 12, 27),
        date(2022, 12, 28),
    ]
    assert xnys.window(date(2022, 12, 28), 1) == [date(2022, 12, 28)]


@pytest.mark.parametrize("length", [0, -3])
def test_a_window_without_sessions_is_refused(xnys: Calendar, length: int) -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        xnys.window(date(2022, 12, 28), length)


def test_a_negative_step_is_refused(xnys: Calendar) -> None:
    with pytest.raises(ConfigError, match="previous"):
        xnys.next(date(2022, 12, 28), -1)


@given(day=DAYS, n=st.integers(0, 300))
@settings(max_examples=60, deadline=None)
def test_next_undoes_previous(day: date, n: int) -> None:
    calendar = Calendar.of("XNYS")
    session = calendar.sessions(day, day + timedelta(days=10))[0]
    earlier = calendar.previous(session, n)
    assert calendar.next(earlier, n) == session
    assert len(calendar.sessions(earlier, session)) == n + 1
    assert calendar.window(session, n + 1)[0] == earlier


@given(day=DAYS, minute=st.integers(0, 24 * 60 - 1), hours_east=st.integers(-11, 13))
@settings(max_examples=60, deadline=None)
def test_the_latest_closed_session_is_the_last_whose_close_is_past(
    day: date, minute: int, hours_east: int
) -> None:
    calendar = Calendar.of("XNYS")
    zone = timezone(timedelta(hours=hours_east))
    at = datetime(day.year, day.month, day.day, tzinfo=zone) + timedelta(minutes=minute)
    session = calendar.latest_closed(at)
    assert calendar.close_at(session) <= at < calendar.close_at(calendar.next(session))


def test_a_session_counts_as_closed_from_the_instant_of_its_close(xnys: Calendar) -> None:
    close = datetime(2022, 11, 25, 18, 0, tzinfo=UTC)
    assert xnys.latest_closed(close) == date(2022, 11, 25)
    assert xnys.latest_closed(close - timedelta(seconds=1)) == date(2022, 11, 23)


def test_a_session_is_due_when_the_delay_after_its_close_is_over(xnys: Calendar) -> None:
    due = datetime(2022, 11, 25, 18, 30, tzinfo=UTC)  # a half day, closed at 18:00
    early = due - timedelta(seconds=1)
    assert xnys.latest_due(due, 30) == xnys.require_due(date(2022, 11, 25), due, delay_minutes=30)
    assert xnys.latest_due(early, 30) == date(2022, 11, 23)
    with pytest.raises(ConfigError, match="due at 2022-11-25 18:30 UTC"):
        xnys.require_due(date(2022, 11, 25), early, delay_minutes=30)


def test_a_day_without_trading_is_never_due(xnys: Calendar) -> None:
    with pytest.raises(ConfigError, match="2022-11-23 or 2022-11-25"):
        xnys.require_due(date(2022, 11, 24), datetime(2026, 1, 2, tzinfo=UTC), delay_minutes=0)


def test_an_instant_without_a_zone_is_refused(xnys: Calendar) -> None:
    with pytest.raises(ConfigError, match="time zone"):
        xnys.latest_closed(datetime(2022, 12, 28, 21))  # noqa: DTZ001 - the fault under test


def test_data_is_known_at_the_close_and_the_lag(xnys: Calendar) -> None:
    assert xnys.known_at(date(2022, 11, 25), 15) == datetime(2022, 11, 25, 18, 15, tzinfo=UTC)


@pytest.mark.parametrize("day", [date(1985, 1, 2), date(2051, 1, 3)])
def test_days_outside_the_calendar_are_refused_not_guessed(xnys: Calendar, day: date) -> None:
    with pytest.raises(ConfigError, match="1990-01-01 and 2049-12-31"):
        xnys.is_session(day)
    with pytest.raises(ConfigError):
        xnys.sessions(min(day, date(2022, 1, 3)), max(day, date(2022, 1, 3)))


def test_stepping_over_the_first_session_is_refused(xnys: Calendar) -> None:
    with pytest.raises(ConfigError, match="edge"):
        xnys.previous(date(1990, 1, 5), 10)


def test_an_unknown_exchange_is_refused() -> None:
    with pytest.raises(ConfigError, match="XXXX"):
        Calendar.of("XXXX")


def test_a_calendar_is_built_once() -> None:
    assert Calendar.of("XNYS") is Calendar.of("XNYS")
