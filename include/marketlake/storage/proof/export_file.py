"""The ledger as one SQLite file: every entry, every checkpoint with its signed note, who wrote it.

The bytes are stored once; the columns that searches use are a view of them, so that they cannot
say anything else. The file is read as if somebody hostile had made it. What does not belong here:
judging it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from .leaf import DOMAIN, decode_entry
from .merkle import HASH_BYTES
from .stored import StoredCheckpoint, StoredRow

__all__ = ["FORMAT", "ExportFile", "NotAnExport", "StoredCheckpoint", "StoredRow", "write_export"]

FORMAT = "marketlake.ledger.export.v2"

# So few stay in the processor's cache until they are hashed.
_PAGE_ROWS = 128


def _netstring(name: str, start: str, inner: str) -> str:
    """Return a query that adds where the part beginning at ``start`` lies, and what follows it."""
    return (
        f"select *, {name}_at + {name}_bytes + 1 as after_{name} from (select *, "  # noqa: S608 (our own names)
        f"cast(cast(substr(canonical, {start}, {name}_at - {start} - 1) as text) as integer)"
        f" as {name}_bytes from (select *, {start} + instr(substr(canonical, {start}, 12), x'3a')"
        f" as {name}_at from ({inner})))"
    )


def _text(name: str) -> str:
    return f"cast(substr(canonical, {name}_at, {name}_bytes) as text)"


_PARTS = _netstring(
    "payload",
    "after_time",
    _netstring(
        "time",
        "after_kind",
        _netstring(
            "kind",
            "after_key",
            _netstring("key", str(len(f"{len(DOMAIN)}:{DOMAIN},") + 1), "select * from leaf"),
        ),
    ),
)
_SCHEMA = {
    "leaf": "create table leaf (idx integer primary key, canonical blob not null,"
    " leaf_hash blob not null) strict",
    "checkpoint": "create table checkpoint (size integer primary key, root_hash text not null,"
    " recorded_at_utc text not null, note text) strict",
    "meta": "create table meta (name text primary key, value text not null) strict",
    "entry": f"create view entry as select idx, {_text('key')} as key, {_text('kind')} as kind,"  # noqa: S608
    f" json_extract({_text('payload')}, '$.run.dag_id') as dag_id,"
    f" json_extract({_text('payload')}, '$.run.run_id') as run_id,"
    f" {_text('time')} as recorded_at_utc, canonical, lower(hex(leaf_hash)) as leaf_hash"
    f" from ({_PARTS})",
}


class NotAnExport(ValueError):
    """A file that is no export of the ledger, or cannot be read as one."""


def write_export(
    path: Path,
    rows: Iterable[StoredRow],
    checkpoints: Iterable[StoredCheckpoint],
    *,
    origin: str = "",
    public_key: str = "",
) -> int:
    """Write a new file, which appears only when it is whole; return how many entries it has.

    Origin and key say who claims to have written it; whoever verifies pins a key of their own.
    """
    unfinished = path.with_name(f"{path.name}.part")
    unfinished.unlink(missing_ok=True)
    with closing(sqlite3.connect(unfinished)) as database, database:
        for statement in _SCHEMA.values():
            database.execute(statement)
        written = database.executemany(
            "insert into leaf values (?, ?, ?)",
            ((row.index, row.canonical, bytes.fromhex(row.leaf_hash)) for row in rows),
        )
        count = max(written.rowcount, 0)
        database.executemany(
            "insert into checkpoint values (?, ?, ?, ?)",
            ((one.size, one.root_hash, one.recorded_at_utc, one.note) for one in checkpoints),
        )
        database.executemany(
            "insert into meta values (?, ?)",
            (("format", FORMAT), ("origin", origin), ("public_key", public_key)),
        )
    unfinished.replace(path)
    return count


class ExportFile:
    """Reads an export; a context manager. What cannot be read raises NotAnExport."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            # Read only: nothing that the file brings along may write or call anything.
            location = f"file:{quote(str(path.absolute()))}?mode=ro"
            self._database = sqlite3.connect(location, uri=True, isolation_level=None)
        except sqlite3.Error as error:
            raise NotAnExport(f"{path}: {error}") from None
        try:
            self._require_schema()
        except NotAnExport:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def bounds(self) -> tuple[int, int]:
        """Return the lowest index, and one more than the highest (0 and 0 for an empty log)."""
        low = self._first("select min(idx) from leaf")
        return (0, 0) if low is None else (low, self._first("select max(idx) from leaf") + 1)

    def rows(self) -> Iterator[StoredRow]:
        """Return every row in index order, its columns as its bytes say."""
        for index, canonical, leaf in self.leaves():
            try:
                parts = decode_entry(canonical)
            except ValueError:
                yield StoredRow(index, "", "", None, None, "", canonical, leaf.hex())
                continue
            run = (parts.run.get("dag_id"), parts.run.get("run_id"))
            yield StoredRow(
                index, parts.key, parts.kind, *run, parts.recorded_at_utc, canonical, leaf.hex()
            )

    def leaves(self) -> Iterator[tuple[int, bytes, bytes]]:
        """Return index, bytes and stored hash of every entry, in index order."""
        for page in self.pages("select idx, canonical, leaf_hash from leaf order by idx"):
            for index, canonical, leaf in page:
                if not (isinstance(canonical, bytes) and isinstance(leaf, bytes)):
                    raise NotAnExport(f"{self._path}: entry {index} is not stored as bytes")
                yield index, canonical, leaf[:HASH_BYTES]

    def checkpoints(self, first: int = 0, last: int = (1 << 63) - 1) -> list[StoredCheckpoint]:
        """Return the checkpoints of these sizes, the smallest first."""
        sql = (
            "select size, root_hash, recorded_at_utc, note from checkpoint"
            " where size between ? and ? order by size"
        )
        found = [StoredCheckpoint(*row) for page in self.pages(sql, (first, last)) for row in page]
        for one in found:
            texts = (one.root_hash, one.recorded_at_utc, one.note or "")
            if not all(isinstance(text, str) for text in texts):
                raise NotAnExport(f"{self._path}: checkpoint {one.size} is not stored as text")
        return found

    def checkpoint_sizes(self, first: int, end: int) -> tuple[int, int]:
        """Return the last size up to ``first``, and the first from ``end`` on (0 and -1: none)."""
        before = self._first("select max(size) from checkpoint where size <= ?", (first,))
        after = self._first("select min(size) from checkpoint where size >= ?", (end,))
        return before or 0, -1 if after is None else after

    def meta(self) -> dict[str, str]:
        """Return what the file says of itself."""
        return {
            str(name): str(value)
            for page in self.pages("select name, value from meta")
            for name, value in page
        }

    def pages(self, sql: str, parameters: tuple[int, ...] = ()) -> Iterator[list[tuple[Any, ...]]]:
        """Run one query; return its rows some at a time."""
        try:
            found = self._database.execute(sql, parameters)
            while page := found.fetchmany(_PAGE_ROWS):
                yield page
        except sqlite3.Error as error:
            raise NotAnExport(f"{self._path}: {error}") from None

    def _first(self, sql: str, parameters: tuple[int, ...] = ()) -> Any:
        return next(self.pages(sql, parameters))[0][0]

    def _require_schema(self) -> None:
        sql = "select name, sql from sqlite_schema where sql is not null"
        found = {name: text for page in self.pages(sql) for name, text in page}
        # SQLite keeps the statement as it was written, but for the case of its first words.
        same = found.keys() == _SCHEMA.keys() and all(
            str(found[name]).lower() == statement.lower() for name, statement in _SCHEMA.items()
        )
        if not same:
            raise NotAnExport(f"{self._path} has other tables than an export ({FORMAT})")
