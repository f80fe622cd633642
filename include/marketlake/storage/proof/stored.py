"""Rows of the log as a database holds them, believed in nothing: what is wrong with one by itself.

What does not belong here: what can only be seen of the whole log (``verification``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from .checkpoint import (
    Checkpoint,
    PublicKey,
    SignatureRefused,
    open_signed,
    open_vouched,
    read_unverified,
)
from .leaf import decode_entry, instant
from .merkle import leaf_hash


@dataclass(frozen=True)
class StoredRow:
    """One entry's row; the columns besides the bytes are what searches use."""

    index: int
    key: str
    kind: str
    dag_id: str | None
    run_id: str | None
    recorded_at_utc: str
    canonical: bytes
    leaf_hash: str

    def fault(self) -> str | None:
        """Return what is wrong with this row on its own, or None."""
        if leaf_hash(self.canonical).hex() != self.leaf_hash:
            return "its bytes do not have the stored leaf hash"
        try:
            entry = decode_entry(self.canonical)
        except ValueError as error:
            return f"its bytes are not an entry ({error})"
        same_time = self.recorded_at_utc == entry.recorded_at_utc
        columns = (
            ("key", self.key == entry.key),
            ("kind", self.kind == entry.kind),
            ("dag_id", self.dag_id == entry.run.get("dag_id")),
            ("run_id", self.run_id == entry.run.get("run_id")),
            (
                "recorded_at",
                same_time or instant(self.recorded_at_utc) == instant(entry.recorded_at_utc),
            ),
        )
        wrong = [name for name, agrees in columns if not agrees]
        return f"column {wrong[0]} differs from its bytes" if wrong else None


@dataclass(frozen=True)
class StoredCheckpoint(Checkpoint):
    """One checkpoint's row, with the note that should vouch for it."""

    note: str | None = None


def judge(
    points: Sequence[Checkpoint], pinned: PublicKey | None
) -> list[tuple[Checkpoint | None, str | None]]:
    """Return what to believe of each checkpoint, and what is wrong with it (None: nothing).

    A bare Checkpoint is believed as it is; of a stored one what its note says, where it has one.
    They come in the order of the log: the last is believed for its signature, and those that each
    later one names are believed with it.
    """
    found = []
    believed_note = None
    for one in reversed(points):
        believed, fault = _judge(one, pinned, believed_note)
        found.append((believed, fault))
        note = one.note if isinstance(one, StoredCheckpoint) else None
        believed_note = note if believed is not None else None
    return found[::-1]


def _judge(
    one: Checkpoint, pinned: PublicKey | None, believed_note: str | None
) -> tuple[Checkpoint | None, str | None]:
    note = one.note if isinstance(one, StoredCheckpoint) else None
    named = f"checkpoint {one.size}"
    at = instant(one.recorded_at_utc)
    if note is None:
        if pinned is not None and isinstance(one, StoredCheckpoint):
            return None, f"{named} is not signed"
        if at is None:
            return None, f"{named}: its time {one.recorded_at_utc[:50]!r} is not an instant in UTC"
        return one, None
    try:
        signed = _opened(note, pinned, believed_note)
    except SignatureRefused as error:
        return None, f"{named}: {error}"
    columns = (
        ("size", one.size == signed.size),
        ("root", one.root_hash == signed.root_hash),
        ("time", at == instant(signed.recorded_at_utc)),
    )
    wrong = [name for name, agrees in columns if not agrees]
    return signed, f"{named}: its {wrong[0]} is not that of its signed note" if wrong else None


def _opened(note: str, pinned: PublicKey | None, believed_note: str | None) -> Checkpoint:
    if pinned is None:
        return read_unverified(note)
    if believed_note is not None:
        vouched = open_vouched(note, by=believed_note, public_key=pinned)
        if vouched is not None:
            return vouched
    return open_signed(note, public_key=pinned)


def recorded_at(checkpoint: Checkpoint) -> datetime:
    """Return the time of a checkpoint that was judged."""
    at = instant(checkpoint.recorded_at_utc)
    if at is None:
        raise ValueError(f"not an instant in UTC: {checkpoint.recorded_at_utc!r}")
    return at
