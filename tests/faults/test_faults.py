"""Every declared fault, made for real: it stops where it must, says so, and leaks nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import pyarrow as pa
import pytest
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_DAILY_BAR,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    contract,
)
from marketlake.errors import MarketlakeError
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.warehouse import Warehouse
from marketlake.types import Partition
from pydantic import BaseModel, SecretStr

from tests.faults import page
from tests.faults.bench import SESSION, SYMBOLS, Bench, published
from tests.faults.cases import (
    ALL,
    BENCHMARK,
    FAULTS,
    KEPT_OUT,
    LEFT_OUT,
    WRONG,
    Case,
    Fault,
    KeptOut,
    LeftOut,
)


@pytest.fixture
def bench(
    storage_settings: Settings,
    sandbox_settings: Settings,
    ledger: LedgerClient,
    warehouse: Warehouse,
    scratch_root: Path,
    tmp_path: Path,
) -> Iterator[Bench]:
    with Bench.of(
        storage_settings, sandbox_settings, folder=tmp_path, scratch_root=scratch_root
    ) as one:
        yield one


@pytest.fixture(scope="module")
def said(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Yield where cases leave their words; written to the page if that was asked for."""
    words: dict[str, str] = {}
    yield words
    if request.config.getoption("--write-errors-page", default=False):
        page.PAGE.write_text(
            page.render(page.words_on_the_page(page.page_text()) | words), encoding="utf-8"
        )


def agree(said: dict[str, str], case: Case, request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--write-errors-page", default=False):
        assert page.row(case, said[case.name]) in page.page_text().splitlines(), (
            "docs/errors.md says otherwise: run `python -m pytest tests/faults --write-errors-page`"
        )


def stopped_at(trace: TracebackType | None) -> set[str]:
    """Return the step of the line in which an error was raised, or our functions on its way."""
    functions = set()
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "step" and "daily_line" in frame.f_code.co_filename:
            return {f"{frame.f_locals['run'].dag_id}.{frame.f_locals['run'].task_id}"}
        functions.add(frame.f_code.co_name)
        trace = trace.tb_next
    return functions


def secrets_of(settings: BaseModel) -> Iterator[str]:
    for _, value in settings:
        if isinstance(value, SecretStr) and value.get_secret_value():
            yield value.get_secret_value()
        elif isinstance(value, BaseModel):
            yield from secrets_of(value)


def _params(cases: Iterable[Fault | LeftOut]) -> list[Any]:
    return [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
        for case in cases
    ]


@pytest.mark.parametrize("case", _params(FAULTS))
def test_a_fault_stops_at_its_place_with_its_error_and_nothing_behind_it_is_published(
    case: Fault, bench: Bench, said: dict[str, str], request: pytest.FixtureRequest
) -> None:
    bench.settings = bench.changed("market", sources=case.sources)
    with pytest.raises(MarketlakeError) as raised:
        case.make(bench)
    error = raised.value
    assert type(error) is case.error, error
    assert case.stops_at in stopped_at(raised.tb), error
    for part in (error.expected, error.was, error.where, error.todo):
        assert part.strip()
    for secret in (WRONG, *secrets_of(bench.settings)):
        assert secret not in f"{error!s}{error!r}"
    assert published(bench.settings) == case.published
    logged = LedgerClient(bench.settings.ledger).entries(kind="published", run_id=bench.run_id)
    assert {entry.payload["contract"] for entry in logged} == case.published
    said[case.name] = page.told(error)
    agree(said, case, request)


@pytest.mark.timeout(180, func_only=True)
@pytest.mark.parametrize("case", _params(LEFT_OUT))
def test_a_source_that_fails_is_left_out_with_its_reason_and_the_session_goes_on(
    case: LeftOut, bench: Bench, said: dict[str, str], request: pytest.FixtureRequest
) -> None:
    case.make(bench)
    bench.validate()
    lake = Lake(bench.settings.lake)
    bars = {
        bar["symbol"]: bar
        for bar in lake.read(CORE_MARKET_DAILY_BAR, [SESSION], as_of=SESSION).to_pylist()
    }
    having = {symbol: having_bars(case, symbol) for symbol in (*SYMBOLS, BENCHMARK)}
    assert set(bars) == {symbol for symbol, sources in having.items() if sources}
    for symbol, bar in bars.items():
        flags = {*bar["flags"]} & {"single_source", "two_source"}
        assert flags == {1: {"single_source"}, 2: {"two_source"}, 3: set()}[len(having[symbol])]
        assert {bar["chosen_source"], bar["volume_source"]} <= having[symbol]
    answers = rows_of(lake, "core_quality__source_answer")
    for source, symbols in case.answered.items():
        own = {row["symbol"]: row for row in answers if row["source"] == source}
        failed = {symbol for symbol, row in own.items() if row["outcome"] == "failed"}
        assert failed == (set() if case.no_bars else {*own} - {*symbols})
        assert all(own[symbol]["reason"] for symbol in failed)
    said_of = {row["symbol"] for row in rows_of(lake, "core_quality__quarantine")}
    assert said_of == ({*having} if case.no_bars else set())
    comparison = document(lake, OUT_DATA_VALIDATION_SOURCE_COMPARISON)
    told = {row["source"]: row for row in comparison["sources"]}
    assert {name for name, row in told.items() if row["reason"]} == set(case.answered)
    assert {name for name, row in told.items() if row["outcome"] == "dropped"} == {
        name for name, symbols in case.answered.items() if not symbols
    }
    words = [f"{name} {told[name]['outcome']}: {told[name]['reason']}" for name in case.answered]
    for secret in (WRONG, *secrets_of(bench.settings)):
        assert secret not in json.dumps([answers, comparison], default=str)
    said[case.name] = page.quoted("; ".join(words))
    agree(said, case, request)


def having_bars(case: LeftOut, symbol: str) -> set[str]:
    """Return the sources whose bar of a symbol counts."""
    listing = {"yahoo"} if symbol == BENCHMARK else {*ALL}
    return {name for name in listing if symbol in case.answered.get(name, (symbol,))}


def rows_of(lake: Lake, name: str) -> list[dict[str, Any]]:
    table = lake.read_ref(lake.ref(contract(name), Partition.of_session(SESSION)))
    assert isinstance(table, pa.Table)
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows


def document(lake: Lake, item: Contract) -> dict[str, Any]:
    content = lake.read_ref(lake.ref(item, Partition.of_session(SESSION)))
    assert isinstance(content, dict)
    return content


@pytest.mark.parametrize("case", KEPT_OUT, ids=lambda case: case.name)
def test_a_bad_row_is_told_of_and_kept_out_of_core(
    case: KeptOut, bench: Bench, said: dict[str, str], request: pytest.FixtureRequest
) -> None:
    case.make(bench)
    bench.validate()
    lake = Lake(bench.settings.lake)
    bars = lake.read(CORE_MARKET_DAILY_BAR, [SESSION], as_of=SESSION).to_pylist()
    assert bars
    own = [bar for bar in bars if bar["symbol"] == case.symbol]
    assert len(own) == bool(case.stands_in)
    for bar in own:
        assert bar["n_sources"] == len(case.stands_in)
        assert {bar["chosen_source"], bar["volume_source"]} <= {*case.stands_in}
    rows = [row for row in rows_of(lake, case.told_in) if row["symbol"] == case.symbol]
    words = sorted({_why(row) for row in rows} - {""})
    assert words
    said[case.name] = page.quoted("; ".join(words))
    agree(said, case, request)


def _why(row: dict[str, Any]) -> str:
    if "outcome" in row:
        return f"{row['outcome']}: {row['reason']}" if row["reason"] else ""
    return f"{row.get('kind') or row['check']}: {row.get('detail') or row['reason']}"
