from __future__ import annotations

import resource
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from marketlake.errors import AuthFailed, ConfigError, NotFound, SourceUnavailable
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.objects import ObjectStore
from pydantic import SecretStr


@pytest.fixture(scope="module")
def store(storage_settings: Settings, lake: Lake) -> ObjectStore:
    return ObjectStore(storage_settings.lake)


def raw_client(settings: Settings) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=settings.lake.endpoint_url,
        region_name=settings.lake.region,
        aws_access_key_id=settings.lake.access_key.get_secret_value(),
        aws_secret_access_key=settings.lake.secret_key.get_secret_value(),
    )


def test_each_put_is_a_version_and_each_version_keeps_its_bytes(
    store: ObjectStore, lake: Lake
) -> None:
    versions = [
        store.put(lake.bucket, "v/key", body, content_type="text/plain") for body in (b"1", b"2")
    ]
    assert len(set(versions)) == 2
    assert [store.get(lake.bucket, "v/key", version_id=version).body for version in versions] == [
        b"1",
        b"2",
    ]
    newest = store.get(lake.bucket, "v/key")
    assert (newest.body, newest.version_id) == (b"2", versions[1])


def test_a_copy_takes_exactly_the_named_version(store: ObjectStore, lake: Lake) -> None:
    first = store.put(lake.bucket, "c/from", b"first", content_type="text/plain")
    store.put(lake.bucket, "c/from", b"second", content_type="text/plain")
    version = store.copy(lake.bucket, "c/from", first, to="c/to")
    assert store.get(lake.bucket, "c/to", version_id=version).body == b"first"


@pytest.mark.parametrize("size_mb", [0, 20])
def test_a_file_is_stored_in_parts_and_each_time_as_a_version(
    store: ObjectStore, lake: Lake, tmp_path: Path, size_mb: int
) -> None:
    path, again = tmp_path / "file", tmp_path / "again"
    key = f"f/{size_mb}"
    first = store.put(lake.bucket, key, b"before", content_type="text/plain")
    path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(size_mb << 18)))
    second = store.put_file(lake.bucket, key, path, content_type="application/octet-stream")
    store.get_file(lake.bucket, key, again)
    assert again.read_bytes() == path.read_bytes()
    assert [item.version_id for item in store.versions(lake.bucket, key)] == [first, second]
    assert store.get(lake.bucket, key, version_id=second).body == path.read_bytes()
    assert store.get(lake.bucket, key, version_id=first).body == b"before"


def test_a_file_that_is_not_stored_is_not_found(
    store: ObjectStore, lake: Lake, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match="f/nothing"):
        store.get_file(lake.bucket, "f/nothing", tmp_path / "nothing")


def test_a_large_file_is_stored_and_read_in_little_memory(
    store: ObjectStore, lake: Lake, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(128 << 20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    store.put_file(lake.bucket, "f/large", path, content_type="application/octet-stream")
    store.get_file(lake.bucket, "f/large", tmp_path / "again")
    grown_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert (tmp_path / "again").stat().st_size == 128 << 20
    assert grown_kb < 64 << 10


def test_a_deleted_version_is_gone(store: ObjectStore, lake: Lake) -> None:
    version = store.put(lake.bucket, "d/key", b"x", content_type="text/plain")
    store.delete(lake.bucket, "d/key", version)
    with pytest.raises(NotFound, match="d/key"):
        store.get(lake.bucket, "d/key", version_id=version)
    assert store.list(lake.bucket, "d/") == []


@pytest.mark.parametrize("key", ["odd/a b+c=d&é.txt", "odd/2022-12-28T21:15:00+00:00/x~y"])
def test_keys_with_odd_characters_are_signed_and_found(
    store: ObjectStore, lake: Lake, key: str
) -> None:
    store.put(lake.bucket, key, b"odd", content_type="text/plain")
    assert store.get(lake.bucket, key).body == b"odd"
    assert key in [item.key for item in store.list(lake.bucket, "odd/")]


def test_a_listing_can_be_bounded_at_both_ends(store: ObjectStore, lake: Lake) -> None:
    keys = [f"few/{number}/{part}" for number in range(6) for part in ("a", "b")]
    for key in keys:
        store.put(lake.bucket, key, b"", content_type="text/plain")
    bounded = store.list(lake.bucket, "few/", after="few/1~", until="few/3~")
    assert [item.key for item in bounded] == keys[4:8]
    # A bound that no key has, on either side, takes nothing away.
    assert [item.key for item in store.list(lake.bucket, "few/", after="few/!")] == keys


@pytest.mark.slow
def test_a_listing_of_more_than_a_page_is_whole(store: ObjectStore, lake: Lake) -> None:
    keys = [f"many/{number:04d}" for number in range(1_050)]
    for key in keys:
        store.put(lake.bucket, key, b"", content_type="text/plain")
    assert [item.key for item in store.list(lake.bucket, "many/")] == keys
    late = store.list(lake.bucket, "many/", after="many/0019~", until="many/1010")
    assert [item.key for item in late] == keys[20:1_011]


def test_what_goes_to_the_locked_bucket_cannot_be_removed(
    store: ObjectStore, storage_settings: Settings
) -> None:
    bucket = f"locked-{uuid.uuid4().hex[:12]}"
    store.ensure_locked_bucket(bucket, retention_days=1)
    store.put(bucket, "checkpoints/1.json", b"{}", content_type="application/json")
    client = raw_client(storage_settings)
    version = client.head_object(Bucket=bucket, Key="checkpoints/1.json")["VersionId"]
    with pytest.raises(ClientError, match="AccessDenied"):
        client.delete_object(Bucket=bucket, Key="checkpoints/1.json", VersionId=version)
    held = client.get_object_retention(Bucket=bucket, Key="checkpoints/1.json")["Retention"]
    assert held["Mode"] == "COMPLIANCE"


def test_preparing_buckets_again_changes_nothing(lake: Lake) -> None:
    lake.put_record("kept", b"kept")
    lake.ensure_buckets()
    assert lake.get_bytes("kept") == b"kept"


def test_a_bucket_without_a_lock_is_not_taken_for_a_locked_one(
    store: ObjectStore, storage_settings: Settings
) -> None:
    raw_client(storage_settings).create_bucket(Bucket="plain-bucket")
    with pytest.raises(ConfigError, match="object lock"):
        store.ensure_locked_bucket("plain-bucket", retention_days=1)


def locked_bucket(settings: Settings, **retention: Any) -> str:
    """Return a bucket with an object lock and that default retention, or with none."""
    bucket = f"lock-{uuid.uuid4().hex[:12]}"
    client = raw_client(settings)
    client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=True)
    if retention:
        client.put_object_lock_configuration(
            Bucket=bucket,
            ObjectLockConfiguration={
                "ObjectLockEnabled": "Enabled",
                "Rule": {"DefaultRetention": retention},
            },
        )
    return bucket


def test_a_locked_bucket_that_locks_for_no_time_gets_its_days(
    store: ObjectStore, storage_settings: Settings
) -> None:
    bucket = locked_bucket(storage_settings)
    store.ensure_locked_bucket(bucket, retention_days=30)
    version = store.put(bucket, "kept", b"", content_type="text/plain")
    with pytest.raises(AuthFailed, match="AccessDenied"):
        store.delete(bucket, "kept", version)


@pytest.mark.parametrize(
    ("retention", "was"),
    [
        ({"Mode": "GOVERNANCE", "Days": 900}, "mode GOVERNANCE, 900 days"),
        ({"Mode": "COMPLIANCE", "Days": 731}, "mode COMPLIANCE, 731 days"),
        ({"Mode": "COMPLIANCE", "Years": 2}, "mode COMPLIANCE, 730 days"),
    ],
)
def test_a_bucket_whose_lock_is_weaker_than_asked_for_is_refused(
    store: ObjectStore, storage_settings: Settings, retention: dict[str, Any], was: str
) -> None:
    bucket = locked_bucket(storage_settings, **retention)
    with pytest.raises(ConfigError, match="COMPLIANCE for 732 days") as refusal:
        store.ensure_locked_bucket(bucket, retention_days=732)
    assert refusal.value.was == was
    assert "MARKETLAKE_LAKE__LOCKED_DAYS" in refusal.value.todo


@pytest.mark.parametrize("retention", [{"Days": 732}, {"Years": 3}])
def test_a_bucket_that_locks_for_longer_stays_as_it_is(
    store: ObjectStore, storage_settings: Settings, retention: dict[str, int]
) -> None:
    bucket = locked_bucket(storage_settings, Mode="COMPLIANCE", **retention)
    store.ensure_locked_bucket(bucket, retention_days=700)
    found = raw_client(storage_settings).get_object_lock_configuration(Bucket=bucket)
    assert found["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == {
        "Mode": "COMPLIANCE",
        **retention,
    }


def test_a_deleted_key_is_in_the_history_with_its_versions(
    store: ObjectStore, lake: Lake, storage_settings: Settings
) -> None:
    keys = [f"h/{number}" for number in range(3)]
    versions = [store.put(lake.bucket, key, b"x", content_type="text/plain") for key in keys]
    raw_client(storage_settings).delete_object(Bucket=lake.bucket, Key=keys[2])
    assert [item.key for item in store.list(lake.bucket, "h/")] == keys[:2]
    found = store.history(lake.bucket, "h/", after="h/0")
    assert [item.version_id for item in found.versions] == versions[1:]
    assert found.removed == keys[2:]
    assert store.history(lake.bucket, "h/", after="h/2").versions == []


def lake_with(settings: Settings, **changes: Any) -> Lake:
    return Lake(settings.lake.model_copy(update=changes))


def test_a_wrong_secret_is_an_authentication_failure(storage_settings: Settings) -> None:
    wrong = lake_with(storage_settings, secret_key=SecretStr("not it"))
    with pytest.raises(AuthFailed, match="SECRET_KEY") as refusal:
        wrong.get_bytes("any")
    assert "not it" not in str(refusal.value)
    with pytest.raises(AuthFailed):
        wrong.put_record("any", b"")


def test_a_bucket_that_nobody_made_is_a_missing_preparation(storage_settings: Settings) -> None:
    with pytest.raises(ConfigError, match="marketlake up"):
        lake_with(storage_settings, bucket="nobody-made-this").get_bytes("key")


def test_a_bucket_that_keeps_no_versions_is_not_written_to(storage_settings: Settings) -> None:
    raw_client(storage_settings).create_bucket(Bucket="one-version")
    with pytest.raises(ConfigError, match="keeps every version"):
        lake_with(storage_settings, bucket="one-version").put_record("key", b"")


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Yield a port where connections are taken and nothing is ever said."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_dead_store_is_unavailable(storage_settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dead = lake_with(storage_settings, endpoint_url=f"http://127.0.0.1:{port}")
    for call in (lambda: dead.get_bytes("k"), lambda: dead.put_record("k", b"")):
        with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port}.*marketlake up"):
            call()


def test_a_store_that_never_answers_is_unavailable_within_its_bound(
    storage_settings: Settings, silent_port: int
) -> None:
    hung = lake_with(
        storage_settings, endpoint_url=f"http://127.0.0.1:{silent_port}", timeout_s=0.5
    )
    for call in (lambda: hung.get_bytes("k"), lambda: hung.put_record("k", b"")):
        began = time.monotonic()
        with pytest.raises(SourceUnavailable, match=r"within 0\.5 s"):
            call()
        assert time.monotonic() - began < 10


def test_a_store_that_cannot_write_keeps_what_it_has(scratch_root: Path) -> None:
    """The size limit of a process stands in for a full disk: writes fail, reads go on."""
    settings = prepare(scratch_root / "full-store", usual_ports=False)
    seaweed = components.seaweedfs(settings)
    try:
        seaweed.start()
        lake = Lake(settings.lake)
        lake.ensure_buckets()
        lake.put_record("before", b"x" * 100_000)
        assert seaweed.process.pid is not None
        limit = resource.RLIMIT_FSIZE
        usual = resource.prlimit(seaweed.process.pid, limit)
        resource.prlimit(seaweed.process.pid, limit, (1_000, usual[1]))
        try:
            with pytest.raises(SourceUnavailable, match="free disk space"):
                lake.put_record("after", b"y" * 5_000_000)
            assert lake.get_bytes("before") == b"x" * 100_000
            with pytest.raises(NotFound):
                lake.get_bytes("after")
        finally:
            resource.prlimit(seaweed.process.pid, limit, usual)
        lake.put_record("after", b"z")
        assert lake.get_bytes("after") == b"z"
    finally:
        seaweed.stop()
