import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.contracts.arrow import conform, schema, schema_version
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.model import Contract, Field
from marketlake.errors import ContractViolation
from marketlake.settings import PROJECT_ROOT

EVERY_KIND = Contract(
    name="core_test__every_kind",
    doc="One column of every kind.",
    grain="one row per session and symbol",
    owner="tests",
    key=("session", "symbol"),
    fields=(
        Field("session", "date", ""),
        Field("symbol", "string", ""),
        Field("count", "int64", ""),
        Field("price_usd", "float64", "", "USD"),
        Field("move_pct", "float64", "", "%", nullable=True),
        Field("simulated", "bool", ""),
        Field("flags", "strings", ""),
        Field("body", "binary", ""),
        Field("known_at_utc", "timestamp_utc", "", "UTC"),
    ),
)


def row(symbol: str = "KO", **changes: Any) -> dict[str, Any]:
    return {
        "session": date(2022, 12, 28),
        "symbol": symbol,
        "count": 3,
        "price_usd": 63.25,
        "move_pct": None,
        "simulated": False,
        "flags": ["spike"],
        "body": b"\x00\xff",
        "known_at_utc": datetime(2022, 12, 28, 21, 15, tzinfo=UTC),
    } | changes


def table(*rows: dict[str, Any]) -> pa.Table:
    return pl.DataFrame(list(rows)).to_arrow()


@pytest.mark.parametrize("contract", CATALOG, ids=lambda contract: contract.name)
def test_every_contract_has_a_schema_with_its_columns_in_order(contract: Contract) -> None:
    shape = schema(contract)
    assert shape.names == [item.name for item in contract.fields]
    assert [item.nullable for item in shape] == [item.nullable for item in contract.fields]
    assert shape.metadata[b"schema_version"].decode() == schema_version(contract)


def test_kinds_have_their_arrow_types() -> None:
    assert schema(EVERY_KIND).types == [
        pa.date32(),
        pa.string(),
        pa.int64(),
        pa.float64(),
        pa.float64(),
        pa.bool_(),
        pa.list_(pa.string()),
        pa.binary(),
        pa.timestamp("us", "UTC"),
    ]


def test_frames_of_polars_pandas_and_arrow_conform_to_the_same_table() -> None:
    rows = [row("KO"), row("JPM", move_pct=1.5, flags=[])]
    shuffled = pl.DataFrame(rows).select(reversed(list(row()))).to_arrow()
    frame = pd.DataFrame(rows).astype({"symbol": "category"})
    expected = conform(EVERY_KIND, pa.Table.from_pylist(rows, schema=schema(EVERY_KIND)))
    assert expected.column("symbol").to_pylist() == ["JPM", "KO"]
    assert conform(EVERY_KIND, shuffled).equals(expected, check_metadata=True)
    assert conform(EVERY_KIND, pa.Table.from_pandas(frame, preserve_index=False)).equals(
        expected, check_metadata=True
    )


def test_conforming_twice_changes_nothing_and_leaves_the_argument_alone() -> None:
    given_table = table(row("KO"), row("JPM"))
    before = given_table.to_pylist()
    once = conform(EVERY_KIND, given_table)
    assert conform(EVERY_KIND, once).equals(once, check_metadata=True)
    assert given_table.to_pylist() == before


@given(order=st.permutations(list(range(7))))
@settings(max_examples=25, deadline=None)
def test_the_order_of_rows_does_not_matter(order: list[int]) -> None:
    rows = [row(f"S{number}", count=number) for number in range(7)]
    assert conform(EVERY_KIND, table(*(rows[place] for place in order))).equals(
        conform(EVERY_KIND, table(*rows))
    )


def test_nan_becomes_null_where_null_is_allowed() -> None:
    shaped = conform(EVERY_KIND, table(row(move_pct=float("nan")), row("JPM", move_pct=2.0)))
    assert shaped.column("move_pct").to_pylist() == [2.0, None]


def test_other_time_zones_are_brought_to_utc() -> None:
    zoned = pl.DataFrame([row()]).with_columns(
        pl.col("known_at_utc").dt.convert_time_zone("America/New_York")
    )
    shaped = conform(EVERY_KIND, zoned.to_arrow())
    assert shaped.column("known_at_utc").to_pylist() == [datetime(2022, 12, 28, 21, 15, tzinfo=UTC)]


def test_midnight_without_a_zone_is_a_date() -> None:
    midnight = table(row(session=datetime(2022, 12, 28)))  # noqa: DTZ001 - as pandas has dates
    assert conform(EVERY_KIND, midnight).equals(conform(EVERY_KIND, table(row())))


def test_an_empty_table_conforms() -> None:
    assert conform(EVERY_KIND, schema(EVERY_KIND).empty_table()).num_rows == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row(), row()], r"1 repeated, the first: 2022-12-28, KO"),
        ([row(symbol=None)], r"a value in every row of symbol"),
        ([row(price_usd=None), row("JPM")], r"price_usd; was 1 without one.*rows \[0\]"),
        ([row(price_usd=float("nan"))], r"a value in every row of price_usd"),
        ([row(move_pct=float("-inf"))], r"finite numbers in move_pct"),
        ([row(count=1.5)], r"count as int64"),
        ([row(count="three")], r"count as int64"),
        ([row(surprise=1)], r"unknown \['surprise'\]"),
        ([{k: v for k, v in row().items() if k != "count"}], r"missing \['count'\]"),
        (
            [row(known_at_utc=datetime(2022, 12, 28, 21, 15))],  # noqa: DTZ001 - the fault
            r"known_at_utc as timestamp_utc; was timestamp\[us\]",
        ),
        (
            [row(session=datetime(2022, 12, 28, 21, 15))],  # noqa: DTZ001 - the fault
            r"session as date; was an instant within a day",
        ),
        ([row(session=datetime(2022, 12, 28, tzinfo=UTC))], r"session as date; was timestamp"),
        ([row(session="2022-12-28")], r"session as date; was .*string"),
        ([row(price_usd="63.25")], r"price_usd as float64; was .*string"),
        ([row(count="3")], r"count as int64; was .*string"),
        ([row(symbol=3)], r"symbol as string; was int64"),
    ],
)
def test_what_breaks_the_contract_is_refused_and_named(
    rows: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(ContractViolation, match=message) as refusal:
        conform(EVERY_KIND, table(*rows))
    assert "core_test__every_kind" in str(refusal.value)


def test_a_column_given_twice_is_refused() -> None:
    once = table(row())
    twice = once.append_column("count", once.column("count"))
    with pytest.raises(ContractViolation, match=r"twice \['count'\]"):
        conform(EVERY_KIND, twice)


def test_the_schema_version_follows_the_shape_and_not_the_wording() -> None:
    def changed(**changes: Any) -> str:
        fields = list(EVERY_KIND.fields)
        fields[3] = replace(fields[3], **changes)
        return schema_version(replace(EVERY_KIND, fields=tuple(fields)))

    assert changed(doc="reworded") == schema_version(EVERY_KIND)
    variants = {changed(kind="int64"), changed(unit="EUR"), changed(nullable=True)}
    assert len({*variants, schema_version(EVERY_KIND)}) == 4


def test_importing_the_projection_does_not_import_arrow() -> None:
    program = "import sys, marketlake.contracts.arrow as m; print('pyarrow' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": str(PROJECT_ROOT / "include")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
