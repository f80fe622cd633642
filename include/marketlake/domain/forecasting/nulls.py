"""The null panel: an honest pipeline finds nothing where nothing is, and a planted leak at once.

Three runs of one evaluation: labels dealt out anew, prices that walk at random, and a feature that
knows the answer. The first two must score nothing; the last must be caught, by a skill
that no honest forecast has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from marketlake.domain import prices
from marketlake.domain.prices import Floats

IMPLAUSIBLE_RANK_IC = 0.3
"""Sixty per cent of daily directions right needs about this; published models reach 0.05."""
LEVEL = 0.999
"""Of the intervals of the panel: at 95 % one honest training in ten would fail one of two nulls."""


def shuffled(values: Floats, sessions: npt.NDArray[Any], *, rng: np.random.Generator) -> Floats:
    """Return the values dealt out anew among the rows of each session."""
    order = np.lexsort((rng.random(len(values)), sessions))
    home = np.argsort(sessions, kind="stable")
    dealt: Floats = np.empty_like(values)
    dealt[home] = values[order]
    return dealt


def random_walk(closes: Floats, *, rng: np.random.Generator) -> Floats:
    """Return closes [n_sessions, n_symbols] whose log returns are the real ones with random signs.

    Each sign is drawn for itself, so neither a symbol's own past nor the others' says which way it
    goes next; gaps stay where they are, and each symbol keeps its volatility, session by session.
    To put the real returns in a random order would be no null: such a path is bound to end where it
    did, so far behind means much to come.
    """
    walked = closes.copy()
    for column in range(closes.shape[1]):
        there = np.flatnonzero(np.isfinite(closes[:, column]))
        if len(there) < 2:
            continue
        steps = np.diff(np.log(closes[there, column]))
        signs = rng.choice([-1.0, 1.0], size=len(steps))
        path = np.concatenate([[0.0], np.cumsum(signs * steps)])
        walked[there, column] = closes[there[0], column] * np.exp(path)
    return walked


def walked_bars(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    rng: np.random.Generator,
) -> pl.DataFrame:
    """Return bars whose closes walk at random (:func:`random_walk`), without corporate actions.

    ``bars`` and ``actions`` are as traded; the prices of a bar keep their ratios to its close.
    """
    symbols = bars["symbol"].unique().sort().to_list()
    closes = prices.panel(bars, actions, sessions=sessions, symbols=symbols).adjusted()
    walked = pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions, dtype="datetime64[D]"), len(symbols)),
            "symbol": symbols * len(sessions),
            "walked_usd": random_walk(closes, rng=rng).ravel(),
        },
        schema_overrides={"session": pl.Date, "symbol": pl.String},
    )
    priced = [name for name in prices.BAR_PRICES if name in bars.columns]
    ratio = pl.col("walked_usd") / pl.col("close_usd")
    return (
        bars.join(walked, on=["session", "symbol"], how="left", maintain_order="left")
        .with_columns(pl.col(priced) * ratio)
        .drop("walked_usd")
    )


def leaked(labels: Floats, *, noise: float, rng: np.random.Generator) -> Floats:
    """Return a feature that knows its row's label but for noise of so many standard deviations."""
    feature: Floats = labels + noise * labels.std() * rng.normal(size=len(labels))
    return feature


def verdict(
    *,
    shuffled_labels: Mapping[str, float],
    random_walk_prices: Mapping[str, float] | None,
    planted_leak: Mapping[str, float],
    limit: float = IMPLAUSIBLE_RANK_IC,
) -> dict[str, Any]:
    """Say of the three runs' rank ICs (``value``, ``low``, ``high``) whether each is as it must be.

    ``clean`` is true when both nulls' intervals hold 0 and the leak's lower end is above ``limit``,
    where the gate refuses any model. A null that was not run is named in ``not_run``; the panel is
    not clean then.
    """
    nulls = {"shuffled_labels": shuffled_labels, "random_walk_prices": random_walk_prices}
    found: dict[str, Any] = {
        name: {**figure, "as_it_must": bool(figure["low"] <= 0 <= figure["high"])}
        for name, figure in nulls.items()
        if figure is not None
    }
    found["planted_leak"] = {**planted_leak, "as_it_must": bool(planted_leak["low"] > limit)}
    not_run = [name for name, figure in nulls.items() if figure is None]
    clean = not not_run and all(item["as_it_must"] for item in found.values())
    return {**found, "not_run": not_run, "clean": clean}
