"""``marketlake shred``: forget a document about a person for good."""

from __future__ import annotations

from typing import Annotated

import typer

from marketlake.clock import utc_now
from marketlake.settings import load_settings


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    app.command()(shred)


def shred(
    document_id: Annotated[str, typer.Argument(help="The document's id.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the ledger.")],
) -> None:
    """Delete a document's key: its sealed text stays, and nobody can open it any more."""
    from marketlake.storage.ledger import LedgerClient, LedgerWriter
    from marketlake.storage.shredding import Documents
    from marketlake.types import RunIdentity

    settings = load_settings()
    run = RunIdentity("marketlake shred", utc_now().isoformat(), document_id)
    Documents(settings, LedgerWriter(LedgerClient(settings.ledger), run)).shred(
        document_id, reason=reason
    )
    typer.echo(
        f"{document_id} shredded; backups of the warehouse's database may still have its key"
    )
