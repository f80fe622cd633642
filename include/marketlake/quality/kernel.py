"""The fast kernel: a contract's checks on whole columns, with the verdicts of the gate of record.

Belongs here: how each check of the vocabulary is said in polars, once. Does not belong: what the
checks are (contracts), and the report of record (:mod:`marketlake.quality.gate`). A property test
holds the two to equal verdicts, equal failing rows and equal quarantine.

Use it where a candidate is too large, or asked too often, for the gate of record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from marketlake.contracts import gx
from marketlake.contracts.model import Check, CheckName, Contract, Field, Severity
from marketlake.errors import ConfigError
from marketlake.quality.candidate import (
    Failure,
    json_rows,
    judged_columns,
    quarantine,
    sessions_among,
    shaped,
    unanswered,
    violation,
)
from marketlake.types import Partition


@dataclass(frozen=True, eq=False)
class CheckAnswer:
    """What one check said; ``rows`` are the positions of the rows that fail it, from 0."""

    check: str
    severity: Severity
    reason: str
    success: bool
    rows: np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class FastVerdict:
    """What the kernel said: ``accepted`` and ``quarantined`` together are the candidate's rows.

    ``answers`` are in the contract's order. ``accepted`` has the candidate's own rows, order and
    types; ``quarantined`` has the rows of ``core_quality__quarantine``, as the gate's.
    ``is_refused``: a critical check of the whole table fails. How many bad rows are too many is
    the caller's rule.
    """

    answers: tuple[CheckAnswer, ...]
    accepted: pl.DataFrame
    quarantined: pl.DataFrame
    is_refused: bool


def judge_fast(contract: Contract, candidate: pl.DataFrame, *, partition: Partition) -> FastVerdict:
    """Judge a candidate as :func:`marketlake.quality.gate.judge` does, without its report.

    Raises
    ------
    ContractViolation
        When the candidate does not have the contract's shape, as in the gate.
    ConfigError
        When the contract has no checks.
    GateFailed
        When a check could not be evaluated.
    """
    if not contract.checks:
        raise ConfigError(
            expected="a contract with checks",
            was=f"none in {contract.name}",
            where="judge_fast",
            todo="declare its checks in contracts/catalog.py; nothing was judged",
        )
    table = _as_judged(contract, candidate)
    frame = pl.DataFrame(table.select(judged_columns(contract)))
    answers = tuple(_answer(contract, check, frame) for check in contract.checks)
    critical = [item for item in answers if item.severity == "critical"]
    bad = reduce(np.union1d, (item.rows for item in critical), np.empty(0, np.int64))
    failures = [Failure(item.check, item.reason, item.rows.tolist()) for item in critical]
    kept_out = quarantine(contract, failures, json_rows(table, bad.tolist()), partition)
    is_accepted = np.ones(candidate.height, bool)
    is_accepted[bad] = False
    return FastVerdict(
        answers=answers,
        accepted=candidate.filter(is_accepted),
        quarantined=pl.DataFrame(kept_out),
        is_refused=any(not item.success and not item.rows.size for item in critical),
    )


def _as_judged(contract: Contract, candidate: pl.DataFrame) -> pa.Table:
    def column_of(field: Field) -> pa.ChunkedArray:
        try:
            return pa.chunked_array([candidate[field.name].to_arrow()])
        except (pl.exceptions.PolarsError, pa.ArrowException) as error:
            raise violation(
                contract,
                f"{field.name} as {field.kind}",
                f"{candidate.schema[field.name]}: {error}",
            ) from error

    return shaped(contract, candidate.columns, column_of)


def _answer(contract: Contract, check: Check, frame: pl.DataFrame) -> CheckAnswer:
    label = gx.check_label(check)
    rows = np.empty(0, np.int64)
    if check.name == "row_count":
        success = _row_count_is_right(check, frame.height)
    else:
        try:
            fails = frame.select(_FAILS[check.name](check, frame)).to_series()
        except pl.exceptions.PolarsError as error:
            raise unanswered(contract, {label: str(error)}) from error
        # Null is the answer where a cell is missing, and only not_null looks at those.
        rows = np.flatnonzero(fails.fill_null(value=False).to_numpy())
        success = not rows.size
    return CheckAnswer(label, check.severity, check.reason or label, success, rows)


def _row_count_is_right(check: Check, rows: int) -> bool:
    return bool(check.params.get("min", 0) <= rows <= check.params.get("max", rows))


def _not_null(check: Check, _: pl.DataFrame) -> pl.Expr:
    (column,) = check.columns
    return pl.col(column).is_null()


def _unique(check: Check, _: pl.DataFrame) -> pl.Expr:
    is_whole = pl.all_horizontal(pl.col(name).is_not_null() for name in check.columns)
    return pl.struct(check.columns).is_duplicated() & is_whole


def _in_range(check: Check, _: pl.DataFrame) -> pl.Expr:
    cell = pl.col(*check.columns)
    fails = pl.lit(value=False)
    if "min" in check.params:
        low = check.params["min"]
        fails |= cell <= low if check.params.get("strict_min") else cell < low
    if "max" in check.params:
        fails |= cell > check.params["max"]
    return fails


def _in_set(check: Check, frame: pl.DataFrame) -> pl.Expr:
    return _outside(check, frame, check.params["values"])


def _matches(check: Check, frame: pl.DataFrame) -> pl.Expr:
    (column,) = check.columns
    distinct = frame[column].unique().drop_nulls()
    # Through pandas, whose regular expressions are those of the gate of record.
    matching = distinct.to_pandas().astype(str).str.contains(f"^(?:{check.params['regex']})$")
    return _outside(check, frame, distinct.filter(matching.to_numpy(bool)))


def _not_above(check: Check, _: pl.DataFrame) -> pl.Expr:
    lower, upper = check.columns
    return pl.col(lower) > pl.col(upper)


def _only_sessions(check: Check, frame: pl.DataFrame) -> pl.Expr:
    (column,) = check.columns
    days = frame[column].unique().drop_nulls()
    return _outside(check, frame, sessions_among(days, check.params["calendar"]))


def _outside(check: Check, frame: pl.DataFrame, allowed: Sequence[Any] | pl.Series) -> pl.Expr:
    (column,) = check.columns
    return ~pl.col(column).is_in(pl.Series(allowed, dtype=frame.schema[column]).implode())


_FAILS: dict[CheckName, Callable[[Check, pl.DataFrame], pl.Expr]] = {
    "not_null": _not_null,
    "unique": _unique,
    "in_range": _in_range,
    "in_set": _in_set,
    "matches": _matches,
    "not_above": _not_above,
    "only_sessions": _only_sessions,
}
"""Which rows fail each check that a single row can fail; null is no failure."""
