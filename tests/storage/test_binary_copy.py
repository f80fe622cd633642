"""What binary_copy writes, Postgres reads as the same rows: every kind, nulls anywhere."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marketlake.contracts import Contract, Field
from marketlake.contracts.arrow import schema
from marketlake.contracts.ddl import column_type
from marketlake.storage.binary_copy import binary_copy
from marketlake.storage.warehouse import Warehouse

_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=6)
_CELLS: dict[Any, st.SearchStrategy[Any]] = {
    "string": _TEXT,
    "int64": st.integers(-(2**63), 2**63 - 1),
    "float64": st.floats(allow_nan=False),
    "float32": st.floats(allow_nan=False, width=32),
    "bool": st.booleans(),
    "date": st.dates(date(1600, 1, 1), date(2400, 1, 1)),
    "timestamp_utc": st.integers(-(10**16), 10**16).map(
        lambda us: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
    ),
    "strings": st.lists(st.none() | _TEXT, max_size=3)
    | st.lists(st.sampled_from(["", "a", "b"]), max_size=2),
    "binary": st.binary(max_size=5),
}
EVERY_KIND = Contract(
    name="core_test__every_kind",
    doc="A column of every kind.",
    grain="one row per number",
    owner="tests",
    key=("number",),
    fields=(
        Field("number", "int64", "number"),
        *(Field(f"a_{kind}", kind, kind, "", True) for kind in _CELLS),
    ),
)
_ROW = st.fixed_dictionaries({f"a_{kind}": st.none() | cell for kind, cell in _CELLS.items()})


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(_ROW, max_size=12), cut=st.integers(0, 4))
def test_rows_of_every_kind_arrive_as_they_were(
    warehouse: Warehouse, rows: list[dict[str, Any]], cut: int
) -> None:
    rows = [{"number": number, **row} for number, row in enumerate(rows)]
    whole = pa.Table.from_pylist(rows, schema=schema(EVERY_KIND))
    columns = ", ".join(f"{item.name} {column_type(item)}" for item in EVERY_KIND.fields)
    with psycopg.connect(warehouse.conninfo, options="-c timezone=UTC") as connection:
        connection.execute(f"create temporary table read ({columns}) on commit drop")
        with connection.cursor().copy("copy read from stdin (format binary)") as copy:
            # Slices: their columns begin inside their buffers.
            slices = pa.concat_tables([whole.slice(cut, 3), whole.slice(cut + 3)])
            for part in binary_copy(EVERY_KIND, slices):
                copy.write(part)
        cursor = connection.cursor(binary=True)  # a real has fewer digits as text
        found = cursor.execute("select * from read order by number").fetchall()
    expected = [tuple(row[item.name] for item in EVERY_KIND.fields) for row in rows[cut:]]
    assert found == expected
    assert [math.copysign(1, row[3]) for row in found if row[3] == 0.0] == [
        math.copysign(1, row[3]) for row in expected if row[3] == 0.0
    ]
