"""Judge what the sources say of a session, and publish what may be trusted.

Raw is never overwritten: rows that fail go to quarantine with every reason, and ``core`` gets
as-traded prices that the sources agree on, of rows that passed. A session that is refused is
closed: no row of it may be trusted, which is what is published of it, so that later sessions know
of the gap and need not wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import polars as pl

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_DISAGREEMENT,
    CORE_QUALITY_GATE_REPORT,
    CORE_QUALITY_PROVENANCE,
    CORE_QUALITY_QUARANTINE,
)
from marketlake.errors import GateFailed, MissingPartition
from marketlake.pipelines import data_validation
from marketlake.pipelines.context import RunContext
from marketlake.pipelines.source_consensus import Agreement, agree
from marketlake.quality.gate import Judgement, judge
from marketlake.types import ArtifactRef, Partition

_CHECKS_NAMED = 3


def gate(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Judge the session's candidate bars; stage the accepted ones, publish the verdict."""
    return gate_span(ctx, Partition.of_session(session), [session])


def gate_span(ctx: RunContext, partition: Partition, sessions: Sequence[date]) -> list[ArtifactRef]:
    """Judge one partition; raise GateFailed after the report is published if it is refused.

    A refused session is closed by publishing no bar of it, and the corporate actions that passed:
    prices on both sides of the gap need them. A year is not closed, nor a session whose actions
    were refused, nor one of which an earlier run published bars.
    """
    found = agree(ctx, partition, sessions)
    inputs = found.rows.inputs
    limit = ctx.settings.gates.max_quarantined_fraction
    judgement, judged_actions = (
        judge(contract, frame.to_pandas(), partition=partition, max_quarantined_fraction=limit)
        for contract, frame in (
            (CORE_MARKET_DAILY_BAR, found.candidates),
            (CORE_MARKET_CORPORATE_ACTION, found.actions),
        )
    )
    report = ctx.publish(
        CORE_QUALITY_GATE_REPORT,
        partition,
        {
            **judgement.report,
            "corporate_actions": judged_actions.report,
            "sources": data_validation.sources_told(ctx, found),
        },
        sessions=sessions,
        parents=inputs,
    )
    quarantine = ctx.publish(
        CORE_QUALITY_QUARANTINE,
        partition,
        pl.concat(
            [
                *(
                    pl.from_pandas(verdict.quarantined, schema_overrides={"session": pl.Date})
                    for verdict in (judgement, judged_actions)
                ),
                found.rejected,
            ]
        ),
        sessions=sessions,
        parents=inputs,
    )
    said = [
        ctx.publish(contract, partition, frame, sessions=sessions, parents=inputs)
        for contract, frame in (
            (CORE_QUALITY_DISAGREEMENT, found.disagreements),
            (CORE_QUALITY_PROVENANCE, found.cells),
        )
        # Of a year, who said what of each cell would be as much as the sources' bars again.
        if contract is CORE_QUALITY_DISAGREEMENT or partition.kind == "session"
    ]
    passed = {judgement.report["verdict"], judged_actions.report["verdict"]} == {"passed"}
    ctx.ledger.record(
        "gate",
        contract=CORE_MARKET_DAILY_BAR.name,
        partition=partition.key,
        verdict="passed" if passed else "failed",
        rows_in=judgement.report["rows_in"],
        rows_quarantined=judgement.report["rows_quarantined"],
        report_sha256=report.sha256,
    )
    if not passed:
        closed = (
            partition.kind == "session"
            and judged_actions.report["verdict"] == "passed"
            and not _has_bars(ctx, partition.session)
        )
        if closed:
            _close(ctx, partition, found, judged_actions, parents=[*inputs, report])
        raise GateFailed(
            expected="every table-level check to pass and few rows in quarantine",
            was="; ".join(_refusal(verdict) for verdict in (judgement, judged_actions))
            + ("; the session is closed without bars" if closed else ""),
            where=f"{CORE_MARKET_DAILY_BAR.name}/{partition.key}, report {report.uri}",
            todo=f"read `marketlake show {CORE_QUALITY_QUARANTINE.name}/{partition.label}`; when "
            f"the vendor has corrected it, `{_command_again(partition)}`",
        )
    return [
        *(
            ctx.stage(contract, partition, "accepted", _accepted(contract, frame, verdict))
            for contract, frame, verdict in (
                (CORE_MARKET_DAILY_BAR, found.candidates, judgement),
                (CORE_MARKET_CORPORATE_ACTION, found.actions, judged_actions),
            )
        ),
        report,
        quarantine,
        *said,
    ]


def _close(
    ctx: RunContext,
    partition: Partition,
    found: Agreement,
    judged_actions: Judgement,
    *,
    parents: Sequence[ArtifactRef],
) -> None:
    ctx.ledger.record("decision", name="session_closed", partition=partition.key)
    kept = _accepted(CORE_MARKET_CORPORATE_ACTION, found.actions, judged_actions)
    for contract, frame in (
        (CORE_MARKET_DAILY_BAR, found.candidates.clear()),
        (CORE_MARKET_CORPORATE_ACTION, kept),
    ):
        ctx.publish(contract, partition, frame, sessions=[partition.session], parents=parents)


def _has_bars(ctx: RunContext, session: date) -> bool:
    """Whether an earlier run published bars of the session; those stay."""
    try:
        bars, _ = ctx.read(CORE_MARKET_DAILY_BAR, [session], as_of=session)
    except MissingPartition:
        return False
    return not bars.is_empty()


def _command_again(partition: Partition) -> str:
    if partition.kind == "year":
        return "marketlake load-history"
    day = partition.label
    return f"marketlake backfill --from {day} --to {day} --reprocess completed"


def _refusal(judgement: Judgement) -> str:
    """Say what a gate found in one table, with the first checks that failed."""
    report = judgement.report
    failed = [
        f"{item['check']}: {item['reason']}"
        for item in report["results"]
        if item["severity"] == "critical" and not item["success"]
    ]
    if len(failed) > _CHECKS_NAMED:
        failed[_CHECKS_NAMED:] = [f"and {len(failed) - _CHECKS_NAMED} more"]
    rows = f"{report['rows_quarantined']} of {report['rows_in']} rows of {report['contract']}"
    return f"{rows} quarantined ({', '.join(failed) or 'every check passed'})"


def _accepted(contract: Contract, candidate: pl.DataFrame, judgement: Judgement) -> pl.DataFrame:
    """Return the candidate rows, types untouched, that the gate let through."""
    key = list(contract.key)
    let_through = pl.from_pandas(
        judgement.accepted[key], schema_overrides={name: candidate.schema[name] for name in key}
    )
    return candidate.join(let_through, on=key, how="semi")


def compare_sources(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish how the sources of the session agree, cell by cell."""
    return data_validation.publish_comparison(ctx, session, staged=staged)


def report_integrity(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish the integrity report, the anomaly log and the repair proposals of the session."""
    return data_validation.publish_integrity(ctx, session, staged=staged)


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish the session's accepted bars and corporate actions, and its integrity page."""
    core = publish_span(ctx, Partition.of_session(session), [session], staged=staged)
    return [*core, data_validation.publish_page(ctx, session)]


def publish_span(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    *,
    staged: Sequence[ArtifactRef],
) -> list[ArtifactRef]:
    """Publish one partition's accepted bars and corporate actions."""
    judged = {CORE_QUALITY_GATE_REPORT.name, CORE_QUALITY_DISAGREEMENT.name}
    verdict = [ref for ref in staged if ref.contract in judged]
    # What was judged, the sessions before this one among it.
    inputs = list(ctx.lake.manifest(CORE_QUALITY_GATE_REPORT, partition).parents)
    refs = [
        ctx.publish(
            contract,
            partition,
            ctx.staged(contract, staged),
            sessions=sessions,
            parents=[*inputs, *verdict],
        )
        for contract in (CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION)
    ]
    ctx.record_calculation(
        "consensus_bars", inputs=inputs, outputs=refs, **ctx.settings.gates.model_dump()
    )
    return refs
