"""Every error of the tree has an answer, and the answer has a reason."""

from datetime import timedelta

import pytest
from airflow.sdk import RetryAction
from marketlake import errors
from marketlake.orchestration.retries import RETRY_POLICY, TASK_DEFAULTS

WORDS = {"expected": "a", "was": "b", "where": "c", "todo": "d"}


def leaves(kind: type) -> list[type]:
    below = kind.__subclasses__()
    return [leaf for sub in below for leaf in leaves(sub)] if below else [kind]


def decide(error: BaseException):
    return RETRY_POLICY.evaluate(error, try_number=1, max_tries=6)


@pytest.mark.parametrize("kind", leaves(errors.Retryable), ids=lambda kind: kind.__name__)
def test_what_may_pass_is_retried_with_a_reason(kind):
    decision = decide(kind(**WORDS))

    assert decision.action is RetryAction.RETRY
    assert decision.reason


@pytest.mark.parametrize("kind", leaves(errors.Terminal), ids=lambda kind: kind.__name__)
def test_what_will_not_pass_fails_at_once_with_a_reason_of_its_own(kind):
    decision = decide(kind(**WORDS))

    assert decision.action is RetryAction.FAIL
    assert decision.reason
    assert decision.reason != decide(errors.Terminal(**WORDS)).reason


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), ZeroDivisionError()])
def test_a_bug_is_not_retried(error):
    assert decide(error).action is RetryAction.FAIL


@pytest.mark.parametrize("error", [ConnectionResetError(), TimeoutError()])
def test_a_broken_connection_is_weather(error):
    assert decide(error).action is RetryAction.RETRY


def test_a_vendor_that_says_when_to_come_back_is_taken_at_its_word():
    error = errors.RateLimited(**WORDS)
    assert decide(error).retry_delay is None

    error.retry_after_s = 90
    assert decide(error).retry_delay == timedelta(seconds=90)


def test_retries_back_off_and_are_bounded():
    assert TASK_DEFAULTS["retry_exponential_backoff"] > 1
    assert TASK_DEFAULTS["max_retry_delay"] <= timedelta(minutes=5)
    assert 3 <= TASK_DEFAULTS["retries"] <= 8


def waits_for_a_neighbour(*, tries_before: int = 0) -> list[timedelta]:
    """Return the wait after each failed try; clearing a task adds its retries to its tries."""
    retries = TASK_DEFAULTS["retries"]
    decisions = [
        RETRY_POLICY.evaluate(
            errors.MissingPartition(**WORDS),
            try_number=tries_before + failed,
            max_tries=tries_before + retries,
        )
        for failed in range(1, retries + 1)
    ]
    return [decision.retry_delay for decision in decisions]


def test_who_waits_for_a_neighbour_looks_soon_and_outlasts_the_weather_it_may_be_in():
    waits = waits_for_a_neighbour()

    assert timedelta(seconds=10) <= waits[0] <= timedelta(seconds=20)
    assert waits == sorted(waits)
    # Airflow at most doubles a backed-off delay, and never exceeds max_retry_delay.
    weather = sum(
        (
            min(
                2 * TASK_DEFAULTS["retry_delay"] * TASK_DEFAULTS["retry_exponential_backoff"] ** n,
                TASK_DEFAULTS["max_retry_delay"],
            )
            for n in range(TASK_DEFAULTS["retries"])
        ),
        timedelta(),
    )
    # The neighbour's own tries take time as well: each may run into a vendor's time-outs.
    assert sum(waits, timedelta()) > 2 * weather


def test_a_cleared_task_has_its_first_short_wait_again():
    assert waits_for_a_neighbour(tries_before=7) == waits_for_a_neighbour()
