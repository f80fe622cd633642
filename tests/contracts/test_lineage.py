"""The declared column lineage of what Python makes; tests/domain holds it against the code."""

from __future__ import annotations

import pytest
from marketlake.contracts import Contract
from marketlake.contracts.catalog import CATALOG, contract
from marketlake.contracts.features import FEATURES
from marketlake.contracts.lineage import LINEAGE

DECLARED = [item for item in CATALOG if item.name in LINEAGE]


def test_features_and_factors_are_declared() -> None:
    assert set(LINEAGE) == {"core_features__daily", "core_factors__daily"}
    assert len(DECLARED) == len(LINEAGE)


@pytest.mark.parametrize("made", DECLARED, ids=lambda item: item.name)
def test_every_column_has_a_source_and_every_source_is_a_column_of_its_contract(
    made: Contract,
) -> None:
    lineage = LINEAGE[made.name]
    assert list(lineage.columns) == [item.name for item in made.fields]
    assert [name for name, inputs in lineage.columns.items() if not inputs] == []
    for inputs in (*lineage.columns.values(), lineage.rows):
        assert len(set(inputs)) == len(inputs)
        for item in inputs:
            assert contract(item.dataset).field(item.column)
    assert {item.kind for inputs in lineage.columns.values() for item in inputs} == {"DIRECT"}
    assert {item.kind for item in lineage.rows} == {"INDIRECT"}


def test_a_feature_comes_from_closes_and_the_actions_that_adjust_them() -> None:
    columns = LINEAGE["core_features__daily"].columns
    for feature in FEATURES:
        assert {(item.dataset, item.column) for item in columns[feature.name]} == {
            ("core_market__daily_bar", "close_usd"),
            ("core_market__corporate_action", "split_ratio"),
            ("core_market__corporate_action", "dividend_usd"),
        }


def test_a_factor_comes_from_what_its_formula_names() -> None:
    columns = LINEAGE["core_factors__daily"].columns

    def bars_of(name: str) -> set[str]:
        of_bars = (item for item in columns[name] if item.dataset == "core_market__daily_bar")
        return {item.column for item in of_bars}

    assert bars_of("alpha_roc_5d") == {"close_usd"}
    assert bars_of("alpha_high0") == {"high_usd", "close_usd"}
    assert bars_of("volume_zscore_20d") == {"volume_shares"}
    assert [item.column for item in columns["volume_zscore_20d"]] == [
        "split_ratio",
        "volume_shares",
    ]
