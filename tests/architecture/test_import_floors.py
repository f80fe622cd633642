"""Imports point down the floor plan, and an import that does not is caught."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from marketlake.settings import PROJECT_ROOT

LINTER = Path(sys.executable).with_name("lint-imports")


def lint(root: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LINTER, "--config", PROJECT_ROOT / "pyproject.toml", "--no-cache"],
        cwd=root,
        env={"PYTHONPATH": str(root / "include"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_imports_point_down_the_floor_plan():
    answer = lint(PROJECT_ROOT)

    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("floor", "line", "broken"),
    [
        ("contracts", "import marketlake.storage", "imports point down the floor plan"),
        ("domain", "from marketlake.clock import utc_now", "domain never stores"),
        ("pipelines", "from airflow.sdk import task", "only orchestration imports airflow"),
    ],
)
def test_an_import_that_points_up_is_caught(tmp_path, floor, line, broken):
    shutil.copytree(
        PROJECT_ROOT / "include", tmp_path / "include", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "include" / "marketlake" / floor / "planted.py").write_text(f"{line}\n")

    answer = lint(tmp_path)

    assert answer.returncode != 0
    assert any(
        row.startswith(broken) and row.endswith("BROKEN") for row in answer.stdout.splitlines()
    ), answer.stdout
