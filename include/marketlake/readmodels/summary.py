"""What a person wants to know after a run: what ran, what came out, what may be trusted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import httpx

from marketlake.contracts.catalog import (
    CORE_QUALITY_DISAGREEMENT,
    CORE_QUALITY_GATE_REPORT,
    CORE_QUALITY_QUARANTINE,
    OUT_DATA_VALIDATION_ANOMALY_LOG,
    OUT_REPORTS_DAILY,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.errors import AuthFailed, MissingPartition, SourceUnavailable
from marketlake.readmodels.keeping import keeping
from marketlake.readmodels.published import artifacts, spec_coverage
from marketlake.readmodels.signals import signals
from marketlake.settings import SandboxSettings, Settings
from marketlake.sources.catalog import configured
from marketlake.storage.checkpoints import verify_ledger
from marketlake.storage.lake import Lake
from marketlake.types import Partition

_CONTROL_TIMEOUT_S = 10.0
_TOP_SIGNALS = 3
_SESSIONS_TOLD = 10
_CORE = "core"
_RISK_MEASURES = (
    "volatility_annual_pct",
    "var_95_pct",
    "var_95_usd",
    "cvar_95_pct",
    "max_drawdown_pct",
    "beta",
)
TRY_NEXT = (
    ("marketlake signals", "all signals of the newest session"),
    ("marketlake artifacts --spec", "the 49 named files, and which exist so far"),
    ("marketlake show out_reports__daily --save report.html", "the day on one page"),
    ("marketlake trace out_reports__daily", "walk from the report to the vendor's bytes"),
    ("marketlake sql", "psql on the warehouse; try: select * from marts.fct_signal"),
    ("marketlake audit verify", "recompute the whole ledger"),
    ("make stop", "stop every process; the data stays"),
)


def daily_summary(settings: Settings, *, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the summary of everything published so far, JSON-ready.

    ``runs`` are Airflow's DAG runs as its REST API gives them.
    """
    lake = Lake(settings.lake)
    sessions = [
        partition.session
        for partition in lake.partitions(OUT_REPORTS_DAILY)
        if partition.kind == "session"
    ]
    if not sessions:
        raise MissingPartition(
            expected="the daily report of at least one session",
            was="none",
            where=f"{OUT_REPORTS_DAILY.prefix}/",
            todo="`marketlake backfill` a session and look at its runs in the UI",
        )
    newest, told = sessions[-1], sessions[-_SESSIONS_TOLD:]
    verification = verify_ledger(settings)
    return {
        "session": newest.isoformat(),
        "sessions": [session.isoformat() for session in told],
        "runs": [_run(run) for run in runs],
        "artifacts": [item.as_json() for item in artifacts(lake, newest)],
        "spec_files_built": sum(item.sha256 is not None for item in spec_coverage(lake)),
        "signals": _top_signals(lake, newest),
        "risk": _book_risk(lake, newest),
        "gates": [_gate(lake, session) for session in told],
        "planted_faults": planted_faults(settings, lake, told),
        "ledger": {
            "ok": verification.ok,
            "size": verification.size,
            "root_hash": verification.root_hash,
            "faults": verification.faults,
            "public_key": settings.ledger.public_key,
        },
        "keeping": keeping(settings.lake),
        "ui": {
            "url": settings.airflow.public_url or settings.airflow.base_url,
            "user": settings.airflow.user,
            "report_export": _report_uri(lake, newest),
        },
        "try_next": [{"command": command, "shows": shows} for command, shows in TRY_NEXT],
    }


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "dag_id": run["dag_id"],
        "partition_key": run.get("partition_key"),
        "state": run["state"],
        "seconds": run.get("duration"),
        "started_at": run.get("start_date"),
        "run_id": run["dag_run_id"],
    }


def _top_signals(lake: Lake, session: date) -> list[dict[str, Any]]:
    rows = signals(lake, session)
    ends = rows if len(rows) <= 2 * _TOP_SIGNALS else [*rows[:_TOP_SIGNALS], *rows[-_TOP_SIGNALS:]]
    return [
        {name: value for name, value in row.items() if name not in {"session", "known_at_utc"}}
        for row in ends
    ]


def _book_risk(lake: Lake, session: date) -> list[dict[str, Any]]:
    table = lake.read(OUT_RISK_ANALYSIS_PORTFOLIO_RISK, [session], as_of=session)
    book = {row["measure"]: row for row in table.to_pylist() if row["scope"] == "book"}
    return [
        {"measure": measure, "value": book[measure]["value"], "n": book[measure]["n"]}
        for measure in _RISK_MEASURES
        if measure in book
    ]


def _gate(lake: Lake, session: date) -> dict[str, Any]:
    report = lake.read_ref(lake.ref(CORE_QUALITY_GATE_REPORT, Partition.of_session(session)))
    return {
        "session": session.isoformat(),
        **{name: report[name] for name in ("verdict", "rows_in", "rows_quarantined")},
        "sources": len(report["sources"]),
        "sources_answered": sum(item["outcome"] == "answered" for item in report["sources"]),
        "source_rows_quarantined": sum(item["rows_quarantined"] for item in report["sources"]),
    }


def planted_faults(
    settings: Settings, lake: Lake, sessions: Sequence[date]
) -> list[dict[str, Any]]:
    """Return each fault the sandbox planted in these sessions, and whether a check found it."""
    if settings.mode != "sandbox" or not settings.sandbox.plant_faults:
        return []
    return [
        {**fault, "found_by": _found_by(lake, session, fault["vendor"], fault["symbol"])}
        for session in sessions
        for fault in _planted_at(settings.sandbox, session)
        if fault["vendor"] in configured(settings)
    ]


def _planted_at(sandbox: SandboxSettings, session: date) -> list[dict[str, Any]]:
    url = f"http://{sandbox.host}:{sandbox.http_port}/__ctl/planted"
    token = sandbox.control_token.get_secret_value()
    try:
        # No proxy of the shell may stand before our own address.
        with httpx.Client(timeout=_CONTROL_TIMEOUT_S, trust_env=False) as client:
            answer = client.get(
                url,
                params={"session": session.isoformat()},
                headers={"Authorization": f"Bearer {token}"},
            )
        answer.raise_for_status()
    except httpx.HTTPError as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code == 401:
            raise AuthFailed(
                expected="the vendor sandbox to accept the control token",
                was="HTTP 401",
                where=url,
                todo="use the MARKETLAKE_SANDBOX__CONTROL_TOKEN of the running platform "
                "(its runtime.env)",
            ) from None
        raise SourceUnavailable(
            expected="the vendor sandbox to list its planted faults",
            was=f"{type(error).__name__}: {error}",
            where=url,
            todo="`marketlake status` shows what runs, `marketlake up` starts it",
        ) from None
    faults: list[dict[str, Any]] = answer.json()
    return faults


def _found_by(lake: Lake, session: date, source: str, symbol: str) -> list[str]:
    """Return what caught a source's bar of the symbol; empty when nothing did."""
    kept_out, apart, unusual = (
        [row for row in lake.read(contract, [session], as_of=session).to_pylist()
         if row["symbol"] == symbol]
        for contract in (
            CORE_QUALITY_QUARANTINE,
            CORE_QUALITY_DISAGREEMENT,
            OUT_DATA_VALIDATION_ANOMALY_LOG,
        )
    )  # fmt: skip
    return [
        *sorted({f"gate: {row['check']}" for row in kept_out if _given_by(row) == source}),
        *sorted({f"consensus: {row['kind']}" for row in apart if row["source"] == source}),
        *sorted(
            {
                f"integrity: {row['kind']}"
                for row in unusual
                if row["source"] in {source, _CORE} and row["kind"] != "quarantined"
            }
        ),
    ]


def _given_by(quarantined: Mapping[str, Any]) -> str | None:
    """Return the source of a row that was kept out: its own, or that of the bar made from it."""
    row = json.loads(quarantined["row_json"])
    source: str | None = row.get("source", row.get("chosen_source"))
    return source


def _report_uri(lake: Lake, session: date) -> str:
    manifest = lake.manifest(OUT_REPORTS_DAILY, Partition.of_session(session))
    return f"s3://{lake.bucket}/{manifest.export_key}"
