"""What a repair makes stale, and what a redone session makes current again."""

from __future__ import annotations

import uuid
from datetime import timedelta

import pytest
from marketlake.contracts.catalog import (
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_REPAIR_PROPOSAL,
)
from marketlake.pipelines import repairs
from marketlake.pipelines.context import RunContext, open_context
from marketlake.readmodels.staleness import stale_artifacts
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import Partition, RunIdentity

from tests.pipelines.faulty_bars import IN_CENTS, SESSION, publish

BEFORE = SESSION - timedelta(days=1)


@pytest.fixture
def ctx(storage_settings: Settings, ledger: LedgerClient) -> RunContext:
    """Return a context on a lake of its own: two sessions of sources, and the last one's bars."""
    unique = uuid.uuid4().hex[:12]
    lake = storage_settings.lake.model_copy(
        update={"bucket": f"stale-{unique}", "worm_bucket": f"stale-worm-{unique}"}
    )
    Lake(lake).ensure_buckets()
    settings = storage_settings.model_copy(update={"lake": lake})
    with open_context(settings, RunIdentity("marketlake repair", unique, "test")) as opened:
        publish(opened, last_sessions=2)
        redo(opened)
        return opened


def redo(ctx: RunContext) -> None:
    """Publish the last session's bars from what is there now, as the gate does."""
    window = [BEFORE, SESSION]
    parents = [
        *ctx.read(CORE_MARKET_SOURCE_BAR, window, as_of=SESSION)[1],
        *repairs.in_force(ctx, window)[1],
    ]
    nothing = ctx.read(CORE_MARKET_DAILY_BAR, [], as_of=SESSION)[0]
    ctx.publish(
        CORE_MARKET_DAILY_BAR,
        Partition.of_session(SESSION),
        nothing,
        sessions=[SESSION],
        parents=parents,
    )


def stale(ctx: RunContext) -> list[tuple[str, str]]:
    """Return what is stale but the proposals, which this test does not redo."""
    found = stale_artifacts(ctx.lake, [BEFORE, SESSION])
    proposals = CORE_QUALITY_REPAIR_PROPOSAL.name
    return [(item.contract, item.parent) for item in found if item.contract != proposals]


def test_a_repair_makes_what_read_its_bars_stale_until_that_is_redone(ctx: RunContext) -> None:
    changed = [(CORE_MARKET_DAILY_BAR.name, f"core_quality__applied_repair/session={BEFORE}")]
    assert stale(ctx) == []
    repairs.apply(ctx, BEFORE, proposal=IN_CENTS, applied_by="ada", reason="in cents")
    assert stale(ctx) == changed
    redo(ctx)
    assert stale(ctx) == []
    repairs.revert(ctx, BEFORE, proposal=IN_CENTS, applied_by="ada", reason="was right")
    assert stale(ctx) == changed
    redo(ctx)
    assert stale(ctx) == []


def test_a_repair_in_force_is_not_stale_when_its_session_proposes_nothing_any_more(
    ctx: RunContext,
) -> None:
    repairs.apply(ctx, BEFORE, proposal=IN_CENTS, applied_by="ada", reason="in cents")
    redo(ctx)
    none = ctx.read(CORE_QUALITY_REPAIR_PROPOSAL, [], as_of=SESSION)[0]
    ctx.publish(
        CORE_QUALITY_REPAIR_PROPOSAL,
        Partition.of_session(BEFORE),
        none,
        sessions=[BEFORE],
        parents=[],
    )
    assert stale(ctx) == []
