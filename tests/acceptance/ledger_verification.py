"""How quickly the offline verifier checks a whole log, with one process and with two.

Everything is checked: each entry's bytes against its stored hash, indexes, the tree, every
checkpoint's root, time and signature (or the hash of it that the next one signs), and each entry's
time against its checkpoint's.
"""

from __future__ import annotations

import hashlib
import statistics
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from marketlake.clock import monotonic_s
from marketlake.storage.proof.checkpoint import Checkpoint, public_key_text, sign
from marketlake.storage.proof.export_file import write_export
from marketlake.storage.proof.leaf import canonical_json, encode_entry
from marketlake.storage.proof.merkle import MerkleTree, leaf_hash
from marketlake.storage.proof.stored import StoredCheckpoint, StoredRow
from marketlake.storage.proof.verification import verify_file

from tests.acceptance import figures

TARGET_ENTRIES_S = 500_000
_ORIGIN = "marketlake.example/ledger"
_BEGAN = datetime(2022, 12, 28, 21, 15, tzinfo=UTC)


def measure(*, entries: int, entries_a_checkpoint: int, rounds: int) -> dict[str, Any]:
    """Return the seconds of each, in turns."""
    key = Ed25519PrivateKey.generate()
    pinned = public_key_text(_ORIGIN, key)
    seconds: dict[str, list[float]] = {"1": [], "2": []}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "master_log.db"
        root, size = _write(path, entries, entries_a_checkpoint, key)
        for number in range(1, rounds + 1):
            for workers, taken in seconds.items():
                began = monotonic_s()
                found = verify_file(path, public_key=pinned, workers=int(workers))
                taken.append(monotonic_s() - began)
                if (found.ok, found.size, found.root_hash) != (True, entries, root):
                    raise SystemExit(f"an honest log was refused: {found.faults[:3]}")
                figures.say(
                    f"round {number}, {workers} processes: {entries / taken[-1]:,.0f} entries/s"
                )
    return {
        "entries": entries,
        "bytes_an_entry": size,
        "entries_a_checkpoint": entries_a_checkpoint,
        "seconds_by_processes": seconds,
        "entries_a_second_by_processes": {
            workers: entries / statistics.median(taken) for workers, taken in seconds.items()
        },
        "target_entries_a_second": TARGET_ENTRIES_S,
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures as a table."""
    figures.table(
        f"{found['entries']:,} entries of {found['bytes_an_entry']:.0f} bytes, "
        f"a signed checkpoint every {found['entries_a_checkpoint']}",
        ("processes", "entries/s", "best s", "median s"),
        [
            (
                workers,
                f"{found['entries_a_second_by_processes'][workers]:,.0f}",
                min(taken),
                statistics.median(taken),
            )
            for workers, taken in found["seconds_by_processes"].items()
        ],
    )


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    best = max(found["entries_a_second_by_processes"].values())
    return [f"only {best:,.0f} entries/s"] if best < TARGET_ENTRIES_S else []


def _write(
    path: Path, entries: int, entries_a_checkpoint: int, key: Ed25519PrivateKey
) -> tuple[str, float]:
    """Write a log as a busy platform's would be; return its root and an entry's mean size."""
    tree = MerkleTree()
    sizes = []

    def rows() -> Iterator[StoredRow]:
        for index in range(entries):
            one = _row(index)
            tree.append(bytes.fromhex(one.leaf_hash))
            sizes.append(len(one.canonical))
            yield one

    def points() -> Iterator[StoredCheckpoint]:  # read after the rows
        note = None
        for size in [*range(0, entries, entries_a_checkpoint), entries]:
            at = (_BEGAN + timedelta(milliseconds=size)).isoformat()
            point = Checkpoint(size, tree.root(size).hex(), at)
            note = sign(point, origin=_ORIGIN, key=key, previous=note)
            yield StoredCheckpoint(*vars(point).values(), note)

    write_export(path, rows(), points(), origin=_ORIGIN)
    return tree.root(entries).hex(), statistics.fmean(sizes)


def _row(index: int) -> StoredRow:
    run = {
        "dag_id": "ingest_market_data",
        "map_index": index % 7 - 1,
        "run_id": f"scheduled__2022-12-{1 + index // 20_000 % 28:02d}T21:15:00+00:00",
        "task_id": "fetch",
        "try_number": 1,
    }
    payload = {
        "body_sha256": hashlib.sha256(b"%d" % index).hexdigest(),
        "bytes": 10_000 + index % 5000,
        "request": {"symbol": f"S{index % 500}", "source": "yahoo"},
        "run": run,
        "status": 200,
    }
    key = "/".join(str(run[name]) for name in ("dag_id", "run_id", "task_id", "map_index"))
    at = (_BEGAN + timedelta(milliseconds=index, microseconds=index % 1000)).isoformat()
    content = encode_entry(f"{key}/1/{index:08d}", "vendor_call", at, canonical_json(payload))
    names = ("vendor_call", str(run["dag_id"]), str(run["run_id"]))
    return StoredRow(index, key, *names, at, content, leaf_hash(content).hex())
