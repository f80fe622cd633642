"""The Arrow projection of a contract: its schema, and bringing a table into that shape.

Belongs here: types, order, nullability and key of a table. Does not belong: content checks (the
quality gate), bytes and files (the lake). pyarrow is imported on use: contracts parse fast.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

from marketlake.contracts.model import Contract, Field, Kind
from marketlake.errors import ContractViolation

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_NAMED = 3


def schema(contract: Contract) -> pa.Schema:
    """Return the Arrow schema of a table contract; its metadata name contract and version."""
    import pyarrow as pa

    return pa.schema(
        [pa.field(item.name, _type(item.kind), nullable=item.nullable) for item in contract.fields],
        metadata={"contract": contract.name, "schema_version": schema_version(contract)},
    )


def _type(kind: Kind) -> pa.DataType:
    import pyarrow as pa

    types = {
        "string": pa.string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "float32": pa.float32(),
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp_utc": pa.timestamp("us", "UTC"),
        "strings": pa.list_(pa.string()),
        "binary": pa.binary(),
    }
    return types[kind]


def schema_version(contract: Contract) -> str:
    """Return a short hash of what a reader relies on: fields, units, nullability and key."""
    shape = {
        "fields": [[item.name, item.kind, item.unit, item.nullable] for item in contract.fields],
        "form": contract.form,
        "key": contract.key,
    }
    return hashlib.sha256(json.dumps(shape, sort_keys=True).encode()).hexdigest()[:12]


def conform(contract: Contract, table: pa.Table) -> pa.Table:
    """Return the table cast, ordered and sorted as its contract says.

    A missing number has one form, null: NaN becomes null, and an infinite number is refused.

    Raises
    ------
    ContractViolation
        When a column is missing or unknown, does not cast without loss, holds a null it may not,
        or when two rows share the key; the message names the column and the first rows.
    """
    import pyarrow as pa

    _check_columns(contract, table.column_names)
    columns = [conform_column(contract, item, table.column(item.name)) for item in contract.fields]
    for item, column in zip(contract.fields, columns, strict=True):
        if not item.nullable and column.null_count:
            _refuse_nulls(contract, item.name, column)
    shaped = pa.Table.from_arrays(columns, schema=schema(contract))
    if shaped.num_rows:
        shaped = shaped.sort_by([(name, "ascending") for name in contract.key])
    _check_key(contract, shaped)
    return shaped.combine_chunks()


def _check_columns(contract: Contract, present: Sequence[str]) -> None:
    declared = [item.name for item in contract.fields]
    missing = [name for name in declared if name not in present]
    unknown = [name for name in present if name not in declared]
    twice = sorted({name for name in present if present.count(name) > 1})
    if missing or unknown or twice:
        _refuse(
            contract,
            expected=f"the columns {', '.join(declared)}",
            was=f"missing {missing}, unknown {unknown}, given twice {twice}",
        )


def conform_column(contract: Contract, item: Field, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return one column cast without loss, with null as the only missing number.

    Nulls may be anywhere; ContractViolation when the values are not of the field's kind.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if not _is_of_kind(item.kind, column.type):
        _refuse(contract, expected=f"{item.name} as {item.kind}", was=str(column.type))
    if pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
    try:
        cast = column.cast(_type(item.kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        _refuse(
            contract,
            expected=f"{item.name} as {item.kind}",
            was=f"{column.type} that does not cast without loss: {error}",
        )
    has_time = item.kind == "date" and pa.types.is_temporal(column.type)
    if has_time and not cast.cast(column.type).equals(column):
        # Arrow cuts the time of day off without a word.
        _refuse(contract, expected=f"{item.name} as date", was="an instant within a day")
    if pa.types.is_floating(cast.type):
        infinite = pc.is_inf(cast)
        if pc.any(infinite).as_py():
            _refuse(
                contract,
                expected=f"finite numbers in {item.name}",
                was=f"an infinite one at row {pc.index(infinite, True).as_py()}",
            )
    return cast


def _is_of_kind(kind: Kind, given: pa.DataType) -> bool:
    """Return whether values of a type can be of a kind; Arrow also reads numbers out of text.

    It takes a zoneless time for UTC, too: that guess is how instants go wrong.
    """
    from pyarrow import types

    is_time = types.is_timestamp(given)
    fits = {
        "string": types.is_string(given)
        or types.is_large_string(given)
        or types.is_string_view(given),
        "int64": types.is_integer(given) or types.is_floating(given),
        "float64": types.is_integer(given) or types.is_floating(given),
        "float32": types.is_integer(given) or types.is_floating(given),
        "bool": types.is_boolean(given),
        "date": types.is_date(given) or (is_time and given.tz is None),
        "timestamp_utc": is_time and given.tz is not None,
        "strings": types.is_list(given) or types.is_large_list(given),
        "binary": types.is_binary(given)
        or types.is_large_binary(given)
        or types.is_binary_view(given),
    }
    return bool(fits[kind] or types.is_null(given))


def _refuse_nulls(contract: Contract, name: str, column: pa.ChunkedArray) -> NoReturn:
    import pyarrow.compute as pc

    rows = pc.indices_nonzero(pc.is_null(column)).slice(0, _ROWS_NAMED).to_pylist()
    _refuse(
        contract,
        expected=f"a value in every row of {name}",
        was=f"{column.null_count} without one, the first at input rows {rows}",
    )


def _check_key(contract: Contract, shaped: pa.Table) -> None:
    """Refuse nulls in the key and two rows with one key; the table is sorted by it."""
    import pyarrow.compute as pc

    for name in contract.key:
        if shaped.column(name).null_count:
            _refuse_nulls(contract, name, shaped.column(name))
    if shaped.num_rows < 2:
        return
    same: pa.ChunkedArray | None = None
    for name in contract.key:
        values = shaped.column(name)
        equal = pc.equal(values.slice(1), values.slice(0, shaped.num_rows - 1))
        same = equal if same is None else pc.and_(same, equal)
    repeated = pc.indices_nonzero(same)
    if len(repeated):
        first = shaped.select(contract.key).take(repeated.slice(0, _ROWS_NAMED)).to_pylist()
        keys = "; ".join(", ".join(str(value) for value in row.values()) for row in first)
        _refuse(
            contract,
            expected=f"one row for each {', '.join(contract.key)}",
            was=f"{len(repeated)} repeated, the first: {keys}",
        )


def _refuse(contract: Contract, *, expected: str, was: str) -> NoReturn:
    raise ContractViolation(
        expected=expected,
        was=was,
        where=f"table of {contract.name}",
        todo=f"correct what {contract.owner} computes, or the contract in contracts/catalog.py",
    )
