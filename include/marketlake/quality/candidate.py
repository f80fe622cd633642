"""What both gates do alike: shape a candidate, read its failing rows, write their quarantine.

Belongs here: whatever must not differ between the gate of record and the kernel. Does not belong:
evaluating a check.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from marketlake.calendars import Calendar
from marketlake.contracts import arrow
from marketlake.contracts.catalog import CORE_QUALITY_QUARANTINE
from marketlake.contracts.gx import suite_name
from marketlake.contracts.model import Contract, Field
from marketlake.errors import ConfigError, ContractViolation, GateFailed
from marketlake.types import Partition

ROW_NO = "row_no"

JsonRow = dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """One critical check and the positions, from 0, of the candidate rows that fail it."""

    check: str
    reason: str
    rows: Collection[int]


def shaped(
    contract: Contract, names: Sequence[str], column_of: Callable[[Field], pa.ChunkedArray]
) -> pa.Table:
    """Return the candidate in the contract's types, rows in their order, NaN as null.

    ``names`` are the columns it has; ``column_of`` returns the one of a field.

    Raises
    ------
    ContractViolation
        When the columns or types are others, a number is infinite, or a value is missing where no
        check judges that.
    """
    declared = [field.name for field in contract.fields]
    if sorted(names) != sorted(declared):
        raise violation(contract, f"the columns {declared}", f"{list(names)}")
    judged = {
        column for check in contract.checks if check.name == "not_null" for column in check.columns
    }
    columns = []
    for field in contract.fields:
        column = arrow.conform_column(contract, field, column_of(field))
        may_be_null = field.name not in contract.key and (field.nullable or field.name in judged)
        if column.null_count and not may_be_null:
            rows = [number for number, cell in enumerate(column.is_valid().to_pylist()) if not cell]
            raise violation(
                contract, f"a value in every row of {field.name}", f"none in rows {rows[:5]}"
            )
        columns.append(column)
    return pa.table(columns, names=declared)


def judged_columns(contract: Contract) -> list[str]:
    """Return the columns that a check or the key names, in the contract's order."""
    used = {*contract.key, *(column for check in contract.checks for column in check.columns)}
    return [field.name for field in contract.fields if field.name in used]


def sessions_among(days: Iterable[date], calendar: str) -> list[date]:
    """Return those of the days on which the exchange trades, in order."""
    exchange = Calendar.of(calendar)
    return sorted(day for day in days if _trades(exchange, day))


def _trades(exchange: Calendar, day: date) -> bool:
    try:
        return exchange.is_session(day)
    except ConfigError:
        # A day outside the calendar's span, such as 1970-01-01 from an empty timestamp.
        return False


def json_rows(table: pa.Table, numbers: Iterable[int]) -> dict[int, JsonRow]:
    """Return some rows by their numbers, every cell as JSON has it."""
    wanted = sorted(set(numbers))
    taken = table.take(pa.array(wanted, pa.int64())).to_pylist()
    return {
        number: {name: _json_cell(value) for name, value in row.items()}
        for number, row in zip(wanted, taken, strict=True)
    }


def _json_cell(value: Any) -> Any:
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    return value.hex() if isinstance(value, bytes) else value


def quarantine(
    contract: Contract,
    failures: Iterable[Failure],
    rows: Mapping[int, JsonRow],
    partition: Partition,
) -> pa.Table:
    """Return the rows of ``core_quality__quarantine``: one per failing row and failed check."""
    texts = {
        number: json.dumps(rows[number], ensure_ascii=False, allow_nan=False)
        for number in {number for failure in failures for number in failure.rows}
    }
    reasons = [
        {
            "contract": contract.name,
            "session": _session(rows[number], partition),
            "symbol": _symbol(contract, rows[number]),
            "check": failure.check,
            ROW_NO: number,
            "reason": failure.reason,
            "row_json": texts[number],
        }
        for failure in failures
        for number in failure.rows
    ]
    reasons.sort(key=lambda row: (row[ROW_NO], row["check"]))
    return pa.Table.from_pylist(reasons, schema=arrow.schema(CORE_QUALITY_QUARANTINE))


def _session(row: JsonRow, partition: Partition) -> date:
    return date.fromisoformat(row["session"]) if "session" in row else partition.session


def _symbol(contract: Contract, row: JsonRow) -> str:
    """Return the row's symbol, or what else its key says beside the session."""
    if "symbol" in row:
        return str(row["symbol"])
    return "/".join(str(row[name]) for name in contract.key if name != "session")


def violation(contract: Contract, expected: str, was: str) -> ContractViolation:
    """Return the error of a candidate that cannot be judged at all."""
    return ContractViolation(
        expected=expected,
        was=was,
        where=f"candidate of {contract.name}",
        todo=f"correct how {contract.owner} builds the candidate; nothing was judged",
    )


def unanswered(contract: Contract, why: Mapping[str, str]) -> GateFailed:
    """Return the error of checks that could not be evaluated, each with the reason."""
    return GateFailed(
        expected="an answer to every check",
        was="; ".join(f"{check}: {reason}" for check, reason in why.items()),
        where=f"suite {suite_name(contract)}",
        todo="correct the check in the contract; an unanswered check never passes",
    )
