"""A backup bucket: every version's bytes once, by their hash, and indexes that name them.

``objects/sha256/ab/abcd...`` holds bytes, ``ledger/`` exports of the log by size and root, and
``indexes/`` one file a backup, named by time and hash. Nothing is ever removed. What does not
belong here: what is backed up, and restoring.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from marketlake.errors import BadPayload, ConfigError, NotFound
from marketlake.settings import Settings
from marketlake.storage.canonical import canonical_json, sha256_hex
from marketlake.storage.objects import ObjectStore

FORMAT = "marketlake.backup.v1"

_OBJECTS = "objects/sha256/"
_INDEXES = "indexes/"
_INDEX = re.compile(r"indexes/(\d{8}T\d{12}Z)-([0-9a-f]{64})\.json\.gz")
_BYTES = "application/octet-stream"


@dataclass(frozen=True)
class SavedObject:
    """One version of one key, of each key the oldest first."""

    bucket: Literal["lake", "worm"]
    key: str
    version_id: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class SavedLedger:
    """The log's export: its size and root say which log, the hash which bytes."""

    key: str
    size: int
    root_hash: str
    sha256: str


@dataclass(frozen=True)
class BackupIndex:
    """Everything that one backup holds."""

    made_at_utc: str
    lake_names: tuple[str, ...]
    ledger: SavedLedger
    objects: tuple[SavedObject, ...]

    def to_bytes(self) -> bytes:
        """Return the index as it is stored."""
        document = {"format": FORMAT, **asdict(self)}
        return gzip.compress(canonical_json(document, where="backup index"), mtime=0)

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> BackupIndex:
        """Read an index back; BadPayload when the bytes are none."""
        try:
            value: dict[str, Any] = json.loads(gzip.decompress(content))
            if value.pop("format") != FORMAT:
                raise ValueError("another format")
            value["lake_names"] = tuple(value["lake_names"])
            value["ledger"] = SavedLedger(**value["ledger"])
            value["objects"] = tuple(SavedObject(**item) for item in value["objects"])
            return cls(**value)
        except (OSError, EOFError, ValueError, TypeError, KeyError) as error:
            raise BadPayload(
                expected=f"an index of a backup ({FORMAT})",
                was=f"{type(error).__name__}: {error}",
                where=where,
                todo="restore from an earlier index (--index)",
            ) from error


class BackupStore:
    """The backup bucket. Threads may share it."""

    def __init__(self, settings: Settings) -> None:
        reached = settings.backup.store_of(settings.lake)
        self.bucket = settings.backup.bucket
        self.shares_the_lakes_store = reached.endpoint_url == settings.lake.endpoint_url
        self._store = ObjectStore(reached)
        self._present: set[str] = set()
        self._lock = threading.Lock()

    def ensure_bucket(self) -> None:
        """Create the bucket, and see which bytes it has."""
        self._store.ensure_versioned_bucket(self.bucket)
        self._present = {
            item.key.rpartition("/")[2] for item in self._store.list(self.bucket, _OBJECTS)
        }

    def put_object(self, body: bytes, sha256: str) -> bool:
        """Keep some bytes; return False when they are there already."""
        with self._lock:
            if sha256 in self._present:
                return False
            self._present.add(sha256)
        try:
            self._store.put(self.bucket, _object_key(sha256), body, content_type=_BYTES)
        except BaseException:
            with self._lock:
                self._present.discard(sha256)
            raise
        return True

    def holds(self, sha256: str) -> bool:
        """Return whether the bytes of a hash are there."""
        return sha256 in self._present

    def object(self, sha256: str) -> bytes:
        """Return the bytes of a hash, checked."""
        return self._checked(_object_key(sha256), sha256)

    def put_ledger(self, path: Path, *, size: int, root_hash: str) -> SavedLedger:
        """Keep an export of the log, which may be larger than memory."""
        key = f"ledger/{size:012d}-{root_hash}.db"
        sha256 = _file_sha256(path)
        self._store.put_file(self.bucket, key, path, content_type=_BYTES)
        return SavedLedger(key, size, root_hash, sha256)

    def get_ledger(self, saved: SavedLedger, path: Path) -> None:
        """Write an export of the log into a file, its hash checked."""
        try:
            self._store.get_file(self.bucket, saved.key, path)
            found = _file_sha256(path)
        except NotFound:
            found = "nothing"
        self._require(saved.key, saved.sha256, found=found)

    def put_index(self, index: BackupIndex, *, stamp: str) -> str:
        """Store an index, which makes the backup one; return its name."""
        body = index.to_bytes()
        name = f"{stamp}-{sha256_hex(body)}"
        key = f"{_INDEXES}{name}.json.gz"
        self._store.put(self.bucket, key, body, content_type="application/gzip")
        return name

    def index_names(self) -> list[str]:
        """Return the name of every backup, oldest first."""
        try:
            keys = [item.key for item in self._store.list(self.bucket, _INDEXES)]
        except ConfigError:  # nobody has made the bucket yet
            return []
        return sorted(f"{match[1]}-{match[2]}" for key in keys if (match := _INDEX.fullmatch(key)))

    def index(self, name: str | None = None) -> BackupIndex:
        """Return a backup's index (the newest, unless named), its hash checked."""
        names = self.index_names()
        if not names or (name is not None and name not in names):
            raise ConfigError(
                expected="a backup" if name is None else f"a backup {name}",
                was=f"{len(names)} others" if names else "none",
                where=f"s3://{self.bucket}/{_INDEXES}",
                todo="`marketlake backup` makes one; MARKETLAKE_BACKUP__* say where they are",
            )
        chosen = name or names[-1]
        key = f"{_INDEXES}{chosen}.json.gz"
        return BackupIndex.from_bytes(
            self._checked(key, chosen.rpartition("-")[2]), where=f"s3://{self.bucket}/{key}"
        )

    def _checked(self, key: str, sha256: str) -> bytes:
        try:
            body = self._store.get(self.bucket, key).body
            found = sha256_hex(body)
        except NotFound:
            found = "nothing"
        self._require(key, sha256, found=found)
        return body

    def _require(self, key: str, sha256: str, *, found: str) -> None:
        if found != sha256:
            raise BadPayload(
                expected=f"bytes with SHA-256 {sha256}",
                was=found,
                where=f"s3://{self.bucket}/{key}",
                todo="this backup is damaged: restore from an earlier index (--index)",
            )


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _object_key(sha256: str) -> str:
    return f"{_OBJECTS}{sha256[:2]}/{sha256}"
