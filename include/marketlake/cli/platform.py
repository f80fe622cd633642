"""Commands about the platform itself: up, down, status, logs, doctor, clean, airflow."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketlake.settings import load_settings

if TYPE_CHECKING:
    from marketlake.services.platform.stack import ComponentStatus, Platform, StepDone

_STORES = ("seaweedfs",)
_STATUS_TIMEOUT_S = 2.0
_DAYS_NAMED = 5

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (up, down, status, logs, doctor, clean, component):
        app.command()(command)
    app.command(
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
        add_help_option=False,
    )(airflow)


def up() -> None:
    """Start what does not run yet, and wait until all of it is ready."""
    started = start_platform()
    typer.echo(f"UI {started.settings.airflow.base_url}  ({login_hint(started)})")


def start_platform() -> Platform:
    """Bring the platform up, one printed line a step."""
    from marketlake.services.platform.stack import Platform

    platform = Platform.at()
    platform.up(_print_step)
    return platform


def login_hint(platform: Platform) -> str:
    """Return the user and the password's place; the password itself stays in its file."""
    from marketlake.services.platform.airflow import password_file

    return f"user {platform.settings.airflow.user}, password in {password_file(platform.settings)}"


def down() -> None:
    """Stop everything; the data stays."""
    stopped = _existing().down(_print_step)
    typer.echo(f"stopped {len(stopped)} components" if stopped else "nothing was running")


def status(as_json: Json = False) -> None:
    """Show each component, and which due sessions are missing; exit 1 unless all are ready."""
    platform = _existing()
    found = platform.status()
    ready = all(component.state == "ready" for component in found)
    sessions = _sessions_document(platform, found)
    if as_json:
        document = _status_document(platform, found)
        typer.echo(json.dumps({**document, "sessions": sessions}, indent=2))
    else:
        for component in found:
            pid = f"pid {component.pid}" if component.pid else ""
            fault = "" if component.state == "ready" else f"  {component.fault}"
            typer.echo(f"{component.name:<14} {component.state:<8} {pid:<12}{fault}")
        typer.echo(f"UI {platform.settings.airflow.base_url}  ({login_hint(platform)})")
        typer.echo(f"state and logs in {platform.settings.home}")
        typer.echo("\n".join(_session_lines(sessions)))
    if not ready:
        raise typer.Exit(1)


def logs(
    component: Annotated[
        str | None, typer.Argument(help="Which one; without it, the end of every log.")
    ] = None,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="How many lines.")] = 40,
) -> None:
    """Print the end of a component's log."""
    from marketlake.errors import NotFound

    folder = load_settings().home / "logs"
    present = {path.stem: path for path in sorted(folder.glob("*.log"))}
    if component is not None and component not in present:
        raise NotFound(
            expected=f"one of {', '.join(present) or 'no logs yet'}",
            was=component,
            where=str(folder),
            todo="`marketlake status` names the components",
        )
    for name, path in present.items():
        if component in (None, name):
            typer.echo(f"==> {path}")
            typer.echo("\n".join(path.read_text(errors="replace").splitlines()[-lines:]))


def clean(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Stop everything and delete the state folder: lake, databases, ledger, logs."""
    platform = _existing()
    home = platform.settings.home
    if not home.exists():
        typer.echo(f"nothing in {home}")
        return
    if not yes:
        typer.confirm(f"Delete {home} with everything in it?", abort=True)
    platform.clean()
    typer.echo(f"deleted {home}")


def component(
    name: Annotated[str, typer.Argument(help="Which one: init, scheduler, worker, ...")],
    probe: Annotated[
        bool, typer.Option("--probe", help="Only ask it: exit 1 unless it is ready.")
    ] = False,
) -> None:
    """Run one component in the foreground, as docker-compose.yml does in containers."""
    from marketlake.services.platform import foreground

    if not probe:
        foreground.run(name, load_settings())
    elif fault := foreground.fault_of(name, load_settings()):
        typer.echo(fault)
        raise typer.Exit(1)


def airflow(context: typer.Context) -> None:
    """Run any `airflow` command in the platform's environment."""
    from marketlake.services.platform.airflow import airflow_environment

    argv = [sys.executable, "-m", "airflow", *context.args]
    os.execve(sys.executable, argv, airflow_environment(load_settings()))  # noqa: S606 - no shell


def doctor(as_json: Json = False) -> None:
    """Say what is wrong with this machine or setup; exit 1 if something is."""
    from marketlake.services.platform.checkup import examine

    findings = examine(load_settings().home)
    if as_json:
        typer.echo(json.dumps([finding.__dict__ for finding in findings], indent=2))
    else:
        for finding in findings:
            todo = f"\n{'':9}{finding.todo}" if finding.todo else ""
            typer.echo(f"{finding.verdict:<8} {finding.subject}: {finding.found}{todo}")
    if any(finding.verdict == "wrong" for finding in findings):
        raise typer.Exit(1)


def _existing() -> Platform:
    from marketlake.services.platform.stack import Platform

    return Platform.at(load_settings().home)


def _print_step(done: StepDone) -> None:
    typer.echo(f"{done.name:<14} {done.outcome:<10} {done.seconds:5.1f} s")


def _status_document(platform: Platform, found: list[ComponentStatus]) -> dict[str, Any]:
    from marketlake.services.platform.airflow import password_file

    settings = platform.settings
    return {
        "home": str(settings.home),
        "mode": settings.mode,
        "ready": all(component.state == "ready" for component in found),
        "ui_url": settings.airflow.base_url,
        "ui_user": settings.airflow.user,
        "ui_password_file": str(password_file(settings)),
        "s3_endpoint_url": settings.lake.endpoint_url,
        "bucket": settings.lake.bucket,
        "free_disk_bytes": shutil.disk_usage(_nearest(settings.home)).free,
        "components": [
            {
                "name": component.name,
                "state": component.state,
                "pid": component.pid,
                "since_utc": _utc(component.born_at_s),
                "fault": component.fault,
                "log": str(component.log),
            }
            for component in found
        ],
    }


def _sessions_document(platform: Platform, found: list[ComponentStatus]) -> dict[str, Any]:
    """Return how the due sessions stand, or why that is not known."""
    down = [one.name for one in found if one.name in _STORES and one.state != "ready"]
    if down:
        return {"unknown": f"{', '.join(down)} does not answer"}
    # These imports cost most of a second, so only a running store pays for them.
    from marketlake.clock import utc_now
    from marketlake.errors import MarketlakeError
    from marketlake.readmodels.due import due_sessions
    from marketlake.storage.lake import Lake

    settings = platform.settings
    lake = settings.lake.model_copy(
        update={"timeout_s": min(_STATUS_TIMEOUT_S, settings.lake.timeout_s)}
    )
    try:
        stand = due_sessions(Lake(lake), settings.market, now=utc_now())
    except MarketlakeError as error:
        return {"unknown": f"{type(error).__name__}: {error.was}, {error.where}"}
    return {"reported": 0, "commands": []} if stand is None else stand.as_json()


def _session_lines(sessions: dict[str, Any]) -> list[str]:
    if "unknown" in sessions:
        return [f"sessions unknown: {sessions['unknown']}"]
    if not sessions["reported"]:
        return ["sessions: none has a report yet (`marketlake run` makes the first)"]
    told = [f"{sessions['reported']} reported"]
    for name in ("missing", "refused", "stale"):
        days = sessions[name]
        if days:
            more = f" and {len(days) - _DAYS_NAMED} more" if len(days) > _DAYS_NAMED else ""
            told.append(f"{len(days)} {name} ({', '.join(days[:_DAYS_NAMED])}{more})")
    span = f"sessions due {sessions['first']} to {sessions['last']}: "
    return [span + ", ".join(told), *(f"  {command}" for command in sessions["commands"])]


def _utc(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _nearest(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
