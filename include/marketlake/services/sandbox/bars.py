"""Seeded opens, highs, lows and volumes around given closes.

Each value depends on that session's close and the one before, never on a later one. What does not
belong here: closes and actions.
"""

from __future__ import annotations

import numpy as np

from marketlake.services.sandbox.corporate_actions import Actions
from marketlake.services.sandbox.counter_random import Floats, constant, normal, uniform
from marketlake.services.sandbox.world import Dates, Series

_GAP = 0.004
_RANGE = 0.006
_LOT = 100.0

EQUITY_SIMULATED = ("open_usd", "high_usd", "low_usd", "close_usd", "volume_shares")
INDEX_SIMULATED = ("open_usd", "high_usd", "low_usd", "volume_shares")
ACTION_SIMULATED = ("split_ratio", "dividend_usd")


def simulate_equity(
    seed: int,
    symbol: str,
    sessions: Dates,
    adjusted: Floats,
    *,
    actions: Actions,
    factors: Floats,
    simulated: tuple[str, ...],
) -> Series:
    """Return the as-traded series of a share; ``factors`` turn adjusted closes into as-traded."""
    close = adjusted * factors
    open_, high, low, volume = _around(seed, symbol, sessions, close, adjusted)
    before = close[actions.dividend_positions - 1]
    return Series(
        symbol=symbol,
        kind="equity",
        sessions=sessions,
        open_usd=open_,
        high_usd=high,
        low_usd=low,
        close_usd=close,
        volume_shares=volume,
        split_sessions=sessions[actions.split_positions],
        split_ratios=actions.split_ratios,
        dividend_sessions=sessions[actions.dividend_positions],
        dividends_usd=actions.yields * before,
        simulated=simulated,
    )


def simulate_index(
    seed: int, symbol: str, sessions: Dates, close: Floats, *, simulated: tuple[str, ...]
) -> Series:
    """Return the series of an index: no actions, closes as they are."""
    open_, high, low, volume = _around(seed, symbol, sessions, close, close)
    nothing: Dates = np.empty(0, dtype="datetime64[D]")
    return Series(
        symbol=symbol,
        kind="index",
        sessions=sessions,
        open_usd=open_,
        high_usd=high,
        low_usd=low,
        close_usd=close,
        volume_shares=volume,
        split_sessions=nothing,
        split_ratios=np.empty(0),
        dividend_sessions=nothing,
        dividends_usd=np.empty(0),
        simulated=simulated,
    )


def _around(
    seed: int, symbol: str, sessions: Dates, close: Floats, adjusted: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    days = sessions.astype("datetime64[D]").astype(np.int64)
    moved = np.diff(np.log(adjusted), prepend=np.log(adjusted[0]))
    # The open lies somewhere on the way from the day before, give or take a little.
    way = uniform(seed, f"{symbol}/open", days)
    open_ = close * np.exp(_GAP * normal(seed, f"{symbol}/gap", days) - way * moved)
    above = np.exp(_RANGE * np.abs(normal(seed, f"{symbol}/high", days)))
    below = np.exp(-_RANGE * np.abs(normal(seed, f"{symbol}/low", days)))
    usual = 2e6 * np.exp(2.5 * constant(seed, f"{symbol}/volume"))
    busy = np.exp(0.3 * normal(seed, f"{symbol}/volume", days)) * (1.0 + 12.0 * np.abs(moved))
    volume = _LOT * np.ceil(usual * busy / _LOT)
    return open_, np.maximum(open_, close) * above, np.minimum(open_, close) * below, volume
