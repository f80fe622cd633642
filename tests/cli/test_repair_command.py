"""``marketlake repair`` on real stores: look, apply, take back."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import Result
from marketlake.cli import app
from marketlake.errors import ConfigError
from marketlake.settings import Settings
from typer.testing import CliRunner

from tests.pipelines.faulty_bars import IN_CENTS, MISSING, publish

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient

Repair = Callable[..., Result]


@pytest.fixture(scope="module")
def repair(storage_settings: Settings, lake: Lake, ledger: LedgerClient) -> Repair:
    """Return the command, on a lake with two sessions of proposals."""
    from marketlake.pipelines.context import open_context
    from marketlake.types import RunIdentity

    here = storage_settings.lake.model_copy(update={"bucket": lake.bucket})
    settings = storage_settings.model_copy(update={"lake": here})
    with open_context(settings, RunIdentity("test_repair_command", lake.bucket, "publish")) as ctx:
        publish(ctx, last_sessions=2)
    environment = {
        "MARKETLAKE_HOME": str(storage_settings.home),
        "MARKETLAKE_LAKE__BUCKET": lake.bucket,
        "NO_COLOR": "1",
        "LOGNAME": "ada",
    }

    def run(*arguments: str) -> Result:
        return CliRunner(env=environment).invoke(
            app, ["repair", *arguments], catch_exceptions=False
        )

    return run


def states(repair: Repair, *arguments: str) -> dict[tuple[str, str], str]:
    rows = json.loads(repair("list", "--json", *arguments).stdout)
    return {(row["session"], row["proposal"]): row["state"] for row in rows}


def test_list_names_every_sessions_proposals(repair: Repair) -> None:
    assert states(repair) == {
        ("2022-12-22", IN_CENTS): "proposed",
        ("2022-12-23", IN_CENTS): "proposed",
        ("2022-12-23", MISSING): "proposed",
    }
    assert set(states(repair, "--to", "2022-12-22")) == {("2022-12-22", IN_CENTS)}
    table = repair("list", "--from", "2022-12-23").stdout
    assert "2 proposals, 0 in force" in table
    assert MISSING in table


def test_show_has_each_cell_and_the_evidence(repair: Repair) -> None:
    shown = repair("show", MISSING).stdout
    assert "close_usd" in shown
    assert "evidence: median of 2 other sources" in shown
    cells = json.loads(repair("show", IN_CENTS, "--session", "2022-12-23", "--json").stdout)
    assert [round(cell["before"] / cell["after"]) for cell in cells] == [100] * 4


def test_apply_says_how_to_redo_and_revert_takes_it_back(repair: Repair) -> None:
    said = repair("apply", MISSING, "--reason", "IEX was down").stdout
    assert "2022-12-23 missing_bar:PG:iex:2022-12-23  applied; 4 cells in force" in said
    redo = "marketlake backfill --from 2022-12-23 --to 2022-12-23"
    assert f"  {redo} --reprocess completed\n  {redo} --stale\n" in said
    assert states(repair)["2022-12-23", MISSING] == "in force"
    assert "2022-12-23: applied by ada: IEX was down" in repair("show", MISSING).stdout
    with pytest.raises(ConfigError, match="which ada applied"):
        repair("apply", MISSING, "--reason", "again")
    said = repair("revert", MISSING, "--reason", "it was halted", "--by", "bob").stdout
    assert "taken back; 0 cells in force" in said
    assert f"{redo} --reprocess completed" in said
    assert states(repair)["2022-12-23", MISSING] == "proposed"


def test_a_proposal_of_several_sessions_is_applied_where_it_is_meant(repair: Repair) -> None:
    with pytest.raises(ConfigError, match=r"--session 2022-12-22, or --every-session"):
        repair("apply", IN_CENTS, "--reason", "in cents")
    repair("apply", IN_CENTS, "--session", "2022-12-23", "--reason", "in cents")
    found = states(repair)
    assert found["2022-12-22", IN_CENTS] == "proposed"
    assert found["2022-12-23", IN_CENTS] == "in force"
    said = repair("apply", IN_CENTS, "--every-session", "--reason", "in cents").stdout
    assert "2022-12-22 " in said
    assert "2022-12-23 " not in said.splitlines()[0]
    said = repair("revert", IN_CENTS, "--every-session", "--reason", "done").stdout
    assert "--from 2022-12-22 --to 2022-12-23 --reprocess completed" in said
    assert set(states(repair).values()) == {"proposed"}


def test_an_unknown_proposal_is_a_usage_error_that_names_the_nearest(repair: Repair) -> None:
    with pytest.raises(ConfigError, match=f"nearest is {IN_CENTS}"):
        repair("apply", "unit:KO:yahoo", "--reason", "in cents")
    with pytest.raises(ConfigError, match="applied_repair"):
        repair("revert", MISSING, "--reason", "never applied")


@pytest.mark.parametrize("command", ["list", "show", "apply", "revert"])
def test_every_repair_command_has_help(repair: Repair, command: str) -> None:
    assert "Usage:" in repair(command, "--help").stdout
