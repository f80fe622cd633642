"""What people read when a task has failed."""

from types import SimpleNamespace

import pytest
from marketlake.errors import GateFailed
from marketlake.notify.message import Severity
from marketlake.orchestration.notifications import failure_message, send_waiting, tell_failure
from marketlake.orchestration.retries import TASK_DEFAULTS
from marketlake.settings import AirflowSettings, Settings, current_settings

from tests.mailbox import Mailbox

SETTINGS = Settings(airflow=AirflowSettings(base_url="http://ui.example:8080/"))
REFUSED = GateFailed(
    expected="no", was="five bad rows", where="core_market__daily_bar", todo="look"
)


def failed(error: object, *, map_index: int = -1, session: str | None = "2022-11-25") -> dict:
    ti = SimpleNamespace(
        dag_id="validate_market_data",
        run_id="scheduled__2022-11-25__ab+c",
        task_id="gate",
        try_number=3,
        map_index=map_index,
    )
    return {"ti": ti, "dag_run": SimpleNamespace(partition_key=session), "exception": error}


def test_a_message_says_what_failed_where_why_and_what_to_do():
    message = failure_message(failed(REFUSED), SETTINGS)

    assert message.severity is Severity.FAILURE
    assert message.title == "2022-11-25: validate_market_data.gate: GateFailed"
    assert message.body.splitlines() == [
        "Expected: no",
        "Was: five bad rows",
        "Where: core_market__daily_bar",
        "What to do: look",
        "Try: 3, the last",
        "Run: scheduled__2022-11-25__ab+c",
    ]
    assert message.session == "2022-11-25"


def test_the_link_leads_to_the_task_in_the_ui():
    runs = "http://ui.example:8080/dags/validate_market_data/runs/scheduled__2022-11-25__ab%2Bc"

    assert failure_message(failed(REFUSED), SETTINGS).link == f"{runs}/tasks/gate"
    assert failure_message(failed(REFUSED, map_index=2), SETTINGS).link.endswith("gate/mapped/2")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError("division by zero"), "division by zero"),
        ("killed by the scheduler", "killed by the scheduler"),
        (None, "look at the log"),
    ],
)
def test_a_failure_outside_the_error_tree_is_told_as_well(error, said):
    message = failure_message(failed(error, session=None), SETTINGS)

    assert said in message.body
    assert "scheduled__2022-11-25" in message.title


def test_a_long_story_is_cut():
    message = failure_message(failed(ValueError("x" * 10_000)), SETTINGS)

    assert len(message.body) < 3000
    assert message.body.endswith("Run: scheduled__2022-11-25__ab+c")


def test_each_try_is_an_event_of_its_own():
    first, again = failed(REFUSED), failed(REFUSED)
    again["ti"].try_number = 9  # cleared, and failed again

    def event(context: dict) -> str:
        return failure_message(context, SETTINGS).id

    assert event(first) == event(failed("other words"))
    assert event(first) != event(again) != event(failed(REFUSED, map_index=1))


def test_every_task_tells_of_its_last_failure_only():
    assert TASK_DEFAULTS["on_failure_callback"] is tell_failure
    assert TASK_DEFAULTS["on_success_callback"] is send_waiting
    assert "on_retry_callback" not in TASK_DEFAULTS


def test_a_failure_reaches_the_receiver_and_a_success_brings_what_waits(
    ledger, storage_settings, monkeypatch
):
    mailbox = Mailbox()
    mailbox.open()
    monkeypatch.setenv("MARKETLAKE_HOME", str(storage_settings.home))
    monkeypatch.setenv("MARKETLAKE_NOTIFY__URLS", mailbox.url())
    current_settings.cache_clear()

    tell_failure(failed(REFUSED))
    send_waiting(failed(None))

    mailbox.close()
    [body] = mailbox.received
    assert "five bad rows" in body["message"]


def test_nobody_configured_means_nobody_is_asked():
    assert current_settings().notify.urls is None

    tell_failure(failed(REFUSED))  # would fail: no ledger runs here
    send_waiting({})
