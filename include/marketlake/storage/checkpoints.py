"""Signed checkpoints outside the database, in a file and in the object-locked bucket, and the
verification of the log against them.

The names in the bucket carry size and root, so one listing tells what was published; only what
contradicts the log, and the newest, has to be read. What does not belong: signatures (``proof``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

from marketlake.errors import ContractViolation
from marketlake.settings import Settings
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.objects import ObjectStore
from marketlake.storage.proof.checkpoint import Checkpoint, SignatureRefused, notes_in, open_signed
from marketlake.storage.proof.verification import Verification

_PREFIX = "checkpoints/"
_KEY = re.compile(r"checkpoints/(?P<size>\d{12})-(?P<root_hash>[0-9a-f]{64})\.txt")
_ANY_SIZE = 1 << 62
_TORN = b" (torn)\n"


@dataclass(frozen=True)
class SignedCheckpoint:
    """A checkpoint and the signed note that vouches for it."""

    checkpoint: Checkpoint
    note: str


@dataclass(frozen=True)
class Published:
    """A checkpoint's note, found outside the database."""

    where: str
    note: str


class PublishedCheckpoints:
    """The two places; an appender writes, whoever verifies reads."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.checkpoint_file
        self._bucket = settings.lake.worm_bucket
        self._locked_days = settings.lake.locked_days
        self._store = ObjectStore(settings.lake)
        self._bucket_is_there = False

    def publish(self, signed: SignedCheckpoint) -> None:
        """Write one to the file, durably, then to the bucket."""
        self._append(signed.note)
        if not self._bucket_is_there:
            self._store.ensure_locked_bucket(self._bucket, retention_days=self._locked_days)
            self._bucket_is_there = True
        point = signed.checkpoint
        key = f"{_PREFIX}{point.size:012d}-{point.root_hash}.txt"
        self._store.put(self._bucket, key, signed.note.encode(), content_type="text/plain")

    def in_file(self) -> list[Published]:
        """Return every whole note of the file, oldest first; a torn last one is left out."""
        try:
            text = self._file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        return [Published(str(self._file), note) for note in notes_in(text)]

    def newest_in_file(self, public_key: str) -> Checkpoint | None:
        """Return the file's last checkpoint; ContractViolation when the key did not sign it."""
        notes = self.in_file()
        if not notes:
            return None
        try:
            return open_signed(notes[-1].note, public_key=public_key)
        except SignatureRefused as error:
            raise ContractViolation(
                expected=f"checkpoints signed by {public_key}",
                was=str(error),
                where=str(self._file),
                todo="find out whose file this is; the ledger may only go on with its own",
            ) from None

    def in_bucket(self, agrees: Callable[[int, str], bool]) -> list[Published]:
        """Return the bucket's newest note, and each whose size and root do not agree."""
        keys = [item.key for item in self._store.list(self._bucket, _PREFIX)]
        named = [match for key in keys if (match := _KEY.fullmatch(key))]
        wanted = [m[0] for m in named if not agrees(int(m["size"]), m["root_hash"])]
        if named and named[-1][0] not in wanted:
            wanted.append(named[-1][0])
        return [self._read(key) for key in wanted]

    def _read(self, key: str) -> Published:
        body = self._store.get(self._bucket, key).body
        return Published(f"s3://{self._bucket}/{key}", body.decode(errors="replace"))

    def _append(self, note: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            # What a crash left of another must not pass for a note, or run into this one.
            file.write((b"" if _is_at_line_start(file) else _TORN) + b"\n" + note.encode())
            file.flush()
            os.fsync(file.fileno())


def verify_ledger(settings: Settings, *, public_key: str | None = None) -> Verification:
    """Recompute the whole log and hold it against every signed checkpoint there is.

    ``public_key`` goes before the pinned one of the settings; without either, signatures are read
    but nobody is asked whose they are.
    """
    client = LedgerClient(settings.ledger)
    stored = {one.size: one.root_hash for one in client.checkpoints(0, _ANY_SIZE)}
    places = PublishedCheckpoints(settings)
    # What is published is read before the log is: a log that grows meanwhile is never too short.
    kept = [
        *places.in_file(),
        *places.in_bucket(lambda size, root_hash: stored.get(size) == root_hash),
    ]
    return client.verify(
        public_key=public_key or settings.ledger.public_key,
        kept=[(one.where, one.note) for one in kept],
    )


def _is_at_line_start(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
