"""Commands that look: artifacts, show, signals, trace, why, sql, contracts.

None changes data.
"""

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

    from marketlake.contracts import Contract
    from marketlake.readmodels.lineage import Branch, VendorBytes
    from marketlake.readmodels.signals import SignalId
    from marketlake.storage.lake import Lake
    from marketlake.types import Partition

_PIPE_WIDTH = 200
_HASH_SHOWN = 12
_ANSWERS_ALONE = 3
_ROWS_TOLD = 8
_SHOWN_IS_PROVEN = (
    "every link shown is proven in the ledger; that none is missing is the index's word: "
    "--reindex rebuilds it from the ledger"
)

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

Traced = Annotated[
    str,
    typer.Argument(
        help="A signal (2022-12-28/KO, or KO for its newest), or an artifact: a contract name for "
        "its newest partition, CONTRACT/2022-12-28, CONTRACT/2021, an s3:// URI; with @HASH, eight "
        "digits or more, one version of it."
    ),
]
SignalArgument = Annotated[
    str, typer.Argument(help="2022-12-28/KO, or KO for its newest session.", metavar="SIGNAL")
]

contracts = typer.Typer(help="The contracts and their renderings.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add these commands to the application."""
    for command in (artifacts, show, signals, trace, why):
        app.command()(command)
    app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(sql)
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
    from marketlake.readmodels.signals import SignalId

    lake = _lake(load_settings())
    rows = queries.signals(lake, _day(session))
    if as_json:
        typer.echo(_json(rows))
        return
    console().print(_signal_table(rows, title=f"signals of {rows[0]['session']}"))
    typer.echo(
        "hit rate: out-of-fold share of scores this strong with the right sign, 95 % interval; "
        "before costs; P(right): a second model's word on the side"
    )
    if (model := queries.model(lake, rows[0]["session"])) is not None:
        proven = "proven" if model["passed_gate"] else "not proven"
        typer.echo(f"{model['name']} of {model['as_of']}, {proven}: {model['reason']}")
    first = SignalId(rows[0]["session"], rows[0]["symbol"])
    typer.echo(f"one of them: `marketlake why {first}`, `marketlake trace {first}`")


def trace(
    artifact: Traced,
    session: Session = None,
    down: Annotated[
        bool,
        typer.Option("--down/--up", help="What was made from it, instead of what it was made of."),
    ] = False,
    symbol: Annotated[
        str | None, typer.Option(help="Of the vendors' answers, those about this symbol only.")
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="A line for every artifact and every answer.")
    ] = False,
    reindex: Annotated[
        bool, typer.Option("--reindex", help="Rebuild the index from the whole ledger first.")
    ] = False,
    as_json: Json = False,
    html: Annotated[
        Path | None, typer.Option(help="Write the walk into this file, as one page.")
    ] = None,
) -> None:
    """Walk to the vendor's bytes, or on to what was made from it; exit 1 if a link is broken.

    Up, proven entries name what comes next. Down, the ledger's index finds it: every link shown is
    proven, and --reindex makes sure of those that an old index may lack.
    """
    from marketlake.domain.reporting import lineage_page
    from marketlake.readmodels import lineage
    from marketlake.storage.ledger import LedgerClient
    from marketlake.storage.lineage_index import Direction, LineageIndex

    settings = load_settings()
    lake = _lake(settings)
    contract, partition, sha256, signal = _traced(lake, artifact, _day(session))
    direction: Direction = "down" if down else "up"
    with LineageIndex(settings.postgres) as index:
        if reindex:
            index.catch_up(rebuild=True)
        tree = lineage.trace(
            lake,
            LedgerClient(settings.ledger),
            index,
            artifact=contract,
            partition=partition,
            sha256=sha256,
            direction=direction,
            symbol=symbol,
        )
    counts = lineage.counts(tree)
    broken = counts["unproven"] + counts["changed"]
    if html is not None:
        page = lineage.document(tree, direction=direction, signal=signal, full=full)
        html.write_bytes(lineage_page.render(page))
    if as_json:
        typer.echo(_json({"direction": direction, "signal": signal, **tree.as_json()}))
    else:
        if signal is not None:
            title = f"the signal {signal['session']}/{signal['symbol']}"
            console().print(_signal_table([signal], title=f"{title}, model {signal['model_name']}"))
        console().print(_tree(lineage.folded(tree, full=full), full=full))
        proven = _SHOWN_IS_PROVEN if down else "every link proven in the ledger"
        typer.echo(
            f"{counts['artifacts']} artifacts, {counts['answers']} vendor answers, "
            f"{f'{broken} BROKEN links' if broken else proven}"
        )
    if broken:
        raise typer.Exit(1)


def why(signal: SignalArgument, session: Session = None, as_json: Json = False) -> None:
    """Say why a signal was given: data, features, model, gates, what was not chosen, proofs."""
    from marketlake.readmodels import decisions
    from marketlake.storage.ledger import LedgerClient
    from marketlake.storage.lineage_index import LineageIndex

    settings = load_settings()
    lake = _lake(settings)
    wanted = _signal_id(lake, signal, _day(session))
    with LineageIndex(settings.postgres) as index:
        found = decisions.why(lake, LedgerClient(settings.ledger), index, wanted)
    if as_json:
        typer.echo(_json(found))
        return
    from rich.tree import Tree

    tree = Tree(f"[bold]{wanted}[/]")
    for name, value in found.items():
        _grow(tree, name, value)
    console().print(tree)


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
    """Return what a person reads of one signal, from its rank to whether it is simulated."""
    return [
        str(row["rank"]),
        row["symbol"],
        row["side"],
        f"{row['score_bps']:+.1f} bps",
        f"{row['confidence']:.1%} [{row['confidence_low']:.1%}, {row['confidence_high']:.1%}]",
        f"{row['confidence_n']:,}",
        f"{row['base_rate']:.1%}",
        f"{row['probability_right']:.1%}",
        "simulated" if row["simulated"] else "",
    ]


def _signal_table(rows: Sequence[Mapping[str, Any]], *, title: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for name in ("#", "symbol", "side", "score", "hit rate", "n", "base rate", "P(right)", ""):
        table.add_column(name, justify="left" if name in {"symbol", "side", ""} else "right")
    for row in rows:
        table.add_row(*signal_cells(row))
    return table


def _signal_id(lake: Lake, text: str, session: date | None) -> SignalId:
    """Return the signal that a person means: ``SESSION/SYMBOL``, or a symbol and a session."""
    from marketlake.readmodels import signals as queries

    if "/" in text:
        return queries.SignalId.parse(text)
    return queries.SignalId(session or queries.newest_session(lake), text)


def _traced(
    lake: Lake, text: str, session: date | None
) -> tuple[Contract, Partition, str, dict[str, Any] | None]:
    """Return the artifact to trace, the beginning of its hash, and the signal, if it is one."""
    from marketlake.contracts.catalog import CORE_SIGNALS_SIGNAL
    from marketlake.readmodels import published
    from marketlake.readmodels import signals as queries
    from marketlake.types import Partition

    if "__" not in text:
        wanted = _signal_id(lake, text, session)
        row = queries.signal(lake, wanted)
        (ref,) = lake.refs_for(CORE_SIGNALS_SIGNAL, [wanted.session])
        return CORE_SIGNALS_SIGNAL, Partition.parse(ref.partition), "", row
    place, _, sha256 = text.partition("@")
    if session is not None and "/" not in place:
        place = f"{place}/{session}"
    return *published.resolve(lake, place), sha256, None


def _tree(branch: Branch, *, full: bool) -> Tree:
    from rich.tree import Tree

    tree = Tree(_label(branch))
    for item in branch.below:
        if full or not item.is_shown_above:
            tree.add(_tree(item, full=full))
    above = [item.title for item in branch.below if item.is_shown_above]
    if above and not full:
        tree.add(f"[dim]shown above: {'; '.join(above)}[/]")
    for line in _answers(branch.vendor_bytes, full=full):
        tree.add(line)
    return tree


def _label(branch: Branch) -> str:
    from rich.markup import escape

    entries = [item.ledger_index for item in branch.members if item.ledger_index is not None]
    missing = len(branch.members) - len(entries)
    if missing:
        proof = f"[red]{f'{missing} ' if len(branch.members) > 1 else ''}not in the ledger[/]"
    else:
        proof = f"ledger {min(entries)}" + (f"..{max(entries)}" if len(entries) > 1 else "")
    note = f"  [dim]({escape(branch.note)})[/]" if branch.note else ""
    name, _, rest = branch.title.partition(" ")
    one = branch.members[0]
    what = f"  {one.sha256[:_HASH_SHOWN]}  {one.rows} rows" if len(branch.members) == 1 else ""
    return f"[bold]{name}[/] {rest}{what}  {proof}{note}"


def _answers(answers: Sequence[VendorBytes], *, full: bool) -> list[str]:
    """Return a line for each of a few answers, one for many, and one for each that changed."""
    from rich.markup import escape

    alone = [item for item in answers if full or len(answers) <= _ANSWERS_ALONE or not item.intact]
    lines = [
        f"{'[green]intact[/]' if item.intact else '[red]CHANGED[/]'} "
        f"{item.body_sha256[:_HASH_SHOWN]} {item.status} {item.method} "
        f"{item.body_bytes:,} bytes  {escape(item.url)}"
        for item in alone
    ]
    if len(alone) < len(answers):
        rest = [item for item in answers if item.intact]
        lines.append(
            f"[green]intact[/] {len(rest)} vendor answers of "
            f"{len({item.symbol for item in rest})} symbols, "
            f"{sum(item.body_bytes for item in rest):,} bytes  [dim](--full or --symbol)[/]"
        )
    return lines


def _grow(tree: Tree, name: str, value: Any) -> None:
    """Add a value of a decision's record: a line, or a branch of lines."""
    from rich.markup import escape

    label = f"[bold]{escape(name.replace('_', ' '))}[/]"
    if isinstance(value, Mapping):
        branch = tree.add(label)
        for key, item in value.items():
            _grow(branch, str(key), item)
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        branch = tree.add(label)
        for row in value[:_ROWS_TOLD]:
            cells = (f"{key} {_told(item)}" for key, item in row.items())
            branch.add(escape("  ".join(cells)))
        if len(value) > _ROWS_TOLD:
            branch.add(f"[dim]and {len(value) - _ROWS_TOLD} more (--json)[/]")
    else:
        tree.add(f"{label}  {escape(_told(value))}")


def _told(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_told, value)) or "-"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_told(item)}" for key, item in value.items())
    return "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
