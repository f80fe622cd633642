"""Column lineage: which columns of other datasets a column was made from, and how.

Belongs here: its types, in OpenLineage's terms, and the lineage of tables that Python makes, which
nobody can read off its code. Does not belong: the lineage of dbt models, which is read off their
SQL (``storage/column_lineage.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
    CORE_REFERENCE_UNIVERSE_MEMBER,
)
from marketlake.contracts.factors import CLOSE, FACTORS, HIGH, LOW, OPEN, VOLUME
from marketlake.contracts.features import FEATURES
from marketlake.contracts.model import Contract


@dataclass(frozen=True, order=True)
class InputColumn:
    """A column that another was made from.

    ``dataset`` is a contract's name, or a relation of the warehouse as ``schema.name``. ``kind`` is
    DIRECT where values come from values, else INDIRECT; ``subtype`` is IDENTITY, TRANSFORMATION or
    AGGREGATION of the one, CONDITIONAL, FILTER, GROUP_BY, JOIN, SORT or WINDOW of the other.
    """

    dataset: str
    column: str
    kind: str
    subtype: str


@dataclass(frozen=True)
class ColumnLineage:
    """Inputs of every column of a table; ``rows`` decide which rows there are."""

    columns: Mapping[str, tuple[InputColumn, ...]]
    rows: tuple[InputColumn, ...] = ()


def _made(contract: Contract, *columns: str) -> tuple[InputColumn, ...]:
    return tuple(InputColumn(contract.name, name, "DIRECT", "TRANSFORMATION") for name in columns)


_BAR, _ACTION = CORE_MARKET_DAILY_BAR, CORE_MARKET_CORPORATE_ACTION
# An adjusted close is an as-traded close times the factors of later actions; the benchmark's too.
_ADJUSTMENT = _made(_ACTION, "split_ratio", "dividend_usd")
_ADJUSTED = (*_made(_BAR, "close_usd"), *_ADJUSTMENT)
_QUANTITIES = {
    CLOSE: _ADJUSTED,
    "benchmark_close": _ADJUSTED,
    # A dividend's factor is taken from the close before.
    **{name: (*_made(_BAR, name), *_ADJUSTED) for name in (OPEN, HIGH, LOW)},
    VOLUME: (*_made(_BAR, VOLUME), *_made(_ACTION, "split_ratio")),
}
_KEYS = {
    key: (InputColumn(_BAR.name, key, "DIRECT", "IDENTITY"),) for key in CORE_FEATURES_DAILY.key
}
# Also of generated dividends: only those whose factor had no close of its own.
_SIMULATED = (*_made(_BAR, "simulated_fields"), *_made(_ACTION, "simulated_fields"))
# The session's close and the slowest source's lag.
_KNOWN_AT = _made(_BAR, "session")
_ROWS = tuple(
    InputColumn(contract.name, key, "INDIRECT", subtype)
    for contract, subtype in (
        (_BAR, "JOIN"),
        (_ACTION, "JOIN"),
        (CORE_REFERENCE_UNIVERSE_MEMBER, "FILTER"),
    )
    for key in ("session", "symbol")
)


def _of(inputs: Sequence[str]) -> tuple[InputColumn, ...]:
    return tuple(sorted({used for name in inputs for used in _QUANTITIES[name]}))


LINEAGE: Mapping[str, ColumnLineage] = MappingProxyType(
    {
        CORE_FEATURES_DAILY.name: ColumnLineage(
            columns={
                **_KEYS,
                **{item.name: _of(item.inputs) for item in FEATURES},
                "simulated": _SIMULATED,
                "known_at_utc": _KNOWN_AT,
            },
            rows=_ROWS,
        ),
        CORE_FACTORS_DAILY.name: ColumnLineage(
            columns={
                **_KEYS,
                **{item.name: _of(item.inputs) for item in FACTORS},
                "closes_simulated": _SIMULATED,
                "simulated": _SIMULATED,
                "known_at_utc": _KNOWN_AT,
            },
            rows=_ROWS,
        ),
    }
)
"""By contract, of what Python makes; a session is an input even where the calendar gives it."""
