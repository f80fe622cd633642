"""What the platform's processes have used: CPU-seconds and memory, by component.

CPU comes from the kernel's own counters of each process and of the children it has waited for, so
a task that began and ended between two looks is counted too.
"""

from __future__ import annotations

import json
import os
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")

CpuSeconds = dict[str, float]


@dataclass(frozen=True)
class Memory:
    """One component's memory: pages shared by several processes count in each (rss), or once."""

    rss_mb: float
    pss_mb: float
    processes: int


@dataclass(frozen=True)
class _Process:
    parent: int
    session: int
    cpu_s: float


def cpu_seconds(home: Path) -> CpuSeconds:
    """Return the CPU-seconds of every running component, its ended children included."""
    table = _table()
    used: defaultdict[str, float] = defaultdict(float)
    for pid, name in _members(home, table).items():
        used[name] += table[pid].cpu_s
    return dict(used)


def memory(home: Path) -> dict[str, Memory]:
    """Return the memory of every running component with everything it started."""
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    for pid, name in _members(home, _table()).items():
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        sizes_kb = {
            line.split(":")[0]: int(line.split()[1])
            for line in text.splitlines()
            if line.startswith(("Rss:", "Pss:"))
        }
        found[name].append((sizes_kb.get("Rss", 0) / 1024, sizes_kb.get("Pss", 0) / 1024))
    return {
        name: Memory(sum(rss for rss, _ in sizes), sum(pss for _, pss in sizes), len(sizes))
        for name, sizes in found.items()
    }


@contextmanager
def peak_pss_mb(home: Path, *, every_s: float = 2.0) -> Iterator[Mapping[str, float]]:
    """Yield a mapping that holds, at the end, the largest memory seen of each component."""
    peaks: dict[str, float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            for name, size in memory(home).items():
                peaks[name] = max(peaks.get(name, 0.0), size.pss_mb)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        over.set()
        thread.join()


@dataclass
class PeakMemory:
    """The most memory that was in use at one moment, and what of it each component had then."""

    total_pss_mb: float = 0.0
    pss_mb: Mapping[str, float] = field(default_factory=dict)

    def look(self, home: Path) -> None:
        """Keep this moment if it is the highest so far."""
        now = {name: size.pss_mb for name, size in memory(home).items()}
        if sum(now.values()) > self.total_pss_mb:
            self.total_pss_mb, self.pss_mb = sum(now.values()), now


@contextmanager
def peak_memory(home: Path, *, every_s: float = 2.0) -> Iterator[PeakMemory]:
    """Yield what holds, at the end, the moment of the largest memory of all components."""
    peak, over = PeakMemory(), threading.Event()

    def watch() -> None:
        while not over.wait(every_s):
            peak.look(home)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        over.set()
        thread.join()


def pid_of(home: Path, component: str) -> int:
    """Return the process id that a component's pid file names."""
    return int(json.loads((home / "run" / f"{component}.json").read_text())["pid"])


def task_processes(home: Path) -> list[int]:
    """Return the processes that run a task's own code right now, newest last.

    Airflow titles them ``airflow worker -- <task instance>``; who waits for them has another one.
    """
    members = [pid for pid, name in _members(home, _table()).items() if name == "scheduler"]
    titles = {pid: _title(pid) for pid in members}
    return sorted(
        pid
        for pid, title in titles.items()
        if title.startswith("airflow worker -- ") and "LocalExecutor" not in title
    )


def _title(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").rstrip("\0 ")
    except OSError:
        return ""


def _members(home: Path, table: Mapping[int, _Process]) -> dict[int, str]:
    """Return the component of every process that one started (Postgres's make own sessions)."""
    leaders = {pid_of(home, path.stem): path.stem for path in (home / "run").glob("*.json")}
    members = {}
    for pid in table:
        above = pid
        while above in table and above not in leaders:
            above = table[above].parent
        name = leaders.get(above) or leaders.get(table[pid].session)
        if name is not None:
            members[pid] = name
    return members


def _table() -> dict[int, _Process]:
    table = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            text = (folder / "stat").read_text(errors="replace")
        except OSError:
            continue
        fields = text.rpartition(")")[2].split()  # from the third field on: see proc(5)
        ticks = sum(map(int, fields[11:15]))  # user and system, own and of ended children
        table[int(folder.name)] = _Process(int(fields[1]), int(fields[3]), ticks / _TICKS_PER_S)
    return table
