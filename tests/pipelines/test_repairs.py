"""Repairs are put in force and taken back exactly, by name, and never touch what came."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta

import polars as pl
import pytest
from marketlake.contracts.arrow import conform
from marketlake.contracts.catalog import (
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_APPLIED_REPAIR,
    CORE_QUALITY_REPAIR_PROPOSAL,
)
from marketlake.errors import ConfigError, ContractViolation, MissingPartition
from marketlake.pipelines import repairs
from marketlake.pipelines.context import RunContext, open_context
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import ArtifactRef, Partition, RunIdentity
from polars.testing import assert_frame_equal

from tests.pipelines.faulty_bars import (
    IN_CENTS,
    KNOWN_AT,
    MISSING,
    PRICES,
    SESSION,
    proposals,
    publish,
    source_bars,
)

BEFORE = SESSION - timedelta(days=1)
OF_SESSION = Partition.of_session(SESSION)
_KO_YAHOO = (pl.col("symbol") == "KO") & (pl.col("source") == "yahoo")
_CORRECTED = {
    "corrected": lambda came: came.with_columns(
        pl.when(_KO_YAHOO).then(pl.col("close_usd") / 100).otherwise("close_usd").alias("close_usd")
    ),
    "withdrawn": lambda came: came.filter(~_KO_YAHOO),
    "repeated": lambda came: pl.concat(
        [came, came.filter(_KO_YAHOO).with_columns(repeat_no=pl.lit(1, pl.Int64))]
    ),
}


@pytest.fixture
def ctx(storage_settings: Settings, ledger: LedgerClient) -> RunContext:
    """Return a context on a lake of its own, with a session's bars and proposals."""
    unique = uuid.uuid4().hex[:12]
    lake = storage_settings.lake.model_copy(
        update={"bucket": f"repair-{unique}", "worm_bucket": f"repair-worm-{unique}"}
    )
    Lake(lake).ensure_buckets()
    settings = storage_settings.model_copy(update={"lake": lake})
    with open_context(settings, RunIdentity("marketlake repair", unique, "test")) as opened:
        publish(opened)
        return opened


def apply(ctx: RunContext, proposal: str, reason: str = "in cents") -> ArtifactRef:
    return repairs.apply(ctx, SESSION, proposal=proposal, applied_by="ada", reason=reason)


def revert(ctx: RunContext, proposal: str, reason: str = "was right") -> ArtifactRef:
    return repairs.revert(ctx, SESSION, proposal=proposal, applied_by="bob", reason=reason)


def bars(ctx: RunContext) -> pl.DataFrame:
    return ctx.read(CORE_MARKET_SOURCE_BAR, [SESSION], as_of=SESSION)[0]


def of(frame: pl.DataFrame, symbol: str, source: str) -> pl.DataFrame:
    return frame.filter(symbol=symbol, source=source)


def in_force(proposal: str) -> pl.DataFrame:
    """Return what is in force at the session after a proposal was applied."""
    cells = proposals(source_bars()).filter(proposal=proposal, session=SESSION)
    return cells.with_columns(applied_by=pl.lit("ada"), reason=pl.lit("in cents"))


def republish(ctx: RunContext, frame: pl.DataFrame) -> None:
    ctx.publish(CORE_MARKET_SOURCE_BAR, OF_SESSION, frame, sessions=[SESSION], parents=[])


def test_without_repairs_bars_are_what_they_were_and_there_is_nothing_to_name(
    ctx: RunContext,
) -> None:
    found, refs = repairs.in_force(ctx, [BEFORE, SESSION])
    assert found.is_empty()
    assert refs == []
    assert_frame_equal(repairs.repaired(bars(ctx), found), bars(ctx), check_exact=True)
    assert repairs.in_force(ctx, [])[0].is_empty()


def test_a_repair_in_force_changes_its_cells_and_nothing_else() -> None:
    came = source_bars()
    made = repairs.repaired(came, in_force(IN_CENTS))
    right = of(came, "KO", "iex").filter(session=SESSION).select(PRICES)
    assert_frame_equal(of(made, "KO", "yahoo").filter(session=SESSION).select(PRICES), right)
    others = (pl.col("session") != SESSION) | ~_KO_YAHOO
    assert_frame_equal(made.filter(others), came.filter(others), check_exact=True)


def test_an_added_bar_is_known_when_the_bars_it_is_made_of_are_and_simulated_as_they_are() -> None:
    came = source_bars()
    made = repairs.repaired(came, in_force(MISSING))
    assert_frame_equal(made.head(came.height), came, check_exact=True)
    (added,) = made.tail(-came.height).to_dicts()
    (other,) = of(came, "PG", "yahoo").filter(session=SESSION).to_dicts()
    assert (added["symbol"], added["source"], added["repeat_no"]) == ("PG", "iex", 0)
    assert [added[name] for name in PRICES] == pytest.approx([other[name] for name in PRICES])
    assert added["volume_shares"] is None
    assert added["simulated_fields"] == ["open_usd"]
    assert added["known_at_utc"] == KNOWN_AT + timedelta(minutes=2)
    assert conform(CORE_MARKET_SOURCE_BAR, made.to_arrow()).num_rows == came.height + 1


def test_applying_and_reverting_gives_the_same_bytes_and_leaves_the_bars_as_they_came(
    ctx: RunContext,
) -> None:
    came = ctx.lake.ref(CORE_MARKET_SOURCE_BAR, OF_SESSION)
    first = apply(ctx, MISSING)
    apply(ctx, IN_CENTS)
    assert revert(ctx, IN_CENTS).sha256 == first.sha256
    assert apply(ctx, IN_CENTS).sha256 != first.sha256
    revert(ctx, MISSING)
    nothing = revert(ctx, IN_CENTS)
    empty = ctx.publish(
        CORE_QUALITY_APPLIED_REPAIR,
        Partition.of_session(BEFORE),
        repairs.in_force(ctx, [])[0],
        sessions=[BEFORE],
        parents=[],
    )
    assert (nothing.sha256, nothing.rows) == (empty.sha256, 0)
    found, refs = repairs.in_force(ctx, [SESSION])
    assert refs == [nothing]
    assert_frame_equal(repairs.repaired(bars(ctx), found), bars(ctx), check_exact=True)
    assert ctx.lake.ref(CORE_MARKET_SOURCE_BAR, OF_SESSION) == came


def test_what_is_in_force_names_who_applied_it_why_and_its_version(ctx: RunContext) -> None:
    ref = apply(ctx, IN_CENTS)
    found, refs = repairs.in_force(ctx, [BEFORE, SESSION])
    assert refs == [ref]
    assert_frame_equal(found, in_force(IN_CENTS).select(found.columns).sort("field"))


def test_every_version_stays_and_says_what_it_replaced_and_what_it_was_made_from(
    ctx: RunContext,
) -> None:
    applied = apply(ctx, IN_CENTS)
    made_from = ctx.lake.manifest(CORE_QUALITY_APPLIED_REPAIR, OF_SESSION)
    assert made_from.parents == (ctx.lake.ref(CORE_QUALITY_REPAIR_PROPOSAL, OF_SESSION),)
    assert made_from.supersedes is None
    revert(ctx, IN_CENTS)
    assert ctx.lake.manifest(CORE_QUALITY_APPLIED_REPAIR, OF_SESSION).supersedes is not None
    assert ctx.table(applied)["proposal"].to_list() == [IN_CENTS] * 4


def test_the_ledger_has_who_why_and_what_each_cell_was_and_became(
    ctx: RunContext, ledger: LedgerClient
) -> None:
    apply(ctx, IN_CENTS)
    revert(ctx, IN_CENTS)
    entries = ledger.entries("decision", run_id=ctx.run.run_id)
    told = [entry.payload for entry in entries]
    assert [(item["name"], item["by"], item["reason"]) for item in told] == [
        ("repair_applied", "ada", "in cents"),
        ("repair_reverted", "bob", "was right"),
    ]
    closes = of(bars(ctx), "KO", "yahoo")["close_usd"], of(bars(ctx), "KO", "iex")["close_usd"]
    for item in told:
        (cell,) = [cell for cell in item["cells"] if cell["field"] == "close_usd"]
        assert (cell["before"], cell["after"]) == pytest.approx((closes[0][0], closes[1][0]))


@pytest.mark.parametrize(
    ("doing", "says"),
    [
        (lambda ctx: (apply(ctx, IN_CENTS), apply(ctx, IN_CENTS)), "which ada applied: in cents"),
        (lambda ctx: apply(ctx, "unit:KO:yaho:2022-12-22"), f"nearest is {IN_CENTS}.*repair list"),
        (lambda ctx: revert(ctx, IN_CENTS), f"was {IN_CENTS};.*repair list"),
        (lambda ctx: (apply(ctx, MISSING), revert(ctx, IN_CENTS)), f"nearest is {MISSING}"),
        (lambda ctx: apply(ctx, IN_CENTS, reason=" "), "a reason"),
    ],
    ids=["applied twice", "unknown", "nothing in force", "not in force", "no reason"],
)
def test_a_decision_that_makes_no_sense_is_refused(
    ctx: RunContext, doing: Callable[[RunContext], object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        doing(ctx)


def test_a_cell_that_a_repair_has_changed_is_not_changed_by_another(ctx: RunContext) -> None:
    apply(ctx, IN_CENTS)
    again = ctx.read(CORE_QUALITY_REPAIR_PROPOSAL, [SESSION], as_of=SESSION)[0]
    renamed = again.filter(proposal=IN_CENTS).with_columns(proposal=pl.lit("unit:another"))
    ctx.publish(CORE_QUALITY_REPAIR_PROPOSAL, OF_SESSION, renamed, sessions=[SESSION], parents=[])
    with pytest.raises(ConfigError, match=f"repair revert {IN_CENTS}"):
        apply(ctx, "unit:another")


def test_a_session_without_proposals_says_what_makes_them(ctx: RunContext) -> None:
    early = BEFORE - timedelta(days=1)
    with pytest.raises(MissingPartition, match=r"repair_proposal.*backfill"):
        repairs.apply(ctx, early, proposal=IN_CENTS, applied_by="ada", reason="in cents")


@pytest.mark.parametrize("how", _CORRECTED)
def test_a_bar_that_the_source_changed_since_is_not_repaired(how: str) -> None:
    now = _CORRECTED[how](source_bars())
    with pytest.raises(ContractViolation, match=f"repair revert {IN_CENTS} --session {SESSION}"):
        repairs.repaired(now, in_force(IN_CENTS))


@pytest.mark.parametrize("now_there", [["alpha_vantage", "iex", "yahoo"], []])
def test_a_bar_is_not_added_where_one_has_come_or_none_is_left_to_make_it_of(
    now_there: list[str],
) -> None:
    came = source_bars().filter(session=SESSION)
    one = of(came, "PG", "yahoo")
    now = pl.concat(
        [
            came.filter(pl.col("symbol") != "PG"),
            *(one.with_columns(source=pl.lit(source)) for source in now_there),
        ]
    )
    with pytest.raises(ContractViolation, match=f"repair revert {MISSING}"):
        repairs.repaired(now, in_force(MISSING))


def test_a_proposal_on_bars_that_have_changed_since_is_not_put_in_force(ctx: RunContext) -> None:
    republish(ctx, _CORRECTED["corrected"](bars(ctx)))
    with pytest.raises(ContractViolation, match="propose on what is there now"):
        apply(ctx, IN_CENTS)
    assert repairs.in_force(ctx, [SESSION])[0].is_empty()


def test_the_very_same_row_twice_is_one_bar(ctx: RunContext) -> None:
    came = bars(ctx)
    twice = came.filter(_KO_YAHOO).with_columns(repeat_no=pl.lit(1, pl.Int64))
    republish(ctx, pl.concat([came, twice]))
    assert apply(ctx, IN_CENTS).rows == len(PRICES)
