"""The ledger's appends against SQLite's, from the same callers; then a log of a million entries.

A Postgres and an appender process of their own. In turns, threads of this process give the same
entries, one a call, to the appender and to SQLite, and every call returns when its entry is
durable: SQLite with ``synchronous=FULL``, one commit an entry, the callers taking turns on one
connection. The target is against SQLite as it comes, with its rollback journal. Beside it stand its
fastest form, with a write-ahead log, and that with a connection for each caller, where they wait
for one another by sleeping. What is in the tables is read back and must be the same bytes.
Processes, which cannot share a connection to the appender either, are only reported.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psycopg
from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import MarketlakeError
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.services.signing_key import public_key, signer
from marketlake.settings import PROJECT_ROOT, LedgerSettings, Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import Entry, LedgerClient
from marketlake.storage.ledger_log import Leaf, LedgerLog
from marketlake.types import RunIdentity

from tests.acceptance import figures

TIMES_SQLITE = 4.0
GOAL_PER_S = 10_000
PROOF_MS = 1.0
_START_WITHIN_S = 120
_BATCH = 4096
_PROOFS = 1000
_FEWER = 8
_SQLITE_WAIT_S = 60
_SEED = 7


def measure(*, callers: int, entries: int, rounds: int, log_entries: int) -> dict[str, Any]:
    """Return appends a second of each, by rounds, and what a large log costs."""
    found: dict[str, Any] = {"callers": callers, "entries_a_round": entries}
    rates: dict[str, list[float]] = {
        "threads": [], "sqlite": [], "sqlite_wal": [], "sqlite_wal_connections": [],
        "processes": [],
    }  # fmt: skip
    loads = []
    with _storage() as (settings, folder), _appender(settings):
        client = LedgerClient(settings.ledger)
        for number in range(1, rounds + 1):
            loads.append(os.getloadavg()[0])
            made = made_entries(entries, f"round-{number}")
            found["canonical_bytes"] = statistics.mean(len(e.canonical()) for e in made)
            file, wal, apart = (
                folder / f"{number}-{name}.db" for name in ("delete", "wal", "apart")
            )
            fewer = made[: entries // _FEWER]
            rates["threads"].append(_through_appender(client, made, callers))
            rates["sqlite"].append(_through_sqlite(file, made, callers, journal="delete"))
            rates["sqlite_wal"].append(_through_sqlite(wal, made, callers, journal="wal"))
            rates["sqlite_wal_connections"].append(
                _through_sqlite(apart, fewer, callers, journal="wal", is_shared=False)
            )
            _require_same(settings, (file, wal), made)
            others = made_entries(entries, f"processes-{number}")
            rates["processes"].append(_by_processes(settings.ledger, others, callers))
            figures.say(
                f"round {number}: "
                + ", ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items())
            )
        began = monotonic_s()
        _require(client.verify().ok, "a log that verifies")
        figures.say(f"{2 * rounds * entries:,} entries verified in {monotonic_s() - began:.1f} s")
    with _storage() as (settings, _):
        found |= _large(settings, log_entries)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        **found,
        **{f"{name}_per_s": values for name, values in rates.items()},
        "load_average_by_round": loads,
        "appends_per_s": middle["threads"],
        "appends_per_s_goal": GOAL_PER_S,
        "times_sqlite": middle["threads"] / middle["sqlite"],
        "times_sqlite_target": TIMES_SQLITE,
        "times_sqlite_wal": middle["threads"] / middle["sqlite_wal"],
        "times_sqlite_wal_connections": middle["threads"] / middle["sqlite_wal_connections"],
    }


def made_entries(count: int, name: str) -> list[Entry]:
    """Return entries as pipelines record them: in turns a call to a vendor and a publication."""
    at = utc_now().isoformat()
    run = RunIdentity("ingest_market_data", f"scheduled__{name}", "fetch_bars")
    return [
        Entry(
            f"{run.key}/{number:08d}",
            *(_published(number) if number % 2 else _vendor_call(number)),
            at,
        )
        for number in range(count)
    ]


def _vendor_call(number: int) -> tuple[str, dict[str, Any]]:
    payload = {
        "vendor": "yahoo",
        "symbol": f"SYM{number % 500}",
        "method": "GET",
        "url": f"https://query2.finance.yahoo.com/v8/finance/chart/SYM{number % 500}",
        "status": 200,
        "bytes": 1800 + number % 97,
        "sha256": hashlib.sha256(b"%d" % number).hexdigest(),
        "duration_s": 0.125,
        "run": _run("fetch_bars"),
    }
    return "vendor_call", payload


def _published(number: int) -> tuple[str, dict[str, Any]]:
    contract = "core_market__daily_bar"
    payload = {
        "code_version": "0.3.0",
        "contract": contract,
        "partition": "session=2022-12-28",
        "uri": f"s3://lake/core/{contract}/session=2022-12-28/part.parquet",
        "sha256": hashlib.sha256(b"%d" % number).hexdigest(),
        "rows": 500,
        "version_id": f"{number:032x}",
        "parents": [],
        "run": _run("publish"),
    }
    return "published", payload


def _run(task: str) -> dict[str, Any]:
    return {
        "dag_id": "ingest_market_data",
        "run_id": "scheduled__2022-12-28",
        "task_id": task,
        "try_number": 1,
        "map_index": -1,
    }


# --- the callers ----------------------------------------------------------------------------------


def _through_appender(client: LedgerClient, entries: Sequence[Entry], callers: int) -> float:
    indexes: list[int] = []
    before = client.checkpoint().size

    def work(entry: Entry) -> None:
        indexes.append(client.append([entry])[0].index)

    seconds = _by_threads(work, entries, callers)
    _require(sorted(indexes) == [*range(before, before + len(entries))], "a receipt for each index")
    return len(entries) / seconds


def _through_sqlite(
    file: Path, entries: Sequence[Entry], callers: int, *, journal: str, is_shared: bool = True
) -> float:
    own = threading.local()
    lock = threading.Lock() if is_shared else nullcontext()
    with closing(_open_sqlite(file)) as database:
        (mode,) = database.execute(f"pragma journal_mode = {journal}").fetchone()
        _require(mode == journal, f"SQLite with the journal {journal}")
        database.execute(
            "create table entry (idx integer primary key, key text not null unique,"
            " kind text not null, recorded_at_utc text not null, canonical blob not null) strict"
        )

        def work(entry: Entry) -> None:
            row = (entry.key, entry.kind, entry.recorded_at_utc, entry.canonical())
            if not is_shared and not hasattr(own, "database"):
                own.database = _open_sqlite(file)
            with lock:
                (database if is_shared else own.database).execute(
                    "insert into entry (key, kind, recorded_at_utc, canonical) values (?, ?, ?, ?)",
                    row,
                )

        return len(entries) / _by_threads(work, entries, callers)


def _open_sqlite(file: Path) -> sqlite3.Connection:
    database = sqlite3.connect(
        file, check_same_thread=False, isolation_level=None, timeout=_SQLITE_WAIT_S
    )
    database.execute("pragma synchronous = full")
    return database


def _by_threads(work: Callable[[Entry], None], entries: Sequence[Entry], callers: int) -> float:
    """Return the seconds until every caller has had its share acknowledged, one at a time."""
    ready = threading.Barrier(callers + 1)
    errors: list[BaseException] = []

    def caller(number: int) -> None:
        ready.wait()
        try:
            for entry in entries[number::callers]:
                work(entry)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = monotonic_s()
    for thread in threads:
        thread.join()
    seconds = monotonic_s() - began
    if errors:
        raise errors[0]
    return seconds


def _by_processes(ledger: LedgerSettings, entries: Sequence[Entry], callers: int) -> float:
    own = multiprocessing.get_context("fork")
    ready, done = own.Barrier(callers + 1), own.Barrier(callers + 1)
    processes = [
        own.Process(target=_caller, args=(ledger, entries[number::callers], ready, done))
        for number in range(callers)
    ]
    for process in processes:
        process.start()
    ready.wait(_START_WITHIN_S)
    began = monotonic_s()
    done.wait(_START_WITHIN_S)
    seconds = monotonic_s() - began
    for process in processes:
        process.join()
    _require(not any(process.exitcode for process in processes), "every process to end well")
    return len(entries) / seconds


def _caller(ledger: LedgerSettings, entries: Sequence[Entry], ready: Any, done: Any) -> None:
    client = LedgerClient(ledger)
    client.ping()
    ready.wait(_START_WITHIN_S)
    for entry in entries:
        client.append([entry])
    done.wait(_START_WITHIN_S)


def _require_same(settings: Settings, files: Sequence[Path], entries: Sequence[Entry]) -> None:
    """Hold what both wrote against the entries themselves."""
    expected = sorted(entry.canonical() for entry in entries)
    for file in files:
        with closing(sqlite3.connect(file)) as database:
            rows = database.execute("select canonical from entry").fetchall()
        _require(sorted(row[0] for row in rows) == expected, "every entry in SQLite")
    with psycopg.connect(_conninfo(settings)) as connection:
        rows = connection.execute(
            "select canonical from ledger.entry where key = any(%s)",
            ([entry.key for entry in entries],),
        ).fetchall()
    _require(sorted(row[0] for row in rows) == expected, "every entry in the ledger")


# --- a large log ----------------------------------------------------------------------------------


def _large(settings: Settings, size: int) -> dict[str, Any]:
    began = monotonic_s()
    log = LedgerLog(settings.postgres, sign=signer(settings), public_key=public_key(settings))
    log.ping()
    for first in range(0, size, _BATCH):
        count = min(_BATCH, size - first)
        leaves = [Leaf.of(entry.canonical()) for entry in made_entries(count, f"large-{first}")]
        log.append([leaves])
        if first // _BATCH % 50 == 49:
            figures.say(f"{first + count:,} of {size:,} entries")
    _require(log.head.size == size, f"{size} entries")
    log.close()
    filled_s = monotonic_s() - began
    with _appender(settings) as started_s:
        client = LedgerClient(settings.ledger)
        seconds = []
        for index in random.Random(_SEED).sample(range(size), _PROOFS):  # noqa: S311 (a sample)
            began = monotonic_s()
            client.prove(index)
            seconds.append(monotonic_s() - began)
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "log_entries": size,
        "log_filled_s": filled_s,
        "log_start_s": started_s,
        "proof_p50_ms": 1000 * cuts[49],
        "proof_p99_ms": 1000 * cuts[98],
    }


# --- the platform's parts -------------------------------------------------------------------------


@contextmanager
def _storage() -> Iterator[tuple[Settings, Path]]:
    """Run what the appender writes to: Postgres, and the store for its checkpoints."""
    scratch = Path(tempfile.mkdtemp(prefix="marketlake-ledger-"))
    scratch.chmod(0o711)
    settings = prepare(scratch / "platform", usual_ports=False)
    server, store = components.postgres(settings), components.seaweedfs(settings)
    try:
        server.start()
        store.start()
        Lake(settings.lake).ensure_buckets()
        yield settings, scratch
    finally:
        store.stop()
        server.stop()
        shutil.rmtree(scratch)


@contextmanager
def _appender(settings: Settings) -> Iterator[float]:
    """Run an appender; yield the seconds until it answered."""
    ledger, postgres, lake = settings.ledger, settings.postgres, settings.lake
    variables = {
        "MARKETLAKE_HOME": str(settings.home),
        "MARKETLAKE_LEDGER__PORT": str(ledger.port),
        "MARKETLAKE_LEDGER__TOKEN": ledger.token.get_secret_value(),
        "MARKETLAKE_POSTGRES__PORT": str(postgres.port),
        "MARKETLAKE_POSTGRES__PASSWORD": postgres.password.get_secret_value(),
        "MARKETLAKE_LAKE__ENDPOINT_URL": str(lake.endpoint_url),
        "MARKETLAKE_LAKE__ACCESS_KEY": lake.access_key.get_secret_value(),
        "MARKETLAKE_LAKE__SECRET_KEY": lake.secret_key.get_secret_value(),
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
    began = monotonic_s()
    process = subprocess.Popen(
        [sys.executable, "-m", "marketlake.services.ledger_appender"], env=os.environ | variables
    )
    try:
        while True:
            try:
                LedgerClient(ledger).ping()
                break
            except MarketlakeError:
                if process.poll() is not None or monotonic_s() - began > _START_WITHIN_S:
                    raise
                sleep_s(0.02)
        yield monotonic_s() - began
    finally:
        process.terminate()
        process.wait()


def _conninfo(settings: Settings) -> str:
    return settings.postgres.conninfo(settings.postgres.ledger_db)


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise SystemExit(f"expected {what}")


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    processes = statistics.median(found["processes_per_s"])
    figures.table(
        f"{found['callers']} callers, {found['entries_a_round']:,} entries a round",
        ("figure", "was", "asked"),
        [
            ("appends/s by threads", found["appends_per_s"], f"goal {GOAL_PER_S:,}"),
            ("against SQLite", found["times_sqlite"], f">= {TIMES_SQLITE:g}"),
            ("against SQLite, write-ahead log", found["times_sqlite_wal"], ""),
            ("the same, a connection each", found["times_sqlite_wal_connections"], ""),
            ("appends/s by processes", processes, ""),
            (f"proof at {found['log_entries']:,}, p50 ms", found["proof_p50_ms"], ""),
            (
                f"proof at {found['log_entries']:,}, p99 ms",
                found["proof_p99_ms"],
                f"< {PROOF_MS:g}",
            ),
            (f"start at {found['log_entries']:,}, s", found["log_start_s"], ""),
        ],
    )


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    figures_missed = {
        "appends against SQLite": found["times_sqlite"] < TIMES_SQLITE,
        "inclusion proof": found["proof_p99_ms"] >= PROOF_MS,
    }
    return [name for name, is_missed in figures_missed.items() if is_missed]
