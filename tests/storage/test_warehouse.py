from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from marketlake.contracts import catalog
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR
from marketlake.errors import (
    AuthFailed,
    ConfigError,
    ContractViolation,
    SourceUnavailable,
    Timeout,
)
from marketlake.settings import Settings
from marketlake.storage.warehouse import Loaded, Warehouse
from pydantic import SecretStr

MakeBars = Callable[..., pa.Table]
MONDAY, TUESDAY = date(2022, 11, 14), date(2022, 11, 15)


@pytest.fixture
def empty(warehouse: Warehouse) -> Iterator[Warehouse]:
    """Yield the warehouse with no bars in it."""
    with psycopg.connect(warehouse.conninfo) as connection:
        connection.execute("truncate core.market__daily_bar")
    yield warehouse
    with psycopg.connect(warehouse.conninfo) as connection:
        connection.execute("truncate core.market__daily_bar")


def with_column(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def changes(warehouse: Warehouse) -> dict[str, str]:
    """Return which transaction wrote each row: a row that was left alone keeps its own."""
    rows = warehouse.query(
        "select symbol || session as row, xmin::text as by from core.market__daily_bar"
    )
    return {row["row"]: row["by"] for row in rows}


def test_every_kind_of_value_arrives_as_it_was(empty: Warehouse, bars: MakeBars) -> None:
    table = bars([MONDAY], symbols=("KO",))
    table = with_column(table, "close_usd", pa.array([0.1 + 0.2]))
    table = with_column(table, "flags", pa.array([["spike", 'ünïcode, "quoted"']]))
    assert empty.load(BAR, table, sessions=[MONDAY]) == Loaded(inserted=1, deleted=0)
    (row,) = empty.query("select * from core.market__daily_bar")
    assert row == table.to_pylist()[0]
    assert row["close_usd"] == 0.1 + 0.2
    assert row["simulated_fields"] == ["open_usd"]
    assert row["known_at_utc"] == datetime(2022, 12, 28, 21, 15, tzinfo=UTC)


@pytest.mark.parametrize("day", [date(1990, 1, 2), date(1999, 12, 31), date(2000, 1, 3)])
def test_days_on_both_sides_of_the_wire_formats_epoch_are_right(
    empty: Warehouse, bars: MakeBars, day: date
) -> None:
    at = datetime(day.year, day.month, day.day, 21, 0, 0, 123_456, tzinfo=UTC)
    table = bars([day], symbols=("KO",))
    table = with_column(table, "known_at_utc", pa.array([at], pa.timestamp("us", "UTC")))
    empty.load(BAR, table, sessions=[day])
    (row,) = empty.query("select session, known_at_utc from core.market__daily_bar")
    assert row == {"session": day, "known_at_utc": at}


def test_nan_and_null_are_null(empty: Warehouse, bars: MakeBars) -> None:
    table = bars([MONDAY])
    table = with_column(table, "close_move_pct", pa.array([math.nan, None], pa.float64()))
    empty.load(BAR, table, sessions=[MONDAY])
    rows = empty.query(
        "select count(*) as n from core.market__daily_bar where close_move_pct is null"
    )
    assert rows == [{"n": 2}]
    assert empty.load(BAR, table, sessions=[MONDAY]) == Loaded(0, 0)


def test_a_replay_touches_no_row(empty: Warehouse, bars: MakeBars) -> None:
    days = [MONDAY, TUESDAY]
    assert empty.load(BAR, bars(days), sessions=days) == Loaded(inserted=4, deleted=0)
    before = changes(empty)
    assert empty.load(BAR, bars(days), sessions=days) == Loaded(inserted=0, deleted=0)
    assert changes(empty) == before


def test_a_session_that_is_new_is_added_to_one_that_is_there(
    empty: Warehouse, bars: MakeBars
) -> None:
    empty.load(BAR, bars([MONDAY]), sessions=[MONDAY])
    before = changes(empty)
    both = [MONDAY, TUESDAY]
    assert empty.load(BAR, bars(both), sessions=both) == Loaded(inserted=2, deleted=0)
    after = changes(empty)
    assert len(after) == 4
    assert {row: after[row] for row in before} == before


def test_only_rows_that_changed_are_replaced(empty: Warehouse, bars: MakeBars) -> None:
    empty.load(BAR, bars([MONDAY, TUESDAY]), sessions=[MONDAY, TUESDAY])
    before = changes(empty)
    mixed = pa.concat_tables(
        [bars([MONDAY], symbols=("KO",)), bars([MONDAY], symbols=("XOM",), close=11.0)]
    )
    assert empty.load(BAR, mixed, sessions=[MONDAY]) == Loaded(inserted=1, deleted=1)
    after = changes(empty)
    assert {row for row in after if after[row] != before[row]} == {f"XOM{MONDAY}"}


def test_rows_that_are_gone_are_removed_and_other_sessions_left_alone(
    empty: Warehouse, bars: MakeBars
) -> None:
    empty.load(BAR, bars([MONDAY, TUESDAY]), sessions=[MONDAY, TUESDAY])
    assert empty.load(BAR, bars([MONDAY], symbols=("KO",)), sessions=[MONDAY]) == Loaded(0, 1)
    assert empty.load(BAR, bars([]), sessions=[TUESDAY]) == Loaded(0, 2)
    assert list(changes(empty)) == [f"KO{MONDAY}"]


def test_a_load_that_fails_changes_nothing(empty: Warehouse, bars: MakeBars) -> None:
    empty.load(BAR, bars([MONDAY]), sessions=[MONDAY])
    with psycopg.connect(empty.conninfo) as connection:
        connection.execute(
            "alter table core.market__daily_bar add constraint c check (close_usd < 50) not valid"
        )
    try:
        for day in (MONDAY, TUESDAY):  # one with rows, one without
            with pytest.raises(psycopg.errors.CheckViolation):
                empty.load(BAR, bars([day], close=99.0), sessions=[day])
        assert empty.query("select close_usd from core.market__daily_bar") == [
            {"close_usd": 10.0},
            {"close_usd": 10.0},
        ]
    finally:
        with psycopg.connect(empty.conninfo) as connection:
            connection.execute("alter table core.market__daily_bar drop constraint c")


def test_loads_side_by_side_take_turns(empty: Warehouse, bars: MakeBars) -> None:
    symbols = [f"S{number:03d}" for number in range(200)]
    tables = [bars([MONDAY], symbols=symbols, close=float(close)) for close in range(10, 14)]
    with ThreadPoolExecutor(len(tables)) as pool:
        loads = list(pool.map(lambda table: empty.load(BAR, table, sessions=[MONDAY]), tables))
    assert sorted(load.deleted for load in loads) == [0, 200, 200, 200]
    rows = empty.query("select close_usd, count(*) as n from core.market__daily_bar group by 1")
    assert [row["n"] for row in rows] == [200]


def test_what_may_not_be_loaded_is_refused(empty: Warehouse, bars: MakeBars) -> None:
    with pytest.raises(ContractViolation, match="2022-11-15"):
        empty.load(BAR, bars([MONDAY, TUESDAY]), sessions=[MONDAY])
    twice = pa.concat_tables([bars([MONDAY]), bars([MONDAY])])
    with pytest.raises(ContractViolation, match="repeated"):
        empty.load(BAR, twice, sessions=[MONDAY])
    with pytest.raises(ConfigError, match="warehouse=True"):
        empty.load(catalog.RAW_YAHOO_DAILY_BAR, bars([MONDAY]), sessions=[MONDAY])
    assert changes(empty) == {}


def test_every_warehouse_contract_has_its_table_with_comments(warehouse: Warehouse) -> None:
    warehouse.ensure_schema()
    found = warehouse.query(
        "select n.nspname || '_' || c.relname as contract, obj_description(c.oid) as doc"
        " from pg_class as c join pg_namespace as n on n.oid = c.relnamespace"
        " where c.relkind = 'r' and n.nspname in ('raw', 'core', 'out')"
    )
    documented = {row["contract"]: row["doc"] for row in found}
    for contract in CATALOG:
        if contract.warehouse:
            assert documented[contract.name].startswith(contract.doc)


def test_a_table_that_drifted_from_its_contract_is_refused(warehouse: Warehouse) -> None:
    drifted = "core.reference__universe_member"
    with psycopg.connect(warehouse.conninfo) as connection:
        connection.execute(f"alter table {drifted} rename column sector to industry")
    try:
        with pytest.raises(ConfigError, match=r"sector text, industry text.*universe_member"):
            warehouse.ensure_schema()
    finally:
        with psycopg.connect(warehouse.conninfo) as connection:
            connection.execute(f"alter table {drifted} rename column industry to sector")
    warehouse.ensure_schema()


def test_a_query_takes_parameters_and_cannot_write(empty: Warehouse, bars: MakeBars) -> None:
    empty.load(BAR, bars([MONDAY]), sessions=[MONDAY])
    rows = empty.query(
        "select symbol from core.market__daily_bar where symbol = %(symbol)s", {"symbol": "KO"}
    )
    assert rows == [{"symbol": "KO"}]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        empty.query("delete from core.market__daily_bar returning symbol")


def elsewhere(settings: Settings, **changed: Any) -> Warehouse:
    return Warehouse(settings.postgres.model_copy(update=changed))


def test_a_statement_that_takes_too_long_is_ended(
    warehouse: Warehouse, storage_settings: Settings
) -> None:
    began = time.monotonic()
    with pytest.raises(Timeout, match="within 1 s"):
        elsewhere(storage_settings, statement_timeout_s=1).query("select pg_sleep(30)")
    assert time.monotonic() - began < 10


def test_a_dead_server_is_unavailable(storage_settings: Settings, bars: MakeBars) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dead = elsewhere(storage_settings, port=port)
    with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port}"):
        dead.query("select 1")
    with pytest.raises(SourceUnavailable):
        dead.load(BAR, bars([MONDAY]), sessions=[MONDAY])


def test_a_server_that_never_answers_is_unavailable_within_its_bound(
    storage_settings: Settings,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        hung = elsewhere(storage_settings, port=server.getsockname()[1], connect_timeout_s=2)
        began = time.monotonic()
        with pytest.raises(SourceUnavailable):
            hung.query("select 1")
        assert time.monotonic() - began < 15


def test_a_wrong_password_is_an_authentication_failure(storage_settings: Settings) -> None:
    wrong = elsewhere(storage_settings, password=SecretStr("not-it"))
    with pytest.raises(AuthFailed, match="PASSWORD") as refusal:
        wrong.query("select 1")
    assert "not-it" not in str(refusal.value)


def test_a_warehouse_without_tables_names_the_missing_preparation(
    storage_settings: Settings, bars: MakeBars
) -> None:
    bare = elsewhere(storage_settings, warehouse_db="postgres")
    with pytest.raises(ConfigError, match="marketlake up"):
        bare.load(BAR, bars([MONDAY]), sessions=[MONDAY])
