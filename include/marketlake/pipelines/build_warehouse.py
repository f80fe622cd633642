"""Load the session's core tables into Postgres and let dbt build and test what analysts query."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
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
)


def load(ctx: RunContext, session: date) -> dict[str, dict[str, int]]:
    """Load the session's tables; replaying the same data changes no row."""
    return load_partitions(ctx, [Partition.of_session(session)])


def load_partitions(ctx: RunContext, partitions: Sequence[Partition]) -> dict[str, dict[str, int]]:
    """Load whole partitions; return rows inserted and deleted per table."""
    ctx.warehouse.ensure_schema()
    counts = {contract.name: {"inserted": 0, "deleted": 0} for contract in LOADED}
    for contract in LOADED:
        for partition in partitions:
            loaded = load_artifact(ctx, contract, ctx.lake.ref(contract, partition))
            for name in counts[contract.name]:
                counts[contract.name][name] += loaded[name]
    return counts


def load_artifact(ctx: RunContext, contract: Contract, ref: ArtifactRef) -> dict[str, int]:
    """Load one published artifact into its warehouse table."""
    table = ctx.table(ref).to_arrow()
    manifest = ctx.lake.manifest(contract, Partition.parse(ref.partition))
    sessions = [date.fromisoformat(day) for day in manifest.sessions]
    loaded = ctx.warehouse.load(contract, table, sessions=sessions)
    ctx.record_calculation(
        "warehouse_load",
        inputs=[ref],
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
    with tempfile.TemporaryDirectory(prefix="marketlake-dbt-") as folder:
        result = dbt_project.build(
            ctx.settings,
            select=None,
            session=only_session,
            target_dir=Path(folder),
            full_refresh=only_session is None,
        )
    document = {**result, "session": session.isoformat(), "loaded": dict(loaded)}
    covered = [ref for contract in LOADED for ref in ctx.lake.refs_for(contract, [session])]
    return ctx.publish(
        CORE_WAREHOUSE_BUILD, partition, document, sessions=[session], parents=covered
    )
