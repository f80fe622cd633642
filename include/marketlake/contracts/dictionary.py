"""Render the catalog as the data dictionary that people read.

Belongs here: the Markdown of ``docs/data-dictionary.md``. Does not belong: any fact that is not
in the catalog.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marketlake.contracts.gx import check_label
from marketlake.contracts.model import Contract, Field

_HEADER = """\
# Data dictionary

Every artifact that Marketlake publishes, in the order of the daily run. This page is rendered
from the contracts in `include/marketlake/contracts/catalog.py` by `marketlake contracts render`;
edit those, never this page.

Names are `layer_domain__name`: `raw` is what a vendor sent, `core` is what may be trusted, `out`
is what a person asked for. `session` is an exchange session; instants end in `_utc`.
"""


def render_dictionary(contracts: Sequence[Contract]) -> str:
    """Return the whole page."""
    lines = [_HEADER, "| artifact | what it is | grain |", "|---|---|---|"]
    lines += [
        f"| [`{item.name}`](#{item.name}) | {_cell(item.doc)} | {_cell(item.grain)} |"
        for item in contracts
    ]
    for item in contracts:
        lines += ["", *_section(item)]
    return "\n".join(lines) + "\n"


def _section(contract: Contract) -> Iterator[str]:
    yield f"## {contract.name}"
    yield ""
    yield contract.doc
    yield ""
    yield f"- **Grain**: {contract.grain}"
    if contract.key:
        yield f"- **Key**: {', '.join(f'`{name}`' for name in contract.key)}"
    yield f"- **Written by**: `{contract.owner}`, {contract.freshness}"
    yield f"- **Lake**: `{contract.prefix}/`, {contract.form}"
    if contract.warehouse:
        yield f"- **Warehouse**: `{contract.layer}.{contract.table}`"
    if contract.export:
        yield f"- **File**: `{contract.export.pattern}`"
    if contract.record:
        yield "- A record of a tool: it carries real times and is outside the same-bytes rule."
    yield ""
    yield from _fields(contract)
    if contract.checks:
        yield ""
        yield "| check | severity | why |"
        yield "|---|---|---|"
        for check in contract.checks:
            yield f"| `{_cell(check_label(check))}` | {check.severity} | {_cell(check.reason)} |"


def _fields(contract: Contract) -> Iterator[str]:
    if contract.form == "json":
        yield "| member | meaning |"
        yield "|---|---|"
        for field in contract.fields:
            yield f"| `{field.name}` | {_cell(field.doc)} |"
        return
    yield "| column | type | unit | null | meaning |"
    yield "|---|---|---|---|---|"
    for field in contract.fields:
        yield _field_row(field)


def _field_row(field: Field) -> str:
    null = "yes" if field.nullable else "no"
    return f"| `{field.name}` | {field.kind} | {field.unit} | {null} | {_cell(field.doc)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
