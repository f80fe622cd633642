"""What Airflow itself costs: the same platform and settings, and as many tasks that do nothing.

The part of ``overhead`` that no code of ours can lower. Runs go one after the other, and side by
side as a backfill's do.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from marketlake.clock import monotonic_s, sleep_s
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.settings import PROJECT_ROOT, load_settings

from tests.acceptance import figures
from tests.acceptance.figures import say
from tests.acceptance.overhead import TARGET_CPU_S
from tests.acceptance.processes import CpuSeconds, cpu_seconds

RUNS, TASKS_A_RUN = 5, 19  # as the five sessions of `overhead`
_SETTLE_S = 10.0
_PROGRAM = "from marketlake.cli import main; main()"
_DAG = f"""
from airflow.sdk import chain, dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM


@dag(
    schedule=None,
    catchup=False,
    max_active_runs={RUNS},
    default_args=task_defaults(OWNER_PLATFORM),
)
def nothing():
    def step(number):
        @task(task_id=f"step_{{number}}")
        def do_nothing():
            return {{"number": number}}

        return do_nothing()

    chain(*map(step, range({TASKS_A_RUN})))


nothing()
"""


def measure(*, rounds: int) -> dict[str, Any]:
    """Return the CPU-seconds of an empty task, by component, both ways, in turns."""
    ways: dict[str, list[dict[str, Any]]] = {"one_after_another": [], "side_by_side": []}
    with _platform() as home, AirflowApi(load_settings(home).airflow) as api:
        _runs(api, 1)  # what is imported once
        for number in range(1, rounds + 1):
            for way, taken in ways.items():
                sleep_s(_SETTLE_S)
                before, began = cpu_seconds(home), monotonic_s()
                for together in [RUNS] if way == "side_by_side" else [1] * RUNS:
                    _runs(api, together)
                wall_s = monotonic_s() - began
                used = _a_task(before, cpu_seconds(home))
                taken.append({"cpu_s_a_task": used, "wall_s": wall_s})
                say(f"round {number}, {way}: {sum(used.values()):.3f} CPU-s a task")
    return {
        "tasks": RUNS * TASKS_A_RUN,
        "rounds": rounds,
        "cpu_s_a_task": {way: _middle(taken) for way, taken in ways.items()},
        "by_round": ways,
        "target_cpu_s_per_task_above_plain": TARGET_CPU_S,
    }


@contextmanager
def _platform() -> Iterator[Path]:
    """Yield the home of a running platform whose only DAG is an empty one."""
    with tempfile.TemporaryDirectory(prefix="marketlake-floor-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o711)
        for name in ("include", "plugins", "dbt", "expectations"):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(PROJECT_ROOT / name, folder / name, ignore=ignored)
        shutil.copy(PROJECT_ROOT / "airflow.cfg", folder)
        (folder / "dags").mkdir()
        (folder / "dags" / "nothing.py").write_text(_DAG)
        home = folder / "home"
        paths = {"PYTHONPATH": str(folder / "include"), "MARKETLAKE_HOME": str(home)}
        own = {key: value for key, value in os.environ.items() if not key.startswith("MARKETLAKE_")}
        environment = own | paths | {"MARKETLAKE_ENV_FILE": os.devnull}

        def command(name: str) -> None:
            subprocess.run(
                [sys.executable, "-c", _PROGRAM, name], env=environment, cwd=folder, check=True
            )

        try:
            command("up")
            yield home
        finally:
            command("down")


def _runs(api: AirflowApi, count: int) -> None:
    asked = [api.trigger("nothing") for _ in range(count)]
    while (states := {api.run("nothing", one)["state"] for one in asked}) != {"success"}:
        if "failed" in states:
            raise SystemExit("an empty task failed")
        sleep_s(1)


def _a_task(before: CpuSeconds, after: CpuSeconds) -> CpuSeconds:
    tasks = RUNS * TASKS_A_RUN
    return {name: (after[name] - before.get(name, 0.0)) / tasks for name in sorted(after)}


def _middle(taken: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = sorted({name for one in taken for name in one["cpu_s_a_task"]})
    return {
        "all": statistics.median(sum(one["cpu_s_a_task"].values()) for one in taken),
        **{
            name: statistics.median(one["cpu_s_a_task"].get(name, 0.0) for one in taken)
            for name in names
        },
    }


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    ways = found["cpu_s_a_task"]
    figures.table(
        f"CPU-s of a task that does nothing, medians of {found['rounds']} rounds",
        ["", *(way.replace("_", " ") for way in ways)],
        [[name, *(ways[way].get(name, 0.0) for way in ways)] for name in ways["side_by_side"]],
    )


def missed(found: Mapping[str, Any]) -> list[str]:
    """Return nothing: this is a figure of Airflow's, to be read beside ours."""
    return []
