"""``marketlake backup`` and ``restore`` on the real stores, as a person types them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from click.testing import Result
from marketlake.cli import app
from marketlake.errors import ConfigError
from marketlake.settings import Settings
from typer.testing import CliRunner

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient

Command = Callable[..., Result]


@pytest.fixture(scope="module")
def command(storage_settings: Settings, lake: Lake, ledger: LedgerClient) -> Command:
    """Return a runner of commands, on a lake of one record and a backup bucket of its own."""
    ledger.ping()
    lake.put_record("lineage/2022-12-28/run.json", b"{}")
    environment = {
        "MARKETLAKE_HOME": str(storage_settings.home),
        "MARKETLAKE_LAKE__BUCKET": lake.bucket,
        "MARKETLAKE_LAKE__WORM_BUCKET": lake.bucket.replace("lake", "worm"),
        "MARKETLAKE_BACKUP__BUCKET": f"backup-{uuid.uuid4().hex[:12]}",
    }

    def run(*arguments: str) -> Result:
        return CliRunner(env=environment).invoke(app, [*arguments], catch_exceptions=False)

    return run


def test_without_a_backup_there_is_nothing_to_restore(command: Command) -> None:
    with pytest.raises(ConfigError, match="marketlake backup"):
        command("restore", "--into", f"none-{uuid.uuid4().hex[:8]}")


def test_a_backup_says_what_it_holds_and_what_it_does_not_protect_from(command: Command) -> None:
    done = command("backup")
    assert done.exit_code == 0
    assert "no protection against losing that store" in done.stdout
    assert "object versions saved" in done.stderr
    again = json.loads(command("backup", "--json").stdout)
    assert again["index"] > done.stdout.split("index ")[1].split()[0]
    assert again["same_store"] is True


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_the_help_says_that_no_backup_has_the_keys_of_sealed_documents(
    command: Command, name: str
) -> None:
    said = " ".join(command(name, "--help").stdout.replace("│", " ").split())
    assert "(sealed.document_key)" in said
    assert "no backup holds" in said or "a backup never forgets" in said


def test_a_restore_says_how_to_use_it(command: Command) -> None:
    name = f"cli-{uuid.uuid4().hex[:10]}"
    told = json.loads(command("backup", "--json").stdout)
    done = command("restore", "--into", name)
    assert done.exit_code == 0
    assert f"{told['log']['size']} ledger entries verified" in done.stdout
    assert f"MARKETLAKE_LAKE__BUCKET={name}" in done.stdout
    assert f"MARKETLAKE_POSTGRES__LEDGER_DB={name}" in done.stdout
    with pytest.raises(ConfigError, match="an empty bucket"):
        command("restore", "--into", name)
