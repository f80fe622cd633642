"""The bytes of an entry: netstrings of domain, key, kind, time and the payload as canonical JSON.

Length prefixes make the encoding injective; it stays readable as text. What does not belong here:
what an entry may say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

DOMAIN = "marketlake.ledger.entry.v1"

_LENGTH = re.compile(rb"(0|[1-9][0-9]{0,10}):")
# Made once: json.dumps and json.loads would cost as much again for each entry.
_JSON = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_READ_JSON = json.JSONDecoder().raw_decode


class EntryParts(NamedTuple):
    """One entry as its bytes tell it."""

    key: str
    kind: str
    recorded_at_utc: str
    payload: Mapping[str, Any]

    @property
    def run(self) -> Mapping[str, Any]:
        """Return the identity of the run that recorded this (empty when it named none)."""
        run = self.payload.get("run")
        return run if isinstance(run, dict) else {}


def encode(parts: Sequence[str]) -> bytes:
    """Return the parts as netstrings; text that UTF-8 cannot carry raises UnicodeEncodeError."""
    encoded = [part.encode() for part in parts]
    return b"".join([b"%d:%b," % (len(part), part) for part in encoded])


def decode(content: bytes) -> tuple[str, ...]:
    """Return the parts of netstrings; raise ValueError when the bytes are not exactly that."""
    parts = []
    position = 0
    while position < len(content):
        length = _LENGTH.match(content, position)
        end = length.end() + int(length[1]) if length else -1
        if not length or content[end : end + 1] != b",":
            raise ValueError("a length prefix does not fit")
        parts.append(content[length.end() : end].decode())
        position = end + 1
    return tuple(parts)


def canonical_json(value: Any) -> str:
    """Return JSON in its one spelling: sorted names, no spaces, no NaN."""
    return _JSON.encode(value)


def encode_entry(key: str, kind: str, recorded_at_utc: str, payload: str) -> bytes:
    """Return the bytes that are hashed; ``payload`` is canonical JSON."""
    return encode((DOMAIN, key, kind, recorded_at_utc, payload))


def decode_entry(content: bytes) -> EntryParts:
    """Read an entry back; raise ValueError when the bytes are not exactly canonical."""
    parts = decode(content)
    if len(parts) != 5 or parts[0] != DOMAIN:
        raise ValueError("not an entry of this version")
    _, key, kind, recorded_at_utc, text = parts
    payload, _ = _READ_JSON(text)  # what follows the value shows in the comparison
    if not isinstance(payload, dict) or canonical_json(payload) != text:
        raise ValueError("another encoding of an entry")
    return EntryParts(key, kind, recorded_at_utc, payload)


def instant(text: str) -> datetime | None:
    """Return an instant in UTC, or None when the text is not one."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.utcoffset() == timedelta(0) else None
