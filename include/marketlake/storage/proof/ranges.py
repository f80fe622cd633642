"""Proves a range of an export right, quickly: bytes against hashes, checkpoints against their key.

The answer is a hash, or that the range could not be proven; finding out why is slower and left to
``verification``. Ranges begin at multiples of one power of two, so their hashes are nodes of the
whole log's tree and other processes can compute them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from .checkpoint import Checkpoint, PublicKey
from .export_file import ExportFile
from .leaf import DOMAIN, instant
from .merkle import MerkleTree, leaf_hashes
from .stored import judge, recorded_at

_HEAD = f"{len(DOMAIN)}:{DOMAIN},".encode()


@dataclass(frozen=True)
class Claim:
    """A root that somebody vouched for."""

    size: int
    root_hash: str


@dataclass(frozen=True)
class RangeTask:
    """What one process is to prove: entries ``first`` to ``end``, and the claims among them."""

    path: Path
    first: int
    end: int
    public_key: str | None
    clock_tolerance_s: float
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class ProvenRange:
    """The hash of the range's entries, and of those before each claimed size."""

    whole: bytes
    claims: list[tuple[Claim, bytes]]
    checkpoints: int


def prove_range(task: RangeTask) -> ProvenRange | None:
    """Return the hashes of a range in which nothing is wrong by itself; None when something is."""
    pinned = PublicKey.read(task.public_key) if task.public_key is not None else None
    with ExportFile(task.path) as file:
        try:
            reading = _Range(file, task)
            points = _judged(file, task, pinned)
            if points is None or not reading.read() or not reading.dated_as(points):
                return None
        except (KeyError, TypeError, ValueError):  # not even of the form of one
            return None
    own = [point for point, _ in points if task.first < point.size <= task.end or not point.size]
    claims = [Claim(point.size, point.root_hash) for point in own]
    wanted = [claim for claim in (*claims, *task.claims) if claim.size >= task.first]
    return ProvenRange(
        reading.tree.root(task.end - task.first),
        [(claim, reading.hash_of(claim.size)) for claim in wanted],
        len(own),
    )


@dataclass
class _Range:
    file: ExportFile
    task: RangeTask
    tree: MerkleTree = field(default_factory=MerkleTree)
    times: list[bytes] = field(default_factory=list)

    def read(self) -> bool:
        """Return whether indexes have no gap and every stored hash is that of its bytes."""
        sql = "select idx, canonical, leaf_hash from leaf where idx >= ? and idx < ? order by idx"
        leaves, at = [], self.task.first
        for page in self.file.pages(sql, (self.task.first, self.task.end)):
            indexes, contents, stored = zip(*page, strict=True)
            hashes = leaf_hashes(contents)
            if indexes != tuple(range(at, at + len(page))) or b"".join(stored) != hashes:
                return False
            at += len(page)
            leaves.append(hashes)
            self.times += _times(contents)
        self.tree.extend(b"".join(leaves))
        return at == self.task.end

    def dated_as(self, points: Sequence[tuple[Checkpoint, bool]]) -> bool:
        """Return whether checkpoints follow each other in time, and entries are dated near them."""
        dates = [recorded_at(point) for point, _ in points]
        if any(later < earlier for earlier, later in pairwise(dates)):
            return False
        low = self.task.first
        for (point, signed), date in zip(points, dates, strict=True):
            high = max(low, min(point.size, self.task.end))
            span = self.times[low - self.task.first : high - self.task.first]
            low = high
            if not (signed and span):
                continue
            for text in (min(span), max(span)):
                at = instant(text.decode())
                if at is None or abs((at - date).total_seconds()) > self.task.clock_tolerance_s:
                    return False
        return True

    def hash_of(self, size: int) -> bytes:
        """Return the hash of this range's entries before ``size``, as a subtree on the right."""
        part = size - self.task.first
        return self.tree.root(part) if part else b""


def _judged(
    file: ExportFile, task: RangeTask, pinned: PublicKey | None
) -> list[tuple[Checkpoint, bool]] | None:
    # With the one before and the one after: times are compared, and the last one covers the rest.
    before, after = file.checkpoint_sizes(task.first, task.end)
    points = []
    stored = file.checkpoints(before, max(after, task.end))
    for one, (believed, fault) in zip(stored, judge(stored, pinned), strict=True):
        if fault is not None or believed is None:
            return None
        points.append((believed, one.note is not None))
    return points


class _Ends(dict[bytes, int]):
    """How long a part is with its own length before it, by the bytes it begins with."""

    def __init__(self, prefix: bytes = b"") -> None:
        self._prefix = prefix

    def __missing__(self, begin: bytes) -> int:
        digits, colon, _ = begin.removeprefix(self._prefix).partition(b":")
        if not (begin.startswith(self._prefix) and colon and digits.isdigit()):
            raise ValueError("not the beginning of a part")
        if len(self) > 1 << 16:
            self.clear()
        self[begin] = end = len(self._prefix) + len(digits) + 1 + int(digits) + 1
        return end


_KEY_ENDS, _KIND_ENDS = _Ends(_HEAD), _Ends()
_KEY_BEGIN, _KIND_BEGIN = len(_HEAD) + 5, 4
# As isoformat() writes an instant in UTC, without and with microseconds; these sort as texts.
_TIME_ENDS = {b"25:": 28, b"32:": 35}


def _times(contents: Sequence[bytes]) -> list[bytes]:
    """Return the time of each entry, found by the lengths that come before it."""
    found = []
    for content in contents:
        kind = _KEY_ENDS[content[:_KEY_BEGIN]]
        time = kind + _KIND_ENDS[content[kind : kind + _KIND_BEGIN]]
        found.append(content[time + 3 : time + _TIME_ENDS[content[time : time + 3]]])
    return found
