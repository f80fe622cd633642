"""The order of starting, what belongs to a mode, and which folders are left alone."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from marketlake.errors import ConfigError, SourceUnavailable
from marketlake.services.platform import components
from marketlake.services.platform.process import Program, Supervised
from marketlake.services.platform.runtime import prepare
from marketlake.services.platform.stack import Platform, Step, StepDone, run_steps


def broken() -> str:
    raise SourceUnavailable(expected="a start", was="none", where="here", todo="look")


def test_a_step_runs_after_those_it_needs() -> None:
    order: list[str] = []

    def note(name: str) -> Step:
        needs = {"a": (), "b": ("a",), "c": ("b", "a")}[name]
        return Step(name, needs, lambda: order.append(name) or "done")  # type: ignore[func-returns-value]

    done = run_steps([note("c"), note("b"), note("a")], lambda one: None)
    assert order == ["a", "b", "c"]
    assert {one.name for one in done} == {"a", "b", "c"}


def test_steps_without_needs_run_side_by_side() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def meet() -> str:
        meeting.wait()
        return "met"

    done = run_steps([Step("a", (), meet), Step("b", (), meet)], lambda one: None)
    assert [one.outcome for one in done] == ["met", "met"]


def test_a_failure_is_raised_after_what_does_not_depend_on_it_has_run() -> None:
    seen: list[StepDone] = []
    steps = [
        Step("broken", (), broken),
        Step("dependent", ("broken",), lambda: "ran"),
        Step("grandchild", ("dependent",), lambda: "ran"),
        Step("independent", (), lambda: "ran"),
    ]
    with pytest.raises(SourceUnavailable, match="expected a start"):
        run_steps(steps, seen.append)
    assert [one.name for one in seen] == ["independent"]


def test_a_circle_of_needs_is_refused() -> None:
    circle = [Step("a", ("b",), lambda: ""), Step("b", ("a",), lambda: "")]
    with pytest.raises(ConfigError, match="can start"):
        run_steps(circle, lambda one: None)


def test_a_folder_that_is_not_a_platforms_is_neither_used_nor_deleted(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    foreign = Platform.at(tmp_path)
    for command in (foreign.up, foreign.down, foreign.clean):
        with pytest.raises(ConfigError):
            command()
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_clean_deletes_the_folder_of_a_platform(tmp_path: Path) -> None:
    home = tmp_path / "home"
    prepare(home, usual_ports=False)
    Platform.at(home).clean()
    assert not home.exists()


def test_live_mode_has_no_sandbox_and_down_stops_one_all_the_same(
    scratch_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = scratch_root / "gone live"
    vendors = components.sandbox(prepare(home, usual_ports=False))
    try:
        vendors.start()
        monkeypatch.setenv("MARKETLAKE_MODE", "live")
        live = Platform.at(home)
        assert "sandbox" not in {one.name for one in live.status()}
        assert live.down() == ["sandbox"]
        assert vendors.process.pid is None
    finally:
        vendors.stop()


def test_the_celery_executor_has_its_workers_and_a_broker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = set(Platform.at(tmp_path).wanted)
    monkeypatch.setenv("MARKETLAKE_AIRFLOW__EXECUTOR", "celery")
    monkeypatch.setenv("MARKETLAKE_AIRFLOW__WORKERS", "3")
    wanted = set(Platform.at(tmp_path).wanted)
    assert wanted - usual == {"valkey", "worker-1", "worker-2", "worker-3"}


def test_a_worker_that_nobody_wants_any_more_is_stopped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    prepare(home, usual_ports=False)
    argv = (sys.executable, "-c", "import time; time.sleep(600)")
    program = Program(
        name="worker-3", argv=argv, env={}, cwd=home, probe=lambda: None, identity=argv
    )
    worker = Supervised(program, run_dir=home / "run", log_dir=home / "logs")
    try:
        worker.start()
        monkeypatch.setenv("MARKETLAKE_AIRFLOW__EXECUTOR", "celery")
        assert "worker-3" not in Platform.at(home).wanted
        assert Platform.at(home).down() == ["worker-3"]
        assert worker.pid is None
    finally:
        worker.stop()
