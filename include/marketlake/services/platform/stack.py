"""The whole platform: what starts after what, what stops before what, and how it stands.

What does not belong: how one program is configured (``components``, ``airflow``).
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, MarketlakeError
from marketlake.services.platform import airflow, components
from marketlake.services.platform.components import Component
from marketlake.services.platform.process import birth_s
from marketlake.services.platform.runtime import prepare
from marketlake.settings import Settings, load_settings
from marketlake.storage.lake import Lake
from marketlake.storage.warehouse import Warehouse

_LOCK_WAIT_S = 300
_STOP_ORDER = (
    ("scheduler", "dag-processor"),
    ("api-server",),
    ("sandbox", "ledger"),
    ("postgres", "seaweedfs"),
)
"""Tasks talk to the api-server while they end, to the ledger while they write, to both stores."""


@dataclass(frozen=True)
class Step:
    """One thing to do on the way up, after the steps it needs."""

    name: str
    needs: tuple[str, ...]
    act: Callable[[], str]


@dataclass(frozen=True)
class StepDone:
    """What a step did ("started", "kept", ...) and the seconds it took."""

    name: str
    outcome: str
    seconds: float


@dataclass(frozen=True)
class ComponentStatus:
    """How one component stands; ``fault`` is None when it is ready."""

    name: str
    pid: int | None
    born_at_s: float | None
    fault: str | None
    log: Path

    @property
    def state(self) -> str:
        """Return ready, unready or down."""
        if self.pid is None:
            return "down"
        return "ready" if self.fault is None else "unready"


class Platform:
    """The platform whose state is in one folder."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def prepared(cls, home: Path, *, usual_ports: bool = True) -> Platform:
        """Return the platform with its ports and secrets chosen."""
        return cls(prepare(home, usual_ports=usual_ports))

    @classmethod
    def at(cls, home: Path | None = None) -> Platform:
        """Return the platform as it is, changing nothing."""
        return cls(load_settings(home))

    @cached_property
    def components(self) -> Mapping[str, Component]:
        """Return every program by name."""
        settings = self.settings
        made: dict[str, Component] = {
            "postgres": components.postgres(settings),
            "seaweedfs": components.seaweedfs(settings),
            "ledger": components.ledger(settings),
            "api-server": airflow.api_server(settings),
            "scheduler": airflow.scheduler(settings),
            "dag-processor": airflow.dag_processor(settings),
        }
        if settings.mode == "sandbox":
            made["sandbox"] = components.sandbox(settings)
        return made

    def up(self, on_step: Callable[[StepDone], None] = lambda done: None) -> list[StepDone]:
        """Start what does not run, side by side where nothing forbids it; keep what does.

        Raises
        ------
        MarketlakeError
            The first failure, after everything that did not depend on it has been tried. What
            runs stays up, so the next call starts only the rest.
        """
        with self._alone():
            return run_steps(self._steps(), on_step)

    def down(self, on_step: Callable[[StepDone], None] = lambda done: None) -> list[str]:
        """Stop everything in the reverse of its dependencies; return what ran."""
        stopped: list[str] = []
        with self._alone():
            for level in _STOP_ORDER:
                present = [name for name in level if name in self.components]
                with ThreadPoolExecutor(max_workers=len(level)) as pool:
                    results = pool.map(lambda name: self._stop(name, on_step), present)
                    ran = dict(zip(present, results, strict=True))
                stopped += [name for name, was in ran.items() if was]
        return stopped

    def status(self) -> list[ComponentStatus]:
        """Return how each component stands, asking each of them."""
        with ThreadPoolExecutor(max_workers=len(self.components)) as pool:
            return list(pool.map(self._status, sorted(self.components)))

    def clean(self) -> None:
        """Stop everything and forget it: lake, databases, ledger, logs, ports, secrets."""
        self.down()
        shutil.rmtree(self.settings.home)

    def _steps(self) -> list[Step]:
        settings = self.settings
        # Not the migration: the scheduler imports for seconds, then waits for it.
        tasks_need: tuple[str, ...] = ("storage", "ledger")
        if "sandbox" in self.components:
            tasks_need = (*tasks_need, "sandbox")
        needs: dict[str, tuple[str, ...]] = {
            "postgres": (),
            "seaweedfs": (),
            "sandbox": (),
            "ledger": ("postgres",),
            "api-server": ("migration",),
            "scheduler": tasks_need,
            "dag-processor": ("migration",),
        }
        programs = [Step(name, needs[name], self._starter(name)) for name in self.components]
        return [
            *programs,
            Step("storage", ("postgres", "seaweedfs"), self._prepare_storage),
            Step(
                "migration", ("postgres",), lambda: "done" if airflow.migrate(settings) else "kept"
            ),
            Step("pools", ("api-server",), self._create_pools),
            Step(
                "dags",
                ("api-server", "dag-processor"),
                lambda: f"{airflow.wait_for_dags(settings)} parsed",
            ),
        ]

    def _starter(self, name: str) -> Callable[[], str]:
        def act() -> str:
            return "kept" if self.components[name].start().reused else "started"

        return act

    def _prepare_storage(self) -> str:
        Lake(self.settings.lake).ensure_buckets()
        Warehouse(self.settings.postgres).ensure_schema()
        return "ready"

    def _migrate(self) -> str:
        return "done" if airflow.migrate(self.settings) else "kept"

    def _create_pools(self) -> str:
        airflow.create_pools(self.settings)
        return "ready"

    def _stop(self, name: str, on_step: Callable[[StepDone], None]) -> bool:
        began = monotonic_s()
        ran = self.components[name].stop()
        if ran:
            on_step(StepDone(name, "stopped", monotonic_s() - began))
        return ran

    def _status(self, name: str) -> ComponentStatus:
        process = self.components[name].process
        pid = process.pid
        fault = "not running" if pid is None else process.program.probe()
        return ComponentStatus(name, pid, birth_s(process.pid_file), fault, process.log_path)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one command at a time start or stop things."""
        self.settings.home.mkdir(parents=True, exist_ok=True)
        deadline = monotonic_s() + _LOCK_WAIT_S
        with (self.settings.home / "platform.lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if monotonic_s() > deadline:
                        raise ConfigError(
                            expected="no other command starting or stopping this platform",
                            was=f"one has been at it for {_LOCK_WAIT_S} s",
                            where=str(self.settings.home / "platform.lock"),
                            todo="wait for it, or end it",
                        ) from None
                    sleep_s(0.2)
            yield


def run_steps(steps: list[Step], on_step: Callable[[StepDone], None]) -> list[StepDone]:
    """Run the steps, each as soon as those it needs are done; raise the first failure at the end.

    A step whose need failed is not tried.
    """
    with ThreadPoolExecutor(max_workers=len(steps)) as pool:
        futures: dict[str, Future[StepDone | None]] = {}

        def perform(step: Step) -> StepDone | None:
            for need in step.needs:
                awaited = futures[need]
                if awaited.exception() is not None or awaited.result() is None:
                    return None
            began = monotonic_s()
            done = StepDone(step.name, step.act(), monotonic_s() - began)
            on_step(done)
            return done

        for step in _in_order(steps):
            futures[step.name] = pool.submit(perform, step)
    failures = [error for future in futures.values() if (error := future.exception()) is not None]
    if failures:
        known = [error for error in failures if isinstance(error, MarketlakeError)]
        raise (known or failures)[0]
    return [done for future in futures.values() if (done := future.result()) is not None]


def _in_order(steps: list[Step]) -> list[Step]:
    """Sort so that a step comes after those it needs."""
    placed: dict[str, Step] = {}
    waiting = list(steps)
    while waiting:
        ready = [step for step in waiting if all(need in placed for need in step.needs)]
        if not ready:
            raise ConfigError(
                expected="steps whose needs can be met",
                was=f"none of {[step.name for step in waiting]} can start",
                where="platform steps",
                todo="remove the circle or add the missing step",
            )
        placed |= {step.name: step for step in ready}
        waiting = [step for step in waiting if step.name not in placed]
    return list(placed.values())
