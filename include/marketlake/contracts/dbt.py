"""Render the warehouse's tables as dbt sources and staging models.

Belongs here: the mechanical end of the dbt project, where one model says what one contract says.
Does not belong: anything that relates tables (written by hand in ``dbt/models``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from marketlake.contracts.model import Contract, Field

RENDERED_FOLDER = "models/staging"
"""Folder of the dbt project that holds nothing but renderings."""

_HEADER = "rendered from the contracts by `marketlake contracts render`; do not edit"
_STAGING = """\
-- {header}
with source as (

    select * from {relation}

),

final as (

    select
{columns}
    from source

)

select * from final
"""
_RESERVED = frozenset({"check", "column", "desc", "end", "from", "group", "limit", "order", "to"})


def render_models(contracts: Iterable[Contract]) -> dict[str, str]:
    """Return the text of every rendered file by its path in the dbt project."""
    tables = [contract for contract in contracts if contract.warehouse]
    files = {f"{RENDERED_FOLDER}/_warehouse__sources.yml": _sources(tables)}
    for contract in tables:
        stem = f"{RENDERED_FOLDER}/{staging_name(contract)}"
        files[f"{stem}.sql"] = _staging_sql(contract)
        files[f"{stem}.yml"] = _staging_yml(contract)
    return files


def staging_name(contract: Contract) -> str:
    """Return the name of a contract's staging model: ``stg_market__daily_bar``."""
    return f"stg_{contract.table}"


def _sources(tables: list[Contract]) -> str:
    lines = [f"# {_HEADER}", "sources:"]
    for layer in sorted({contract.layer for contract in tables}):
        lines += [f"  - name: {layer}", f"    schema: {layer}", "    tables:"]
        for contract in tables:
            if contract.layer == layer:
                lines += [
                    f"      - name: {contract.table}",
                    f"        description: {_text(_about(contract))}",
                ]
    return "\n".join(lines) + "\n"


def _staging_yml(contract: Contract) -> str:
    lines = [
        f"# {_HEADER}",
        "models:",
        f"  - name: {staging_name(contract)}",
        f"    description: {_text(_about(contract))}",
        "    columns:",
    ]
    for field in contract.fields:
        lines.append(f"      - name: {field.name}")
        if field.name in _RESERVED:
            lines.append("        quote: true")
        lines.append(f"        description: {_text(_meaning(field))}")
    return "\n".join(lines) + "\n"


def _staging_sql(contract: Contract) -> str:
    columns = ",\n".join(f"        {_identifier(field.name)}" for field in contract.fields)
    relation = f"{{{{ source('{contract.layer}', '{contract.table}') }}}}"
    return _STAGING.format(header=_HEADER, relation=relation, columns=columns)


def _about(contract: Contract) -> str:
    return f"{contract.doc} Grain: {contract.grain}."


def _meaning(field: Field) -> str:
    return f"{field.doc} ({field.unit})" if field.unit else field.doc


def _identifier(name: str) -> str:
    return f'"{name}"' if name in _RESERVED else name


def _text(text: str) -> str:
    # A JSON string is a YAML string, whatever characters it holds.
    return json.dumps(text, ensure_ascii=False)
