"""Known answers, and proofs of every leaf of random trees.

The vectors are those of Google's Certificate Transparency reference code: the eight leaves, roots
and inclusion paths of google/certificate-transparency ``cpp/merkletree/merkle_tree_test.cc``
(``kSHA256Roots``, ``kSHA256Paths``), kept today in transparency-dev/merkle ``testonly``; the hashes
of an empty leaf, a 16-byte leaf and a node are from its ``merkle_verifier``/``tree_hasher`` tests.
"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.storage.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    leaf_hash,
    node_hash,
    root_from_path,
)

LEAVES = [
    bytes.fromhex(text)
    for text in (
        *("", "00", "10", "2021", "3031", "40414243"),
        *("5051525354555657", "606162636465666768696a6b6c6d6e6f"),
    )
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
PATHS = {
    (0, 1): [],
    (0, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (5, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
    (1, 5): [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}

contents = st.lists(st.binary(max_size=20), min_size=1, max_size=70)


def tree_of(leaves: list[bytes]) -> MerkleTree:
    tree = MerkleTree()
    for leaf in leaves:
        tree.append(leaf_hash(leaf))
    return tree


def textbook_root(leaves: list[bytes]) -> bytes:
    """MTH as RFC 6962 section 2.1 words it."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = textbook_root(leaves[:split]), textbook_root(leaves[split:])
    return hashlib.sha256(b"\x01" + left + right).digest()


def test_leaf_and_node_hashes_are_those_of_certificate_transparency() -> None:
    long_leaf = bytes.fromhex("101112131415161718191a1b1c1d1e1f")
    assert leaf_hash(b"").hex() == ROOTS[1]
    assert leaf_hash(long_leaf).hex() == (
        "3bfb960453ebaebf33727da7a1f4db38acc051d381b6da20d6d4e88f0eabfd7a"
    )
    assert node_hash(bytes(range(32)), bytes(range(32, 64))).hex() == (
        "1a378704c17da31e2d05b6d121c2bb2c7d76f6ee6fa8f983e596c2d034963c57"
    )


@pytest.mark.parametrize("size", range(9))
def test_roots_are_those_of_certificate_transparency(size: int) -> None:
    assert tree_of(LEAVES[:size]).root(size).hex() == ROOTS[size]
    assert tree_of(LEAVES).root(size).hex() == ROOTS[size]


@pytest.mark.parametrize(("index", "size"), PATHS)
def test_inclusion_paths_are_those_of_certificate_transparency(index: int, size: int) -> None:
    path = tree_of(LEAVES).inclusion_path(index, size)
    assert [node.hex() for node in path] == PATHS[index, size]
    root = root_from_path(index, size, leaf_hash(LEAVES[index]), path)
    assert root is not None
    assert root.hex() == ROOTS[size]


@given(contents)
@settings(deadline=None)
def test_every_root_is_the_textbook_root(leaves: list[bytes]) -> None:
    tree = tree_of(leaves)
    for size in range(len(leaves) + 1):
        assert tree.root(size) == textbook_root(leaves[:size])


@given(contents, st.data())
@settings(deadline=None)
def test_every_leaf_of_every_size_has_a_proof_that_verifies(
    leaves: list[bytes], data: st.DataObject
) -> None:
    tree = tree_of(leaves)
    size = data.draw(st.integers(1, len(leaves)))
    for index in range(size):
        path = tree.inclusion_path(index, size)
        assert root_from_path(index, size, leaf_hash(leaves[index]), path) == tree.root(size)


@given(contents, st.data())
@settings(deadline=None)
def test_a_proof_of_anything_else_does_not_verify(leaves: list[bytes], data: st.DataObject) -> None:
    tree = tree_of(leaves)
    size = len(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = tree.inclusion_path(index, size)
    root = tree.root(size)
    other_leaf = leaf_hash(leaves[index] + b"!")
    assert root_from_path(index, size, other_leaf, path) != root
    assert root_from_path(index, size, leaf_hash(leaves[index]), [*path, root]) != root
    assert root_from_path(size, size, leaf_hash(leaves[index]), path) is None
    if path:
        bent = data.draw(st.integers(0, len(path) - 1))
        wrong = [*path[:bent], bytes(32), *path[bent + 1 :]]
        assert root_from_path(index, size, leaf_hash(leaves[index]), path[:-1]) != root
        assert root_from_path(index, size, leaf_hash(leaves[index]), wrong) != root


@given(contents, contents, st.data())
@settings(deadline=None)
def test_truncating_forgets_exactly_the_leaves_that_followed(
    leaves: list[bytes], others: list[bytes], data: st.DataObject
) -> None:
    size = data.draw(st.integers(0, len(leaves)))
    tree = tree_of(leaves)
    tree.truncate(size)
    for leaf in others:
        tree.append(leaf_hash(leaf))
    kept = [*leaves[:size], *others]
    assert tree.size == len(kept)
    assert tree.root(tree.size) == textbook_root(kept)
    last = len(kept) - 1
    path = tree.inclusion_path(last, len(kept))
    assert root_from_path(last, len(kept), leaf_hash(kept[last]), path) == textbook_root(kept)


def test_asking_beyond_the_tree_is_an_error_not_an_answer() -> None:
    tree = tree_of(LEAVES)
    assert MerkleTree().root(0) == EMPTY_ROOT
    for ask in (
        lambda: tree.root(9),
        lambda: tree.leaf(8),
        lambda: tree.leaf(-1),
        lambda: tree.inclusion_path(8, 8),
        lambda: tree.inclusion_path(0, 9),
    ):
        with pytest.raises(IndexError):
            ask()
