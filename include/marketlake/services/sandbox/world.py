"""A market that never changes, and views of it as a vendor knew it at a session.

A :class:`Series` holds as-traded bars and every action; a :class:`View` is what is visible at one
session: rows up to it, prices divided by the splits known by then, adjusted closes by the splits
and dividends known by then. What does not belong here: where bars come from, and wire formats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import numpy as np
import numpy.typing as npt

from marketlake.services.sandbox.counter_random import Floats

Dates = npt.NDArray[np.datetime64]


@dataclass(frozen=True)
class Series:
    """One instrument's whole history, as traded; arrays are one entry a session.

    ``given_adj_close`` is a history's own adjusted close, used when its actions are not known.
    """

    symbol: str
    kind: Literal["equity", "index"]
    sessions: Dates
    open_usd: Floats
    high_usd: Floats
    low_usd: Floats
    close_usd: Floats
    volume_shares: Floats
    split_sessions: Dates
    split_ratios: Floats
    dividend_sessions: Dates
    dividends_usd: Floats
    simulated: tuple[str, ...] = ()
    given_adj_close: Floats | None = None


@dataclass(frozen=True)
class View:
    """What a vendor shows of one instrument at the session ``known``.

    Prices, volumes and dividends are split-adjusted as of ``known``; NaN means the vendor has no
    value.
    """

    symbol: str
    kind: Literal["equity", "index"]
    known: date
    sessions: Dates
    open_usd: Floats
    high_usd: Floats
    low_usd: Floats
    close_usd: Floats
    adj_close_usd: Floats
    volume_shares: Floats
    split_sessions: Dates
    split_ratios: Floats
    dividend_sessions: Dates
    dividends_usd: Floats
    simulated: tuple[str, ...]
    currency: str = "USD"

    def rows(self, keep: npt.NDArray[np.bool_]) -> View:
        """Return the view with only the bars where ``keep`` is true; actions stay."""
        return self.bars_at(np.flatnonzero(keep))

    def bars_at(self, positions: npt.NDArray[np.int64]) -> View:
        """Return the view with the bars at these positions, in this order; actions stay."""
        return replace(
            self,
            sessions=self.sessions[positions],
            open_usd=self.open_usd[positions],
            high_usd=self.high_usd[positions],
            low_usd=self.low_usd[positions],
            close_usd=self.close_usd[positions],
            adj_close_usd=self.adj_close_usd[positions],
            volume_shares=self.volume_shares[positions],
        )

    def as_traded(self) -> View:
        """Return the view with its splits taken out of prices, volumes and dividends again."""
        ratio = _product_after(self.sessions, self.split_sessions, self.split_ratios)
        before_ex = self.dividend_sessions - np.timedelta64(1, "D")
        return replace(
            self,
            open_usd=self.open_usd * ratio,
            high_usd=self.high_usd * ratio,
            low_usd=self.low_usd * ratio,
            close_usd=self.close_usd * ratio,
            volume_shares=np.rint(self.volume_shares / ratio),
            dividends_usd=self.dividends_usd
            * _product_after(before_ex, self.split_sessions, self.split_ratios),
        )

    def totalled(self) -> View:
        """Return the view with prices and volumes adjusted as its adjusted close is."""
        factor = self.adj_close_usd / self.close_usd
        return replace(
            self,
            open_usd=self.open_usd * factor,
            high_usd=self.high_usd * factor,
            low_usd=self.low_usd * factor,
            close_usd=self.adj_close_usd,
            volume_shares=np.rint(self.volume_shares / factor),
        )


Market = Callable[[str, date], Series | None]
"""Gives a symbol's series, complete at least up to a session; None for an unknown symbol."""


@dataclass(frozen=True)
class World:
    """A read-only market: its symbols, its last session (None: any), and views of it."""

    symbols: tuple[str, ...]
    first_session: date
    last_session: date | None
    market: Market

    @classmethod
    def of(cls, series: Mapping[str, Series]) -> World:
        """Build a world from complete series."""
        return cls(
            symbols=tuple(series),
            first_session=min(item.sessions[0] for item in series.values()).item(),
            last_session=max(item.sessions[-1] for item in series.values()).item(),
            market=lambda symbol, _: series.get(symbol),
        )

    def view(self, symbol: str, known: date) -> View | None:
        """Return what is known of a symbol at a session; None when the symbol does not exist."""
        series = self.market(symbol, known)
        return None if series is None else view_of(series, known)


def view_of(series: Series, known: date) -> View:
    """Return a series as it was known at one session."""
    end = int(np.searchsorted(series.sessions, np.datetime64(known), side="right"))
    sessions = series.sessions[:end]
    splits = series.split_sessions <= np.datetime64(known)
    split_sessions, split_ratios = series.split_sessions[splits], series.split_ratios[splits]
    paid = series.dividend_sessions <= np.datetime64(known)
    dividend_sessions, dividends = series.dividend_sessions[paid], series.dividends_usd[paid]
    ratio = _product_after(sessions, split_sessions, split_ratios)
    close = series.close_usd[:end] / ratio
    return View(
        symbol=series.symbol,
        kind=series.kind,
        known=known,
        sessions=sessions,
        open_usd=series.open_usd[:end] / ratio,
        high_usd=series.high_usd[:end] / ratio,
        low_usd=series.low_usd[:end] / ratio,
        close_usd=close,
        adj_close_usd=_adjusted(series, sessions, close, dividend_sessions, dividends),
        volume_shares=np.rint(series.volume_shares[:end] * ratio),
        split_sessions=split_sessions,
        split_ratios=split_ratios,
        dividend_sessions=dividend_sessions,
        # A dividend is per share before its ex-date, so a split of that very day divides it too.
        dividends_usd=dividends
        / _product_after(dividend_sessions - np.timedelta64(1, "D"), split_sessions, split_ratios),
        simulated=series.simulated,
    )


def _adjusted(
    series: Series, sessions: Dates, close: Floats, ex_sessions: Dates, dividends: Floats
) -> Floats:
    if series.given_adj_close is not None:
        given = series.given_adj_close[: len(sessions)]
        known = np.flatnonzero(np.isfinite(given) & np.isfinite(close))
        # The file's own adjustment knows its whole span; scaled to the last visible close it
        # knows no more than that session did.
        scale = close[known[-1]] / given[known[-1]] if known.size else 1.0
        return np.asarray(given * scale, dtype=np.float64)
    before = np.searchsorted(series.sessions, ex_sessions, side="left") - 1
    inside = before >= 0
    factors = 1.0 - dividends[inside] / series.close_usd[before[inside]]
    return close * _product_after(sessions, ex_sessions[inside], factors)


def _product_after(sessions: Dates, ex_sessions: Dates, factors: Floats) -> Floats:
    """Return for each session the product of the factors whose ex-date is after it."""
    ahead = np.append(np.cumprod(factors[::-1])[::-1], 1.0)
    return np.asarray(ahead[np.searchsorted(ex_sessions, sessions, side="right")])
