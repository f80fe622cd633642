"""RFC 6962 Merkle trees over leaf hashes: roots, inclusion and consistency proofs, their checks.

Bytes in, bytes out: no storage, no entries, no signatures. The tree keeps every complete subtree
in memory (64 bytes a leaf), so that roots of earlier sizes and proofs cost a few lookups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256(b"").digest()

_LEAF = b"\x00"
_NODE = b"\x01"


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of one entry's bytes; the prefix keeps a leaf from passing for a node."""
    return hashlib.sha256(_LEAF + content).digest()


def leaf_hashes(contents: Sequence[bytes]) -> bytes:
    """Return the leaf hashes of many entries, one after the other."""
    sha256 = hashlib.sha256
    return b"".join([sha256(b"\x00" + content).digest() for content in contents])


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return hashlib.sha256(_NODE + left + right).digest()


class MerkleTree:
    """An append-only tree: one array a level, with the hashes of its complete subtrees."""

    def __init__(self) -> None:
        self._levels: list[bytearray] = [bytearray()]

    @property
    def size(self) -> int:
        """Return the number of leaves."""
        return len(self._levels[0]) // HASH_BYTES

    def append(self, leaf: bytes) -> None:
        """Add one leaf hash, and every subtree that it completes."""
        index = self.size
        node = leaf
        self._levels[0] += node
        level = 0
        while index & 1:
            node = node_hash(self._node(level, index - 1), node)
            index >>= 1
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += node

    def extend(self, leaves: bytes) -> None:
        """Add many leaf hashes, given one after the other: as appending each, but quicker."""
        sha256 = hashlib.sha256
        self._levels[0] += leaves
        level = 0
        while len(self._levels[level]) >= 2 * HASH_BYTES:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            below, nodes = self._levels[level], self._levels[level + 1]
            pairs = bytes(below[2 * len(nodes) :])
            last = len(pairs) - 2 * HASH_BYTES + 1
            nodes += b"".join(
                [
                    sha256(b"\x01" + pairs[at : at + 2 * HASH_BYTES]).digest()
                    for at in range(0, last, 2 * HASH_BYTES)
                ]
            )
            level += 1

    def truncate(self, size: int) -> None:
        """Forget every leaf from ``size`` on (used when a commit did not happen)."""
        for level, nodes in enumerate(self._levels):
            del nodes[(size >> level) * HASH_BYTES :]

    def leaf(self, index: int) -> bytes:
        """Return one leaf hash."""
        self._require(0 <= index < self.size, f"leaf {index} of {self.size}")
        return self._node(0, index)

    def root(self, size: int, right: bytes = b"") -> bytes:
        """Return the root of the first ``size`` leaves (MTH of RFC 6962, section 2.1).

        With ``right``, the root of those leaves followed by one smaller subtree of that hash.
        """
        self._require(0 <= size <= self.size, f"root of {size} of {self.size} leaves")
        return self._range_hash(0, size, right) or EMPTY_ROOT

    def inclusion_path(self, index: int, size: int) -> list[bytes]:
        """Return the audit path of a leaf among the first ``size`` (PATH of RFC 6962, 2.1.1)."""
        self._require(0 <= index < size <= self.size, f"leaf {index} of {size} of {self.size}")
        path = []
        low, high = 0, size
        while high - low > 1:
            middle = _split(low, high)
            if index < middle:
                path.append(self._range_hash(middle, high))
                high = middle
            else:
                path.append(self._range_hash(low, middle))
                low = middle
        return path[::-1]

    def consistency_path(self, first: int, second: int) -> list[bytes]:
        """Return the proof that the first ``second`` leaves begin with the first ``first``.

        PROOF of RFC 9162, section 2.1.4.1; empty where there is nothing to prove (from the empty
        tree, and between equal sizes).
        """
        self._require(0 <= first <= second <= self.size, f"{first} to {second} of {self.size}")
        path = []
        low, high = 0, second
        while first not in {0, high}:
            middle = _split(low, high)
            if first <= middle:
                path.append(self._range_hash(middle, high))
                high = middle
            else:
                path.append(self._range_hash(low, middle))
                low = middle
        if low:
            path.append(self._range_hash(low, high))
        return path[::-1]

    def _node(self, level: int, position: int) -> bytes:
        start = position * HASH_BYTES
        return bytes(self._levels[level][start : start + HASH_BYTES])

    def _range_hash(self, low: int, high: int, right: bytes = b"") -> bytes:
        # RFC 6962 splits at the largest power of two, so a range is a row of ever smaller
        # complete subtrees; folding them from the right gives the hash.
        remaining, end = high - low, high
        folded = right
        level = 0
        while remaining:
            if remaining & 1:
                end -= 1 << level
                node = self._node(level, end >> level)
                folded = node_hash(node, folded) if folded else node
            remaining >>= 1
            level += 1
        return folded

    @staticmethod
    def _require(holds: bool, what: str) -> None:
        if not holds:
            raise IndexError(f"there is no {what} in this tree")


def root_from_path(index: int, size: int, leaf: bytes, path: Sequence[bytes]) -> bytes | None:
    """Return the root that an audit path leads to, or None when the path cannot fit that size.

    The algorithm is the verifier's of RFC 9162, section 2.1.3.2.
    """
    if not 0 <= index < size:
        return None
    position, last, node = index, size - 1, leaf
    for sibling in path:
        if last == 0:
            return None
        if position & 1 or position == last:
            node = node_hash(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = node_hash(node, sibling)
        position >>= 1
        last >>= 1
    return node if last == 0 else None


def consistent(
    first: int, second: int, first_root: bytes, second_root: bytes, path: Sequence[bytes]
) -> bool:
    """Return whether a path proves that the tree of ``first`` leaves became that of ``second``.

    The algorithm is the verifier's of RFC 9162, section 2.1.4.2.
    """
    if first == second or first == 0:
        same = first_root == second_root if first == second else first_root == EMPTY_ROOT
        return first >= 0 and same and not path
    if not 0 < first < second or any(len(node) != HASH_BYTES for node in path):
        return False
    # A first tree that is one complete subtree of the second is not repeated in the path.
    nodes = [first_root, *path] if first & (first - 1) == 0 else list(path)
    if not path:
        return False
    position, last = first - 1, second - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old = new = nodes[0]
    for node in nodes[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            old, new = node_hash(node, old), node_hash(node, new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            new = node_hash(new, node)
        position >>= 1
        last >>= 1
    return last == 0 and (old, new) == (first_root, second_root)


def _split(low: int, high: int) -> int:
    return low + (1 << ((high - low - 1).bit_length() - 1))
