"""The ledger hears once how a task ended, whoever saw it, and never from nobody."""

from __future__ import annotations

import importlib.util
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
from airflow._shared.listeners.listener import ListenerManager
from airflow._shared.listeners.spec import taskinstance
from marketlake.errors import GateFailed
from marketlake.orchestration.task_ends import (
    record_failure,
    record_lost_tries,
    record_process_end,
)
from marketlake.pipelines.context import Touched, recorded
from marketlake.settings import PROJECT_ROOT, Settings, current_settings
from marketlake.storage.ledger import LedgerClient, LedgerWriter, Recorded
from marketlake.types import RunIdentity

REFUSED = GateFailed(expected="a", was="five bad rows", where="c", todo="d")


@pytest.fixture
def run(
    ledger: LedgerClient, storage_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> RunIdentity:
    """Return a try of a task of the running platform, of which nobody has told anything yet."""
    monkeypatch.setenv("MARKETLAKE_HOME", str(storage_settings.home))
    current_settings.cache_clear()
    return RunIdentity("report_daily", f"run {uuid.uuid4().hex}", "publish")


@pytest.fixture
def told(ledger: LedgerClient, run: RunIdentity) -> Callable[[], list[Recorded]]:
    return lambda: ledger.entries(dag_id=run.dag_id, run_id=run.run_id)


def instance(run: RunIdentity) -> SimpleNamespace:
    return SimpleNamespace(**vars(run))


def run_step(ledger: LedgerClient, run: RunIdentity, error: Exception | None = None) -> None:
    with recorded(LedgerWriter(ledger, run), Touched(), step="a step"):
        if error is not None:
            raise error


def test_a_task_that_failed_before_its_step_began_has_an_end_of_its_own_key(
    run: RunIdentity, told: Callable[[], list[Recorded]]
) -> None:
    record_failure(instance(run), ImportError("no module named nothing"))
    record_failure(instance(run), "again")
    (entry,) = told()
    assert (entry.key, entry.kind) == (f"{run.key}/end", "task_failed")
    assert entry.payload["error"] == "ImportError"
    assert entry.payload["message"] == "no module named nothing"
    assert entry.payload["seen_by"] == "listener"
    assert entry.run == vars(run)


def test_what_a_step_said_of_its_end_is_not_said_again(
    run: RunIdentity, ledger: LedgerClient, told: Callable[[], list[Recorded]]
) -> None:
    with pytest.raises(GateFailed):
        run_step(ledger, run, REFUSED)
    before = told()
    record_failure(instance(run), REFUSED)
    record_process_end(instance(run), exit_code=1, state="failed")
    record_lost_tries(replace(run, try_number=2))
    assert told() == before


def test_a_task_that_failed_after_its_step_is_recorded_as_failed_after_all(
    run: RunIdentity, ledger: LedgerClient, told: Callable[[], list[Recorded]]
) -> None:
    run_step(ledger, run)
    record_process_end(instance(run), exit_code=-9, state="failed")
    assert [entry.kind for entry in told()] == ["task_started", "task_finished"]
    record_failure(instance(run), "the result could not be handed on")
    assert [entry.kind for entry in told()] == ["task_started", "task_finished", "task_failed"]


@pytest.mark.parametrize(
    ("exit_code", "said"), [(-9, "signal SIGKILL"), (-99, "signal 99"), (1, "exit code 1")]
)
def test_a_process_that_was_ended_is_told_by_what(
    run: RunIdentity, told: Callable[[], list[Recorded]], exit_code: int, said: str
) -> None:
    record_process_end(instance(run), exit_code=exit_code, state="up_for_retry")
    (entry,) = told()
    assert entry.payload["message"] == f"its process ended by {said}; Airflow's state: up_for_retry"
    assert entry.payload["seen_by"] == "supervisor"


def test_only_tries_that_started_and_never_ended_are_lost(
    run: RunIdentity, ledger: LedgerClient, told: Callable[[], list[Recorded]]
) -> None:
    run_step(ledger, run)
    second, fourth = replace(run, try_number=2), replace(run, try_number=4)
    LedgerWriter(ledger, second).record("task_started", step="a step")
    other = replace(second, map_index=1)
    LedgerWriter(ledger, other).record("task_started", step="a step")
    for _ in range(2):
        record_lost_tries(fourth)
    *_, entry = told()
    assert [item.key for item in told() if item.key.endswith("/end")] == [f"{second.key}/end"]
    assert entry.payload["seen_by"] == "next try"
    assert "when try 4 began" in entry.payload["message"]


def test_the_key_is_none_of_the_writers_numbers(
    run: RunIdentity, ledger: LedgerClient, told: Callable[[], list[Recorded]]
) -> None:
    """A try that was held for dead may go on to write."""
    LedgerWriter(ledger, run).record("task_started", step="a step")
    record_process_end(instance(run), exit_code=-9, state="failed")
    assert ledger.next_sequence(f"{run.key}/") == 1
    LedgerWriter(ledger, run).record("calculation", name="late")
    assert len(told()) == 3


def test_a_ledger_that_is_down_stops_no_task_and_is_not_waited_for(
    run: RunIdentity, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MARKETLAKE_LEDGER__PORT", "1")
    current_settings.cache_clear()
    began = time.monotonic()
    record_failure(instance(run), REFUSED)
    record_process_end(instance(run), exit_code=-9, state="failed")
    record_lost_tries(replace(run, try_number=2))
    assert time.monotonic() - began < 10
    assert caplog.text.count("the ledger does not know how") == 3


@pytest.fixture
def plugin() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "marketlake_plugin", PROJECT_ROOT / "plugins" / "marketlake_plugin.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_airflow_calls_the_plugins_listener(
    plugin: ModuleType, run: RunIdentity, told: Callable[[], list[Recorded]]
) -> None:
    manager = ListenerManager()
    manager.add_hookspecs(taskinstance)
    for listener in plugin.MarketlakePlugin.listeners:
        manager.add_listener(listener)
    manager.hook.on_task_instance_failed(
        previous_state="running", task_instance=instance(run), error="heartbeat timeout"
    )
    (entry,) = told()
    assert (entry.payload["error"], entry.payload["message"]) == ("Failed", "heartbeat timeout")
