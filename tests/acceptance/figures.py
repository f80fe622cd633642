"""Figures as a person reads them (a table) and as they are kept (JSON under ``docs/figures``)."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from marketlake.clock import utc_now
from marketlake.settings import PROJECT_ROOT
from rich.console import Console
from rich.table import Table

FOLDER = PROJECT_ROOT / "docs" / "figures"
console = Console(width=None if Console().is_terminal else 140, highlight=False)


def say(text: str) -> None:
    """Print one line of progress with the time of day."""
    console.print(f"[dim]{utc_now():%H:%M:%S}[/] {text}")


def circumstances() -> dict[str, Any]:
    """Return when and where: nothing that names the machine."""
    return {
        "date_utc": utc_now().isoformat(timespec="seconds"),
        "machine": {
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        },
        "load_average_before": [round(value, 2) for value in os.getloadavg()],
        "commit": _commit(),
    }


def keep(name: str, document: Mapping[str, Any], folder: Path = FOLDER) -> None:
    """Write one document of figures."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(_rounded(document), indent=2) + "\n")
    say(f"wrote {file}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows; numbers to the right."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        is_number = any(isinstance(row[number], int | float) for row in rows)
        drawn.add_column(column, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(f"{item:.2f}" if isinstance(item, float) else str(item) for item in row))
    console.print(drawn)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "--no-optional-locks", *words],
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    except (subprocess.CalledProcessError, FileNotFoundError):
        return "unknown"
