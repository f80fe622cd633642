"""``marketlake replay`` and ``marketlake snapshots``: look at what was recorded, do it again."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketlake.cli.queries import Artifact, Json, Session, print_rows
from marketlake.errors import ConfigError
from marketlake.settings import Settings, load_settings

if TYPE_CHECKING:
    from marketlake.pipelines.replay import Replay
    from marketlake.storage.lake import Lake
    from marketlake.storage.snapshots import Snapshots

_HASH_SHOWN = 12

Run = Annotated[str | None, typer.Option("--run", help="DAG/RUN, or one task: DAG/RUN/TASK.")]

snapshots = typer.Typer(
    help="What each step saw and made: list, show, restore, and the lake of an earlier time.",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(replay)
    app.add_typer(snapshots, name="snapshots")


def replay(
    signal: Annotated[
        str | None,
        typer.Argument(metavar="[SIGNAL]", help="2022-12-28/KO, or KO for its newest session."),
    ] = None,
    run: Run = None,
    every_session: Annotated[
        bool,
        typer.Option(
            "--every-session",
            help="Also steps of other sessions, training among them, not only what they published.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rebuild a signal, or any recorded step, and compare every byte; exit 1 if one differs."""
    from marketlake.pipelines.replay import Replayer
    from marketlake.readmodels import signals as queries

    settings = load_settings()
    found: dict[str, Any] | None = None
    if run is not None and signal is None:
        done = Replayer(settings).run(*_run_parts(run))
    elif signal is not None and run is None:
        lake = _lake(settings)
        wanted = (
            queries.SignalId.parse(signal)
            if "/" in signal
            else queries.SignalId(queries.newest_session(lake), signal)
        )
        found = queries.signal(lake, wanted)
        done = Replayer(settings).signals(wanted.session, every_session=every_session)
    else:
        raise ConfigError(
            expected="a signal or --run",
            was="neither" if run is None else "both",
            where="marketlake replay",
            todo="marketlake replay 2022-12-28/KO, or marketlake replay --run DAG/RUN",
        )
    if as_json:
        typer.echo(_json({"signal": found, **done.as_json()}))
    else:
        _print(done, found)
    if not done.identical:
        raise typer.Exit(1)


def _print(done: Replay, signal: dict[str, Any] | None) -> None:
    rows = [
        {
            "step": step.step,
            "artifact": item.artifact,
            "recorded": (item.recorded_sha256 or "-")[:_HASH_SHOWN],
            "replayed": (item.replayed_sha256 or "-")[:_HASH_SHOWN],
            "equal": "yes" if item.equal else "a record" if item.record else "NO",
        }
        for step in done.steps
        for item in step.outputs
    ]
    title = "replay" if signal is None else f"replay of the signal {_said(signal)}"
    print_rows(
        rows,
        as_json=False,
        title=title,
        columns=("step", "artifact", "recorded", "replayed", "equal"),
    )
    for step in done.steps:
        if step.skipped or step.fault:
            typer.echo(
                f"{step.task}: {'FAILED, ' if step.fault else ''}{step.fault or step.skipped}"
            )
    for note in done.notes:
        typer.echo(f"note: {note}")
    compared = [item for step in done.steps for item in step.outputs if not item.record]
    different = sum(not item.equal for item in compared)
    failed = sum(step.fault is not None for step in done.steps)
    verdict = "identical bytes" if done.identical else f"{different} DIFFERENT, {failed} FAILED"
    if not compared and not failed:
        verdict = "nothing to compare"
    run = sum(not step.skipped for step in done.steps)
    typer.echo(f"{len(compared)} outputs of {run} steps: {verdict}")


def _said(signal: dict[str, Any]) -> str:
    return (
        f"{signal['session']}/{signal['symbol']}: {signal['side']}, "
        f"{signal['score_bps']:+.1f} bps, rank {signal['rank']}"
    )


@snapshots.command("list")
def list_snapshots(
    run: Run = None,
    session: Session = None,
    artifact: Annotated[
        str | None,
        typer.Option(help="Those of the run that published it: CONTRACT, CONTRACT/2022-12-28."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many, the newest last.")] = 40,
    as_json: Json = False,
) -> None:
    """List snapshots, with the bytes each takes and what a copy of its state would take."""
    from marketlake.readmodels import published

    store = _snapshots(load_settings())
    dag_id, run_id, task_id = (None, None, None) if run is None else _run_parts(run)
    if artifact is not None:
        lake = _lake(load_settings())
        made_by = lake.manifest(*published.resolve(lake, artifact)).run
        dag_id, run_id = made_by.dag_id, made_by.run_id
    entries = [
        entry
        for entry in store.entries(dag_id, run_id)
        if (task_id is None or entry.run.task_id == task_id)
        and (session is None or entry.session == session.date().isoformat())
    ]
    rows = [
        {
            "name": entry.name.removeprefix("snapshots/"),
            "step": entry.step.removeprefix("marketlake.pipelines."),
            "session": entry.session,
            "moment": entry.moment,
            "objects": entry.n_objects,
            "bytes": entry.bytes,
            "copied_bytes": entry.referenced_bytes,
            "run": f"{entry.run.dag_id}/{entry.run.run_id}/{entry.run.task_id}",
            "error": entry.error,
            "sha256": entry.sha256,
        }
        for entry in entries[-n:]
    ]
    own = sum(entry.bytes for entry in entries[-n:])
    copied = sum(entry.referenced_bytes for entry in entries[-n:])
    print_rows(
        rows,
        as_json=as_json,
        title=f"{len(rows)} of {len(entries)} snapshots",
        columns=("name", "step", "session", "moment", "objects", "bytes", "copied_bytes", "run"),
    )
    if not as_json and rows:
        typer.echo(
            f"{own / len(rows):,.0f} bytes a step; copies of what was read and written would take "
            f"{copied / len(rows):,.0f}, {copied / own:.0f} times as much"
        )


@snapshots.command()
def show(name: Annotated[str, typer.Argument(help="A name of `snapshots list`.")]) -> None:
    """Print a snapshot as JSON, from the archive if it lies there."""
    from marketlake.storage.snapshots import FOLDER

    body = _snapshots(load_settings()).body(FOLDER + name.removeprefix(FOLDER))
    typer.echo(_json(json.loads(body)))


@snapshots.command()
def restore(
    month: Annotated[str, typer.Argument(metavar="MONTH", help="YYYYMM of their recording.")],
) -> None:
    """Put a month's archived snapshots back under their names; the archive stays."""
    restored = _snapshots(load_settings()).restore(month)
    typer.echo(f"{len(restored)} snapshots of {month} restored")


@snapshots.command("as-of")
def as_of(
    recorded_at: Annotated[
        datetime,
        typer.Argument(
            metavar="INSTANT",
            formats=["%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M%z"],
            help="2026-11-23T09:00:00Z or with another zone.",
        ),
    ],
    artifact: Artifact,
    as_json: Json = False,
) -> None:
    """Show an artifact as it was published at an instant, whatever was published since."""
    from marketlake.readmodels import published

    lake = _lake(load_settings()).as_of(recorded_at)
    contract, partition = published.resolve(lake, artifact)
    manifest = lake.manifest(contract, partition)
    content = lake.read_ref(manifest.ref(lake.bucket))
    rows = content if isinstance(content, dict) else content.to_pylist()
    if as_json or isinstance(rows, dict):
        typer.echo(_json({"artifact": manifest.ref(lake.bucket).as_json(), "content": rows}))
        return
    print_rows(
        rows,
        as_json=False,
        title=f"{contract.name} {partition.key}, published {manifest.recorded_at_utc}",
        columns=[field.name for field in contract.fields],
    )
    typer.echo(f"sha256 {manifest.sha256}")


def _run_parts(text: str) -> tuple[str, str, str | None]:
    parts = text.split("/")
    if len(parts) not in {2, 3} or not all(parts):
        raise ConfigError(
            expected="DAG/RUN or DAG/RUN/TASK",
            was=text,
            where="--run",
            todo="`marketlake snapshots list` shows the runs",
        )
    return parts[0], parts[1], parts[2] if len(parts) == 3 else None


def _lake(settings: Settings) -> Lake:
    from marketlake.storage.lake import Lake

    return Lake(settings.lake)


def _snapshots(settings: Settings) -> Snapshots:
    from marketlake.storage.ledger import LedgerClient
    from marketlake.storage.snapshots import Snapshots

    return Snapshots(_lake(settings), LedgerClient(settings.ledger))


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
