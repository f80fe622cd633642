"""The order of starting, tried with steps that only note when they ran."""

from __future__ import annotations

import threading

import pytest
from marketlake.errors import ConfigError, SourceUnavailable
from marketlake.services.platform.stack import Step, StepDone, run_steps


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
