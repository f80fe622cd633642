"""Small tables and runs that the storage tests share."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR
from marketlake.types import RunIdentity

RECORDED_AT = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)


class Bars:
    """Made-up bars whose close tells which writing they come from."""

    def __call__(
        self,
        sessions: Sequence[date],
        *,
        close: float = 10.0,
        symbols: Sequence[str] = ("KO", "XOM"),
    ) -> pa.Table:
        rows = [
            {
                "session": session,
                "symbol": symbol,
                "open_usd": 10.0,
                "high_usd": 12.0,
                "low_usd": 9.0,
                "close_usd": close,
                "volume_shares": 1_000.0,
                "close_move_pct": None,
                "n_sources": 1,
                "n_agreed": 1,
                "chosen_source": "yahoo",
                "volume_source": "yahoo",
                "flags": [],
                "simulated_fields": ["open_usd"],
                "known_at_utc": datetime(2022, 12, 28, 21, 15, tzinfo=UTC),
            }
            for session in sessions
            for symbol in symbols
        ]
        return pa.Table.from_pylist(rows, schema=schema(CORE_MARKET_DAILY_BAR))


@pytest.fixture(scope="session")
def bars() -> Bars:
    return Bars()


@pytest.fixture(scope="session")
def by() -> dict[str, Any]:
    """Return the arguments of a write that a test is not about."""
    return {
        "parents": [],
        "run": RunIdentity("tests", "run 1", "write"),
        "code_version": "test",
        "recorded_at": RECORDED_AT,
    }
