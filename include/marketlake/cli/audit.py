"""``marketlake audit``: verify the ledger, export it, and hand over what verifies it elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from marketlake.cli.queries import Json
from marketlake.settings import load_settings

app = typer.Typer(help="Questions to the ledger.", no_args_is_help=True)
UNPINNED = (
    "signatures were NOT checked against a key of yours, so whoever owns the database may have "
    "made all of it. Pin the key that `marketlake audit key` prints where the ledger runs: with "
    "MARKETLAKE_LEDGER__PUBLIC_KEY, or --public-key from your own safe"
)
NewFile = Annotated[Path, typer.Argument(help="The file to write.", dir_okay=False)]


def register(application: typer.Typer) -> None:
    """Add these commands to the application."""
    application.add_typer(app, name="audit")


@app.command()
def verify(
    public_key: Annotated[
        str | None,
        typer.Option(help="The key from your own safe. Default: the one of the settings."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute the whole ledger, and hold it against every signed checkpoint in the database, in
    the checkpoint file and in the locked bucket; exit 1 if anything differs, 3 if nothing does but
    no key is pinned.
    """
    from marketlake.storage.checkpoints import verify_ledger

    settings = load_settings()
    found = verify_ledger(settings, public_key=public_key)
    is_pinned = found.public_key is not None
    if as_json:
        typer.echo(json.dumps(vars(found) | {"ok": found.ok and is_pinned}, indent=2))
    else:
        verdict = "verified" if is_pinned else "agrees with itself, NOT VERIFIED"
        typer.echo(f"{verdict if found.ok else 'NOT VERIFIED'}: {found.size:,} entries")
        typer.echo(f"root {found.root_hash}")
        typer.echo(f"signed by {found.public_key}" if is_pinned else UNPINNED)
        typer.echo(
            f"held against {found.kept_in_file:,} checkpoints in {settings.checkpoint_file} and "
            f"{found.kept_in_bucket:,} in s3://{settings.lake.worm_bucket}"
        )
        for fault in found.faults:
            typer.echo(f"  {fault}")
    if not (found.ok and is_pinned):
        raise typer.Exit(3 if found.ok else 1)


@app.command()
def export(file: NewFile) -> None:
    """Write the whole ledger with its checkpoints into one SQLite file."""
    from marketlake.storage.ledger import LedgerClient

    ledger = load_settings().ledger
    count = LedgerClient(ledger).export(
        file, origin=ledger.origin, public_key=ledger.public_key or ""
    )
    typer.echo(f"{count:,} entries in {file}; verify them with `marketlake audit verifier`")


@app.command()
def verifier(file: NewFile = Path("verify_ledger.pyz")) -> None:
    """Write the verifier as one file, which needs Python and `cryptography` only."""
    from marketlake.storage.verifier_file import write_verifier

    write_verifier(file)
    key = load_settings().ledger.public_key or "KEY"
    typer.echo(f"python {file} EXPORT --public-key '{key}'")


@app.command()
def key() -> None:
    """Print the public key of the checkpoints; keep it where nobody here can write."""
    from marketlake.errors import ConfigError
    from marketlake.services.signing_key import public_key

    settings = load_settings()
    if settings.ledger.public_key is None and not settings.signing_key_file.exists():
        raise ConfigError(
            expected="a pinned public key, or the private one beside its appender",
            was="neither",
            where="MARKETLAKE_LEDGER__PUBLIC_KEY",
            todo="run this where the ledger runs, or set it to the key in the appender's log",
        )
    typer.echo(settings.ledger.public_key or public_key(settings))
