"""Checkpoints, and their signed form: C2SP tlog-checkpoint inside a C2SP signed note (Ed25519).

A note is the log's origin, its size, its root in base64, one extension line with the time and one
with the hash of the note before it, then a blank line and one signature line a key. Who believes a
note believes by that hash the one before it: of a chain only the last signature need be checked.
The specifications are c2sp.org/tlog-checkpoint and c2sp.org/signed-note. What does not belong here:
where keys and notes are kept.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from .leaf import instant
from .merkle import HASH_BYTES

_ED25519 = b"\x01"
_KEY_ID_BYTES = 4
_KEY_BYTES = 32
_SIGNED_BY = "— "
_RECORDED = "recorded "
_PREVIOUS = "previous "
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_MAX_NOTE_CHARACTERS = 1 << 16
# A torn signature is none: whole ones are four bytes of key identifier and 64 of their own.
_NOTE = re.compile(
    r"(?:[^\n]+\n){3,}\n— [^ \n]+ [A-Za-z0-9+/]{91}=\n(?:— [^ \n]+ [A-Za-z0-9+/]+=*\n)*"
)


class SignatureRefused(ValueError):
    """A note that the pinned key did not sign, or that is none; the message says which."""


@dataclass(frozen=True)
class Checkpoint:
    """The log's size and root at one commit; kept elsewhere, it pins everything before it."""

    size: int
    root_hash: str
    recorded_at_utc: str


class PublicKey(NamedTuple):
    """A verifier's key: whose it is, its identifier in signature lines, and the key itself."""

    name: str
    key_id: bytes
    key: Ed25519PublicKey

    @classmethod
    def read(cls, text: str) -> PublicKey:
        """Read ``name+id+base64``; raise ValueError when it is not an Ed25519 key like that."""
        # The base64 may contain more plus signs, the name cannot.
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not _is_name(parts[0]):
            raise ValueError("a public key is written name+8 hex digits+base64")
        name, key_id, encoded = parts
        material = _base64(encoded)
        if material is None or material[:1] != _ED25519 or len(material) != 1 + _KEY_BYTES:
            raise ValueError("not an Ed25519 key")
        own = _key_id(name, material[1:])
        if own.hex() != key_id:
            raise ValueError(f"the key of that name has the identifier {own.hex()}, not {key_id}")
        return cls(name, own, Ed25519PublicKey.from_public_bytes(material[1:]))


def public_key_text(origin: str, key: Ed25519PrivateKey) -> str:
    """Return the verifier's key of a signing key: ``name+id+base64`` (a vkey of signed-note)."""
    if not _is_name(origin):
        raise ValueError(f"an origin has neither spaces nor plus signs: {origin!r}")
    raw = key.public_key().public_bytes_raw()
    encoded = base64.b64encode(_ED25519 + raw).decode()
    return f"{origin}+{_key_id(origin, raw).hex()}+{encoded}"


def new_key_pem() -> str:
    """Return a new signing key, unencrypted: who keeps it keeps it secret."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    return pem.decode()


def read_key_pem(pem: str | bytes) -> Ed25519PrivateKey:
    """Read a signing key; raise ValueError when it is none."""
    key = load_pem_private_key(pem.encode() if isinstance(pem, str) else pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("not an Ed25519 key")
    return key


def sign(
    checkpoint: Checkpoint, *, origin: str, key: Ed25519PrivateKey, previous: str | None = None
) -> str:
    """Return the signed note of a checkpoint; its time is written as an ISO 8601 instant.

    ``previous`` is a note that this one vouches for: only one that the signer has made itself.
    """
    at = instant(checkpoint.recorded_at_utc)
    if at is None:
        raise ValueError(f"not an instant in UTC: {checkpoint.recorded_at_utc!r}")
    root = base64.b64encode(bytes.fromhex(checkpoint.root_hash)).decode()
    text = f"{origin}\n{checkpoint.size}\n{root}\n{_RECORDED}{at.isoformat()}\n"
    if previous is not None:
        text += _naming(previous)
    return sign_text(text, name=origin, key=key)


def sign_text(text: str, *, name: str, key: Ed25519PrivateKey) -> str:
    """Return any text, which ends with a newline, as a note signed under that name."""
    if not _is_name(name) or not text.endswith("\n"):
        raise ValueError("a name without spaces and plus signs, a text that ends with a newline")
    signature = base64.b64encode(_signers_id(name, key) + key.sign(text.encode())).decode()
    return f"{text}\n{_SIGNED_BY}{name} {signature}\n"


def open_signed(note: str, *, public_key: str | PublicKey) -> Checkpoint:
    """Return the checkpoint that the pinned key signed; anything else raises SignatureRefused."""
    pinned = public_key if isinstance(public_key, PublicKey) else PublicKey.read(public_key)
    return _read_body(open_text(note, public_key=pinned), origin=pinned.name)


def open_vouched(note: str, *, by: str, public_key: PublicKey) -> Checkpoint | None:
    """Return the checkpoint of a note that another one, which is believed, names as the one before.

    None when the other names none, or another note: then the note's own signature has to tell.
    """
    if not _text(by).endswith(f"\n{_naming(note)}"):
        return None
    return _read_body(_text(note), origin=public_key.name)


def open_text(note: str, *, public_key: PublicKey) -> str:
    """Return the text of a note that the pinned key signed."""
    text, signatures = _parts(note)
    verified = False
    others = []
    for name, key_id, signature in signatures:
        if (name, key_id) != (public_key.name, public_key.key_id):
            others.append(f"{name}+{key_id.hex()}")
            continue
        try:
            public_key.key.verify(signature, text.encode())
        except InvalidSignature:
            raise SignatureRefused("bad signature: the text is not what the key signed") from None
        verified = True
    if not verified:
        raise SignatureRefused(
            f"signed by another key ({', '.join(others)[:200]}), "
            f"not by {public_key.name}+{public_key.key_id.hex()}"
        )
    return text


def read_unverified(note: str) -> Checkpoint:
    """Return what a note says without asking who signed it; malformed raises SignatureRefused."""
    return _read_body(_parts(note)[0], origin=None)


def notes_in(text: str) -> list[str]:
    """Return every whole note of a file of notes; a torn one is left out."""
    return [match[0] for match in _NOTE.finditer(text)]


def _text(note: str) -> str:
    return note.rpartition("\n\n")[0] + "\n"


def _naming(note: str) -> str:
    return f"{_PREVIOUS}{hashlib.sha256(note.encode(errors='surrogatepass')).hexdigest()}\n"


def _read_body(text: str, *, origin: str | None) -> Checkpoint:
    lines = text.split("\n")[:-1]
    if len(lines) < 3 or not all(lines):
        raise _malformed("it is no checkpoint of origin, size and root")
    if origin is not None and lines[0] != origin:
        raise SignatureRefused(f"of another log: its origin is {lines[0][:100]!r}, not {origin!r}")
    root = _base64(lines[2])
    if not _SIZE.fullmatch(lines[1]) or root is None or len(root) != HASH_BYTES:
        raise _malformed("its size or root is not one")
    times = [line.removeprefix(_RECORDED) for line in lines[3:] if line.startswith(_RECORDED)]
    if len(times) != 1 or instant(times[0]) is None:
        raise _malformed("it does not say when it was recorded")
    return Checkpoint(int(lines[1]), root.hex(), times[0])


def _parts(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    if len(note) > _MAX_NOTE_CHARACTERS:
        raise _malformed(f"it has more than {_MAX_NOTE_CHARACTERS} characters")
    if _CONTROL.search(note):
        raise _malformed("it has control characters")
    text, blank, lines = note.rpartition("\n\n")
    if not blank or not lines.endswith("\n"):
        raise _malformed("no blank line stands between text and signatures")
    return f"{text}\n", list(_signatures(lines))


def _signatures(lines: str) -> Iterator[tuple[str, bytes, bytes]]:
    for line in lines.removesuffix("\n").split("\n"):
        name, _, encoded = line.removeprefix(_SIGNED_BY).partition(" ")
        signature = _base64(encoded)
        if (
            not (line.startswith(_SIGNED_BY) and _is_name(name))
            or signature is None
            or len(signature) <= _KEY_ID_BYTES
        ):
            raise _malformed("a signature line is not one")
        yield name, signature[:_KEY_ID_BYTES], signature[_KEY_ID_BYTES:]


@lru_cache(maxsize=4)
def _signers_id(name: str, key: Ed25519PrivateKey) -> bytes:
    # Deriving the public key costs as much as a signature.
    return _key_id(name, key.public_key().public_bytes_raw())


def _key_id(name: str, raw: bytes) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + _ED25519 + raw).digest()[:_KEY_ID_BYTES]


def _base64(text: str) -> bytes | None:
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return None
    # One spelling only: no stray bits behind the last byte.
    return content if base64.b64encode(content).decode() == text else None


def _is_name(text: str) -> bool:
    return bool(text) and "+" not in text and text.split() == [text] and text.isprintable()


def _malformed(why: str) -> SignatureRefused:
    return SignatureRefused(f"malformed note: {why}")
