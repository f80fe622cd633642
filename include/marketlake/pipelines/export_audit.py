"""Write the audit files that people asked for by name, from the ledger alone.

Hours are those in which entries were recorded, in the exchange's zone; a month's file holds what
was committed in that month. A file is a function of the log: written again it has the same bytes,
unless its hour or month has grown. How far the files are is read from the newest month's file,
which each export writes last.
"""

from __future__ import annotations

import itertools
import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

from marketlake.clock import utc_now
from marketlake.errors import NotFound
from marketlake.pipelines.context import RunContext
from marketlake.storage.canonical import canonical_json, sha256_hex
from marketlake.storage.ledger import LedgerClient, Recorded
from marketlake.storage.proof.checkpoint import Checkpoint
from marketlake.storage.proof.export_file import ExportFile
from marketlake.storage.proof.month_file import Frontier, Month, month_of, write_month
from marketlake.storage.proof.stored import StoredRow

FOLDER = "audit_logs"
_HOURLY = {
    "api_calls": frozenset({"vendor_call"}),
    "calculations": frozenset({"calculation", "gate", "model", "trial"}),
}
_ABOUT_TRADES = frozenset({"signal", "trade"})
_WINDOW_ENTRIES = 20_000
_FILES_AN_ENTRY = 3_000
# A long backfill exports after each session: growing files would be written quadratically.
_WORTH_WRITING = 1 / 8
_RECENT_SESSIONS = 5


def export(ctx: RunContext, session: date) -> dict[str, Any]:
    """Write every file that has grown; for an older session, only once enough has come together.

    The market's last sessions write everything. So does :func:`export_everything`.
    """
    market = ctx.settings.market
    newest = market.last_session or ctx.calendar.latest_due(utc_now(), market.publish_delay_minutes)
    recent = ctx.calendar.previous(newest, _RECENT_SESSIONS - 1)
    return _Exports(ctx).write(everything=session >= recent)


def export_everything(ctx: RunContext) -> dict[str, Any]:
    """Write every file that has grown."""
    return _Exports(ctx).write(everything=True)


class _Exports:
    """One export: what it wrote is told to the ledger at its end."""

    def __init__(self, ctx: RunContext) -> None:
        self._ctx = ctx
        self._log = LedgerClient(ctx.settings.ledger)
        self._written: list[dict[str, Any]] = []
        self._decisions: dict[str, list[int]] = {}

    def write(self, *, everything: bool) -> dict[str, Any]:
        head = self._log.checkpoint()
        known, covered = self._newest_month()
        grown = head.size - covered
        if not everything and covered and grown < _WORTH_WRITING * (covered - known.before.size):
            return {"files": 0, "entries": covered, "waiting": grown}
        for first in range(covered, head.size, _WINDOW_ENTRIES):
            self._write_window(first, min(first + _WINDOW_ENTRIES, head.size), head)
        self._write_months(known, head)
        for start in range(0, len(self._written), _FILES_AN_ENTRY):
            self._ctx.ledger.record(
                "exported",
                files=self._written[start : start + _FILES_AN_ENTRY],
                log={"size": head.size, "root_hash": head.root_hash},
            )
        return {"files": len(self._written), "entries": head.size, "waiting": 0}

    def _write_window(self, first: int, end: int, head: Checkpoint) -> None:
        """Write the hours and decisions that some new entries belong to."""
        hours: dict[str, list[Recorded]] = defaultdict(list)
        fresh = self._log.entries(since_index=first, limit=end - first)
        touched = {file for entry in fresh for file in self._hours_of(entry)}
        stored = {file: self._stored(file) for file in touched}
        # An hour is written whole, from the log: what its file holds already is not believed.
        begin = min([first, *(_first_of(body) for body in stored.values() if body)])
        earlier = self._log.entries(since_index=begin, limit=first - begin) if begin < first else []
        for entry in (*earlier, *fresh):
            for file in touched.intersection(self._hours_of(entry)):
                hours[file].append(entry)
        for file, entries in sorted(hours.items()):
            self._put(file, self._document(file, entries, head), entries, before=stored[file])
        for entry in fresh:
            if entry.kind == "decision" and _about(entry) in _ABOUT_TRADES:
                self._write_decision(entry, head)

    def _hours_of(self, entry: Recorded) -> Iterator[str]:
        for folder, kinds in _HOURLY.items():
            if entry.kind in kinds:
                hour = self._local(entry.recorded_at_utc).strftime("%Y%m%d_%H")
                yield f"{FOLDER}/{folder}/{hour}.json"

    def _write_decision(self, entry: Recorded, head: Checkpoint) -> None:
        """Write one decision; others of its second get a number, in the order of the log."""
        second = self._local(entry.recorded_at_utc).strftime("%Y%m%d_%H%M%S")
        name = f"{FOLDER}/decisions/trade_decision_{second}"
        if name not in self._decisions:
            self._decisions[name] = self._decisions_at(name)
        places = self._decisions[name]
        if entry.index in places:
            return
        places.append(entry.index)
        file = f"{name}.json" if len(places) == 1 else f"{name}_{len(places)}.json"
        self._put(file, self._document(file, [entry], head), [entry], before=None)

    def _decisions_at(self, name: str) -> list[int]:
        """Return the indices of the decisions that a second's files already hold."""
        shape = re.compile(rf"{re.escape(name)}(?:_(\d+))?\.json")
        found = [match for file in self._ctx.lake.list_keys(name) if (match := shape.match(file))]
        found.sort(key=lambda match: int(match[1] or 1))
        return [_first_of(self._ctx.lake.get_bytes(match[0])) for match in found]

    def _newest_month(self) -> tuple[Month, int]:
        """Return the newest month's file in short, and how many entries all files cover."""
        files = self._ctx.lake.list_keys(f"{FOLDER}/master_log_")
        if not files:
            return Month("", Frontier()), 0
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "month.db"
            path.write_bytes(self._ctx.lake.get_bytes(files[-1]))
            with ExportFile(path) as file:
                known = month_of(file)
                return known, max(file.bounds()[1], known.before.size)

    def _write_months(self, known: Month, head: Checkpoint) -> None:
        """Write the newest month's file, and those of the months that have begun since."""
        tree = known.before.copy()
        points = list(self._log.checkpoints(tree.size, head.size))
        months = itertools.groupby(points, key=lambda point: max(known.month, self._month(point)))
        start: list[Checkpoint] = []
        for month, group in months:
            own = [*start, *group]
            if own[-1].size > tree.size:
                self._write_month(Month(month, tree.copy()), own, tree)
            start = own[-1:]

    def _write_month(self, month: Month, points: Sequence[Checkpoint], tree: Frontier) -> None:
        """Write one month, and move ``tree`` to its end."""
        ledger = self._ctx.settings.ledger
        end = points[-1].size
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "month.db"
            write_month(
                path,
                month,
                _growing(tree, self._log.rows(tree.size, end)),
                points,
                origin=ledger.origin,
                public_key=ledger.public_key or "",
            )
            body = path.read_bytes()
        file = f"{FOLDER}/master_log_{month.month}.db"
        span = (month.before.size, end)
        self._put_span(file, body, span, before=self._stored(file))

    def _document(self, file: str, entries: Sequence[Recorded], head: Checkpoint) -> bytes:
        """Return a file of entries, one a line, and the first checkpoint that covers them all."""
        first, end = _span(entries)
        covering = next(iter(self._log.checkpoints(end, head.size)))
        about = {
            "file": file,
            "range": {"first": first, "end": end},
            "checkpoint": {
                "size": covering.size,
                "root_hash": covering.root_hash,
                "recorded_at_utc": covering.recorded_at_utc,
                "note": covering.note,
            },
        }
        lines = b",\n".join(canonical_json(_as_json(entry), where=file) for entry in entries)
        return canonical_json(about, where=file)[:-1] + b',"entries":[\n' + lines + b"\n]}\n"

    def _put(
        self, file: str, body: bytes, entries: Sequence[Recorded], *, before: bytes | None
    ) -> None:
        self._put_span(file, body, _span(entries), before=before)

    def _put_span(
        self, file: str, body: bytes, span: tuple[int, int], *, before: bytes | None
    ) -> None:
        if body == before:
            return
        version_id = self._ctx.lake.put_record(file, body)
        self._written.append(
            {
                "file": file,
                "sha256": sha256_hex(body),
                "version_id": version_id,
                "first": span[0],
                "end": span[1],
            }
        )

    def _stored(self, file: str) -> bytes | None:
        try:
            return self._ctx.lake.get_bytes(file)
        except NotFound:
            return None

    def _month(self, point: Checkpoint) -> str:
        return self._local(point.recorded_at_utc).strftime("%Y%m")

    def _local(self, instant: str) -> datetime:
        return self._ctx.calendar.local(datetime.fromisoformat(instant))


def _growing(tree: Frontier, rows: Iterable[StoredRow]) -> Iterator[StoredRow]:
    for row in rows:
        tree.append(bytes.fromhex(row.leaf_hash))
        yield row


def _about(entry: Recorded) -> str:
    return str(entry.payload.get("name", "")).partition("_")[0]


def _span(entries: Sequence[Recorded]) -> tuple[int, int]:
    return entries[0].index, entries[-1].index + 1


def _first_of(body: bytes) -> int:
    return int(json.loads(body)["range"]["first"])


def _as_json(entry: Recorded) -> dict[str, Any]:
    return {
        "index": entry.index,
        "leaf_hash": entry.leaf_hash,
        "key": entry.key,
        "kind": entry.kind,
        "recorded_at_utc": entry.recorded_at_utc,
        "payload": dict(entry.payload),
    }
