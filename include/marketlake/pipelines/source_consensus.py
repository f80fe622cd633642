"""From the bars of every source to one candidate bar a symbol, with everything that was said.

A row that is no bar (a price missing, high below low) has no vote; a source with too many of them
has none at all, as long as another one is there. What does not belong: the gate's verdict on the
candidates and publishing (``validate_market_data``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from marketlake.contracts.catalog import (
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_ACTION,
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_DISAGREEMENT,
    CORE_QUALITY_PROVENANCE,
    CORE_QUALITY_SOURCE_ANSWER,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.domain import consensus, prices
from marketlake.pipelines import repairs
from marketlake.pipelines.context import RunContext, no_rows
from marketlake.quality.kernel import judge_fast
from marketlake.sources.catalog import ONE_VENUE
from marketlake.types import ArtifactRef, Partition

_VOLUME = "volume_shares"
_KEY = ["session", "symbol"]
_SOURCE_KEY = [*_KEY, "source"]
_SAID = (
    *_KEY,
    *consensus.PRICES,
    "volume_shares",
    "n_sources",
    "n_agreed",
    "chosen_source",
    "volume_source",
    "flags",
)


@dataclass(frozen=True)
class SourceRows:
    """As-traded bars and actions of every source, members only, repairs in force carried out.

    ``bars`` has ``repaired``; ``actions`` has one row an action, of the most wanted source.
    """

    bars: pl.DataFrame
    actions: pl.DataFrame
    window: Sequence[date]
    inputs: list[ArtifactRef]


@dataclass(frozen=True)
class Agreement:
    """What the sources say together of some sessions.

    ``candidates`` are rows of core_market__daily_bar that nobody has judged, ``rejected`` rows of
    the quarantine, ``disagreements`` and ``cells`` rows of their contracts, ``weights`` the
    learned mean of each source at the last session, ``broken`` the sources that had no vote.
    """

    candidates: pl.DataFrame
    actions: pl.DataFrame
    rejected: pl.DataFrame
    disagreements: pl.DataFrame
    cells: pl.DataFrame
    weights: dict[str, float]
    broken: list[str]
    rows: SourceRows
    answers: pl.DataFrame


def read_sources(
    ctx: RunContext, sessions: Sequence[date], *, lookback_sessions: int
) -> SourceRows:
    """Read what every source said of the sessions and of those before them."""
    last = sessions[-1]
    window = ctx.history_window(last, len(sessions) + lookback_sessions)
    bars, bar_refs = ctx.read(CORE_MARKET_SOURCE_BAR, window, as_of=last)
    actions, action_refs = ctx.read(CORE_MARKET_SOURCE_ACTION, window, as_of=last)
    applied, repair_refs = repairs.in_force(ctx, window)
    members, member_refs = ctx.read(CORE_REFERENCE_UNIVERSE_MEMBER, window, as_of=last)
    benchmark = pl.col("symbol") == ctx.settings.market.benchmark
    # A span is fetched for everybody who was a member at any time of it.
    told = pl.concat([bars.filter(benchmark), bars.join(members, on=_KEY, how="semi")])
    # The very same row twice says nothing new.
    said = [name for name in told.columns if name != "repeat_no"]
    told = told.sort(*_SOURCE_KEY, "repeat_no").unique(said, keep="first", maintain_order=True)
    mended = applied.select(*_SOURCE_KEY).unique().with_columns(repaired=True)
    return SourceRows(
        repairs.repaired(told, applied)
        .join(mended, on=_SOURCE_KEY, how="left", maintain_order="left")
        .with_columns(pl.col("repaired").fill_null(value=False)),
        _most_wanted(ctx, actions),
        window,
        [*bar_refs, *action_refs, *member_refs, *repair_refs],
    )


def _most_wanted(ctx: RunContext, actions: pl.DataFrame) -> pl.DataFrame:
    """Return one row an ex-date, symbol and kind: that of the most wanted source that tells it."""
    places = {name: place for place, name in enumerate(ctx.settings.market.sources)}
    return (
        actions.with_columns(
            place=pl.col("source").replace_strict(
                places, default=len(places), return_dtype=pl.Int64
            )
        )
        .sort(*_KEY, "kind", "place")
        .unique([*_KEY, "kind"], keep="first", maintain_order=True)
        .drop("place")
    )


def agree(ctx: RunContext, partition: Partition, sessions: Sequence[date]) -> Agreement:
    """Return what the sources say together of a partition's sessions."""
    # One more than the consensus looks back: a move needs the consensus of the session before.
    rows = read_sources(ctx, sessions, lookback_sessions=consensus.LOOKBACK_SESSIONS + 1)
    answered = ctx.lake.ref(CORE_QUALITY_SOURCE_ANSWER, partition)
    answers = ctx.table(answered)
    rows.inputs.append(answered)
    own = pl.col("session").is_between(sessions[0], sessions[-1])
    judged, rejected = _judged(rows.bars, own, partition)
    broken = _broken(ctx, judged.filter(own))
    voting = judged.filter(pl.col("passed") & ~pl.col("source").is_in(broken))
    # What nobody else has goes before the gate as it is, so that the gate says what is wrong.
    lone = judged.filter(own, ~pl.col("passed")).join(voting, on=_KEY, how="anti")
    lone = lone.filter(pl.col("source") == _first_of(ctx, pl.col("source")).over(_KEY))
    found = None
    if not voting.is_empty():
        found = consensus.reconcile(
            voting,
            rows.actions,
            sessions=rows.window,
            thresholds_pct=ctx.settings.gates.thresholds_pct(),
            one_venue=ONE_VENUE,
            not_asked=answers.filter(~pl.col("outcome").is_in(["answered", "no_bar"])).select(
                "source", "symbol"
            ),
            preference=ctx.settings.market.sources,
        )
    through = _passed_through(lone)
    bars = pl.concat([_chosen(found, voting), through]) if found else through
    # What the gate is given, it says itself.
    rejected = (
        rejected.with_columns(source=pl.col("row_json").str.json_path_match("$.source"))
        .join(lone, on=_SOURCE_KEY, how="anti", maintain_order="left")
        .drop("source")
    )
    return Agreement(
        candidates=_candidates(ctx, bars, rows).filter(own),
        actions=_actions(ctx, rows.actions.filter(own)),
        rejected=rejected,
        disagreements=_disagreements(found, sessions, kept_out=judged.filter(~pl.col("passed"))),
        cells=_cells(found, sessions),
        weights=dict(
            found.weights.filter(pl.col("session") == sessions[-1])
            .select("source", "weight")
            .rows()
        )
        if found
        else {},
        broken=broken,
        rows=rows,
        answers=answers,
    )


def _judged(
    bars: pl.DataFrame, own: pl.Expr, partition: Partition
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Add ``passed`` to every bar; return also the quarantine rows of the partition's own."""
    names = [item.name for item in CORE_MARKET_SOURCE_BAR.fields]
    parts, quarantined = [], pl.DataFrame()
    for mine in (False, True):
        part = bars.filter(own if mine else ~own)
        verdict = judge_fast(CORE_MARKET_SOURCE_BAR, part.select(names), partition=partition)
        passed = np.ones(part.height, dtype=np.bool_)
        for answer in verdict.answers:
            if answer.severity == "critical":
                passed[answer.rows] = False
        parts.append(part.with_columns(passed=pl.Series(passed)))
        quarantined = verdict.quarantined
    return pl.concat(parts), quarantined


def _broken(ctx: RunContext, judged: pl.DataFrame) -> list[str]:
    """Return the sources with so many rows that are no bars that none of theirs is trusted."""
    bad = judged.group_by("source").agg((~pl.col("passed")).mean().alias("fraction"))
    limit = ctx.settings.gates.max_quarantined_fraction
    broken = bad.filter(pl.col("fraction") > limit)["source"].sort().to_list()
    return [] if len(broken) == bad.height else broken


def _first_of(ctx: RunContext, source: pl.Expr) -> pl.Expr:
    order = list(ctx.settings.market.sources)
    return source.sort_by(source.replace_strict(order, range(len(order)), default=99)).first()


def _chosen(found: consensus.Consensus, voting: pl.DataFrame) -> pl.DataFrame:
    """Return the consensus's bars with what of them was made, and whether a repair is in them."""
    made = voting.select(*_SOURCE_KEY, "simulated_fields", "repaired")
    taken = found.bars.select(*_KEY, "taken_from", "volume_source")
    of_prices = (
        taken.explode("taken_from")
        .join(made, left_on=[*_KEY, "taken_from"], right_on=_SOURCE_KEY)
        .with_columns(
            pl.col("simulated_fields").list.eval(pl.element().filter(pl.element() != _VOLUME))
        )
    )
    of_volume = taken.join(made, left_on=[*_KEY, "volume_source"], right_on=_SOURCE_KEY)
    of_volume = of_volume.with_columns(
        pl.col("simulated_fields").list.eval(pl.element().filter(pl.element() == _VOLUME))
    )
    columns = [*_KEY, "simulated_fields", "repaired"]
    marks = (
        pl.concat([of_prices.select(columns), of_volume.select(columns)])
        .group_by(_KEY)
        .agg(
            pl.col("simulated_fields").list.explode().drop_nulls().unique().sort(),
            pl.any("repaired"),
        )
    )
    return (
        found.bars.select(_SAID)
        .join(marks, on=_KEY, how="left", maintain_order="left")
        .with_columns(pl.col("repaired").fill_null(value=False))
    )


def _passed_through(lone: pl.DataFrame) -> pl.DataFrame:
    """Return rows that have no vote as candidates, for the gate to refuse."""
    return lone.with_columns(
        n_sources=pl.lit(0, pl.Int64),
        n_agreed=pl.lit(0, pl.Int64),
        chosen_source=pl.col("source"),
        volume_source=pl.col("source"),
        flags=pl.lit([], pl.List(pl.String)),
    ).select(*_SAID, "simulated_fields", "repaired")


def _candidates(ctx: RunContext, bars: pl.DataFrame, rows: SourceRows) -> pl.DataFrame:
    """Return core_market__daily_bar rows: moves against the session before, and flags."""
    before = dict(zip(rows.window[1:], rows.window, strict=False))
    closes = bars.select(
        "symbol",
        pl.col("session").alias("_before"),
        pl.col("close_usd").alias("previous_close_usd"),
    ).unique(["symbol", "_before"], keep="none")
    bars = bars.with_columns(
        _before=pl.col("session").replace_strict(before, default=None, return_dtype=pl.Date)
    ).join(closes, on=["symbol", "_before"], how="left", maintain_order="left")
    spike_pct = ctx.settings.gates.spike_warning_pct
    bars = bars.with_columns(close_move_pct=prices.close_moves_pct(bars, rows.actions))
    flag = {
        "price_spike": pl.col("close_move_pct").abs() > spike_pct,
        "repaired": pl.col("repaired"),
    }
    marks = [pl.when(held).then(pl.lit(name)) for name, held in flag.items()]
    return bars.with_columns(
        flags=pl.concat_list("flags", pl.concat_list(marks).list.drop_nulls()),
        known_at_utc=_known_at(ctx, bars["session"]),
    ).select(item.name for item in CORE_MARKET_DAILY_BAR.fields)


def _actions(ctx: RunContext, actions: pl.DataFrame) -> pl.DataFrame:
    return actions.with_columns(known_at_utc=_known_at(ctx, actions["session"])).select(
        item.name for item in CORE_MARKET_CORPORATE_ACTION.fields
    )


def _known_at(ctx: RunContext, days: pl.Series) -> pl.Expr:
    known_at = {day: ctx.known_at(day) for day in days.unique()}
    kind = pl.Datetime("us", "UTC")
    if not known_at:
        return pl.lit(None, kind)
    return pl.col("session").replace_strict(known_at, return_dtype=kind)


def _disagreements(
    found: consensus.Consensus | None, sessions: Sequence[date], *, kept_out: pl.DataFrame
) -> pl.DataFrame:
    """Return the partition's disagreements; a bar that was kept out is not missing."""
    nothing = no_rows(CORE_QUALITY_DISAGREEMENT)
    if found is None:
        return nothing
    told = found.disagreements.rename({"class": "kind"}).filter(
        pl.col("session").is_between(sessions[0], sessions[-1])
    )
    absent = told.filter(pl.col("kind") == "missing_day").join(kept_out, on=_SOURCE_KEY, how="semi")
    told = told.join(absent, on=[*_SOURCE_KEY, "kind"], how="anti", maintain_order="left")
    return told.with_columns(pl.col("fields").fill_null([])).select(nothing.columns)


def _cells(found: consensus.Consensus | None, sessions: Sequence[date]) -> pl.DataFrame:
    """Return the provenance of the last session's cells."""
    nothing = no_rows(CORE_QUALITY_PROVENANCE)
    if found is None:
        return nothing
    cells = consensus.provenance(found, sessions[-1])
    return cells.with_columns(session=pl.lit(sessions[-1])).select(nothing.columns)
