"""The signals of a session, best first, each with the evidence behind its confidence."""

from __future__ import annotations

from datetime import date
from typing import Any

from marketlake.contracts.catalog import CORE_SIGNALS_SIGNAL
from marketlake.errors import MissingPartition
from marketlake.storage.lake import Lake


def newest_session(lake: Lake) -> date:
    """Return the newest session with signals; MissingPartition when there is none."""
    sessions = lake.published_sessions(CORE_SIGNALS_SIGNAL)
    if not sessions:
        raise MissingPartition(
            expected="signals of at least one session",
            was="none",
            where=f"{CORE_SIGNALS_SIGNAL.prefix}/",
            todo="run `make run`, or `marketlake backfill` for some sessions",
        )
    return sessions[-1]


def signals(lake: Lake, session: date | None = None) -> list[dict[str, Any]]:
    """Return the rows of ``core_signals__signal`` of a session (the newest, if none is given)."""
    chosen = session or newest_session(lake)
    table = lake.read(CORE_SIGNALS_SIGNAL, [chosen], as_of=chosen)
    rows: list[dict[str, Any]] = table.sort_by("rank").to_pylist()
    return rows
