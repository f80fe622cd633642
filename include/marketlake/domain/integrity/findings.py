"""Findings: one typed frame for every rule, so that a report, a log and a feed read the same thing.

``session`` is what a finding is about, ``known_on`` the session at whose close it could be known:
no rule looks further. What does not belong: the rules themselves.
"""

from __future__ import annotations

import polars as pl

INFO, WARNING, CRITICAL = "info", "warning", "critical"
ALARMS = (WARNING, CRITICAL)
"""Severities that claim something is wrong; ``info`` only notes what is unusual or absent."""

FINDING_SCHEMA = pl.Schema(
    {
        "session": pl.Date,
        "known_on": pl.Date,
        "symbol": pl.String,
        "source": pl.String,
        "rule": pl.String,
        "severity": pl.String,
        "observed": pl.Float64,
        "expected": pl.Float64,
        "limit": pl.Float64,
        "explanation": pl.String,
    }
)
_ORDER = ("session", "symbol", "source", "rule", "known_on")


def findings(
    rows: pl.DataFrame,
    rule: str | pl.Expr,
    severity: str | pl.Expr,
    explanation: str | pl.Expr,
    *,
    observed: pl.Expr | None = None,
    expected: pl.Expr | None = None,
    limit: float | pl.Expr | None = None,
    session: str = "session",
) -> pl.DataFrame:
    """Return one finding a row, about the row's ``session`` column, known on its own session."""
    return rows.select(
        pl.col(session).alias("session"),
        pl.col("session").alias("known_on"),
        "symbol",
        "source",
        _text(rule).alias("rule"),
        _text(severity).alias("severity"),
        _number(observed).alias("observed"),
        _number(expected).alias("expected"),
        _number(limit).alias("limit"),
        _text(explanation).alias("explanation"),
    ).cast(FINDING_SCHEMA)


def gathered(parts: list[pl.DataFrame]) -> pl.DataFrame:
    """Return findings of several rules in their one order."""
    return pl.concat([pl.DataFrame(schema=FINDING_SCHEMA), *parts]).sort(*_ORDER)


def alarms(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the findings that claim something is wrong."""
    return rows.filter(pl.col("severity").is_in(ALARMS))


def _text(value: str | pl.Expr) -> pl.Expr:
    return pl.lit(value) if isinstance(value, str) else value


def _number(value: float | pl.Expr | None) -> pl.Expr:
    return (value if isinstance(value, pl.Expr) else pl.lit(value)).cast(pl.Float64)
