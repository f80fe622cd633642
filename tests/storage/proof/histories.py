"""Made-up histories of a log: entries in commits, each commit with its signed checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st
from marketlake.storage.proof.checkpoint import Checkpoint, public_key_text, sign
from marketlake.storage.proof.export_file import write_export
from marketlake.storage.proof.leaf import canonical_json, encode_entry
from marketlake.storage.proof.merkle import MerkleTree, leaf_hash
from marketlake.storage.proof.stored import StoredCheckpoint, StoredRow
from marketlake.storage.proof.verification import Kept, Verification, verify_file, verify_log

ORIGIN = "marketlake.example/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PINNED = public_key_text(ORIGIN, KEY)
BEGAN = datetime(2022, 12, 28, 21, 15, tzinfo=UTC)


@dataclass(frozen=True)
class History:
    """What a database holds of one log."""

    rows: list[StoredRow]
    checkpoints: list[StoredCheckpoint]

    @property
    def head(self) -> StoredCheckpoint:
        return self.checkpoints[-1]

    def verify(self, *, kept: Sequence[Kept] = (), pinned: str | None = PINNED) -> Verification:
        return verify_log(self.rows, self.checkpoints, public_key=pinned, kept=kept)

    def write(self, path: Path) -> Path:
        write_export(path, self.rows, self.checkpoints, origin=ORIGIN, public_key=PINNED)
        return path

    def verify_as_file(
        self,
        path: Path,
        *,
        kept: Sequence[Kept] = (),
        pinned: str | None = PINNED,
        workers: int = 1,
        block_entries: int = 4,
    ) -> Verification:
        return verify_file(
            self.write(path),
            public_key=pinned,
            kept=kept,
            workers=workers,
            block_entries=block_entries,
        )


def row(index: int, at: datetime, **payload: object) -> StoredRow:
    """Return a right row."""
    run = {"dag_id": "ingest", "run_id": f"run-{index % 3}"} if index % 4 else None
    key, kind = f"ingest/run/{index:08d}", "vendor_call"
    text = canonical_json({"n": index, **payload, **({"run": run} if run else {})})
    content = encode_entry(key, kind, at.isoformat(), text)
    names = (run["dag_id"], run["run_id"]) if run else (None, None)
    # A database may write the same instant in its own way.
    written = at.isoformat(" ").removesuffix(":00") if index % 2 else at.isoformat()
    return StoredRow(index, key, kind, *names, written, content, leaf_hash(content).hex())


def signed(
    point: Checkpoint, key: Ed25519PrivateKey = KEY, previous: str | None = None
) -> StoredCheckpoint:
    """Return a checkpoint's row with its note, which vouches for the one before if it is given."""
    note = sign(point, origin=ORIGIN, key=key, previous=previous)
    return StoredCheckpoint(point.size, point.root_hash, point.recorded_at_utc, note)


def checkpoints_of(
    rows: Sequence[StoredRow],
    sizes: Sequence[int],
    times: Sequence[datetime],
    key: Ed25519PrivateKey = KEY,
) -> list[StoredCheckpoint]:
    """Return a signed checkpoint for each size, of the hashes the rows claim."""
    tree = MerkleTree()
    for one in rows:
        tree.append(bytes.fromhex(one.leaf_hash))
    found: list[StoredCheckpoint] = []
    for size, at in zip(sizes, times, strict=True):
        point = Checkpoint(size, tree.root(size).hex(), at.isoformat())
        # As after a restart, now and then one vouches for nothing.
        previous = found[-1].note if found and len(found) % 4 else None
        found.append(signed(point, key, previous))
    return found


def history(commits: Sequence[int], *, seconds: Sequence[float] = (), text: str = "") -> History:
    """Return an honest history: ``commits`` entries each, a second (or those) apart."""
    sizes, times, rows = [0], [BEGAN], []
    for number, count in enumerate(commits):
        at = times[-1] + timedelta(seconds=seconds[number] if seconds else 1)
        for offset in range(count):
            age = timedelta(milliseconds=300 * ((len(rows) + offset) % 5))
            rows.append(row(len(rows), at - age, text=text))
        sizes.append(len(rows))
        times.append(at)
    return History(rows, checkpoints_of(rows, sizes, times))


honest_histories = st.builds(
    lambda commits, text: history(
        [count for count, _ in commits], seconds=[seconds for _, seconds in commits], text=text
    ),
    st.lists(st.tuples(st.integers(1, 5), st.sampled_from([0, 0.25, 1, 3600])), max_size=6),
    st.sampled_from(["", "é", '"', "a,3:b{", ",32:2022-12-28T21:15:00.000000+00:00,"]),
)


def rewritten(one: History, first: int, key: Ed25519PrivateKey) -> History:
    """Return a consistent log of the same times whose entries differ from ``first`` on."""
    rows = [
        at if at.index < first else row(at.index, BEGAN + timedelta(seconds=1), forged=True)
        for at in one.rows
    ]
    sizes = [point.size for point in one.checkpoints]
    times = [datetime.fromisoformat(point.recorded_at_utc) for point in one.checkpoints]
    return History(rows, checkpoints_of(rows, sizes, times, key))


def with_row(one: History, index: int, **changes: object) -> History:
    """Return the history with one row changed."""
    changed = replace(one.rows[index], **changes)  # type: ignore[arg-type]
    return replace(one, rows=[*one.rows[:index], changed, *one.rows[index + 1 :]])
