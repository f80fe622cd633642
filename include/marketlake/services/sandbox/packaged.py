"""The packaged market: skfolio's 20 US shares and the S&P 500, 1990 to 2022-12-28.

The package holds real closes, adjusted for splits and dividends. The as-traded level, opens,
highs, lows, volumes and actions are simulated, exactly consistent with those closes, and named in
``simulated``. What does not belong here: the generators themselves.
"""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import numpy as np

from marketlake.errors import ConfigError
from marketlake.services.sandbox.bars import (
    ACTION_SIMULATED,
    EQUITY_SIMULATED,
    INDEX_SIMULATED,
    simulate_equity,
    simulate_index,
)
from marketlake.services.sandbox.corporate_actions import simulate_actions
from marketlake.services.sandbox.counter_random import Floats
from marketlake.services.sandbox.world import Dates, World


def packaged_world(seed: int, *, benchmark: str) -> World:
    """Build the packaged market; the same seed gives the same market."""
    sessions, closes = read_closes("sp500_dataset")
    series = {}
    for symbol, adjusted in closes.items():
        actions = simulate_actions(seed, symbol, sessions, adjusted)
        since_first = actions.factors(len(sessions))
        series[symbol] = simulate_equity(
            seed,
            symbol,
            sessions,
            adjusted,
            actions=actions,
            # After the last action adjusted and as-traded are the same, as the package has it.
            factors=since_first / since_first[-1],
            simulated=EQUITY_SIMULATED + ACTION_SIMULATED,
        )
    index_sessions, index = read_closes("sp500_index")
    series[benchmark] = simulate_index(
        seed, benchmark, index_sessions, index["SP500"], simulated=INDEX_SIMULATED
    )
    return World.of(series)


def read_closes(dataset: str) -> tuple[Dates, dict[str, Floats]]:
    """Return the sessions and the close columns of one of skfolio's data sets."""
    # Importing skfolio would import scikit-learn and plotly; only its data file is wanted.
    package = importlib.util.find_spec("skfolio")
    if package is None or not package.submodule_search_locations:
        raise ConfigError(
            expected="the skfolio package, which holds the packaged market",
            was="not installed",
            where="vendor sandbox",
            todo="install requirements.txt, or set MARKETLAKE_MARKET__NAME=generated",
        )
    folder = Path(package.submodule_search_locations[0])
    with gzip.open(folder / "datasets" / "data" / f"{dataset}.csv.gz", "rt") as file:
        names = file.readline().strip().split(",")[1:]
        rows = [line.rstrip("\n").split(",") for line in file]
    sessions = np.asarray([row[0] for row in rows], dtype="datetime64[D]")
    values = np.asarray([row[1:] for row in rows], dtype=np.float64)
    return sessions, {name: values[:, i].copy() for i, name in enumerate(names)}
