"""Signed notes: the known answer of the format's reference, and everything that must be refused."""

from __future__ import annotations

import base64
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.storage.proof.checkpoint import (
    Checkpoint,
    PublicKey,
    SignatureRefused,
    new_key_pem,
    notes_in,
    open_signed,
    open_text,
    open_vouched,
    public_key_text,
    read_key_pem,
    read_unverified,
    sign,
    sign_text,
)
from marketlake.storage.proof.merkle import EMPTY_ROOT

# The example of golang.org/x/mod/sumdb/note (its package documentation and note_test.go), the
# format that c2sp.org/signed-note specifies.
VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
SKEY = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
TEXT = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
)
NOTE = (
    f"{TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)

ORIGIN = "marketlake.example/ledger"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PINNED = public_key_text(ORIGIN, KEY)
POINT = Checkpoint(3, bytes(range(32)).hex(), "2022-12-28T21:15:00.25+00:00")


def test_the_reference_note_opens_and_is_signed_again_byte_for_byte() -> None:
    seed = base64.b64decode(SKEY.split("+", 4)[4])[1:]
    key = Ed25519PrivateKey.from_private_bytes(seed)
    assert public_key_text("PeterNeumann", key) == VKEY
    assert sign_text(TEXT, name="PeterNeumann", key=key) == NOTE
    assert open_text(NOTE, public_key=PublicKey.read(VKEY)) == TEXT
    with pytest.raises(SignatureRefused, match="bad signature"):
        open_text(NOTE.replace("problem is", "problem was"), public_key=PublicKey.read(VKEY))
    with pytest.raises(SignatureRefused, match="malformed"):
        open_signed(NOTE, public_key=VKEY)


def test_a_note_is_origin_size_root_and_time_in_lines() -> None:
    lines = sign(POINT, origin=ORIGIN, key=KEY).split("\n")
    assert lines[:5] == [
        ORIGIN,
        "3",
        base64.b64encode(bytes(range(32))).decode(),
        "recorded 2022-12-28T21:15:00.250000+00:00",
        "",
    ]
    assert lines[5].startswith(f"— {ORIGIN} ")
    assert lines[6:] == [""]


@given(
    st.integers(0, 1 << 62),
    st.binary(min_size=32, max_size=32),
    st.datetimes().map(lambda at: f"{at.isoformat()}+00:00"),
)
@settings(deadline=None, max_examples=50)
def test_a_signed_checkpoint_comes_back(size: int, root: bytes, at: str) -> None:
    point = Checkpoint(size, root.hex(), at)
    note = sign(point, origin=ORIGIN, key=KEY)
    assert open_signed(note, public_key=PINNED) == point
    assert read_unverified(note) == point


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_no_change_of_a_signed_note_goes_unnoticed(data: st.DataObject) -> None:
    note = sign(POINT, origin=ORIGIN, key=KEY)
    at = data.draw(st.integers(0, len(note) - 1))
    put = data.draw(st.sampled_from(["", "x", "0", " ", "\n", "=", note[at] * 2]))
    changed = note[:at] + put + note[at + 1 :]
    if changed != note:
        with pytest.raises(SignatureRefused):
            open_signed(changed, public_key=PINNED)


@given(st.data())
@settings(deadline=None, max_examples=200)
def test_a_note_vouches_for_the_one_before_it_byte_for_byte(data: st.DataObject) -> None:
    before = sign(POINT, origin=ORIGIN, key=KEY)
    note = sign(replace(POINT, size=4), origin=ORIGIN, key=KEY, previous=before)
    pinned = PublicKey.read(PINNED)
    assert open_signed(note, public_key=pinned).size == 4
    vouched = open_vouched(before, by=note, public_key=pinned)
    assert vouched == open_signed(before, public_key=pinned)
    assert open_vouched(note, by=before, public_key=pinned) is None
    at = data.draw(st.integers(0, len(before) - 1))
    put = data.draw(st.sampled_from(["", "x", "0", "\ud800", "\n", note]))
    changed = before[:at] + put + before[at + 1 :]
    if changed != before:
        assert open_vouched(changed, by=note, public_key=pinned) is None


def test_what_stands_among_the_signatures_vouches_for_nothing() -> None:
    before = sign(POINT, origin=ORIGIN, key=OTHER)
    note = sign(replace(POINT, size=4), origin=ORIGIN, key=KEY)
    naming = sign(POINT, origin=ORIGIN, key=KEY, previous=before).split("\n")[4]
    assert naming.startswith("previous ")
    pinned = PublicKey.read(PINNED)
    assert open_vouched(before, by=f"{note}{naming}\n", public_key=pinned) is None


def test_a_note_of_another_log_cannot_be_vouched_for() -> None:
    before = sign(POINT, origin="else.example", key=KEY)
    note = sign(replace(POINT, size=4), origin=ORIGIN, key=KEY, previous=before)
    with pytest.raises(SignatureRefused, match="another log"):
        open_vouched(before, by=note, public_key=PublicKey.read(PINNED))


def _signed(text: str) -> str:
    return sign_text(text, name=ORIGIN, key=KEY)


ROOT = base64.b64encode(EMPTY_ROOT).decode()
AT = "recorded 2022-12-28T21:15:00+00:00"
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (sign(POINT, origin=ORIGIN, key=OTHER), "another key"),
        (sign(POINT, origin="else.example", key=KEY), "another key"),
        (_signed(f"else.example\n0\n{ROOT}\n{AT}\n"), "another log"),
        (_signed(f"{ORIGIN}\n0\n{ROOT}\n"), "when it was recorded"),
        (_signed(f"{ORIGIN}\n0\n{ROOT}\n{AT}\n{AT}\n"), "when it was recorded"),
        (_signed(f"{ORIGIN}\n0\n{ROOT}\nrecorded today\n"), "when it was recorded"),
        (_signed(f"{ORIGIN}\n00\n{ROOT}\n{AT}\n"), "size or root"),
        (_signed(f"{ORIGIN}\n-1\n{ROOT}\n{AT}\n"), "size or root"),
        (_signed(f"{ORIGIN}\n0\n{ROOT[:-4]}\n{AT}\n"), "size or root"),
        (_signed(f"{ORIGIN}\n0\n\n{ROOT}\n{AT}\n"), "no checkpoint"),
        (_signed(f"{ORIGIN}\n0\n"), "no checkpoint"),
        ("", "no blank line"),
        (f"{ORIGIN}\n0\n{ROOT}\n{AT}\n", "no blank line"),
        (f"{ORIGIN}\n0\n{ROOT}\n{AT}\n\n— {ORIGIN} AAAA\n", "signature line"),
        (f"{ORIGIN}\n0\n{ROOT}\n{AT}\n\n— {ORIGIN} !\n", "signature line"),
        (_signed(f"{ORIGIN}\n0\n{ROOT}\t\n{AT}\n"), "control characters"),
        ("x" * 70_000, "characters"),
    ],
)
def test_a_refused_note_says_what_is_wrong_with_it(note: str, message: str) -> None:
    with pytest.raises(SignatureRefused, match=message):
        open_signed(note, public_key=PINNED)


def test_a_witness_may_have_signed_beside_the_log() -> None:
    note = sign(POINT, origin=ORIGIN, key=KEY)
    witness = sign_text(note.partition("\n\n")[0] + "\n", name="witness", key=OTHER)
    both = note + witness.partition("\n\n")[2]
    assert open_signed(both, public_key=PINNED) == replace(
        POINT, recorded_at_utc="2022-12-28T21:15:00.250000+00:00"
    )
    assert open_text(both, public_key=PublicKey.read(public_key_text("witness", OTHER)))


def test_notes_are_found_in_a_file_of_notes_and_a_torn_one_is_left_out() -> None:
    notes = [sign(replace(POINT, size=size), origin=ORIGIN, key=KEY) for size in range(3)]
    torn = notes[0][:-40]
    assert notes_in("\n" + "\n".join(notes)) == notes
    assert notes_in(f"{notes[0]}\n{torn}\n\n{notes[1]}\n{torn}") == notes[:2]
    assert notes_in("nothing") == []


def test_a_key_survives_its_file_and_only_an_ed25519_key_is_one() -> None:
    pem = new_key_pem()
    assert read_key_pem(pem).public_key() == read_key_pem(pem.encode()).public_key()
    assert new_key_pem() != pem
    other = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for bad in (other, "no key", b""):
        with pytest.raises(ValueError, match=r".+"):
            read_key_pem(bad)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name",
        PINNED.rpartition("+")[0],
        PINNED.replace(ORIGIN, "other"),
        PINNED[:-1],
        f"a b+{PINNED.partition('+')[2]}",
        VKEY.replace("+ARpc", "+AxPc"),
    ],
)
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        PublicKey.read(text)


def test_an_origin_with_spaces_or_plus_signs_cannot_sign() -> None:
    for origin in ("", "a b", "a+b", "a\nb"):
        with pytest.raises(ValueError, match="plus"):
            public_key_text(origin, KEY)
        with pytest.raises(ValueError, match="plus"):
            sign(POINT, origin=origin, key=KEY)
    with pytest.raises(ValueError, match="instant"):
        sign(replace(POINT, recorded_at_utc="yesterday"), origin=ORIGIN, key=KEY)
