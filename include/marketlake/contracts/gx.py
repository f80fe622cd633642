"""Render a contract's checks as a Great Expectations suite.

Belongs here: how each check of the vocabulary is said in Great Expectations, once. Does not
belong: running a suite (:mod:`marketlake.quality.gate`) and any import of Great Expectations.

Nulls: only ``not_null`` looks at them. Every other row-level check passes a row with a null in
its columns, so that one fault has one name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from marketlake.contracts.model import Check, Contract

TABLE_LEVEL = frozenset({"row_count"})
"""Checks that no single row can fail."""

_Kwargs = dict[str, Any]


def check_label(check: Check) -> str:
    """Return a check's name in reports: ``in_range(close_move_pct, min=-80.0, max=400.0)``."""
    params = (f"{name}={value}" for name, value in check.params.items())
    return f"{check.name}({', '.join((*check.columns, *params))})"


def calendar_parameter(calendar: str) -> str:
    """Return the name under which the gate hands a calendar's sessions to a suite."""
    return f"sessions_of_{calendar}"


def suite_name(contract: Contract) -> str:
    """Return the suite's name, which is also its file's: ``expectations/<name>.json``."""
    return contract.name


def suite(contract: Contract) -> dict[str, Any]:
    """Return the suite of a contract as the JSON document that Great Expectations reads."""
    return {
        "name": suite_name(contract),
        "expectations": [_expectation(check) for check in contract.checks],
        "meta": {"contract": contract.name, "rendered_from": "marketlake.contracts.catalog"},
    }


def render_suite(contract: Contract) -> str:
    """Return the text of the committed suite file."""
    return json.dumps(suite(contract), indent=2, ensure_ascii=False) + "\n"


def _expectation(check: Check) -> dict[str, Any]:
    kind, kwargs = _RENDERERS[check.name](check)
    return {
        "type": kind,
        "kwargs": kwargs,
        "severity": check.severity,
        "meta": {
            "check": check_label(check),
            "columns": list(check.columns),
            "level": "table" if check.name in TABLE_LEVEL else "row",
            "reason": check.reason or check_label(check),
        },
    }


def _bounds(params: Mapping[str, Any]) -> _Kwargs:
    names = {"min": "min_value", "max": "max_value", "strict_min": "strict_min"}
    return {names[name]: value for name, value in params.items()}


def _not_null(check: Check) -> tuple[str, _Kwargs]:
    (column,) = check.columns
    return "expect_column_values_to_not_be_null", {"column": column}


def _unique(check: Check) -> tuple[str, _Kwargs]:
    if len(check.columns) == 1:
        return "expect_column_values_to_be_unique", {"column": check.columns[0]}
    return "expect_compound_columns_to_be_unique", {
        "column_list": list(check.columns),
        "ignore_row_if": "any_value_is_missing",
    }


def _in_range(check: Check) -> tuple[str, _Kwargs]:
    (column,) = check.columns
    return "expect_column_values_to_be_between", {"column": column, **_bounds(check.params)}


def _in_set(check: Check) -> tuple[str, _Kwargs]:
    (column,) = check.columns
    return "expect_column_values_to_be_in_set", {
        "column": column,
        "value_set": list(check.params["values"]),
    }


def _matches(check: Check) -> tuple[str, _Kwargs]:
    (column,) = check.columns
    # Great Expectations searches; the vocabulary means the whole value.
    return "expect_column_values_to_match_regex", {
        "column": column,
        "regex": f"^(?:{check.params['regex']})$",
    }


def _row_count(check: Check) -> tuple[str, _Kwargs]:
    return "expect_table_row_count_to_be_between", _bounds(check.params)


def _not_above(check: Check) -> tuple[str, _Kwargs]:
    lower, upper = check.columns
    return "expect_column_pair_values_a_to_be_greater_than_b", {
        "column_A": upper,
        "column_B": lower,
        "or_equal": True,
        "ignore_row_if": "either_value_is_missing",
    }


def _only_sessions(check: Check) -> tuple[str, _Kwargs]:
    (column,) = check.columns
    # The committed suite stays static: the gate supplies the sessions when it judges.
    return "expect_column_values_to_be_in_set", {
        "column": column,
        "value_set": {"$PARAMETER": calendar_parameter(check.params["calendar"])},
    }


_RENDERERS: dict[str, Callable[[Check], tuple[str, _Kwargs]]] = {
    "not_null": _not_null,
    "unique": _unique,
    "in_range": _in_range,
    "in_set": _in_set,
    "matches": _matches,
    "row_count": _row_count,
    "not_above": _not_above,
    "only_sessions": _only_sessions,
}
