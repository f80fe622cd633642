"""What the kill matrix looks for is found when it is there: a lost write, half an artifact."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime

import psycopg
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.contracts.catalog import CORE_WAREHOUSE_BUILD
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, LedgerWriter
from marketlake.storage.objects import ObjectStore
from marketlake.storage.warehouse import Warehouse
from marketlake.types import ArtifactRef, Partition, RunIdentity

from tests.acceptance.acknowledged import Writers
from tests.acceptance.crashes import audit

SESSION = date(2022, 12, 28)
RUN = RunIdentity("build_warehouse", "audited", "publish")


@pytest.fixture
def settings(storage_settings: Settings, lake: Lake, ledger: LedgerClient) -> Settings:
    """Return the settings of the stores, with this module's own bucket."""
    own = storage_settings.lake.model_copy(update={"bucket": lake.bucket})
    return storage_settings.model_copy(update={"lake": own})


def published(lake: Lake, day: date) -> ArtifactRef:
    return lake.write(
        CORE_WAREHOUSE_BUILD,
        Partition.of_session(day),
        {item.name: str(day) for item in CORE_WAREHOUSE_BUILD.fields},
        sessions=[day],
        parents=[],
        run=RUN,
        code_version="test",
        recorded_at=datetime.now(UTC),
    )


def test_a_lost_object_and_a_lost_row_are_counted(settings: Settings, warehouse: Warehouse) -> None:
    writers = Writers(settings, "losing")
    writers.start()
    sleep_s(1.0)
    writers.stop()
    before = writers.look_for_everything()
    assert min(before.acknowledged.values()) > 3
    assert set(before.lost.values()) == {0}
    store, key = ObjectStore(settings.lake), "_acceptance/losing/000001"
    store.delete(settings.lake.bucket, key, store.get(settings.lake.bucket, key).version_id)
    with psycopg.connect(warehouse.conninfo) as database:
        database.execute("delete from acceptance.acknowledged where name = 'losing' and number < 2")
    assert writers.look_for_everything().lost == {"objects": 1, "rows": 2, "entries": 0}


def test_writers_end_by_themselves_when_a_store_refuses(settings: Settings) -> None:
    gone = settings.lake.model_copy(update={"endpoint_url": "http://127.0.0.1:9"})
    writers = Writers(settings.model_copy(update={"lake": gone}), "refused")
    began = monotonic_s()
    writers.start()
    writers.stop()
    assert monotonic_s() - began < 20
    assert writers.look_for_everything().acknowledged["objects"] == 0


def test_a_manifest_without_its_bytes_is_found(settings: Settings, lake: Lake) -> None:
    sound, broken = published(lake, SESSION), published(lake, date(2022, 12, 27))
    # The ledger is every module's, and others' buckets are named in full: these keys are not.
    keys = [ref.uri.removeprefix(f"s3://{lake.bucket}/") for ref in (sound, broken)]
    assert not [fault for fault in audit(settings) if fault.startswith(tuple(keys))]
    ObjectStore(settings.lake).delete(lake.bucket, keys[1], broken.version_id)
    faults = {fault for fault in audit(settings) if fault.startswith(tuple(keys))}
    (fault,) = faults
    assert fault.startswith(f"{keys[1]}: No")


def test_a_manifest_that_names_other_bytes_is_found(settings: Settings, lake: Lake) -> None:
    ref = published(lake, date(2022, 12, 23))
    key = ref.uri.removeprefix(f"s3://{lake.bucket}/").replace("part.json", "manifest.json")
    store = ObjectStore(settings.lake)
    manifest = json.loads(store.get(lake.bucket, key).body) | {"sha256": "0" * 64}
    store.put(lake.bucket, key, json.dumps(manifest).encode(), content_type="application/json")
    assert [found for found in audit(settings) if "another hash" in found]


def test_an_intent_that_nothing_followed_is_found(settings: Settings, ledger: LedgerClient) -> None:
    writer = LedgerWriter(ledger, RUN)
    writer.record("intent", contract="core_test__half", partition="session=2022-12-28", parents=[])
    assert [found for found in audit(settings) if "core_test__half" in found]
