"""Which due sessions have no report, were refused, or are stale: a quick look for `status`.

Bounded: the newest year of sessions for what is missing, the newest weeks for what is stale.
`marketlake backfill --missing` and `--stale` look at any range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from marketlake.calendars import Calendar
from marketlake.contracts.catalog import OUT_REPORTS_DAILY
from marketlake.readmodels.staleness import refused_sessions, stale_artifacts
from marketlake.settings import MarketSettings
from marketlake.storage.lake import Lake

LOOKED_AT_SESSIONS = 252
STALE_LOOKED_AT_SESSIONS = 10


@dataclass(frozen=True)
class DueSessions:
    """How the sessions stand that should have run: from the first that ever did to the last due.

    ``missing`` have no report, and their gate has not refused them; ``stale`` are among the newest
    ``STALE_LOOKED_AT_SESSIONS`` reported ones. All ascend.
    """

    first: date
    last: date
    reported: int
    missing: tuple[date, ...]
    refused: tuple[date, ...]
    stale: tuple[date, ...]

    def commands(self) -> list[str]:
        """Return the commands that fill and mend them."""
        wanted = (
            (self.missing, "--missing"),
            (self.refused, "--reprocess completed"),
            (self.stale, "--stale"),
        )
        return [
            f"marketlake backfill --from {days[0]} --to {days[-1]} {option}"
            for days, option in wanted
            if days
        ]

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return {
            "first": self.first.isoformat(),
            "last": self.last.isoformat(),
            "reported": self.reported,
            "missing": _days(self.missing),
            "refused": _days(self.refused),
            "stale": _days(self.stale),
            "commands": self.commands(),
        }


def due_sessions(lake: Lake, market: MarketSettings, *, now: datetime) -> DueSessions | None:
    """Return how the due sessions stand; None when none has ever been reported."""
    calendar = Calendar.of(market.calendar)
    reported = lake.published_sessions(OUT_REPORTS_DAILY)
    if not reported:
        return None
    newest = calendar.latest_due(now, market.publish_delay_minutes)
    last = min(newest, market.last_session or newest)
    sessions = calendar.sessions(reported[0], last)[-LOOKED_AT_SESSIONS:]
    have = set(reported)
    absent = [session for session in sessions if session not in have]
    refused = refused_sessions(lake, absent)
    done = [session for session in sessions if session not in absent]
    stale = {item.session for item in stale_artifacts(lake, done[-STALE_LOOKED_AT_SESSIONS:])}
    return DueSessions(
        first=sessions[0] if sessions else reported[0],
        last=last,
        reported=len(done),
        missing=tuple(session for session in absent if session not in refused),
        refused=tuple(refused),
        stale=tuple(sorted(stale)),
    )


def _days(sessions: Sequence[date]) -> list[str]:
    return [session.isoformat() for session in sessions]
