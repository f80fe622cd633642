"""``marketlake snapshots`` and what ``marketlake replay`` refuses, against real stores."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, date, datetime

import pyarrow as pa
import pytest
from marketlake.cli import app
from marketlake.clock import utc_now
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import CORE_REFERENCE_UNIVERSE_MEMBER as MEMBERS
from marketlake.errors import ConfigError, LookaheadError, NotFound
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.snapshots import Snapshot, SnapshotObject, Snapshots
from marketlake.types import Partition, RunIdentity
from typer.testing import CliRunner, Result

SESSION = date(2022, 12, 23)
FIRST, SECOND = datetime(2026, 1, 5, 12, tzinfo=UTC), datetime(2026, 1, 6, 12, tzinfo=UTC)

Cli = Callable[..., Result]


@pytest.fixture(scope="module")
def cli(storage_settings: Settings, lake: Lake) -> Cli:
    environment = {
        "MARKETLAKE_HOME": str(storage_settings.home),
        "MARKETLAKE_LAKE__BUCKET": lake.bucket,
        "NO_COLOR": "1",
    }

    def run(*arguments: str) -> Result:
        return CliRunner(env=environment).invoke(app, arguments)

    return run


@pytest.fixture(scope="module")
def names(lake: Lake, ledger: LedgerClient) -> list[str]:
    """Keep two snapshots of one run, the second ten times as large a state."""
    kept = Snapshots(lake, ledger)
    return [
        kept.write(
            Snapshot(
                step=f"marketlake.pipelines.build_features.{task}",
                session=SESSION.isoformat(),
                category="analysis",
                moment="after_step",
                run=RunIdentity("build_features", f"run-of-{lake.bucket}", task),
                recorded_at_utc=utc_now().isoformat(),
                code_version="test",
                parameters={},
                arguments={},
                error=None,
                bucket=lake.bucket,
                objects=(SnapshotObject("core/core_x__y/year=2022/p", "v1", "ab" * 32, size, 7),),
                read=(0,),
                wrote=(),
                exported=(),
                newest=(),
                absent=(),
                listed=(),
                loaded={},
            ),
            local=datetime(2026, 1, 5, 7, 30, tzinfo=UTC),
        )
        for task, size in (("compute", 10_000), ("publish", 100_000))
    ]


def test_snapshots_list_says_what_each_takes_and_what_copies_would(
    cli: Cli, lake: Lake, names: list[str]
) -> None:
    listed = json.loads(cli("snapshots", "list", "--json").stdout)
    assert [row["copied_bytes"] for row in listed] == [10_000, 100_000]
    assert [f"snapshots/{row['name']}" for row in listed] == names
    one = cli("snapshots", "list", "--run", f"build_features/run-of-{lake.bucket}/publish").stdout
    assert "1 of 1 snapshots" in one
    assert f"{100_000 / listed[1]['bytes']:.0f} times as much" in one
    assert "0 of 0" in cli("snapshots", "list", "--session", "2022-12-22").stdout


def test_a_snapshot_is_shown_from_the_archive_and_restored(
    cli: Cli, lake: Lake, ledger: LedgerClient, names: list[str]
) -> None:
    before = cli("snapshots", "show", names[1])
    assert json.loads(before.stdout)["step"].endswith("publish")
    Snapshots(lake, ledger).archive("202601", names)
    assert lake.list_keys("snapshots/") == []
    assert cli("snapshots", "show", names[1].removeprefix("snapshots/")).stdout == before.stdout
    assert "2 snapshots of 202601 restored" in cli("snapshots", "restore", "202601").stdout
    assert lake.list_keys("snapshots/") == sorted(names)


def test_an_artifact_is_shown_as_it_was_at_an_instant(cli: Cli, lake: Lake) -> None:
    for at, sector in ((FIRST, "Staples"), (SECOND, "Health")):
        row = {"session": SESSION, "symbol": "KO", "sector": sector, "membership_dated": False}
        lake.write(
            MEMBERS,
            Partition.of_session(SESSION),
            pa.Table.from_pylist([row], schema=schema(MEMBERS)),
            sessions=[SESSION],
            parents=[],
            run=RunIdentity("tests", "as of", "write"),
            code_version="test",
            recorded_at=at,
        )
    address = f"{MEMBERS.name}/{SESSION}"
    then = cli("snapshots", "as-of", "2026-01-06T06:00:00-05:00", address)
    assert "Staples" in then.stdout
    assert "Health" not in then.stdout
    now = cli("snapshots", "as-of", "2026-01-06T07:00-05:00", address, "--json")
    assert json.loads(now.stdout)["content"][0]["sector"] == "Health"
    assert isinstance(
        cli("snapshots", "as-of", "2026-01-05T11:59:59Z", address).exception, LookaheadError
    )


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        ((), ConfigError),
        (("2022-12-23/KO", "--run", "a/b"), ConfigError),
        (("--run", "build_features"), ConfigError),
        (("--run", "build_features/never"), NotFound),
    ],
)
def test_a_replay_of_nothing_says_what_to_give(
    cli: Cli, arguments: tuple[str, ...], kind: type[Exception]
) -> None:
    assert isinstance(cli("replay", *arguments).exception, kind)


@pytest.mark.parametrize(
    "command",
    [("replay",), *(("snapshots", name) for name in ("list", "show", "restore", "as-of"))],
)
def test_every_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, "--help")
    assert done.exit_code == 0
    assert "Usage:" in done.stdout
