"""The commands about the platform, run as a person runs them: in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sysconfig
from datetime import date
from pathlib import Path

import pytest
from marketlake.clock import utc_now
from marketlake.contracts.catalog import OUT_REPORTS_DAILY
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition, RunIdentity

MARKETLAKE = Path(sysconfig.get_path("scripts")) / "marketlake"


def marketlake(
    home: Path, *arguments: str, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    inherited = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "GITHUB_ACTIONS"}}
    plain = {"MARKETLAKE_HOME": str(home), "COLUMNS": "100", "NO_COLOR": "1"}
    return subprocess.run(
        [str(MARKETLAKE), *arguments],
        env=inherited | plain | (env or {}),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_help_lists_the_commands_of_the_readme(tmp_path: Path) -> None:
    shown = marketlake(tmp_path, "--help")
    assert shown.returncode == 0
    for command in ("up", "down", "status", "backfill", "doctor", "run", "train", "logs", "clean"):
        assert f"│ {command} " in shown.stdout


def test_status_of_a_platform_that_never_ran_says_down_and_makes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "never"
    shown = marketlake(home, "status", "--json")
    document = json.loads(shown.stdout)
    assert shown.returncode == 1
    assert {one["state"] for one in document["components"]} == {"down"}
    assert document["ready"] is False
    assert document["sessions"] == {"unknown": "seaweedfs does not answer"}
    assert document["ui_url"].startswith("http://127.0.0.1:")
    assert not home.exists()


@pytest.mark.slow
def test_status_names_due_sessions_without_a_report_and_the_command_that_runs_them(
    storage_settings: Settings, lake: Lake
) -> None:
    chosen = {"MARKETLAKE_LAKE__BUCKET": lake.bucket}
    shown = marketlake(storage_settings.home, "status", env=chosen)
    assert "sessions: none has a report yet" in shown.stdout
    session = date(2022, 12, 23)
    lake.write(
        OUT_REPORTS_DAILY,
        Partition.of_session(session),
        dict.fromkeys((item.name for item in OUT_REPORTS_DAILY.fields), "text"),
        sessions=[session],
        parents=[],
        run=RunIdentity("tests", "once", "report"),
        code_version="test",
        recorded_at=utc_now(),
        export=b"<!doctype html>",
    )
    shown = marketlake(storage_settings.home, "status", env=chosen)
    assert "1 reported, 2 missing (2022-12-27, 2022-12-28)" in shown.stdout
    assert "marketlake backfill --from 2022-12-27 --to 2022-12-28 --missing" in shown.stdout
    document = json.loads(marketlake(storage_settings.home, "status", "--json", env=chosen).stdout)
    assert document["sessions"]["missing"] == ["2022-12-27", "2022-12-28"]
    assert document["sessions"]["stale"] == []


def test_status_says_why_it_does_not_know_the_sessions(storage_settings: Settings) -> None:
    wrong = {"MARKETLAKE_LAKE__SECRET_KEY": "not-the-right-one"}
    shown = marketlake(storage_settings.home, "status", env=wrong)
    assert "sessions unknown: AuthFailed" in shown.stdout
    assert "not-the-right-one" not in shown.stdout + shown.stderr


def test_a_wrong_setting_is_named_and_exits_with_two(tmp_path: Path) -> None:
    wrong = marketlake(tmp_path, "status", env={"MARKETLAKE_POSTGRES__PORT": "many"})
    assert wrong.returncode == 2
    assert "MARKETLAKE_POSTGRES__PORT" in wrong.stderr
    assert "Traceback" not in wrong.stderr


def test_doctor_answers_every_question(tmp_path: Path) -> None:
    shown = marketlake(tmp_path, "doctor", "--json")
    findings = {one["subject"]: one for one in json.loads(shown.stdout)}
    assert set(findings) == {
        "python", "packages", "settings", "disk", "memory", "user", "components", "lake",
        "scheduling", "vendors",
    }  # fmt: skip
    assert findings["components"]["found"] == "nothing runs"
    assert findings["lake"]["found"] == "no store runs"
    assert findings["scheduling"]["found"] == "no scheduler runs"
    wrong = [one for one in findings.values() if one["verdict"] == "wrong"]
    assert shown.returncode == (1 if wrong else 0)


def test_doctor_says_in_live_mode_whether_the_vendor_answers(
    tmp_path: Path, live_vendors: dict[str, str]
) -> None:
    def vendors(environment: dict[str, str]) -> dict[str, str]:
        shown = marketlake(tmp_path, "doctor", "--json", env=environment)
        (found,) = [one for one in json.loads(shown.stdout) if one["subject"] == "vendors"]
        return dict(found)

    answered = vendors(live_vendors)
    assert answered["verdict"] == "fine"
    assert answered["found"].startswith("Yahoo has ^GSPC for 2")

    nobody_there = {"MARKETLAKE_EGRESS__PROXY_URL": "http://{session}@127.0.0.1:1"}
    dead = vendors(live_vendors | nobody_there)
    assert dead["verdict"] == "wrong"
    assert "egress" in dead["todo"].lower()


def test_doctor_tells_root_that_postgres_cannot_reach_a_closed_folder(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    shown = marketlake(closed / "home", "doctor", "--json")
    (user,) = [one for one in json.loads(shown.stdout) if one["subject"] == "user"]
    if os.geteuid() == 0:
        assert user["verdict"] == "wrong"
        assert "is closed to it" in user["found"]
    else:
        assert user["verdict"] == "fine"


def test_the_log_of_an_unknown_component_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "scheduler.log").write_text("first\nlast\n")
    unknown = marketlake(tmp_path, "logs", "nobody")
    assert unknown.returncode == 1
    assert "one of scheduler" in unknown.stderr
    known = marketlake(tmp_path, "logs", "scheduler", "-n", "1")
    assert known.stdout.splitlines()[-1] == "last"
    assert "first" not in known.stdout


def test_a_backfill_without_a_platform_says_how_to_start_one(tmp_path: Path) -> None:
    refused = marketlake(tmp_path, "backfill", "--from", "2022-12-28", "--to", "2022-12-28")
    assert refused.returncode == 2
    assert "`marketlake up` starts it" in refused.stderr


def test_a_backfill_of_a_holiday_makes_no_run(tmp_path: Path) -> None:
    holiday = marketlake(tmp_path, "backfill", "--from", "2022-12-24", "--to", "2022-12-26")
    assert holiday.returncode == 0
    assert holiday.stdout == "no XNYS session from 2022-12-24 to 2022-12-26\n"


def test_a_reversed_range_and_contradicting_options_are_refused(tmp_path: Path) -> None:
    reversed_range = marketlake(tmp_path, "backfill", "--from", "2022-12-28", "--to", "2022-12-27")
    assert reversed_range.returncode == 2
    assert "is after" in reversed_range.stderr
    both = ("--from", "2022-12-27", "--to", "2022-12-28", "--stale", "--reprocess", "completed")
    contradiction = marketlake(tmp_path, "backfill", *both)
    assert contradiction.returncode == 2
    assert "--reprocess" in contradiction.stderr
