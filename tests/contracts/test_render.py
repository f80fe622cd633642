"""The committed renderings are the contracts', and a drifted one is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from marketlake.contracts import Check, gx, render
from marketlake.contracts.catalog import CATALOG, CORE_MARKET_DAILY_BAR
from marketlake.settings import PROJECT_ROOT


def test_every_committed_rendering_agrees_with_the_contracts() -> None:
    assert render.differences(PROJECT_ROOT) == []


def test_rendering_twice_gives_the_same_bytes() -> None:
    assert render.render_all(PROJECT_ROOT) == render.render_all(PROJECT_ROOT)


def test_rendering_into_an_empty_folder_leaves_no_difference(tmp_path: Path) -> None:
    missing = render.differences(tmp_path)
    assert len(missing) == len(render.render_all(tmp_path))
    assert len(render.write_all(tmp_path)) == len(missing)
    assert render.differences(tmp_path) == []
    assert render.write_all(tmp_path) == []


def test_an_edited_rendering_is_named_with_its_line(tmp_path: Path) -> None:
    render.write_all(tmp_path)
    page = tmp_path / render.DICTIONARY
    page.write_text(page.read_text().replace("# Data dictionary", "# Words", 1))
    (difference,) = render.differences(tmp_path)
    assert difference.startswith("docs/data-dictionary.md: line 1 is '# Words'")


def test_a_rendering_of_a_contract_that_is_gone_is_named_and_removed(tmp_path: Path) -> None:
    render.write_all(tmp_path)
    gone = tmp_path / render.EXPECTATIONS / "core_gone__table.json"
    gone.write_text("{}")
    assert render.differences(tmp_path) == [
        "expectations/core_gone__table.json: no contract renders it"
    ]
    assert render.write_all(tmp_path) == [gone]


def test_every_contract_with_checks_has_one_suite_and_no_other_has() -> None:
    files = {path.stem for path in (PROJECT_ROOT / render.EXPECTATIONS).glob("*.json")}
    assert files == {contract.name for contract in CATALOG if contract.checks}


def test_every_check_of_a_contract_is_one_expectation_with_its_severity_and_reason() -> None:
    suite = gx.suite(CORE_MARKET_DAILY_BAR)
    assert len(suite["expectations"]) == len(CORE_MARKET_DAILY_BAR.checks)
    for check, expectation in zip(CORE_MARKET_DAILY_BAR.checks, suite["expectations"], strict=True):
        assert expectation["severity"] == check.severity
        assert expectation["meta"]["check"] == gx.check_label(check)
        assert expectation["meta"]["reason"]


@pytest.mark.parametrize("contract", CATALOG, ids=lambda contract: contract.name)
def test_no_contract_declares_one_check_twice(contract: object) -> None:
    checks = [(gx.check_label(check), check.severity) for check in contract.checks]  # type: ignore[attr-defined]
    assert len(checks) == len(set(checks))


def test_a_committed_suite_holds_no_sessions_so_it_never_ages() -> None:
    text = gx.render_suite(CORE_MARKET_DAILY_BAR)
    assert {"$PARAMETER": "sessions_of_XNYS"} in [
        item["kwargs"].get("value_set") for item in json.loads(text)["expectations"]
    ]


def test_a_label_names_columns_and_bounds() -> None:
    check = Check("in_range", ("close_usd",), {"min": 0.0, "strict_min": True})
    assert gx.check_label(check) == "in_range(close_usd, min=0.0, strict_min=True)"
    assert gx.check_label(Check("not_above", ("low", "high"))) == "not_above(low, high)"


def test_the_dictionary_has_every_contract_and_every_field() -> None:
    page = (PROJECT_ROOT / render.DICTIONARY).read_text(encoding="utf-8")
    for contract in CATALOG:
        section = page.split(f"\n## {contract.name}\n", 1)[1].split("\n## ", 1)[0]
        for field in contract.fields:
            assert f"| `{field.name}` |" in section


def test_the_rendered_dbt_files_are_yaml_that_names_every_warehouse_table() -> None:
    folder = PROJECT_ROOT / "dbt" / "models" / "staging"
    sources = yaml.safe_load((folder / "_warehouse__sources.yml").read_text(encoding="utf-8"))
    tables = {
        (source["name"], table["name"])
        for source in sources["sources"]
        for table in source["tables"]
    }
    assert tables == {(item.layer, item.table) for item in CATALOG if item.warehouse}
    for contract in CATALOG:
        if contract.warehouse:
            twin = yaml.safe_load(
                (folder / f"stg_{contract.table}.yml").read_text(encoding="utf-8")
            )
            assert [column["name"] for column in twin["models"][0]["columns"]] == [
                field.name for field in contract.fields
            ]
