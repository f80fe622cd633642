"""Rows in the binary form that Postgres' ``COPY`` reads, made by whole columns.

Belongs here: that form, and nothing else. Does not belong: connections and tables (the warehouse).
Row by row, the client costs several times what the server does with the rows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from marketlake.contracts.model import Contract, Kind

_ROWS_AT_ONCE = 20_000
_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = struct.pack("!h", -1)

# A date is a 4-byte integer, an instant an 8-byte one, both from 2000-01-01.
_FIXED: dict[Kind, str] = {
    "int64": ">i8",
    "float64": ">f8",
    "float32": ">f4",
    "bool": "u1",
    "date": ">i4",
    "timestamp_utc": ">i8",
}
_EPOCH_DAYS = 10_957
_DAY_US = 86_400_000_000
_TEXT_OID = 25
_NULL = pa.scalar(struct.pack("!i", -1), pa.large_binary())


def binary_copy(contract: Contract, table: pa.Table) -> Iterator[bytes]:
    """Yield what ``copy ... from stdin (format binary)`` reads, a bounded number of rows at a time.

    The table is in its contract's shape.
    """
    yield _HEADER
    width = pa.scalar(struct.pack("!h", len(contract.fields)), pa.large_binary())
    nothing = pa.scalar(b"", pa.large_binary())
    for batch in table.to_batches(max_chunksize=_ROWS_AT_ONCE):
        if batch.num_rows:
            cells = [
                part
                for item, column in zip(contract.fields, batch.columns, strict=True)
                for part in _cells(item.kind, column)
            ]
            # The bytes of an Arrow column lie one after the other: joined, they are the rows.
            _, _, rows = pc.binary_join_element_wise(width, *cells, nothing).buffers()
            yield rows.to_pybytes()
    yield _TRAILER


def _cells(kind: Kind, column: pa.Array) -> list[pa.Array]:
    """Return the parts of every cell: its size and its value, or both in one."""
    if kind in _FIXED:
        cells = np.empty(len(column), [("size", ">i4"), ("value", _FIXED[kind])])
        cells["size"] = cells.dtype["value"].itemsize
        present = column.fill_null(False if kind == "bool" else 0)
        cells["value"] = _as_number(kind, present).to_numpy(zero_copy_only=False)
        made = _as_bytes(cells)
        return [pc.if_else(column.is_null(), _NULL, made) if column.null_count else made]
    texts = (_text_arrays(column) if kind == "strings" else column).cast(pa.large_binary())
    sizes = pc.binary_length(texts).fill_null(-1).to_numpy(zero_copy_only=False)
    return [_as_bytes(sizes.astype(">i4")), texts.fill_null(b"")]


def _as_number(kind: Kind, column: pa.Array) -> pa.Array:
    if kind == "date":
        return pc.subtract(column.cast(pa.int32()), pa.scalar(_EPOCH_DAYS, pa.int32()))
    if kind == "timestamp_utc":
        return pc.subtract(column.cast(pa.int64()), _EPOCH_DAYS * _DAY_US)
    return column


def _as_bytes(values: np.ndarray[Any, Any]) -> pa.Array:
    each = pa.binary(values.dtype.itemsize)
    buffers = [None, pa.py_buffer(values)]
    return pa.Array.from_buffers(each, len(values), buffers).cast(pa.large_binary())


def _text_arrays(column: pa.Array) -> pa.Array:
    """Return the binary form of every ``text[]``, each different list made once.

    Two lists of one length and equal texts between NULs are equal: no text in Postgres has a NUL.
    """
    if column.flatten().null_count:
        lists = column.to_pylist()
        return pa.array([None if item is None else _text_array(item) for item in lists])
    joined = pc.binary_join(column, "\0")
    lengths = pc.list_value_length(column).cast(pa.string())
    codes = pc.binary_join_element_wise(lengths, joined, "\0").dictionary_encode()
    numbers = codes.indices.to_numpy(zero_copy_only=False)
    _, firsts = np.unique(numbers[column.is_valid().to_numpy(False)], return_index=True)
    present = column.drop_null()
    made = [_text_array(item) for item in present.take(pa.array(firsts)).to_pylist()]
    return pa.array(made, pa.binary()).take(codes.indices)


def _text_array(values: list[str | None]) -> bytes:
    header = struct.pack("!iiI", 1 if values else 0, int(None in values), _TEXT_OID)
    if not values:
        return header
    parts = [header, struct.pack("!ii", len(values), 1)]
    for value in values:
        encoded = b"" if value is None else value.encode()
        parts.append(struct.pack("!i", -1 if value is None else len(encoded)) + encoded)
    return b"".join(parts)
