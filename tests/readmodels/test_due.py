"""Which due sessions are missing, refused or stale, asked of a real lake."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from marketlake.contracts import catalog
from marketlake.readmodels.due import STALE_LOOKED_AT_SESSIONS, DueSessions, due_sessions
from marketlake.settings import MarketSettings

if TYPE_CHECKING:
    from conftest import Publisher
    from marketlake.types import ArtifactRef

MARKET = MarketSettings()
LONG_AFTER = datetime(2026, 11, 22, tzinfo=UTC)
REPORTED = [date(2022, 12, day) for day in (19, 20, 22)]
REFUSED, MISSING, LAST = date(2022, 12, 21), date(2022, 12, 23), date(2022, 12, 28)


def bars(session: date, close: float) -> list[dict[str, Any]]:
    prices = dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), close)
    return [
        {
            "session": session,
            "symbol": "KO",
            **prices,
            "volume_shares": 1.0,
            "close_move_pct": None,
            "n_sources": 1,
            "n_agreed": 1,
            "chosen_source": "yahoo",
            "volume_source": "yahoo",
            "flags": [],
            "simulated_fields": [],
            "known_at_utc": LONG_AFTER,
        }
    ]


def report(publisher: Publisher, session: date, parents: Sequence[ArtifactRef]) -> None:
    names = (item.name for item in catalog.OUT_REPORTS_DAILY.fields)
    publisher.publish(
        catalog.OUT_REPORTS_DAILY,
        {**dict.fromkeys(names, "text"), "session": session.isoformat()},
        parents=parents,
        session=session,
        export=b"<!doctype html>",
    )


@pytest.fixture(scope="module")
def stands(publisher: Publisher) -> list[DueSessions | None]:
    """Return how the sessions stood at first, after the runs, and after a bar was replaced."""
    lake = publisher.lake
    told = [due_sessions(lake, MARKET, now=LONG_AFTER)]
    refs: list[ArtifactRef] = []
    for session in REPORTED:
        refs.append(
            publisher.publish(catalog.CORE_MARKET_DAILY_BAR, bars(session, 1.0), session=session)
        )
        report(publisher, session, refs)
    publisher.publish(catalog.CORE_MARKET_DAILY_BAR, [], session=REFUSED)
    publisher.publish(catalog.CORE_MARKET_DAILY_BAR, bars(MISSING, 1.0), session=MISSING)
    told.append(due_sessions(lake, MARKET, now=LONG_AFTER))
    changed = bars(REPORTED[1], 2.0)
    publisher.publish(catalog.CORE_MARKET_DAILY_BAR, changed, session=REPORTED[1])
    told.append(due_sessions(lake, MARKET, now=LONG_AFTER))
    return told


def test_nothing_is_due_of_a_market_that_never_ran(stands: list[DueSessions | None]) -> None:
    assert stands[0] is None


def test_sessions_without_a_report_are_missing_or_refused(stands: list[DueSessions | None]) -> None:
    stand = stands[1]
    assert stand is not None
    assert (stand.first, stand.last, stand.reported) == (REPORTED[0], LAST, 3)
    assert stand.missing == (MISSING, date(2022, 12, 27), LAST)
    assert stand.refused == (REFUSED,)
    assert stand.stale == ()
    assert stand.commands() == [
        "marketlake backfill --from 2022-12-23 --to 2022-12-28 --missing",
        "marketlake backfill --from 2022-12-21 --to 2022-12-21 --reprocess completed",
    ]


def test_exactly_those_made_from_what_was_replaced_are_stale(
    stands: list[DueSessions | None],
) -> None:
    stand = stands[2]
    assert stand is not None
    assert stand.stale == (REPORTED[1], REPORTED[2])
    assert stand.commands()[-1] == "marketlake backfill --from 2022-12-20 --to 2022-12-22 --stale"
    assert len(REPORTED) < STALE_LOOKED_AT_SESSIONS


def test_a_session_is_not_due_before_its_data_are(
    publisher: Publisher, stands: list[DueSessions | None]
) -> None:
    early = due_sessions(publisher.lake, MARKET, now=datetime(2022, 12, 23, 21, 29, tzinfo=UTC))
    assert early is not None
    assert (early.last, early.missing) == (date(2022, 12, 22), ())
