"""The scheduler's process: the slow imports first, then Airflow's own scheduler.

A scheduler that imported them after it had begun to beat would miss its heartbeats and be taken for
dead. Before, they also run beside the database's migration. What does not belong here: anything the
scheduler does.
"""

from __future__ import annotations

import importlib
import sys

from marketlake.calendars import Calendar
from marketlake.orchestration.executor import PRELOADED
from marketlake.settings import current_settings
from marketlake.storage import dbt_project

_MIGRATION_TIMEOUT_S = 180


def main() -> None:
    """Import what tasks inherit, wait for the database, become ``airflow scheduler``."""
    for module in PRELOADED:
        importlib.import_module(module)
    # dbt generates code for its own classes at first use: 1.2 CPU-s that every build would pay.
    dbt_project.warm(current_settings())
    # Building the calendar costs 0.6 CPU-s; every task inherits it instead of paying that again.
    market = current_settings().market
    Calendar.of(market.calendar).is_session(market.first_session)
    from airflow.__main__ import main as airflow
    from airflow.utils.db import check_migrations

    check_migrations(_MIGRATION_TIMEOUT_S)
    sys.argv = ["airflow", "scheduler", *sys.argv[1:]]
    airflow()


if __name__ == "__main__":
    main()
