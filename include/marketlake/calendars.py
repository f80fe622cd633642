"""Exchange sessions: which days trade, when they open and close, what was known when.

Belongs here: every question about trading days. Does not belong: vendors' lags (a source declares
its own) and anything about prices. ``exchange_calendars`` takes seconds to import, so it is
imported on the first question, not with this module.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

from marketlake.errors import ConfigError

# Fixed, not "today and a year": a calendar must not depend on the day on which it is asked.
_FIRST_DAY = "1990-01-01"
_LAST_DAY = "2049-12-31"

_USUAL_HOURS = timedelta(hours=6)


@dataclass(frozen=True)
class Calendar:
    """The sessions of one exchange from 1990 to 2049; get one with :meth:`of`."""

    name: str
    zone: str
    _sessions: tuple[date, ...] = field(repr=False, compare=False)
    _opens_s: tuple[int, ...] = field(repr=False, compare=False)
    _closes_s: tuple[int, ...] = field(repr=False, compare=False)

    @classmethod
    def of(cls, name: str) -> Calendar:
        """Return the calendar of an exchange by its market identifier code, built once."""
        return _build(name)

    def sessions(self, first: date, last: date) -> list[date]:
        """Return the sessions from ``first`` to ``last``, both included."""
        self._require_covered(first)
        self._require_covered(last)
        return list(
            self._sessions[bisect_left(self._sessions, first) : bisect_right(self._sessions, last)]
        )

    def is_session(self, day: date) -> bool:
        """Whether the exchange trades on ``day``."""
        self._require_covered(day)
        position = bisect_left(self._sessions, day)
        return position < len(self._sessions) and self._sessions[position] == day

    def require_session(self, day: date) -> date:
        """Return ``day``; raise ConfigError naming its neighbours when it is not a session."""
        self._position(day)
        return day

    def previous(self, session: date, n: int = 1) -> date:
        """Return the ``n``-th session before ``session``; ``n=0`` is the session itself."""
        return self._step(session, -_require_count(n, at_least=0))

    def next(self, session: date, n: int = 1) -> date:
        """Return the ``n``-th session after ``session``; ``n=0`` is the session itself."""
        return self._step(session, _require_count(n, at_least=0))

    def window(self, last: date, length: int) -> list[date]:
        """Return the ``length`` sessions that end with ``last``, oldest first."""
        end = self._position(last)
        start = self._position(self._step(last, 1 - _require_count(length, at_least=1)))
        return list(self._sessions[start : end + 1])

    def open_at(self, session: date) -> datetime:
        """Return the instant, in UTC, at which trading opens."""
        return datetime.fromtimestamp(self._opens_s[self._position(session)], UTC)

    def is_half_day(self, session: date) -> bool:
        """Whether trading closes early: well before the usual six and a half hours are over."""
        return self.close_at(session) - self.open_at(session) < _USUAL_HOURS

    def close_at(self, session: date) -> datetime:
        """Return the instant, in UTC, at which trading closes; early on half days."""
        return datetime.fromtimestamp(self._closes_s[self._position(session)], UTC)

    def latest_closed(self, at: datetime) -> date:
        """Return the newest session that has closed at the instant ``at``."""
        if at.tzinfo is None:
            raise ConfigError(
                expected="an instant with a time zone",
                was=at.isoformat(),
                where=f"{self.name}.latest_closed",
                todo="pass an aware datetime, for example clock.utc_now()",
            )
        self._require_covered(at.astimezone(UTC).date())
        position = bisect_right(self._closes_s, at.timestamp()) - 1
        if position < 0:
            self._refuse(at.astimezone(UTC).date())
        return self._sessions[position]

    def latest_due(self, at: datetime, delay_minutes: int) -> date:
        """Return the newest session that closed ``delay_minutes`` or more before ``at``."""
        return self.latest_closed(at - timedelta(minutes=delay_minutes))

    def require_due(self, session: date, at: datetime, *, delay_minutes: int) -> date:
        """Return ``session``; raise ConfigError when it is none, or not due at the instant."""
        due_at = self.known_at(session, delay_minutes)
        if at < due_at:
            raise ConfigError(
                expected=f"a session that is over, its data due by {at:%Y-%m-%d %H:%M} UTC",
                was=f"{session}, due at {due_at:%Y-%m-%d %H:%M} UTC",
                where=f"calendar {self.name}",
                todo="wait until then, or choose an earlier session",
            )
        return session

    def local(self, at: datetime) -> datetime:
        """Return an instant as the exchange's clock shows it; records are named by it."""
        return at.astimezone(ZoneInfo(self.zone))

    def known_at(self, session: date, lag_minutes: int) -> datetime:
        """Return when data of a session could be known: its close plus the source's lag."""
        return self.close_at(session) + timedelta(minutes=lag_minutes)

    def known_by(self, day: date, lag_minutes: int) -> datetime:
        """Return :meth:`known_at` of a session; of another day, when that day was over in UTC."""
        if self.is_session(day):
            return self.known_at(day, lag_minutes)
        return datetime.combine(day + timedelta(days=1), time(), tzinfo=UTC)

    def _position(self, day: date) -> int:
        if self.is_session(day):
            return bisect_left(self._sessions, day)
        after = bisect_left(self._sessions, day)
        neighbours = self._sessions[max(after - 1, 0) : after + 1]
        raise ConfigError(
            expected=f"an exchange session of {self.name}",
            was=f"{day.isoformat()}, on which it does not trade",
            where="calendar",
            todo="use a session, for example "
            + " or ".join(session.isoformat() for session in neighbours),
        )

    def _step(self, session: date, steps: int) -> date:
        target = self._position(session) + steps
        if not 0 <= target < len(self._sessions):
            self._refuse(session)
        return self._sessions[target]

    def _require_covered(self, day: date) -> None:
        if not _FIRST_DAY <= day.isoformat() <= _LAST_DAY:
            self._refuse(day)

    def _refuse(self, day: date) -> None:
        raise ConfigError(
            expected=f"days between {_FIRST_DAY} and {_LAST_DAY}",
            was=f"a question at the edge of or outside them, about {day.isoformat()}",
            where=f"calendar {self.name}",
            todo="ask for a later first session or a shorter window",
        )


def _require_count(n: int, *, at_least: int) -> int:
    if n < at_least:
        raise ConfigError(
            expected=f"a number of sessions that is {at_least} or more",
            was=str(n),
            where="calendar",
            todo="use previous() to go back and next() to go forward",
        )
    return n


@lru_cache(maxsize=8)
def _build(name: str) -> Calendar:
    import exchange_calendars

    try:
        source = exchange_calendars.get_calendar(name, start=_FIRST_DAY, end=_LAST_DAY)
    except (exchange_calendars.errors.CalendarError, ValueError) as error:
        raise ConfigError(
            expected="an exchange that exchange_calendars knows from 1990 to 2049",
            was=f"{name!r}: {error}",
            where="MARKETLAKE_MARKET__CALENDAR",
            todo="use a market identifier code such as XNYS",
        ) from error
    return Calendar(
        name=name,
        zone=str(source.tz),
        _sessions=tuple(source.sessions.date.tolist()),
        _opens_s=_epoch_seconds(source.opens),
        _closes_s=_epoch_seconds(source.closes),
    )


def _epoch_seconds(instants: object) -> tuple[int, ...]:
    import numpy as np

    # Through numpy, because the resolution of pandas timestamps is not ours to choose.
    values = np.asarray(instants, dtype="datetime64[s]")
    return tuple(values.astype("int64").tolist())
