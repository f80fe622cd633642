"""Load the session's core tables into Postgres and let dbt build and test what analysts query."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_DISAGREEMENT,
    CORE_QUALITY_QUARANTINE,
    CORE_REFERENCE_UNIVERSE_MEMBER,
    CORE_WAREHOUSE_BUILD,
)
from marketlake.pipelines.context import RunContext
from marketlake.storage import dbt_project
from marketlake.types import ArtifactRef, Partition

LOADED: tuple[Contract, ...] = (
    CORE_REFERENCE_UNIVERSE_MEMBER,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_QUALITY_QUARANTINE,
    CORE_QUALITY_DISAGREEMENT,
)


MART_WINDOW_SESSIONS = 21
"""What the marts look back on: twenty sessions of liquidity, and the close before a return."""


def load(ctx: RunContext, session: date) -> dict[str, dict[str, int]]:
    """Load the session and the window its marts look back on; same data changes no row.

    Sessions run side by side: loading the window, not the session alone, keeps a mart from being
    built before its past has arrived. A past that is not published yet raises MissingPartition.
    """
    ctx.warehouse.ensure_schema()
    window = ctx.history_window(session, MART_WINDOW_SESSIONS)
    windowed = (CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION)
    return {
        contract.name: load_sessions(
            ctx, contract, window if contract in windowed else [session], as_of=session
        )
        for contract in LOADED
    }


def load_sessions(
    ctx: RunContext, contract: Contract, sessions: Sequence[date], *, as_of: date
) -> dict[str, int]:
    """Make the warehouse hold for these sessions exactly what readers of the lake get."""
    table, refs = ctx.lake.read_with_refs(contract, sessions, as_of=as_of)
    loaded = ctx.warehouse.load(contract, table, sessions=sessions)
    ctx.record_calculation(
        "warehouse_load",
        inputs=refs,
        outputs=[],
        table=f"{contract.layer}.{contract.table}",
        inserted=loaded.inserted,
        deleted=loaded.deleted,
    )
    return {"inserted": loaded.inserted, "deleted": loaded.deleted}


def publish(ctx: RunContext, session: date, *, loaded: Mapping[str, Any]) -> list[ArtifactRef]:
    """Build and test the dbt models for the session and publish what dbt did."""
    return [run_dbt(ctx, session, loaded=loaded, only_session=session)]


def run_dbt(
    ctx: RunContext, session: date, *, loaded: Mapping[str, Any], only_session: date | None
) -> ArtifactRef:
    """Run one dbt build; ``only_session`` None rebuilds every session."""
    partition = Partition.of_session(session)
    # Kept when the build fails: its log is the evidence that the error names.
    folder = ctx.settings.home / "dbt" / "runs" / f"{session}-{uuid.uuid4().hex[:8]}"
    folder.mkdir(parents=True)
    result = dbt_project.build(
        ctx.settings,
        select=None,
        session=only_session,
        target_dir=folder,
        full_refresh=only_session is None,
    )
    models = dbt_project.models(ctx.settings, target_dir=folder)
    ctx.touched.built.extend(models[node["id"]] for node in result["nodes"] if node["id"] in models)
    shutil.rmtree(folder)
    document = {**result, "session": session.isoformat(), "loaded": dict(loaded)}
    covered = [ref for contract in LOADED for ref in ctx.lake.refs_for(contract, [session])]
    return ctx.publish(
        CORE_WAREHOUSE_BUILD, partition, document, sessions=[session], parents=covered
    )
