"""Both pages come out as artifacts: with parents, a named file, and the same bytes again."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import pandas as pd
import pytest
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_QUALITY_GATE_REPORT,
    CORE_WAREHOUSE_BUILD,
    OUT_DOCS_DBT,
    OUT_DOCS_QUALITY,
)
from marketlake.errors import MissingPartition
from marketlake.pipelines import publish_docs
from marketlake.pipelines.context import RunContext, open_context
from marketlake.quality.gate import judge
from marketlake.readmodels import published
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition, RunIdentity

SESSIONS = [date(2022, 12, day) for day in (19, 20, 21, 22, 23, 27)]


def in_context(settings: Settings) -> RunContext:
    run = RunIdentity("publish_docs", f"run {uuid.uuid4().hex[:8]}", "tests")
    with open_context(settings, run) as context:
        return context


def gate_report(ctx: RunContext, session: date) -> None:
    rows = pd.DataFrame(
        {
            "session": [session],
            "symbol": ["KO"],
            "kind": ["dividend"],
            "split_ratio": [float("nan")],
            "dividend_usd": [0.5],
            "simulated_fields": [[]],
            "known_at_utc": [datetime(2022, 12, 28, 21, 15, tzinfo=UTC)],
        }
    )
    partition = Partition.of_session(session)
    report = judge(
        CORE_MARKET_CORPORATE_ACTION, rows, partition=partition, max_quarantined_fraction=0.25
    ).report
    ctx.publish(CORE_QUALITY_GATE_REPORT, partition, report, sessions=[session], parents=[])


@pytest.fixture(scope="module")
def settings(make_line: Callable[..., Settings]) -> Settings:
    """Return settings of a lake where six sessions were gated and two built."""
    settings = make_line()
    ctx = in_context(settings)
    for session in SESSIONS:
        gate_report(ctx, session)
    for session in SESSIONS[:2]:
        document = {"session": str(session), "loaded": {}, "nodes": [], "engine": "dbt"}
        partition = Partition.of_session(session)
        ctx.publish(CORE_WAREHOUSE_BUILD, partition, document, sessions=[session], parents=[])
    return settings


def test_the_page_of_the_gates_shows_the_newest_sessions_and_names_them_as_parents(
    settings: Settings,
) -> None:
    (ref,) = publish_docs.publish_quality(in_context(settings), SESSIONS[-1])
    lake = Lake(settings.lake)
    partition = Partition.of_session(SESSIONS[-1])
    page = published.export_bytes(lake, OUT_DOCS_QUALITY, partition).decode()
    assert ref.partition == partition.key
    shown = [session for session in SESSIONS if f"session={session}" in page]
    assert shown == SESSIONS[1:]
    parents = lake.manifest(OUT_DOCS_QUALITY, partition).parents
    assert sorted(parent.partition for parent in parents) == [f"session={day}" for day in shown]
    assert lake.get_bytes("docs/data_docs_20221227.html") == page.encode()


def test_a_page_through_a_past_session_knows_nothing_of_later_ones(settings: Settings) -> None:
    (ref,) = publish_docs.publish_quality(in_context(settings), SESSIONS[2])
    page = published.export_bytes(
        Lake(settings.lake), OUT_DOCS_QUALITY, Partition.parse(ref.partition)
    )
    assert b"session=2022-12-21" in page
    assert b"session=2022-12-22" not in page


def test_dbts_page_stands_under_the_newest_built_session(settings: Settings) -> None:
    ctx = in_context(settings)
    ctx.warehouse.ensure_schema()
    (ref,) = publish_docs.publish_dbt(ctx, SESSIONS[-1])
    partition = Partition.of_session(SESSIONS[1])
    assert ref.partition == partition.key
    page = published.export_bytes(ctx.lake, OUT_DOCS_DBT, partition)
    assert page == ctx.lake.get_bytes("docs/dbt_docs_20221220.html")
    assert b"model.marketlake.fct_signal" in page
    runs = settings.home / "dbt" / "runs"
    assert list(Path(runs).glob("docs-*")) == []


def test_publishing_again_gives_the_same_bytes(settings: Settings) -> None:
    lake = Lake(settings.lake)
    partition = Partition.of_session(SESSIONS[-1])
    before = lake.manifest(OUT_DOCS_QUALITY, partition)
    publish_docs.publish_quality(in_context(settings), SESSIONS[-1])
    after = lake.manifest(OUT_DOCS_QUALITY, partition)
    assert (after.sha256, after.export_sha256) == (before.sha256, before.export_sha256)
    assert after.version_id == before.version_id


def test_before_the_first_session_there_is_nothing_to_document(settings: Settings) -> None:
    for step in (publish_docs.publish_dbt, publish_docs.publish_quality):
        with pytest.raises(MissingPartition, match="marketlake backfill"):
            step(in_context(settings), date(2022, 12, 16))
