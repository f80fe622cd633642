"""Copy the ledger and every version of the lake to the backup bucket, what is new of it.

The lake is listed before the log is exported: whatever the backup's lake holds, its log tells of.
The keys of sealed documents stay out: nothing is ever removed from a backup, and a key that came
back would undo a shredding. What does not belong here: restoring (``restore_backup``).
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from marketlake.clock import utc_now
from marketlake.errors import BadPayload, ConfigError
from marketlake.pipelines.context import RunContext
from marketlake.storage.backup import BackupIndex, BackupStore, SavedLedger, SavedObject
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.manifest import Manifest
from marketlake.storage.objects import ObjectStore, Version
from marketlake.storage.proof.export_file import ExportFile

_SIDE_BY_SIDE = 8
# What tasks hand to each other, and copies whose originals stay. Archived snapshots are no copies:
# the archive is all there is of them.
_LEFT_OUT = ("_staging/", "_publishing/", "archive/raw/")
_CHECKPOINTS = "checkpoints/"
_MANIFEST = "/manifest.json"

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Source:
    bucket: Literal["lake", "worm"]
    version: Version


def back_up(ctx: RunContext, *, on_progress: Progress | None = None) -> dict[str, Any]:
    """Make one backup; return what it holds, what was new, and its index's name."""
    store = BackupStore(ctx.settings)
    store.ensure_bucket()
    known = _already_saved(store)
    saving = _Saving(ctx, store, known)
    sources = saving.sources()
    ledger = _save_ledger(ctx, store)
    objects = saving.save(sources, on_progress or (lambda done, total: None))
    index = BackupIndex(utc_now().isoformat(), tuple(sorted(ctx.lake.names)), ledger, objects)
    name = store.put_index(index, stamp=f"{utc_now():%Y%m%dT%H%M%S%f}Z")
    told = {
        "index": name,
        "bucket": store.bucket,
        "log": {"size": ledger.size, "root_hash": ledger.root_hash},
        "objects": len(objects),
        "copied": saving.copied,
        "copied_bytes": saving.copied_bytes,
    }
    ctx.ledger.record("exported", name="backup", **told)
    return {**told, "same_store": store.shares_the_lakes_store}


class _Saving:
    """What one backup copies; versions never change, so what an earlier one has is not read."""

    def __init__(
        self, ctx: RunContext, store: BackupStore, known: dict[tuple[str, str, str], str]
    ) -> None:
        self._lake = ctx.settings.lake
        self._from = ObjectStore(ctx.settings.lake)
        self._to = store
        self._known = known
        self._promised: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.copied = 0
        self.copied_bytes = 0

    def sources(self) -> list[_Source]:
        """Return every version to save: the lake's, and the checkpoints kept outside it."""
        lake = self._from.versions(self._lake.bucket)
        worm = self._from.versions(self._lake.worm_bucket, _CHECKPOINTS)
        return [
            *(_Source("lake", item) for item in lake if not item.key.startswith(_LEFT_OUT)),
            *(_Source("worm", item) for item in worm),
        ]

    def save(self, sources: list[_Source], on_progress: Progress) -> tuple[SavedObject, ...]:
        # Manifests first: they promise hashes for what comes after.
        manifests = [one for one in sources if one.version.key.endswith(_MANIFEST)]
        others = [one for one in sources if not one.version.key.endswith(_MANIFEST)]
        saved: dict[_Source, SavedObject] = {}
        with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
            for some in (manifests, others):
                for source, item in zip(some, pool.map(self._save, some), strict=True):
                    saved[source] = item
                    on_progress(len(saved), len(sources))
        return tuple(saved[source] for source in sources)

    def _save(self, source: _Source) -> SavedObject:
        version = source.version
        sha256 = self._known.get((source.bucket, version.key, version.version_id))
        if sha256 is None or not self._to.holds(sha256):
            sha256 = self._copy(source)
        return SavedObject(source.bucket, version.key, version.version_id, sha256, version.bytes)

    def _copy(self, source: _Source) -> str:
        version = source.version
        bucket = self._lake.bucket if source.bucket == "lake" else self._lake.worm_bucket
        body = self._from.get(bucket, version.key, version_id=version.version_id).body
        sha256 = sha256_hex(body)
        # Several manifests may name one version, and every one of them must be right.
        others = self._promised.get((version.key, version.version_id), set()) - {sha256}
        if others:
            raise BadPayload(
                expected=f"bytes with SHA-256 {min(others)}, as a manifest says",
                was=f"bytes with SHA-256 {sha256}",
                where=f"s3://{bucket}/{version.key} version {version.version_id}",
                todo="the store changed what was written: keep its disk as it is, and look at "
                "the last backup's copy",
            )
        if version.key.endswith(_MANIFEST):
            for name, promise in _promises(Manifest.from_json(body, where=version.key)).items():
                self._promised[name].add(promise)
        if self._to.put_object(body, sha256):
            self.copied += 1
            self.copied_bytes += len(body)
        return sha256


def _promises(manifest: Manifest) -> dict[tuple[str, str], str]:
    promised = {(manifest.data_key, manifest.version_id): manifest.sha256}
    if manifest.export_key and manifest.export_version_id and manifest.export_sha256:
        promised[manifest.export_key, manifest.export_version_id] = manifest.export_sha256
    return promised


def _already_saved(store: BackupStore) -> dict[tuple[str, str, str], str]:
    try:
        objects: Iterable[SavedObject] = store.index().objects
    except (ConfigError, BadPayload):
        objects = ()  # the first one, or one after a damaged one: everything is read
    return {(item.bucket, item.key, item.version_id): item.sha256 for item in objects}


def _save_ledger(ctx: RunContext, store: BackupStore) -> SavedLedger:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        LedgerClient(ctx.settings.ledger).export(path)
        with ExportFile(path) as file:
            end = file.checkpoints()[-1]
        return store.put_ledger(path, size=end.size, root_hash=end.root_hash)
