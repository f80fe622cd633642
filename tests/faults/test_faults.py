"""Every declared fault, made for real: it stops where it must, says so, and leaks nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pytest
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR, contract
from marketlake.errors import MarketlakeError
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.warehouse import Warehouse
from marketlake.types import Partition
from pydantic import BaseModel, SecretStr

from tests.faults import page
from tests.faults.bench import SESSION, Bench, published
from tests.faults.cases import FAULTS, KEPT_OUT, WRONG, Fault, KeptOut


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


def agree(said: dict[str, str], case: Fault | KeptOut, request: pytest.FixtureRequest) -> None:
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


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=case.name, marks=[pytest.mark.slow] if case.slow else [])
        for case in FAULTS
    ],
)
def test_a_fault_stops_at_its_place_with_its_error_and_nothing_behind_it_is_published(
    case: Fault, bench: Bench, said: dict[str, str], request: pytest.FixtureRequest
) -> None:
    with pytest.raises(MarketlakeError) as raised:
        case.make(bench)
    error = raised.value
    assert type(error) is case.error, error
    assert case.stops_at in stopped_at(raised.tb), error
    for part in (error.expected, error.was, error.where, error.todo):
        assert part.strip()
    for secret in (WRONG, *secrets_of(bench.settings)):
        assert secret not in f"{error!s}{error!r}"
    assert published(bench.settings) == set(case.leaves)
    logged = LedgerClient(bench.settings.ledger).entries(kind="published", run_id=bench.run_id)
    assert {entry.payload["contract"] for entry in logged} == set(case.leaves)
    said[case.name] = page.told(error)
    agree(said, case, request)


@pytest.mark.parametrize("case", KEPT_OUT, ids=lambda case: case.name)
def test_a_bad_row_is_told_of_and_kept_out_of_core(
    case: KeptOut, bench: Bench, said: dict[str, str], request: pytest.FixtureRequest
) -> None:
    case.make(bench)
    lake = Lake(bench.settings.lake)
    bars = lake.read(CORE_MARKET_DAILY_BAR, [SESSION], as_of=SESSION)
    assert bars.num_rows
    assert case.symbol not in bars["symbol"].to_pylist()
    table = lake.read_ref(lake.ref(contract(case.told_in), Partition.of_session(SESSION)))
    assert isinstance(table, pa.Table)
    rows = [row for row in table.to_pylist() if row["symbol"] == case.symbol]
    words = sorted({f"{row.get('kind') or row['check']}: {_why(row)}" for row in rows})
    assert words
    said[case.name] = page.quoted("; ".join(words))
    agree(said, case, request)


def _why(row: dict[str, str]) -> str:
    return row.get("detail") or row["reason"]
