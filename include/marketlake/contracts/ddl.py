"""The Postgres projection of a contract: the statements that create its warehouse table.

Belongs here: types, keys and comments of the table. Does not belong: running the statements
(``storage.warehouse``), and views or marts (dbt).
"""

from __future__ import annotations

from marketlake.contracts.model import Contract, Field

# Spelt as Postgres' format_type() answers, so that a table can be compared with its contract.
_TYPES = {
    "string": "text",
    "int64": "bigint",
    "float64": "double precision",
    "float32": "real",
    "bool": "boolean",
    "date": "date",
    "timestamp_utc": "timestamp with time zone",
    "strings": "text[]",
    "binary": "bytea",
}


def column_type(item: Field) -> str:
    """Return the Postgres type of a field."""
    return _TYPES[item.kind]


def relation(contract: Contract) -> str:
    """Return the table's quoted name with its schema, which is the contract's layer."""
    return f"{quoted(contract.layer)}.{quoted(contract.table)}"


def quoted(name: str) -> str:
    """Return an identifier in quotes; some columns are named like reserved words."""
    return '"' + name.replace('"', '""') + '"'


def create_statements(contract: Contract) -> list[str]:
    """Return the statements, safe to repeat, that create the contract's table with comments."""
    lines = [
        f"    {quoted(item.name)} {column_type(item)}{'' if item.nullable else ' not null'},"
        for item in contract.fields
    ]
    key = ", ".join(quoted(name) for name in contract.key)
    table = relation(contract)
    return [
        f"create schema if not exists {quoted(contract.layer)}",
        "\n".join(
            [f"create table if not exists {table} (", *lines, f"    primary key ({key})", ")"]
        ),
        f"comment on table {table} is {_literal(f'{contract.doc} Grain: {contract.grain}.')}",
        *(
            f"comment on column {table}.{quoted(item.name)} is {_literal(_remark(item))}"
            for item in contract.fields
        ),
    ]


def _remark(item: Field) -> str:
    return f"{item.doc} [{item.unit}]" if item.unit else item.doc


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
