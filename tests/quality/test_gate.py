"""The gate finds exactly the rows that a straightforward pandas implementation finds."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marketlake.calendars import Calendar
from marketlake.contracts import Check, Contract, Field, gx
from marketlake.contracts.arrow import conform
from marketlake.contracts.catalog import (
    CATALOG,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_GATE_REPORT,
    CORE_QUALITY_QUARANTINE,
)
from marketlake.errors import ConfigError, ContractViolation, GateFailed
from marketlake.quality.gate import Judgement, judge
from marketlake.types import Partition

SESSION = date(2022, 12, 28)
PARTITION = Partition.of_session(SESSION)

VOCABULARY = Contract(
    name="core_test__vocabulary",
    doc="One contract with every check of the vocabulary.",
    grain="one row per session and symbol",
    owner="tests",
    key=("session", "symbol"),
    fields=(
        Field("session", "date", "session"),
        Field("symbol", "string", "symbol"),
        Field("low", "float64", "lower", "", True),
        Field("high", "float64", "upper", "", True),
        Field("count", "int64", "whole number"),
        Field("kind", "string", "one of two", "", True),
        Field("code", "string", "one capital and digits", "", True),
        Field("serial", "int64", "unique alone"),
        Field("needed", "float64", "may not be null"),
    ),
    checks=(
        Check("unique", ("session", "symbol"), reason="two rows for one key"),
        Check("unique", ("serial",), severity="warning"),
        Check("row_count", (), {"min": 1, "max": 12}),
        Check("only_sessions", ("session",), {"calendar": "XNYS"}),
        Check("not_null", ("needed",)),
        Check("in_range", ("low",), {"min": 0.0, "strict_min": True}),
        Check("in_range", ("high",), {"max": 5.0}, severity="warning"),
        Check("in_range", ("count",), {"min": -1, "max": 2}),
        Check("in_set", ("kind",), {"values": ["split", "dividend"]}),
        Check("matches", ("code",), {"regex": "[A-Z][0-9]*"}),
        Check("not_above", ("low", "high"), reason="low above high"),
    ),
)


def reference_failures(frame: pd.DataFrame) -> dict[tuple[str, str], set[int]]:
    """Return failing row numbers by (check, severity), row by row, with no library's help."""
    sessions = set(Calendar.of("XNYS").sessions(date(2022, 1, 1), date(2023, 12, 31)))

    def is_bad(check: Check, row: dict[str, Any], rows: list[dict[str, Any]]) -> bool:
        cells = [row[name] for name in check.columns]
        if check.name == "not_null":
            return bool(pd.isna(cells[0]))
        if any(pd.isna(cell) for cell in cells):
            return False
        low, high = check.params.get("min", -np.inf), check.params.get("max", np.inf)
        bad = {
            "unique": lambda: (
                sum([other[name] for name in check.columns] == cells for other in rows) > 1
            ),
            "only_sessions": lambda: cells[0] not in sessions,
            "in_range": lambda: (
                not low <= cells[0] <= high or ("strict_min" in check.params and cells[0] == low)
            ),
            "in_set": lambda: cells[0] not in check.params["values"],
            "matches": lambda: re.fullmatch(check.params["regex"], cells[0]) is None,
            "not_above": lambda: cells[0] > cells[1],
        }
        return bool(bad[check.name]())

    rows = frame.to_dict("records")
    return {
        (gx.check_label(check), check.severity): {
            number for number, row in enumerate(rows) if is_bad(check, row, rows)
        }
        for check in VOCABULARY.checks
        if check.name != "row_count"
    }


def found_failures(judgement: Judgement) -> dict[tuple[str, str], set[int]]:
    return {
        (item["check"], item["severity"]): {row["row_no"] for row in item["failing_rows"]}
        for item in judgement.report["results"]
        if item["level"] == "row"
    }


@pytest.fixture(scope="module")
def suites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("expectations")
    (folder / f"{VOCABULARY.name}.json").write_text(gx.render_suite(VOCABULARY), encoding="utf-8")
    return folder


def judge_vocabulary(frame: pd.DataFrame, suites: Path, *, limit: float = 1.0) -> Judgement:
    return judge(
        VOCABULARY, frame, partition=PARTITION, max_quarantined_fraction=limit, suites=suites
    )


_NUMBER = st.sampled_from([None, -1.0, 0.0, 5e-324, 1.0, 4.999999999999999, 5.0, 5.1, 1e300])
_ROW = st.fixed_dictionaries(
    {
        "session": st.sampled_from(
            [SESSION, date(2022, 12, 26), date(2022, 12, 24), date(2023, 1, 3), date(1970, 1, 1)]
        ),
        "symbol": st.sampled_from(["A", "B", "C.D", "^E"]),
        "low": _NUMBER,
        "high": _NUMBER,
        "count": st.integers(-3, 4),
        "kind": st.sampled_from([None, "split", "dividend", "Split", ""]),
        "code": st.sampled_from([None, "A", "A1", "AB", "a1", "1A1", "A1 ", "", "XA1"]),
        "serial": st.integers(0, 6),
        "needed": st.sampled_from([None, 0.0, 1.0]),
    }
)
_FLOATS = dict.fromkeys(("low", "high", "needed"), "float64")


def as_frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=[field.name for field in VOCABULARY.fields])
    texts = dict.fromkeys(("symbol", "kind", "code"), "str")
    return frame.astype({**_FLOATS, **texts, "count": "int64", "serial": "int64"})


def passed(judgement: Judgement) -> bool:
    return bool(judgement.report["verdict"] == "passed")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(_ROW, max_size=14))
def test_every_check_finds_exactly_the_rows_that_plain_python_finds(
    rows: list[dict[str, Any]], suites: Path
) -> None:
    frame = as_frame(rows)
    untouched = frame.copy(deep=True)
    judgement = judge_vocabulary(frame, suites)
    expected = reference_failures(frame)

    assert found_failures(judgement) == expected
    pd.testing.assert_frame_equal(frame, untouched)

    bad = set().union(*(numbers for (_, grade), numbers in expected.items() if grade == "critical"))
    quarantined = judgement.quarantined
    assert set(quarantined["row_no"]) == bad
    pd.testing.assert_frame_equal(
        judgement.accepted, frame.iloc[[number for number in range(len(rows)) if number not in bad]]
    )
    reasons = {
        (check, row)
        for (check, grade), numbers in expected.items()
        if grade == "critical"
        for row in numbers
    }
    assert set(zip(quarantined["check"], quarantined["row_no"], strict=True)) == reasons
    assert len(quarantined) == len(reasons)
    assert passed(judgement) == (1 <= len(rows) <= 12)
    json.dumps(judgement.report, allow_nan=False)


def bars(*, symbols: int = 8) -> pd.DataFrame:
    names = [f"S{number:02d}" for number in range(symbols)]
    return pd.DataFrame(
        {
            "session": [SESSION] * symbols,
            "symbol": names,
            "open_usd": 10.0,
            "high_usd": 11.0,
            "low_usd": 9.0,
            "close_usd": 10.5,
            "volume_shares": 1000.0,
            "close_move_pct": 1.0,
            "n_sources": 1,
            "n_agreed": 1,
            "chosen_source": "yahoo",
            "volume_source": "yahoo",
            "flags": [[] for _ in names],
            "simulated_fields": [["open_usd"] for _ in names],
            "known_at_utc": [datetime(2022, 12, 28, 21, 15, tzinfo=UTC)] * symbols,
        }
    )


def judge_bars(frame: pd.DataFrame, *, limit: float = 0.25) -> Judgement:
    return judge(CORE_MARKET_DAILY_BAR, frame, partition=PARTITION, max_quarantined_fraction=limit)


def spoiled(column: str, value: Any, *, row: int = 3) -> pd.DataFrame:
    frame = bars()
    frame.loc[row, column] = value
    return frame


@pytest.mark.parametrize(
    ("frame", "check"),
    [
        (spoiled("close_usd", np.nan), "not_null(close_usd)"),
        (spoiled("volume_shares", np.nan), "not_null(volume_shares)"),
        (spoiled("low_usd", 0.0), "in_range(low_usd, min=0.0, strict_min=True)"),
        (spoiled("volume_shares", -1.0), "in_range(volume_shares, min=0.0)"),
        (spoiled("low_usd", 10.2), "not_above(low_usd, open_usd)"),
        (spoiled("high_usd", 10.4), "not_above(close_usd, high_usd)"),
        (spoiled("close_move_pct", 9900.0), "in_range(close_move_pct, min=-80.0, max=400.0)"),
        (spoiled("session", date(2022, 12, 25)), "only_sessions(session, calendar=XNYS)"),
        (spoiled("session", date(1970, 1, 1)), "only_sessions(session, calendar=XNYS)"),
    ],
)
def test_an_injected_fault_is_quarantined_under_its_own_name(
    frame: pd.DataFrame, check: str
) -> None:
    judgement = judge_bars(frame)
    assert passed(judgement)
    assert judgement.quarantined[["symbol", "check", "row_no"]].to_dict("records") == [
        {"symbol": "S03", "check": check, "row_no": 3}
    ]
    assert judgement.quarantined["reason"].str.len().min() > 0
    assert json.loads(judgement.quarantined["row_json"][0])["symbol"] == "S03"
    assert list(judgement.accepted["symbol"]) == [
        "S00", "S01", "S02", "S04", "S05", "S06", "S07"
    ]  # fmt: skip


def test_clean_bars_pass_and_nothing_is_quarantined() -> None:
    judgement = judge_bars(bars())
    assert passed(judgement)
    assert judgement.quarantined.empty
    assert all(item["success"] for item in judgement.report["results"])
    assert judgement.report["rows_in"] == 8


def test_both_rows_of_a_repeated_key_are_quarantined_apart() -> None:
    frame = pd.concat([bars(), bars().iloc[[2]]], ignore_index=True)
    judgement = judge_bars(frame)
    assert list(judgement.quarantined["row_no"]) == [2, 8]
    assert set(judgement.quarantined["check"]) == {"unique(session, symbol)"}


def test_a_row_with_two_faults_keeps_both_reasons() -> None:
    frame = spoiled("high_usd", 1.0)
    judgement = judge_bars(frame)
    assert list(judgement.quarantined["check"]) == [
        "not_above(close_usd, high_usd)",
        "not_above(open_usd, high_usd)",
    ]
    assert judgement.report["rows_quarantined"] == 1


def test_a_spike_is_a_warning_and_stays_accepted() -> None:
    judgement = judge_bars(spoiled("close_move_pct", -12.5))
    assert passed(judgement)
    assert len(judgement.accepted) == 8
    (warning,) = (item for item in judgement.report["results"] if not item["success"])
    assert (warning["check"], warning["severity"], warning["reason"]) == (
        "in_range(close_move_pct, min=-10.0, max=10.0)",
        "warning",
        "price spike above 10 %",
    )
    assert warning["failing_rows"] == [
        {"row_no": 3, "session": "2022-12-28", "symbol": "S03", "close_move_pct": -12.5}
    ]


def test_more_bad_rows_than_the_limit_refuse_the_whole_artifact() -> None:
    frame = bars()
    frame.loc[[0, 1], "close_usd"] = np.nan
    assert passed(judge_bars(frame, limit=0.25))
    refused = judge_bars(frame, limit=0.24)
    assert refused.report["verdict"] == "failed"
    assert refused.report["rows_quarantined"] == 2
    (rule,) = [item for item in refused.report["results"] if item["type"] == "gate_rule"]
    assert rule["observed_value"] == 0.25


def test_an_empty_candidate_is_refused_where_the_contract_wants_rows() -> None:
    judgement = judge_bars(bars().iloc[:0].astype({"session": "datetime64[ms]"}))
    assert judgement.report["verdict"] == "failed"
    assert judgement.quarantined.empty


def test_no_actions_are_good_actions() -> None:
    frame = conform_frame(CORE_MARKET_CORPORATE_ACTION, [])
    judgement = judge(
        CORE_MARKET_CORPORATE_ACTION, frame, partition=PARTITION, max_quarantined_fraction=0.25
    )
    assert passed(judgement)


def conform_frame(contract: Contract, rows: list[dict[str, Any]]) -> pd.DataFrame:
    import pyarrow as pa
    from marketlake.contracts.arrow import schema

    return pa.Table.from_pylist(rows, schema=schema(contract)).to_pandas()


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (bars().drop(columns=["close_usd"]), "the columns"),
        (bars().assign(extra=1), "extra"),
        (bars().astype({"close_usd": "str"}), "close_usd as float64"),
        (bars().assign(close_usd=["10.5"] * 8), "close_usd as float64"),
        (bars().assign(close_usd=[10.5, "x", *[1.0] * 6]), "close_usd as float64"),
        (bars().assign(close_usd=True), "close_usd as float64"),
        (bars().assign(close_usd=np.inf), "finite numbers in close_usd"),
        (bars().assign(session="2022-12-28"), "session as date"),
        (bars().assign(session=pd.Timestamp("2022-12-28 21:00")), "session as date"),
        (bars().assign(known_at_utc=pd.Timestamp("2022-12-28 21:00")), "known_at_utc as timestamp"),
        (bars().assign(n_sources=1.5), "n_sources as int64"),
        (bars().assign(symbol=None), "a value in every row of symbol"),
        (spoiled("chosen_source", None), "a value in every row of chosen_source"),
    ],
)
def test_a_candidate_of_the_wrong_shape_is_a_violation_with_a_clear_text(
    frame: pd.DataFrame, says: str
) -> None:
    with pytest.raises(ContractViolation, match=re.escape(says)):
        judge_bars(frame)


def test_a_suite_that_is_not_the_contracts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        judge_vocabulary(as_frame([]), tmp_path)
    stale = gx.suite(VOCABULARY)
    del stale["expectations"][0]
    (tmp_path / f"{VOCABULARY.name}.json").write_text(json.dumps(stale), encoding="utf-8")
    with pytest.raises(ConfigError, match="marketlake contracts render"):
        judge_vocabulary(as_frame([]), tmp_path)


def test_a_check_that_cannot_be_evaluated_never_passes(tmp_path: Path) -> None:
    broken = Contract(
        name="core_test__broken",
        doc="A range over text.",
        grain="one row per symbol",
        owner="tests",
        key=("symbol",),
        fields=(Field("symbol", "string", "symbol"),),
        checks=(Check("in_range", ("symbol",), {"min": 0.0}),),
    )
    (tmp_path / f"{broken.name}.json").write_text(gx.render_suite(broken), encoding="utf-8")
    with pytest.raises(GateFailed, match="an answer to every check"):
        judge(
            broken,
            pd.DataFrame({"symbol": ["A"]}),
            partition=PARTITION,
            max_quarantined_fraction=1.0,
            suites=tmp_path,
        )


def test_report_and_quarantine_have_the_shape_of_their_contracts() -> None:
    import pyarrow as pa

    judgement = judge_bars(spoiled("close_usd", np.nan))
    assert set(judgement.report) == {field.name for field in CORE_QUALITY_GATE_REPORT.fields}
    table = pa.Table.from_pandas(judgement.quarantined, preserve_index=False)
    assert conform(CORE_QUALITY_QUARANTINE, table).num_rows == 1
    empty = pa.Table.from_pandas(judge_bars(bars()).quarantined, preserve_index=False)
    assert conform(CORE_QUALITY_QUARANTINE, empty).num_rows == 0


def test_the_same_candidate_gets_the_same_report() -> None:
    frame = spoiled("close_usd", np.nan)
    assert judge_bars(frame).report == judge_bars(frame).report


def test_every_contract_with_checks_has_a_suite_that_great_expectations_can_run() -> None:
    checked = [contract for contract in CATALOG if contract.checks]
    assert checked
    for contract in checked:
        judgement = judge(
            contract,
            conform_frame(contract, []),
            partition=PARTITION,
            max_quarantined_fraction=0.25,
        )
        rows = [item for item in judgement.report["results"] if item["level"] == "row"]
        assert all(item["success"] for item in rows), contract.name
