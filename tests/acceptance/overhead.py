"""What orchestration costs: the same sessions as one plain process and through Airflow.

Both write into the same stores, in turns; the content hashes must be equal, and every manifest must
name the run that is being measured. CPU-seconds are those of the process tree.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.contracts.catalog import CATALOG
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.environment import component_environment
from marketlake.services.platform.following import DAILY_CHAIN
from marketlake.services.platform.stack import Platform
from marketlake.storage.lake import Lake

from tests.acceptance import figures
from tests.acceptance.figures import say
from tests.acceptance.installation import told
from tests.acceptance.processes import CpuSeconds, cpu_seconds, peak_pss_mb
from tests.integration.conftest import SESSIONS, ContentHashes, Installation

TARGET_CPU_S = 0.35
STORES = ("postgres", "seaweedfs", "ledger", "sandbox")
AIRFLOW = ("scheduler", "dag-processor", "api-server")
_SETTLE_S = 10.0
_IDLE_S = 20.0


@dataclass(frozen=True)
class Plain:
    """The sessions as one process: its own CPU, and what the stores used meanwhile."""

    start_up_cpu_s: float
    work_cpu_s: float
    wall_s: float
    stores: CpuSeconds

    @property
    def work_and_stores_s(self) -> float:
        return self.work_cpu_s + sum(self.stores.values())


@dataclass(frozen=True)
class Orchestrated:
    """The sessions through Airflow: CPU by component, and of the command that asked for them."""

    components: CpuSeconds
    command_cpu_s: float
    wall_s: float
    tasks: int
    tries: int
    peak_pss_mb: Mapping[str, float]
    idle_cpu_s_per_s: CpuSeconds

    @property
    def tree_s(self) -> float:
        return sum(self.components.values())


def measure(one: Installation, *, rounds: int) -> dict[str, Any]:
    """Return the figures of some rounds, each one plain and one orchestrated measurement."""
    told(one, "run")
    expected = one.hashes(SESSIONS)
    plain, orchestrated = [], []
    for number in range(1, rounds + 1):
        plain.append(_plain(one))
        _require_same(one, expected, f"plain, round {number}")
        say(f"round {number}: plain work {plain[-1].work_and_stores_s:.1f} CPU-s")
        orchestrated.append(_orchestrated(one))
        _require_same(one, expected, f"orchestrated, round {number}")
        say(f"round {number}: orchestrated {orchestrated[-1].tree_s:.1f} CPU-s")
    return _document(plain, orchestrated)


def _plain(one: Installation) -> Plain:
    told(one, "up")
    platform = Platform.at(one.home)
    for name in AIRFLOW:  # an idle Airflow would use Postgres, and the cores
        platform.components[name].stop()
    sleep_s(_SETTLE_S)
    before = cpu_seconds(one.home)
    run_id = f"plain-{uuid.uuid4().hex[:8]}"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("plain_line.py")), run_id]
        + [str(session) for session in SESSIONS],
        env=component_environment(one.settings) | dict(one.market),
        cwd=one.home,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"the plain line failed\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    stores = _difference(before, cpu_seconds(one.home))
    _require_runs(one, lambda found: found == run_id)
    said = json.loads(done.stdout.splitlines()[-1])
    return Plain(said["start_up_cpu_s"], said["work_cpu_s"], said["work_wall_s"], stores)


def _orchestrated(one: Installation) -> Orchestrated:
    told(one, "up")
    sleep_s(_SETTLE_S)
    since = utc_now()
    before, command_before = cpu_seconds(one.home), _children_cpu_s()
    began = monotonic_s()
    with peak_pss_mb(one.home) as peaks:
        first, last = str(SESSIONS[0]), str(SESSIONS[-1])
        told(one, "backfill", "--from", first, "--to", last, "--reprocess", "completed")
        wall_s = monotonic_s() - began
    components = _difference(before, cpu_seconds(one.home))
    command_s = _children_cpu_s() - command_before
    _require_runs(one, lambda found: not found.startswith("plain-"))
    tasks, tries = _tasks(one, since)
    sleep_s(_SETTLE_S)
    resting = cpu_seconds(one.home)
    sleep_s(_IDLE_S)
    idle = _difference(resting, cpu_seconds(one.home))
    rates = {name: used / _IDLE_S for name, used in idle.items()}
    return Orchestrated(components, command_s, wall_s, tasks, tries, dict(peaks), rates)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _difference(before: CpuSeconds, after: CpuSeconds) -> CpuSeconds:
    return {name: after[name] - before.get(name, 0.0) for name in sorted(after)}


def _tasks(one: Installation, since: datetime) -> tuple[int, int]:
    """Return how many tasks have run since then, and their tries."""
    with AirflowApi(one.settings.airflow) as api:
        runs = [
            run
            for run in api.runs(start_date_gte=since.isoformat())
            if run["dag_id"] in DAILY_CHAIN
        ]
        tasks = [task for run in runs for task in api.tasks(run["dag_id"], run["dag_run_id"])]
    states = Counter(task["state"] for task in tasks)
    if set(states) != {"success"}:
        raise SystemExit(f"expected every task to have succeeded, was {dict(states)}")
    return len(tasks), sum(task["try_number"] for task in tasks)


def _require_same(one: Installation, expected: ContentHashes, what: str) -> None:
    found = one.hashes(SESSIONS)
    differing = {
        key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)
    }
    if differing:
        raise SystemExit(f"{what} gave other content: {sorted(differing)[:10]}")


def _require_runs(one: Installation, is_measured: Any) -> None:
    """Make sure that this run, and no run before it, published everything that is compared."""
    lake = Lake(one.settings.lake)
    keys = {f"session={session}" for session in SESSIONS}
    strangers = {
        f"{item.name}/{manifest.partition} by {manifest.run.run_id}"
        for item in CATALOG
        if item.owner in DAILY_CHAIN
        for manifest in lake.manifests(item)
        if manifest.partition in keys and not is_measured(manifest.run.run_id)
    }
    if strangers:
        raise SystemExit(f"not published by the measured run: {sorted(strangers)[:5]}")


def _document(plain: Sequence[Plain], orchestrated: Sequence[Orchestrated]) -> dict[str, Any]:
    tasks = orchestrated[0].tasks
    names = sorted({name for item in orchestrated for name in item.components})

    def middle(values: Sequence[float]) -> float:
        return statistics.median(values)

    above = [
        (there.tree_s - here.work_and_stores_s) / there.tasks
        for here, there in zip(plain, orchestrated, strict=True)
    ]
    by_component = {
        name: {
            "plain_cpu_s": middle([item.stores.get(name, 0.0) for item in plain]),
            "orchestrated_cpu_s": middle([item.components[name] for item in orchestrated]),
            "idle_cpu_s_per_s": middle(
                [item.idle_cpu_s_per_s.get(name, 0.0) for item in orchestrated]
            ),
            "peak_pss_mb": max(item.peak_pss_mb.get(name, 0.0) for item in orchestrated),
        }
        for name in names
    }
    wall_s = middle([item.wall_s for item in orchestrated])
    command_s = middle([item.command_cpu_s for item in orchestrated])
    return {
        "sessions": [str(session) for session in SESSIONS],
        "rounds": len(plain),
        "tasks": tasks,
        "tries": [item.tries for item in orchestrated],
        "outputs_equal": True,
        "target_cpu_s_per_task_above_plain": TARGET_CPU_S,
        "cpu_s_per_task_above_plain": middle(above),
        "cpu_s_per_task_above_plain_rounds": above,
        "cpu_s_per_task_above_plain_with_command": middle(above) + command_s / tasks,
        "plain": {
            "start_up_cpu_s": middle([item.start_up_cpu_s for item in plain]),
            "work_cpu_s": middle([item.work_cpu_s for item in plain]),
            "work_and_stores_cpu_s": middle([item.work_and_stores_s for item in plain]),
            "wall_s": middle([item.wall_s for item in plain]),
        },
        "orchestrated": {
            "tree_cpu_s": middle([item.tree_s for item in orchestrated]),
            "command_cpu_s": command_s,
            "wall_s": wall_s,
            "idle_cpu_s_in_that_time": wall_s
            * sum(item["idle_cpu_s_per_s"] for item in by_component.values()),
        },
        "wall_ratio": wall_s / middle([item.wall_s for item in plain]),
        "peak_pss_mb": sum(item["peak_pss_mb"] for item in by_component.values()),
        "components": by_component,
    }


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    plain, orchestrated = found["plain"], found["orchestrated"]
    tasks = found["tasks"]
    rows: list[list[Any]] = [["the line's own process", plain["work_cpu_s"], 0.0, "", "", ""]]
    rows += [
        [
            name,
            item["plain_cpu_s"],
            item["orchestrated_cpu_s"],
            (item["orchestrated_cpu_s"] - item["plain_cpu_s"]) / tasks,
            item["idle_cpu_s_per_s"],
            round(item["peak_pss_mb"]),
        ]
        for name, item in found["components"].items()
    ]
    total = [plain["work_and_stores_cpu_s"], orchestrated["tree_cpu_s"]]
    rows.append(["total", *total, (total[1] - total[0]) / tasks, "", round(found["peak_pss_mb"])])
    figures.table(
        f"{len(found['sessions'])} sessions, {tasks} tasks, medians of {found['rounds']} rounds",
        ["", "plain CPU-s", "Airflow CPU-s", "more a task", "idle CPU-s/s", "peak PSS MB"],
        rows,
    )
    figures.table(
        "Overhead",
        ["figure", "value"],
        [
            ["CPU-s a task above the plain work", found["cpu_s_per_task_above_plain"]],
            ["  target, at most", found["target_cpu_s_per_task_above_plain"]],
            ["  with the command", found["cpu_s_per_task_above_plain_with_command"]],
            ["wall, plain (s)", plain["wall_s"]],
            ["wall, orchestrated (s)", orchestrated["wall_s"]],
            ["wall ratio", found["wall_ratio"]],
            ["plain start-up, not counted (CPU-s)", plain["start_up_cpu_s"]],
            ["Airflow's idle share of that time (CPU-s)", orchestrated["idle_cpu_s_in_that_time"]],
        ],
    )  # fmt: skip
