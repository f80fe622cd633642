"""Each program of the platform, made from the settings alone.

What does not belong: the order they start in (``stack``) and how one is supervised (``process``).
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from marketlake.errors import MarketlakeError
from marketlake.services.platform.environment import component_environment
from marketlake.services.platform.postgres import EmbeddedPostgres
from marketlake.services.platform.probes import http_probe
from marketlake.services.platform.process import Program, Started, Supervised, Supervises
from marketlake.services.platform.seaweedfs import SeaweedFS
from marketlake.services.platform.valkey import Valkey
from marketlake.settings import PROJECT_ROOT, Settings


class Component(Protocol):
    """What the stack asks of every program."""

    @property
    def process(self) -> Supervised:
        """Return the supervised process behind the component."""
        ...

    def start(self) -> Started:
        """Start it, or keep it if it runs, and wait until it is ready."""
        ...

    def stop(self) -> bool:
        """Stop it; return whether it ran."""
        ...


class PlainComponent(Supervises):
    """A component made of nothing but its program."""

    def __init__(self, program: Program, settings: Settings) -> None:
        home = settings.home
        self.process = Supervised(program, run_dir=home / "run", log_dir=home / "logs")


def postgres(settings: Settings) -> EmbeddedPostgres:
    """Return the embedded Postgres server."""
    return EmbeddedPostgres(
        settings.postgres,
        settings.home / "postgres",
        run_dir=settings.home / "run",
        log_dir=settings.home / "logs",
        env=component_environment(settings),
    )


def seaweedfs(settings: Settings) -> SeaweedFS:
    """Return the embedded S3 store."""
    return SeaweedFS(
        settings.lake,
        settings.home / "seaweedfs",
        run_dir=settings.home / "run",
        log_dir=settings.home / "logs",
        env=component_environment(settings),
    )


def valkey(settings: Settings) -> Valkey:
    """Return the embedded broker between the scheduler and the Celery workers."""
    return Valkey(
        settings.airflow,
        settings.home / "valkey",
        run_dir=settings.home / "run",
        log_dir=settings.home / "logs",
        env=component_environment(settings),
    )


def ledger(settings: Settings) -> PlainComponent:
    """Return the one process that appends to the ledger."""

    def probe() -> str | None:
        from marketlake.storage.ledger import LedgerClient

        try:
            LedgerClient(settings.ledger).ping()
        except MarketlakeError as error:
            return str(error)
        return None

    return python_component("ledger", settings, "marketlake.services.ledger_appender", probe=probe)


def sandbox(settings: Settings) -> PlainComponent:
    """Return the vendor sandbox."""
    url = f"http://{settings.sandbox.host}:{settings.sandbox.http_port}/healthz"
    return python_component(
        "sandbox", settings, "marketlake.services.sandbox", probe=lambda: http_probe(url)
    )


def prepare_storage(settings: Settings) -> None:
    """Make the buckets of the lake and the tables of the warehouse."""
    # Imported here: most commands about components need neither, and boto3 costs half a second.
    from marketlake.storage.lake import Lake
    from marketlake.storage.warehouse import Warehouse

    Lake(settings.lake).ensure_buckets()
    Warehouse(settings.postgres).ensure_schema()


def python_component(
    name: str,
    settings: Settings,
    *module: str,
    probe: Callable[[], str | None],
    env: Mapping[str, str] | None = None,
    stop_grace_s: float = 10.0,
    ready_within_s: float = 60.0,
    prepare: Callable[[], None] | None = None,
) -> PlainComponent:
    """Return a component that runs a Python module of this environment."""
    argv = (sys.executable, "-m", *module)
    environment = component_environment(settings) | dict(env or {})
    airflow = sorted(f"{k}={v}" for k, v in environment.items() if k.startswith("AIRFLOW"))
    program = Program(
        name=name,
        argv=argv,
        env=environment,
        cwd=settings.home,
        probe=probe,
        stop_grace_s=stop_grace_s,
        ready_within_s=ready_within_s,
        prepare=prepare,
        # Edited code or settings are in force after the next start, without a stop.
        identity=(*argv, settings.model_dump_json(), *airflow, code_fingerprint()),
    )
    return PlainComponent(program, settings)


def code_fingerprint() -> str:
    """Return a hash of the source a long-running process may have loaded."""
    digest = hashlib.sha256()
    for folder in ("include", "plugins"):
        for path in sorted((PROJECT_ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(PROJECT_ROOT)).encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
