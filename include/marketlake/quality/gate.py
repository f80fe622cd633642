"""The gate of record: Great Expectations judges a candidate table by its contract's suite.

Belongs here: running a committed suite and turning its answer into accepted rows, quarantined
rows and a report. Does not belong: what the checks are (contracts), publishing (pipelines), and
relations between tables (dbt tests).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from marketlake.calendars import Calendar
from marketlake.contracts import arrow, gx
from marketlake.contracts.catalog import CORE_QUALITY_QUARANTINE
from marketlake.contracts.model import Contract, Field
from marketlake.errors import ConfigError, ContractViolation, GateFailed
from marketlake.settings import PROJECT_ROOT
from marketlake.types import Partition

SUITES = PROJECT_ROOT / "expectations"

_ROW_NO = "row_no"


@dataclass(frozen=True, eq=False)
class Judgement:
    """What a gate said: ``accepted`` and ``quarantined`` together are the candidate's rows.

    ``accepted`` has the candidate's own rows, order and types. ``quarantined`` has the rows of
    ``core_quality__quarantine``, one per row and failed check. ``report`` is the document of
    ``core_quality__gate_report``.
    """

    accepted: pd.DataFrame
    quarantined: pd.DataFrame
    report: dict[str, Any]


def judge(
    contract: Contract,
    candidate: pd.DataFrame,
    *,
    partition: Partition,
    max_quarantined_fraction: float,
    suites: Path = SUITES,
) -> Judgement:
    """Judge a candidate table; the caller publishes the report and then raises if it failed.

    A row that fails a critical check goes to quarantine once per failed check. The verdict is
    "failed" when a critical table-level check fails or when more than
    ``max_quarantined_fraction`` of the rows are quarantined.

    Raises
    ------
    ContractViolation
        When the candidate does not have the contract's columns and types, has a null in a column
        that may have none and that no check judges, or has an infinite number.
    ConfigError
        When the committed suite is missing or is not the contract's.
    GateFailed
        When Great Expectations could not evaluate a check: an unanswered check never passes.
    """
    table = _shaped(contract, candidate)
    suite = _committed_suite(contract, suites)
    rows = [_json_ready(row) for row in table.to_pylist()]
    results = [
        _result(contract, answer, rows) for answer in _validate(contract, suite, table, partition)
    ]
    quarantined = _quarantined(contract, results, rows, partition)
    bad = set(quarantined[_ROW_NO].tolist())
    results.append(_fraction_result(len(bad), len(rows), max_quarantined_fraction))
    refused = any(
        item["severity"] == "critical" and item["level"] == "table" and not item["success"]
        for item in results
    )
    return Judgement(
        accepted=candidate.iloc[[number for number in range(len(rows)) if number not in bad]],
        quarantined=quarantined,
        report={
            "contract": contract.name,
            "partition": partition.key,
            "verdict": "failed" if refused else "passed",
            "rows_in": len(rows),
            "rows_quarantined": len(bad),
            "results": results,
            "engine": engine(),
        },
    )


def _shaped(contract: Contract, candidate: pd.DataFrame) -> pa.Table:
    """Return the candidate in the contract's types, rows in their order, NaN as null."""
    declared = [field.name for field in contract.fields]
    if sorted(candidate.columns) != sorted(declared):
        raise _violation(contract, f"the columns {declared}", f"{list(candidate.columns)}")
    columns = []
    judged = {
        column for check in contract.checks if check.name == "not_null" for column in check.columns
    }
    for field in contract.fields:
        column = _column(contract, field, candidate[field.name])
        may_be_null = field.name not in contract.key and (field.nullable or field.name in judged)
        if column.null_count and not may_be_null:
            rows = [number for number, cell in enumerate(column.is_valid().to_pylist()) if not cell]
            raise _violation(
                contract, f"a value in every row of {field.name}", f"none in rows {rows[:5]}"
            )
        columns.append(column)
    return pa.table(columns, names=declared)


def _column(contract: Contract, field: Field, series: pd.Series[Any]) -> pa.ChunkedArray:
    try:
        found = pa.Array.from_pandas(series)
    except pa.ArrowException as error:
        raise _violation(
            contract, f"{field.name} as {field.kind}", f"{series.dtype}: {error}"
        ) from error
    return arrow.conform_column(contract, field, pa.chunked_array(found))


def _violation(contract: Contract, expected: str, was: str) -> ContractViolation:
    return ContractViolation(
        expected=expected,
        was=was,
        where=f"candidate of {contract.name}",
        todo=f"correct how {contract.owner} builds the candidate; nothing was judged",
    )


def _committed_suite(contract: Contract, suites: Path) -> dict[str, Any]:
    path = suites / f"{gx.suite_name(contract)}.json"
    suite: dict[str, Any] | None = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    )
    if suite is None or suite != gx.suite(contract) or not contract.checks:
        raise ConfigError(
            expected=f"the suite that {contract.name} renders to",
            was="no file" if suite is None else "another suite, or one without checks",
            where=str(path),
            todo="run `marketlake contracts render` and commit the result",
        )
    return suite


def _validate(
    contract: Contract, suite: Mapping[str, Any], table: pa.Table, partition: Partition
) -> list[dict[str, Any]]:
    """Return Great Expectations' answers, in the suite's order."""
    # Imported here: it costs seconds, and only a task that judges should pay.
    import great_expectations
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    context = great_expectations.get_context(
        mode="ephemeral",
        project_config=DataContextConfig(
            store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
            analytics_enabled=False,
            progress_bars=ProgressBarsConfig(globally=False),
        ),
    )
    asset = context.data_sources.add_pandas("candidates").add_dataframe_asset(contract.name)
    batch = asset.add_batch_definition_whole_dataframe(partition.key).get_batch(
        {"dataframe": _judged_frame(contract, table)}
    )
    answer = batch.validate(
        context.suites.add(great_expectations.ExpectationSuite(**suite)),
        result_format={
            "result_format": "COMPLETE",
            "unexpected_index_column_names": [*contract.key, _ROW_NO],
        },
        expectation_parameters=_sessions_by_parameter(contract, table),
    )
    answers = [item.to_json_dict() for item in answer.results]
    _require_answered(contract, suite, answers)
    order = {_identity(item): number for number, item in enumerate(suite["expectations"])}
    return sorted(answers, key=lambda item: order[_identity(item["expectation_config"])])


def _identity(expectation: Mapping[str, Any]) -> tuple[str, str]:
    return expectation["meta"]["check"], expectation["severity"]


def _judged_frame(contract: Contract, table: pa.Table) -> pd.DataFrame:
    used = {*contract.key, *(column for check in contract.checks for column in check.columns)}
    names = [name for name in table.column_names if name in used]
    # Row numbers, not keys, identify rows: two rows with one key are a fault a gate must name.
    frame: pd.DataFrame = table.select(names).to_pandas()
    return frame.assign(**{_ROW_NO: range(table.num_rows)})


def _sessions_by_parameter(contract: Contract, table: pa.Table) -> dict[str, list[date]]:
    parameters = {}
    for check in contract.checks:
        if check.name == "only_sessions":
            calendar = Calendar.of(check.params["calendar"])
            (column,) = check.columns
            days = table.column(column).unique().drop_null().to_pylist()
            parameters[gx.calendar_parameter(calendar.name)] = sorted(
                day for day in days if _is_session(calendar, day)
            )
    return parameters


def _is_session(calendar: Calendar, day: date) -> bool:
    try:
        return calendar.is_session(day)
    except ConfigError:
        # A day outside the calendar's span, such as 1970-01-01 from an empty timestamp.
        return False


def _require_answered(
    contract: Contract, suite: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]
) -> None:
    unanswered = {_identity(item): "no answer" for item in suite["expectations"]}
    for answer in answers:
        identity = _identity(answer["expectation_config"])
        del unanswered[identity]
        if "exception_message" not in answer["exception_info"] or answer["exception_info"].get(
            "raised_exception"
        ):
            unanswered[identity] = str(answer["exception_info"])[-500:]
    if unanswered:
        raise GateFailed(
            expected="an answer to every check",
            was="; ".join(f"{check}: {why}" for (check, _), why in unanswered.items()),
            where=f"suite {gx.suite_name(contract)}",
            todo="correct the check in the contract; an unanswered check never passes",
        )


def _result(
    contract: Contract, answer: Mapping[str, Any], rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return one entry of the report; failing rows carry their key and the judged cells."""
    config, outcome = answer["expectation_config"], answer["result"]
    columns = config["meta"]["columns"]
    names = list(dict.fromkeys([*contract.key, *columns]))
    failing = sorted(item[_ROW_NO] for item in outcome.get("unexpected_index_list") or [])
    return {
        "check": config["meta"]["check"],
        "type": config["type"],
        "columns": columns,
        "level": config["meta"]["level"],
        "severity": config["severity"],
        "reason": config["meta"]["reason"],
        "success": answer["success"],
        "observed_value": outcome.get("observed_value"),
        "failing_rows": [
            {_ROW_NO: number, **{name: rows[number][name] for name in names}} for number in failing
        ],
    }


def _fraction_result(bad: int, total: int, limit: float) -> dict[str, Any]:
    return {
        "check": f"quarantined_fraction(max={limit})",
        "type": "gate_rule",
        "columns": [],
        "level": "table",
        "severity": "critical",
        "reason": "so many bad rows mean a broken source, not bad rows",
        "success": bad <= limit * total,
        "observed_value": bad / total if total else 0.0,
        "failing_rows": [],
    }


def _quarantined(
    contract: Contract,
    results: Iterable[Mapping[str, Any]],
    rows: list[dict[str, Any]],
    partition: Partition,
) -> pd.DataFrame:
    reasons = [
        {
            "contract": contract.name,
            "session": _session(rows[failing[_ROW_NO]], partition),
            "symbol": _symbol(contract, rows[failing[_ROW_NO]]),
            "check": item["check"],
            _ROW_NO: failing[_ROW_NO],
            "reason": item["reason"],
            "row_json": json.dumps(rows[failing[_ROW_NO]], ensure_ascii=False, allow_nan=False),
        }
        for item in results
        if item["severity"] == "critical"
        for failing in item["failing_rows"]
    ]
    reasons.sort(key=lambda row: (row[_ROW_NO], row["check"]))
    schema = arrow.schema(CORE_QUALITY_QUARANTINE)
    frame: pd.DataFrame = pa.Table.from_pylist(reasons, schema=schema).to_pandas()
    return frame


def _session(row: Mapping[str, Any], partition: Partition) -> date:
    return date.fromisoformat(row["session"]) if "session" in row else partition.session


def _symbol(contract: Contract, row: Mapping[str, Any]) -> str:
    """Return the row's symbol, or what else its key says beside the session."""
    if "symbol" in row:
        return str(row["symbol"])
    return "/".join(str(row[name]) for name in contract.key if name != "session")


def _json_ready(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _json_cell(value) for name, value in row.items()}


def _json_cell(value: Any) -> Any:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def engine() -> str:
    """Return the name and version of the validating library."""
    import great_expectations

    return f"great_expectations {great_expectations.__version__}"
