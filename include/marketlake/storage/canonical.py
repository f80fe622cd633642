"""The one byte form of a value: canonical JSON, deterministic Parquet, and the exported files.

Belongs here: content to bytes and back, always the same bytes for the same content. Does not
belong: where the bytes go.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from marketlake.errors import ContractViolation

# Every choice that shapes the bytes is stated, so that a new default of the library moves none.
_PARQUET: dict[str, Any] = {
    "version": "2.6",
    "data_page_version": "1.0",
    "compression": "zstd",
    "compression_level": 3,
    "use_dictionary": True,
    "write_statistics": True,
    "store_schema": True,
    "row_group_size": 131_072,
    "data_page_size": 1_048_576,
    "write_batch_size": 1_024,
}


def sha256_hex(content: bytes) -> str:
    """Return the SHA-256 of bytes, hex."""
    return hashlib.sha256(content).hexdigest()


def canonical_json(value: Any, *, where: str) -> bytes:
    """Return sorted, compact UTF-8 JSON; ContractViolation names the member that is not JSON."""
    return json.dumps(
        plain(value, where=where), sort_keys=True, separators=(",", ":"), ensure_ascii=False
    ).encode()


def readable_json(value: Any, *, where: str) -> bytes:
    """Return sorted JSON with one member a line, for people."""
    text = json.dumps(plain(value, where=where), sort_keys=True, indent=2, ensure_ascii=False)
    return (text + "\n").encode()


def plain(value: Any, *, where: str, path: str = "$") -> Any:
    """Return a copy in dicts, lists and scalars that JSON can hold without guessing."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise _violation(where, path, expected="finite numbers", was=repr(value))
        return float(value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise _violation(
                    where, path, expected="member names that are strings", was=repr(name)
                )
        return {
            name: plain(item, where=where, path=f"{path}.{name}") for name, item in value.items()
        }
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [
            plain(item, where=where, path=f"{path}[{place}]") for place, item in enumerate(value)
        ]
    raise _violation(
        where,
        path,
        expected="null, true, false, a number, a string, a list or a mapping",
        was=f"{type(value).__name__} {value!r}",
    )


def parquet_bytes(table: pa.Table) -> bytes:
    """Return the table as Parquet; equal tables give equal bytes."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, **_PARQUET)
    return bytes(sink.getvalue())


def parquet_table(content: bytes) -> pa.Table:
    """Return the table that Parquet bytes hold."""
    # Not read_table, whose dataset machinery costs more than a small object; and one thread, as
    # many small objects are read side by side.
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(use_threads=False)


def csv_bytes(table: pa.Table) -> bytes:
    """Return the table as CSV: full float precision, ISO times, lists joined by ``|``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.column_names)
    columns = [table.column(name).to_pylist() for name in table.column_names]
    writer.writerows([_csv_cell(value) for value in row] for row in zip(*columns, strict=True))
    return text.getvalue().encode()


def table_rows(table: pa.Table) -> list[dict[str, Any]]:
    """Return the table's rows with times as ISO text, ready for JSON."""
    return [
        {name: _iso(value) if isinstance(value, date) else value for name, value in row.items()}
        for row in table.to_pylist()
    ]


def _csv_cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date):
        return _iso(value)
    if isinstance(value, list):
        return "|".join(value)
    if isinstance(value, bytes):
        return value.hex()
    return repr(value) if isinstance(value, float) else str(value)


def _iso(value: date) -> str:
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat()


def _violation(where: str, path: str, *, expected: str, was: str) -> ContractViolation:
    return ContractViolation(
        expected=expected,
        was=f"{was} at {path}",
        where=where,
        todo="correct the computation that made the document",
    )
