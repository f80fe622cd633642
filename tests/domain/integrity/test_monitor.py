"""Batch and bar by bar agree, and nothing is known before its time."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from marketlake.domain.integrity import (
    HALT_SCHEMA,
    LISTING_SCHEMA,
    Reference,
    State,
    detect,
    remember,
    step,
)
from marketlake.domain.integrity.measures import MEMORY
from marketlake.errors import ContractViolation
from polars.testing import assert_frame_equal

from tests.domain.integrity.series import CALENDAR, PRICES, dividend, split, walk

SEEDS = st.integers(0, 10_000)
REPEATABLE = {"deadline": None, "derandomize": True, "phases": (Phase.generate,)}


def messy(seed: int, *, n: int, symbols: tuple[str, ...] = ("AAA", "BBB", "CCC")) -> pl.DataFrame:
    """Return bars of two sources with every nuisance the rules know."""
    rng = np.random.default_rng(seed)
    one = walk(n, symbols=symbols, seed=seed)
    two = one.with_columns(pl.lit("iex").alias("source"), pl.col(PRICES) * 1.0003)
    bars = pl.concat([one, two])
    height = bars.height

    def some(share: float) -> pl.Expr:
        return pl.lit(pl.Series(rng.random(height) < share))

    bars = bars.with_columns(
        pl.when(some(0.01)).then(pl.col(name).shift(1)).otherwise(name).alias(name)
        for name in PRICES
    )
    copied = some(0.02)
    bars = bars.with_columns(
        pl.when(copied).then(pl.col(name).shift(1)).otherwise(name).alias(name)
        for name in (*PRICES, "volume_shares")
    )
    factor = pl.lit(
        pl.Series(rng.choice([1.0, 100.0, 1.3, 0.5], height, p=[0.96, 0.01, 0.02, 0.01]))
    )
    bars = bars.with_columns(
        pl.col(PRICES) * factor,
        volume_shares=pl.when(some(0.02))
        .then(0.0)
        .when(some(0.05))
        .then(2e7)
        .otherwise("volume_shares"),
    ).with_columns(close_usd=pl.when(some(0.01)).then(None).otherwise("close_usd"))
    twins = bars.filter(pl.col("symbol") == symbols[0]).with_columns(symbol=pl.lit("TWN"))
    late = bars["session"].unique().sort()[n // 2]
    holiday = bars.head(1).with_columns(session=pl.lit(date(2018, 12, 5)))
    bars = pl.concat([bars, twins.filter(pl.col("session") > late), holiday])
    return pl.concat([bars.sample(fraction=0.97, seed=seed), bars.sample(n=5, seed=seed)])


def reference_of(bars: pl.DataFrame) -> Reference:
    days = bars["session"].unique().sort()
    return Reference(
        CALENDAR,
        actions=pl.concat(
            [
                split(days[len(days) // 2], 2.0),
                split(days[-3], 0.5, "BBB"),
                dividend(days[10], 1.0, "CCC"),
                dividend(days[12], 1.05, "CCC"),
            ]
        ),
        listings=pl.DataFrame(
            [
                ("CCC", "iex", days[5], days[-8]),
                ("TWN", "yahoo", days[len(days) // 2 + 4], None),
                ("NON", "yahoo", days[0], None),
            ],
            schema=LISTING_SCHEMA,
            orient="row",
        ),
        halts=pl.DataFrame([(days[7], "AAA")], schema=HALT_SCHEMA, orient="row"),
    )


def stepped(bars: pl.DataFrame, reference: Reference, state: State) -> pl.DataFrame:
    """Return what is found when the sessions come one after the other."""
    first = bars["session"].min() if state.last_session is None else state.last_session
    days = [first + timedelta(days=n) for n in range((bars["session"].max() - first).days + 1)]
    there = set(bars["session"])
    parts = []
    for day in days:
        if day in there or CALENDAR.is_session(day):
            if state.last_session is not None and day <= state.last_session:
                continue
            state, found = step(state, day, bars.filter(pl.col("session") == day), reference)
            parts.append(found)
    return pl.concat(parts)


def in_order(found: pl.DataFrame) -> pl.DataFrame:
    return found.sort(found.columns)


@settings(max_examples=2, **REPEATABLE)
@given(SEEDS)
def test_bar_by_bar_finds_what_the_batch_finds(seed: int) -> None:
    bars = messy(seed, n=26)
    reference = reference_of(bars)

    batch = detect(bars, reference)

    assert batch["rule"].n_unique() >= 7
    assert_frame_equal(
        in_order(stepped(bars, reference, State())), in_order(batch), check_exact=True
    )


@settings(max_examples=1, **REPEATABLE)
@given(SEEDS)
def test_what_is_remembered_of_a_long_history_is_enough(seed: int) -> None:
    bars = messy(seed, n=MEMORY + 80, symbols=("AAA", "BBB"))
    reference = reference_of(bars)
    days = bars["session"].unique().sort()
    state = remember(bars.filter(pl.col("session") < days[-10]), reference)
    assert state.bars is not None
    assert state.bars.group_by("symbol", "source").len()["len"].max() == MEMORY

    later = detect(bars, reference).filter(pl.col("known_on") >= days[-10])

    assert later.filter(pl.col("rule") == "volume_anomaly").height
    assert_frame_equal(in_order(stepped(bars, reference, state)), in_order(later), check_exact=True)


@settings(max_examples=8, **REPEATABLE)
@given(SEEDS, st.integers(20, 40))
def test_nothing_found_by_a_session_depends_on_a_later_one(seed: int, cut: int) -> None:
    bars = messy(seed, n=45)
    reference = reference_of(bars)
    day = bars["session"].unique().sort()[cut]
    known, later = pl.col("session") <= day, pl.col("session") > day
    mangled = pl.concat(
        [bars.filter(known), bars.filter(later).with_columns(pl.col(PRICES) * 3.0).head(20)]
    )
    by_then = pl.col("known_on") <= day

    expected = in_order(detect(bars, reference).filter(by_then))

    for other in (bars.filter(known), mangled):
        found = detect(other, reference, last=day if other is not mangled else None)
        assert_frame_equal(in_order(found.filter(by_then)), expected, check_exact=True)


def test_the_order_of_the_rows_does_not_matter_without_duplicates() -> None:
    bars = messy(3, n=40).unique(["session", "symbol", "source"], keep="first", maintain_order=True)
    reference = reference_of(bars)

    assert_frame_equal(detect(bars.reverse(), reference), detect(bars, reference))


def test_a_session_that_comes_late_is_refused() -> None:
    bars = walk(3)
    first, second, _ = bars["session"]
    state, _ = step(State(), second, bars.filter(pl.col("session") == second), Reference(CALENDAR))

    with pytest.raises(ContractViolation, match="in order"):
        step(state, first, bars.filter(pl.col("session") == first), Reference(CALENDAR))
    with pytest.raises(ContractViolation, match="in order"):
        step(State(), first, bars, Reference(CALENDAR))
