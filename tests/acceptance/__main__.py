"""``make bench`` and ``make accept``: figures that are measured by hand and committed.

What does not belong: anything that `make test` must run.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from marketlake.settings import PROJECT_ROOT

from tests.acceptance import (
    bootstrap,
    consensus_faults,
    consensus_vendors,
    consensus_wire,
    crashes,
    features_speed,
    figures,
    floor,
    full_training,
    gate_speed,
    integrity_corpora,
    ledger_cost,
    ledger_speed,
    ledger_verification,
    lineage_speed,
    load_speed,
    overhead,
    soak,
    stocknet,
    walk_forward,
)
from tests.acceptance.installation import installation

RECORDINGS = PROJECT_ROOT.parent / "shared" / "data"
app = typer.Typer(no_args_is_help=True, add_completion=False, help=__doc__)

Home = Annotated[
    Path | None,
    typer.Option(help="A folder for the platform, kept for the next call. Default: a scratch one."),
]
FirstSession = Annotated[
    str | None,
    typer.Option(help="A shorter history than the packaged market's, from this session."),
]
Recordings = Annotated[
    Path, typer.Option(help="The folder of real reference data.", exists=True, file_okay=False)
]
Save = Annotated[bool, typer.Option(help="Write the figures to docs/figures.")]


@app.command("overhead")
def measure_overhead(
    rounds: Annotated[int, typer.Option(min=1, help="Plain and orchestrated, in turns.")] = 3,
    home: Home = None,
    first_session: FirstSession = None,
    save: Save = True,
) -> None:
    """Five sessions as one plain process against the orchestrated run (about ten minutes)."""
    when = figures.circumstances()
    with installation(home, first_session=first_session) as one:
        found = overhead.measure(one, rounds=rounds)
    overhead.show(found)
    _keep("overhead", when, found, save)
    if found["cpu_s_per_task_above_plain"] > overhead.TARGET_CPU_S:
        raise SystemExit("above the target")


@app.command("floor")
def measure_floor(
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Save = True,
) -> None:
    """What Airflow alone costs: the same platform, and tasks that do nothing (ten minutes)."""
    _hold("floor", floor, lambda: floor.measure(rounds=rounds), save)


@app.command("gate")
def measure_gate(
    rows: Annotated[int, typer.Option(min=10_000)] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Save = True,
) -> None:
    """The fast kernel against Great Expectations on the same bars (two minutes)."""
    _hold("gate", gate_speed, lambda: gate_speed.measure(rows=rows, rounds=rounds), save)


@app.command("loads")
def measure_loads(
    rows: Annotated[int, typer.Option(min=10_000)] = 1_000_000,
    to_sql_rows: Annotated[int, typer.Option(min=1_000, help="Of these, for to_sql.")] = 100_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Save = True,
) -> None:
    """Warehouse loads against to_sql and COPY of a file, and their replay (five minutes)."""
    _hold(
        "loads",
        load_speed,
        lambda: load_speed.measure(rows=rows, to_sql_rows=to_sql_rows, rounds=rounds),
        save,
    )


@app.command("features")
def measure_features(
    data: Recordings = RECORDINGS,
    symbols: Annotated[int, typer.Option(min=2)] = 800,
    sessions: Annotated[int, typer.Option(min=300)] = 3_300,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    growth: Annotated[tuple[int, int], typer.Option(help="Symbols, few and many.")] = (500, 5_000),
    qlib: Annotated[
        Path | None, typer.Option(help="A Python that has pyqlib. Default: one is made.")
    ] = None,
    save: Save = True,
) -> None:
    """Alpha158 against Qlib and polars on real and made bars, and 5,000 symbols (15 minutes)."""
    _hold(
        "features",
        features_speed,
        lambda: features_speed.measure(
            data, symbols=symbols, sessions=sessions, rounds=rounds, growth=growth, qlib=qlib
        ),
        save,
    )


@app.command("ledger")
def measure_ledger(
    callers: Annotated[int, typer.Option(min=1)] = 32,
    entries: Annotated[int, typer.Option(min=1_000, help="A round, of each.")] = 16_000,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    log_entries: Annotated[int, typer.Option(min=10_000, help="The large log.")] = 1_000_000,
    save: Save = True,
) -> None:
    """Durable appends against SQLite's, then proofs and a start at a million (minutes)."""
    _hold(
        "ledger",
        ledger_speed,
        lambda: ledger_speed.measure(
            callers=callers, entries=entries, rounds=rounds, log_entries=log_entries
        ),
        save,
    )


@app.command("ledger-verification")
def measure_ledger_verification(
    entries: Annotated[int, typer.Option(min=10_000)] = 1_000_000,
    entries_a_checkpoint: Annotated[int, typer.Option(min=1)] = 250,
    rounds: Annotated[int, typer.Option(min=1)] = 3,
    save: Save = True,
) -> None:
    """The offline verifier on a million entries, every signature checked (two minutes)."""
    _hold(
        "ledger-verification",
        ledger_verification,
        lambda: ledger_verification.measure(
            entries=entries, entries_a_checkpoint=entries_a_checkpoint, rounds=rounds
        ),
        save,
    )


@app.command("lineage")
def measure_lineage(
    artifacts: Annotated[int, typer.Option(min=10_000)] = 1_000_000,
    questions: Annotated[int, typer.Option(min=10, help="Each way.")] = 300,
    save: Save = True,
) -> None:
    """Whole closures, up and down, over a million published artifacts (minutes)."""
    _hold(
        "lineage",
        lineage_speed,
        lambda: lineage_speed.measure(artifacts=artifacts, questions=questions),
        save,
    )


@app.command("ledger-cost")
def measure_ledger_cost(
    rounds: Annotated[int, typer.Option(min=1)] = 6,
    home: Home = None,
    first_session: FirstSession = "2019-01-02",
    save: Save = True,
) -> None:
    """A session's run with the ledger, and with entries sent to nowhere (ten minutes)."""
    with installation(home, first_session=first_session) as one:
        _hold("ledger-cost", ledger_cost, lambda: ledger_cost.measure(one, rounds=rounds), save)


@app.command("soak")
def measure_soak(
    minutes: Annotated[float, typer.Option(min=1)] = 60,
    every: Annotated[str, typer.Option(help="Time from run to run: 300s or 5m.")] = "5m",
    home: Home = None,
    first_session: FirstSession = None,
    save: Save = True,
) -> None:
    """A run every few minutes: memory slopes, stuck runs, waits for the scheduler."""
    when = figures.circumstances()
    with installation(home, first_session=first_session) as one:
        found = soak.measure(one, minutes=minutes, every_s=_seconds(every))
    soak.show(found)
    _keep("soak", when, found, save)
    if soak.is_stuck(found):
        raise SystemExit("a run failed or stuck, or the scheduler left work lying")


@app.command("kill")
def kill(
    victim: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(crashes.VICTIMS)}. Default: all.")
    ] = None,
    moment: Annotated[
        list[str] | None, typer.Option(help=f"One of {', '.join(crashes.MOMENTS)}. Default: all.")
    ] = None,
    home: Home = None,
    first_session: FirstSession = "2019-01-02",
    save: Save = True,
) -> None:
    """Kill one thing at one moment, again and again; every cell leaves a line in a table.

    With --home, the cells of earlier calls are kept and shown with those of this one.
    """
    wanted = [
        (one, other) for one in victim or crashes.VICTIMS for other in moment or crashes.MOMENTS
    ]
    when = figures.circumstances()
    with installation(home, first_session=first_session) as one:
        found = crashes.matrix(one, wanted, kept=None if home is None else home / "cells.json")
    crashes.show(found)
    _keep("kill-matrix", when, found, save)
    if not found["all_well"]:
        raise SystemExit("something was lost, half-published, or not completed")


@app.command("consensus-faults")
def measure_consensus_on_faults(
    data: Recordings = RECORDINGS, cells: int = consensus_faults.CELLS, save: Save = True
) -> None:
    """Known faults in one and in two of three copies of a real history (half a minute)."""
    _hold(
        "consensus-faults",
        consensus_faults,
        lambda: consensus_faults.measure(data, cells=cells),
        save,
    )


@app.command("consensus-faults-wire")
def measure_consensus_on_faults_by_wire(
    data: Recordings = RECORDINGS, cells: int = consensus_faults.CELLS, save: Save = True
) -> None:
    """The same history and faults through the vendor sandbox and three real clients (minutes)."""
    _hold(
        "consensus-faults-wire",
        consensus_wire,
        lambda: consensus_wire.measure(data, cells=cells),
        save,
    )


@app.command("consensus-vendors")
def measure_consensus_of_vendors(data: Recordings = RECORDINGS, save: Save = True) -> None:
    """Four real vendors that disagree: episodes, their classes, the known conflicts (seconds)."""
    _hold("consensus-vendors", consensus_vendors, lambda: consensus_vendors.measure(data), save)


@app.command("integrity")
def measure_integrity(
    data: Recordings = RECORDINGS, cells: int = integrity_corpora.CELLS, save: Save = True
) -> None:
    """Faults in one source on its own, yfinance's real repair cases, GameStop (a minute)."""
    _hold(
        "integrity", integrity_corpora, lambda: integrity_corpora.measure(data, cells=cells), save
    )


@app.command("stocknet")
def measure_stocknet(data: Recordings = RECORDINGS, save: Save = True) -> None:
    """The public StockNet split: every model and the ensemble beside the papers (ten minutes)."""
    _hold("stocknet", stocknet, lambda: stocknet.measure(data), save)


@app.command("walk-forward")
def measure_walk_forward(
    data: Recordings = RECORDINGS,
    profile: Annotated[str, typer.Option(help="quick or full.")] = "full",
    save: Save = True,
) -> None:
    """The ensemble on two real markets, its null panels, its costs (half an hour)."""
    _hold("walk-forward", walk_forward, lambda: walk_forward.measure(profile, data), save)


@app.command("full-training")
def measure_full_training(
    rounds: Annotated[int, typer.Option(min=1, help="Predictions, of each profile.")] = 5,
    save: Save = True,
) -> None:
    """Train by the full profile through the platform, then predict by it (20 minutes)."""
    with installation(None) as one:
        _hold(
            "full-training", full_training, lambda: full_training.measure(one, rounds=rounds), save
        )


@app.command("bootstrap")
def measure_bootstrap(
    symbols: Annotated[int, typer.Option(min=1)] = 500, home: Home = None, save: Save = True
) -> None:
    """Ten years of 500 generated symbols from three sources, through the platform."""
    with (
        tempfile.TemporaryDirectory() as folder,
        installation(home, market=bootstrap.market(Path(folder), symbols)) as one,
    ):
        _hold("bootstrap", bootstrap, lambda: bootstrap.measure(one), save)


@app.command("accept")
def accept(
    minutes: Annotated[float, typer.Option(min=1, help="Length of the soak.")] = 60,
    every: Annotated[str, typer.Option(help="Time from run to run of the soak.")] = "5m",
    save: Save = True,
) -> None:
    """Corpora and models where their data lie, large history, training, kills, then the soak."""
    steps: list[Callable[[], None]] = [
        lambda: measure_bootstrap(save=save),
        lambda: measure_full_training(save=save),
        lambda: kill(save=save),
        lambda: measure_soak(minutes=minutes, every=every, save=save),
    ]
    if RECORDINGS.is_dir():
        corpora = (
            measure_consensus_on_faults,
            measure_consensus_on_faults_by_wire,
            measure_consensus_of_vendors,
            measure_integrity,
            measure_stocknet,
            measure_walk_forward,
        )
        steps = [*(partial(one, save=save) for one in corpora), *steps]
    else:
        typer.echo(f"no real reference data in {RECORDINGS}: the corpora are left out")
    missed = []
    for step in steps:
        try:
            step()
        except SystemExit as problem:
            # What is missed in one does not keep the others from being measured.
            missed.append(str(problem))
    if missed:
        raise SystemExit("; ".join(missed))


def _hold(name: str, bench: ModuleType, measure: Callable[[], dict[str, Any]], save: bool) -> None:
    """Measure, show, keep; end with what missed its target."""
    when = figures.circumstances()
    found = measure()
    bench.show(found)
    _keep(name, when, found, save)
    if problems := bench.missed(found):
        raise SystemExit("; ".join(problems))


def _keep(name: str, when: dict[str, Any], found: dict[str, Any], save: bool) -> None:
    if save:
        figures.keep(name, {**when, **found})
    else:
        typer.echo(json.dumps({**when, **found}, indent=2, default=str))


def _seconds(text: str) -> float:
    number, unit = (text[:-1], text[-1]) if text[-1:] in "sm" else (text, "s")
    return float(number) * (60 if unit == "m" else 1)


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # seen while it runs
    app()
