"""What the bucket is told to keep, to forget and to move; asked of the real store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from marketlake.settings import LakeSettings, Settings
from marketlake.storage.lake import Lake
from marketlake.storage.lifecycle import archived_by, ensure_lifecycle, rules
from marketlake.storage.objects import ObjectStore
from pydantic import ValidationError

AN_OPERATORS = {
    "ID": "their own",
    "Status": "Enabled",
    "Filter": {"Prefix": "scratch/"},
    "Expiration": {"Days": 3},
}


def settings_of(lake: Lake, storage_settings: Settings, **changes: Any) -> LakeSettings:
    return storage_settings.lake.model_copy(update={"bucket": lake.bucket, **changes})


@pytest.fixture
def settings(lake: Lake, storage_settings: Settings) -> LakeSettings:
    return settings_of(lake, storage_settings)


@pytest.fixture
def store(storage_settings: Settings) -> ObjectStore:
    return ObjectStore(storage_settings.lake)


@contextmanager
def answers_to_put(store: ObjectStore) -> Iterator[list[int]]:
    """Yield the statuses with which the store answers attempts to change the rules."""
    statuses: list[int] = []
    events = store._client.meta.events
    event = "after-call.s3.PutBucketLifecycleConfiguration"

    def note(http_response: Any, **_: Any) -> None:
        statuses.append(http_response.status_code)

    events.register(event, note)
    try:
        yield statuses
    finally:
        events.unregister(event, note)


def by_name(found: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {rule["ID"]: rule for rule in found}


def test_a_prepared_bucket_forgets_leftovers_soon_and_replaced_versions_after_seven_years(
    store: ObjectStore, settings: LakeSettings
) -> None:
    held = by_name(store.lifecycle(settings.bucket))
    for name, prefix in (("staging", "_staging/"), ("publishing", "_publishing/")):
        rule = held[f"marketlake-unfinished-{name}"]
        assert rule["Filter"] == {"Prefix": prefix}
        assert rule["Expiration"] == {"Days": 7}
    kept = held["marketlake-superseded"]
    assert kept["NoncurrentVersionExpiration"] == {"NoncurrentDays": 2557}
    # Only the two kinds of leftovers may ever lose a version that is the newest.
    assert [name for name, rule in held.items() if "Expiration" in rule] == [
        "marketlake-unfinished-staging",
        "marketlake-unfinished-publishing",
    ]


def test_preparing_again_changes_no_rule(store: ObjectStore, settings: LakeSettings) -> None:
    before = store.lifecycle(settings.bucket)
    with answers_to_put(store) as statuses:
        ensure_lifecycle(store, settings)
    # The store was asked whether it can move objects by now, and still cannot.
    assert statuses == [501]
    assert store.lifecycle(settings.bucket) == before


def test_without_an_archive_preparing_again_asks_for_nothing(
    store: ObjectStore, settings: LakeSettings
) -> None:
    without = settings.model_copy(update={"archive_raw_after_days": 0})
    with answers_to_put(store) as statuses:
        ensure_lifecycle(store, without)
    assert statuses == []
    assert archived_by(store, without) == "nothing"


def test_a_store_without_cold_storage_leaves_archiving_to_a_copy(
    store: ObjectStore, settings: LakeSettings, lake: Lake
) -> None:
    assert archived_by(store, settings) == "copy"
    assert lake.archived_by() == "copy"


def test_a_changed_setting_changes_our_rule_and_no_other(
    store: ObjectStore, settings: LakeSettings
) -> None:
    assert store.set_lifecycle(settings.bucket, [AN_OPERATORS, *store.lifecycle(settings.bucket)])
    ensure_lifecycle(store, settings.model_copy(update={"superseded_days": 3650}))
    held = by_name(store.lifecycle(settings.bucket))
    assert held["their own"] == AN_OPERATORS
    assert held["marketlake-superseded"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 3650}
    ensure_lifecycle(store, settings)
    held = by_name(store.lifecycle(settings.bucket))
    assert held["marketlake-superseded"]["NoncurrentVersionExpiration"] == {"NoncurrentDays": 2557}
    assert held["their own"] == AN_OPERATORS


def test_objects_go_on_living_under_the_rules(lake: Lake) -> None:
    for key in ("_staging/part", "raw/part", "core/part"):
        lake.put_record(key, b"1")
        lake.put_record(key, b"2")
        assert lake.get_bytes(key) == b"2"


class _Mover(ObjectStore):
    """A store that can move objects: what the embedded one cannot do is only remembered."""

    held: Sequence[dict[str, Any]] = ()
    puts = 0

    def lifecycle(self, bucket: str) -> Sequence[dict[str, Any]]:
        return self.held

    def set_lifecycle(self, bucket: str, rules: Sequence[Mapping[str, Any]]) -> bool:
        # Some stores give an empty prefix back as no prefix.
        self.held = [
            {**rule, "Filter": {name: value for name, value in rule["Filter"].items() if value}}
            for rule in rules
        ]
        self.puts += 1
        return True


def test_a_store_with_cold_storage_moves_raw_artifacts_itself(settings: LakeSettings) -> None:
    store = _Mover(settings)
    ensure_lifecycle(store, settings)
    moved = by_name(store.held)["marketlake-archive-raw"]
    assert moved["Filter"] == {"Prefix": "raw/"}
    assert moved["Transitions"] == [{"Days": 365, "StorageClass": "GLACIER_IR"}]
    assert archived_by(store, settings) == "transition"
    ensure_lifecycle(store, settings)
    assert store.puts == 1
    ensure_lifecycle(store, settings.model_copy(update={"archive_raw_after_days": 0}))
    assert "marketlake-archive-raw" not in by_name(store.held)


def test_no_rule_of_ours_is_shared_between_two_prefixes(settings: LakeSettings) -> None:
    always, transition = rules(settings)
    names = [rule["ID"] for rule in [*always, *transition]]
    assert len(names) == len(set(names)) == 4


@pytest.mark.parametrize("name", ["unfinished_days", "superseded_days"])
def test_keeping_nothing_at_all_cannot_be_set(name: str) -> None:
    with pytest.raises(ValidationError):
        LakeSettings(**{name: 0})
