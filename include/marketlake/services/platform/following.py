"""How far each session has come through the chain of daily DAGs, judged from Airflow's runs.

What does not belong: asking Airflow (``airflow_api``) and drawing progress (``cli``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Self

DAILY_CHAIN = (
    "ingest_market_data",
    "validate_market_data",
    "build_warehouse",
    "build_features",
    "predict_signals",
    "assess_risk",
    "report_daily",
)
"""The DAGs of one session in their order; each starts when the one before has published."""

EXPORT = "export_audit"
"""Runs after each report, one run at a time, for all sessions together: no part of the chain."""


@dataclass(frozen=True)
class DagRun:
    """One DAG run of one session."""

    dag_id: str
    run_id: str
    session: date
    state: str
    queued_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None

    @classmethod
    def from_answer(cls, row: Mapping[str, Any]) -> Self:
        """Read one entry of the REST API's list of runs; it must have a partition key."""
        return cls(
            dag_id=str(row["dag_id"]),
            run_id=str(row["dag_run_id"]),
            session=date.fromisoformat(row["partition_key"]),
            state=str(row["state"]),
            queued_at=_instant(row["queued_at"]),
            started_at=_instant(row["start_date"]),
            ended_at=_instant(row["end_date"]),
        )

    @property
    def seconds(self) -> float | None:
        """Return how long the run took, None while it has not ended."""
        if self.started_at is None or self.ended_at is None:
            return None
        return (self.ended_at - self.started_at).total_seconds()


@dataclass(frozen=True)
class SessionProgress:
    """The current runs of one session, in chain order, up to the first that is missing."""

    session: date
    runs: tuple[DagRun, ...]
    chain_length: int

    @property
    def has_begun(self) -> bool:
        """Return whether the chain's first DAG has run, or runs, without failing."""
        return bool(self.runs) and self.runs[0].state != "failed"

    @property
    def failed(self) -> DagRun | None:
        """Return the run that stopped this session, if one did."""
        return next((run for run in self.runs if run.state == "failed"), None)

    @property
    def is_complete(self) -> bool:
        """Return whether every DAG of the chain has succeeded."""
        return len(self.runs) == self.chain_length and all(
            run.state == "success" for run in self.runs
        )

    @property
    def is_settled(self) -> bool:
        """Return whether nothing more will happen by itself."""
        return self.is_complete or self.failed is not None


def follow(
    sessions: Sequence[date],
    answers: Iterable[Mapping[str, Any]],
    *,
    chain: Sequence[str] = DAILY_CHAIN,
) -> list[SessionProgress]:
    """Say how far each session is, given Airflow's runs in any order.

    A session that is processed again has older runs beside the new ones: a run counts only when
    it was queued after its predecessor's current run had begun.
    """
    runs = [DagRun.from_answer(row) for row in answers if row.get("partition_key")]
    return [
        SessionProgress(session, _current(session, runs, chain), len(chain)) for session in sessions
    ]


def _current(session: date, runs: Sequence[DagRun], chain: Sequence[str]) -> tuple[DagRun, ...]:
    current: list[DagRun] = []
    for dag_id in chain:
        queued = [
            (run.queued_at, run.run_id, run)
            for run in runs
            if run.dag_id == dag_id and run.session == session and run.queued_at is not None
        ]
        if current:
            began = current[-1].started_at
            queued = [entry for entry in queued if began is not None and entry[0] >= began]
        if not queued:
            break
        current.append(max(queued)[2])
        if current[-1].state == "failed":
            break
    return tuple(current)


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
