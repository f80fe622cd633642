"""Snapshots are kept once each, hashed in the ledger, archived whole; the past reads as it was."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from marketlake.calendars import Calendar
from marketlake.clock import utc_now
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR
from marketlake.errors import (
    BadPayload,
    ConfigError,
    LookaheadError,
    MarketlakeError,
    MissingPartition,
    NotFound,
)
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.recorded_store import Noted, NotingStore, RecordedStore
from marketlake.storage.snapshots import (
    Snapshot,
    SnapshotObject,
    Snapshots,
    archive_key,
    arguments_with_places,
    pack,
    refs_in,
    unpacked,
)
from marketlake.types import ArtifactRef, Partition, RunIdentity

MakeBars = Callable[..., pa.Table]
XNYS = Calendar.of("XNYS")
FAR = date(2049, 12, 31)
FOLDER = "core/core_x__y/session=2022-12-28"
REF = ArtifactRef(
    contract="core_x__y",
    partition="session=2022-12-28",
    uri=f"s3://lake/{FOLDER}/part.parquet",
    sha256="ab" * 32,
    rows=7,
    version_id="v1",
)


def snapshot(lake: Lake, task_id: str, *, at: datetime | None = None) -> Snapshot:
    return Snapshot(
        step="marketlake.pipelines.build_features.compute",
        session="2022-12-28",
        category="analysis",
        moment="after_step",
        run=RunIdentity("build_features", f"run of {lake.bucket}", task_id),
        recorded_at_utc=(at or utc_now()).isoformat(),
        code_version="test",
        parameters={"settings": {"a": 1}},
        arguments={"staged": [{"$object": 0}], "year": 2022},
        error=None,
        bucket=lake.bucket,
        objects=(SnapshotObject(f"{FOLDER}/part.parquet", "v1", "ab" * 32, 900, 7),),
        read=(0,),
        wrote=(),
        exported=(),
        newest=(),
        absent=(f"{FOLDER}/manifest.json",),
        listed=(),
        loaded={},
    )


@pytest.fixture(scope="module")
def kept(lake: Lake, ledger: LedgerClient) -> Snapshots:
    return Snapshots(lake, ledger)


def test_a_snapshot_is_read_back_as_it_was_written(lake: Lake, kept: Snapshots) -> None:
    made = snapshot(lake, "round trip")
    name = kept.write(made, local=XNYS.local(datetime(2026, 3, 2, 1, 30, 5, tzinfo=UTC)))
    assert name == "snapshots/analysis/snapshot_20260301_203005.json"
    (entry,) = [item for item in kept.entries() if item.name == name]
    assert kept.read(entry) == made
    assert entry.referenced_bytes == 900
    assert entry.bytes == len(kept.body(name))


def test_references_in_arguments_come_back_the_same(lake: Lake) -> None:
    arguments = {"staged": [[REF], {"one": REF}], "symbols": ["KO"], "year": 2022, "none": None}
    places = {f"{ref.uri}@{ref.version_id}": 0 for ref in refs_in(arguments)}
    made = replace(
        snapshot(lake, "arguments"),
        bucket="lake",
        arguments=arguments_with_places(arguments, places),
    )
    again = Snapshot.from_json(made.to_json(), where="test")
    assert again.arguments_with_refs() == arguments


def test_snapshots_of_one_second_get_names_of_their_own_whoever_comes_first(
    lake: Lake, storage_settings: Settings
) -> None:
    local = datetime(2026, 3, 2, 12, 0, 0, tzinfo=UTC)
    names: list[str] = []

    def write(number: int) -> None:
        own = Snapshots(lake, LedgerClient(storage_settings.ledger))
        names.append(own.write(snapshot(lake, f"thread {number}"), local=local))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stem = "snapshots/analysis/snapshot_20260302_120000"
    assert sorted(names) == sorted([f"{stem}.json", *(f"{stem}_{n}.json" for n in range(2, 9))])
    bodies = {lake.get_bytes(name) for name in names}
    assert len(bodies) == 8


def test_a_snapshot_that_was_changed_afterwards_is_not_believed(
    lake: Lake, kept: Snapshots
) -> None:
    name = kept.write(snapshot(lake, "forged"), local=datetime(2026, 3, 3, tzinfo=UTC))
    (entry,) = [item for item in kept.entries() if item.name == name]
    lake.put_record(name, lake.get_bytes(name).replace(b'"year":2022', b'"year":2021'))
    with pytest.raises(BadPayload, match=f"ledger entry {entry.ledger_index}"):
        kept.read(entry)
    with pytest.raises(BadPayload, match="changed after it was recorded"):
        kept.archive("202603", [name])
    assert archive_key("202603") not in lake.list_keys("archive/")


def test_a_month_is_archived_restored_and_archived_again_with_the_same_bytes(
    lake: Lake, kept: Snapshots
) -> None:
    names = [
        kept.write(snapshot(lake, f"january {n}"), local=datetime(2026, 1, n, tzinfo=UTC))
        for n in range(1, 20)
    ]
    before = {name: lake.get_bytes(name) for name in names}
    count, size, packed = kept.archive("202601", names[:12])
    assert count == 12
    assert packed < size / 4
    first = lake.get_bytes(archive_key("202601"))
    kept.archive("202601", names[12:])
    assert unpacked(lake.get_bytes(archive_key("202601"))) == before
    assert not set(names) & set(lake.list_keys("snapshots/"))
    fresh = Snapshots(lake, kept._ledger)
    assert {name: fresh.body(name) for name in names} == before
    assert fresh.restore("202601") == names
    assert fresh.restore("202601") == []
    assert {name: lake.get_bytes(name) for name in names} == before
    kept.archive("202601", names)
    assert unpacked(lake.get_bytes(archive_key("202601"))) == before
    assert pack({name: before[name] for name in reversed(names[:12])}) == first


def test_what_is_in_no_archive_is_not_found(kept: Snapshots) -> None:
    with pytest.raises(NotFound, match="199912"):
        kept.restore("199912")
    with pytest.raises(NotFound):
        kept.body("snapshots/analysis/snapshot_19991231_235959.json")
    with pytest.raises(ConfigError, match="snapshots list"):
        kept.body("snapshots/analysis/other.json")


def test_a_recorded_store_serves_what_was_noted_and_nothing_else(
    lake: Lake, storage_settings: Settings, bars: MakeBars, by: dict[str, Any]
) -> None:
    own = storage_settings.lake.model_copy(update={"bucket": lake.bucket})
    first, second, third = XNYS.sessions(date(2021, 6, 1), date(2021, 6, 3))
    for session in (first, second):
        lake.write(BAR, Partition.of_session(session), bars([session]), sessions=[session], **by)
    noted = Noted()
    then = Lake(own, store=NotingStore(own, noted)).read_with_refs(BAR, [first], as_of=FAR)
    changed = bars([first], close=11.0)
    lake.write(BAR, Partition.of_session(first), changed, sessions=[first], **by)
    lake.write(BAR, Partition.of_session(third), bars([third]), sessions=[third], **by)

    recorded = RecordedStore(
        own,
        hashes={version: noted.hashes.get(version) for version in noted.sizes},
        newest=noted.newest,
        listed=noted.listed,
        made={},
    )
    replayed = Lake(own, store=recorded)
    assert replayed.read_with_refs(BAR, [first], as_of=FAR) == then
    for session in (second, third):
        with pytest.raises(MissingPartition):
            replayed.read(BAR, [session], as_of=FAR)
    before = lake.list_keys("")
    partition = Partition.of_session(third)
    ref = replayed.write(BAR, partition, bars([third]), sessions=[third], **by)
    assert ref.sha256 == lake.ref(BAR, partition).sha256
    assert replayed.read(BAR, [third], as_of=FAR) == lake.read(BAR, [third], as_of=FAR)
    assert lake.list_keys("") == before


_YEARS = itertools.count(1991)
_PUBLICATION = st.tuples(st.sampled_from(["first", "second", "year"]), st.integers(1, 3))
_HISTORY = st.lists(_PUBLICATION, min_size=1, max_size=6)


def _seen(lake: Lake, session: date) -> Any:
    try:
        return lake.read_with_refs(BAR, [session], as_of=FAR)
    except MissingPartition:
        return None


@given(history=_HISTORY)
@settings(
    max_examples=8,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_the_lake_as_of_an_instant_is_what_a_reader_saw_then(
    lake: Lake, bars: MakeBars, by: dict[str, Any], history: list[tuple[str, int]]
) -> None:
    year = next(_YEARS)
    first, second, never = XNYS.sessions(date(year, 3, 1), date(year, 3, 31))[:3]
    began = datetime(2026, 1, 1, tzinfo=UTC)
    seen = [(began, dict.fromkeys((first, second, never)))]
    for step, (what, close) in enumerate(history, start=1):
        at = began + timedelta(minutes=step)
        days = {"first": [first], "second": [second], "year": [first, second]}[what]
        partition = Partition.of_year(year) if what == "year" else Partition.of_session(days[0])
        content = bars(days, close=float(close) + 8.0)
        lake.write(BAR, partition, content, sessions=days, **{**by, "recorded_at": at})
        seen.append((at, {session: _seen(lake, session) for session in (first, second, never)}))
    finally_there = seen[-1][1]
    for at, then in seen:
        past = lake.as_of(at + timedelta(seconds=30))
        for session, found in then.items():
            if found is not None:
                assert past.read_with_refs(BAR, [session], as_of=FAR) == found
                continue
            expected = MissingPartition if finally_there[session] is None else LookaheadError
            with pytest.raises(expected):
                past.read(BAR, [session], as_of=FAR)


def test_the_past_is_read_only_and_wants_a_zone(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2021, 7, 1)
    lake.write(BAR, Partition.of_session(session), bars([session]), sessions=[session], **by)
    past = lake.as_of(utc_now())
    with pytest.raises(ConfigError, match="reads only"):
        past.write(BAR, Partition.of_session(session), bars([session]), sessions=[session], **by)
    with pytest.raises(ConfigError, match="time zone"):
        lake.as_of(utc_now().replace(tzinfo=None))
    assert isinstance(_refused(lake, session), LookaheadError)


def _refused(lake: Lake, session: date) -> MarketlakeError:
    with pytest.raises(MarketlakeError) as caught:
        lake.as_of(datetime(1999, 1, 1, tzinfo=UTC)).ref(BAR, Partition.of_session(session))
    return caught.value
