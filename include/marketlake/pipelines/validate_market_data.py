"""Gate a session's bars, say how the sources agree, and publish what may be trusted.

Raw is never overwritten: rows that fail go to quarantine with every reason, and ``core`` gets
as-traded prices only of rows that passed. A session that is refused is closed: no row of it may be
trusted, which is what is published of it, so that later sessions know of the gap and need not wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_GATE_REPORT,
    CORE_QUALITY_QUARANTINE,
    CORE_REFERENCE_UNIVERSE_MEMBER,
    OUT_DATA_VALIDATION_ANOMALY_LOG,
    OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    RAW_YAHOO_ACTION,
    RAW_YAHOO_DAILY_BAR,
)
from marketlake.domain import prices
from marketlake.errors import GateFailed, MissingPartition
from marketlake.pipelines.context import RunContext
from marketlake.quality.gate import Judgement, judge
from marketlake.types import ArtifactRef, Partition

_SOURCE = "yahoo"
_CHECKS_NAMED = 3
_ONE_SOURCE = "one source: there is nothing to compare it with, so agreement here is not evidence"


def gate(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Judge the session's candidate bars; stage the accepted ones, publish the verdict."""
    return gate_span(ctx, Partition.of_session(session), [session])


def gate_span(ctx: RunContext, partition: Partition, sessions: Sequence[date]) -> list[ArtifactRef]:
    """Judge one partition; raise GateFailed after the report is published if it is refused.

    A refused session is closed by publishing no bar of it, and the corporate actions that passed:
    prices on both sides of the gap need them. A year is not closed, nor a session whose actions
    were refused, nor one of which an earlier run published bars.
    """
    raw = [
        ctx.lake.ref(contract, partition) for contract in (RAW_YAHOO_DAILY_BAR, RAW_YAHOO_ACTION)
    ]
    bars, actions = (ctx.table(ref) for ref in raw)
    members = ctx.lake.ref(CORE_REFERENCE_UNIVERSE_MEMBER, partition)
    candidate = _candidate_bars(ctx, bars, actions, ctx.table(members))
    kept = _candidate_actions(ctx, actions, sessions)
    limit = ctx.settings.gates.max_quarantined_fraction
    judgement, judged_actions = (
        judge(contract, frame.to_pandas(), partition=partition, max_quarantined_fraction=limit)
        for contract, frame in (
            (CORE_MARKET_DAILY_BAR, candidate),
            (CORE_MARKET_CORPORATE_ACTION, kept),
        )
    )
    report = ctx.publish(
        CORE_QUALITY_GATE_REPORT,
        partition,
        {**judgement.report, "corporate_actions": judged_actions.report},
        sessions=sessions,
        parents=raw,
    )
    quarantine = ctx.publish(
        CORE_QUALITY_QUARANTINE,
        partition,
        pl.concat(
            pl.from_pandas(verdict.quarantined, schema_overrides={"session": pl.Date})
            for verdict in (judgement, judged_actions)
        ),
        sessions=sessions,
        parents=raw,
    )
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
            ctx.ledger.record("decision", name="session_closed", partition=partition.key)
            for contract, frame in (
                (CORE_MARKET_DAILY_BAR, candidate.clear()),
                (
                    CORE_MARKET_CORPORATE_ACTION,
                    _accepted(CORE_MARKET_CORPORATE_ACTION, kept, judged_actions),
                ),
            ):
                ctx.publish(contract, partition, frame, sessions=sessions, parents=[*raw, report])
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
                (CORE_MARKET_DAILY_BAR, candidate, judgement),
                (CORE_MARKET_CORPORATE_ACTION, kept, judged_actions),
            )
        ),
        report,
        quarantine,
    ]


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


def _known_at(ctx: RunContext, sessions: Sequence[date]) -> pl.DataFrame:
    return pl.DataFrame(
        {"session": list(sessions), "known_at_utc": [ctx.known_at(day) for day in sessions]},
        schema={"session": pl.Date, "known_at_utc": pl.Datetime("us", "UTC")},
    )


def _candidate_actions(
    ctx: RunContext, actions: pl.DataFrame, sessions: Sequence[date]
) -> pl.DataFrame:
    """Return core_market__corporate_action rows of the sessions, dividends as traded."""
    kept = actions.filter(pl.col("session").is_in(list(sessions)))
    return prices.unadjust_dividends(kept, actions).join(
        _known_at(ctx, kept["session"].unique().to_list()), on="session", how="left"
    )


def _candidate_bars(
    ctx: RunContext, bars: pl.DataFrame, actions: pl.DataFrame, members: pl.DataFrame
) -> pl.DataFrame:
    """Return core_market__daily_bar rows as the vendor has them, brought to as-traded prices.

    Only members of the universe at a row's session, and the benchmark, are candidates: a year is
    fetched for everybody who was a member at any time of it.
    """
    benchmark = pl.col("symbol") == ctx.settings.market.benchmark
    bars = pl.concat(
        [bars.filter(benchmark), bars.join(members, on=["session", "symbol"], how="semi")]
    )
    splits = actions.filter(pl.col("kind") == "split").select("session", "symbol", "split_ratio")
    as_traded = prices.unadjust_splits(bars, splits)
    moves = prices.close_moves_pct(as_traded, prices.unadjust_dividends(actions, actions))
    spike_pct = ctx.settings.gates.spike_warning_pct
    return (
        as_traded.with_columns(
            close_move_pct=moves,
            n_sources=pl.lit(1, dtype=pl.Int64),
            chosen_source=pl.lit(_SOURCE),
        )
        .with_columns(
            flags=pl.when(pl.col("close_move_pct").abs() > spike_pct)
            .then(pl.lit(["price_spike"], dtype=pl.List(pl.String)))
            .otherwise(pl.lit([], dtype=pl.List(pl.String)))
        )
        .select(field.name for field in CORE_MARKET_DAILY_BAR.fields)
    )


def compare_sources(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish how the sources of the session agree."""
    bars = ctx.staged(CORE_MARKET_DAILY_BAR, staged).sort("symbol")
    document = {
        "session": session.isoformat(),
        "sources": [{"source": _SOURCE, "rows": bars.height}],
        "threshold_pct": ctx.settings.gates.discrepancy_pct,
        "comparisons": [
            {
                "symbol": row["symbol"],
                "field": "close_usd",
                "by_source": {_SOURCE: row["close_usd"]},
                "n_sources": row["n_sources"],
                "chosen_source": row["chosen_source"],
                "spread_pct": None,
            }
            for row in bars.iter_rows(named=True)
        ],
        "discrepancies": [],
        "caveats": [_ONE_SOURCE],
    }
    return [
        ctx.publish(
            OUT_DATA_VALIDATION_SOURCE_COMPARISON,
            Partition.of_session(session),
            document,
            sessions=[session],
            parents=_published(staged),
        )
    ]


def report_integrity(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish the integrity report and the anomaly log of the session."""
    partition = Partition.of_session(session)
    bars = ctx.staged(CORE_MARKET_DAILY_BAR, staged)
    made = {ref.contract: ref for ref in staged}
    quarantine = ctx.table(made[CORE_QUALITY_QUARANTINE.name])
    gate_report = ctx.document(made[CORE_QUALITY_GATE_REPORT.name])
    members, _ = ctx.members([session], as_of=session)
    expected = {*members["symbol"], ctx.settings.market.benchmark}
    quarantined = set(quarantine["symbol"].to_list())
    missing = sorted(expected - set(bars["symbol"].to_list()) - quarantined)
    anomalies = _anomalies(ctx, session, bars, quarantine, missing)
    parents = _published(staged)
    log = ctx.publish(
        OUT_DATA_VALIDATION_ANOMALY_LOG, partition, anomalies, sessions=[session], parents=parents
    )
    simulated = sorted(set(bars["simulated_fields"].explode(empty_as_null=True).drop_nulls()))
    report = ctx.publish(
        OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
        partition,
        {
            "session": session.isoformat(),
            "calendar": {
                "name": ctx.settings.market.calendar,
                "open_utc": ctx.calendar.open_at(session).isoformat(),
                "close_utc": ctx.calendar.close_at(session).isoformat(),
            },
            "symbols": {
                "expected": len(expected),
                "accepted": bars.height,
                "missing": missing,
                "quarantined": sorted(quarantined),
            },
            "gate": {
                name: gate_report[name] for name in ("verdict", "rows_in", "rows_quarantined")
            },
            "anomalies": dict(
                sorted(anomalies.group_by("kind").len().rows(), key=lambda item: str(item[0]))
            ),
            "caveats": [
                _ONE_SOURCE,
                *([f"simulated fields: {', '.join(simulated)}"] if simulated else []),
            ],
        },
        sessions=[session],
        parents=[*parents, log],
    )
    return [log, report]


def _anomalies(
    ctx: RunContext,
    session: date,
    bars: pl.DataFrame,
    quarantine: pl.DataFrame,
    missing: Sequence[str],
) -> pl.DataFrame:
    spike_pct = ctx.settings.gates.spike_warning_pct
    rows: list[dict[str, Any]] = [
        {
            "symbol": symbol,
            "kind": "missing_bar",
            "severity": "critical",
            "detail": "the exchange was open and the vendor has no bar",
        }
        for symbol in missing
    ]
    rows += [
        {
            "symbol": str(symbol),
            "kind": "quarantined",
            "severity": "critical",
            "detail": "; ".join(sorted(set(group["reason"].to_list()))),
        }
        for (symbol,), group in sorted(quarantine.group_by("symbol"), key=lambda item: item[0])
    ]
    rows += [
        {
            "symbol": row["symbol"],
            "kind": "price_spike",
            "value": row["close_move_pct"],
            "limit": spike_pct,
            "severity": "warning",
            "detail": "close moved by more than the limit; no second source to confirm it",
        }
        for row in bars.filter(pl.col("close_move_pct").abs() > spike_pct).iter_rows(named=True)
    ]
    return pl.DataFrame(
        [{"session": session, "value": None, "limit": None, **row} for row in rows],
        schema={
            "session": pl.Date,
            "symbol": pl.String,
            "kind": pl.String,
            "value": pl.Float64,
            "limit": pl.Float64,
            "severity": pl.String,
            "detail": pl.String,
        },
    )


def _published(refs: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Return the references that are published; staged parts are nobody's parent."""
    published = {CORE_QUALITY_GATE_REPORT.name, CORE_QUALITY_QUARANTINE.name}
    return [ref for ref in refs if ref.contract in published]


def publish(ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Publish the session's accepted bars and corporate actions."""
    return publish_span(ctx, Partition.of_session(session), [session], staged=staged)


def publish_span(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    *,
    staged: Sequence[ArtifactRef],
) -> list[ArtifactRef]:
    """Publish one partition's accepted bars and corporate actions."""
    raw = [
        ctx.lake.ref(contract, partition) for contract in (RAW_YAHOO_DAILY_BAR, RAW_YAHOO_ACTION)
    ]
    parents = [*raw, *(ref for ref in staged if ref.contract == CORE_QUALITY_GATE_REPORT.name)]
    refs = [
        ctx.publish(
            contract, partition, ctx.staged(contract, staged), sessions=sessions, parents=parents
        )
        for contract in (CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION)
    ]
    ctx.record_calculation("as_traded_bars", inputs=raw, outputs=refs)
    return refs
