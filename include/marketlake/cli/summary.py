"""The end of ``marketlake run``: what ran, what came out, what may be trusted, for a person.

What does not belong: finding it out (``readmodels.summary``).
"""

from __future__ import annotations

import shlex
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marketlake.cli.audit import UNPINNED
from marketlake.cli.queries import console, signal_cells
from marketlake.settings import PROJECT_ROOT, Settings

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

_UNITS = {"_pct": " %", "_usd": " USD"}
_PAGES = {
    "daily report": "/marketlake/reports/",
    "data integrity": "/marketlake/integrity/",
    "training": "/marketlake/training/",
    "data quality": "/marketlake/docs/quality/",
    "warehouse docs": "/marketlake/docs/dbt/",
}


def print_summary(settings: Settings, seconds: float) -> None:
    """Print the day's summary, then where to look next; ``seconds`` is what the command took."""
    from marketlake.readmodels.summary import daily_summary
    from marketlake.services.platform.airflow import password_file
    from marketlake.services.platform.airflow_api import AirflowApi

    with AirflowApi(settings.airflow) as api:
        summary = daily_summary(settings, runs=api.runs())
    password = settings.airflow.password.get_secret_value()
    login = f"user {settings.airflow.user}, password {password} (also in {password_file(settings)})"
    shown = console()
    shown.print(render(summary, login=login))
    shown.print(f"\ndone in {seconds:.0f} s; the platform stays up until `make stop`")


def render(summary: Mapping[str, Any], *, login: str) -> Group:
    """Return the summary as something rich can print."""
    from rich.console import Group

    parts = (
        ("DAG runs", _runs(summary["runs"], summary["sessions"])),
        (f"Artifacts of {summary['session']}", _artifacts(summary["artifacts"])),
        (f"Strongest signals of {summary['session']}", _signals(summary["signals"])),
        ("Risk of the reference book", _risk(summary["risk"])),
        ("Gates", _gates(summary["gates"])),
        ("Faults planted in the vendors' data", _faults(summary["planted_faults"])),
        ("Ledger", _ledger(summary["ledger"])),
        ("Kept", summary["keeping"]),
        ("Look", _look(summary, login)),
        ("What to try next", _try_next(summary["try_next"])),
    )
    lines: list[Any] = []
    for title, content in parts:
        lines += [f"\n[bold]{title}[/]", content]
    return Group(*lines)


def _grid(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", show_header=any(columns))
    for column in columns:
        table.add_column(
            column.lstrip(">"),
            justify="right" if column.startswith(">") else "left",
            overflow="fold",
        )
    return table


def _runs(runs: Sequence[Mapping[str, Any]], sessions: Sequence[str]) -> Table:
    """One row a DAG, one column a session; runs on demand have no session."""
    newest = {(run["dag_id"], run["partition_key"]): run for run in runs}
    on_demand = any(run["partition_key"] is None for run in runs)
    keys: list[str | None] = [*sessions, *([None] if on_demand else [])]
    table = _grid("DAG", *(f">{key or 'on demand'}" for key in keys))
    for dag_id in dict.fromkeys(run["dag_id"] for run in runs):
        table.add_row(dag_id, *(_run_cell(newest.get((dag_id, key))) for key in keys))
    return table


def _run_cell(run: Mapping[str, Any] | None) -> str:
    if run is None:
        return ""
    if run["state"] != "success" or run["seconds"] is None:
        return f"[red]{run['state']}[/]" if run["state"] == "failed" else str(run["state"])
    return f"{run['seconds']:.1f} s"


def _artifacts(artifacts: Sequence[Mapping[str, Any]]) -> Table:
    table = _grid("URI", ">rows", "SHA-256")
    for item in artifacts:
        table.add_row(item["export_uri"] or item["uri"], f"{item['rows']:,}", item["sha256"][:12])
    return table


def _signals(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = _grid(
        ">#", "symbol", "side", ">score", ">hit rate, 95 %", ">n", ">base rate", ">P(right)", " "
    )
    for row in rows:
        table.add_row(*signal_cells(row))
    return table


def _risk(measures: Sequence[Mapping[str, Any]]) -> Table:
    table = _grid("measure", ">value", ">n")
    for row in measures:
        unit = next(
            (text for suffix, text in _UNITS.items() if row["measure"].endswith(suffix)), ""
        )
        table.add_row(row["measure"], f"{row['value']:,.2f}{unit}", str(row["n"]))
    return table


def _gates(gates: Sequence[Mapping[str, Any]]) -> Table:
    table = _grid(
        "session", "verdict", ">sources", ">their rows quarantined", ">bars", ">quarantined"
    )
    for gate in gates:
        tone = "green" if gate["verdict"] == "passed" else "red"
        table.add_row(
            gate["session"],
            f"[{tone}]{gate['verdict']}[/]",
            f"{gate['sources_answered']} of {gate['sources']}",
            str(gate["source_rows_quarantined"]),
            str(gate["rows_in"]),
            str(gate["rows_quarantined"]),
        )
    return table


def _faults(faults: Sequence[Mapping[str, Any]]) -> Table | str:
    if not faults:
        return "none in these sessions"
    table = _grid("session", "symbol", "source", "fault", "found by")
    for fault in faults:
        found = "; ".join(fault["found_by"]) or "[red]NOT FOUND[/]"
        table.add_row(fault["session"], fault["symbol"], fault["vendor"], fault["story"], found)
    return table


def _ledger(ledger: Mapping[str, Any]) -> str:
    key = ledger["public_key"]
    verdict = "[green]verified[/]" if ledger["ok"] and key else "[red]NOT VERIFIED[/]"
    faults = "".join(f"\n  {fault}" for fault in ledger["faults"])
    kept = f"signed by {key}: keep this key where nobody here can write"
    signed = f"\n{kept if key else UNPINNED}"
    return f"{verdict}: {ledger['size']:,} entries, root {ledger['root_hash']}{signed}{faults}"


def _look(summary: Mapping[str, Any], login: str) -> Table:
    table = _grid("", "")
    table.add_row("Airflow UI", f"{summary['ui']['url']}  {login}")
    for name, place in _PAGES.items():
        table.add_row(name, f"{summary['ui']['url']}{place}")
    table.add_row("report file", summary["ui"]["report_export"])
    return table


def _try_next(items: Sequence[Mapping[str, Any]]) -> Table:
    """Commands that can be pasted as they stand: ours is on nobody's PATH."""
    table = _grid("", "")
    table.columns[0].no_wrap = True
    table.add_row(f"[cyan]cd {shlex.quote(str(PROJECT_ROOT))}[/]", "")
    for item in items:
        table.add_row(f"[cyan]{_pasteable(item['command'])}[/]", item["shows"])
    return table


def _pasteable(command: str) -> str:
    """Return the command as it is typed in the repository's folder."""
    program, *rest = shlex.split(command)
    if program != "marketlake":
        return command
    installed = Path(sysconfig.get_path("scripts")) / program
    if installed.is_relative_to(PROJECT_ROOT):
        installed = installed.relative_to(PROJECT_ROOT)
    return shlex.join([str(installed), *rest])
