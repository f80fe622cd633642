"""Reduced runs of the corpora guard the figures that `make accept` measures in full."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from tests.acceptance.integrity_corpora import (
    FALSE_ALARMS,
    NAMED,
    half,
    injected_faults,
    maintainers_cases,
    true_spikes,
    untouched,
)
from tests.corpora.vendor_histories import stocknet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FOUND_AT_LEAST = {
    "x100": 0.95,
    "split_not_applied": 0.95,
    "stale_repeat": 0.95,
    "swapped_ohlc": 0.85,
    "wrong_day": 0.6,
    "one_venue_print": 0.7,
    "price_spike": 0.9,
    "duplicate": 0.95,
    "missing_day": 0.95,
}


def test_real_price_split_and_unit_faults_become_the_maintainers_answers(shared_data: Path) -> None:
    cases = maintainers_cases(shared_data)
    kinds = [case["kind"] for case in cases]

    assert (kinds.count("price"), kinds.count("control")) == (8, 6)
    for case in cases:
        if case["kind"] == "price":
            assert case["cells_wrong"] > 0, case
            assert case["cells_wrong_after"] == 0, case
        elif case["kind"] == "control":
            assert case["cells_changed"] == 0, case
        else:
            assert case["dividend_findings"] > 0, case


def test_gamestop_in_january_2021_is_kept(shared_data: Path) -> None:
    found = true_spikes(shared_data)

    assert found["spikes"] > 20
    assert found["alarms_alone"] > 0
    assert found["alarms_with_second_source"] == 0
    assert found["proposals"] == 0


@pytest.fixture(scope="module")
def own_half(shared_data: Path) -> pl.DataFrame:
    return half(stocknet(shared_data), "report")


def test_faults_in_one_source_are_found_and_named(own_half: pl.DataFrame) -> None:
    scores = injected_faults(own_half, cells=60, seed=5)

    for fault, least in FOUND_AT_LEAST.items():
        confused = scores[fault]["confusion"]
        total = sum(confused.values())
        assert sum(confused.get(rule, 0) for rule in NAMED[fault]) >= least * total, confused
        # The history has thin volumes of its own: a class A share and a new listing, for days.
        precise = 0.6 if fault == "one_venue_print" else 0.9
        assert scores[fault]["precision"] >= precise, (fault, scores[fault])
    assert scores["x100"]["repair"]["spoiled"] == 0
    assert scores["split_not_applied"]["repair"]["spoiled"] == 0
    assert scores["split_not_applied"]["repair"]["repaired"] > 400


def test_real_data_raise_few_alarms_and_are_not_repaired(own_half: pl.DataFrame) -> None:
    found = untouched(own_half)

    assert found["alarms_per_symbol_year"] <= FALSE_ALARMS
    assert found["with_spikes_on_unusual_volume"] <= FALSE_ALARMS
    assert found["proposals"] == 0
