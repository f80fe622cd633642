"""The main job as a person runs it: the command line, Airflow, real stores, a shorter history."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.contracts.catalog import CATALOG
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.following import SessionProgress, follow
from marketlake.settings import Settings, load_settings
from marketlake.storage.lake import Lake

SESSIONS = [date(2022, 12, day) for day in (21, 22, 23, 27, 28)]
ContentHashes = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Installation:
    """A platform with a state folder of its own, driven through its command line."""

    home: Path
    market: tuple[tuple[str, str], ...]

    @property
    def settings(self) -> Settings:
        return load_settings(self.home)

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment that leads a command to this installation."""
        return {**os.environ, "MARKETLAKE_HOME": str(self.home), **dict(self.market)}

    def command(self, *arguments: str, timeout_s: float = 900) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "marketlake"), *arguments],
            env=self.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def must(self, *arguments: str, timeout_s: float = 900) -> str:
        done = self.command(*arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{arguments}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def stop(self) -> list[str]:
        """Stop the platform; return what went wrong, a process that outlived it among it."""
        faults = []
        try:
            done = self.command("down", timeout_s=120)
        except subprocess.TimeoutExpired as error:
            faults.append(f"{self.home.name}: {error}")
        else:
            if done.returncode != 0:
                faults.append(f"{self.home.name}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
        for process in self.processes():
            faults.append(f"{self.home.name}: {process} outlived `down`")
            process.kill()
        return faults

    def hashes(self, sessions: list[date] | None = None) -> ContentHashes:
        """Return the hash of every content artifact, records of tools left out."""
        lake = Lake(self.settings.lake)
        wanted = {f"session={session}" for session in sessions or []}
        return {
            (item.name, manifest.partition): manifest.sha256
            for item in CATALOG
            if not item.record
            for manifest in lake.manifests(item)
            if not wanted or manifest.partition in wanted
        }

    def progress(self, api: AirflowApi, session: date) -> SessionProgress:
        (progress,) = follow([session], api.runs())
        return progress

    def processes(self) -> list[psutil.Process]:
        """Return the running processes that belong to this state folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if str(self.home) in process.environ().get("MARKETLAKE_HOME", ""):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


def wait_until(
    condition: Callable[[], object], *, what: str, within_s: float = 300, every_s: float = 1.0
) -> None:
    deadline = monotonic_s() + within_s
    while not condition():
        assert monotonic_s() < deadline, f"not within {within_s} s: {what}"
        sleep_s(every_s)


@contextmanager
def stopped_afterwards(one: Installation) -> Iterator[Installation]:
    """Give an installation to one test: it is stopped at once, not when all tests have ended."""
    try:
        yield one
    finally:
        faults = one.stop()
    assert faults == []


@pytest.fixture(scope="session")
def install(scratch_root: Path) -> Iterator[Callable[..., Installation]]:
    """Yield a maker of installations; all are stopped at the end, and none may leave a process."""
    made: list[Installation] = []

    def make(
        folder: str, /, environment: Mapping[str, str] | None = None, **market: str
    ) -> Installation:
        names = {f"MARKETLAKE_MARKET__{key.upper()}": value for key, value in market.items()}
        names |= environment or {}
        one = Installation(scratch_root / folder, tuple(names.items()))
        made.append(one)
        return one

    yield make
    faults = [fault for one in made for fault in one.stop()]
    assert faults == []


@pytest.fixture(scope="session")
def main_job(install: Callable[..., Installation]) -> tuple[Installation, str]:
    """Return an installation after its main job, and what the job printed."""
    one = install("main job", first_session="2019-01-02")
    return one, one.must("run")


@pytest.fixture(scope="session")
def ran(main_job: tuple[Installation, str]) -> Installation:
    """Return the installation after its main job."""
    return main_job[0]


@pytest.fixture(scope="session")
def first_hashes(ran: Installation) -> ContentHashes:
    """Return what the main job published."""
    return ran.hashes()


@pytest.fixture
def api(ran: Installation) -> Iterator[AirflowApi]:
    """Yield Airflow's REST API."""
    with AirflowApi(ran.settings.airflow) as client:
        yield client
