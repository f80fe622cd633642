"""The gate of record: Great Expectations judges a candidate table by its contract's suite.

Belongs here: running a committed suite and turning its answer into accepted rows, quarantined
rows and a report. Does not belong: what the checks are (contracts), publishing (pipelines), and
relations between tables (dbt tests).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from marketlake.contracts import gx
from marketlake.contracts.model import Contract, Field
from marketlake.errors import ConfigError
from marketlake.quality.candidate import (
    ROW_NO,
    Failure,
    JsonRow,
    json_rows,
    judged_columns,
    quarantine,
    sessions_among,
    shaped,
    unanswered,
    violation,
)
from marketlake.settings import PROJECT_ROOT
from marketlake.types import Partition

SUITES = PROJECT_ROOT / "expectations"

_POSITION = "position in the candidate"  # no contract has a column of that name


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
    table = as_judged(contract, candidate)
    answers = great_expectations_answers(contract, table, partition=partition, suites=suites)
    failing = [_failing(answer) for answer in answers]
    rows = json_rows(table, (number for numbers in failing for number in numbers))
    results = [
        _result(contract, answer, {number: rows[number] for number in numbers})
        for answer, numbers in zip(answers, failing, strict=True)
    ]
    failures = [
        Failure(item["check"], item["reason"], numbers)
        for item, numbers in zip(results, failing, strict=True)
        if item["severity"] == "critical"
    ]
    quarantined: pd.DataFrame = quarantine(contract, failures, rows, partition).to_pandas()
    bad = {number for failure in failures for number in failure.rows}
    results.append(_fraction_result(len(bad), table.num_rows, max_quarantined_fraction))
    refused = any(
        item["severity"] == "critical" and item["level"] == "table" and not item["success"]
        for item in results
    )
    return Judgement(
        accepted=candidate.iloc[np.setdiff1d(np.arange(table.num_rows), sorted(bad))],
        quarantined=quarantined,
        report={
            "contract": contract.name,
            "partition": partition.key,
            "verdict": "failed" if refused else "passed",
            "rows_in": table.num_rows,
            "rows_quarantined": len(bad),
            "results": results,
            "engine": engine(),
        },
    )


def as_judged(contract: Contract, candidate: pd.DataFrame) -> pa.Table:
    """Return the candidate in the contract's types, rows in their order, NaN as null."""
    return shaped(
        contract,
        list(candidate.columns),
        lambda field: _column(contract, field, candidate[field.name]),
    )


def _column(contract: Contract, field: Field, series: pd.Series[Any]) -> pa.ChunkedArray:
    try:
        return pa.chunked_array(pa.Array.from_pandas(series))
    except pa.ArrowException as error:
        raise violation(
            contract, f"{field.name} as {field.kind}", f"{series.dtype}: {error}"
        ) from error


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


def great_expectations_answers(
    contract: Contract, table: pa.Table, *, partition: Partition, suites: Path = SUITES
) -> list[dict[str, Any]]:
    """Return Great Expectations' answers about a shaped candidate, in the suite's order."""
    suite = _committed_suite(contract, suites)
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
            "unexpected_index_column_names": [*contract.key, _POSITION],
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
    # Positions, not keys, identify rows: two rows with one key are a fault a gate must name.
    frame: pd.DataFrame = table.select(judged_columns(contract)).to_pandas()
    return frame.assign(**{_POSITION: range(table.num_rows)})


def _sessions_by_parameter(contract: Contract, table: pa.Table) -> dict[str, list[date]]:
    return {
        gx.calendar_parameter(check.params["calendar"]): sessions_among(
            table.column(check.columns[0]).unique().drop_null().to_pylist(),
            check.params["calendar"],
        )
        for check in contract.checks
        if check.name == "only_sessions"
    }


def _require_answered(
    contract: Contract, suite: Mapping[str, Any], answers: Iterable[Mapping[str, Any]]
) -> None:
    open_ones = {_identity(item): "no answer" for item in suite["expectations"]}
    for answer in answers:
        identity = _identity(answer["expectation_config"])
        del open_ones[identity]
        if "exception_message" not in answer["exception_info"] or answer["exception_info"].get(
            "raised_exception"
        ):
            open_ones[identity] = str(answer["exception_info"])[-500:]
    if open_ones:
        raise unanswered(contract, {check: why for (check, _), why in open_ones.items()})


def _failing(answer: Mapping[str, Any]) -> list[int]:
    return sorted(item[_POSITION] for item in answer["result"].get("unexpected_index_list") or [])


def _result(
    contract: Contract, answer: Mapping[str, Any], failing: Mapping[int, JsonRow]
) -> dict[str, Any]:
    """Return one entry of the report; failing rows carry their key and the judged cells."""
    config = answer["expectation_config"]
    columns = config["meta"]["columns"]
    names = [name for name in dict.fromkeys([*contract.key, *columns]) if name != ROW_NO]
    return {
        "check": config["meta"]["check"],
        "type": config["type"],
        "columns": columns,
        "level": config["meta"]["level"],
        "severity": config["severity"],
        "reason": config["meta"]["reason"],
        "success": answer["success"],
        "observed_value": answer["result"].get("observed_value"),
        "failing_rows": [
            {ROW_NO: number, **{name: row[name] for name in names}}
            for number, row in failing.items()
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


def engine() -> str:
    """Return the name and version of the validating library."""
    import great_expectations

    return f"great_expectations {great_expectations.__version__}"
