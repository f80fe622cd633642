"""When the report of a session is late, and which runs are held to that.

The deadline is a run of its own, due some minutes after the session was, because Airflow's own
deadlines belong to one run of one DAG: they go when that run succeeds, and they never were where a
run failed to come into being. What does not belong here: how to see that a report is missing
(``pipelines.check_deadlines``) and who is told (``notifications``).
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowRescheduleException

from marketlake.clock import utc_now
from marketlake.orchestration.timetable import ExchangeSessionTimetable
from marketlake.settings import Settings, current_settings

_SCHEDULED = "scheduled"
_PUNCTUAL = timedelta(minutes=5)


def deadline_timetable(settings: Settings) -> ExchangeSessionTimetable:
    """Return when the report of each session should be there."""
    market = settings.market
    minutes = market.publish_delay_minutes + settings.deadlines.minutes
    return ExchangeSessionTimetable.of(market.model_copy(update={"publish_delay_minutes": minutes}))


def held_to_deadline() -> bool:
    """Whether this run has a deadline to keep: one that the schedule made.

    Who starts a run by hand or by backfill looks at old sessions and knows. A platform that was
    off when the deadline passed gets the same minutes again from when it came back: until then the
    task is put aside, without a slot.
    """
    run = get_current_context()["dag_run"]
    if run.run_type != _SCHEDULED:
        return False
    grace = timedelta(minutes=current_settings().deadlines.minutes)
    look_at = looks_at(due_at=run.run_after, started_at=run.start_date, grace=grace)
    if look_at > utc_now():
        raise AirflowRescheduleException(look_at)
    return True


def looks_at(*, due_at: datetime, started_at: datetime, grace: timedelta) -> datetime:
    """Return when a run that was due then and started then looks for the report."""
    return started_at if started_at - due_at <= _PUNCTUAL else started_at + grace
