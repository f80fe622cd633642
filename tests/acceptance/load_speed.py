"""Loading the warehouse against pandas' ``to_sql`` and the server's own ``COPY`` of a file.

A Postgres of its own. Every load begins with the same table empty, key and all, under the same
settings, and the rows it leaves are compared, by their content, with those that psycopg writes one
by one; the file of ``COPY`` is the server's copy of those. ``to_sql`` is slow enough to be given
fewer rows: rates are compared, and the number of rows is kept beside them.
"""

from __future__ import annotations

import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import psycopg
import pyarrow as pa
import sqlalchemy
from marketlake.clock import monotonic_s
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR
from marketlake.contracts.ddl import relation
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.storage.warehouse import Loaded, Warehouse

from tests.acceptance import figures
from tests.acceptance.made_bars import made_bars

TO_SQL_TIMES = 10.0
COPY_RATIO = 2.5
REPLAY_RATIO = 1.5
_TABLE = relation(BAR)
Content = list[dict[str, Any]]
_TEXTS = [item.name for item in BAR.fields if item.kind == "strings"]


def measure(*, rows: int, to_sql_rows: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each, by rounds."""
    bars = made_bars(rows)
    sessions = bars.column("session").unique().to_pylist()
    part = _as_pandas_writes(bars.slice(0, to_sql_rows))
    seconds: dict[str, list[float]] = {"load": [], "replay": [], "copy": [], "to_sql": []}
    changed = []
    with _postgres() as (warehouse, reachable):
        file = reachable / "bars.binary"
        part_content = _write_one_by_one(warehouse, bars.slice(0, to_sql_rows))
        content = _write_one_by_one(warehouse, bars)
        _run(warehouse, f"copy {_TABLE} to '{file}' (format binary)")
        durability = _durability(warehouse)
        engine = sqlalchemy.create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(warehouse.conninfo)
        )
        for number in range(1, rounds + 1):
            _empty(warehouse)
            seconds["load"].append(
                _seconds(lambda: _require(warehouse.load(BAR, bars, sessions=sessions), rows))
            )
            _require_rows(warehouse, content, "the load")
            written = _fingerprint(warehouse, "t.xmin::text || t.ctid::text")
            began = monotonic_s()
            replay = warehouse.load(BAR, bars, sessions=sessions)
            seconds["replay"].append(monotonic_s() - began)
            changed.append(replay.inserted + replay.deleted)
            if _fingerprint(warehouse, "t.xmin::text || t.ctid::text") != written:
                raise SystemExit("the replay wrote rows again")
            _empty(warehouse)
            seconds["copy"].append(_seconds(lambda: _copy_from(warehouse, file)))
            _require_rows(warehouse, content, "COPY")
            _empty(warehouse)
            seconds["to_sql"].append(
                _seconds(
                    lambda: part.to_sql(
                        BAR.table,
                        engine,
                        schema=BAR.layer,
                        if_exists="append",
                        index=False,
                        dtype=dict.fromkeys(_TEXTS, sqlalchemy.ARRAY(sqlalchemy.Text)),
                    )
                )
            )
            _require_rows(warehouse, part_content, "to_sql")
            figures.say(
                f"round {number}: "
                + ", ".join(f"{name} {values[-1]:.2f} s" for name, values in seconds.items())
            )
        engine.dispose()
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "rows": rows,
        "to_sql_rows": to_sql_rows,
        "durability": durability,
        **{f"{name}_s": values for name, values in seconds.items()},
        "load_rows_per_s": rows / middle["load"],
        "to_sql_rows_per_s": to_sql_rows / middle["to_sql"],
        "times_to_sql": (rows / middle["load"]) / (to_sql_rows / middle["to_sql"]),
        "times_to_sql_target": TO_SQL_TIMES,
        "of_copy": middle["load"] / middle["copy"],
        "of_copy_target": COPY_RATIO,
        "replay_of_load": middle["replay"] / middle["load"],
        "replay_of_load_target": REPLAY_RATIO,
        "replay_rows_changed": max(changed),
    }


@contextmanager
def _postgres() -> Iterator[tuple[Warehouse, Path]]:
    """Yield a warehouse with its tables, and a folder that its server can read and write."""
    scratch = Path(tempfile.mkdtemp(prefix="marketlake-loads-"))
    scratch.chmod(0o711)
    reachable = scratch / "files"
    reachable.mkdir()
    reachable.chmod(0o777)  # the server runs as another user where we are root
    settings = prepare(scratch / "platform", usual_ports=False)
    server = components.postgres(settings)
    try:
        server.start()
        warehouse = Warehouse(settings.postgres)
        warehouse.ensure_schema()
        yield warehouse, reachable
    finally:
        server.stop()
        shutil.rmtree(scratch)


def _as_pandas_writes(bars: pa.Table) -> pd.DataFrame:
    """Return the rows with lists for arrays, which the database driver does not take."""
    frame: pd.DataFrame = bars.to_pandas()
    return frame.assign(**{name: frame[name].map(list) for name in _TEXTS})


def _seconds(work: Callable[[], object]) -> float:
    began = monotonic_s()
    work()
    return monotonic_s() - began


def _run(warehouse: Warehouse, statement: str) -> None:
    with psycopg.connect(warehouse.conninfo) as connection:
        connection.execute(statement)


def _empty(warehouse: Warehouse) -> None:
    _run(warehouse, f"truncate {_TABLE}")
    with psycopg.connect(warehouse.conninfo, autocommit=True) as connection:
        connection.execute("checkpoint")  # what the last load left to write is not the next one's


def _write_one_by_one(warehouse: Warehouse, bars: pa.Table) -> Content:
    """Write the rows without any of our own code, and return their fingerprint."""
    _empty(warehouse)
    with (
        psycopg.connect(warehouse.conninfo) as connection,
        connection.cursor().copy(f"copy {_TABLE} from stdin") as copy,
    ):
        for batch in bars.to_batches(max_chunksize=10_000):
            for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                copy.write_row(row)
    return _fingerprint(warehouse)


def _copy_from(warehouse: Warehouse, file: Path) -> None:
    _run(warehouse, f"copy {_TABLE} from '{file}' (format binary)")


def _fingerprint(warehouse: Warehouse, of: str = "t::text") -> Content:
    """Return the number of rows and a hash of all of them, in whatever order they lie."""
    return warehouse.query(
        f"select count(*) as rows, sum(hashtextextended({of}, 0)) as hash from {_TABLE} as t"  # noqa: S608
    )


def _durability(warehouse: Warehouse) -> dict[str, str]:
    """Return the settings that every way of loading ran under."""
    rows = warehouse.query(
        "select name, setting from pg_settings where name in"
        " ('fsync', 'synchronous_commit', 'full_page_writes', 'wal_level', 'data_checksums')"
    )
    return {row["name"]: row["setting"] for row in rows}


def _require(loaded: Loaded, rows: int) -> None:
    if loaded != Loaded(inserted=rows, deleted=0):
        raise SystemExit(f"expected {rows} new rows, was {loaded}")


def _require_rows(warehouse: Warehouse, expected: Content, who: str) -> None:
    if _fingerprint(warehouse) != expected:
        raise SystemExit(f"{who} left other rows than psycopg writes one by one")


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    figures.table(
        f"{found['rows']:,} rows; to_sql {found['to_sql_rows']:,}",
        ("figure", "was", "asked"),
        [
            ("rows/s against to_sql", found["times_to_sql"], f">= {TO_SQL_TIMES:g}"),
            ("time against COPY of a file", found["of_copy"], f"<= {COPY_RATIO:g}"),
            ("time of a replay", found["replay_of_load"], f"<= {REPLAY_RATIO:g}"),
            ("rows a replay changes", found["replay_rows_changed"], "0"),
        ],
    )


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    asked = {
        "load against to_sql": found["times_to_sql"] >= TO_SQL_TIMES,
        "load against COPY": found["of_copy"] <= COPY_RATIO,
        "replay against load": found["replay_of_load"] <= REPLAY_RATIO,
        "rows changed by a replay": found["replay_rows_changed"] == 0,
    }
    return [name for name, is_met in asked.items() if not is_met]
