"""Compact session objects into years, and verify the ledger end to end."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from typing import Any

from marketlake.contracts import Contract
from marketlake.contracts.catalog import CATALOG
from marketlake.errors import ContractViolation
from marketlake.pipelines.context import RunContext
from marketlake.storage.ledger import LedgerClient
from marketlake.types import ArtifactRef, Partition


def _is_compacted(contract: Contract) -> bool:
    """Return whether a contract's history is read over long windows: session-keyed core tables."""
    return (
        contract.form == "parquet" and contract.layer == "core" and contract.key[:1] == ("session",)
    )


def compact(ctx: RunContext, through: date) -> list[ArtifactRef]:
    """Fold the sessions of every year up to ``through``'s into one object; numbers stay.

    A year is always compacted whole: leaving out its later sessions would lose those that lie in
    the year's object only.
    """
    refs = []
    for contract in filter(_is_compacted, CATALOG):
        published = ctx.lake.published_sessions(contract)
        single = {
            partition.session
            for partition in ctx.lake.partitions(contract)
            if partition.kind == "session"
        }
        for year in sorted({day.year for day in published if day in single}):
            if year > through.year:
                continue
            days = [day for day in published if day.year == year]
            rows, parents = ctx.lake.read_with_refs(contract, days, as_of=days[-1])
            refs.append(
                ctx.publish(
                    contract,
                    Partition.of_year(year),
                    rows,
                    sessions=days,
                    parents=parents,
                )
            )
    return refs


def verify_ledger(ctx: RunContext, through: date) -> dict[str, Any]:
    """Recompute the whole ledger, keep a checkpoint in the write-once bucket, or fail."""
    client = LedgerClient(ctx.settings.ledger)
    verification = client.verify()
    if not verification.ok:
        raise ContractViolation(
            expected="a ledger whose every leaf and checkpoint verifies",
            was="; ".join(verification.faults[:3]),
            where=f"ledger of {verification.size} entries",
            todo="keep everything as it is; run `marketlake audit verify --json`; call the auditor",
        )
    checkpoint = client.checkpoint()
    key = f"checkpoints/{checkpoint.size:012d}-{checkpoint.root_hash}.json"
    ctx.lake.put_worm(key, json.dumps(asdict(checkpoint), sort_keys=True).encode())
    return {"size": checkpoint.size, "root_hash": checkpoint.root_hash, "through": str(through)}
