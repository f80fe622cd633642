"""The kernel says what the gate of record says: verdicts, failing rows, quarantine bytes."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marketlake.contracts import Check, Contract, Field, gx
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import CATALOG, CORE_MARKET_DAILY_BAR
from marketlake.errors import ConfigError, ContractViolation, GateFailed
from marketlake.quality import kernel
from marketlake.quality.gate import judge
from marketlake.quality.kernel import FastVerdict, judge_fast
from marketlake.types import Partition

from tests.quality.test_gate import VOCABULARY

SESSION = date(2022, 12, 28)
PARTITION = Partition.of_session(SESSION)
ODD = Contract(
    name="core_test__odd",
    doc="What the catalog does not have: nulls in what must be unique, and a column row_no.",
    grain="one row per source and row",
    owner="tests",
    key=("source", "row_no"),
    fields=(
        Field("source", "string", "source"),
        Field("row_no", "int64", "row of the source"),
        Field("low", "float64", "lower", "", True),
        Field("high", "float64", "upper", "", True),
        Field("kind", "string", "kind", "", True),
        Field("day", "date", "day", "", True),
        Field("tags", "strings", "texts"),
        Field("body", "binary", "bytes"),
    ),
    checks=(
        Check("unique", ("kind", "day", "low"), reason="the same twice"),
        Check("unique", ("kind",), severity="warning"),
        Check("unique", ("high",)),
        Check("not_null", ("day",)),
        Check("only_sessions", ("day",), {"calendar": "XNYS"}, severity="warning"),
        Check("in_range", ("row_no",), {"min": -0.5, "max": 6}),
        Check("in_set", ("low",), {"values": [0.0, 1.0, 2.5]}),
        Check("not_above", ("low", "high")),
        Check("matches", ("kind",), {"regex": "A[0-9]|[é-ü]+"}),
        Check("row_count", (), {"max": 5}, severity="warning"),
    ),
)
CHECKED = [*(contract for contract in CATALOG if contract.checks), VOCABULARY, ODD]
_ids = {"argvalues": CHECKED, "ids": [contract.name for contract in CHECKED]}

_FLOATS = (
    -math.inf,
    -81.0,
    -1.0,
    -0.5,
    -0.0,
    0.0,
    5e-324,
    0.5,
    1.0,
    1.1,
    9.0,
    101.0,
    401.0,
    5001.0,
)
_ODD_CELLS: dict[str, list[Any]] = {
    "float64": [None, math.nan, *_FLOATS[1:]],
    "float32": [None, math.nan, 0.0, 0.5, 1.0, 101.0],
    "int64": [-3, -1, 0, 1, 2, 5, 2**53 + 1],
    "string": ["", "a", "a\n", "ab", "A1", "ü", "Split", "nan", 'quote " and \\'],
    "date": [date(2022, 12, 26), date(2022, 12, 24), date(1970, 1, 1), date(2060, 1, 5)],
    "bool": [True, False],
    "strings": [[], ["spike", "ü"]],
    "binary": [b"", b"\x00\xff"],
    "timestamp_utc": [datetime(2022, 12, 28, 21, 15, 0, 1, tzinfo=UTC)],
}


def good_cell(contract: Contract, name: str, row: int) -> Any:
    """Return a value that passes every check, and differs from row to row in texts and counts."""
    checks = [check for check in contract.checks if name in check.columns]
    kind = contract.field(name).kind
    if kind == "string":
        values = [value for check in checks for value in check.params.get("values", ())]
        return values[0] if values else f"A{row}"
    if kind in {"float64", "float32"} and Check("unique", (name,)) in checks:
        return 1.0 + row
    if kind in {"float64", "float32"}:
        ranges = [check.params for check in checks if check.name == "in_range"]
        return next(
            value
            for value in (1.0, 0.0)
            if all(one.get("min", -9) <= value <= one.get("max", 9) for one in ranges)
        )
    return {"int64": row, "date": SESSION}.get(kind, _ODD_CELLS.get(kind, [None])[0])


def good_rows(contract: Contract, count: int) -> list[dict[str, Any]]:
    return [
        {field.name: good_cell(contract, field.name, row) for field in contract.fields}
        for row in range(count)
    ]


def frame_of(contract: Contract, rows: list[dict[str, Any]]) -> pl.DataFrame:
    types = schema(contract)
    columns = {
        name: pa.array([row[name] for row in rows], types.field(name).type) for name in types.names
    }
    return pl.DataFrame(pa.table(columns))


def may_be_null(contract: Contract, field: Field) -> bool:
    judged = {name for one in contract.checks if one.name == "not_null" for name in one.columns}
    return field.name not in contract.key and (field.nullable or field.name in judged)


@st.composite
def candidates(draw: st.DrawFn, contract: Contract) -> pl.DataFrame:
    """Draw good rows with some odd cells, some copied rows, and some columns swapped."""
    rows = good_rows(contract, draw(st.integers(0, 7)))
    numbers = st.integers(0, max(len(rows) - 1, 0))
    for _ in range(draw(st.integers(0, 12)) if rows else 0):
        row = rows[draw(numbers)]
        field = draw(st.sampled_from(contract.fields))
        cell = draw(st.sampled_from(_ODD_CELLS[field.kind]))
        row[field.name] = cell
        if not may_be_null(contract, field) and (cell is None or cell != cell):
            row[field.name] = 2.0
    rows += [dict(rows[number]) for number in draw(st.lists(numbers, max_size=2)) if rows]
    pairs = [check.columns for check in contract.checks if check.name == "not_above"]
    for lower, upper in (
        draw(st.lists(st.sampled_from(pairs), max_size=2)) if rows and pairs else []
    ):
        row = rows[draw(numbers)]
        row[lower], row[upper] = row[upper], row[lower]
    return frame_of(contract, rows)


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expectations")
    for contract in CHECKED:
        (folder / f"{contract.name}.json").write_text(gx.render_suite(contract), encoding="utf-8")
    return folder


def require_equal(contract: Contract, candidate: pl.DataFrame, suites: Path) -> FastVerdict:
    """Judge by both; return the kernel's verdict after finding it the same."""
    of_record = judge(
        contract,
        candidate.to_pandas(),
        partition=PARTITION,
        max_quarantined_fraction=1.0,
        suites=suites,
    )
    fast = judge_fast(contract, candidate, partition=PARTITION)
    assert [
        (one.check, one.severity, one.reason, one.success, one.rows.tolist())
        for one in fast.answers
    ] == [
        (
            one["check"],
            one["severity"],
            one["reason"],
            one["success"],
            [row["row_no"] for row in one["failing_rows"]],
        )
        for one in of_record.report["results"]
        if one["type"] != "gate_rule"
    ]
    assert fast.is_refused == (of_record.report["verdict"] == "failed")
    quarantined = pa.Table.from_pandas(of_record.quarantined, preserve_index=False)
    assert fast.quarantined.columns == quarantined.column_names
    assert fast.quarantined.rows() == pl.DataFrame(quarantined).rows()
    assert fast.accepted.equals(candidate[of_record.accepted.index.to_list()])
    return fast


_HELD = {
    "deadline": None,
    "derandomize": True,
    "database": None,
    "suppress_health_check": list(HealthCheck),
}
_ANY = st.sampled_from(CHECKED).flatmap(lambda one: st.tuples(st.just(one), candidates(one)))


@settings(max_examples=12, **_HELD)
@given(judged=_ANY)
def test_the_kernel_says_what_the_gate_of_record_says(
    judged: tuple[Contract, pl.DataFrame], suites: Path
) -> None:
    require_equal(*judged, suites)


@pytest.mark.slow
@settings(max_examples=300, **_HELD)
@given(judged=_ANY)
def test_the_kernel_says_it_of_many_candidates(
    judged: tuple[Contract, pl.DataFrame], suites: Path
) -> None:
    require_equal(*judged, suites)


@pytest.mark.slow
@pytest.mark.parametrize("contract", **_ids)
def test_the_kernel_says_it_of_every_check_that_is_broken(contract: Contract, suites: Path) -> None:
    for check in contract.checks:
        require_equal(contract, spoiled(contract, check), suites)


def spoiled(contract: Contract, check: Check) -> pl.DataFrame:
    """Return a candidate of which at least one row, or its number of rows, fails the check."""
    rows = good_rows(contract, 3)
    first = rows[0]
    if check.name == "row_count":
        return frame_of(contract, good_rows(contract, check.params.get("max", -1) + 1))
    if check.name == "unique":
        first.update({name: rows[1][name] for name in check.columns})
    elif check.name == "not_above":
        lower, upper = check.columns
        first[lower] = first[upper] + 0.5
    else:
        kind = contract.field(check.columns[0]).kind
        first[check.columns[0]] = {
            "not_null": None,
            "in_range": check.params["max"] + 1
            if "max" in check.params
            else check.params.get("min", 0) - 1,
            "in_set": "?" if kind == "string" else 77.0,
            "matches": "?",
            "only_sessions": date(2022, 12, 26),
        }[check.name]
    return frame_of(contract, rows)


@pytest.mark.parametrize("contract", **_ids)
def test_every_check_of_every_contract_finds_what_breaks_it(contract: Contract) -> None:
    clean = judge_fast(contract, frame_of(contract, good_rows(contract, 3)), partition=PARTITION)
    for number, check in enumerate(contract.checks):
        verdict = judge_fast(contract, spoiled(contract, check), partition=PARTITION)
        answer = verdict.answers[number]
        assert (answer.check, answer.success) == (gx.check_label(check), False)
        if check.name == "row_count":
            assert verdict.is_refused == (check.severity == "critical")
        else:
            assert 0 in answer.rows
            assert len(answer.rows) > len(clean.answers[number].rows)
            labels = set(verdict.quarantined["check"])
            assert (answer.check in labels) == (check.severity == "critical")


@pytest.mark.parametrize("ignored", sorted(kernel._FAILS))
def test_a_kernel_that_ignores_a_check_is_caught(
    ignored: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kernel._FAILS, ignored, lambda *_: pl.lit(value=False))
    with pytest.raises(AssertionError):
        test_every_check_of_every_contract_finds_what_breaks_it(VOCABULARY)


def test_a_fault_in_a_contract_with_its_own_row_numbers_is_named_by_position(suites: Path) -> None:
    rows = good_rows(ODD, 4)
    for number, row in enumerate(rows):
        row["row_no"] = 6 - number
    rows[1]["day"] = None
    verdict = require_equal(ODD, frame_of(ODD, rows), suites)
    kept_out = verdict.quarantined.filter(check="not_null(day)")
    assert kept_out["row_no"].to_list() == [1]
    assert '"row_no": 5' in kept_out["row_json"][0]


def test_a_candidate_of_the_wrong_shape_is_refused_by_both(suites: Path) -> None:
    bars = frame_of(CORE_MARKET_DAILY_BAR, good_rows(CORE_MARKET_DAILY_BAR, 3))
    wrong = [
        bars.drop("close_usd"),
        bars.with_columns(extra=1),
        bars.with_columns(close_usd=pl.lit("10")),
        bars.with_columns(close_usd=pl.lit(math.inf)),
        bars.with_columns(symbol=pl.lit(None, pl.String)),
        bars.with_columns(session=pl.lit("2022-12-28")),
    ]
    for candidate in wrong:
        with pytest.raises(ContractViolation) as by_kernel:
            judge_fast(CORE_MARKET_DAILY_BAR, candidate, partition=PARTITION)
        with pytest.raises(ContractViolation) as by_gate:
            require_equal(CORE_MARKET_DAILY_BAR, candidate, suites)
        assert by_kernel.value.expected == by_gate.value.expected


def test_what_cannot_be_judged_never_passes() -> None:
    text = Contract(
        name="core_test__broken",
        doc="A range over text.",
        grain="one row per symbol",
        owner="tests",
        key=("symbol",),
        fields=(Field("symbol", "string", "symbol"),),
        checks=(Check("in_range", ("symbol",), {"min": 0.0}),),
    )
    candidate = pl.DataFrame({"symbol": ["A"]})
    with pytest.raises(GateFailed, match="an answer to every check"):
        judge_fast(text, candidate, partition=PARTITION)
    unchecked = next(one for one in CATALOG if one.form == "parquet" and not one.checks)
    with pytest.raises(ConfigError, match="nothing was judged"):
        judge_fast(unchecked, frame_of(unchecked, []), partition=PARTITION)
