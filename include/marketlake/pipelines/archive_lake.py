"""Compact session objects into years, archive old raw ones, verify the ledger, back up both."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from marketlake.clock import utc_now
from marketlake.contracts import Contract
from marketlake.contracts.catalog import CATALOG
from marketlake.errors import ConfigError, ContractViolation
from marketlake.pipelines import back_up as backups
from marketlake.pipelines import export_audit
from marketlake.pipelines.context import RunContext
from marketlake.storage.checkpoints import verify_ledger as verify_log
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.snapshots import Snapshots
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


def archive_raw(ctx: RunContext, through: date) -> dict[str, Any]:
    """Copy old raw artifacts below ``archive/`` where the store does not move them itself.

    Old is counted from a partition's last session, so a copy is never later than the move would be,
    which counts from the writing. The originals stay: the copy is for the operator to carry to
    cheaper storage, or to keep when an expiry for ``raw/`` is set.
    """
    by = ctx.lake.archived_by()
    if by != "copy":
        return {"archived_by": by, "copied": 0}
    days = ctx.settings.lake.archive_raw_after_days
    oldest_kept = (through - timedelta(days=days)).isoformat()
    copied = 0
    for contract in CATALOG:
        if contract.layer != "raw":
            continue
        for manifest in ctx.lake.manifests(contract):
            if manifest.sessions[-1] >= oldest_kept:
                continue
            archived = ctx.lake.archive(manifest)
            if archived is not None:
                copied += 1
                ctx.record_calculation(
                    "archive_copy",
                    inputs=[manifest.ref(ctx.lake.bucket)],
                    outputs=[archived],
                    uri=archived.uri,
                    version_id=archived.version_id,
                )
    return {"archived_by": by, "copied": copied}


def archive_snapshots(ctx: RunContext, through: date) -> dict[str, Any]:
    """Compress the snapshots of every month that is old enough into one object a month.

    Snapshots are named by the time of their recording, so their age is counted from now. A month is
    moved whole, and again when some of it was restored.
    """
    days = ctx.settings.snapshots.archive_after_days
    # Not through the run's own lake: every snapshot moved would be named in this step's snapshot.
    snapshots = Snapshots(Lake(ctx.settings.lake), LedgerClient(ctx.settings.ledger))
    today = ctx.calendar.local(utc_now()).date()
    moved = {"archived": 0, "bytes": 0, "archive_bytes": 0}
    for month, names in snapshots.months().items() if days else ():
        if today - _last_day(month) <= timedelta(days=days):
            continue
        counts = dict(zip(moved, snapshots.archive(month, names), strict=True))
        ctx.record_calculation("archive_snapshots", inputs=[], outputs=[], month=month, **counts)
        moved = {name: total + counts[name] for name, total in moved.items()}
    return {**moved, "through": str(through)}


def _last_day(month: str) -> date:
    year, number = int(month[:4]), int(month[4:])
    return date(year + number // 12, number % 12 + 1, 1) - timedelta(days=1)


def verify_ledger(ctx: RunContext, through: date) -> dict[str, Any]:
    """Recompute the whole ledger and hold it against every published checkpoint, or fail.

    Without a pinned key nobody is asked whose signatures those are: that verifies nothing.
    """
    if ctx.settings.ledger.public_key is None:
        raise ConfigError(
            expected="a public key to hold the ledger's signatures against",
            was="none",
            where="MARKETLAKE_LEDGER__PUBLIC_KEY, where tasks run",
            todo="set it to what `marketlake audit key` prints where the ledger runs (containers: "
            "in .env, docs/ledger.md says how), then clear this task",
        )
    verification = verify_log(ctx.settings)
    if not verification.ok:
        raise ContractViolation(
            expected="a ledger whose every leaf and checkpoint verifies",
            was="; ".join(verification.faults[:3]),
            where=f"ledger of {verification.size} entries",
            todo="keep everything as it is; run `marketlake audit verify --json`; call the auditor",
        )
    return {
        "size": verification.size,
        "root_hash": verification.root_hash,
        "through": str(through),
    }


def back_up(ctx: RunContext, through: date) -> dict[str, Any]:
    """Write what the audit files lack, then copy what is new of ledger and lake to the backup."""
    export_audit.export_everything(ctx)
    return backups.back_up(ctx) | {"through": str(through)}
