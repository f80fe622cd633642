"""Commands that look: artifacts, show, signals, trace, audit, sql, contracts. None changes data."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from marketlake.settings import PROJECT_ROOT, Settings, load_settings

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.tree import Tree

    from marketlake.readmodels.lineage import TracedArtifact
    from marketlake.storage.lake import Lake

_PIPE_WIDTH = 200
_HASH_SHOWN = 12

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Session = Annotated[
    datetime | None,
    typer.Option("--session", formats=["%Y-%m-%d"], help="Exchange session, YYYY-MM-DD."),
]
Artifact = Annotated[
    str,
    typer.Argument(
        help="Contract name for its newest partition, CONTRACT/2022-12-28, CONTRACT/2021, or an "
        "s3:// URI."
    ),
]

audit = typer.Typer(help="Questions to the ledger.", no_args_is_help=True)
contracts = typer.Typer(help="The contracts and their renderings.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (artifacts, show, signals, trace):
        app.command()(command)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sql)
    app.add_typer(audit, name="audit")
    app.add_typer(contracts, name="contracts")


def artifacts(
    session: Session = None,
    spec: Annotated[
        bool, typer.Option("--spec", help="The 49 named files instead, built or not.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what has been published, with rows and content hashes."""
    from marketlake.readmodels import published

    lake = _lake(load_settings())
    if spec:
        files = [item.as_json() for item in published.spec_coverage(lake, _day(session))]
        print_rows(
            files,
            as_json=as_json,
            title=f"{sum(row['sha256'] is not None for row in files)} of {len(files)} named files",
            columns=("file", "section", "produced_by", "session", "rows", "sha256"),
        )
        return
    print_rows(
        [item.as_json() for item in published.artifacts(lake, _day(session))],
        as_json=as_json,
        title="published artifacts",
        columns=("contract", "partition", "rows", "sha256", "dag_id", "uri"),
    )


def show(
    artifact: Artifact,
    rows: Annotated[int, typer.Option("--rows", "-n", min=1, help="Rows of a table.")] = 20,
    save: Annotated[
        Path | None,
        typer.Option(help="Write the named file (report page, CSV, ...) here instead."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show an artifact's content and where it came from."""
    from marketlake.readmodels import published

    lake = _lake(load_settings())
    contract, partition = published.resolve(lake, artifact)
    if save is not None:
        save.write_bytes(published.export_bytes(lake, contract, partition))
        typer.echo(f"wrote {save}")
        return
    ref = lake.ref(contract, partition)
    content = lake.read_ref(ref)
    if isinstance(content, Mapping):
        typer.echo(_json({"artifact": ref.as_json(), "content": content}))
        return
    table = content.to_pylist()
    if as_json:
        typer.echo(_json({"artifact": ref.as_json(), "content": table}))
        return
    print_rows(
        table[:rows],
        as_json=False,
        title=f"{ref.uri}  {min(rows, len(table))} of {ref.rows} rows",
        columns=[field.name for field in contract.fields],
    )
    typer.echo(f"sha256 {ref.sha256}")


def signals(session: Session = None, as_json: Json = False) -> None:
    """Show a session's signals, best first, with the evidence behind each confidence."""
    from marketlake.readmodels import signals as queries

    rows = queries.signals(_lake(load_settings()), _day(session))
    if as_json:
        typer.echo(_json(rows))
        return
    console().print(_signal_table(rows, title=f"signals of {rows[0]['session']}"))
    typer.echo(
        "hit rate: out-of-fold share of scores this strong with the right sign, 95 % interval; "
        "before costs"
    )


def trace(artifact: Artifact, as_json: Json = False) -> None:
    """Walk from an artifact to the vendor's bytes; exit 1 if a link is broken."""
    from marketlake.readmodels import lineage, published
    from marketlake.storage.ledger import LedgerClient

    settings = load_settings()
    lake = _lake(settings)
    contract, partition = published.resolve(lake, artifact)
    tree = lineage.trace(
        lake, LedgerClient(settings.ledger), artifact=contract, partition=partition
    )
    walked = list(tree.walk())
    broken = [node for node in walked if node.ledger_index is None] + [
        node for node in walked if not all(answer.intact for answer in node.vendor_bytes)
    ]
    if as_json:
        typer.echo(_json(tree.as_json()))
    else:
        console().print(_tree(tree))
        answers = sum(len(node.vendor_bytes) for node in walked)
        distinct = len({(node.contract, node.partition, node.sha256) for node in walked})
        typer.echo(
            f"{distinct} artifacts, {answers} vendor answers, "
            f"{'every link proven in the ledger' if not broken else f'{len(broken)} BROKEN links'}"
        )
    if broken:
        raise typer.Exit(1)


@audit.callback()
def _audit() -> None:
    """Keep `audit` a group although it has one command so far."""


@audit.command()
def verify(as_json: Json = False) -> None:
    """Recompute the whole ledger from its entries; exit 1 if anything differs."""
    from marketlake.storage.ledger import LedgerClient

    found = LedgerClient(load_settings().ledger).verify()
    if as_json:
        typer.echo(_json(vars(found)))
    else:
        typer.echo(f"{'verified' if found.ok else 'NOT VERIFIED'}: {found.size} entries")
        typer.echo(f"root {found.root_hash}")
        for fault in found.faults:
            typer.echo(f"  {fault}")
    if not found.ok:
        raise typer.Exit(1)


def sql(
    context: typer.Context,
    command: Annotated[
        str | None, typer.Option("--command", "-c", help="Run this statement and exit.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Open psql on the warehouse; other options and arguments are psql's own."""
    from marketlake.errors import ConfigError
    from marketlake.services.platform.postgres import binary_folder
    from marketlake.storage.warehouse import Warehouse

    settings = load_settings().postgres
    if as_json:
        if command is None:
            raise ConfigError(
                expected="a statement with --json",
                was="none",
                where="marketlake sql --json",
                todo='marketlake sql --json -c "select 1"',
            )
        typer.echo(_json(Warehouse(settings).query(command)))
        return
    psql = binary_folder(settings) / "psql"
    if not psql.exists():
        raise ConfigError(
            expected="psql beside the server's binaries",
            was=f"none in {psql.parent}",
            where="MARKETLAKE_POSTGRES__BIN_DIR",
            todo="install the Postgres client there, or use `marketlake sql --json -c ...`",
        )
    # -X: a person's psqlrc must not change what a script prints.
    arguments = [str(psql), "-X", *(["-c", command] if command is not None else []), *context.args]
    environment = os.environ | {
        "PGHOST": settings.host,
        "PGPORT": str(settings.port),
        "PGUSER": settings.user,
        "PGDATABASE": settings.warehouse_db,
        "PGPASSWORD": settings.password.get_secret_value(),
        "PGCONNECT_TIMEOUT": str(settings.connect_timeout_s),
    }
    os.execve(psql, arguments, environment)  # noqa: S606 - no shell


@contracts.command()
def render() -> None:
    """Write every rendering of the contracts that differs from them."""
    from marketlake.contracts.render import write_all

    changed = write_all(PROJECT_ROOT)
    for path in changed:
        typer.echo(path.relative_to(PROJECT_ROOT).as_posix())
    typer.echo(f"{len(changed)} files changed")


@contracts.command()
def check(as_json: Json = False) -> None:
    """Compare the committed renderings with the contracts; exit 1 if one differs."""
    from marketlake.contracts.render import differences

    found = differences(PROJECT_ROOT)
    if as_json:
        typer.echo(_json(found))
    else:
        for line in found:
            typer.echo(line)
        typer.echo(
            "renderings agree with the contracts"
            if not found
            else f"{len(found)} differ: run `marketlake contracts render`"
        )
    if found:
        raise typer.Exit(1)


@contracts.command("list")
def list_contracts(as_json: Json = False) -> None:
    """List every contract: grain, owner, form, named file."""
    from marketlake.contracts.catalog import CATALOG

    print_rows(
        [
            {
                "contract": item.name,
                "grain": item.grain,
                "owner": item.owner,
                "form": item.form,
                "warehouse": item.warehouse,
                "file": item.export.pattern if item.export else None,
            }
            for item in CATALOG
        ],
        as_json=as_json,
        title=f"{len(CATALOG)} contracts",
        columns=("contract", "grain", "owner", "form", "warehouse", "file"),
    )


def _lake(settings: Settings) -> Lake:
    from marketlake.storage.lake import Lake

    return Lake(settings.lake)


def _day(session: datetime | None) -> date | None:
    return None if session is None else session.date()


def console() -> Console:
    """Return where tables go: the terminal as wide as it is, a pipe wide enough for all."""
    from rich.console import Console

    terminal = Console()
    # In a pipe nothing may be cut to a terminal's width.
    return terminal if terminal.is_terminal else Console(width=_PIPE_WIDTH)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=_json_value)


def _json_value(value: object) -> str | float:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def print_rows(
    rows: Iterable[Mapping[str, Any]], *, as_json: bool, title: str, columns: Sequence[str]
) -> None:
    """Print mappings as a JSON list, or some of their members as a table."""
    from rich.markup import escape
    from rich.table import Table

    listed = list(rows)
    if as_json:
        typer.echo(_json(listed))
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        is_number = any(isinstance(row[column], int | float) for row in listed)
        table.add_column(
            column, justify="right" if is_number else "left", overflow="fold", no_wrap=False
        )
    for row in listed:
        table.add_row(*(escape(_cell(column, row[column])) for column in columns))
    console().print(table)


def _cell(column: str, value: object) -> str:
    if value is None:
        return "-"
    if column == "sha256":
        return str(value)[:_HASH_SHOWN]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def signal_cells(row: Mapping[str, Any]) -> list[str]:
    """Return what a person reads of one signal: rank, symbol, side, score, hit rate, n, base."""
    return [
        str(row["rank"]),
        row["symbol"],
        row["side"],
        f"{row['score_bps']:+.1f} bps",
        f"{row['confidence']:.1%} [{row['confidence_low']:.1%}, {row['confidence_high']:.1%}]",
        f"{row['confidence_n']:,}",
        f"{row['base_rate']:.1%}",
        "simulated" if row["simulated"] else "",
    ]


def _signal_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("#", "symbol", "side", "score", "hit rate", "n", "base rate", ""):
        table.add_column(name, justify="left" if name in {"symbol", "side", ""} else "right")
    for row in rows:
        table.add_row(*signal_cells(row))
    return table


def _tree(node: TracedArtifact) -> Tree:
    from rich.markup import escape
    from rich.tree import Tree

    tree = Tree(_label(node))
    for parent in node.parents:
        tree.add(_tree(parent))
    for answer in node.vendor_bytes:
        tree.add(
            f"{'[green]intact[/]' if answer.intact else '[red]CHANGED[/]'} "
            f"{answer.body_sha256[:_HASH_SHOWN]} {answer.status} {answer.method} "
            f"{answer.body_bytes:,} bytes  {escape(answer.url)}"
        )
    return tree


def _label(node: TracedArtifact) -> str:
    proof = (
        "[red]not in the ledger[/]" if node.ledger_index is None else f"ledger {node.ledger_index}"
    )
    note = f"  [dim]({node.note})[/]" if node.note else ""
    return (
        f"[bold]{node.contract}[/] {node.partition}  {node.sha256[:_HASH_SHOWN]}  "
        f"{node.rows} rows  {proof}{note}"
    )
