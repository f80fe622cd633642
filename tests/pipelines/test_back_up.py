"""Ledger and lake to a backup bucket and back into empty stores: the same bytes, read the same."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import psycopg
import pyarrow as pa
import pytest
from marketlake.clock import sleep_s, utc_now
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import OUT_DATA_VALIDATION_ANOMALY_LOG, RAW_YAHOO_RESPONSE
from marketlake.errors import BadPayload, ConfigError, MarketlakeError
from marketlake.pipelines import back_up, export_audit, restore_backup
from marketlake.pipelines.context import RunContext, open_context
from marketlake.pipelines.snapshots import take
from marketlake.readmodels import lineage, published
from marketlake.settings import Settings
from marketlake.storage.backup import BackupIndex, BackupStore
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.lineage_index import LineageIndex
from marketlake.storage.objects import RESTORED_VERSIONS, ObjectStore
from marketlake.storage.shredding import Documents
from marketlake.storage.snapshots import Snapshots
from marketlake.types import ArtifactRef, Partition, RunIdentity

from tests.own_ledger import OwnLedger, own_ledger

SESSION = date(2022, 12, 28)
DAY = Partition.of_session(SESSION)


@pytest.fixture(scope="module")
def own(storage_settings: Settings) -> Iterator[OwnLedger]:
    """Yield an empty ledger, with an empty lake and no backup yet."""
    unique = uuid.uuid4().hex[:12]
    lake = storage_settings.lake.model_copy(
        update={"bucket": f"kept-{unique}", "worm_bucket": f"kept-worm-{unique}"}
    )
    backup = storage_settings.backup.model_copy(update={"bucket": f"backup-{unique}"})
    settings = storage_settings.model_copy(update={"lake": lake, "backup": backup})
    Lake(lake).ensure_buckets()
    with own_ledger(settings, at=utc_now()) as ledger:
        yield ledger


def in_context(settings: Settings) -> RunContext:
    run = RunIdentity("test_back_up", f"run {uuid.uuid4().hex[:8]}", "publish")
    with open_context(settings, run) as context:
        return context


def publish(settings: Settings, value: float) -> tuple[ArtifactRef, ArtifactRef]:
    """Publish an answer of a vendor, and a log made from it that has a named file."""
    ctx = in_context(settings)
    answer = {
        "symbol": "KO",
        "request_no": 0,
        "method": "GET",
        "url": "https://vendor.example/chart/KO",
        "status": 200,
        "body": str(value).encode(),
        "body_sha256": "0" * 64,
    }
    anomaly = {
        "session": SESSION,
        "symbol": "KO",
        "source": "yahoo",
        "kind": "price_spike",
        "value": value,
        "expected": None,
        "limit": None,
        "severity": "info",
        "detail": "made up",
    }
    raw = ctx.publish(
        RAW_YAHOO_RESPONSE,
        DAY,
        pa.Table.from_pylist([answer], schema=schema(RAW_YAHOO_RESPONSE)),
        sessions=[SESSION],
        parents=[],
    )
    log = ctx.publish(
        OUT_DATA_VALIDATION_ANOMALY_LOG,
        DAY,
        pa.Table.from_pylist([anomaly], schema=schema(OUT_DATA_VALIDATION_ANOMALY_LOG)),
        sessions=[SESSION],
        parents=[raw],
    )
    ctx.ledger.record("decision", name="signal", symbol="KO")
    return raw, log


@pytest.fixture(scope="module")
def refs(own: OwnLedger) -> list[ArtifactRef]:
    """Return references to everything that was published, replaced content among it."""
    first, second = publish(own.settings, 1.0), publish(own.settings, 2.0)
    export_audit.export_everything(in_context(own.settings))
    store = ObjectStore(own.settings.lake)
    while not store.list(own.settings.lake.worm_bucket, "checkpoints/"):
        sleep_s(0.1)  # within a second of a commit the appender publishes
    return [*first, *second]


@pytest.fixture(scope="module")
def archived(own: OwnLedger, refs: list[ArtifactRef]) -> tuple[str, bytes]:
    """Return the name and bytes of a snapshot that lies in a month's archive only."""
    ctx = in_context(own.settings)
    ctx.touched.read.update(refs)
    snapshots = Snapshots(ctx.lake, own.client)
    step = "marketlake.pipelines.build_features.compute"
    local = datetime(2023, 1, 2, 9, tzinfo=UTC)
    kept = snapshots.write(take(ctx, SESSION, step, {}, error=None), local=local)
    body = snapshots.body(kept)
    assert snapshots.archive("202301", [kept])[0] == 1
    assert ctx.lake.list_keys("snapshots/") == []
    return kept, body


@pytest.fixture(scope="module")
def name(own: OwnLedger, archived: tuple[str, bytes]) -> str:
    """Return the name of the first backup's index."""
    seen: list[tuple[int, int]] = []
    done = back_up.back_up(
        in_context(own.settings), on_progress=lambda *numbers: seen.append(numbers)
    )
    assert done["copied"] > 10
    assert seen[-1] == (done["objects"], done["objects"])
    return str(done["index"])


@pytest.fixture(scope="module")
def saved(own: OwnLedger, name: str) -> BackupIndex:
    return BackupStore(own.settings).index(name)


@pytest.fixture(scope="module")
def restored(own: OwnLedger, name: str, saved: BackupIndex) -> Settings:
    """Return the settings of a platform on what was restored."""
    into = f"back-{uuid.uuid4().hex[:10]}"
    told = restore_backup.restore(own.settings, into=into, index=name)
    assert told["log"] == {"size": saved.ledger.size, "root_hash": saved.ledger.root_hash}
    return restore_backup.settings_into(own.settings, into)


def objects_of(settings: Settings, bucket: str) -> dict[str, list[bytes]]:
    """Return every version's bytes by key, the oldest first."""
    store = ObjectStore(settings.lake)
    found: dict[str, list[bytes]] = {}
    for version in store.versions(bucket):
        body = store.get(bucket, version.key, version_id=version.version_id).body
        found.setdefault(version.key, []).append(body)
    return found


def test_a_second_backup_copies_only_what_is_new(own: OwnLedger, saved: BackupIndex) -> None:
    again = back_up.back_up(in_context(own.settings))
    index = BackupStore(own.settings).index(again["index"])
    added = set(index.objects) - set(saved.objects)
    assert {item.bucket for item in added} <= {"worm"}  # checkpoints published since
    assert again["copied"] == len(added)
    assert again["objects"] == len(saved.objects) + len(added)
    assert again["log"]["size"] == saved.ledger.size + 1  # the first backup's own entry
    assert own.client.entries("exported")[-1].payload["index"] == again["index"]


def test_every_version_comes_back_in_its_order_with_its_bytes(
    own: OwnLedger, saved: BackupIndex, restored: Settings
) -> None:
    before, after = (objects_of(each, each.lake.bucket) for each in (own.settings, restored))
    assert before.keys() == after.keys() - {RESTORED_VERSIONS}
    assert {key: after[key] for key in before} == before
    data = before[f"raw/raw_yahoo__response/session={SESSION}/part.parquet"]
    assert len(set(data)) == 2
    locked = objects_of(restored, restored.lake.worm_bucket)
    by_now = objects_of(own.settings, own.settings.lake.worm_bucket)
    assert locked
    assert locked == {key: by_now[key] for key in locked}


def test_references_of_before_are_read_in_the_restored_lake_replaced_content_too(
    own: OwnLedger, refs: list[ArtifactRef], restored: Settings
) -> None:
    original, lake = Lake(own.settings.lake), Lake(restored.lake)
    assert len({ref.sha256 for ref in refs}) == 4
    for ref in refs:
        assert lake.read_ref(ref) == original.read_ref(ref)
    newest = lake.read(OUT_DATA_VALIDATION_ANOMALY_LOG, [SESSION], as_of=SESSION)
    assert newest.column("value").to_pylist() == [2.0]
    exported = published.export_bytes(lake, OUT_DATA_VALIDATION_ANOMALY_LOG, DAY)
    assert exported == published.export_bytes(original, OUT_DATA_VALIDATION_ANOMALY_LOG, DAY)


def test_a_version_that_was_never_there_is_still_not_there(
    refs: list[ArtifactRef], restored: Settings
) -> None:
    with pytest.raises(MarketlakeError, match=r"part\.parquet"):
        Lake(restored.lake).read_ref(replace(refs[0], version_id="0" * 32))


def test_the_restored_log_is_the_old_one_byte_for_byte_and_goes_on(
    own: OwnLedger, saved: BackupIndex, refs: list[ArtifactRef], restored: Settings
) -> None:
    size = saved.ledger.size
    with own_ledger(restored, at=own.at, database=restored.postgres.ledger_db) as again:
        assert again.client.verify().ok
        assert again.client.checkpoint().root_hash == saved.ledger.root_hash
        assert list(again.client.rows(0, size)) == list(own.client.rows(0, size))
        assert list(again.client.checkpoints(0, size)) == list(own.client.checkpoints(0, size))
        with LineageIndex(restored.postgres) as index:
            traced = lineage.trace(
                Lake(restored.lake),
                again.client,
                index,
                artifact=OUT_DATA_VALIDATION_ANOMALY_LOG,
                partition=DAY,
            )
        assert all(node.ledger_index is not None for node in traced.walk())
        assert [parent.sha256 for parent in traced.parents] == [refs[2].sha256]
        publish(again.settings, 3.0)
        assert again.client.verify().ok


def test_an_archived_snapshot_is_read_in_the_restored_lake(
    archived: tuple[str, bytes], restored: Settings
) -> None:
    name, body = archived
    with own_ledger(restored, at=utc_now(), database=restored.postgres.ledger_db) as again:
        snapshots = Snapshots(Lake(restored.lake), again.client)
        (entry,) = [entry for entry in snapshots.entries() if entry.name == name]
        assert snapshots.read(entry).session == str(SESSION)
        assert snapshots.body(name) == body
        assert snapshots.restore("202301") == [name]


def test_a_lake_restored_from_a_restored_lake_reads_the_first_references(
    refs: list[ArtifactRef], restored: Settings
) -> None:
    backup = restored.backup.model_copy(update={"bucket": f"second-{uuid.uuid4().hex[:8]}"})
    second = restored.model_copy(update={"backup": backup})
    with own_ledger(second, at=utc_now(), database=second.postgres.ledger_db) as ledger:
        back_up.back_up(in_context(ledger.settings))
    name = f"third-{uuid.uuid4().hex[:10]}"
    restore_backup.restore(second, into=name)
    lake = Lake(restore_backup.settings_into(second, name).lake)
    for ref in refs:
        assert lake.read_ref(ref).num_rows == 1


def test_a_restore_into_stores_that_hold_something_is_refused(
    own: OwnLedger, saved: BackupIndex, restored: Settings
) -> None:
    with pytest.raises(ConfigError, match="an empty bucket"):
        restore_backup.restore(own.settings, into=restored.lake.bucket)
    own_name = own.settings.postgres.ledger_db.replace("_", "-")
    with pytest.raises(ConfigError, match="a backup nothing"):
        restore_backup.restore(own.settings, into=own_name, index="nothing")


def test_a_database_with_a_log_is_never_overwritten(own: OwnLedger, saved: BackupIndex) -> None:
    from marketlake.storage.ledger_restore import require_empty, restore_log

    with pytest.raises(ConfigError, match="a database without a ledger"):
        require_empty(own.settings.postgres)
    with pytest.raises(ConfigError, match="a database without a ledger"):
        restore_log(own.settings.postgres, [], [])


def test_a_damaged_backup_is_not_restored(own: OwnLedger, saved: BackupIndex) -> None:
    lake = Lake(own.settings.lake)
    store = ObjectStore(own.settings.lake)
    item = next(item for item in saved.objects if item.key.endswith("part.parquet"))
    key = f"objects/sha256/{item.sha256[:2]}/{item.sha256}"
    right = store.get(own.settings.backup.bucket, key).body
    store.put(own.settings.backup.bucket, key, b"damaged", content_type="text/plain")
    try:
        with pytest.raises(BadPayload, match=item.sha256):
            restore_backup.restore(own.settings, into=f"no-{uuid.uuid4().hex[:8]}")
    finally:
        store.put(own.settings.backup.bucket, key, right, content_type="text/plain")
    assert lake.list_keys("raw/")


def test_a_damaged_or_missing_export_of_the_ledger_is_not_restored(
    own: OwnLedger, saved: BackupIndex, tmp_path: Path
) -> None:
    store = BackupStore(own.settings)
    for wrong, was in (
        (replace(saved.ledger, sha256="0" * 64), saved.ledger.sha256),
        (replace(saved.ledger, key="ledger/none.db"), "was nothing"),
    ):
        with pytest.raises(BadPayload, match=was):
            store.get_ledger(wrong, tmp_path / "ledger.db")


def test_an_object_that_is_not_what_its_manifest_says_stops_a_backup(
    own: OwnLedger, refs: list[ArtifactRef]
) -> None:
    lake = Lake(own.settings.lake)
    manifest = lake.manifest(RAW_YAHOO_RESPONSE, DAY)
    key = f"raw/raw_yahoo__response/session={SESSION}/manifest.json"
    wrong = replace(manifest, sha256="f" * 64)
    store = ObjectStore(own.settings.lake)
    version_id = lake.put_record(key, wrong.to_json())
    fresh = own.settings.backup.model_copy(update={"bucket": f"fresh-{uuid.uuid4().hex[:8]}"})
    try:
        with pytest.raises(BadPayload, match="as a manifest says"):
            back_up.back_up(in_context(own.settings.model_copy(update={"backup": fresh})))
    finally:
        store.delete(own.settings.lake.bucket, key, version_id)


def test_no_backup_has_the_key_of_a_sealed_document(
    own: OwnLedger, saved: BackupIndex, tmp_path: Path
) -> None:
    """What has been shredded must not come back with one."""
    settings = own.settings
    ctx = in_context(settings)
    document_id = f"post/{uuid.uuid4().hex}"
    sealed = Documents(settings, ctx.ledger).seal(document_id, b"Jane Roe sold everything")
    ctx.lake.put_record(f"documents/{document_id}", sealed)
    with psycopg.connect(settings.postgres.conninfo(settings.postgres.warehouse_db)) as connection:
        row = connection.execute(
            "select wrapped_key from sealed.document_key where document_id = %s", (document_id,)
        ).fetchone()
    assert row is not None
    index = back_up.back_up(ctx)["index"]
    store = BackupStore(settings)
    held = [store.object(item.sha256) for item in store.index(index).objects]
    store.get_ledger(store.index(index).ledger, tmp_path / "ledger.db")
    held.append((tmp_path / "ledger.db").read_bytes())
    assert sealed in held
    assert [body for body in held if row[0] in body or row[0].hex().encode() in body] == []


def test_the_export_in_the_backup_verifies_by_itself(
    own: OwnLedger, saved: BackupIndex, tmp_path: Path
) -> None:
    from marketlake.storage.proof.verification import verify_file

    path = tmp_path / "ledger.db"
    BackupStore(own.settings).get_ledger(saved.ledger, path)
    assert LedgerClient(own.settings.ledger).verify().ok
    assert verify_file(path).ok
