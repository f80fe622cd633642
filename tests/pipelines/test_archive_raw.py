"""Old raw answers are archived once, where the store does not do it itself; readers notice not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date

import pyarrow as pa
import pytest
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import CORE_REFERENCE_UNIVERSE_MEMBER, RAW_YAHOO_RESPONSE
from marketlake.pipelines import archive_lake
from marketlake.pipelines.context import RunContext, open_context
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import Partition, RunIdentity

THROUGH = date(2022, 12, 28)
OLD, EDGE, RECENT = date(2021, 12, 27), date(2021, 12, 28), date(2022, 12, 27)
YEAR = 2020


def answers(body: bytes) -> pa.Table:
    row = {
        "symbol": "KO",
        "request_no": 0,
        "method": "GET",
        "url": "https://vendor.example/chart/KO",
        "status": 200,
        "body": body,
        "body_sha256": "0" * 64,
    }
    return pa.Table.from_pylist([row], schema=schema(RAW_YAHOO_RESPONSE))


def in_context(settings: Settings) -> RunContext:
    run = RunIdentity("archive_lake", f"run {uuid.uuid4().hex[:8]}", "archive_raw")
    with open_context(settings, run) as context:
        return context


@pytest.fixture(scope="module")
def settings(make_line: Callable[..., Settings]) -> Settings:
    """Return settings of a lake with raw answers of several ages, and one old core artifact."""
    settings = make_line()
    ctx = in_context(settings)
    for session in (OLD, EDGE, RECENT):
        ctx.publish(
            RAW_YAHOO_RESPONSE,
            Partition.of_session(session),
            answers(str(session).encode()),
            sessions=[session],
            parents=[],
        )
    first = date(YEAR, 1, 2)
    year = Partition.of_year(YEAR)
    ctx.publish(RAW_YAHOO_RESPONSE, year, answers(b"a year"), sessions=[first], parents=[])
    members = pa.Table.from_pylist(
        [{"session": OLD, "symbol": "KO", "sector": "Staples", "membership_dated": False}],
        schema=schema(CORE_REFERENCE_UNIVERSE_MEMBER),
    )
    ctx.publish(
        CORE_REFERENCE_UNIVERSE_MEMBER,
        Partition.of_session(OLD),
        members,
        sessions=[OLD],
        parents=[],
    )
    return settings


def test_only_old_raw_answers_are_copied_and_only_once(
    settings: Settings, ledger: LedgerClient
) -> None:
    ctx = in_context(settings)
    assert archive_lake.archive_raw(ctx, THROUGH) == {"archived_by": "copy", "copied": 2}
    lake = Lake(settings.lake)
    folder = "archive/raw/raw_yahoo__response"
    assert lake.list_keys("archive/") == [
        f"{folder}/{partition}/{name}"
        for partition in (f"session={OLD}", f"year={YEAR}")
        for name in ("manifest.json", "part.parquet")
    ]
    recorded = [
        entry.payload["parameters"]
        for entry in ledger.entries("calculation", run_id=ctx.run.run_id)
        if entry.payload["name"] == "archive_copy"
    ]
    assert [item["uri"].split("/archive/")[1] for item in recorded] == [
        f"raw/raw_yahoo__response/session={OLD}/part.parquet",
        f"raw/raw_yahoo__response/year={YEAR}/part.parquet",
    ]
    for item in recorded:
        key = item["uri"].removeprefix(f"s3://{lake.bucket}/")
        assert lake.get_bytes(key, version_id=item["version_id"])
    assert archive_lake.archive_raw(in_context(settings), THROUGH)["copied"] == 0


def test_the_originals_are_read_as_before(settings: Settings) -> None:
    lake = Lake(settings.lake)
    for session in (OLD, EDGE, RECENT):
        (row,) = lake.read(RAW_YAHOO_RESPONSE, [session], as_of=session).to_pylist()
        assert row["body"] == str(session).encode()


def test_a_later_month_archives_what_has_grown_old_since(settings: Settings) -> None:
    found = archive_lake.archive_raw(in_context(settings), date(2022, 12, 29))
    assert found == {"archived_by": "copy", "copied": 1}


def test_an_archive_that_nobody_wants_is_not_made(settings: Settings) -> None:
    unwanted = settings.lake.model_copy(update={"archive_raw_after_days": 0})
    ctx = in_context(settings.model_copy(update={"lake": unwanted}))
    assert archive_lake.archive_raw(ctx, date(2030, 1, 2)) == {
        "archived_by": "nothing",
        "copied": 0,
    }
