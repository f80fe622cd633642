"""``marketlake repair``: look at what could be repaired, apply it, take it back."""

from __future__ import annotations

import getpass
from collections.abc import Sequence
from datetime import date, datetime
from typing import Annotated, Any, Literal

import typer

from marketlake.cli.queries import Json, Session, print_rows
from marketlake.errors import ConfigError
from marketlake.settings import Settings, load_settings

Proposal = Annotated[str, typer.Argument(help="Name of a proposal, from `repair list`.")]
EverySession = Annotated[
    bool, typer.Option("--every-session", help="At every session that has this proposal.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stays in the ledger.")]
By = Annotated[
    str | None, typer.Option("--by", help="Who decides. Default: the operating system's user.")
]

repair = typer.Typer(
    help="Proposed repairs of the sources' bars: look, apply, take back. Raw data never changes.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.add_typer(repair, name="repair")


@repair.command("list")
def list_repairs(
    first: Annotated[
        datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First session.")
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last session.")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the proposals of each session, and which of them are in force."""
    from marketlake.readmodels import repairs
    from marketlake.storage.lake import Lake

    found = repairs.cells(
        Lake(load_settings().lake),
        first=first.date() if first else None,
        last=last.date() if last else None,
    )
    rows = repairs.proposals(found)
    print_rows(
        rows,
        as_json=as_json,
        title=f"{len(rows)} proposals, {sum(row['state'] == 'in force' for row in rows)} in force",
        columns=("session", "proposal", "state", "cells", "confidence", "evidence", "applied_by"),
    )


@repair.command()
def show(proposal: Proposal, session: Session = None, as_json: Json = False) -> None:
    """Show a proposal cell by cell: what came, what it would be, why, and who applied it."""
    rows = _cells_of(load_settings(), proposal, session.date() if session else None)
    in_force = [row for row in rows if row["applied_by"] is not None]
    print_rows(
        rows,
        as_json=as_json,
        title=f"{proposal}  {'in force' if in_force else 'proposed'}",
        columns=("session", "symbol", "source", "field", "before", "after", "confidence"),
    )
    if as_json:
        return
    for evidence in dict.fromkeys(row["evidence"] for row in rows):
        typer.echo(f"evidence: {evidence}")
    for session_, by, reason in dict.fromkeys(
        (row["session"], row["applied_by"], row["reason"]) for row in in_force
    ):
        typer.echo(f"{session_}: applied by {by}: {reason}")


@repair.command()
def apply(
    proposal: Proposal,
    reason: Reason,
    session: Session = None,
    every_session: EverySession = False,
    by: By = None,
) -> None:
    """Put a proposal in force, then say how to redo what it changes."""
    _decide("apply", proposal, session, every_session=every_session, by=by, reason=reason)


@repair.command()
def revert(
    proposal: Proposal,
    reason: Reason,
    session: Session = None,
    every_session: EverySession = False,
    by: By = None,
) -> None:
    """Take a repair back, then say how to redo what it had changed."""
    _decide("revert", proposal, session, every_session=every_session, by=by, reason=reason)


def _decide(
    command: Literal["apply", "revert"],
    proposal: str,
    session: datetime | None,
    *,
    every_session: bool,
    by: str | None,
    reason: str,
) -> None:
    from marketlake.clock import utc_now
    from marketlake.pipelines import repairs
    from marketlake.pipelines.context import open_context
    from marketlake.types import RunIdentity

    if session is not None and every_session:
        raise typer.BadParameter("--session does not go with --every-session")
    settings = load_settings()
    chosen = (
        [session.date()]
        if session is not None
        else _sessions_of(settings, proposal, command, every_session=every_session)
    )
    decide, done = (
        (repairs.apply, "applied") if command == "apply" else (repairs.revert, "taken back")
    )
    who = by or getpass.getuser()
    run = RunIdentity("marketlake repair", f"{command} {utc_now().isoformat()}", proposal)
    with open_context(settings, run) as ctx:
        for day in chosen:
            ref = decide(ctx, day, proposal=proposal, applied_by=who, reason=reason)
            typer.echo(f"{day} {proposal}  {done}; {ref.rows} cells in force")
    _print_redo(settings, chosen)


def _sessions_of(
    settings: Settings, proposal: str, command: str, *, every_session: bool
) -> list[date]:
    """Return the sessions that a command means; several only where they were asked for."""
    rows = _cells_of(settings, proposal, None)
    open_to = [row for row in rows if (row["applied_by"] is None) == (command == "apply")]
    # With none left, the command itself says what is in force already, or is not.
    sessions = sorted({row["session"] for row in open_to or rows})
    if len(sessions) > 1 and not every_session:
        raise ConfigError(
            expected="one session, or --every-session",
            was=f"{len(sessions)} sessions with {proposal}, {sessions[0]} to {sessions[-1]}",
            where=f"marketlake repair {command}",
            todo=f"add --session {sessions[0]}, or --every-session",
        )
    return sessions


def _cells_of(settings: Settings, proposal: str, session: date | None) -> list[dict[str, Any]]:
    from marketlake.pipelines.repairs import unknown_proposal
    from marketlake.readmodels import repairs
    from marketlake.storage.lake import Lake

    found = repairs.cells(Lake(settings.lake), first=session, last=session)
    rows = [row for row in found if row["proposal"] == proposal]
    if not rows:
        raise unknown_proposal(
            proposal, (row["proposal"] for row in found), where=str(session or "any session")
        )
    return rows


def _print_redo(settings: Settings, sessions: Sequence[date]) -> None:
    from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR
    from marketlake.storage.lake import Lake

    first, last = sessions[0], sessions[-1]
    newest = max([last, *Lake(settings.lake).published_sessions(CORE_MARKET_DAILY_BAR)])
    typer.echo("redo the session, then what was made from it:")
    typer.echo(f"  marketlake backfill --from {first} --to {last} --reprocess completed")
    typer.echo(f"  marketlake backfill --from {first} --to {newest} --stale")
