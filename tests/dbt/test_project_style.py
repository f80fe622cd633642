"""House style of the dbt project, checked on its files."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from marketlake.calendars import Calendar
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.ddl import column_type
from marketlake.settings import PROJECT_ROOT

DBT = PROJECT_ROOT / "dbt"
MODELS = sorted(DBT.glob("models/**/*.sql"))
MARTS = sorted(DBT.glob("models/marts/*.yml"))


def described(path: Path) -> dict[str, Any]:
    (model,) = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
    return model


def test_there_are_models_and_marts_to_check() -> None:
    assert len(MODELS) >= 15
    assert len(MARTS) >= 7


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_has_a_twin_that_states_its_grain(path: Path) -> None:
    model = described(path.with_suffix(".yml"))
    assert model["name"] == path.stem
    assert "Grain: one row per" in model["description"]


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_a_model_ends_with_its_final_step_in_lower_case(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "select * from final"
    code = [line for line in lines if not line.lstrip().startswith("--")]
    keywords = ("SELECT", "FROM", "JOIN", "WHERE", "GROUP BY", "ORDER BY", "WITH", "CASE")
    assert not [line for line in code for word in keywords if word in line]
    assert max(len(line) for line in lines) <= 100


@pytest.mark.parametrize("path", MARTS, ids=lambda path: path.stem)
def test_a_mart_types_and_describes_every_column_and_enforces_its_grain(path: Path) -> None:
    model = described(path)
    assert all(column["data_type"] for column in model["columns"])
    assert all(column["description"] for column in model["columns"])
    # A table enforces its grain by a primary key; a view cannot, so a test does.
    keys = [item for item in model.get("constraints", ()) if item["type"] == "primary_key"]
    tests = [test for test in model.get("data_tests", ()) if "unique_grain" in test]
    is_view = model["config"]["materialized"] == "view"
    assert (len(keys), len(tests)) == ((0, 1) if is_view else (1, 0))


@pytest.mark.parametrize("path", MARTS, ids=lambda path: path.stem)
def test_a_mart_column_named_like_a_contract_field_has_its_type(path: Path) -> None:
    types: dict[str, set[str]] = {}
    for contract in CATALOG:
        if contract.warehouse:
            for field in contract.fields:
                types.setdefault(field.name, set()).add(column_type(field))
    columns = {column["name"]: column["data_type"] for column in described(path)["columns"]}
    shared = columns.keys() & types.keys()
    assert shared
    assert {name: columns[name] for name in shared if columns[name] not in types[name]} == {}


def test_weekdays_without_the_seeds_holidays_are_the_exchange_calendar() -> None:
    lines = (DBT / "seeds" / "exchange_holiday.csv").read_text(encoding="utf-8").splitlines()
    first, last = date(1990, 1, 1), date(2049, 12, 31)
    sessions = set(Calendar.of("XNYS").sessions(first, last))
    days = [first + timedelta(days=number) for number in range((last - first).days + 1)]
    holidays = [day for day in days if day.weekday() < 5 and day not in sessions]
    assert all(session.weekday() < 5 for session in sessions)
    # When a closing is announced: write these days, one a line, below the header.
    assert lines == ["day", *(day.isoformat() for day in holidays)]


def test_no_file_of_the_project_holds_a_password() -> None:
    profile = yaml.safe_load((DBT / "profiles.yml").read_text(encoding="utf-8"))
    output = profile["marketlake"]["outputs"]["warehouse"]
    assert output["password"] == "{{ env_var('DBT_ENV_SECRET_POSTGRES_PASSWORD') }}"
