"""The documents of a validated session: source comparison, integrity report, anomaly log, page.

What does not belong: the verdict (``validate_market_data``) and the rules (``domain.integrity``,
``domain.consensus``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts.catalog import (
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_DISAGREEMENT,
    CORE_QUALITY_GATE_REPORT,
    CORE_QUALITY_PROVENANCE,
    CORE_QUALITY_QUARANTINE,
    CORE_QUALITY_REPAIR_PROPOSAL,
    OUT_DATA_VALIDATION_ANOMALY_LOG,
    OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    OUT_REPORTS_INTEGRITY,
)
from marketlake.domain import integrity
from marketlake.domain.reporting import integrity_page
from marketlake.pipelines import repairs, universe
from marketlake.pipelines.context import RunContext, no_rows
from marketlake.pipelines.source_consensus import Agreement, SourceRows, read_sources
from marketlake.sources.catalog import configured
from marketlake.types import ArtifactRef, Partition

_QUARTER_SESSIONS = 63
_WORST = 10
_CORE = "core"
_OUTCOMES = ("answered", "no_bar", "failed", "not_asked")
_ABSENCES = ("missing_bar", "halted", "not_yet_listed", "delisted")
_REPLICAS = "the sources are replicas of one history: agreement here is not evidence"
_ONE_SOURCE = "one source: there is nothing to compare it with, so agreement here is not evidence"


def sources_told(ctx: RunContext, found: Agreement) -> list[dict[str, Any]]:
    """Say of each source how it was asked, what it gave, and how far it agreed."""
    judged = found.cells.filter(pl.col("field") == "close_usd").group_by("source")
    agreed = dict(judged.agg(100.0 * pl.col("agreed").mean()).rows())
    rows = found.rejected["row_json"].unique()  # a row stands there once for each failed check
    refused = Counter(json.loads(row)["source"] for row in rows.to_list())
    told = []
    for name in ctx.settings.market.sources:
        own = found.answers.filter(pl.col("source") == name)
        counts = Counter(own["outcome"].to_list())
        reasons = own.filter(pl.col("outcome") != "answered")
        if counts["not_configured"]:
            outcome = "not_configured"
        else:
            outcome = "answered" if counts["answered"] and name not in found.broken else "dropped"
        why = reasons["reason"].unique(maintain_order=True).to_list()
        if name in found.broken:
            why.append(f"{refused[name]} of its rows are no bars")
        told.append(
            {
                "source": name,
                "outcome": outcome,
                "reason": "; ".join(why),
                "asked": 0 if outcome == "not_configured" else own.height,
                **{item: counts[item] for item in _OUTCOMES},
                "rows_quarantined": refused[name],
                "agreed_pct": agreed.get(name),
                "weight": found.weights.get(name),
            }
        )
    return told


def publish_comparison(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish how the sources of the session agree, cell by cell."""
    made = {ref.contract: ref for ref in staged}
    bars = ctx.staged(CORE_MARKET_DAILY_BAR, staged).sort("symbol")
    cells = ctx.table(made[CORE_QUALITY_PROVENANCE.name])
    apart = ctx.table(made[CORE_QUALITY_DISAGREEMENT.name])
    document = {
        "session": session.isoformat(),
        "sources": ctx.document(made[CORE_QUALITY_GATE_REPORT.name])["sources"],
        "threshold_pct": ctx.settings.gates.thresholds_pct(),
        "comparisons": [
            _comparison(row, cells.filter(pl.col("symbol") == row["symbol"]))
            for row in bars.iter_rows(named=True)
        ],
        "discrepancies": [_discrepancy(row) for row in apart.iter_rows(named=True)],
        "caveats": _caveats(ctx),
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


def _comparison(bar: Mapping[str, Any], cells: pl.DataFrame) -> dict[str, Any]:
    closes = cells.filter(pl.col("field") == "close_usd")["value_usd"].to_list()
    prices: dict[str, dict[str, Any]] = {}
    for row in cells.iter_rows(named=True):
        cell = prices.setdefault(
            row["field"], {"consensus_usd": row["consensus_usd"], "by_source": {}}
        )
        cell["by_source"][row["source"]] = {
            name: row[name] for name in ("value_usd", "apart_pct", "agreed", "weight")
        }
    return {
        **{name: bar[name] for name in ("symbol", "n_sources", "n_agreed", "chosen_source")},
        "spread_pct": 100.0 * (max(closes) / min(closes) - 1.0) if len(closes) > 1 else None,
        "flags": bar["flags"],
        "prices": prices,
    }


def _discrepancy(row: Mapping[str, Any]) -> dict[str, Any]:
    apart = {name: row[name.replace("_usd", "_apart_pct")] for name in row["fields"]}
    return {
        **{name: row[name] for name in ("symbol", "source", "kind", "fields")},
        "apart_pct": apart,
        "evidence": row["evidence"],
    }


def publish_integrity(
    ctx: RunContext, session: date, *, staged: Sequence[ArtifactRef]
) -> list[ArtifactRef]:
    """Publish the integrity report, the anomaly log and the repair proposals of the session."""
    partition = Partition.of_session(session)
    made = {ref.contract: ref for ref in staged}
    bars = ctx.staged(CORE_MARKET_DAILY_BAR, staged)
    quarantine = ctx.table(made[CORE_QUALITY_QUARANTINE.name])
    apart = ctx.table(made[CORE_QUALITY_DISAGREEMENT.name])
    gate = ctx.document(made[CORE_QUALITY_GATE_REPORT.name])
    rows = read_sources(ctx, [session], lookback_sessions=integrity.MEMORY)
    found = integrity.detect(rows.bars, _reference(ctx, rows), first=rows.window[0], last=session)
    proposals = _proposals(rows, session)
    members, member_refs = ctx.members([session], as_of=session)
    expected = {*members["symbol"], ctx.settings.market.benchmark}
    refused = quarantine.filter(pl.col("contract") == CORE_MARKET_DAILY_BAR.name)
    missing = sorted(expected - {*bars["symbol"]} - {*refused["symbol"]})
    anomalies = _anomalies(session, found, quarantine, missing)
    parents = [*_published(staged), *rows.inputs, *member_refs]
    log, proposed = (
        ctx.publish(contract, partition, frame, sessions=[session], parents=parents)
        for contract, frame in (
            (OUT_DATA_VALIDATION_ANOMALY_LOG, anomalies),
            (CORE_QUALITY_REPAIR_PROPOSAL, proposals),
        )
    )
    alarms = pl.col("severity").is_in(integrity.ALARMS)
    applied, _ = repairs.in_force(ctx, [session])
    refused_rows = sum(item["rows_quarantined"] for item in gate["sources"])
    report = ctx.publish(
        OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
        partition,
        {
            "session": session.isoformat(),
            "calendar": {
                "name": ctx.settings.market.calendar,
                "open_utc": ctx.calendar.open_at(session).isoformat(),
                "close_utc": ctx.calendar.close_at(session).isoformat(),
                "half_day": ctx.calendar.is_half_day(session),
            },
            "symbols": {
                "expected": len(expected),
                "accepted": bars.height,
                "missing": missing,
                "quarantined": refused["symbol"].unique().sort().to_list(),
            },
            "sources": gate["sources"],
            "gate": {
                **{name: gate[name] for name in ("verdict", "rows_in", "rows_quarantined")},
                "source_rows_quarantined": refused_rows,
            },
            "anomalies": {
                kind: {"findings": findings, "alarms": alarmed}
                for kind, findings, alarmed in anomalies.group_by("kind")
                .agg(pl.len(), alarms.sum().alias("alarms"))
                .sort("kind")
                .iter_rows()
            },
            "alarms": anomalies.filter(alarms).drop("session").to_dicts(),
            "worst_symbols": _worst(found, apart, rows.window),
            "gaps": _gaps(found, rows.window),
            "repairs": {
                "proposals": _repairs(proposals, ("rule", "confidence", "evidence")),
                "in_force": _repairs(applied, ("applied_by", "reason")),
            },
            "caveats": [*_caveats(ctx), *_simulated(bars)],
        },
        sessions=[session],
        parents=[*_published(staged), log, proposed],
    )
    return [log, proposed, report]


def publish_page(ctx: RunContext, session: date) -> ArtifactRef:
    """Publish the integrity page of the session from its two documents."""
    partition = Partition.of_session(session)
    refs = [
        ctx.lake.ref(contract, partition)
        for contract in (
            OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
            OUT_DATA_VALIDATION_SOURCE_COMPARISON,
        )
    ]
    report, comparison = (ctx.document(ref) for ref in refs)
    return ctx.publish(
        OUT_REPORTS_INTEGRITY,
        partition,
        {
            "session": session.isoformat(),
            "report_sha256": refs[0].sha256,
            "comparison_sha256": refs[1].sha256,
        },
        sessions=[session],
        parents=refs,
        export=integrity_page.render(report, comparison).encode(),
    )


def _reference(ctx: RunContext, rows: SourceRows) -> integrity.Reference:
    return integrity.Reference(
        calendar=ctx.calendar,
        actions=rows.actions.select(list(integrity.ACTION_SCHEMA)),
        listings=universe.listings(ctx.settings.market, ctx.settings.market.sources),
        basis="as_traded",
        limits=integrity.Limits(spike_pct=ctx.settings.gates.spike_warning_pct),
    )


def _proposals(rows: SourceRows, session: date) -> pl.DataFrame:
    nothing = no_rows(CORE_QUALITY_REPAIR_PROPOSAL)
    actions = rows.actions.select(list(integrity.ACTION_SCHEMA))
    proposed = integrity.propose(rows.bars, actions, as_of=session, basis="as_traded")
    # The consensus takes the other sources' bar as it is: a copy of it would be one more voice.
    own = (pl.col("session") == session) & ~pl.col("adds_bar")
    return proposed.filter(own).select(nothing.columns)


def _anomalies(
    session: date, found: pl.DataFrame, quarantine: pl.DataFrame, missing: Sequence[str]
) -> pl.DataFrame:
    """Return what was found at the session's close, what was kept out, and what nobody has."""
    columns = no_rows(OUT_DATA_VALIDATION_ANOMALY_LOG).columns
    todays = found.filter(pl.col("known_on") == session).select(
        pl.lit(session).alias("session"),
        "symbol",
        "source",
        pl.col("rule").alias("kind"),
        pl.col("observed").alias("value"),
        "expected",
        "limit",
        "severity",
        pl.col("explanation").alias("detail"),
    )
    said = pl.col("row_json").str.json_path_match("$.source").fill_null(_CORE)
    kept_out = (
        quarantine.with_columns(source=said)
        .group_by("symbol", "source")
        .agg(pl.col("reason").unique().sort().str.join("; ").alias("detail"))
        .with_columns(kind=pl.lit("quarantined"))
    )
    absent = pl.DataFrame({"symbol": missing}, schema={"symbol": pl.String}).with_columns(
        source=pl.lit(_CORE),
        kind=pl.lit("missing_bar"),
        detail=pl.lit("the exchange was open and no source has a bar"),
    )
    number = pl.lit(None, pl.Float64)
    own = pl.concat([kept_out.select(absent.columns), absent]).with_columns(
        session=pl.lit(session), value=number, expected=number, limit=number,
        severity=pl.lit("critical"),
    )  # fmt: skip
    return (
        pl.concat([todays.select(columns), own.select(columns)])
        .sort("symbol", "source", "kind", "detail")
        .unique(["symbol", "source", "kind"], keep="first", maintain_order=True)
    )


def _worst(
    found: pl.DataFrame, apart: pl.DataFrame, window: Sequence[date]
) -> list[dict[str, Any]]:
    """Return the symbols with the most alarms of the last quarter, and today's disagreements."""
    lately = integrity.alarms(found).filter(pl.col("known_on") >= window[-_QUARTER_SESSIONS:][0])
    alarms = lately.group_by("symbol").agg(
        pl.len().alias("alarms"), pl.col("rule").unique().alias("rules")
    )
    disagreements = apart.group_by("symbol").agg(
        pl.len().alias("disagreements"), pl.col("kind").unique().alias("classes")
    )
    both = alarms.join(disagreements, on="symbol", how="full", coalesce=True).with_columns(
        pl.col("alarms", "disagreements").fill_null(0), pl.col("rules", "classes").fill_null([])
    )
    return (
        both.select(
            "symbol",
            "alarms",
            "disagreements",
            pl.concat_list("rules", "classes").list.unique().list.sort().alias("kinds"),
        )
        .sort(pl.col("alarms") + pl.col("disagreements"), "symbol", descending=[True, False])
        .head(_WORST)
        .to_dicts()
    )


def _gaps(found: pl.DataFrame, window: Sequence[date]) -> dict[str, Any]:
    """Return the last quarter's sessions, and of each series those without a bar, and why."""
    quarter = window[-_QUARTER_SESSIONS:]
    absent = found.filter(pl.col("rule").is_in(_ABSENCES) & (pl.col("session") >= quarter[0])).sort(
        "symbol", "source", "session"
    )
    series = [
        {
            "symbol": symbol,
            "source": source,
            "absent": {
                day.isoformat(): rule for day, rule in own.select("session", "rule").iter_rows()
            },
        }
        for (symbol, source), own in absent.group_by("symbol", "source", maintain_order=True)
    ]
    return {"sessions": [day.isoformat() for day in quarter], "series": series}


def _repairs(cells: pl.DataFrame, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return one entry a proposal, with the number of its cells."""
    return (
        cells.group_by("proposal", maintain_order=True)
        .agg(pl.col("symbol", "source", *names).first(), pl.len().alias("cells"))
        .sort("proposal")
        .to_dicts()
    )


def _simulated(bars: pl.DataFrame) -> list[str]:
    made = sorted(set(bars["simulated_fields"].explode(empty_as_null=True).drop_nulls()))
    return [f"simulated fields: {', '.join(made)}"] if made else []


def _caveats(ctx: RunContext) -> list[str]:
    if len(configured(ctx.settings)) == 1:
        return [_ONE_SOURCE]
    return [_REPLICAS] if ctx.settings.mode == "sandbox" else []


def _published(refs: Sequence[ArtifactRef]) -> list[ArtifactRef]:
    """Return the references that are published; staged parts are nobody's parent."""
    return [
        ref
        for ref in refs
        if ref.contract
        in {
            CORE_QUALITY_GATE_REPORT.name,
            CORE_QUALITY_QUARANTINE.name,
            CORE_QUALITY_DISAGREEMENT.name,
            CORE_QUALITY_PROVENANCE.name,
        }
    ]
