"""When a root DAG runs: once an exchange session, after the close, keyed by the session.

The partition key ``YYYY-MM-DD`` is how a date enters every run; partitioned runs have no logical
date. What does not belong here: the calendar's arithmetic (``marketlake.calendars``).

Airflow swallows exceptions raised while a timetable walks a backfill (the run list just ends), so
nothing here is left to fail at that point.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from airflow.exceptions import InvalidPartitionKeyError
from airflow.timetables.base import DagRunInfo, DataInterval, TimeRestriction, Timetable
from pendulum import DateTime
from pendulum import instance as pendulum_instance

from marketlake.calendars import Calendar
from marketlake.clock import utc_now

if TYPE_CHECKING:
    from airflow.utils.types import DagRunType

    from marketlake.settings import MarketSettings


class ExchangeSessionTimetable(Timetable):  # type: ignore[misc]  # airflow ships no strict types
    """One partition for each session of an exchange, due ``delay_minutes`` after its close.

    A market with a ``last_session`` has ended: nothing is scheduled by itself, while backfills and
    triggers reach each of its sessions. A live market gets one run for the newest session due,
    then one after each close. ``now`` is the clock; it is not part of the serialized timetable.
    """

    description = "Every exchange session, after the close"
    partitioned = True
    run_ordering = ("partition_date", "run_after")

    def __init__(
        self,
        calendar: str,
        *,
        delay_minutes: int,
        first_session: date,
        last_session: date | None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self.calendar = calendar
        self.delay_minutes = delay_minutes
        self.first_session = first_session
        self.last_session = last_session
        self._now = now

    @classmethod
    def of(cls, market: MarketSettings) -> ExchangeSessionTimetable:
        """Return the timetable of a market in the settings."""
        return cls(
            market.calendar,
            delay_minutes=market.publish_delay_minutes,
            first_session=market.first_session,
            last_session=market.last_session,
        )

    def serialize(self) -> dict[str, Any]:
        """Return what Airflow stores of this timetable."""
        return {
            "calendar": self.calendar,
            "delay_minutes": self.delay_minutes,
            "first_session": self.first_session.isoformat(),
            "last_session": self.last_session.isoformat() if self.last_session else None,
        }

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> ExchangeSessionTimetable:
        """Rebuild the timetable that :meth:`serialize` described."""
        last = data["last_session"]
        return cls(
            data["calendar"],
            delay_minutes=data["delay_minutes"],
            first_session=date.fromisoformat(data["first_session"]),
            last_session=date.fromisoformat(last) if last else None,
        )

    @property
    def summary(self) -> str:
        """Return the schedule as the UI shows it."""
        if self.last_session is not None:
            return f"{self.calendar} sessions until {self.last_session}, by backfill"
        return f"{self.calendar} sessions, close + {self.delay_minutes} min"

    def iter_partition_dagrun_infos(
        self, *, earliest: datetime, latest: datetime
    ) -> Iterator[DagRunInfo]:
        """Yield a run for each session whose midnight UTC lies in the range and that is due."""
        now = self._now()
        first = max(earliest.date(), self.first_session)
        last = min(latest.date(), self.last_session or now.date(), now.date())
        if first > last:
            return
        for session in self._sessions.sessions(first, last):
            info = self._run_for(session)
            if earliest <= info.partition_date <= latest and info.run_after <= now:
                yield info

    def next_dagrun_info_v2(
        self, *, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """Return the next scheduled run; None for a market that has ended."""
        if self.last_session is not None:
            return None
        session = max(self._candidates(last_dagrun_info, restriction))
        info = self._run_for(session)
        if restriction.latest is not None and info.partition_date > restriction.latest:
            return None
        return info

    def infer_manual_data_interval(self, *, run_after: DateTime) -> DataInterval:
        """Return an empty interval: a session is named by its key, never by an interval."""
        return DataInterval.exact(run_after)

    def generate_run_id(
        self,
        *,
        run_type: DagRunType,
        run_after: DateTime,
        data_interval: DataInterval | None,
        **extra: Any,
    ) -> str:
        """Return a unique run id that starts with the session.

        Unique because reprocessing a session makes a second run beside the first.
        """
        label = extra.get("partition_key") or run_after.isoformat()
        return str(run_type.generate_run_id(suffix=f"{label}__{secrets.token_hex(4)}"))

    def _decode_partition_date(self, partition_key: str) -> datetime:
        """Return the session's midnight UTC; the REST API answers 400 when this raises."""
        try:
            day = date.fromisoformat(partition_key)
        except ValueError:
            day = None
        if day is None or day.isoformat() != partition_key:
            raise InvalidPartitionKeyError(
                f"expected an exchange session as YYYY-MM-DD; was {partition_key!r}"
            )
        if not self._covers(day):
            raise InvalidPartitionKeyError(
                f"expected a {self.calendar} session from {self.first_session} to "
                f"{self.last_session or 'now'}; was {partition_key}, which is not one"
            )
        due_at = self._run_for(day).run_after
        if due_at > self._now():
            raise InvalidPartitionKeyError(
                f"expected a session that is over; was {partition_key}, which is due at {due_at}"
            )
        return _midnight(day)

    @property
    def _sessions(self) -> Calendar:
        return Calendar.of(self.calendar)

    def _covers(self, day: date) -> bool:
        today = self._now().date()
        last = min(self.last_session or today, today)
        return self.first_session <= day <= last and self._sessions.is_session(day)

    def _candidates(
        self, last_dagrun_info: DagRunInfo | None, restriction: TimeRestriction
    ) -> Iterator[date]:
        """Yield the sessions the next run may not be earlier than; the latest of them is it."""
        if last_dagrun_info is not None and last_dagrun_info.partition_date is not None:
            yield self._sessions.next(last_dagrun_info.partition_date.date())
        else:
            yield self._at_or_after(self.first_session)
        if restriction.earliest is not None:
            yield self._at_or_after(restriction.earliest.date())
        if not restriction.catchup:
            yield self._sessions.latest_due(self._now(), self.delay_minutes)

    def _at_or_after(self, day: date) -> date:
        if self._sessions.is_session(day):
            return day
        # No exchange has ever been shut for a month; ten days would do since 1990.
        return self._sessions.sessions(day, day + timedelta(days=31))[0]

    def _run_for(self, session: date) -> DagRunInfo:
        due_at = self._sessions.known_at(session, self.delay_minutes)
        return DagRunInfo(
            run_after=pendulum_instance(due_at),
            data_interval=None,
            partition_date=_midnight(session),
            partition_key=session.isoformat(),
        )


def _midnight(session: date) -> DateTime:
    return pendulum_instance(datetime.combine(session, time(), tzinfo=UTC))
