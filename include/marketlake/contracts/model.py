"""The types that declare an artifact: :class:`Field`, :class:`Check`, :class:`Contract`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal[
    "string", "int64", "float64", "float32", "bool", "date", "timestamp_utc", "strings", "binary"
]
Severity = Literal["critical", "warning"]
CheckName = Literal[
    "not_null",
    "unique",
    "in_range",
    "in_set",
    "matches",
    "row_count",
    "not_above",
    "only_sessions",
]
"""The whole vocabulary. Beyond it, write a GX custom expectation or a dbt test.

not_null(columns) · unique(columns: the combination) · in_range(column; min, max, strict_min) ·
in_set(column; values) · matches(column; regex) · row_count(min, max) ·
not_above(lower column, upper column) · only_sessions(column; calendar)
"""


@dataclass(frozen=True)
class Field:
    """One column: its type, unit and whether it may be null."""

    name: str
    kind: Kind
    doc: str
    unit: str = ""
    nullable: bool = False


@dataclass(frozen=True)
class Check:
    """One content check of the closed vocabulary.

    ``critical`` failures send the failing rows to quarantine (a failing table-level check refuses
    the whole artifact); ``warning`` failures are reported only.
    """

    name: CheckName
    columns: tuple[str, ...] = ()
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    severity: Severity = "critical"
    reason: str = ""


@dataclass(frozen=True)
class Export:
    """The file a person asked for by name, written by the same task as the canonical artifact.

    ``pattern`` may use ``{yyyymmdd}`` and ``{yyyymm}``, the exchange session the file is about.
    """

    pattern: str
    form: Literal["csv", "json", "html", "keras", "pdf", "db"]


@dataclass(frozen=True)
class Contract:
    """One artifact, declared once.

    ``name`` is ``layer_domain__name``. A Parquet contract is a table whose rows are sorted by
    ``key``; a JSON contract is a document whose required top-level members are ``fields``.
    ``record`` marks artifacts that carry real times (reports of tools); they are outside the
    same-bytes rule. ``warehouse`` marks tables that are loaded into Postgres.
    """

    name: str
    doc: str
    grain: str
    owner: str
    fields: tuple[Field, ...]
    key: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    form: Literal["parquet", "json"] = "parquet"
    freshness: str = "by the next session's open"
    record: bool = False
    warehouse: bool = False
    export: Export | None = None

    def __post_init__(self) -> None:
        names = [item.name for item in self.fields]
        layer, _, rest = self.name.partition("_")
        problems = []
        if layer not in {"raw", "core", "out"} or "__" not in rest:
            problems.append("its name is not layer_domain__name")
        if len(set(names)) != len(names):
            problems.append("a field is declared twice")
        if not set(self.key) <= set(names):
            problems.append(f"key {self.key} names unknown fields")
        problems += [
            f"check {check.name}{check.columns} names unknown fields"
            for check in self.checks
            if not set(check.columns) <= set(names)
        ]
        if self.form == "parquet" and not self.key:
            problems.append("a table needs a key")
        if problems:
            message = f"contract {self.name}: {'; '.join(problems)}"
            raise ValueError(message)

    @property
    def layer(self) -> str:
        """Return ``raw``, ``core`` or ``out``."""
        return self.name.split("_", 1)[0]

    @property
    def table(self) -> str:
        """Return the warehouse table's name inside the layer's schema: ``market__daily_bar``."""
        return self.name.split("_", 1)[1]

    @property
    def prefix(self) -> str:
        """Return the contract's folder in the lake bucket."""
        return f"{self.layer}/{self.name}"

    def field(self, name: str) -> Field:
        """Return one field by name; KeyError if there is none."""
        for item in self.fields:
            if item.name == name:
                return item
        raise KeyError(f"{self.name} has no field {name!r}")
