"""Which sessions the main job covers."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

from marketlake.cli.runs import plan_run
from marketlake.settings import MarketSettings, Settings


def test_the_packaged_market_runs_its_last_five_sessions(tmp_path: Path) -> None:
    plan = plan_run(Settings(home=tmp_path))
    assert plan.sessions == (
        date(2022, 12, 21),
        date(2022, 12, 22),
        date(2022, 12, 23),
        date(2022, 12, 27),
        date(2022, 12, 28),
    )  # 26 December 2022 was the observed Christmas holiday
    assert plan.history_through == date(2022, 12, 20)
    assert plan.train_as_of == date(2022, 11, 30)


def test_a_market_without_an_end_runs_up_to_the_newest_closed_session(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, market=MarketSettings(name="generated"))
    during = plan_run(settings, datetime(2026, 11, 20, 20, 59, tzinfo=UTC))
    after = plan_run(settings, datetime(2026, 11, 20, 21, 0, tzinfo=UTC))  # 16:00 in New York
    assert during.sessions[-1] == date(2026, 11, 19)
    assert after.sessions[-1] == date(2026, 11, 20)
