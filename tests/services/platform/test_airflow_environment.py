"""What Airflow is told besides ``airflow.cfg``, and how long a command waits for its tasks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from marketlake.orchestration.retries import TASK_DEFAULTS
from marketlake.services.platform.airflow import airflow_environment
from marketlake.services.platform.daily_runs import STILL_LIMIT_S
from marketlake.services.platform.runtime import prepare


def test_the_chosen_user_is_the_admin_of_airflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETLAKE_AIRFLOW__USER", "operator")
    settings = prepare(tmp_path, usual_ports=False)
    asked = subprocess.run(
        [sys.executable, "-c",
         "from airflow.configuration import conf; "
         "print(conf.get_mandatory_value('core', 'simple_auth_manager_users'))"],
        env=airflow_environment(settings),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )  # fmt: skip
    assert asked.stdout.splitlines()[-1] == "operator:admin"


def test_a_command_waits_longer_than_a_task_may_take() -> None:
    assert TASK_DEFAULTS["execution_timeout"].total_seconds() < STILL_LIMIT_S
