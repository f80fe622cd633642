"""Repairs that a person has applied: versioned, taken back by one command, never in ``raw``.

A session's ``core_quality__applied_repair`` holds every cell in force; applying and reverting
publish its next version, and the session's bars are then made again from source bars that stay as
they came. What does not belong: proposing (:mod:`.validate_market_data`) and the arithmetic
(:mod:`marketlake.domain.integrity`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts.catalog import (
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_APPLIED_REPAIR,
    CORE_QUALITY_REPAIR_PROPOSAL,
)
from marketlake.domain import integrity
from marketlake.errors import ConfigError, ContractViolation
from marketlake.pipelines.context import RunContext
from marketlake.types import ArtifactRef, Partition

_BAR = ["session", "symbol", "source"]
_CELL = [*_BAR, "field"]
_PRICES = ["open_usd", "high_usd", "low_usd", "close_usd"]
_VALUES = [*_PRICES, "volume_shares"]


def in_force(ctx: RunContext, sessions: Sequence[date]) -> tuple[pl.DataFrame, list[ArtifactRef]]:
    """Read the repairs in force at some sessions, with references; none is the usual case."""
    wanted = set(sessions)
    repaired_sessions = [
        partition.session
        for partition in ctx.lake.partitions(CORE_QUALITY_APPLIED_REPAIR)
        if partition.kind == "session" and partition.session in wanted
    ]
    return ctx.read(
        CORE_QUALITY_APPLIED_REPAIR, repaired_sessions, as_of=max(wanted, default=date.min)
    )


def repaired(source_bars: pl.DataFrame, in_force: pl.DataFrame) -> pl.DataFrame:
    """Return source bars with the repairs in force carried out; added bars come last.

    Parameters
    ----------
    source_bars
        Whole sessions of ``core_market__source_bar``, every source and symbol.
    in_force
        Rows of ``core_quality__applied_repair`` of these sessions.

    Raises
    ------
    ContractViolation
        When a bar is no longer what its proposal saw: the vendor has corrected it since.
    """
    if in_force.is_empty():
        return source_bars
    changed = _first_changed(source_bars, in_force)
    if changed is not None:
        raise _changed_since(
            changed,
            todo="take it back, then see what is proposed now: `marketlake repair revert "
            f'{changed["proposal"]} --session {changed["session"]} --reason "..."`',
        )
    # An added bar is made of the other sources' bars: known when they were, simulated as they are.
    made_of = source_bars.group_by("session", "symbol").agg(
        pl.max("known_at_utc").alias("known"),
        pl.col("simulated_fields").explode().drop_nulls().unique().sort().alias("simulated"),
    )
    prices = pl.lit(_PRICES, pl.List(pl.String))
    return (
        integrity.apply(source_bars, in_force)
        .join(made_of, on=["session", "symbol"], how="left", maintain_order="left")
        .with_columns(
            pl.col("repeat_no").fill_null(0),
            pl.coalesce("known_at_utc", "known"),
            pl.coalesce("simulated_fields", pl.col("simulated").list.set_intersection(prices)),
        )
        .select(source_bars.columns)
    )


def _first_changed(source_bars: pl.DataFrame, repairs: pl.DataFrame) -> dict[str, Any] | None:
    """Return the first cell to be changed that is not what its proposal saw, if there is one.

    A bar that the source now repeats is none to change: which row counts is not for repair to say.
    """
    source_bars = source_bars.join(repairs, on=["session", "symbol"], how="semi")
    single = source_bars.filter(~source_bars.select(_BAR).is_duplicated())
    cells = single.unpivot(_VALUES, index=_BAR, variable_name="field", value_name="is_now")
    own = source_bars.group_by(_BAR).agg(rows=pl.len())
    any_source = source_bars.group_by("session", "symbol").agg(others=pl.len())
    changed = (
        repairs.join(cells, on=_CELL, how="left", maintain_order="left")
        .join(own, on=_BAR, how="left", maintain_order="left")
        .join(any_source, on=["session", "symbol"], how="left", maintain_order="left")
        .with_columns(pl.col("rows", "others").fill_null(0))
        .filter(
            pl.when("adds_bar")
            .then((pl.col("rows") > 0) | (pl.col("others") == 0))
            .otherwise(pl.col("is_now").ne_missing(pl.col("before")))
        )
    )
    return None if changed.is_empty() else changed.row(0, named=True)


def _changed_since(cell: dict[str, Any], *, todo: str) -> ContractViolation:
    if cell["adds_bar"]:
        seen = "no bar, and another source's to make it of"
        found = "a bar" if cell["rows"] else "no bar of any source"
    else:
        seen = f"{cell['field']} {cell['before']}"
        found = f"{cell['rows']} bars" if cell["rows"] != 1 else f"{cell['field']} {cell['is_now']}"
    return ContractViolation(
        expected=f"what {cell['proposal']} was proposed on: {seen}",
        was=f"{found}: the source has changed since",
        where=f"{CORE_MARKET_SOURCE_BAR.name}/{cell['session']}, "
        f"{cell['symbol']} of {cell['source']}",
        todo=todo,
    )


def apply(
    ctx: RunContext, session: date, *, proposal: str, applied_by: str, reason: str
) -> ArtifactRef:
    """Put a proposal of a session in force; its bars change when the session is redone."""
    proposed, proposal_refs = ctx.read(CORE_QUALITY_REPAIR_PROPOSAL, [session], as_of=session)
    before, _ = in_force(ctx, [session])
    _require_reason(reason, "apply")
    known = before.filter(pl.col("proposal") == proposal)
    if not known.is_empty():
        raise ConfigError(
            expected=f"a proposal for {session} that is not in force yet",
            was=f"{proposal}, which {known['applied_by'][0]} applied: {known['reason'][0]}",
            where=f"{CORE_QUALITY_APPLIED_REPAIR.name}/{session}",
            todo=f"{_redo(session)} makes the session's bars with it",
        )
    cells = proposed.filter(pl.col("proposal") == proposal)
    if cells.is_empty():
        where = f"{CORE_QUALITY_REPAIR_PROPOSAL.name}/{session}"
        raise unknown_proposal(proposal, proposed["proposal"], where=where)
    taken = before.join(cells, on=_CELL, how="semi")
    if not taken.is_empty():
        raise ConfigError(
            expected="a proposal whose cells no repair in force has changed",
            was=f"{proposal}, and {taken['proposal'][0]} has changed {taken['field'][0]}",
            where=f"{CORE_QUALITY_APPLIED_REPAIR.name}/{session}",
            todo=f"`marketlake repair revert {taken['proposal'][0]} --session {session} "
            "--reason ...` first",
        )
    after = pl.concat(
        [before, cells.with_columns(applied_by=pl.lit(applied_by), reason=pl.lit(reason))]
    )
    bars, _ = ctx.read(CORE_MARKET_SOURCE_BAR, [session], as_of=session)
    # The very same row twice says nothing new, and was proposed on once.
    said = [name for name in bars.columns if name != "repeat_no"]
    bars = bars.unique(said, keep="first", maintain_order=True)
    changed = _first_changed(bars, cells)
    if changed is not None:
        raise _changed_since(changed, todo=f"propose on what is there now: {_redo(session)}")
    repaired(bars, after)
    return _publish(
        ctx,
        session,
        after.sort(_CELL),
        decision="repair_applied",
        cells=cells,
        by=applied_by,
        reason=reason,
        parents=proposal_refs,
    )


def revert(
    ctx: RunContext, session: date, *, proposal: str, applied_by: str, reason: str
) -> ArtifactRef:
    """Take a proposal of a session back; its bars are as they came when the session is redone."""
    before, _ = in_force(ctx, [session])
    _require_reason(reason, "revert")
    mine = pl.col("proposal") == proposal
    cells = before.filter(mine)
    if cells.is_empty():
        where = f"{CORE_QUALITY_APPLIED_REPAIR.name}/{session}"
        raise unknown_proposal(proposal, before["proposal"], where=where)
    applied = ctx.lake.manifest(CORE_QUALITY_APPLIED_REPAIR, Partition.of_session(session))
    return _publish(
        ctx,
        session,
        before.filter(~mine),
        decision="repair_reverted",
        cells=cells,
        by=applied_by,
        reason=reason,
        parents=list(applied.parents),
    )


def _publish(
    ctx: RunContext,
    session: date,
    rows: pl.DataFrame,
    *,
    decision: str,
    cells: pl.DataFrame,
    by: str,
    reason: str,
    parents: Sequence[ArtifactRef],
) -> ArtifactRef:
    """Record who decided what and why, then publish all cells in force."""
    ctx.ledger.record(
        "decision",
        name=decision,
        session=session,
        proposal=cells["proposal"][0],
        by=by,
        reason=reason,
        cells=cells.select("symbol", "source", "field", "before", "after", "adds_bar").to_dicts(),
    )
    return ctx.publish(
        CORE_QUALITY_APPLIED_REPAIR,
        Partition.of_session(session),
        rows,
        sessions=[session],
        parents=parents,
    )


def _require_reason(reason: str, command: str) -> None:
    if not reason.strip():
        raise ConfigError(
            expected="a reason, which stays in the ledger",
            was="none",
            where=f"marketlake repair {command}",
            todo='say why: --reason "..."',
        )


def unknown_proposal(proposal: str, names: Iterable[str], *, where: str) -> ConfigError:
    """Return the error for a name that is none of some proposals; it says which is nearest."""
    near = difflib.get_close_matches(proposal, sorted(set(names)), n=1, cutoff=0.0)
    return ConfigError(
        expected="a proposal that is there",
        was=f"{proposal}" + (f"; the nearest is {near[0]}" if near else ""),
        where=where,
        todo="`marketlake repair list` names them",
    )


def _redo(session: date) -> str:
    return f"`marketlake backfill --from {session} --to {session} --reprocess completed`"
