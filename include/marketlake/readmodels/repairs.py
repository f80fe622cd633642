"""What could be repaired in the sources' bars, and which repairs are in force."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import groupby
from typing import Any

from marketlake.contracts import Contract
from marketlake.contracts.catalog import CORE_QUALITY_APPLIED_REPAIR, CORE_QUALITY_REPAIR_PROPOSAL
from marketlake.storage.lake import Lake


def cells(
    lake: Lake, *, first: date | None = None, last: date | None = None
) -> list[dict[str, Any]]:
    """Return every cell proposed or in force, by session and proposal.

    ``applied_by`` and ``reason`` are None where a proposal is not in force. A repair in force stays
    listed when its session's proposals no longer have it.
    """
    applied = _published(lake, CORE_QUALITY_APPLIED_REPAIR, first, last)
    in_force = {_proposal(row) for row in applied}
    proposed = [
        row | {"applied_by": None, "reason": None}
        for row in _published(lake, CORE_QUALITY_REPAIR_PROPOSAL, first, last)
        if _proposal(row) not in in_force
    ]
    return sorted(
        [*applied, *proposed],
        key=lambda row: (*_proposal(row), row["symbol"], row["source"], row["field"]),
    )


def proposals(found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row a session and proposal of some :func:`cells`."""
    groups = [list(group) for _, group in groupby(found, key=_proposal)]
    return [
        {name: rows[0][name] for name in ("session", "proposal")}
        | {
            "state": "proposed" if rows[0]["applied_by"] is None else "in force",
            "cells": len(rows),
            "confidence": min(row["confidence"] for row in rows),
        }
        | {name: rows[0][name] for name in ("evidence", "applied_by", "reason")}
        for rows in groups
    ]


def _proposal(row: dict[str, Any]) -> tuple[date, str]:
    return row["session"], row["proposal"]


def _published(
    lake: Lake, contract: Contract, first: date | None, last: date | None
) -> list[dict[str, Any]]:
    sessions = [
        session
        for session in lake.published_sessions(contract)
        if (first is None or first <= session) and (last is None or session <= last)
    ]
    table = lake.read(contract, sessions, as_of=max(sessions, default=date.min))
    rows: list[dict[str, Any]] = table.to_pylist()
    return rows
