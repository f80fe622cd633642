"""An archive copy is whole, checked, made once, and nobody's reading changes."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR
from marketlake.errors import BadPayload, NotFound
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest
from marketlake.types import Partition

from .conftest import Bars

ARCHIVED = "archive/core/core_market__daily_bar/session={}/{}"


def write(lake: Lake, bars: Bars, by: dict[str, Any], session: date, *, close: float) -> Manifest:
    partition = Partition.of_session(session)
    rows = bars([session], close=close)
    lake.write(CORE_MARKET_DAILY_BAR, partition, rows, sessions=[session], **by)
    return lake.manifest(CORE_MARKET_DAILY_BAR, partition)


def test_a_copy_has_the_originals_bytes_and_manifest_and_is_made_once(
    lake: Lake, bars: Bars, by: dict[str, Any]
) -> None:
    session = date(2022, 12, 1)
    manifest = write(lake, bars, by, session, close=10.0)
    archived = lake.archive(manifest)
    assert archived is not None
    assert archived.sha256 == manifest.sha256
    assert lake.read_ref(archived) == lake.read_ref(manifest.ref(lake.bucket))
    assert lake.get_bytes(ARCHIVED.format(session, "part.parquet")) == lake.get_bytes(
        manifest.data_key
    )
    copied = Manifest.from_json(lake.get_bytes(ARCHIVED.format(session, "manifest.json")))
    assert copied == manifest
    assert lake.archive(manifest) is None


def test_readers_read_on_as_if_nothing_was_archived(
    lake: Lake, bars: Bars, by: dict[str, Any]
) -> None:
    session = date(2022, 12, 2)
    manifest = write(lake, bars, by, session, close=10.0)
    lake.archive(manifest)
    assert lake.ref(CORE_MARKET_DAILY_BAR, Partition.of_session(session)) == manifest.ref(
        lake.bucket
    )
    assert lake.read(CORE_MARKET_DAILY_BAR, [session], as_of=session).num_rows == 2
    assert session in lake.published_sessions(CORE_MARKET_DAILY_BAR)


def test_what_is_published_anew_is_archived_anew_and_both_stay(
    lake: Lake, bars: Bars, by: dict[str, Any]
) -> None:
    session = date(2022, 12, 5)
    first = lake.archive(write(lake, bars, by, session, close=10.0))
    second = lake.archive(write(lake, bars, by, session, close=11.0))
    assert first is not None
    assert second is not None
    closes = [
        lake.read_ref(ref).column("close_usd").to_pylist()[0]
        for ref in (first, second)  # type: ignore[union-attr]
    ]
    assert closes == [10.0, 11.0]


def test_a_copy_with_other_bytes_is_refused_and_gets_no_manifest(
    lake: Lake, bars: Bars, by: dict[str, Any]
) -> None:
    session = date(2022, 12, 6)
    manifest = write(lake, bars, by, session, close=10.0)
    with pytest.raises(BadPayload, match="SHA-256"):
        lake.archive(replace(manifest, sha256="0" * 64))
    with pytest.raises(NotFound):
        lake.get_bytes(ARCHIVED.format(session, "manifest.json"))
    assert lake.archive(manifest) is not None


def test_the_published_version_is_the_newest_even_after_a_publication_that_stopped_half_way(
    lake: Lake, bars: Bars, by: dict[str, Any]
) -> None:
    """A replaced version is expired one day; what a manifest names must not be one."""
    session = date(2022, 12, 7)
    manifest = write(lake, bars, by, session, close=10.0)
    other = write(lake, bars, by, date(2022, 12, 8), close=11.0)
    # As far as a publication of other rows gets before it is killed: data, but no manifest.
    lake.put_record(manifest.data_key, lake.get_bytes(other.data_key))
    again = write(lake, bars, by, session, close=10.0)
    assert again.sha256 == manifest.sha256
    assert lake._store.get(lake.bucket, again.data_key).version_id == again.version_id
    assert write(lake, bars, by, session, close=10.0).version_id == again.version_id
