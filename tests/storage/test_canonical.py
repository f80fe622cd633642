import json
from datetime import UTC, date, datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.errors import ContractViolation
from marketlake.storage.canonical import (
    canonical_json,
    csv_bytes,
    parquet_bytes,
    parquet_table,
    readable_json,
    sha256_hex,
    table_rows,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(value=JSON)
@settings(max_examples=100, deadline=None)
def test_json_comes_back_as_it_went(value: Any) -> None:
    assert json.loads(canonical_json(value, where="here")) == value
    assert json.loads(readable_json(value, where="here")) == value


def test_canonical_json_is_sorted_compact_and_utf8() -> None:
    content = canonical_json({"b": [1, 2.5, None], "a": {"ü": True}}, where="here")
    assert content == '{"a":{"ü":true},"b":[1,2.5,null]}'.encode()
    # RFC 8785's own example of a member order; ours equals it for these names.
    assert canonical_json({"1": 1, "": 0, "A": 2}, where="here") == b'{"":0,"1":1,"A":2}'


def test_views_tuples_and_numpy_floats_are_json() -> None:
    value = MappingProxyType({"pair": (np.float64(0.1), 2)})
    assert canonical_json(value, where="here") == b'{"pair":[0.1,2]}'


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ({"a": [0, {"b": float("nan")}]}, r"nan at \$\.a\[1\]\.b"),
        ({"a": float("inf")}, r"inf at \$\.a"),
        ({"a": {1: 2}}, r"1 at \$\.a"),
        ({"a": date(2022, 12, 28)}, r"date .* at \$\.a"),
        ({"a": b"bytes"}, r"bytes .* at \$\.a"),
        ({"a": np.int64(1)}, r"int64 .* at \$\.a"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(value: Any, named: str) -> None:
    with pytest.raises(ContractViolation, match=named):
        canonical_json(value, where="here")


def test_equal_tables_give_equal_parquet_however_they_are_chunked() -> None:
    numbers = np.random.default_rng(7).normal(size=5_000)
    whole = pa.table({"x": numbers, "name": [f"S{value % 9}" for value in range(5_000)]})
    pieces = pa.concat_tables([whole.slice(0, 17), whole.slice(17, 1_983), whole.slice(2_000)])
    assert parquet_bytes(pieces) == parquet_bytes(whole)
    assert parquet_table(parquet_bytes(whole)).equals(whole)


def test_values_hidden_below_nulls_do_not_reach_the_bytes() -> None:
    mask = np.array([False, True, False])
    one = pa.table({"x": pa.array(np.array([1.0, 2.0, 3.0]), mask=mask)})
    other = pa.table({"x": pa.array(np.array([1.0, 9.0, 3.0]), mask=mask)})
    assert parquet_bytes(one) == parquet_bytes(other)


def test_the_parquet_bytes_are_these() -> None:
    # A change of this hash is a change of every artifact's hash: it needs a line in the changelog.
    table = pa.table({"session": pa.array([date(2022, 12, 28)]), "close_usd": [63.25]})
    assert sha256_hex(parquet_bytes(table)) == (
        "4e3eb0a1f37ef425b502c87f7808c4639e6b5c6a8f315e0be9da70808c87e7a4"
    )


def test_csv_keeps_full_precision_and_says_nothing_for_null() -> None:
    table = pa.table(
        {
            "session": pa.array([date(2022, 12, 28), date(2022, 12, 28)]),
            "symbol": ["BRK,B", 'say "x"'],
            "value": [0.1 + 0.2, None],
            "n": [1, 2],
            "simulated": [True, False],
            "flags": [["a", "b"], []],
            "known_at_utc": [datetime(2022, 12, 28, 21, 15, tzinfo=UTC), None],
        }
    )
    assert csv_bytes(table).decode() == (
        "session,symbol,value,n,simulated,flags,known_at_utc\n"
        '2022-12-28,"BRK,B",0.30000000000000004,1,true,a|b,2022-12-28T21:15:00Z\n'
        '2022-12-28,"say ""x""",,2,false,,\n'
    )
    assert table_rows(table)[0]["known_at_utc"] == "2022-12-28T21:15:00Z"
    assert canonical_json(table_rows(table), where="here").startswith(b'[{"flags":["a","b"]')
