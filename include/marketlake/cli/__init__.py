"""The ``marketlake`` command.

Commands read settings, call one thing and print; what they call lives below. Heavy imports happen
inside the commands, so that ``--help`` answers at once.
"""

from __future__ import annotations

import sys

import typer

from marketlake.cli import (
    audit,
    backup,
    platform,
    queries,
    repairs,
    runs,
    sandbox,
    shredding,
    snapshots,
)
from marketlake.errors import ConfigError, MarketlakeError

app = typer.Typer(
    name="marketlake",
    help="An audited market-data and signal platform. `marketlake run` is the main job.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
platform.register(app)
runs.register(app)
queries.register(app)
audit.register(app)
repairs.register(app)
sandbox.register(app)
snapshots.register(app)
backup.register(app)
shredding.register(app)


def main() -> None:
    """Run the command line; an error of ours becomes its message and an exit code.

    Exit codes: 0 done, 1 something failed, 2 something must be set or called differently; 3, as
    the ledger's verifier has it, nothing is wrong but no key is pinned.
    """
    try:
        app()
    except MarketlakeError as error:
        print(_report(error), file=sys.stderr)
        sys.exit(2 if isinstance(error, ConfigError) else 1)


def _report(error: MarketlakeError) -> str:
    return (
        f"{type(error).__name__}\n"
        f"  expected: {error.expected}\n"
        f"  was:      {error.was}\n"
        f"  where:    {error.where}\n"
        f"  do:       {error.todo}"
    )
