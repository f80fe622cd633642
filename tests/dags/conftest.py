"""Every DAG file, parsed once in an Airflow of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from marketlake.settings import PROJECT_ROOT

DAGS = PROJECT_ROOT / "dags"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to rewrite the snapshot: `pytest tests/dags --update-snapshot`."""
    parser.addoption("--update-snapshot", action="store_true", help="rewrite snapshot.json")


def parse(folder: Path, **settings: str) -> dict[str, Any]:
    """Return file name -> what parsing it gave (see ``describe_dags.py``)."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AIRFLOW", "MARKETLAKE_"))
    }
    answer = subprocess.run(
        [sys.executable, Path(__file__).with_name("describe_dags.py"), DAGS],
        env={
            **inherited,
            "AIRFLOW_HOME": str(folder),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
            "MARKETLAKE_HOME": str(folder),
            "MARKETLAKE_ENV_FILE": os.devnull,
            "PYTHONPATH": str(PROJECT_ROOT / "include"),
            **settings,
        },
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert answer.returncode == 0, answer.stderr
    described: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    return described


@pytest.fixture(scope="session")
def parsed_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return file name -> what parsing it gave, with the packaged market's settings."""
    return parse(tmp_path_factory.mktemp("airflow"))


@pytest.fixture(scope="session")
def dags(parsed_files: dict[str, Any]) -> dict[str, Any]:
    """Return DAG id -> description, over all files."""
    return {
        dag_id: dag for parsed in parsed_files.values() for dag_id, dag in parsed["dags"].items()
    }
