"""From an Airflow task to a pipeline step and back.

The one place where a date enters a run (:func:`session_of`, :func:`date_param`), where an Airflow
task instance becomes a :class:`RunIdentity`, and where references cross XCom as JSON. What does not
belong here: any step's work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from datetime import date
from typing import TYPE_CHECKING, Any, TypeAlias

from airflow.sdk import Param, get_current_context

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError
from marketlake.settings import current_settings
from marketlake.types import ArtifactRef, RunIdentity

if TYPE_CHECKING:
    from airflow.sdk import Context

Json: TypeAlias = dict[str, Any] | list[Any] | str | int | float | bool | None

_REF_FIELDS = frozenset(field.name for field in fields(ArtifactRef))


def session_of(context: Context) -> date:
    """Return the exchange session that a run is for: its partition key.

    Raises
    ------
    ConfigError
        When the run was triggered without a key, or with a day that is no session.
    """
    run = context["dag_run"]
    where = f"run {run.run_id} of {run.dag_id}"
    if run.partition_key is None:
        raise ConfigError(
            expected="a partition key: the exchange session to work on, as YYYY-MM-DD",
            was="none",
            where=where,
            todo="trigger with a partition key, or use `marketlake backfill --from --to`",
        )
    return _session(run.partition_key, where=f"the partition key of {where}")


def optional_session(title: str, description: str) -> Param:
    """Declare a date parameter of an on-demand DAG; :func:`date_param` reads it."""
    return Param(None, type=["null", "string"], format="date", title=title, description=description)


def date_param(name: str, *, sessions_before_end: int = 0) -> date:
    """Return a date parameter of an on-demand run.

    Left empty it means the market's last session (of a live market: the newest one due when the
    run was made), or ``sessions_before_end`` sessions before that.
    """
    context = get_current_context()
    value = context["params"][name]
    if value is not None:
        return _session(value, where=f"parameter {name} of {context['dag_run'].dag_id}")
    market = current_settings().market
    calendar = Calendar.of(market.calendar)
    end = market.last_session or calendar.latest_due(
        context["dag_run"].run_after, market.publish_delay_minutes
    )
    return calendar.previous(end, sessions_before_end) if sessions_before_end else end


def text_param(name: str) -> str | None:
    """Return a text parameter of an on-demand run, None where it was left empty."""
    value = get_current_context()["params"][name]
    return None if value is None else str(value)


def identity_of(context: Context) -> RunIdentity:
    """Return who is computing, for manifests and the ledger."""
    return identity_of_instance(context["ti"])


def identity_of_instance(ti: Any) -> RunIdentity:
    """Return who a task instance is, as any of Airflow's components has it."""
    return RunIdentity(
        dag_id=ti.dag_id,
        run_id=ti.run_id,
        task_id=ti.task_id,
        try_number=ti.try_number,
        map_index=-1 if ti.map_index is None else ti.map_index,
    )


def run_step(function: Callable[..., Any], /, *, as_of: date | None = None, **kwargs: Any) -> Json:
    """Run one pipeline step for this task's session (or ``as_of``); return its result as JSON.

    References in ``kwargs`` arrive as JSON and are rebuilt; references in the result are flattened.
    The ledger hears that the task started, and how it ended; so does OpenLineage, once the
    session is known.
    """
    from marketlake.orchestration.lineage_events import TaskLineage
    from marketlake.pipelines.context import open_context, recorded
    from marketlake.pipelines.snapshots import snapshot_of

    context = get_current_context()
    run = identity_of(context)
    if run.try_number > 1:
        from marketlake.orchestration.task_ends import record_lost_tries

        record_lost_tries(run)
    with (
        open_context(current_settings(), run) as step,
        recorded(step.ledger, step.touched, step=f"{function.__module__}.{function.__qualname__}"),
    ):
        session = as_of or session_of(context)
        arguments = {name: from_json(kwargs[name]) for name in kwargs}
        # Inside the record: a task whose COMPLETE the lake did not take has failed.
        with TaskLineage(step, session), snapshot_of(step, session, function, arguments):
            result = function(step, session, **arguments)
    return to_json(result)


def to_json(value: Any) -> Json:
    """Flatten references, at any depth of lists and mappings."""
    if isinstance(value, ArtifactRef):
        return value.as_json()
    if isinstance(value, Mapping):
        return {str(name): to_json(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise ConfigError(
        expected="references, JSON values, or lists and mappings of them",
        was=type(value).__name__,
        where="the result of a pipeline step",
        todo="write data to the lake and return its ArtifactRef",
    )


def from_json(value: Any) -> Any:
    """Rebuild references, at any depth; results of mapped tasks arrive as lazy sequences."""
    if isinstance(value, Mapping):
        if value.keys() == _REF_FIELDS:
            return ArtifactRef.from_json(dict(value))
        return {name: from_json(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [from_json(item) for item in value]
    return value


def _session(value: str, *, where: str) -> date:
    try:
        day = date.fromisoformat(value)
    except ValueError:
        raise ConfigError(
            expected="an exchange session as YYYY-MM-DD",
            was=repr(value),
            where=where,
            todo="give one exchange session",
        ) from None
    return Calendar.of(current_settings().market.calendar).require_session(day)
