"""Where a setting comes from, and which source wins."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest
from marketlake.errors import ConfigError
from marketlake.settings import PROJECT_ROOT, GateSettings, Settings, load_settings
from marketlake.sources.catalog import ONE_VENUE, configured, open_source
from pydantic import ValidationError


@pytest.fixture
def env_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the ``.env`` that is read in place of the checkout's."""
    path = tmp_path / "checkout" / ".env"
    path.parent.mkdir()
    monkeypatch.setenv("MARKETLAKE_ENV_FILE", str(path))
    return path


def test_env_is_read_from_the_root_of_the_repository() -> None:
    assert Settings.model_fields["env_file"].default == PROJECT_ROOT / ".env"


def test_what_env_says_holds_without_make(env_file: Path, tmp_path: Path) -> None:
    env_file.write_text("# a comment\nMARKETLAKE_RISK__BOOK_VALUE_USD='5'\n")
    assert load_settings(tmp_path).risk.book_value_usd == 5


def test_env_beats_the_runtime_file_and_the_environment_beats_both(
    env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime.env").write_text(
        "MARKETLAKE_POSTGRES__PORT=1\nMARKETLAKE_LEDGER__PORT=1\nMARKETLAKE_YAHOO__TIMEOUT_S=1\n"
    )
    env_file.write_text("MARKETLAKE_POSTGRES__PORT=2\nMARKETLAKE_LEDGER__PORT=2\n")
    monkeypatch.setenv("MARKETLAKE_POSTGRES__PORT", "3")
    settings = load_settings(tmp_path)
    assert (settings.postgres.port, settings.ledger.port, settings.yahoo.timeout_s) == (3, 2, 1)


def test_env_names_the_state_folder_whose_runtime_file_is_read(
    env_file: Path, tmp_path: Path
) -> None:
    home = env_file.parent / "state"
    home.mkdir()
    (home / "runtime.env").write_text("MARKETLAKE_LEDGER__PORT=7\n")
    env_file.write_text("MARKETLAKE_HOME=state\n")
    assert (load_settings().home, load_settings().ledger.port) == (home, 7)
    assert load_settings(tmp_path).home == tmp_path


def test_the_environment_names_the_state_folder_before_env(
    env_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env_file.write_text("MARKETLAKE_HOME=state\n")
    monkeypatch.setenv("MARKETLAKE_HOME", str(tmp_path))
    assert load_settings().home == tmp_path


def test_env_chooses_the_market(env_file: Path, tmp_path: Path) -> None:
    env_file.write_text(
        "MARKETLAKE_MARKET__NAME=generated\nMARKETLAKE_MARKET__LAST_SESSION=2024-03-01\n"
    )
    market = load_settings(tmp_path).market
    assert (market.name, market.last_session) == ("generated", date(2024, 3, 1))


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "MARKETLAKE_NO__SUCH", "MARKETLAKE_RISK__NOTHING"])
def test_an_unknown_name_in_env_is_refused_and_named(
    env_file: Path, tmp_path: Path, name: str
) -> None:
    env_file.write_text(f"{name}=1\n")
    with pytest.raises(ConfigError, match=f"(^|[ '\"]){name}: ") as refused:
        load_settings(tmp_path)
    assert str(env_file) in refused.value.where


@pytest.mark.parametrize("name", ["MARKETLAKE_NO__SUCH", "MARKETLAKE_RISK__NOTHING"])
def test_an_unknown_name_in_the_environment_is_refused_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ConfigError, match=f"{name}: "):
        load_settings(tmp_path)


def test_a_calendar_that_gates_and_warehouse_do_not_follow_is_refused(
    env_file: Path, tmp_path: Path
) -> None:
    env_file.write_text("MARKETLAKE_MARKET__CALENDAR=XLON\n")
    with pytest.raises(ConfigError, match="MARKET__CALENDAR"):
        load_settings(tmp_path)


def test_a_price_may_have_a_discrepancy_limit_of_its_own() -> None:
    gates = GateSettings(discrepancy_pct_of={"open_usd": 1.5})
    assert gates.thresholds_pct() == {
        "open_usd": 1.5,
        "high_usd": 0.5,
        "low_usd": 0.5,
        "close_usd": 0.5,
    }
    with pytest.raises(ValidationError, match="open_usd"):
        GateSettings(discrepancy_pct_of={"opening": 1.0})


def test_the_sandbox_needs_no_keys_and_live_mode_has_none_by_itself() -> None:
    assert configured(Settings()) == ("yahoo", "alpha_vantage", "iex")
    live = Settings(mode="live")
    assert configured(live) == ("yahoo",)
    for settings in (Settings(), live):
        sources = [open_source(name, settings) for name in settings.market.sources]
        asked = tuple(item.name for item in sources if item.not_configured is None)
        assert asked == configured(settings)
        assert {item.name for item in sources if item.semantics.volume == "one_venue"} == ONE_VENUE
