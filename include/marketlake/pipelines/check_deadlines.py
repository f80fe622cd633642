"""Find out whether a session's report is there, and if not, how far the session came."""

from __future__ import annotations

from datetime import date

from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_BAR,
    CORE_SIGNALS_SIGNAL,
    CORE_WAREHOUSE_BUILD,
    OUT_REPORTS_DAILY,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.errors import DeadlineMissed, MissingPartition
from marketlake.pipelines.context import RunContext
from marketlake.types import Partition

_ON_THE_WAY = (
    CORE_MARKET_SOURCE_BAR,
    CORE_MARKET_DAILY_BAR,
    CORE_WAREHOUSE_BUILD,
    CORE_FEATURES_DAILY,
    CORE_SIGNALS_SIGNAL,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
"""What each DAG publishes before the report, in the order of the chain."""


def require_report(ctx: RunContext, session: date, *, held: bool) -> bool:
    """Return whether a run that is held to the deadline found the session's report published.

    Raises
    ------
    DeadlineMissed
        When it is held, and the report is not there.
    """
    if not held:
        return False
    if _is_published(ctx, OUT_REPORTS_DAILY, session):
        return True
    missing = next(
        (contract for contract in _ON_THE_WAY if not _is_published(ctx, contract, session)),
        OUT_REPORTS_DAILY,
    )
    allowed_minutes = ctx.settings.market.publish_delay_minutes + ctx.settings.deadlines.minutes
    deadline_at = ctx.calendar.known_at(session, allowed_minutes)
    raise DeadlineMissed(
        expected=f"the report of {session} by {deadline_at:%Y-%m-%d %H:%M} UTC",
        was=f"no report; of what leads to it, {missing.name} is the first that is missing",
        where=missing.owner,
        todo=f"look at the run of {missing.owner} for {session}; is there none, look whether that "
        "DAG is paused and whether the one before it failed (`marketlake status`)",
    )


def _is_published(ctx: RunContext, contract: Contract, session: date) -> bool:
    try:
        ctx.lake.ref(contract, Partition.of_session(session))
    except MissingPartition:
        return False
    return True
