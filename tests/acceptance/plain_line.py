"""The daily line of some sessions as one plain Python process; the last line printed is JSON.

What an orchestrated task inherits ready-made from the scheduler (imports, dbt's own classes, the
calendar) counts as start-up here, so that the work alone can be compared.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from datetime import date


def cpu_s() -> float:
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def main(run_id: str, *sessions: str) -> None:
    for module in ("great_expectations.expectations", "dbt.cli.main", "dbt.adapters.postgres"):
        importlib.import_module(module)
    from marketlake.calendars import Calendar
    from marketlake.pipelines import daily_line
    from marketlake.settings import current_settings
    from marketlake.storage import dbt_project

    settings = current_settings()
    dbt_project.warm(settings)
    Calendar.of(settings.market.calendar).is_session(settings.market.first_session)
    started_s, began_s = cpu_s(), time.monotonic()
    for session in sessions:
        daily_line.run_session(settings, date.fromisoformat(session), run_id=run_id)
    figures = {
        "start_up_cpu_s": started_s,
        "work_cpu_s": cpu_s() - started_s,
        "work_wall_s": time.monotonic() - began_s,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(*sys.argv[1:])
