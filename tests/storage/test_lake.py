"""Every test uses sessions of its own, so that they do not see each other's."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from marketlake.calendars import Calendar
from marketlake.contracts import catalog
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR
from marketlake.errors import (
    BadPayload,
    ConfigError,
    ContractViolation,
    LookaheadError,
    MissingPartition,
    NotFound,
)
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.lake import Lake
from marketlake.types import Partition

MakeBars = Callable[..., pa.Table]
XNYS = Calendar.of("XNYS")
FAR = date(2022, 12, 28)


def publish(
    lake: Lake, bars: MakeBars, by: dict[str, Any], *sessions: date, **made: Any
) -> list[Any]:
    return [
        lake.write(
            BAR, Partition.of_session(session), bars([session], **made), sessions=[session], **by
        )
        for session in sessions
    ]


def publish_year(lake: Lake, bars: MakeBars, by: dict[str, Any], year: int, **made: Any) -> Any:
    sessions = XNYS.sessions(date(year, 1, 1), date(year, 12, 31))
    return lake.write(BAR, Partition.of_year(year), bars(sessions, **made), sessions=sessions, **by)


def closes(lake: Lake, *sessions: date) -> dict[date, float]:
    table = lake.read(BAR, sessions, as_of=FAR)
    return dict(zip(table["session"].to_pylist(), table["close_usd"].to_pylist(), strict=True))


def test_what_was_published_is_read_sorted_by_key(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    days = [date(2012, 1, 4), date(2012, 1, 3)]
    publish(lake, bars, by, *days, symbols=("XOM", "JPM"))
    table = lake.read(BAR, days, as_of=FAR)
    assert list(zip(table["session"].to_pylist(), table["symbol"].to_pylist(), strict=True)) == [
        (date(2012, 1, 3), "JPM"),
        (date(2012, 1, 3), "XOM"),
        (date(2012, 1, 4), "JPM"),
        (date(2012, 1, 4), "XOM"),
    ]
    assert table.schema.names == [item.name for item in BAR.fields]


def test_objects_lie_where_the_layout_says(lake: Lake, bars: MakeBars, by: dict[str, Any]) -> None:
    publish(lake, bars, by, date(2012, 2, 1))
    assert lake.list_keys("core/core_market__daily_bar/session=2012-02") == [
        "core/core_market__daily_bar/session=2012-02-01/manifest.json",
        "core/core_market__daily_bar/session=2012-02-01/part.parquet",
    ]
    assert lake.list_keys("_publishing/") == []


def test_the_same_content_written_twice_is_one_version_with_equal_bytes(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 3, 1)
    (first,) = publish(lake, bars, by, session, symbols=("KO", "XOM"))
    before = lake.manifest(BAR, Partition.of_session(session))
    (again,) = publish(lake, bars, by, session, symbols=("XOM", "KO"))
    after = lake.manifest(BAR, Partition.of_session(session))
    assert again == first
    assert before.supersedes is None
    assert after.supersedes is not None
    assert sha256_hex(lake.get_bytes(before.data_key)) == first.sha256


def test_two_lakes_give_the_same_hash_for_the_same_content(
    lake: Lake, storage_settings: Any, bars: MakeBars, by: dict[str, Any]
) -> None:
    other = Lake(storage_settings.lake)
    other.ensure_buckets()
    session = date(2012, 3, 2)
    (here,) = publish(lake, bars, by, session)
    (there,) = publish(other, bars, by, session)
    assert here.sha256 == there.sha256
    assert here.uri != there.uri


def test_a_republish_is_read_and_the_old_reference_keeps_its_bytes(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 3, 5)
    (old,) = publish(lake, bars, by, session, close=10.0)
    assert closes(lake, session) == {session: 10.0}
    (new,) = publish(lake, bars, by, session, close=11.0)
    assert closes(lake, session) == {session: 11.0}
    assert lake.read_ref(old)["close_usd"].to_pylist() == [10.0, 10.0]
    assert lake.read_ref(new)["close_usd"].to_pylist() == [11.0, 11.0]
    assert lake.ref(BAR, Partition.of_session(session)) == new != old


def test_data_without_a_manifest_is_not_published(lake: Lake) -> None:
    lake.put_record("core/core_market__daily_bar/session=2012-04-02/part.parquet", b"half")
    with pytest.raises(MissingPartition, match="2012-04-02"):
        lake.read(BAR, [date(2012, 4, 2)], as_of=FAR)
    with pytest.raises(MissingPartition):
        lake.ref(BAR, Partition.of_session(date(2012, 4, 2)))
    assert Partition.of_session(date(2012, 4, 2)) not in lake.partitions(BAR)


def test_bytes_put_in_place_behind_the_manifest_are_not_read(
    lake: Lake, storage_settings: Any, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 4, 3)
    (ref,) = publish(lake, bars, by, session)
    lake.put_record(f"core/core_market__daily_bar/session={session}/part.parquet", b"forged")
    unwarmed = Lake(storage_settings.lake.model_copy(update={"bucket": lake.bucket}))
    assert closes(unwarmed, session) == {session: 10.0}
    assert unwarmed.read_ref(ref).num_rows == 2


def test_a_reference_whose_hash_differs_is_refused(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    (ref,) = publish(lake, bars, by, date(2012, 4, 4))
    with pytest.raises(BadPayload, match="SHA-256"):
        lake.read_ref(replace(ref, sha256="0" * 64))
    with pytest.raises(NotFound):
        lake.read_ref(replace(ref, version_id="f" * 32, sha256="1" * 64))


def test_a_reader_beside_a_writer_sees_one_publication_or_the_other(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 5, 1)
    many = [f"S{number:03d}" for number in range(300)]
    publish(lake, bars, by, session, close=0.0, symbols=many)
    seen: list[set[float]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            table = lake.read(BAR, [session], as_of=FAR)
            assert table.num_rows == 300
            seen.append(set(table["close_usd"].to_pylist()))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 9):
        publish(lake, bars, by, session, close=float(number), symbols=many)
    done.set()
    reader.join()
    assert seen
    assert all(len(values) == 1 for values in seen)
    assert seen == sorted(seen, key=min)


def test_a_session_that_is_not_published_is_named(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    publish(lake, bars, by, date(2012, 6, 1))
    with pytest.raises(MissingPartition, match=r"2012-06-04, 2012-06-05; was") as refusal:
        lake.read(BAR, [date(2012, 6, 1), date(2012, 6, 4), date(2012, 6, 5)], as_of=FAR)
    assert "2012-06-01" not in str(refusal.value)
    with pytest.raises(MissingPartition, match="2012-06-04"):
        lake.refs_for(BAR, [date(2012, 6, 1), date(2012, 6, 4)])


def test_many_missing_sessions_are_counted_not_listed(lake: Lake) -> None:
    with pytest.raises(MissingPartition, match="and 15 more"):
        lake.read(BAR, XNYS.window(date(2003, 6, 2), 25), as_of=FAR)


def test_reading_past_as_of_is_refused_even_where_nothing_is_published(lake: Lake) -> None:
    with pytest.raises(LookaheadError, match="2012-06-05"):
        lake.read(BAR, [date(2012, 6, 5)], as_of=date(2012, 6, 4))


def test_no_sessions_are_an_empty_table(lake: Lake) -> None:
    empty = lake.read(BAR, [], as_of=FAR)
    assert empty.num_rows == 0
    assert empty.schema.names == [item.name for item in BAR.fields]


def test_a_year_serves_the_sessions_that_have_no_object_of_their_own(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    year = publish_year(lake, bars, by, 2013, close=13.0, symbols=("KO",))
    own, from_year = date(2013, 7, 2), date(2013, 7, 3)
    (ref,) = publish(lake, bars, by, own, close=99.0, symbols=("KO",))
    assert closes(lake, own, from_year) == {own: 99.0, from_year: 13.0}
    assert lake.refs_for(BAR, [from_year, own]) == [ref, year]
    assert set(XNYS.sessions(date(2013, 1, 1), date(2013, 12, 31))) <= set(
        lake.published_sessions(BAR)
    )


def test_rows_come_with_the_references_of_the_partitions_they_were_read_from(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    year = publish_year(lake, bars, by, 2014, close=14.0, symbols=("KO",))
    own, from_year = date(2014, 7, 2), [date(2014, 7, 1), date(2014, 7, 3)]
    (ref,) = publish(lake, bars, by, own, close=99.0, symbols=("KO",))
    table, refs = lake.read_with_refs(BAR, [*from_year, own], as_of=FAR)
    assert table.equals(lake.read(BAR, [*from_year, own], as_of=FAR))
    assert refs == [ref, year]
    publish(lake, bars, by, own, close=100.0, symbols=("KO",))
    assert lake.read_ref(refs[0])["close_usd"].to_pylist() == [99.0]
    assert lake.read_with_refs(BAR, from_year, as_of=FAR)[1] == [year]
    assert lake.read_with_refs(BAR, [], as_of=FAR)[1] == []


def test_a_window_over_two_years_reads_each_year_once(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    years = [publish_year(lake, bars, by, year, close=float(year)) for year in (2015, 2016)]
    window = XNYS.window(date(2016, 3, 1), 60)
    table = lake.read(BAR, window, as_of=FAR)
    assert table.num_rows == 120
    assert sorted(set(table["session"].to_pylist())) == window
    assert lake.refs_for(BAR, window) == years


def test_a_session_without_rows_is_published_and_empty(lake: Lake, by: dict[str, Any]) -> None:
    action = catalog.CORE_MARKET_CORPORATE_ACTION
    nothing = pa.table({item.name: pa.array([]) for item in action.fields})
    session = date(2012, 8, 1)
    lake.write(action, Partition.of_session(session), nothing, sessions=[session], **by)
    assert lake.read(action, [session], as_of=FAR).num_rows == 0
    assert lake.published_sessions(action) == [session]


@pytest.mark.parametrize(
    ("partition", "sessions"),
    [
        (Partition.of_session(date(2012, 8, 2)), []),
        (Partition.of_session(date(2012, 8, 2)), [date(2012, 8, 3)]),
        (Partition.of_session(date(2012, 8, 2)), [date(2012, 8, 2), date(2012, 8, 3)]),
        (Partition.of_year(2012), [date(2013, 1, 2)]),
        (Partition.of_year(2012), [date(2012, 1, 3), date(2013, 1, 2)]),
    ],
)
def test_sessions_that_are_not_the_partitions_are_refused(
    lake: Lake, bars: MakeBars, by: dict[str, Any], partition: Partition, sessions: list[date]
) -> None:
    with pytest.raises(ConfigError, match=partition.key):
        lake.write(BAR, partition, bars(sessions), sessions=sessions, **by)


def test_rows_of_another_session_are_refused(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session, other = date(2012, 8, 2), date(2012, 8, 3)
    with pytest.raises(ContractViolation, match="2012-08-03"):
        lake.write(
            BAR, Partition.of_session(session), bars([session, other]), sessions=[session], **by
        )
    assert lake.list_keys(f"core/core_market__daily_bar/session={session}") == []


def test_a_year_may_grow_but_not_lose_sessions(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    partition, sessions = Partition.of_year(2009), XNYS.window(date(2009, 6, 30), 4)

    def write(days: list[date]) -> Any:
        return lake.write(BAR, partition, bars(days), sessions=days, **by)

    write(sessions[:3])
    whole = write(sessions)
    with pytest.raises(ContractViolation, match=r"a year that keeps its sessions.*2009-06-30"):
        write(sessions[:3])
    assert lake.ref(BAR, partition) == whole
    assert lake.read(BAR, sessions, as_of=FAR).num_rows == 8


RAW = catalog.RAW_YAHOO_ACTION


def test_raw_lands_as_it_came_and_is_read_by_its_own_sessions(
    lake: Lake, by: dict[str, Any]
) -> None:
    session, later = date(2012, 8, 7), date(2012, 8, 8)
    splits = pa.table(
        {
            "session": [session, later],
            "symbol": ["KO", "KO"],
            "kind": ["split", "split"],
            "split_ratio": [2.0, 3.0],
            "dividend_usd": pa.nulls(2),
            "simulated_fields": [[], []],
        }
    )
    ref = lake.write(RAW, Partition.of_session(session), splits, sessions=[session], **by)
    assert lake.read_ref(ref)["session"].to_pylist() == [session, later]
    assert lake.read(RAW, [session], as_of=session)["session"].to_pylist() == [session]
    with pytest.raises(MissingPartition):
        lake.read(RAW, [later], as_of=FAR)


def test_a_partition_of_an_older_schema_is_refused_with_what_to_do(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 8, 6)
    publish(lake, bars, by, session)
    price = BAR.field("close_usd")
    changed = tuple(replace(item, unit="EUR") if item is price else item for item in BAR.fields)
    with pytest.raises(ContractViolation, match="publish the partition again"):
        lake.read(replace(BAR, fields=changed), [session], as_of=FAR)


def test_a_manifest_tells_where_the_content_comes_from(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 9, 4)
    (parent,) = publish(lake, bars, by, date(2012, 9, 5))
    ref = lake.write(
        BAR,
        Partition.of_session(session),
        bars([session]),
        sessions=[session],
        **by | {"parents": [parent]},
    )
    manifest = lake.manifest(BAR, Partition.of_session(session))
    assert manifest.parents == (parent,)
    assert manifest.run == by["run"]
    assert manifest.recorded_at_utc == "2026-11-22T18:00:00+00:00"
    assert (manifest.rows, manifest.sessions) == (2, ("2012-09-04",))
    assert manifest.ref(lake.bucket) == ref
    assert manifest in lake.manifests(BAR)


REGIME = catalog.OUT_RISK_ANALYSIS_MARKET_REGIME


def regime(session: date, **changes: Any) -> dict[str, Any]:
    return {item.name: "x" for item in REGIME.fields} | {"session": str(session)} | changes


def test_a_document_is_canonical_and_its_export_is_the_named_file(
    lake: Lake, by: dict[str, Any]
) -> None:
    session = date(2012, 10, 1)
    document = regime(session, evidence={"close": 1.5, "above": True})
    ref = lake.write(REGIME, Partition.of_session(session), document, sessions=[session], **by)
    assert lake.read_ref(ref) == document
    manifest = lake.manifest(REGIME, Partition.of_session(session))
    assert manifest.export_key == "risk_analysis/market_regime_20121001.json"
    exported = lake.get_bytes(manifest.export_key)
    assert json.loads(exported) == document
    assert sha256_hex(exported) == manifest.export_sha256
    assert lake.get_bytes(manifest.data_key).startswith(b'{"evidence":{"above":true')


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"evidence": {"close": float("nan")}}, r"nan at \$\.evidence\.close"),
        ({"evidence": date(2012, 10, 2)}, r"date"),
    ],
)
def test_a_document_that_is_not_json_is_refused(
    lake: Lake, by: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    session = date(2012, 10, 2)
    with pytest.raises(ContractViolation, match=message):
        lake.write(
            REGIME,
            Partition.of_session(session),
            regime(session, **change),
            sessions=[session],
            **by,
        )


def test_a_document_without_a_declared_member_is_refused(lake: Lake, by: dict[str, Any]) -> None:
    session = date(2012, 10, 2)
    document = regime(session)
    del document["rule"]
    with pytest.raises(ContractViolation, match="without rule"):
        lake.write(REGIME, Partition.of_session(session), document, sessions=[session], **by)


def test_a_table_and_a_document_cannot_stand_for_each_other(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 10, 2)
    partition = Partition.of_session(session)
    with pytest.raises(ContractViolation, match="a mapping"):
        lake.write(REGIME, partition, bars([session]), sessions=[session], **by)
    with pytest.raises(ContractViolation, match="pyarrow Table"):
        lake.write(BAR, partition, {"rows": []}, sessions=[session], **by)
    with pytest.raises(ConfigError, match="read_ref"):
        lake.read(REGIME, [session], as_of=FAR)


RISK = catalog.OUT_RISK_ANALYSIS_PORTFOLIO_RISK


def risk(session: date) -> pa.Table:
    return pa.table(
        {
            "session": pa.array([session]),
            "scope": ["book"],
            "name": ["reference"],
            "measure": ["var_95_pct"],
            "value": [1.5],
            "n": [500],
            "simulated": [False],
        }
    )


def test_a_table_is_exported_as_csv_of_its_session_and_a_year_is_not(
    lake: Lake, by: dict[str, Any]
) -> None:
    session = date(2012, 10, 3)
    lake.write(RISK, Partition.of_session(session), risk(session), sessions=[session], **by)
    assert lake.get_bytes("risk_analysis/portfolio_risk_20121003.csv").decode() == (
        "session,scope,name,measure,value,n,simulated\n"
        "2012-10-03,book,reference,var_95_pct,1.5,500,false\n"
    )
    lake.write(RISK, Partition.of_year(2012), risk(session), sessions=[session], **by)
    assert lake.manifest(RISK, Partition.of_year(2012)).export_key is None


def test_a_page_must_be_handed_over_as_bytes(lake: Lake, by: dict[str, Any]) -> None:
    report = catalog.OUT_REPORTS_DAILY
    session = date(2012, 10, 4)
    document = {item.name: [] for item in report.fields}
    partition = Partition.of_session(session)
    with pytest.raises(ConfigError, match="html"):
        lake.write(report, partition, document, sessions=[session], **by)
    lake.write(report, partition, document, sessions=[session], export=b"<html></html>", **by)
    assert lake.get_bytes("reports/daily_report_20121004.html") == b"<html></html>"


def test_a_manifest_names_the_version_of_its_named_file(lake: Lake, by: dict[str, Any]) -> None:
    session = date(2012, 10, 5)
    partition = Partition.of_session(session)
    lake.write(REGIME, partition, regime(session, rule="first"), sessions=[session], **by)
    first = lake.manifest(REGIME, partition)
    lake.write(REGIME, partition, regime(session, rule="second"), sessions=[session], **by)
    assert first.export_key is not None
    kept = lake.get_bytes(first.export_key, version_id=first.export_version_id)
    assert json.loads(kept)["rule"] == "first"
    assert json.loads(lake.get_bytes(first.export_key))["rule"] == "second"


def test_export_bytes_for_a_contract_without_export_are_refused(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 10, 4)
    with pytest.raises(ConfigError, match="export"):
        lake.write(
            BAR,
            Partition.of_session(session),
            bars([session]),
            sessions=[session],
            export=b"x",
            **by,
        )


def test_a_staged_part_is_read_by_reference_only(
    lake: Lake, bars: MakeBars, by: dict[str, Any]
) -> None:
    session = date(2012, 11, 1)
    partition = Partition.of_session(session)
    ref = lake.stage(BAR, partition, "batch-0", bars([session]), run=by["run"])
    other = lake.stage(BAR, partition, "batch-1", bars([session], close=2.0), run=by["run"])
    assert lake.read_ref(ref)["close_usd"].to_pylist() == [10.0, 10.0]
    assert lake.read_ref(other)["close_usd"].to_pylist() == [2.0, 2.0]
    with pytest.raises(MissingPartition):
        lake.read(BAR, [session], as_of=FAR)


def test_records_and_documents_can_be_staged_and_listed(lake: Lake, by: dict[str, Any]) -> None:
    session = date(2012, 11, 5)
    ref = lake.stage(REGIME, Partition.of_session(session), "only", regime(session), run=by["run"])
    assert lake.read_ref(ref) == regime(session)
    lake.put_record("automation/log_20121105.json", b"{}")
    assert lake.list_keys("automation/") == ["automation/log_20121105.json"]
    with pytest.raises(NotFound, match="automation/none"):
        lake.get_bytes("automation/none")


def test_a_long_window_of_session_objects_comes_back_whole(
    lake: Lake, storage_settings: Any, bars: MakeBars, by: dict[str, Any]
) -> None:
    sessions = XNYS.window(date(2019, 12, 31), 60)
    publish(lake, bars, by, *sessions, symbols=("KO",))
    unwarmed = Lake(storage_settings.lake.model_copy(update={"bucket": lake.bucket}))
    for reader in (unwarmed, unwarmed):  # the second time from what it kept
        table = reader.read(BAR, sessions, as_of=FAR)
        assert table["session"].to_pylist() == sessions
    assert len(lake.refs_for(BAR, sessions)) == 60
