"""What to do with a failure: retry what may pass, fail at once what will not, and say why.

The reasons below are shown in the task's log and in the UI. What does not belong here: the errors
themselves (``marketlake.errors``) and retries inside a call, of which there are none.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import ExceptionRetryPolicy, RetryAction, RetryDecision, RetryRule
from airflow.sdk.exceptions import AirflowRuntimeError

from marketlake import errors
from marketlake.orchestration.notifications import send_waiting, tell_failure

if TYPE_CHECKING:
    from airflow.sdk import Context

_FAILS: list[tuple[type[errors.Terminal], str]] = [
    (errors.GateFailed, "a gate's verdict on the same rows stays the same: look at its report"),
    (errors.ConfigError, "a setting, parameter or preparation is missing: the message names it"),
    (errors.AuthFailed, "a credential was refused; asking again may lock the account"),
    (errors.NotFound, "the vendor does not know what was asked for"),
    (errors.BadPayload, "the answer does not have its documented shape: the vendor or its client "
                        "changed"),
    (errors.EmptyAnswer, "an answer came with nothing in it where something must be"),
    (errors.Stale, "the vendor repeats an earlier answer"),
    (errors.ContractViolation, "what was computed breaks its contract: a retry computes the same"),
    (errors.LookaheadError, "the computation asked for the future: this is a bug, not weather"),
    (errors.Shredded, "the document was erased on purpose: nobody can read it any more"),
    (errors.DeadlineMissed, "what was late stays late: the session itself goes on"),
    (errors.Terminal, "the same call would fail again"),
]  # fmt: skip

_MISSING_PARTITION = RetryRule(
    exception=errors.MissingPartition,
    action=RetryAction.RETRY,
    reason="a neighbouring session is not published yet; sessions run side by side",
)
_FIRST_LOOK, _LAST_LOOK = timedelta(seconds=15), timedelta(minutes=10)
_WEATHER = RetryRule(
    exception=[errors.Retryable, ConnectionError, TimeoutError, AirflowRuntimeError],
    action=RetryAction.RETRY,
    reason="a vendor or a service did not answer properly; trying again, each time later",
)
_UNKNOWN = RetryRule(
    exception=Exception,
    action=RetryAction.FAIL,
    reason="an error outside the error tree is a bug: a retry would repeat it",
)


class ErrorTreePolicy(ExceptionRetryPolicy):  # type: ignore[misc]  # airflow ships no strict types
    """The error tree as retry rules, with two waits of their own.

    A vendor's word on when to come back is kept. Who waits for a neighbouring session looks again
    soon, but outlasts a neighbour that is itself waiting for the weather to pass.
    """

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,
        max_tries: int,
        context: Context | None = None,
    ) -> RetryDecision:
        """Return what to do after this failure."""
        decision = super().evaluate(exception, try_number, max_tries, context)
        if isinstance(exception, errors.RateLimited) and exception.retry_after_s is not None:
            return replace(decision, retry_delay=timedelta(seconds=exception.retry_after_s))
        if isinstance(exception, errors.MissingPartition):
            # Clearing a task raises max_tries, so that it has its first, short wait again.
            waited = max(TASK_DEFAULTS["retries"] - 1 - (max_tries - try_number), 0)
            delay = min(_FIRST_LOOK * 3**waited, _LAST_LOOK)
            return replace(decision, retry_delay=delay)
        return decision


RETRY_POLICY = ErrorTreePolicy(
    rules=[
        *(
            RetryRule(exception=kind, action=RetryAction.FAIL, reason=reason)
            for kind, reason in _FAILS
        ),
        _MISSING_PARTITION,
        _WEATHER,
        _UNKNOWN,
    ],
    default=RetryAction.FAIL,
)

TASK_DEFAULTS: dict[str, Any] = {
    "retries": 6,
    "retry_delay": timedelta(seconds=5),
    "retry_exponential_backoff": 2.0,
    "max_retry_delay": timedelta(minutes=5),
    "retry_policy": RETRY_POLICY,
    "execution_timeout": timedelta(minutes=30),
    "on_failure_callback": tell_failure,
    "on_success_callback": send_waiting,
}
"""Arguments of every task; a DAG adds its owner with :func:`task_defaults`."""


def task_defaults(owner: str) -> dict[str, Any]:
    """Return a DAG's ``default_args``."""
    return {**TASK_DEFAULTS, "owner": owner}
