"""The series that FRED publishes of a packaged or generated market, named after FRED's own.

Real: the S&P 500 of the packaged market, the VIX from 2014 to January 2019 and the oil price to
January 2019 (files of the arch package). All else is simulated. What does not belong here: shares.
"""

from __future__ import annotations

import csv
import gzip
import importlib.util
from dataclasses import replace
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from marketlake.services.sandbox.counter_random import Floats, normal
from marketlake.services.sandbox.world import Dates, Series, World

_PREFIX = "FRED/"
_MEMORY = 0.94
_RECORDED = {"VIXCLS": "vix", "DCOILWTICO": "wti"}
_LEVELS = {
    "DCOILWTICO": (60.0, 0.02),
    "DEXUSEU": (1.15, 0.005),
    "DGS2": (2.5, 0.02),
    "DGS10": (3.5, 0.015),
    "DTWEXBGS": (110.0, 0.003),
}
"""A simulated series' usual level, and the standard deviation of its logarithm's daily step."""

_PULL = 0.995


def series_name(name: str) -> str:
    """Return the market's name of one of FRED's series; no share is called so."""
    return f"{_PREFIX}{name}"


def with_macro(world: World, *, seed: int, benchmark: str) -> World:
    """Return a market that has FRED's series beside its symbols."""

    @lru_cache(maxsize=32)
    def made(name: str, until: int, known: date) -> Series | None:
        index = world.market(benchmark, known)
        return None if index is None else _series(seed, name, index)

    def market(symbol: str, known: date) -> Series | None:
        name = symbol.removeprefix(_PREFIX)
        if name == symbol:
            return world.market(symbol, known)
        # Whole years, as the generated market has them; any day of a year will do.
        return made(name, known.year, date(known.year, 1, 2))

    return replace(world, market=market)


def _series(seed: int, name: str, index: Series) -> Series | None:
    days = index.sessions
    simulated: tuple[str, ...] = ("close_usd",)
    if name == "SP500":
        real = "close_usd" not in index.simulated
        return _valued(name, index, index.close_usd, simulated=() if real else simulated)
    if name == "VIXCLS":
        values = _implied_volatility(seed, name, index)
    elif name in _LEVELS:
        values = _wandering(seed, name, days)
    else:
        return None
    if name in _RECORDED:
        real_days, recorded = _recorded(_RECORDED[name], name)
        known = np.isin(days, real_days)
        values[known] = recorded[np.searchsorted(real_days, days[known])]
        simulated = () if known.all() else simulated
    return _valued(name, index, np.round(values, 2), simulated=simulated)


def _valued(name: str, index: Series, values: Floats, *, simulated: tuple[str, ...]) -> Series:
    return replace(
        index,
        symbol=name,
        open_usd=values,
        high_usd=values,
        low_usd=values,
        close_usd=values,
        volume_shares=np.full(len(values), np.nan),
        simulated=simulated,
        given_adj_close=None,
    )


def _implied_volatility(seed: int, name: str, index: Series) -> Floats:
    """Return a fear gauge that follows the index's own recent volatility, in percent a year."""
    moves = np.diff(np.log(index.close_usd), prepend=np.log(index.close_usd[0]))
    variance = np.empty(len(moves))
    level = 1e-4
    for i, move in enumerate((moves * moves).tolist()):
        level = variance[i] = _MEMORY * level + (1.0 - _MEMORY) * move
    shake = np.exp(0.03 * normal(seed, name, index.sessions.astype(np.int64)))
    return np.asarray(110.0 * np.sqrt(252.0 * variance) * shake + 3.0, dtype=np.float64)


def _wandering(seed: int, name: str, days: Dates) -> Floats:
    level, step = _LEVELS[name]
    state, states = 0.0, np.empty(len(days))
    for i, shock in enumerate(normal(seed, name, days.astype(np.int64)).tolist()):
        state = states[i] = _PULL * state + step * shock
    return np.asarray(level * np.exp(states), dtype=np.float64)


@lru_cache(maxsize=len(_RECORDED))
def _recorded(folder: str, name: str) -> tuple[Dates, Floats]:
    # Importing arch would import pandas and statsmodels; only its data files are wanted.
    package = importlib.util.find_spec("arch")
    if package is None or not package.submodule_search_locations:
        return np.empty(0, dtype="datetime64[D]"), np.empty(0)
    file = Path(package.submodule_search_locations[0]) / "data" / folder / f"{folder}.csv.gz"
    with gzip.open(file, "rt", newline="") as lines:
        rows = [
            (day, value) for day, value in list(csv.reader(lines))[1:] if value not in {"", "."}
        ]
    days = [datetime.strptime(day, "%m/%d/%Y").date() for day, _ in rows]  # noqa: DTZ007
    return np.asarray(days, dtype="datetime64[D]"), np.asarray([float(v) for _, v in rows])
