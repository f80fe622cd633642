"""The rules over a history at once, or over one session after the other, with the same findings.

What does not belong: the rules, and repair.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import cast

import polars as pl

from marketlake.calendars import Calendar
from marketlake.domain.integrity import gaps, rules
from marketlake.domain.integrity.findings import gathered
from marketlake.domain.integrity.gaps import HALT_SCHEMA, LISTING_SCHEMA
from marketlake.domain.integrity.measures import (
    KEY,
    MEMORY,
    SERIES,
    Basis,
    days,
    measured,
    require_bars,
    whole,
)
from marketlake.domain.integrity.rules import Limits
from marketlake.errors import ContractViolation

ACTION_SCHEMA = {
    "session": pl.Date,
    "symbol": pl.String,
    "split_ratio": pl.Float64,
    "dividend_usd": pl.Float64,
}


@dataclass(frozen=True)
class Reference:
    """What the bars are judged against.

    ``actions`` (:data:`ACTION_SCHEMA`), ``listings`` and ``halts`` may hold rows of later sessions;
    only actions with an ex-date up to a session count for it. Without a calendar (markets that
    never close, bars within a day) absent bars are not looked for. ``basis`` says whether splits
    show in the prices.
    """

    calendar: Calendar | None = None
    actions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ACTION_SCHEMA))
    listings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=LISTING_SCHEMA))
    halts: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=HALT_SCHEMA))
    basis: Basis = "split_adjusted"
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class State:
    """What the feed remembers: the last bars of each series, and the sessions each was seen on."""

    bars: pl.DataFrame | None = None
    seen: pl.DataFrame | None = None
    last_session: date | None = None


def detect(
    bars: pl.DataFrame, reference: Reference, *, first: date | None = None, last: date | None = None
) -> pl.DataFrame:
    """Return every finding about a history of bars.

    Parameters
    ----------
    bars
        ``session``, ``symbol``, ``source``, ``open_usd``, ``high_usd``, ``low_usd``, ``close_usd``,
        ``volume_shares`` and, where the vendor has it, ``adj_close_usd``; all sources together,
        since one may confirm the other.
    reference
        Calendar, actions, listings, halts, basis and limits.
    first, last
        The sessions between which bars are expected; by default those of the first and last bar.

    Returns
    -------
    polars.DataFrame
        Rows of ``FINDING_SCHEMA``. A finding depends on nothing after its ``known_on``.
    """
    require_bars(bars)
    if bars.is_empty() and first is None:
        return gathered([])
    found = []
    first = first or cast(date, bars["session"].min())
    last = last or cast(date, bars["session"].max())
    if reference.calendar is not None:
        sessions = pl.DataFrame({"session": reference.calendar.sessions(first, last)})
        found.append(_absent(bars.select(KEY), sessions, reference, reference.calendar))
    return gathered([*found, *_present(bars, reference)])


def step(
    state: State, session: date, bars: pl.DataFrame, reference: Reference
) -> tuple[State, pl.DataFrame]:
    """Return the state after one session, and what can be found at its close.

    Called session after session, from an empty ``State()`` or from what :func:`remember` made of a
    history, it finds exactly what :func:`detect` does. ``bars`` are all that came of the session,
    of any number of symbols and sources, none included; bars of days on which the exchange is
    closed come as a session of their own.
    """
    require_bars(bars)
    if bars.filter(pl.col("session") != session).height or (
        state.last_session is not None and session <= state.last_session
    ):
        raise ContractViolation(
            expected=f"bars of {session} alone, after {state.last_session}",
            was=f"bars of {bars['session'].unique().sort().to_list()[:3]}",
            where="domain.integrity.step",
            todo="feed sessions in order; a late bar belongs to a new run over the history",
        )
    known = bars if state.bars is None else pl.concat([state.bars, bars], how="diagonal")
    found = _present(known, reference, pl.col("session") == session)
    seen = bars.select(KEY) if state.seen is None else pl.concat([state.seen, bars.select(KEY)])
    calendar = reference.calendar
    if calendar is not None and calendar.is_session(session):
        found.append(_absent(seen, pl.DataFrame({"session": [session]}), reference, calendar))
    return _remembered(known, seen, session, calendar), gathered(found)


def remember(bars: pl.DataFrame, reference: Reference) -> State:
    """Return the state after a history, so that :func:`step` can go on from there."""
    require_bars(bars)
    last = cast(date, bars["session"].max())
    return _remembered(bars, bars.select(KEY), last, reference.calendar)


def _remembered(
    bars: pl.DataFrame, seen: pl.DataFrame, last_session: date, calendar: Calendar | None
) -> State:
    if calendar is not None:
        seen = seen.join(days(calendar), on="session", how="semi")
    ends = [seen.group_by(SERIES).agg(end("session")).select(KEY) for end in (pl.min, pl.max)]
    usable = _first_of_each(bars, calendar).filter(whole()).sort("session", maintain_order=True)
    kept = usable.group_by(SERIES, maintain_order=True).tail(MEMORY).select(bars.columns)
    return State(kept, pl.concat(ends).unique(), last_session)


def _present(
    bars: pl.DataFrame, reference: Reference, judged: pl.Expr | None = None
) -> list[pl.DataFrame]:
    """Return what the bars themselves show; of the ``judged`` rows alone, if given."""
    judged = pl.lit(value=True) if judged is None else judged
    new = bars.filter(judged)
    found = [rules.duplicates(new)]
    if reference.calendar is not None:
        found.append(gaps.closed_days(new, reference.calendar))
    single = _first_of_each(bars, reference.calendar)
    rows = rules.twins(
        measured(
            single.filter(whole()), reference.actions, reference.calendar, basis=reference.basis
        )
    )
    splits = reference.actions.filter(pl.col("split_ratio").is_not_null())
    limits = reference.limits
    rows = rules.judged_moves(rows.filter(judged), splits, limits)
    return [
        *found,
        *rules.values(single.filter(judged)),
        *rules.repeats(rows),
        rules.identities(rows),
        *rules.volumes(rows, limits),
        *rules.prices(rows, limits),
        *rules.dividends(rows),
    ]


def _first_of_each(bars: pl.DataFrame, calendar: Calendar | None) -> pl.DataFrame:
    """Return the first bar of each key, on days on which the exchange trades."""
    if calendar is not None:
        bars = bars.join(days(calendar), on="session", how="semi", maintain_order="left")
    if not bars.select(KEY).is_duplicated().any():
        return bars
    return bars.unique(KEY, keep="first", maintain_order=True)


def _absent(
    there: pl.DataFrame, sessions: pl.DataFrame, reference: Reference, calendar: Calendar
) -> pl.DataFrame:
    return gaps.absences(
        there,
        sessions,
        listings=reference.listings,
        halts=reference.halts,
        calendar=calendar,
        limits=reference.limits,
    )
