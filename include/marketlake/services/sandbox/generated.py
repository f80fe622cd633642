"""The generated market: fully simulated shares and index, up to any session.

Returns follow one market factor plus a part of each share's own. A longer history never changes
a shorter one's values. What does not belong here: anything real.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache

import numpy as np

from marketlake.calendars import Calendar
from marketlake.services.sandbox.bars import (
    ACTION_SIMULATED,
    EQUITY_SIMULATED,
    simulate_equity,
    simulate_index,
)
from marketlake.services.sandbox.corporate_actions import simulate_actions
from marketlake.services.sandbox.counter_random import Days, Floats, constant, normal
from marketlake.services.sandbox.world import Dates, Series, World

_MARKET_DRIFT, _MARKET_MOVE = 0.0003, 0.010
_OWN_DRIFT, _OWN_MOVE = 0.0001, 0.014


def generated_world(
    seed: int, *, symbols: Sequence[str], benchmark: str, calendar: Calendar, first: date
) -> World:
    """Build the generated market; the same seed gives the same market."""
    members = frozenset(symbols)

    @lru_cache(maxsize=4 * len(members) + 4)
    def until(symbol: str, year: int) -> Series:
        sessions = np.asarray(calendar.sessions(first, date(year, 12, 31)), dtype="datetime64[D]")
        if symbol == benchmark:
            return _index(seed, symbol, sessions)
        return _share(seed, symbol, sessions)

    def market(symbol: str, known: date) -> Series | None:
        if symbol != benchmark and symbol not in members:
            return None
        # Whole years, so that a run of sessions shares one series.
        return until(symbol, max(known, first).year)

    return World(
        symbols=(*symbols, benchmark), first_session=first, last_session=None, market=market
    )


def _market_moves(seed: int, days: Days) -> Floats:
    return _MARKET_DRIFT + _MARKET_MOVE * normal(seed, "market", days)


def _index(seed: int, symbol: str, sessions: Dates) -> Series:
    close = 1000.0 * np.exp(np.cumsum(_market_moves(seed, sessions.astype(np.int64))))
    return simulate_index(
        seed, symbol, sessions, close, simulated=(*EQUITY_SIMULATED, "benchmark_close")
    )


def _share(seed: int, symbol: str, sessions: Dates) -> Series:
    days = sessions.astype(np.int64)
    beta = 0.5 + constant(seed, f"{symbol}/beta")
    own = _OWN_DRIFT + _OWN_MOVE * normal(seed, f"{symbol}/own", days)
    level = 25.0 + 100.0 * constant(seed, f"{symbol}/level")
    adjusted = level * np.exp(np.cumsum(beta * _market_moves(seed, days) + own))
    actions = simulate_actions(seed, symbol, sessions, adjusted)
    return simulate_equity(
        seed,
        symbol,
        sessions,
        adjusted,
        actions=actions,
        factors=actions.factors(len(sessions)),
        simulated=(*EQUITY_SIMULATED, *ACTION_SIMULATED, "adjusted_close"),
    )
