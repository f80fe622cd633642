"""Ask one source for a span of sessions, and stage what it said: raw, and brought to as-traded.

A source that fails is dropped for the run with its reason, as long as another one is configured;
the only one there is raises, and its task is retried. What does not belong: publishing, and any
judgement of the bars.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date

import polars as pl

from marketlake.clock import sleep_s, utc_now
from marketlake.contracts.catalog import (
    CORE_MARKET_SOURCE_ACTION,
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_SOURCE_ANSWER,
    contract,
)
from marketlake.contracts.model import Contract
from marketlake.domain import consensus, prices
from marketlake.errors import ConfigError, EmptyAnswer, MarketlakeError, NotFound
from marketlake.pipelines.context import RunContext
from marketlake.sources.availability import Turn, take_turn
from marketlake.sources.catalog import configured, open_source
from marketlake.sources.history import (
    SourceHistory,
    no_actions,
    no_bars,
    response_frame,
)
from marketlake.sources.recording import VendorCall
from marketlake.sources.source import Answers, Source
from marketlake.storage.source_state import SourceStates
from marketlake.types import ArtifactRef, Partition

logger = logging.getLogger(__name__)
_TOLD_EVERY = 50
_OVER_BUDGET = "beyond the day's call budget"
_LONGEST_WAIT_S = 60.0


def raw_contract(source: str, what: str) -> Contract:
    """Return ``raw_<source>__response``, ``__daily_bar`` or ``__action``."""
    return contract(f"raw_{source}__{what}")


@dataclass
class Talk:
    """What one source said about some symbols: a history or an outcome and its reason each."""

    source: Source
    histories: dict[str, SourceHistory] = field(default_factory=dict)
    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)
    errors: dict[str, MarketlakeError] = field(default_factory=dict)

    def left(self, error: MarketlakeError, symbols: Sequence[str], outcome: str) -> None:
        """Note why symbols have no history."""
        for symbol in symbols:
            self.outcomes[symbol] = outcome, f"{type(error).__name__}: {error.was}"
            self.errors[symbol] = error


def ask(ctx: RunContext, name: str, symbols: Sequence[str], first: date, last: date) -> Talk:
    """Ask a source for symbols from ``first`` to ``last``; every call goes into the ledger.

    Raises
    ------
    MarketlakeError
        When no other source is configured: what the vendor's answer was refused as, EmptyAnswer
        when it has no bar of any symbol. ConfigError for a benchmark that it does not know.
    """
    source = open_source(name, ctx.settings)
    talk = Talk(source)
    if source.not_configured is not None:
        reason = f"{source.not_configured}: not set"
        talk.outcomes = dict.fromkeys(symbols, ("not_configured", reason))
        return talk
    alone = configured(ctx.settings) == (name,)
    wanted = _listed(ctx, source, symbols)
    # The sandbox has vendors of its own for each session: what one spent says nothing of another.
    keeper = SourceStates(ctx.warehouse) if ctx.settings.mode == "live" and not alone else None
    with take_turn(
        source, wanted, at=utc_now(), settings=ctx.settings.availability, keeper=keeper
    ) as turn:
        talk.outcomes |= dict.fromkeys(turn.left, ("not_asked", turn.refusal or _OVER_BUDGET))
        wanted = turn.symbols
        if wanted:
            ctx.record_secret_access(source.credentials, purpose=f"calls to {source.vendor}")
        # A second look at what failed, after everything else: most weather has passed by then.
        for _ in range(2):
            _ask_each(ctx, talk, turn, wanted, first, last, alone=alone)
            wanted = [symbol for symbol in wanted if talk.outcomes[symbol][0] == "failed"]
            if turn.refusal or not wanted:
                break
    answered = any(history.bars.height for history in talk.histories.values())
    if alone and talk.outcomes and not answered:
        raise EmptyAnswer(
            expected=f"a bar for at least one of {', '.join(symbols)}",
            was="; ".join(
                f"{symbol}: {talk.errors[symbol].was if symbol in talk.errors else 'no bar'}"
                for symbol in symbols
            ),
            where=f"{name}, {first} to {last}",
            todo="see whether the vendor has the session by now, then clear the task; "
            "or correct the symbols of MARKETLAKE_MARKET__UNIVERSE_FILE",
        )
    for symbol, (outcome, reason) in talk.outcomes.items():
        if outcome != "answered":
            ctx.ledger.record(
                "decision",
                name="symbol_left_out",
                vendor=name,
                symbol=symbol,
                outcome=outcome,
                reason=reason,
            )
    return talk


def _listed(ctx: RunContext, source: Source, symbols: Sequence[str]) -> list[str]:
    """Return the symbols of the kinds that the source lists."""
    benchmark = ctx.settings.market.benchmark
    return [
        symbol
        for symbol in symbols
        if ("index" if symbol == benchmark else "equity") in source.kinds
    ]


def _ask_each(
    ctx: RunContext,
    talk: Talk,
    turn: Turn,
    wanted: Sequence[str],
    first: date,
    last: date,
    *,
    alone: bool,
) -> None:
    """Ask for each symbol, several at once where the vendor takes several."""
    source, done, broke = talk.source, 0, ""
    for start in range(0, len(wanted), source.plan.symbols_a_call):
        chunk = wanted[start : start + source.plan.symbols_a_call]
        if turn.refusal is not None:
            # Not until when: content has no wall clock in it.
            talk.outcomes |= dict.fromkeys(chunk, ("failed", f"dropped for this run: {broke}"))
            continue
        wait_s = turn.wait_s(utc_now())
        if wait_s > _LONGEST_WAIT_S:
            # The day's calls are spent, and a second look does not wait for tomorrow.
            spent = dict.fromkeys(wanted[start:], ("not_asked", _OVER_BUDGET))
            talk.outcomes = spent | talk.outcomes
            return
        sleep_s(wait_s)
        calls: list[VendorCall] = []
        try:
            answers = _fetch(ctx, source, chunk, first, last, calls)
        except MarketlakeError as error:
            turn.failed(error, utc_now(), calls=len(calls))
            if alone:
                raise
            talk.left(error, chunk, "failed")
            _, broke = talk.outcomes[chunk[0]]
            continue
        turn.answered(utc_now(), calls=len(calls))
        for symbol, refusal in answers.left_out.items():
            _require_known_benchmark(ctx, source.name, symbol, refusal)
            talk.left(refusal, [symbol], "no_bar")
        talk.histories |= answers.histories
        talk.outcomes |= {
            symbol: ("answered", "") if history.bars.height else ("no_bar", "none in its answer")
            for symbol, history in answers.histories.items()
        }
        done += len(chunk)
        if len(wanted) > _TOLD_EVERY and done % _TOLD_EVERY < len(chunk):
            logger.info("%s: %d of %d symbols", source.name, done, len(wanted))


def _fetch(
    ctx: RunContext,
    source: Source,
    symbols: Sequence[str],
    first: date,
    last: date,
    calls: list[VendorCall],
) -> Answers:
    try:
        return source.fetch(
            symbols,
            first,
            last,
            as_of=vendor_as_of(ctx, last),
            calendar=ctx.calendar,
            # Kept first: an error of the ledger inside a client would read as the vendor's.
            on_call=calls.append,
        )
    finally:
        for call in calls:
            ctx.ledger.record(
                "vendor_call", vendor=source.name, symbol=",".join(symbols), **asdict(call)
            )


def _require_known_benchmark(
    ctx: RunContext, name: str, symbol: str, error: EmptyAnswer | NotFound
) -> None:
    if isinstance(error, NotFound) and symbol == ctx.settings.market.benchmark:
        raise ConfigError(
            expected="a benchmark that the vendor knows",
            was=error.was,
            where=f"{name}, {symbol}",
            todo="correct MARKETLAKE_MARKET__BENCHMARK",
        ) from error


def vendor_as_of(ctx: RunContext, last: date) -> date:
    """Return the session up to which the vendor knows splits: the sandbox's clock, or today's."""
    if ctx.settings.mode == "sandbox":
        return last
    return max(last, ctx.calendar.latest_closed(utc_now()))


def stage(
    ctx: RunContext, talk: Talk, spans: Mapping[Partition, Sequence[date]], *, part: str
) -> list[ArtifactRef]:
    """Stage what a source said, one ``part`` of each partition of the span it was asked for.

    The answers themselves belong to the last partition: one may be about all of them.
    """
    frames = _Frames.of(ctx, talk)
    refs = []
    *_, newest = spans
    for partition, sessions in spans.items():
        refs += [
            ctx.stage(declared, partition, part, frame)
            for declared, frame in frames.of_sessions(sessions, is_newest=partition == newest)
        ]
    return refs


@dataclass(frozen=True)
class _Frames:
    """A source's answer as the rows of its contracts, of the whole span."""

    name: str
    not_configured: bool
    outcomes: Mapping[str, tuple[str, str]]
    responses: pl.DataFrame
    bars: pl.DataFrame
    actions: pl.DataFrame
    source_bars: pl.DataFrame
    source_actions: pl.DataFrame

    @classmethod
    def of(cls, ctx: RunContext, talk: Talk) -> _Frames:
        source, histories = talk.source, list(talk.histories.values())
        bars = pl.concat([no_bars(), *(item.bars for item in histories)])
        # What the vendor repeats is kept: which of two rows is meant is not for us to say here.
        numbered = bars.with_columns(repeat_no=pl.int_range(pl.len()).over("session", "symbol"))
        actions = pl.concat(
            [
                no_actions(),
                *(frame for item in histories for frame in (item.actions, item.later_splits)),
            ]
        )
        numbered = _with_known_at(ctx, source, numbered)
        as_traded, own = _as_traded(source, numbered, _with_known_at(ctx, source, actions))
        return cls(
            source.name,
            source.not_configured is not None,
            talk.outcomes,
            response_frame([row for item in histories for row in item.responses]),
            numbered,
            actions,
            as_traded,
            own,
        )

    def of_sessions(
        self, sessions: Sequence[date], *, is_newest: bool
    ) -> Iterator[tuple[Contract, pl.DataFrame]]:
        """Yield each contract's rows of a partition's sessions."""
        yield (
            CORE_QUALITY_SOURCE_ANSWER,
            pl.DataFrame(
                [
                    (sessions[-1], self.name, symbol, outcome, reason)
                    for symbol, (outcome, reason) in sorted(self.outcomes.items())
                ],
                schema={
                    "session": pl.Date,
                    **dict.fromkeys(("source", "symbol", "outcome", "reason"), pl.String),
                },
                orient="row",
            ),
        )
        if self.not_configured:
            return
        inside = pl.col("session").is_between(sessions[0], sessions[-1])
        # Splits after these sessions that the vendor has already applied are kept with their own
        # actions: without them the prices could not be brought back to as-traded levels.
        later = (pl.col("session") > sessions[-1]) & (pl.col("kind") == "split")
        yield (
            raw_contract(self.name, "response"),
            self.responses if is_newest else response_frame(),
        )
        yield raw_contract(self.name, "daily_bar"), self.bars.filter(inside)
        yield raw_contract(self.name, "action"), self.actions.filter(inside | later)
        yield CORE_MARKET_SOURCE_BAR, self.source_bars.filter(inside)
        yield CORE_MARKET_SOURCE_ACTION, self.source_actions.filter(inside)


def _with_known_at(ctx: RunContext, source: Source, rows: pl.DataFrame) -> pl.DataFrame:
    lag = source.semantics.lag_minutes
    known_at = {day: ctx.calendar.known_by(day, lag) for day in rows["session"].unique()}
    kind = pl.Datetime("us", "UTC")
    stamps = pl.col("session").replace_strict(known_at, return_dtype=kind)
    return rows.with_columns(known_at_utc=stamps if known_at else pl.lit(None, kind))


def _as_traded(
    source: Source, bars: pl.DataFrame, actions: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return a source's bars and actions as they traded in their own sessions."""
    named, told = bars.with_columns(source=pl.lit(source.name)), actions
    days = [*bars["session"], *actions["session"]]
    if source.semantics.basis != "as_traded" and days:
        named = consensus.normalise(
            named, actions, semantics={source.name: source.semantics}, as_of=max(days)
        )
        told = prices.unadjust_dividends(actions, actions)
    return (
        named.select(item.name for item in CORE_MARKET_SOURCE_BAR.fields),
        told.with_columns(source=pl.lit(source.name)).select(
            item.name for item in CORE_MARKET_SOURCE_ACTION.fields
        ),
    )
