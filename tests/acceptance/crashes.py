"""kill -9 of one thing at one moment of a run, and what is left of it.

A cell of the matrix runs one session that was never run before, kills the victim when the ledger
says that the moment has come, brings the platform up again (nothing supervises it after a command
has returned; a killed task is left to Airflow) and waits for the run. Then: nothing acknowledged
may be lost, nothing half-published may be visible, and the content must be that of an undisturbed
run of the same session, made afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from marketlake.clock import monotonic_s, sleep_s
from marketlake.contracts.catalog import CATALOG, OUT_REPORTS_DAILY
from marketlake.contracts.ddl import relation
from marketlake.errors import BadPayload, MarketlakeError, NotFound
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.settings import Settings
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, Recorded
from marketlake.storage.warehouse import Warehouse

from tests.acceptance import figures
from tests.acceptance.acknowledged import Writers
from tests.acceptance.figures import say
from tests.acceptance.installation import begun, told
from tests.acceptance.processes import pid_of, task_processes
from tests.integration.conftest import Installation

VICTIMS = ("scheduler", "api-server", "postgres", "seaweedfs", "ledger", "task")

SESSIONS = tuple(
    date(2022, month, day)
    for month, days in (
        (11, (22, 23, 25, 28, 29, 30)),
        (12, (1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16)),
    )
    for day in days
)
"""One session for each cell, all before those of the main job; the model is older."""

TRAINED_AS_OF = "2022-10-31"
_MARTS = (
    "fct_daily_return",
    "fct_portfolio_risk",
    "fct_sector_daily",
    "fct_signal",
    "fct_source_disagreement",
)
_FINGERPRINT = (
    "select md5(string_agg(t::text, ',' order by t::text)) as found from {table} as t "
    "where session = %s"
)
_MOMENT_LIMIT_S = 240.0
_OUTAGE_S = 2.0
_RUN_LIMIT_S = 420.0


@dataclass(frozen=True)
class Moment:
    """A point of a session's run, told by the ledger; ``delay_s`` goes further into it."""

    name: str
    kind: str
    is_reached: Callable[[Mapping[str, Any]], bool]
    delay_s: float = 0.0


MOMENTS = {
    moment.name: moment
    for moment in (
        Moment("ingest", "vendor_call", lambda payload: True),
        Moment(
            "warehouse",
            "task_started",
            lambda payload: payload["step"].endswith("build_warehouse.publish"),
            delay_s=0.7,  # inside the dbt build
        ),
        Moment(
            "report",  # between the intent and the entry that says it is published
            "intent",
            lambda payload: payload["contract"] == OUT_REPORTS_DAILY.name,
        ),
    )
}


@dataclass
class Cell:
    """One kill and everything that was found after it; ``faults`` is empty when all is well."""

    victim: str
    moment: str
    session: str
    run: str = ""
    killed_mid_publish: bool | None = None
    completed_by: str = ""
    recovered_s: float = 0.0
    acknowledged: dict[str, int] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)
    same_content: bool = False
    left_aside: int = 0
    tries: int = 0
    faults: list[str] = field(default_factory=list)


def prepare(one: Installation) -> None:
    """Bring a platform to where the sessions can be run: history, and a model older than them."""
    told(one, "up")
    with AirflowApi(one.settings.airflow) as api:
        done = [run for run in api.runs() if run["state"] == "success"]
    if not any(run["dag_id"] == "load_history" for run in done):
        told(one, "load-history")
    if not any(run["conf"] == {"as_of": TRAINED_AS_OF} for run in done):
        told(one, "train", "--as-of", TRAINED_AS_OF)


def kill_and_see(
    one: Installation, victim: str, moment: Moment, session: date, *, reprocess: str = "none"
) -> Cell:
    """Run one cell of the matrix."""
    cell = Cell(victim, moment.name, str(session))
    settings = one.settings
    ledger = LedgerClient(settings.ledger)
    since = ledger.checkpoint()
    writers = Writers(settings, f"{victim}-{moment.name}-{uuid.uuid4().hex[:6]}")
    writers.start()
    log = settings.home / "logs" / "acceptance-backfill.log"
    arguments = ("backfill", "--from", str(session), "--to", str(session))
    running = begun(one, *arguments, "--reprocess", reprocess, log=log)
    try:
        entry = _await_moment(ledger, moment, since.size, running, log)
        _kill(settings.home, victim)
        killed_at_s = monotonic_s()
    except BaseException:
        running.kill()
        raise
    finally:
        writers.stop()
    say(f"killed {victim} at {moment.name} of {session}")
    cell.run = str(entry.run.get("run_id"))
    _recover(one, cell, running, log)
    cell.recovered_s = monotonic_s() - killed_at_s
    cell.killed_mid_publish = _was_mid_publish(ledger, entry)
    found = writers.look_for_everything()
    cell.acknowledged, cell.lost = found.acknowledged, found.lost
    cell.faults += [f"{count} {kind} lost" for kind, count in found.lost.items() if count]
    cell.faults += audit(settings, trusted=[since])
    cell.left_aside = len(Lake(settings.lake).list_keys("_publishing/"))
    cell.faults += _incomplete(one, cell, session)
    return cell


def audit(settings: Settings, *, trusted: Sequence[Any] = ()) -> list[str]:
    """Return what is half-published or unproven: nothing, when all is well.

    Every manifest leads to the bytes it names, every ``published`` entry to the version it names,
    every intent to an entry that says it was published, and the ledger verifies.
    """
    lake, ledger = Lake(settings.lake), LedgerClient(settings.ledger)
    verified = ledger.verify(trusted)
    faults = [f"ledger: {fault}" for fault in verified.faults]
    for item in CATALOG:
        for manifest in lake.manifests(item):
            faults += _unreadable(lake, manifest.data_key, manifest.version_id, manifest.sha256)
            if manifest.export_key is not None and manifest.export_sha256 is not None:
                faults += _unreadable(
                    lake, manifest.export_key, manifest.export_version_id, manifest.export_sha256
                )
    for entry in _all_entries(ledger, "published"):
        key = str(entry.payload["uri"]).removeprefix(f"s3://{lake.bucket}/")
        faults += _unreadable(lake, key, entry.payload["version_id"], entry.payload["sha256"])
    return faults + _unfulfilled(ledger)


def fingerprints(settings: Settings, sessions: Sequence[date]) -> dict[str, str]:
    """Return a hash of the warehouse's rows for each session and table."""
    warehouse = Warehouse(settings.postgres)
    tables = [relation(item) for item in CATALOG if item.warehouse]
    tables += [f"marts.{name}" for name in _MARTS]
    return {
        f"{table}/{session}": str(
            warehouse.query(
                _FINGERPRINT.format(table=table),
                (session,),
            )[0]["found"]
        )
        for table in tables
        for session in sessions
    }


def compare_with_undisturbed(one: Installation, cells: Iterable[Cell]) -> list[str]:
    """Run the cells' sessions again, undisturbed; return where content or rows then differ."""
    sessions = sorted({date.fromisoformat(cell.session) for cell in cells})
    disturbed = one.hashes(sessions)
    rows = fingerprints(one.settings, sessions)
    first, last = str(sessions[0]), str(sessions[-1])
    # Sessions between them are run too; that changes nothing.
    told(one, "backfill", "--from", first, "--to", last, "--reprocess", "completed")
    return _differences(disturbed, one.hashes(sessions)) + _differences(
        rows, fingerprints(one.settings, sessions)
    )


def _differences(disturbed: Mapping[Any, str], undisturbed: Mapping[Any, str]) -> list[str]:
    return [
        f"{key} is not what an undisturbed run gives"
        for key in sorted(disturbed.keys() | undisturbed.keys())
        if disturbed.get(key) != undisturbed.get(key)
    ]


def _await_moment(
    ledger: LedgerClient,
    moment: Moment,
    since: int,
    running: subprocess.Popen[bytes],
    log: Path,
) -> Recorded:
    deadline = monotonic_s() + _MOMENT_LIMIT_S
    while monotonic_s() < deadline:
        for entry in ledger.entries(moment.kind, since_index=since):
            since = entry.index + 1
            if moment.is_reached(entry.payload):
                sleep_s(moment.delay_s)
                return entry
        if running.poll() is not None:
            break
        sleep_s(0.002)
    raise SystemExit(f"the moment {moment.name} did not come: {log.read_text()[-2000:]}")


def _kill(home: Path, victim: str) -> None:
    pids = [pid_of(home, victim)] if victim != "task" else task_processes(home)[-1:]
    if not pids:
        raise SystemExit("no task runs: the moment was missed")
    os.kill(pids[0], signal.SIGKILL)


def _recover(one: Installation, cell: Cell, running: subprocess.Popen[bytes], log: Path) -> None:
    """Bring up what was killed, wait for the run, and ask for it again if it gave up."""
    cell.completed_by = "itself"
    if cell.victim != "task":
        sleep_s(_OUTAGE_S)
        told(one, "up")
        cell.completed_by = "up"
    try:
        code: int | None = running.wait(timeout=_RUN_LIMIT_S)
    except subprocess.TimeoutExpired:
        running.kill()
        running.wait()
        code = None
    if code == 0:
        return
    why = "did not end" if code is None else f"exit {code}"
    say(f"[yellow]the command {why}[/]: {log.read_text(errors='replace')[-600:]}")
    told(one, "up")
    told(one, "backfill", "--from", cell.session, "--to", cell.session, "--missing")
    cell.completed_by = f"up and a second backfill (the first: {why})"


def _was_mid_publish(ledger: LedgerClient, entry: Recorded) -> bool | None:
    """Return whether the try whose intent was seen never came to say that it had published."""
    if entry.kind != "intent":
        return None
    run = entry.run
    return not any(
        later.payload["contract"] == entry.payload["contract"]
        and later.run.get("try_number") == run.get("try_number")
        for later in ledger.entries("published", run_id=str(run["run_id"]), since_index=entry.index)
    )


def _incomplete(one: Installation, cell: Cell, session: date) -> list[str]:
    with AirflowApi(one.settings.airflow) as api:
        progress = one.progress(api, session)
        cell.tries = sum(
            task["try_number"]
            for run in progress.runs
            for task in api.tasks(run.dag_id, run.run_id)
        )
    return [] if progress.is_complete else [f"{session} is not complete"]


def _unreadable(lake: Lake, key: str, version_id: str | None, sha256: str) -> list[str]:
    try:
        found = sha256_hex(lake.get_bytes(key, version_id=version_id))
    except (NotFound, BadPayload) as error:
        return [f"{key}: {error.was}"]
    except MarketlakeError as error:
        return [f"{key}: {error}"]
    return [] if found == sha256 else [f"{key}: its bytes have another hash"]


def _unfulfilled(ledger: LedgerClient) -> list[str]:
    """Return the intents after which nothing of that contract and partition was published."""
    last_published: dict[tuple[str, str], int] = {}
    for entry in _all_entries(ledger, "published"):
        last_published[entry.payload["contract"], entry.payload["partition"]] = entry.index
    return [
        f"{entry.payload['contract']}/{entry.payload['partition']}: an intent and nothing after it"
        for entry in _all_entries(ledger, "intent")
        if last_published.get((entry.payload["contract"], entry.payload["partition"]), -1)
        < entry.index
    ]


def _all_entries(ledger: LedgerClient, kind: str) -> list[Recorded]:
    return ledger.entries(kind, limit=10_000_000)


def matrix(
    one: Installation, wanted: Sequence[tuple[str, str]], *, kept: Path | None
) -> dict[str, Any]:
    """Run cells of the matrix and return its figures, with those of earlier calls in ``kept``."""
    cells = _kept_cells(kept)
    prepare(one)
    for victim in dict.fromkeys(victim for victim, _ in wanted):
        fresh = []
        for moment in [moment for other, moment in wanted if other == victim]:
            number = VICTIMS.index(victim) * len(MOMENTS) + list(MOMENTS).index(moment)
            session = SESSIONS[number]
            # A session that was run before is run again: its artifacts are replaced.
            again = one.hashes([session]).keys() >= {(OUT_REPORTS_DAILY.name, f"session={session}")}
            reprocess = "completed" if again else "none"
            fresh.append(kill_and_see(one, victim, MOMENTS[moment], session, reprocess=reprocess))
            for fault in fresh[-1].faults:
                say(f"[red]{fault}[/]")
        differences = compare_with_undisturbed(one, fresh)
        for cell in fresh:
            mine = [item for item in differences if cell.session in item]
            cell.same_content = not mine
            cell.faults += mine
            cells[cell.victim, cell.moment] = cell
        if kept is not None:
            kept.write_text(json.dumps([asdict(cell) for cell in cells.values()], indent=2))
    order = [(victim, moment) for victim in VICTIMS for moment in MOMENTS]
    return document([cells[key] for key in order if key in cells])


def _kept_cells(kept: Path | None) -> dict[tuple[str, str], Cell]:
    if kept is None or not kept.exists():
        return {}
    cells = [Cell(**item) for item in json.loads(kept.read_text())]
    return {(cell.victim, cell.moment): cell for cell in cells}


def document(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the figures of the matrix."""
    return {
        "cells": [asdict(cell) for cell in cells],
        "cells_run": len(cells),
        "cells_in_the_matrix": len(VICTIMS) * len(MOMENTS),
        "acknowledged": _sums(cell.acknowledged for cell in cells),
        "lost": _sums(cell.lost for cell in cells),
        "all_well": not any(cell.faults for cell in cells),
    }


def _sums(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for one in counts:
        for kind, count in one.items():
            total[kind] = total.get(kind, 0) + count
    return total


def show(found: Mapping[str, Any]) -> None:
    """Print the matrix as a table, then what is wrong."""
    figures.table(
        "kill -9",
        ["victim", "moment", "session", "completed by", "s", "tries", "mid publish",
         "acknowledged", "lost", "same content", "faults"],
        [
            [
                cell["victim"],
                cell["moment"],
                cell["session"],
                cell["completed_by"],
                round(cell["recovered_s"]),
                cell["tries"],
                {None: "-", True: "yes", False: "no"}[cell["killed_mid_publish"]],
                sum(cell["acknowledged"].values()),
                sum(cell["lost"].values()),
                "yes" if cell["same_content"] else "NO",
                len(cell["faults"]),
            ]
            for cell in found["cells"]
        ],
    )  # fmt: skip
    for cell in found["cells"]:
        for fault in cell["faults"]:
            say(f"[red]{cell['victim']} at {cell['moment']}: {fault}[/]")
    say("all is well" if found["all_well"] else "[red]NOT all is well[/]")
