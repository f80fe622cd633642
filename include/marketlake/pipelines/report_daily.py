"""Put the session on one page, from published artifacts only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any

import polars as pl

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_QUALITY_QUARANTINE,
    OUT_DATA_VALIDATION_ANOMALY_LOG,
    OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    OUT_ML_MODELS_DAILY_PREDICTIONS,
    OUT_REPORTS_DAILY,
    OUT_RISK_ANALYSIS_MARKET_REGIME,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.domain import risk
from marketlake.domain.reporting import daily_page
from marketlake.pipelines.context import RunContext, as_polars
from marketlake.types import ArtifactRef, Partition

PAGE_WINDOW_SESSIONS = 253
# A row of a source names it; the bar that was made of all of them is of none.
_SOURCE_OF_ROW = pl.col("row_json").str.json_path_match("$.source").fill_null("core")
_INPUTS: tuple[Contract, ...] = (
    OUT_ML_MODELS_DAILY_PREDICTIONS,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
    OUT_RISK_ANALYSIS_MARKET_REGIME,
    OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    OUT_DATA_VALIDATION_ANOMALY_LOG,
    CORE_QUALITY_QUARANTINE,
)


def publish(ctx: RunContext, session: date) -> list[ArtifactRef]:
    """Publish the daily report: its document, and the HTML page rendered from it alone."""
    partition = Partition.of_session(session)
    inputs = [ctx.lake.ref(contract, partition) for contract in _INPUTS]
    read = {ref.contract: ctx.lake.read_ref(ref) for ref in inputs}
    # What the curve was read from goes into the manifest only: the same prices may lie in other
    # objects tomorrow (a year compacted, a session reprocessed), and the page must not change.
    returns, behind, gaps = _book_returns(ctx, session)
    document = _document(read, returns, inputs, session=session, gaps=gaps)
    page = daily_page.render(document)
    ref = ctx.publish(
        OUT_REPORTS_DAILY,
        partition,
        document,
        sessions=[session],
        parents=[*inputs, *behind],
        export=page,
    )
    return [ref]


def _document(
    read: Mapping[str, Any],
    returns: list[dict[str, Any]],
    inputs: list[ArtifactRef],
    *,
    session: date,
    gaps: list[date],
) -> dict[str, Any]:
    missed = ", ".join(day.isoformat() for day in gaps)
    notes = [f"no bars of {missed}: the gate refused the session"] if gaps else []
    predictions = read[OUT_ML_MODELS_DAILY_PREDICTIONS.name]
    regime = read[OUT_RISK_ANALYSIS_MARKET_REGIME.name]
    integrity = read[OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT.name]
    rows = as_polars(read[OUT_RISK_ANALYSIS_PORTFOLIO_RISK.name])
    book = rows.filter(pl.col("scope") == "book")
    value, n = (dict(book.select("measure", name).iter_rows()) for name in ("value", "n"))
    quarantine = as_polars(read[CORE_QUALITY_QUARANTINE.name])
    anomalies = as_polars(read[OUT_DATA_VALIDATION_ANOMALY_LOG.name])
    champion = predictions["model"]["name"]
    return {
        "session": session.isoformat(),
        "headline": {
            "regime": regime["regime"],
            "volatility_state": regime["volatility_state"],
            "var_95_pct": value.get("var_95_pct"),
            "cvar_95_pct": value.get("cvar_95_pct"),
            "volatility_annual_pct": value.get("volatility_annual_pct"),
            "n_signals": len(predictions["signals"]),
            "gate": integrity["gate"]["verdict"],
            "model": predictions["model"],
            "validation": {
                **predictions["validation"]["metrics"][champion],
                "base_rate": predictions["validation"]["base_rate"],
            },
        },
        "signals": predictions["signals"],
        "not_predicted": predictions["not_predicted"],
        "risk": {
            "book": value,
            "n": n,
            "sectors": rows.filter(pl.col("scope") == "sector")
            .select("name", "measure", "value")
            .to_dicts(),
            "symbols": rows.filter(pl.col("scope") == "symbol")
            .select("name", "measure", "value")
            .to_dicts(),
            "returns": returns,
        },
        "regime": regime,
        "integrity": {
            **integrity,
            "quarantine": quarantine.with_columns(source=_SOURCE_OF_ROW)
            .select("symbol", "source", "check", "reason")
            .to_dicts(),
            "anomaly_log": anomalies.drop("session").to_dicts(),
        },
        "inputs": [
            {"contract": ref.contract, "partition": ref.partition, "sha256": ref.sha256}
            for ref in inputs
        ],
        "caveats": list(dict.fromkeys([*predictions["caveats"], *integrity["caveats"], *notes])),
    }


def _book_returns(
    ctx: RunContext, session: date
) -> tuple[list[dict[str, Any]], list[ArtifactRef], list[date]]:
    """Return the book's daily returns of the last year, what they were made from, and its gaps."""
    window = ctx.history_window(session, PAGE_WINDOW_SESSIONS)
    bars, actions, bar_refs = ctx.known_bars(window, as_of=session)
    members, member_refs = ctx.members([session], as_of=session)
    returns = risk.book_returns(bars, actions, members.select("symbol", "sector"), sessions=window)
    rows = returns.with_columns(pl.col("session").cast(pl.String)).to_dicts()
    return rows, bar_refs + member_refs, sorted(set(window) - set(bars["session"].unique()))
