"""Known answers, and proofs of every leaf of random trees.

The vectors are those of Google's Certificate Transparency reference code: the eight leaves, roots,
inclusion and consistency paths of google/certificate-transparency
``cpp/merkletree/merkle_tree_test.cc`` (``kSHA256Roots``, ``kSHA256Paths``, ``kSHA256Proofs``), kept
today in transparency-dev/merkle ``proof/verify_test.go``; (6, 7) is only there. The hashes of an
empty leaf, a 16-byte leaf and a node are from its ``merkle_verifier``/``tree_hasher`` tests.
"""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.storage.proof.merkle import (
    EMPTY_ROOT,
    MerkleTree,
    consistent,
    leaf_hash,
    leaf_hashes,
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

CONSISTENCY = {
    (1, 1): [],
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
    (6, 7): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "b08693ec2e721597130641e8211e7eedccb4c26413963eee6c1e2ed16ffb1a5f",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
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


def textbook_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """PATH as RFC 9162 section 2.1.3.1 words it."""
    if len(leaves) == 1:
        return []
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    if index < split:
        return [*textbook_path(index, leaves[:split]), textbook_root(leaves[split:])]
    return [*textbook_path(index - split, leaves[split:]), textbook_root(leaves[:split])]


def textbook_consistency(first: int, leaves: list[bytes], whole: bool = True) -> list[bytes]:
    """SUBPROOF as RFC 9162 section 2.1.4.1 words it."""
    if first == len(leaves):
        return [] if whole else [textbook_root(leaves)]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    left, right = leaves[:split], leaves[split:]
    if first <= split:
        return [*textbook_consistency(first, left, whole), textbook_root(right)]
    return [*textbook_consistency(first - split, right, False), textbook_root(left)]


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


@pytest.mark.parametrize(("first", "second"), CONSISTENCY)
def test_consistency_paths_are_those_of_certificate_transparency(first: int, second: int) -> None:
    path = tree_of(LEAVES).consistency_path(first, second)
    assert [node.hex() for node in path] == CONSISTENCY[first, second]
    roots = bytes.fromhex(ROOTS[first]), bytes.fromhex(ROOTS[second])
    assert consistent(first, second, *roots, path)


def test_the_vectors_are_what_the_textbook_recursion_gives() -> None:
    for size, root in enumerate(ROOTS):
        assert textbook_root(LEAVES[:size]).hex() == root
    for (index, size), path in PATHS.items():
        assert [node.hex() for node in textbook_path(index, LEAVES[:size])] == path
    for (first, second), path in CONSISTENCY.items():
        assert [node.hex() for node in textbook_consistency(first, LEAVES[:second])] == path


@given(st.lists(st.binary(max_size=20), max_size=40))
@settings(deadline=None, max_examples=60)
def test_every_two_sizes_have_the_textbook_proof_and_it_verifies(leaves: list[bytes]) -> None:
    tree = tree_of(leaves)
    second = len(leaves)
    for first in range(second + 1):
        path = tree.consistency_path(first, second)
        assert path == (textbook_consistency(first, leaves) if first else [])
        assert consistent(first, second, tree.root(first), tree.root(second), path)


@given(contents, st.data())
@settings(deadline=None)
def test_no_consistency_proof_joins_trees_that_are_not_one_history(
    leaves: list[bytes], data: st.DataObject
) -> None:
    tree = tree_of(leaves)
    second = len(leaves)
    first = data.draw(st.integers(0, second))
    path, old, new = tree.consistency_path(first, second), tree.root(first), tree.root(second)
    bad = data.draw(st.integers(0, max(first - 1, 0)))
    rewritten = tree_of([*leaves[:bad], leaves[bad] + b"!", *leaves[bad + 1 :]])
    own = rewritten.consistency_path(first, second)
    if first:
        assert not consistent(first, second, old, rewritten.root(second), own)
        assert not consistent(first, second, old, rewritten.root(second), path)
    assert not consistent(first, second, bytes(32), new, path)
    assert not consistent(first, second, old, new, [*path, new])
    assert not consistent(first, second, old, new, [new, *path])
    assert not consistent(second + 1, second, new, new, path)
    assert not consistent(-1, second, old, new, path)
    if path:
        assert not consistent(first, second, old, bytes(32), path)
        assert not consistent(first, second, old, new, path[:-1])
        bent = data.draw(st.integers(0, len(path) - 1))
        wrong = [*path[:bent], bytes(32), *path[bent + 1 :]]
        assert not consistent(first, second, old, new, wrong)
        short = [*path[:bent], path[bent][:31], *path[bent + 1 :]]
        assert not consistent(first, second, old, new, short)


@given(contents, contents)
@settings(deadline=None)
def test_extending_is_appending_each(leaves: list[bytes], others: list[bytes]) -> None:
    tree = tree_of(leaves)
    tree.extend(leaf_hashes(others))
    one_by_one = tree_of([*leaves, *others])
    for size in range(len(leaves) + len(others) + 1):
        assert tree.root(size) == one_by_one.root(size)


@given(contents, contents, st.integers(0, 3))
@settings(deadline=None)
def test_the_root_of_subtrees_and_a_smaller_one_is_that_of_all_leaves(
    leaves: list[bytes], others: list[bytes], height: int
) -> None:
    width = 1 << height
    whole = leaves[: len(leaves) // width * width]
    part = others[: width - 1]
    above = MerkleTree()
    for at in range(0, len(whole), width):
        above.append(textbook_root(whole[at : at + width]))
    right = textbook_root(part) if part else b""
    assert above.root(above.size, right) == textbook_root([*whole, *part])


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
        lambda: tree.consistency_path(0, 9),
        lambda: tree.consistency_path(5, 4),
    ):
        with pytest.raises(IndexError):
            ask()
