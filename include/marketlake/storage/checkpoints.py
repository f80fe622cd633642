"""Signed checkpoints outside the database, in a file and in the object-locked bucket, and the
verification of the log against them.

The names in the bucket carry size and root, so one listing tells what was published; only what
contradicts the log, and the newest, has to be read. The lock keeps versions, and nothing else: what
counts is every version that is there, whatever a plain listing shows. What does not belong:
signatures (``proof``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO

from marketlake.clock import utc_now
from marketlake.errors import ContractViolation
from marketlake.settings import Settings
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.objects import ObjectStore, Version
from marketlake.storage.proof.checkpoint import (
    Checkpoint,
    SignatureRefused,
    notes_in,
    open_signed,
    read_unverified,
)
from marketlake.storage.proof.leaf import instant
from marketlake.storage.proof.stored import StoredCheckpoint
from marketlake.storage.proof.verification import CLOCK_TOLERANCE_S, Verification

_PREFIX = "checkpoints/"
_KEY = re.compile(r"checkpoints/(?P<size>\d{12})-(?P<root_hash>[0-9a-f]{64})\.txt")
_ANY_SIZE = 1 << 62
_LOOK_WITHIN_S = 5.0
_TORN = b" (torn)\n"
_HIDDEN = (
    "a delete marker hides it, and the lock keeps what is behind; find out whose marker it is, "
    "then remove it"
)


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


@dataclass(frozen=True)
class InBucket:
    """What the locked bucket holds: how many checkpoints, the notes that were read, and where
    somebody has put a delete marker over one.
    """

    count: int
    read: list[Published]
    removed: list[str]


@dataclass(frozen=True)
class LedgerVerification(Verification):
    """What a verification of the whole ledger found, and what from outside it was held against.

    ``public_key`` is the pinned one; without it nobody was asked whose signatures those are.
    """

    public_key: str | None
    kept_in_file: int
    kept_in_bucket: int


class PublishedCheckpoints:
    """The two places; an appender writes, whoever verifies reads."""

    def __init__(self, settings: Settings) -> None:
        self._file = settings.checkpoint_file
        self._bucket = settings.lake.worm_bucket
        self._locked_days = settings.lake.locked_days
        self._lake = settings.lake
        self._store = ObjectStore(settings.lake)
        self._bucket_is_there = False
        self._last_in_file: str | None = None

    def publish(self, signed: SignedCheckpoint) -> None:
        """Write one to the file, durably, then to the bucket; tried again, to the bucket only."""
        if signed.note != self._last_in_file:
            self._append(signed.note)
            self._last_in_file = signed.note
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
        """Return the file's largest checkpoint; ContractViolation when the key did not sign it.

        The last one need not be it: appenders of old published an empty log before they had
        reached Postgres.
        """
        notes = [one.note for one in self.in_file()]
        if not notes:
            return None
        newest = max(notes, key=_claimed_size)
        self._last_in_file = newest
        try:
            return open_signed(newest, public_key=public_key)
        except SignatureRefused as error:
            raise ContractViolation(
                expected=f"checkpoints signed by {public_key}",
                was=str(error),
                where=str(self._file),
                todo="find out whose file this is; the ledger may only go on with its own",
            ) from None

    def newest_in_bucket(self, public_key: str, *, since: int) -> list[Checkpoint]:
        """Return the bucket's largest checkpoint of ``since`` entries or more that the key signed.

        They are several where a log was forked. What another key signed is passed over: nobody
        could take it away again, and a verification names it.

        Raises
        ------
        SourceUnavailable
            When the store does not answer at once.
        """
        quick = min(_LOOK_WITHIN_S, self._lake.timeout_s)
        store = ObjectStore(self._lake.model_copy(update={"timeout_s": quick}))
        history = store.history(self._bucket, _PREFIX, after=f"{_PREFIX}{since:012d}")
        found: list[Checkpoint] = []
        for version in reversed(history.versions):
            match = _KEY.fullmatch(version.key)
            if match is None:
                continue
            if found and int(match["size"]) < found[0].size:
                break
            with suppress(SignatureRefused):
                one = open_signed(self._note(store, version), public_key=public_key)
                if (one.size, one.root_hash) == (int(match["size"]), match["root_hash"]):
                    found.append(one)
        return found

    def in_bucket(self, agrees: Callable[[int, str], bool]) -> InBucket:
        """Look through the bucket; read the newest note, and each whose size and root do not agree.

        Of one that was written again, or over, every version is read.
        """
        history = self._store.history(self._bucket, _PREFIX)
        named = {
            version.key: match
            for version in history.versions
            if (match := _KEY.fullmatch(version.key))
        }
        wanted = {key for key, m in named.items() if not agrees(int(m["size"]), m["root_hash"])}
        wanted.update(list(named)[-1:])
        return InBucket(
            count=len(named),
            read=[
                Published(self._uri(version.key), self._note(self._store, version))
                for version in history.versions
                if version.key in wanted
            ],
            removed=[self._uri(key) for key in history.removed if _KEY.fullmatch(key)],
        )

    def _note(self, store: ObjectStore, version: Version) -> str:
        body = store.get(self._bucket, version.key, version_id=version.version_id).body
        return body.decode(errors="replace")

    def _uri(self, key: str) -> str:
        return f"s3://{self._bucket}/{key}"

    def _append(self, note: str) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            # What a crash left of another must not pass for a note, or run into this one.
            file.write((b"" if _is_at_line_start(file) else _TORN) + b"\n" + note.encode())
            file.flush()
            os.fsync(file.fileno())


def verify_ledger(settings: Settings, *, public_key: str | None = None) -> LedgerVerification:
    """Recompute the whole log and hold it against every signed checkpoint there is.

    ``public_key`` goes before the pinned one of the settings; without either, signatures are read
    but nobody is asked whose they are.
    """
    public_key = public_key or settings.ledger.public_key
    client = LedgerClient(settings.ledger)
    points = list(client.checkpoints(0, _ANY_SIZE))
    stored = {one.size: one.root_hash for one in points}
    places = PublishedCheckpoints(settings)
    # What is published is read before the log is: a log that grows meanwhile is never too short.
    in_file = places.in_file()
    in_bucket = places.in_bucket(lambda size, root_hash: stored.get(size) == root_hash)
    kept = [*in_file, *in_bucket.read]
    found = client.verify(public_key=public_key, kept=[(one.where, one.note) for one in kept])
    faults = [
        *found.faults,
        *(f"{where} was deleted: {_HIDDEN}" for where in in_bucket.removed),
        *_nothing_outside(points, kept, settings.ledger.unpublished_limit_s),
    ]
    return LedgerVerification(
        ok=not faults,
        size=found.size,
        root_hash=found.root_hash,
        faults=faults,
        public_key=public_key,
        kept_in_file=len(in_file),
        kept_in_bucket=in_bucket.count,
    )


def _nothing_outside(
    points: Sequence[StoredCheckpoint], kept: Sequence[Published], limit_s: float
) -> list[str]:
    """Say so when nothing of a log that should be published is to be found outside the database.

    Whoever takes the file away and names another bucket leaves a log that agrees with itself,
    wherever it was cut. A log that is younger than the appender may take to publish is left alone.
    """
    first = next((one for one in points if one.size > 0), None)
    if first is None or any(_claimed_size(one.note) > 0 for one in kept):
        return []
    at = instant(first.recorded_at_utc)
    late = timedelta(seconds=limit_s + CLOCK_TOLERANCE_S)
    if at is not None and utc_now() - at <= late:
        return []
    return [
        "no checkpoint of any entry is to be found outside the database, in file or bucket, though "
        f"one should have been since {first.recorded_at_utc}: a cut tail would not show"
    ]


def _claimed_size(note: str) -> int:
    """Return the size that a note claims, whoever signed it; -1 when it is no note."""
    try:
        return read_unverified(note).size
    except SignatureRefused:
        return -1


def _is_at_line_start(file: BinaryIO) -> bool:
    if file.seek(0, os.SEEK_END) == 0:
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
