"""Tell the ledger how tasks ended that could not tell it themselves.

A step records its own end (``pipelines.context.recorded``). Where its process was killed, or failed
around the step, others see it, each what the rest cannot: the supervisor of a process that did not
end by itself, Airflow's listener (in the task's process; in the scheduler, when the supervisor is
gone too; in the api-server, when a person marks a task as failed), and the next try, of tries that
a restarted scheduler set back without a word. Whoever comes first takes the one key that a try has
for this, which no writer's number can be.

What does not belong here: the ends of steps, and telling people (``notifications``).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from enum import Enum
from typing import Any

from marketlake.clock import utc_now
from marketlake.errors import ContractViolation
from marketlake.orchestration.tasks import identity_of_instance
from marketlake.settings import current_settings
from marketlake.storage.ledger import Entry, LedgerClient, redact
from marketlake.types import RunIdentity

log = logging.getLogger(__name__)

_FAILED = "task_failed"
_ENDS = (_FAILED, "task_finished")
# The scheduler's loop waits while it tells the ledger; the next try tells what this left out.
_PATIENCE_S = 3.0
_REASON_CHARACTERS = 2000
_EVERY_ENTRY = 1_000_000


def record_failure(task_instance: Any, error: object) -> None:
    """Record that Airflow holds a task's try for failed, unless its step said so itself."""
    _record(
        identity_of_instance(task_instance),
        unless=(_FAILED,),
        seen_by="listener",
        error=type(error).__name__ if isinstance(error, BaseException) else "Failed",
        message=str(error or "Airflow gives no reason: look at the task's log"),
    )


def record_process_end(task_instance: Any, *, exit_code: int, state: str | None) -> None:
    """Record that a task's process ended with an exit code other than 0, if the try has no end.

    ``state`` is what its supervisor tells Airflow.
    """
    told = state.value if isinstance(state, Enum) else state
    by = f"signal {_signal_name(-exit_code)}" if exit_code < 0 else f"exit code {exit_code}"
    _record(
        identity_of_instance(task_instance),
        unless=_ENDS,
        seen_by="supervisor",
        error="ProcessEnded",
        message=f"its process ended by {by}; Airflow's state: {told}",
    )


def record_lost_tries(run: RunIdentity) -> None:
    """Record the end of a task's earlier tries that started and that nobody saw ending."""

    def tell(ledger: LedgerClient) -> None:
        lost = _tries(ledger, run, "task_started") - _tries(ledger, run, *_ENDS)
        for number in sorted(number for number in lost if number < run.try_number):
            _append(
                ledger,
                replace(run, try_number=number),
                seen_by="next try",
                error="Lost",
                message=f"nobody had recorded its end when try {run.try_number} began",
            )

    _in_patience(run, tell)


def _record(run: RunIdentity, *, unless: Sequence[str], **told: str) -> None:
    def tell(ledger: LedgerClient) -> None:
        if run.try_number not in _tries(ledger, run, *unless):
            _append(ledger, run, **told)

    _in_patience(run, tell)


def _in_patience(run: RunIdentity, tell: Callable[[LedgerClient], None]) -> None:
    """Tell the ledger, or the log if it does not answer: no task's state may hang on it."""
    try:
        settings = current_settings().ledger
        patience_s = min(settings.timeout_s, _PATIENCE_S)
        tell(LedgerClient(settings.model_copy(update={"timeout_s": patience_s})))
    except ContractViolation as refusal:
        # Nearly always the key is taken: somebody else saw the same end.
        log.info("the end of %s is not recorded from here: %s", run.key, refusal)
    except Exception:
        log.warning("the ledger does not know how %s ended", run.key, exc_info=True)


def _append(ledger: LedgerClient, run: RunIdentity, *, message: str, **told: str) -> None:
    told["message"] = message[:_REASON_CHARACTERS]
    payload = {**redact(told, where=f"the end of {run.key}"), "run": asdict(run)}
    ledger.append([Entry(f"{run.key}/end", _FAILED, payload, utc_now().isoformat())])


def _tries(ledger: LedgerClient, run: RunIdentity, *kinds: str) -> set[int]:
    """Return the tries of a task of which the ledger has an entry of one of these kinds."""
    return {
        int(entry.run["try_number"])
        for kind in kinds
        for entry in ledger.entries(kind, run.dag_id, run_id=run.run_id, limit=_EVERY_ENTRY)
        if (entry.run["task_id"], entry.run["map_index"]) == (run.task_id, run.map_index)
    }


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
