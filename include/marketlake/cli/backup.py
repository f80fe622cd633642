"""``marketlake backup`` and ``marketlake restore``: ledger and lake to a bucket, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from marketlake.cli.queries import Json
from marketlake.clock import monotonic_s, utc_now
from marketlake.settings import load_settings

_TOLD_EVERY_S = 2.0


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(backup)
    app.command()(restore)


def backup(as_json: Json = False) -> None:
    """Copy what is new of ledger and lake to the backup bucket; an index names everything.

    Not in it: the warehouse, which is built from the lake; signing key and master key, which belong
    into a safe; and the keys of sealed documents (sealed.document_key), on purpose: a backup never
    forgets, and a key in it would undo a shredding.
    """
    from marketlake.pipelines import back_up, export_audit
    from marketlake.pipelines.context import open_context
    from marketlake.types import RunIdentity

    run = RunIdentity("marketlake backup", utc_now().isoformat(), "back_up")
    with open_context(load_settings(), run) as ctx:
        export_audit.export_everything(ctx)
        done = back_up.back_up(ctx, on_progress=_teller("saved", quiet=as_json))
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    typer.echo(
        f"{done['objects']} object versions and {done['log']['size']} ledger entries in "
        f"{done['bucket']}; {done['copied']} objects ({done['copied_bytes']:,} bytes) were new"
    )
    typer.echo(f"index {done['index']}")
    if done["same_store"]:
        typer.echo(
            "the backup lies on the lake's own store: no protection against losing that store "
            "(MARKETLAKE_BACKUP__ENDPOINT_URL)"
        )


def restore(
    into: Annotated[
        str,
        typer.Option(
            help="Name of an empty or new lake bucket and ledger database to restore into."
        ),
    ],
    index: Annotated[str | None, typer.Option(help="Which backup; default: the newest.")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild ledger and lake from the backup in empty stores, and verify all of it.

    Sealed documents come back sealed: only the warehouse's database of before the loss has the keys
    that open them (sealed.document_key), which no backup holds.
    """
    from marketlake.pipelines import restore_backup

    done = restore_backup.restore(
        load_settings(),
        into=into,
        index=index,
        on_progress=_teller("restored", quiet=as_json),
    )
    if as_json:
        typer.echo(json.dumps(done, indent=2))
        return
    log: dict[str, Any] = done["log"]
    typer.echo(f"{done['objects']} object versions, each with its recorded hash")
    typer.echo(f"{log['size']} ledger entries verified, root {log['root_hash']}")
    typer.echo(
        f"what came after {done['made_at_utc']} is not in it; checkpoints kept elsewhere since "
        "then will say so"
    )
    typer.echo("to use them, run `marketlake down`, set these in .env, and `marketlake up`:")
    typer.echo(f"  MARKETLAKE_LAKE__BUCKET={into}")
    typer.echo(f"  MARKETLAKE_LAKE__WORM_BUCKET={into}-worm")
    typer.echo(f"  MARKETLAKE_POSTGRES__LEDGER_DB={into}")
    typer.echo(f"  MARKETLAKE_LEDGER__CHECKPOINT_FILE={done['checkpoint_file']}")


def _teller(verb: str, *, quiet: bool) -> Callable[[int, int], None]:
    told_at = monotonic_s()

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if not quiet and (done == total or monotonic_s() - told_at > _TOLD_EVERY_S):
            told_at = monotonic_s()
            typer.echo(f"{done} of {total} object versions {verb}", err=True)

    return tell
