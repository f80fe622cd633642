"""From an Airflow callback to a message: what failed, where, why, and what to do.

Callbacks run in the task's process, after its state is decided (in the dag-processor, when the
scheduler found the process gone). What does not belong here: sending (``marketlake.notify``).
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING
from urllib.parse import quote

from marketlake.errors import MarketlakeError
from marketlake.notify.message import Message, Severity
from marketlake.notify.outbox import Outbox
from marketlake.settings import Settings, current_settings

if TYPE_CHECKING:
    from airflow.sdk import Context

    from marketlake.types import RunIdentity

_REASON_CHARACTERS = 2000


def tell_failure(context: Context) -> None:
    """Tell people that a task failed for good; every task's ``on_failure_callback``."""
    settings = current_settings()
    outbox = Outbox(settings.notify, settings.ledger)
    if outbox.is_configured:
        outbox.notify(failure_message(context, settings))


def send_waiting(context: Context) -> None:
    """Try again what could not be delivered; every task's ``on_success_callback``."""
    settings = current_settings()
    Outbox(settings.notify, settings.ledger).sweep()


def failure_message(context: Context, settings: Settings) -> Message:
    """Return what people should know of a failed task."""
    from marketlake.orchestration.tasks import identity_of

    run = identity_of(context)
    session = context["dag_run"].partition_key
    error = context.get("exception")
    kind = type(error).__name__ if isinstance(error, BaseException) else "failed"
    mapped = "" if run.map_index < 0 else f"[{run.map_index}]"
    reason = _reason(error)[:_REASON_CHARACTERS]
    return Message(
        id=hashlib.sha256(run.key.encode()).hexdigest()[:32],
        severity=Severity.FAILURE,
        title=f"{session or run.run_id}: {run.dag_id}.{run.task_id}{mapped}: {kind}",
        body=f"{reason}\nTry: {run.try_number}, the last\nRun: {run.run_id}",
        dag_id=run.dag_id,
        run_id=run.run_id,
        task_id=run.task_id,
        session=session,
        link=task_link(run, settings),
    )


def task_link(run: RunIdentity, settings: Settings) -> str:
    """Return where the UI shows a task instance."""
    base = settings.airflow.public_url or settings.airflow.base_url
    place = f"dags/{quote(run.dag_id)}/runs/{quote(run.run_id, safe='')}/tasks/{quote(run.task_id)}"
    mapped = "" if run.map_index < 0 else f"/mapped/{run.map_index}"
    return f"{base.rstrip('/')}/{place}{mapped}"


def _reason(error: object) -> str:
    if isinstance(error, MarketlakeError):
        return (
            f"Expected: {error.expected}\nWas: {error.was}\n"
            f"Where: {error.where}\nWhat to do: {error.todo}"
        )
    return f"Reason: {error or 'its process ended without a word: look at the log'}"
