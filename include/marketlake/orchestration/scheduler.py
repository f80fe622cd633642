"""The scheduler's process: the slow imports first, then Airflow's own scheduler.

A scheduler that imported them after it had begun to beat would miss its heartbeats and be taken for
dead. Before, they also run beside the database's migration. What does not belong here: anything the
scheduler does.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import signal
import sys
from threading import Timer

from marketlake import pipelines
from marketlake.calendars import Calendar
from marketlake.orchestration.executor import PRELOADED
from marketlake.settings import current_settings
from marketlake.storage import dbt_project, objects

_MIGRATION_TIMEOUT_S = 180
_ASK_AGAIN_AFTER_S = 0.1
_OF_EVERY_TASK = (
    "airflow.dag_processing.bundles.local",
    "airflow.providers.standard.decorators.python",
    "airflow.sdk.definitions.decorators",
    "airflow.sdk.execution_time.task_runner",
    "airflow.sdk.execution_time.timeout",
    "marketlake.orchestration.assets",
    "marketlake.orchestration.lineage_events",
    "marketlake.orchestration.notifications",
    "marketlake.orchestration.retries",
    "marketlake.orchestration.style",
    "marketlake.orchestration.supervision",
    "marketlake.orchestration.tasks",
)
"""What Airflow and a DAG file import in every task's process: 0.05 CPU-s each time."""


def main() -> None:
    """Import what tasks inherit, wait for the database, become ``airflow scheduler``."""
    if current_settings().airflow.executor == "local":
        import_what_tasks_inherit()
    ask_again_if_an_exit_is_swallowed()
    become_airflow("scheduler")


def ask_again_if_an_exit_is_swallowed() -> None:
    """Make sure that one signal ends this process.

    Airflow's handler of SIGTERM raises SystemExit wherever the program happens to be. In a callback
    of the garbage collector, such as SQLAlchemy's, Python prints it and goes on.
    """
    own = os.getpid()
    print_it = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        print_it(unraisable)
        if unraisable.exc_type is SystemExit and os.getpid() == own:
            # Not from here: what is raised in a hook is swallowed too.
            Timer(_ASK_AGAIN_AFTER_S, os.kill, (own, signal.SIGTERM)).start()

    sys.unraisablehook = hook


def import_what_tasks_inherit() -> None:
    """Do once, in the process that forks the tasks, what is slow and survives a fork."""
    from marketlake.pipelines.context import loaded_code_hash

    settings = current_settings()
    for module in (*PRELOADED, *_OF_EVERY_TASK):
        importlib.import_module(module)
    # dbt generates code at first use: 3 CPU-s that every build would pay.
    dbt_project.warm(settings)
    # A task that imported the pipelines itself would pay 0.1 CPU-s, one that fetches 0.4.
    for found in pkgutil.iter_modules(pipelines.__path__):
        importlib.import_module(f"{pipelines.__name__}.{found.name}")
    loaded_code_hash()
    # Building the calendar costs 0.6 CPU-s; every task inherits it instead of paying that again.
    Calendar.of(settings.market.calendar).is_session(settings.market.first_session)
    objects.make_ready(settings.lake)


def become_airflow(*command: str) -> None:
    """Wait for the database's migration, then run an ``airflow`` command with our arguments."""
    from airflow.__main__ import main as airflow
    from airflow.utils.db import check_migrations

    check_migrations(_MIGRATION_TIMEOUT_S)
    sys.argv = ["airflow", *command, *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
