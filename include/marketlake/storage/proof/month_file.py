"""One month of the ledger as a file of its own: an export that begins in the middle of the log.

The hashes of the complete subtrees before its first entry (the frontier) stand in the file, so the
roots of its checkpoints can be recomputed from it alone. A month is told by the checkpoints'
times, so that a file begins and ends with one. What does not belong here: where months are kept.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from .checkpoint import Checkpoint, PublicKey
from .export_file import ExportFile, NotAnExport, write_export
from .merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash, node_hash
from .stored import StoredCheckpoint, StoredRow, judge
from .verification import Verification

_MAX_FAULTS = 100


class Frontier:
    """The complete subtrees of a log of ``size`` entries, the largest first: enough to go on."""

    def __init__(self, size: int = 0, subtrees: Sequence[bytes] = ()) -> None:
        if len(subtrees) != size.bit_count() or any(len(one) != HASH_BYTES for one in subtrees):
            raise ValueError(f"a log of {size} entries has {size.bit_count()} complete subtrees")
        self.size = size
        self._subtrees = list(subtrees)

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash."""
        node, size = leaf, self.size
        while size & 1:
            node = node_hash(self._subtrees.pop(), node)
            size >>= 1
        self._subtrees.append(node)
        self.size += 1

    def root(self) -> bytes:
        """Return the root of the log so far."""
        folded = b""
        for node in reversed(self._subtrees):
            folded = node_hash(node, folded) if folded else node
        return folded or EMPTY_ROOT

    def copy(self) -> Frontier:
        """Return one that goes its own way from here."""
        return Frontier(self.size, self._subtrees)

    def text(self) -> str:
        """Return the subtrees as a file keeps them."""
        return " ".join(node.hex() for node in self._subtrees)


@dataclass(frozen=True)
class Month:
    """What a file says of itself: its month (YYYYMM) and the log before its first entry."""

    month: str
    before: Frontier


def write_month(
    path: Path,
    month: Month,
    rows: Iterable[StoredRow],
    checkpoints: Iterable[Checkpoint],
    *,
    origin: str = "",
    public_key: str = "",
) -> int:
    """Write a new file; return how many entries it has. Same entries give the same bytes."""
    draft = path.with_name(f"{path.name}.draft")
    stored = [
        one
        if isinstance(one, StoredCheckpoint)
        else StoredCheckpoint(one.size, one.root_hash, one.recorded_at_utc)
        for one in checkpoints
    ]
    count = write_export(draft, rows, stored, origin=origin, public_key=public_key)
    with closing(sqlite3.connect(draft)) as database, database:
        database.executemany(
            "insert into meta values (?, ?)",
            [
                ("month", month.month),
                ("first", str(month.before.size)),
                ("frontier", month.before.text()),
            ],
        )
    draft.replace(path)
    return count


def month_of(file: ExportFile) -> Month:
    """Return what an opened file says of itself; NotAnExport when it is no month."""
    meta = file.meta()
    try:
        subtrees = [bytes.fromhex(text) for text in meta["frontier"].split()]
        return Month(meta["month"], Frontier(int(meta["first"]), subtrees))
    except (KeyError, ValueError) as error:
        raise NotAnExport(f"it is no month of the ledger: {error}") from None


def is_month(file: ExportFile) -> bool:
    """Return whether an opened export is one month of a longer log."""
    return "frontier" in file.meta()


def verify_month(path: Path, *, public_key: str | None = None) -> Verification:
    """Recompute every leaf and every checkpoint's root from the file alone.

    With the pinned key, every checkpoint must carry a note it signed. The checkpoint at the file's
    start vouches for what came before; the months' files together are the whole log.
    """
    pinned = PublicKey.read(public_key) if public_key is not None else None
    faults: list[str] = []
    with ExportFile(path) as file:
        tree = month_of(file).before
        pending = _believed(file, pinned, faults)
        last = pending[-1].size if pending else tree.size
        if not pending or (tree.size and pending[0].size != tree.size):
            faults.append(f"no checkpoint stands at the file's start, {tree.size}")
        if _read_rows(file, tree, pending, faults) and tree.size != last:
            faults.append(
                f"entries {tree.size} to {last - 1} are missing: the tail was cut"
                if tree.size < last
                else f"entry {last} stands behind the last checkpoint"
            )
    return Verification(not faults, tree.size, tree.root().hex(), faults)


def _believed(file: ExportFile, pinned: PublicKey | None, faults: list[str]) -> list[Checkpoint]:
    found = []
    for believed, fault in judge(file.checkpoints(), pinned):
        if fault is not None:
            faults.append(fault)
        if believed is not None:
            found.append(believed)
    return found


def _read_rows(
    file: ExportFile, tree: Frontier, pending: list[Checkpoint], faults: list[str]
) -> bool:
    """Add every row to the tree; return whether they follow each other without a gap."""
    for row in file.rows():
        _hold(tree, pending, faults)
        if row.index != tree.size:
            faults.append(f"entry {tree.size} is missing (the next one is {row.index})")
            return False
        fault = row.fault()
        if fault is not None:
            faults.append(f"entry {row.index}: {fault}")
        tree.append(leaf_hash(row.canonical))
        if len(faults) >= _MAX_FAULTS:
            return False
    _hold(tree, pending, faults)
    return True


def _hold(tree: Frontier, pending: list[Checkpoint], faults: list[str]) -> None:
    """Compare the tree with the checkpoint of its size, if there is one."""
    while pending and pending[0].size <= tree.size:
        one = pending.pop(0)
        if one.size < tree.size:
            faults.append(f"checkpoint {one.size} stands before the file's start")
        elif tree.root().hex() != one.root_hash:
            faults.append(
                f"one of the entries before {one.size} is not what was recorded: the root differs "
                f"from the checkpoint of {one.recorded_at_utc}"
            )
