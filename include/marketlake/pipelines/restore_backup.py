"""Bring ledger and lake back from the backup bucket, into stores that are empty.

The store gives restored versions new names. A map of recorded to restored version is kept in the
restored bucket (``Lake`` reads it where a recorded version is not there), so manifests and ledger
stay as they were, byte for byte.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from marketlake.errors import BadPayload, ConfigError
from marketlake.settings import Settings
from marketlake.storage.backup import BackupIndex, BackupStore, SavedLedger, SavedObject
from marketlake.storage.lake import Lake
from marketlake.storage.ledger_log import LedgerReader
from marketlake.storage.ledger_restore import ensure_database, require_empty, restore_log
from marketlake.storage.objects import RESTORED_VERSIONS, ObjectStore, Restored
from marketlake.storage.proof.export_file import ExportFile
from marketlake.storage.proof.stored import StoredRow
from marketlake.storage.proof.verification import Verification, verify_log

_SIDE_BY_SIDE = 8
_PAGE_ROWS = 5000
_BYTES = "application/octet-stream"

Progress = Callable[[int, int], None]


def settings_into(settings: Settings, name: str) -> Settings:
    """Return the settings of a platform on the restored stores: buckets and database ``name``.

    Its checkpoints go to a file of their own: the old one may know of entries that came after the
    backup, and an appender never goes on behind what was published.
    """
    checkpoint_file = settings.checkpoint_file.with_name(f"checkpoints-{name}.txt")
    return settings.model_copy(
        update={
            "lake": settings.lake.model_copy(
                update={"bucket": name, "worm_bucket": f"{name}-worm"}
            ),
            "postgres": settings.postgres.model_copy(update={"ledger_db": name}),
            "ledger": settings.ledger.model_copy(update={"checkpoint_file": checkpoint_file}),
        }
    )


def restore(
    settings: Settings, *, into: str, index: str | None = None, on_progress: Progress | None = None
) -> dict[str, Any]:
    """Restore a backup (the newest, unless named) into empty buckets and an empty database.

    Raises
    ------
    ConfigError
        When there is no such backup, or one of the stores is not empty.
    BadPayload
        When bytes of the backup do not have their hash, or the restored log does not verify.
    """
    backup = BackupStore(settings)
    saved = backup.index(index)
    target = settings_into(settings, into)
    Lake(target.lake).ensure_buckets()
    store = ObjectStore(target.lake)
    for bucket in (target.lake.bucket, target.lake.worm_bucket):
        _require_empty_bucket(store, bucket)
    ensure_database(target.postgres, beside=settings.postgres.ledger_db)
    require_empty(target.postgres)
    _restore_objects(backup, store, target, saved, on_progress or (lambda done, total: None))
    _restore_ledger(backup, target, saved.ledger)
    verification = _verify(target, saved.ledger)
    return {
        "into": into,
        "checkpoint_file": str(target.checkpoint_file),
        "made_at_utc": saved.made_at_utc,
        "objects": len(saved.objects),
        "log": {"size": verification.size, "root_hash": verification.root_hash},
    }


def _restore_objects(
    backup: BackupStore,
    store: ObjectStore,
    target: Settings,
    saved: BackupIndex,
    on_progress: Progress,
) -> None:
    buckets = {"lake": target.lake.bucket, "worm": target.lake.worm_bucket}
    by_key: dict[tuple[str, str], list[SavedObject]] = defaultdict(list)
    for item in saved.objects:
        by_key[item.bucket, item.key].append(item)

    def put_all(versions: list[SavedObject]) -> dict[str, str]:
        return {
            item.version_id: store.put(
                buckets[item.bucket], item.key, backup.object(item.sha256), content_type=_BYTES
            )
            for item in versions
        }

    restored: dict[str, dict[str, str]] = {}
    done = 0
    with ThreadPoolExecutor(_SIDE_BY_SIDE) as pool:
        for (bucket, key), versions in zip(by_key, pool.map(put_all, by_key.values()), strict=True):
            if bucket == "lake":
                restored[key] = versions
            done += len(versions)
            on_progress(done, len(saved.objects))
    # A lake that was itself restored keeps older names too: references name the first versions.
    for key, earlier in _earlier_names(backup, saved).items():
        now = restored.get(key, {})
        restored[key] = now | {old: now[new] for old, new in earlier.items() if new in now}
    body = Restored(saved.lake_names, restored).to_json()
    store.put(target.lake.bucket, RESTORED_VERSIONS, body, content_type="application/json")


def _earlier_names(backup: BackupStore, saved: BackupIndex) -> Mapping[str, Mapping[str, str]]:
    maps = [item for item in saved.objects if item.key == RESTORED_VERSIONS]
    return Restored.from_json(backup.object(maps[-1].sha256)).versions if maps else {}


def _restore_ledger(backup: BackupStore, target: Settings, saved: SavedLedger) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        backup.get_ledger(saved, path)
        with ExportFile(path) as file:
            restore_log(target.postgres, file.rows(), file.checkpoints())


def _verify(target: Settings, saved: SavedLedger) -> Verification:
    """Recompute the log as the database holds it now."""
    reader = LedgerReader(target.postgres)
    try:
        points = reader.checkpoints(0, saved.size, limit=saved.size + 1)
        found = verify_log(
            _rows(reader), points, end=saved.size, public_key=target.ledger.public_key
        )
    finally:
        reader.close()
    if not found.ok or found.root_hash != saved.root_hash:
        raise BadPayload(
            expected=f"a log of {saved.size} entries with the root {saved.root_hash}",
            was="; ".join(found.faults[:3]) or f"{found.size} entries, root {found.root_hash}",
            where=f"Postgres database {target.postgres.ledger_db}",
            todo="keep the backup as it is; restore from an earlier index (--index)",
        )
    return found


def _rows(reader: LedgerReader) -> Iterator[StoredRow]:
    first = 0
    while page := reader.rows(first, None, limit=_PAGE_ROWS, filters={}):
        yield from page
        first = page[-1].index + 1


def _require_empty_bucket(store: ObjectStore, bucket: str) -> None:
    held = store.list(bucket, "")
    if held:
        raise ConfigError(
            expected="an empty bucket",
            was=f"{len(held)} objects, such as {held[0].key}",
            where=f"bucket {bucket}",
            todo="restore into another name (--into): nothing is overwritten",
        )
