"""Fetch a session's bars and actions from each vendor, and land them as they came.

The same three steps serve a session and a year of history: plan, fetch (side by side), publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import date

import polars as pl

from marketlake.clock import utc_now
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_REFERENCE_INSTRUMENT,
    CORE_REFERENCE_UNIVERSE_MEMBER,
    RAW_YAHOO_ACTION,
    RAW_YAHOO_DAILY_BAR,
    RAW_YAHOO_RESPONSE,
)
from marketlake.errors import ConfigError, EmptyAnswer, NotFound
from marketlake.pipelines import universe
from marketlake.pipelines.context import RunContext
from marketlake.sources.history import SourceHistory
from marketlake.sources.recording import VendorCall
from marketlake.sources.yahoo import fetch_history
from marketlake.types import ArtifactRef, Partition

RAW_CONTRACTS: tuple[Contract, ...] = (RAW_YAHOO_RESPONSE, RAW_YAHOO_DAILY_BAR, RAW_YAHOO_ACTION)


def plan(ctx: RunContext, session: date) -> list[list[str]]:
    """Return the symbols to fetch, in batches of one task each."""
    market = ctx.settings.market
    if not market.first_session <= session <= (market.last_session or session):
        raise ConfigError(
            expected=f"a session from {market.first_session} to {market.last_session or 'today'}",
            was=str(session),
            where="MARKETLAKE_MARKET__FIRST_SESSION and __LAST_SESSION",
            todo="run a session of the market, or change where the market begins or ends",
        )
    ctx.calendar.require_due(session, utc_now(), delay_minutes=market.publish_delay_minutes)
    symbols = universe.symbols_over(market, [session])
    size = ctx.settings.yahoo.batch_symbols
    return [symbols[start : start + size] for start in range(0, len(symbols), size)]


def fetch(
    ctx: RunContext, session: date, *, symbols: Sequence[str], batch: int
) -> list[ArtifactRef]:
    """Fetch one batch of symbols for one session and stage it."""
    return fetch_span(
        ctx, Partition.of_session(session), [session], symbols=symbols, part=f"batch-{batch:03d}"
    )


def fetch_span(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    *,
    symbols: Sequence[str],
    part: str,
) -> list[ArtifactRef]:
    """Fetch symbols over the sessions of a partition and stage responses, bars and actions.

    A symbol for which the vendor has no bar is left out (the gate reports it as missing); when
    that is so for every symbol, it is the vendor that is broken and EmptyAnswer is raised.
    """
    answers = {symbol: _fetch_symbol(ctx, symbol, sessions) for symbol in symbols}
    histories = [answer for answer in answers.values() if isinstance(answer, SourceHistory)]
    if not any(history.bars.height for history in histories):
        raise EmptyAnswer(
            expected=f"a bar for at least one of {', '.join(symbols)}",
            was="; ".join(
                f"{symbol}: {'no bar' if isinstance(answer, SourceHistory) else answer.was}"
                for symbol, answer in answers.items()
            ),
            where=f"yahoo, {sessions[0]} to {sessions[-1]}",
            todo="see whether the vendor has the session by now, then clear the task; "
            "or correct the symbols of MARKETLAKE_MARKET__UNIVERSE_FILE",
        )
    known_at = pl.DataFrame(
        {
            "session": list(sessions),
            "known_at_utc": [ctx.known_at(session) for session in sessions],
        }
    ).with_columns(pl.col("known_at_utc").dt.cast_time_unit("us"))
    frames: dict[str, pl.DataFrame] = {
        RAW_YAHOO_RESPONSE.name: _responses(histories),
        RAW_YAHOO_DAILY_BAR.name: pl.concat([item.bars for item in histories]).join(
            known_at, on="session", how="left"
        ),
        # Splits after the span that the vendor has already applied are kept with the span's own
        # actions: without them its prices could not be brought back to as-traded levels.
        RAW_YAHOO_ACTION.name: pl.concat(
            [frame for item in histories for frame in (item.actions, item.later_splits)]
        ),
    }
    return [
        ctx.stage(contract, partition, part, frames[contract.name]) for contract in RAW_CONTRACTS
    ]


def _fetch_symbol(
    ctx: RunContext, symbol: str, sessions: Sequence[date]
) -> SourceHistory | EmptyAnswer | NotFound:
    """Return a symbol's history, or why the vendor has none."""

    def record(call: VendorCall) -> None:
        ctx.ledger.record("vendor_call", vendor="yahoo", symbol=symbol, **asdict(call))

    try:
        return fetch_history(
            symbol,
            sessions[0],
            sessions[-1],
            as_of=_vendor_as_of(ctx, sessions[-1]),
            calendar=ctx.calendar,
            egress=ctx.settings.egress,
            settings=ctx.settings.yahoo,
            on_call=record,
        )
    except (EmptyAnswer, NotFound) as error:
        if isinstance(error, NotFound) and symbol == ctx.settings.market.benchmark:
            raise ConfigError(
                expected="a benchmark that the vendor knows",
                was=error.was,
                where=f"yahoo, {symbol}",
                todo="correct MARKETLAKE_MARKET__BENCHMARK",
            ) from error
        ctx.ledger.record("decision", name="symbol_left_out", symbol=symbol, reason=str(error))
        return error


def _vendor_as_of(ctx: RunContext, last: date) -> date:
    """Return the session up to which the vendor knows splits: the sandbox's clock, or today's."""
    if ctx.settings.mode == "sandbox":
        return last
    return max(last, ctx.calendar.latest_closed(utc_now()))


def _responses(histories: Sequence[SourceHistory]) -> pl.DataFrame:
    rows = [row for history in histories for row in history.responses]
    return pl.DataFrame(
        rows,
        schema={
            "symbol": pl.String,
            "request_no": pl.Int64,
            "method": pl.String,
            "url": pl.String,
            "status": pl.Int64,
            "body": pl.Binary,
            "body_sha256": pl.String,
        },
    )


def publish(
    ctx: RunContext, session: date, *, staged: Sequence[Sequence[ArtifactRef]]
) -> list[ArtifactRef]:
    """Publish the session's raw artifacts and reference data from the staged batches."""
    return publish_span(
        ctx,
        Partition.of_session(session),
        [session],
        staged=[ref for batch in staged for ref in batch],
    )


def publish_span(
    ctx: RunContext,
    partition: Partition,
    sessions: Sequence[date],
    *,
    staged: Sequence[ArtifactRef],
) -> list[ArtifactRef]:
    """Publish one partition's raw artifacts and reference data."""
    responses = ctx.publish(
        RAW_YAHOO_RESPONSE,
        partition,
        ctx.staged(RAW_YAHOO_RESPONSE, staged),
        sessions=sessions,
        parents=[],
    )
    raw = [
        ctx.publish(
            contract,
            partition,
            ctx.staged(contract, staged),
            sessions=sessions,
            parents=[responses],
        )
        for contract in (RAW_YAHOO_DAILY_BAR, RAW_YAHOO_ACTION)
    ]
    market = ctx.settings.market
    reference = [
        ctx.publish(contract, partition, frame, sessions=sessions, parents=[])
        for contract, frame in (
            (CORE_REFERENCE_INSTRUMENT, universe.instruments(market, sessions[-1])),
            (CORE_REFERENCE_UNIVERSE_MEMBER, universe.members_over(market, list(sessions))),
        )
    ]
    return [responses, *raw, *reference]
