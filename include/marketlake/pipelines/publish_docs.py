"""Publish what describes the platform: dbt's documentation, and the quality gates as a page."""

from __future__ import annotations

import shutil
import uuid
from datetime import date

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_QUALITY_GATE_REPORT,
    CORE_WAREHOUSE_BUILD,
    OUT_DOCS_DBT,
    OUT_DOCS_QUALITY,
)
from marketlake.domain.reporting.page_style import STYLE
from marketlake.errors import MissingPartition
from marketlake.pipelines.context import RunContext
from marketlake.quality import data_docs
from marketlake.storage import dbt_project
from marketlake.types import ArtifactRef, Partition

PAGE_SESSIONS = 5
"""Sessions on the page of the gates: it stays small, and older reports stay in the lake."""


def publish_dbt(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Publish dbt's documentation, under the newest session that the warehouse was built for."""
    session = _newest(ctx, CORE_WAREHOUSE_BUILD, through, limit=1)[0]
    partition = Partition.of_session(session)
    # Kept when dbt fails: its log is the evidence that the error names.
    folder = ctx.settings.home / "dbt" / "runs" / f"docs-{session}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    page, contents = dbt_project.docs_page(ctx.settings, target_dir=folder)
    shutil.rmtree(folder)
    return [
        ctx.publish(
            OUT_DOCS_DBT,
            partition,
            {**contents, "session": session.isoformat()},
            sessions=[session],
            parents=[ctx.lake.ref(CORE_WAREHOUSE_BUILD, partition)],
            export=page,
        )
    ]


def publish_quality(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Publish the suites and what the gates said about the newest sessions up to ``through``."""
    sessions = _newest(ctx, CORE_QUALITY_GATE_REPORT, through, limit=PAGE_SESSIONS)
    refs = [
        ctx.lake.ref(CORE_QUALITY_GATE_REPORT, Partition.of_session(session))
        for session in sessions
    ]
    page, contents = data_docs.page([ctx.document(ref) for ref in refs], style=STYLE)
    return [
        ctx.publish(
            OUT_DOCS_QUALITY,
            Partition.of_session(sessions[0]),
            {**contents, "session": sessions[0].isoformat()},
            sessions=[sessions[0]],
            parents=refs,
            export=page,
        )
    ]


def _newest(ctx: RunContext, contract: Contract, through: date, *, limit: int) -> list[date]:
    """Return the last sessions with a partition of their own, newest first."""
    published = [
        partition.session
        for partition in ctx.lake.partitions(contract)
        if partition.kind == "session" and partition.session <= through
    ]
    if not published:
        raise MissingPartition(
            expected=f"{contract.name} of a session up to {through}",
            was="nothing published",
            where=f"{contract.prefix}/",
            todo=f"run {contract.owner} (`marketlake backfill`), then try again",
        )
    return published[: -limit - 1 : -1]
