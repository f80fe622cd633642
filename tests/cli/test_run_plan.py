"""Which sessions the main job covers."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from marketlake.calendars import Calendar
from marketlake.cli.runs import plan_run
from marketlake.errors import ConfigError
from marketlake.pipelines import universe
from marketlake.services.platform.runtime import prepare
from marketlake.services.sandbox.markets import world_of
from marketlake.settings import MarketSettings, Settings, load_settings


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


@pytest.mark.parametrize(
    "choice", [{"market": MarketSettings(name="generated")}, {"mode": "live"}], ids=str
)
def test_a_market_without_an_end_runs_up_to_the_newest_session_due(
    tmp_path: Path, choice: dict[str, Any]
) -> None:
    settings = Settings(home=tmp_path, **choice)
    during = plan_run(settings, datetime(2026, 11, 20, 21, 29, tzinfo=UTC))
    after = plan_run(settings, datetime(2026, 11, 20, 21, 30, tzinfo=UTC))  # 16:30 in New York
    assert during.sessions[-1] == date(2026, 11, 19)
    assert after.sessions[-1] == date(2026, 11, 20)


def test_live_mode_is_a_market_of_its_own_whatever_else_is_named(tmp_path: Path) -> None:
    live = Settings(home=tmp_path, mode="live", market={"name": "packaged", "benchmark": "SPY"})
    assert (live.market.name, live.market.benchmark) == ("live", "SPY")
    assert live.market.last_session is None
    assert universe.simulation_notes(live.market) == []
    with pytest.raises(ValueError, match="needs MARKETLAKE_MODE=live"):
        Settings(home=tmp_path, market=MarketSettings(name="live"))


# ---------- a history in Parquet files


def history(folder: Path, spans: dict[str, tuple[date, date]]) -> Path:
    """Write bars of every session of each symbol's span."""
    days = {name: Calendar.of("XNYS").sessions(*span) for name, span in spans.items()}
    rows = [(name, day) for name in spans for day in days[name]]
    prices = {name: pl.lit(100.0) for name in ("open", "high", "low", "close")}
    folder.mkdir()
    pl.DataFrame(rows, schema={"symbol": pl.String, "date": pl.Date}, orient="row").with_columns(
        **prices, volume=pl.lit(1000)
    ).write_parquet(folder / "bars.parquet")
    return folder


@pytest.fixture
def replayed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of bars that the environment names as the market."""
    folder = history(
        tmp_path / "bars",
        {
            "BBB": (date(2012, 9, 4), date(2017, 9, 1)),
            "AAA": (date(2013, 1, 2), date(2017, 8, 31)),
            "^GSPC": (date(1999, 1, 4), date(2020, 12, 31)),
            "^VIX": (date(1999, 1, 4), date(2020, 12, 31)),
        },
    )
    monkeypatch.setenv("MARKETLAKE_MARKET__NAME", "folder")
    monkeypatch.setenv("MARKETLAKE_SANDBOX__DATA", str(folder))
    return folder


def test_a_replayed_history_is_run_at_its_own_end_with_its_own_symbols(
    tmp_path: Path, replayed: Path
) -> None:
    settings = prepare(tmp_path / "home", usual_ports=False)
    market = settings.market
    # The benchmark's longer history makes no sessions without members.
    assert (market.first_session, market.last_session) == (date(2012, 9, 4), date(2017, 9, 1))
    plan = plan_run(settings)
    assert plan.sessions == (*(date(2017, 8, day) for day in (28, 29, 30, 31)), date(2017, 9, 1))
    assert plan.history_through == date(2017, 8, 25)
    assert universe.symbols_over(market, [date(2017, 9, 1)]) == ["AAA", "BBB", "^GSPC"]
    assert universe.members(market, date(2017, 9, 1))["sector"].to_list() == ["Unknown"] * 2
    assert universe.caveats(market) == [universe.SURVIVORSHIP_CAVEAT]
    assert world_of(settings).view("AAA", date(2017, 9, 1)) is not None


def test_commands_after_the_first_need_not_name_the_history_again(
    tmp_path: Path, replayed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepare(tmp_path / "home", usual_ports=False)
    monkeypatch.delenv("MARKETLAKE_MARKET__NAME")
    monkeypatch.delenv("MARKETLAKE_SANDBOX__DATA")
    assert load_settings(tmp_path / "home") == first
    assert prepare(tmp_path / "home", usual_ports=False) == first


def test_what_a_person_sets_is_stronger_than_what_the_files_say(
    tmp_path: Path, replayed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARKETLAKE_MARKET__LAST_SESSION", "2016-12-30")
    monkeypatch.setenv("MARKETLAKE_MARKET__UNIVERSE_FILE", str(tmp_path / "mine.csv"))
    market = prepare(tmp_path / "home", usual_ports=False).market
    assert market.last_session == date(2016, 12, 30)
    assert market.universe_file == tmp_path / "mine.csv"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MARKETLAKE_MARKET__NAME", "packaged"),
        ("MARKETLAKE_MARKET__NAME", "generated"),
        ("MARKETLAKE_SANDBOX__DATA", "other bars"),
        ("MARKETLAKE_MODE", "live"),
    ],
)
def test_a_state_folder_keeps_the_market_it_was_begun_with(
    tmp_path: Path, replayed: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    prepare(tmp_path / "home", usual_ports=False)
    (tmp_path / "other bars").mkdir()
    monkeypatch.setenv(variable, str(tmp_path / value) if "DATA" in variable else value)
    with pytest.raises(ConfigError, match="the market that this state folder holds"):
        prepare(tmp_path / "home", usual_ports=False)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("MARKETLAKE_MARKET__BENCHMARK", "SPY", "benchmark SPY"),
        ("MARKETLAKE_SANDBOX__DATA", "bars", "absolute path"),
        ("MARKETLAKE_SANDBOX__DATA", "/nowhere", r"at least one \.parquet"),
    ],
)
def test_a_history_that_cannot_be_replayed_is_refused_at_the_start(
    tmp_path: Path,
    replayed: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    said: str,
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match=said):
        prepare(tmp_path / "home", usual_ports=False)
    assert not (tmp_path / "home" / "runtime.env").exists()
