from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from marketlake.services.sandbox.counter_random import (
    GOLDEN,
    constant,
    normal,
    splitmix64,
    uniform,
)


def test_outputs_are_those_of_the_published_splitmix64() -> None:
    # The reference sequence for seed 1234567 (Vigna's splitmix64.c, also on Rosetta Code).
    steps = np.arange(1, 6, dtype=np.uint64)
    outputs = splitmix64(np.uint64(1234567) + steps * GOLDEN)
    assert outputs.tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


@given(st.integers(0, 20_000), st.integers(1, 400), st.integers(0, 2**31))
def test_any_range_of_days_gives_the_same_values(first: int, length: int, seed: int) -> None:
    days = np.arange(first, first + length)
    whole = uniform(seed, "AAPL/open", np.arange(20_400))
    assert np.array_equal(uniform(seed, "AAPL/open", days), whole[days])
    assert ((whole > 0.0) & (whole < 1.0)).all()


def test_streams_and_seeds_are_unrelated() -> None:
    days = np.arange(20_000)
    values = [
        normal(1, "AAPL/gap", days),
        normal(1, "MSFT/gap", days),
        normal(2, "AAPL/gap", days),
    ]
    correlation = np.corrcoef(values) - np.eye(3)
    assert np.abs(correlation).max() < 0.03
    assert abs(values[0].mean()) < 0.03
    assert abs(values[0].std() - 1.0) < 0.03
    assert constant(1, "AAPL/beta") != constant(1, "MSFT/beta")
