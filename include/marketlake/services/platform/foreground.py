"""One component in the foreground, as a container runs it: the same program and environment.

What starts it again, where its log goes and what it waits for is the container engine's business
(``docker-compose.yml``). What does not belong: how a program is configured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import NoReturn

from marketlake.errors import NotFound
from marketlake.services.platform import airflow, components
from marketlake.services.platform.components import PlainComponent
from marketlake.services.platform.postgres import create_databases
from marketlake.services.platform.process import Program
from marketlake.services.platform.runtime import sandbox_egress
from marketlake.settings import Settings

_COMPONENTS: Mapping[str, Callable[[Settings], PlainComponent]] = {
    "api-server": airflow.api_server,
    "dag-processor": airflow.dag_processor,
    "ledger": components.ledger,
    "sandbox": components.sandbox,
    "scheduler": airflow.scheduler,
    "triggerer": airflow.triggerer,
    "worker": airflow.worker,
}
INITIALISATION = "init"
NAMES = (INITIALISATION, *_COMPONENTS)


def run(name: str, settings: Settings) -> None:
    """Become the component's program; only ``init`` returns.

    The process is replaced, so a signal to it reaches the program.
    """
    if name == INITIALISATION:
        initialise(settings)
        return
    _become(_program(name, settings), sandbox_egress(settings, settings.sandbox.proxy_port))


def initialise(settings: Settings) -> None:
    """Make what the others expect to find: databases, their tables, buckets, pools."""
    settings.home.mkdir(parents=True, exist_ok=True)
    create_databases(settings.postgres)
    components.prepare_storage(settings)
    airflow.upgrade_database(settings)
    airflow.import_pools(settings)


def fault_of(name: str, settings: Settings) -> str | None:
    """Return why the component is not ready, None if it is."""
    return _program(name, settings).probe()


def _program(name: str, settings: Settings) -> Program:
    if name not in _COMPONENTS:
        raise NotFound(
            expected=f"one of {', '.join(NAMES)}",
            was=name,
            where="the components that can run alone",
            todo="`marketlake up` starts a whole platform",
        )
    return _COMPONENTS[name](settings).process.program


def _become(program: Program, usual: Mapping[str, str]) -> NoReturn:
    program.cwd.mkdir(parents=True, exist_ok=True)
    if program.prepare is not None:
        program.prepare()
    os.chdir(program.cwd)
    os.execve(program.argv[0], program.argv, {**usual, **program.env})  # noqa: S606 - no shell
