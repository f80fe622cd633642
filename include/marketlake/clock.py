"""The only wall clock. Everything else takes time as an argument.

Records (ledger entries, manifests, logs) may ask it; content (raw, core, out data) never does.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the present instant, timezone-aware, in UTC."""
    return datetime.now(UTC)


def monotonic_s() -> float:
    """Return seconds on a clock that never goes back; only differences mean anything."""
    return time.monotonic()


def sleep_s(seconds: float) -> None:
    """Wait; here so that every wait in the product can be found."""
    time.sleep(seconds)
