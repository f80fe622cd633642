"""A run every few minutes for an hour: does anything grow, does anything get stuck?

Memory is compared where it is comparable: at rest, right before each run. The slope is a least
squares line through those points with its 95 % interval.
"""

from __future__ import annotations

import statistics
import subprocess
import threading
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import MarketlakeError
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.scheduling import PATIENCE_S, longest_wait
from marketlake.settings import Settings
from scipy import stats

from tests.acceptance import figures
from tests.acceptance.figures import say
from tests.acceptance.installation import told
from tests.acceptance.processes import Memory, cpu_seconds, memory
from tests.integration.conftest import SESSIONS, Installation

_RUN_LIMIT_S = 600.0
_RESTING_LOOKS = 5
_PROBE_EVERY_S = 5.0


class SchedulingWatch:
    """Asks every five seconds what has waited longest for the scheduler."""

    def __init__(self, settings: Settings) -> None:
        self.worst_s = 0.0
        self.worst = "nothing"
        self.looks = 0
        self.failed_looks = 0
        self._settings = settings
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> SchedulingWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        with AirflowApi(self._settings.airflow) as api:
            while not self._over.wait(_PROBE_EVERY_S):
                self.looks += 1
                try:
                    oldest = longest_wait(api)
                except MarketlakeError:
                    self.failed_looks += 1
                    continue
                if oldest is not None and (age_s := oldest.age_s(utc_now())) > self.worst_s:
                    self.worst_s, self.worst = age_s, f"{oldest.name} ({oldest.state})"


def measure(one: Installation, *, minutes: float, every_s: float) -> dict[str, Any]:
    """Run sessions on and on, reprocessing the last five in turn; return the figures."""
    told(one, "run")
    resting: list[tuple[float, dict[str, Memory]]] = []
    walls_s: list[float] = []
    failures: list[str] = []
    cpu_before = cpu_seconds(one.home)
    disk_before = _disk_mb(one.home)
    began = monotonic_s()
    with SchedulingWatch(one.settings) as watch:
        while True:
            resting.append(((monotonic_s() - began) / 3600, _at_rest(one.home)))
            if monotonic_s() - began >= minutes * 60:
                break
            number = len(walls_s)
            wall_s, failure = _one_run(one, SESSIONS[number % len(SESSIONS)])
            walls_s.append(wall_s)
            failures += failure
            sleep_s(max(began + (number + 1) * every_s - monotonic_s(), 0.0))
    hours = (monotonic_s() - began) / 3600
    cpu = cpu_seconds(one.home)
    return {
        "minutes": minutes,
        "every_s": every_s,
        "runs": len(walls_s),
        "failures": failures,
        "unfinished_runs": _unfinished(one),
        "run_wall_s": {
            "median": statistics.median(walls_s),
            "max": max(walls_s),
            "slope_s_per_hour": slope([point for point, _ in resting[: len(walls_s)]], walls_s),
        },
        "scheduling": {
            "looks": watch.looks,
            "failed_looks": watch.failed_looks,
            "longest_wait_s": watch.worst_s,
            "longest_wait_of": watch.worst,
            "limit_s": PATIENCE_S,
        },
        "disk_mb_per_hour": (_disk_mb(one.home) - disk_before) / hours,
        "components": {
            name: _component(name, resting)
            | {"cpu_s_per_s": (cpu[name] - cpu_before.get(name, 0.0)) / hours / 3600}
            for name in sorted(cpu)
        },
    }


def slope(hours: Sequence[float], values: Sequence[float]) -> dict[str, float]:
    """Return the least squares slope an hour with its 95 % interval (nan with under three)."""
    if len(values) < 3:
        return dict.fromkeys(("value", "low", "high"), float("nan"))
    line = stats.linregress(np.asarray(hours), np.asarray(values))
    half = float(stats.t.ppf(0.975, len(values) - 2)) * line.stderr
    return {"value": line.slope, "low": line.slope - half, "high": line.slope + half}


def is_stuck(found: Mapping[str, Any]) -> bool:
    """Return whether a run failed or did not end, or the scheduler left work lying."""
    late = found["scheduling"]["longest_wait_s"] > found["scheduling"]["limit_s"]
    return bool(found["failures"] or found["unfinished_runs"] or late)


def _component(name: str, resting: Sequence[tuple[float, dict[str, Memory]]]) -> dict[str, Any]:
    # The first point is before the first run of the soak: caches are still to be filled.
    points = [(hour, seen[name]) for hour, seen in resting[1:] if name in seen]
    hours = [hour for hour, _ in points]
    rss, pss = [size.rss_mb for _, size in points], [size.pss_mb for _, size in points]
    return {
        "rss_mb_first": rss[0],
        "rss_mb_last": rss[-1],
        "rss_mb_per_hour": slope(hours, rss),
        "pss_mb_last": pss[-1],
        "pss_mb_per_hour": slope(hours, pss),
        "processes_last": points[-1][1].processes,
        "points": len(points),
    }


def _at_rest(home: Path) -> dict[str, Memory]:
    """Return each component's memory as the middle of a few looks."""
    looks = []
    for _ in range(_RESTING_LOOKS):
        looks.append(memory(home))
        sleep_s(0.5)
    return {
        name: sorted((look[name] for look in looks if name in look), key=lambda size: size.rss_mb)[
            sum(name in look for look in looks) // 2
        ]
        for name in looks[-1]
    }


def _one_run(one: Installation, session: date) -> tuple[float, list[str]]:
    began = monotonic_s()
    arguments = ("backfill", "--from", str(session), "--to", str(session))
    try:
        done = one.command(*arguments, "--reprocess", "completed", timeout_s=_RUN_LIMIT_S)
        said = f"{session}: {done.stdout[-500:]}{done.stderr[-500:]}"
        fault = [] if done.returncode == 0 else [said]
    except subprocess.TimeoutExpired:
        fault = [f"{session}: not within {_RUN_LIMIT_S:.0f} s"]
    say(f"{session}  {monotonic_s() - began:.1f} s  {'FAILED' if fault else 'ok'}")
    return monotonic_s() - began, fault


def _unfinished(one: Installation) -> list[str]:
    with AirflowApi(one.settings.airflow) as api:
        return [
            f"{run['dag_id']} {run['state']}"
            for state in ("queued", "running")
            for run in api.runs(state=state)
        ]


def _disk_mb(home: Path) -> float:
    return sum(file.lstat().st_size for file in home.rglob("*") if not file.is_dir()) / 1e6


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as tables."""

    def interval(value: Mapping[str, float]) -> str:
        return f"{value['value']:+.1f} [{value['low']:+.1f}, {value['high']:+.1f}]"

    figures.table(
        f"Memory at rest over {found['minutes']:g} minutes, {found['runs']} runs",
        ["", "RSS MB first", "last", "RSS MB/h (95 %)", "PSS MB", "PSS MB/h (95 %)", "CPU"],
        [
            [
                name,
                round(item["rss_mb_first"]),
                round(item["rss_mb_last"]),
                interval(item["rss_mb_per_hour"]),
                round(item["pss_mb_last"]),
                interval(item["pss_mb_per_hour"]),
                f"{item['cpu_s_per_s']:.0%}",
            ]
            for name, item in found["components"].items()
        ],
    )
    scheduling, wall = found["scheduling"], found["run_wall_s"]
    figures.table(
        "Runs",
        ["figure", "value"],
        [
            ["runs, of them failed", f"{found['runs']}, {len(found['failures'])}"],
            ["left unfinished", len(found["unfinished_runs"])],
            ["seconds a run, median and longest", f"{wall['median']:.1f}, {wall['max']:.1f}"],
            ["longest wait for the scheduler (s)", scheduling["longest_wait_s"]],
            ["  of", scheduling["longest_wait_of"]],
            ["looks at the scheduler, of them failed",
             f"{scheduling['looks']}, {scheduling['failed_looks']}"],
            ["disk, MB an hour", found["disk_mb_per_hour"]],
        ],
    )  # fmt: skip
