"""The targets, on less than the acceptance run measures: real vendors, and faults in a real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance import consensus_faults, consensus_vendors
from tests.corpora.vendor_histories import stocknet

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_four_vendors_disagreements_are_explained_and_the_known_conflicts_found(
    shared_data: Path,
) -> None:
    found = consensus_vendors.measure(shared_data)
    assert consensus_vendors.missed(found) == []
    assert found["close"]["episodes"] > 100
    assert found["close"]["classes"]["wrong_day"] > 50
    assert all(set(said) == {"wrong_day"} for said in found["dates"].values())


def test_faults_in_one_and_in_two_of_three_copies_are_named_and_kept_out(
    shared_data: Path,
) -> None:
    bars = consensus_faults.half(stocknet(shared_data), "tune")
    few = bars.filter(bars["symbol"].is_in(bars["symbol"].unique().sort()[:6].implode()))
    one = consensus_faults.one_of_three(few, cells=25, seed=5)
    for fault in consensus_faults.TARGETED:
        score = one["scores"][fault]
        assert score["cells"] > 0
        assert score["recall"] >= consensus_faults.TARGET, fault
        assert score["precision"] >= consensus_faults.TARGET, fault
    for errors in (one, consensus_faults.two_of_three(few, cells=25, seed=5)):
        everywhere = errors["errors"]["all"]
        assert everywhere["consensus_bp"] <= everywhere["best_single_source_bp"]
    alarms = consensus_faults.false_alarms(few, seed=5)
    assert alarms["per_symbol_year"] <= consensus_faults.FALSE_ALARMS
