"""Recomputes a whole log and says what is wrong with it, the first bad entry or checkpoint first.

``verify_log`` streams rows of any origin and names every fault. ``verify_file`` first tries to
prove an export right with several processes, and only where that fails streams it: verdict and
messages do not depend on how many there were. What does not belong here: reading a database.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from .checkpoint import Checkpoint, PublicKey, SignatureRefused, open_signed, read_unverified
from .export_file import ExportFile
from .leaf import instant
from .merkle import MerkleTree, leaf_hash
from .ranges import Claim, ProvenRange, RangeTask, prove_range
from .stored import StoredCheckpoint, StoredRow, judge, recorded_at

__all__ = [
    "CLOCK_TOLERANCE_S",
    "Kept",
    "Verification",
    "below_first",
    "verify_file",
    "verify_log",
]

CLOCK_TOLERANCE_S = 300.0
_MAX_FAULTS = 100
_BLOCK_ENTRIES = 1 << 15

# Where a checkpoint was kept, and its note; a bare Checkpoint is believed as it is.
Kept = tuple[str, "str | Checkpoint"]


@dataclass(frozen=True)
class Verification:
    """What a full recomputation found; ``faults`` come in log order, the first bad entry first."""

    ok: bool
    size: int
    root_hash: str
    faults: list[str]


def verify_log(
    rows: Iterable[StoredRow],
    checkpoints: Sequence[Checkpoint],
    *,
    end: int = 0,
    public_key: str | None = None,
    kept: Sequence[Kept] = (),
    clock_tolerance_s: float = CLOCK_TOLERANCE_S,
) -> Verification:
    """Recompute a whole log from its entries' bytes and hold it against every checkpoint.

    Parameters
    ----------
    rows
        Every stored row, in index order.
    checkpoints
        Those stored beside the log, and bare ones that are believed as they are (the appender's
        head, a test's).
    end
        How many entries there must be at least.
    public_key
        The pinned key; with it, every :class:`StoredCheckpoint` must carry a note it signed.
    kept
        Checkpoints that were kept outside the database.
    clock_tolerance_s
        How far an entry's time may be from the signed checkpoint that covers it.
    """
    pinned = PublicKey.read(public_key) if public_key is not None else None
    found = _Examination(pinned, clock_tolerance_s)
    found.read_checkpoints(checkpoints)
    found.read_rows(rows)
    found.look_at_the_end(end)
    found.hold_against_kept(kept)
    return found.verdict()


def below_first(index: int) -> str:
    """Return what is said of a row with a number that no entry of a log can have."""
    return f"entry {index} was planted below the first: no root covers it"


def verify_file(
    path: Path,
    *,
    public_key: str | None = None,
    kept: Sequence[Kept] = (),
    workers: int | None = None,
    clock_tolerance_s: float = CLOCK_TOLERANCE_S,
    block_entries: int = _BLOCK_ENTRIES,
) -> Verification:
    """Verify an export, with ``workers`` processes (default: one a core).

    Raises
    ------
    NotAnExport
        When the file cannot be read as an export.
    ValueError
        When the public key is none.
    """
    with ExportFile(path) as file:
        first, end = file.bounds()
        points = file.checkpoints()
        size = points[-1].size if points else None
        root = None
        if first == 0 and end == size and points[0].size >= 0:
            task = RangeTask(path, 0, end, public_key, clock_tolerance_s, ())
            root = _proven_root(task, kept, workers or os.cpu_count() or 1, block_entries)
        if root is not None:
            return Verification(True, end, root, [])
        return verify_log(
            file.rows(),
            points,
            public_key=public_key,
            kept=kept,
            clock_tolerance_s=clock_tolerance_s,
        )


def _proven_root(
    task: RangeTask, kept: Sequence[Kept], workers: int, block_entries: int
) -> str | None:
    """Return the root of a log in which everything is right, None when it could not be proven."""
    pinned = PublicKey.read(task.public_key) if task.public_key is not None else None
    try:
        opened = [_opened(note, pinned) for _, note in kept]
    except SignatureRefused:
        return None
    if any(one.size > task.end for one in opened):
        return None
    claims = [Claim(one.size, one.root_hash) for one in opened]
    blocks = []
    for first in range(0, max(task.end, 1), block_entries):
        end = min(first + block_entries, task.end)
        own = tuple(one for one in claims if first < one.size <= end or one.size == first == 0)
        blocks.append(replace(task, first=first, end=end, claims=own))
    tree = MerkleTree()
    for block, proven in zip(blocks, _in_processes(blocks, workers), strict=True):
        if proven is None:
            return None
        for claim, part in proven.claims:
            if tree.root(tree.size, part).hex() != claim.root_hash:
                return None
        if block.end - block.first < block_entries:
            right = proven.whole if block.end > block.first else b""
            return tree.root(tree.size, right).hex()
        tree.append(proven.whole)
    return tree.root(tree.size).hex()


def _in_processes(blocks: Sequence[RangeTask], workers: int) -> Iterator[ProvenRange | None]:
    workers = min(workers, len(blocks))
    if workers == 1 or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(prove_range, blocks)
        return
    context = multiprocessing.get_context("fork")
    # Looking for cycles among millions of short-lived rows takes a tenth of the time.
    with ProcessPoolExecutor(workers, mp_context=context, initializer=gc.disable) as processes:
        try:
            yield from processes.map(prove_range, blocks)
        finally:
            processes.shutdown(wait=False, cancel_futures=True)


def _opened(note: str | Checkpoint, pinned: PublicKey | None) -> Checkpoint:
    if isinstance(note, Checkpoint):
        return note
    return open_signed(note, public_key=pinned) if pinned else read_unverified(note)


@dataclass
class _Examination:
    """One pass over a log; faults are kept with the index they concern."""

    pinned: PublicKey | None
    clock_tolerance_s: float
    tree: MerkleTree = field(default_factory=MerkleTree)
    faults: list[tuple[int, str]] = field(default_factory=list)
    believed: list[tuple[Checkpoint, bool]] = field(default_factory=list)
    largest: int = 0
    size: int = 0
    agreed: int = 0
    contiguous: bool = True
    entries_right: bool = True

    def read_checkpoints(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Check the checkpoints by themselves: signatures, columns, times."""
        points = sorted(checkpoints, key=lambda one: one.size)
        for one, (believed, fault) in zip(points, judge(points, self.pinned), strict=True):
            self.largest = max(self.largest, one.size)
            if fault is not None:
                self._add(one.size - 1, fault)
            if believed is not None:
                signed = isinstance(one, StoredCheckpoint) and one.note is not None
                self.believed.append((believed, signed))
        if self.pinned is not None and not checkpoints:
            self._add(0, "there is no checkpoint: nothing vouches for the log")
        self.believed.sort(key=lambda pair: pair[0].size)
        for (earlier, _), (later, _) in pairwise(self.believed):
            if recorded_at(later) < recorded_at(earlier):
                self._add(
                    later.size - 1,
                    f"checkpoint {later.size} is dated before checkpoint {earlier.size}: the clock "
                    f"went back, or one of them was not made when it says",
                )

    def read_rows(self, rows: Iterable[StoredRow]) -> None:
        """Check every row by itself, its place, its time, and the roots on the way."""
        roots = iter([one for one, _ in self.believed])
        covers = iter([one for one, signed in self.believed if signed])
        next_root, cover = next(roots, None), next(covers, None)
        while next_root is not None and next_root.size <= 0:
            self._hold_against(next_root)
            next_root = next(roots, None)
        for row in rows:
            while cover is not None and cover.size <= row.index:
                cover = next(covers, None)
            self._read_row(row, cover)
            while self.contiguous and next_root is not None and next_root.size <= self.tree.size:
                self._hold_against(next_root)
                next_root = next(roots, None)
            if len(self.faults) >= _MAX_FAULTS:
                break

    def look_at_the_end(self, end: int) -> None:
        """Check that nothing is missing behind the last row, nor uncovered before it."""
        last = max(end, self.largest)
        if len(self.faults) >= _MAX_FAULTS:
            return
        if self.size < last:
            message = f"entries {self.size} to {last - 1} are missing: the tail was cut"
            if self.contiguous and self.agreed < self.size:
                # Their checkpoint also covers what is gone, so nothing vouches for them.
                message += f"; entries {self.agreed} to {self.size - 1} cannot be confirmed"
            self._add(self.size, message)
        elif last < self.size:
            self._add(last, f"entry {last} was inserted behind the log: no checkpoint covers it")

    def hold_against_kept(self, kept: Sequence[Kept]) -> None:
        """Compare the log with checkpoints from elsewhere; one fault of a sort a place."""
        told: set[tuple[str, str]] = set()
        opened: list[tuple[str, Checkpoint]] = []
        for where, note in kept:
            try:
                opened.append((where, _opened(note, self.pinned)))
            except SignatureRefused as error:
                if (where, "refused") not in told:
                    told.add((where, "refused"))
                    self._add(self.size, f"the checkpoint kept in {where}: {error}")
        stored = {one.size: one.root_hash for one, _ in self.believed}
        agreed = 0
        for where, one in sorted(opened, key=lambda pair: pair[1].size):
            if one.size > self.size:
                sort = "cut"
            elif one.size > self.tree.size:
                continue  # an entry before it is missing, which has been said
            elif self.tree.root(one.size).hex() == one.root_hash:
                agreed = one.size
                continue
            elif stored.get(one.size) == one.root_hash and not self.entries_right:
                continue  # the entry that is wrong has been named
            else:
                sort = "fork" if stored.get(one.size, one.root_hash) != one.root_hash else "other"
            if (where, sort) not in told:
                told.add((where, sort))
                self._add(*self._contradiction(sort, where, one, agreed))

    def verdict(self) -> Verification:
        """Return everything found, in log order."""
        self.faults.sort(key=lambda fault: fault[0])
        messages = [message for _, message in self.faults[:_MAX_FAULTS]]
        return Verification(not messages, self.size, self.tree.root(self.tree.size).hex(), messages)

    def _read_row(self, row: StoredRow, cover: Checkpoint | None) -> None:
        if row.index < 0:
            self._add(row.index, below_first(row.index))
            return
        if row.index != self.size:
            self._add(
                self.size, f"entry {self.size} is missing (the next one is {row.index})", entry=True
            )
            self.contiguous = False
        fault = row.fault()
        if fault is not None:
            self._add(row.index, f"entry {row.index}: {fault}", entry=True)
        elif cover is not None:
            fault = _clock_fault(row.recorded_at_utc, cover, self.clock_tolerance_s)
            if fault is not None:
                self._add(row.index, f"entry {row.index}: {fault}")
        self.size = row.index + 1
        if self.contiguous:
            self.tree.append(leaf_hash(row.canonical))

    def _hold_against(self, checkpoint: Checkpoint) -> None:
        if self.tree.root(checkpoint.size).hex() == checkpoint.root_hash:
            self.agreed = max(self.agreed, checkpoint.size)
        elif self.entries_right:
            # Every later root differs too; only the first says where to look.
            first, place = _place(self.agreed, checkpoint.size)
            self._add(
                first,
                f"{place} not what was recorded: the root of the first {checkpoint.size} "
                f"differs from the checkpoint of {checkpoint.recorded_at_utc}",
                entry=True,
            )

    def _contradiction(
        self, sort: str, where: str, one: Checkpoint, agreed: int
    ) -> tuple[int, str]:
        if sort == "cut":
            what = "the tail was cut" if self.size else "everything was dropped"
            return self.size, (
                f"entries {self.size} to {one.size - 1} are missing: {what} ({where} holds a "
                f"checkpoint of {one.size} entries of {one.recorded_at_utc})"
            )
        first, place = _place(agreed, one.size)
        if sort == "fork":
            return first, (
                f"fork: {place} not what {where} vouches for: two roots stand for the first "
                f"{one.size} entries"
            )
        return first, (
            f"rewritten since: {place} not what {where} vouches for: the root of the first "
            f"{one.size} differs from its checkpoint of {one.recorded_at_utc}"
        )

    def _add(self, index: int, message: str, *, entry: bool = False) -> None:
        self.faults.append((max(index, 0), message))
        self.entries_right = self.entries_right and not entry


def _place(agreed: int, size: int) -> tuple[int, str]:
    first, final = min(agreed, max(size - 1, 0)), size - 1
    if size == 0:
        return 0, "the empty log is"
    return first, f"entry {final} is" if first == final else f"one of entries {first} to {final} is"


def _clock_fault(recorded_at_utc: str, cover: Checkpoint, tolerance_s: float) -> str | None:
    at = instant(recorded_at_utc)
    if at is not None and abs((recorded_at(cover) - at).total_seconds()) <= tolerance_s:
        return None
    return (
        f"recorded at {recorded_at_utc}, more than {tolerance_s:g} s from checkpoint "
        f"{cover.size} of {cover.recorded_at_utc}, which covers it"
    )
