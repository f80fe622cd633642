"""The whole platform: what starts after what, what stops before what, and how it stands.

What does not belong: how one program is configured (``components``, ``airflow``).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping, Set
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from marketlake.clock import monotonic_s
from marketlake.errors import ConfigError, MarketlakeError
from marketlake.services.platform import airflow, components
from marketlake.services.platform.components import Component
from marketlake.services.platform.libraries import require_system_libraries
from marketlake.services.platform.ports import Claims
from marketlake.services.platform.process import birth_s
from marketlake.services.platform.runtime import alone, prepare
from marketlake.settings import Settings, load_settings

_STOP_ORDER = (
    ("scheduler", "worker", "dag-processor"),
    ("api-server",),
    ("sandbox", "ledger", "valkey"),
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
    def at(cls, home: Path | None = None) -> Platform:
        """Return the platform as it is, changing nothing."""
        return cls(load_settings(home))

    @cached_property
    def components(self) -> Mapping[str, Component]:
        """Return every program by name, also one that this mode does not want."""
        settings = self.settings
        return {
            "postgres": components.postgres(settings),
            "seaweedfs": components.seaweedfs(settings),
            "ledger": components.ledger(settings),
            "sandbox": components.sandbox(settings),
            "api-server": airflow.api_server(settings),
            "scheduler": airflow.scheduler(settings),
            "dag-processor": airflow.dag_processor(settings),
            **self._celery_components(),
        }

    def _celery_components(self) -> dict[str, Component]:
        """Return broker and workers: those of the settings, and any that still run."""
        started = {path.stem for path in (self.settings.home / "run").glob("*.json")}
        workers = self._workers | {name for name in started if _kind(name) == "worker"}
        found: dict[str, Component] = {
            name: airflow.worker(self.settings, name) for name in sorted(workers)
        }
        if self._workers or "valkey" in started:
            found["valkey"] = components.valkey(self.settings)
        return found

    @property
    def _workers(self) -> set[str]:
        if self.settings.airflow.executor != "celery":
            return set()
        return {f"worker-{number + 1}" for number in range(self.settings.airflow.workers)}

    @property
    def wanted(self) -> list[str]:
        """Return the names of the programs that this mode consists of."""
        unwanted = {"sandbox"} if self.settings.mode == "live" else set()
        if not self._workers:
            unwanted.add("valkey")
        return [
            name
            for name in self.components
            if name not in unwanted and (_kind(name) != "worker" or name in self._workers)
        ]

    def up(
        self,
        on_step: Callable[[StepDone], None] = lambda done: None,
        *,
        usual_ports: bool = True,
    ) -> list[StepDone]:
        """Start what does not run, side by side where nothing forbids it; keep what does.

        Ports and secrets that nobody has chosen yet are chosen first.

        Raises
        ------
        MarketlakeError
            The first failure, after everything that did not depend on it has been tried. What
            runs stays up, so the next call starts only the rest.
        """
        require_system_libraries()
        with alone(self.settings.home), Claims() as claims:
            home = self.settings.home
            self.settings = prepare(home, usual_ports=usual_ports, claims=claims)
            vars(self).pop("components", None)  # they were made from what was set before
            self._stop_all(set(self.components) - set(self.wanted), on_step)
            return run_steps(self._steps(), on_step)

    def down(self, on_step: Callable[[StepDone], None] = lambda done: None) -> list[str]:
        """Stop everything in the reverse of its dependencies; return what ran."""
        with alone(self.settings.home):
            return self._stop_all(set(self.components), on_step)

    def status(self) -> list[ComponentStatus]:
        """Return how each component stands, asking each of them."""
        with ThreadPoolExecutor(max_workers=len(self.wanted)) as pool:
            return list(pool.map(self._status, sorted(self.wanted)))

    def clean(self) -> None:
        """Stop everything and forget it: lake, databases, ledger, logs, ports, secrets.

        Raises
        ------
        ConfigError
            When the folder is not a platform's: nothing in it is touched.
        """
        if not self.settings.runtime_env.exists():
            raise ConfigError(
                expected="the state folder of a platform",
                was="a folder without a runtime.env",
                where=str(self.settings.home),
                todo="set MARKETLAKE_HOME to the platform's folder, or delete this one yourself",
            )
        self.down()
        shutil.rmtree(self.settings.home)

    def _stop_all(self, names: Set[str], on_step: Callable[[StepDone], None]) -> list[str]:
        stopped: list[str] = []
        for kinds in _STOP_ORDER:
            level = sorted(name for name in names if _kind(name) in kinds)
            with ThreadPoolExecutor(max_workers=len(level) or 1) as pool:
                ran = list(pool.map(lambda name: self._stop(name, on_step), level))
            stopped += [name for name, was in zip(level, ran, strict=True) if was]
        return stopped

    def _steps(self) -> list[Step]:
        # Not the migration: the scheduler imports for seconds, then waits for it.
        tasks_need: tuple[str, ...] = ("storage", "ledger")
        if "sandbox" in self.wanted:
            tasks_need = (*tasks_need, "sandbox")
        needs: dict[str, tuple[str, ...]] = {
            "postgres": (),
            "seaweedfs": (),
            "sandbox": (),
            # Its first checkpoint would make the locked bucket, without its lock.
            "ledger": ("storage",),
            "api-server": ("migration",),
            "scheduler": tasks_need,
            "dag-processor": ("migration",),
            "valkey": (),
            "worker": (*tasks_need, "valkey"),
        }
        if self._workers:
            needs["scheduler"] = (*tasks_need, "valkey")
        programs = [Step(name, needs[_kind(name)], self._starter(name)) for name in self.wanted]
        return [
            *programs,
            Step("storage", ("postgres", "seaweedfs"), self._prepare_storage),
            Step("migration", ("postgres",), self._migrate),
            Step("pools", ("api-server",), self._create_pools),
            Step(
                "dags",
                ("api-server", "dag-processor"),
                lambda: f"{airflow.wait_for_dags(self.settings)} parsed",
            ),
        ]

    def _starter(self, name: str) -> Callable[[], str]:
        def act() -> str:
            return "kept" if self.components[name].start().reused else "started"

        return act

    def _prepare_storage(self) -> str:
        components.prepare_storage(self.settings)
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


def _kind(name: str) -> str:
    """Return what a component is one of: ``worker`` for ``worker-2``."""
    return re.sub(r"-\d+$", "", name)


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
