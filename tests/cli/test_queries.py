"""The commands that look, against real stores."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest
from marketlake.cli import app
from marketlake.contracts import catalog
from marketlake.contracts.arrow import schema
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.types import ArtifactRef, Partition, RunIdentity
from typer.testing import CliRunner

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient
    from marketlake.storage.warehouse import Warehouse

SESSION = date(2022, 12, 23)
AT = datetime(2022, 12, 23, 21, 15, tzinfo=UTC)
BODY = b'{"chart": "[bold]"}'

Cli = Callable[..., "Done"]


@dataclass(frozen=True)
class Done:
    """What a command said and how it ended."""

    returncode: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def refs(lake: Lake, ledger: LedgerClient) -> dict[str, ArtifactRef]:
    """Publish a vendor's answer and a signal made from it; one report the ledger never saw."""
    from marketlake.storage.ledger import LedgerWriter

    run = RunIdentity("test_queries", f"run-{lake.bucket}", "publish")
    writer = LedgerWriter(ledger, run)
    made: dict[str, ArtifactRef] = {}
    response = {
        "symbol": "KO",
        "request_no": 0,
        "method": "GET",
        "url": "https://query2.finance.yahoo.com/v8/finance/chart/KO",
        "status": 200,
        "body": BODY,
        "body_sha256": hashlib.sha256(BODY).hexdigest(),
    }
    signal = {
        "session": SESSION,
        "symbol": "KO",
        "score_bps": 12.5,
        "rank": 1,
        "side": "long",
        "probability_up": 0.503,
        "probability_right": 0.52,
        "conformal_set": "both",
        "confidence": 0.51,
        "confidence_low": 0.50,
        "confidence_high": 0.52,
        "confidence_n": 9000,
        "base_rate": 0.505,
        "horizon_sessions": 5,
        "model_name": "linear",
        "model_sha256": "ab" * 32,
        "simulated": False,
        "known_at_utc": AT,
    }
    report = dict.fromkeys((field.name for field in catalog.OUT_REPORTS_DAILY.fields), "text")
    for contract, content in (
        (catalog.RAW_YAHOO_RESPONSE, response),
        (catalog.CORE_SIGNALS_SIGNAL, signal),
        (catalog.OUT_REPORTS_DAILY, report),
    ):
        is_table = contract.form == "parquet"
        parents = list(made.values())
        made[contract.name] = lake.write(
            contract,
            Partition.of_session(SESSION),
            pa.Table.from_pylist([content], schema=schema(contract)) if is_table else content,
            sessions=[SESSION],
            parents=parents,
            run=run,
            code_version="test",
            recorded_at=AT,
            export=None if is_table else b"<!doctype html>",
        )
        if is_table:
            named = [parent.versioned_name for parent in parents]
            writer.record("published", **made[contract.name].as_json(), parents=named)
    writer.record("decision", name="signal", session="2022-12-23",
                  signals=[{"symbol": "KO", "side": "long"}])  # fmt: skip
    return made


@pytest.fixture(scope="module")
def environment(storage_settings: Settings, lake: Lake) -> dict[str, str]:
    return {
        "MARKETLAKE_HOME": str(storage_settings.home),
        "MARKETLAKE_LAKE__BUCKET": lake.bucket,
        "PGPASSWORD": "wrong",
        "NO_COLOR": "1",
    }


@pytest.fixture(scope="module")
def cli(environment: dict[str, str]) -> Cli:
    """Return the command line, called in this process."""

    def run(*arguments: str) -> Done:
        done = CliRunner(env=environment).invoke(app, arguments, catch_exceptions=False)
        return Done(done.exit_code, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def program(environment: dict[str, str]) -> Cli:
    """Return the command line as a program of its own, with its exit codes."""

    def run(*arguments: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-c", "from marketlake.cli import main; main()", *arguments],
            env=os.environ | environment | {"PYTHONPATH": str(PROJECT_ROOT / "include")},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def _json(done: Done) -> object:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_artifacts_lists_rows_and_hashes(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    listed = _json(cli("artifacts", "--json"))
    assert isinstance(listed, list)
    assert {row["contract"]: row["sha256"] for row in listed} == {
        name: ref.sha256 for name, ref in refs.items()
    }
    table = cli("artifacts", "--session", "2022-12-23").stdout
    assert refs["core_signals__signal"].uri in table
    assert "core_signals__signal" not in cli("artifacts", "--session", "2022-12-22").stdout


def test_artifacts_spec_lists_the_49_named_files(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    files = _json(cli("artifacts", "--spec", "--json"))
    assert isinstance(files, list)
    assert len(files) == 49
    assert {"file", "section", "produced_by", "rows", "sha256"} <= set(files[0])
    assert all(row["sha256"] is None for row in files)
    assert "0 of 49 named files" in cli("artifacts", "--spec").stdout


def test_show_prints_rows_documents_and_saves_named_files(
    cli: Cli, refs: dict[str, ArtifactRef], tmp_path_factory: pytest.TempPathFactory
) -> None:
    shown = cli("show", "core_signals__signal/2022-12-23").stdout
    assert "12.5" in shown
    assert refs["core_signals__signal"].sha256 in shown
    document = _json(cli("show", "out_reports__daily"))
    assert isinstance(document, dict)
    assert document["content"]["session"] == "text"
    page = tmp_path_factory.mktemp("saved") / "report.html"
    assert cli("show", "out_reports__daily", "--save", str(page)).returncode == 0
    assert page.read_bytes() == b"<!doctype html>"
    responses = _json(cli("show", "raw_yahoo__response", "--json"))
    assert isinstance(responses, dict)
    assert responses["content"][0]["body"] == BODY.decode()


def test_signals_shows_interval_sample_and_base_rate(
    cli: Cli, refs: dict[str, ArtifactRef]
) -> None:
    table = cli("signals").stdout
    assert "51.0% [50.0%, 52.0%]" in table
    assert "9,000" in table
    assert "50.5%" in table
    assert "52.0%" in table.split("50.5%")[1], "P(right) after the base rate"
    rows = _json(cli("signals", "--session", "2022-12-23", "--json"))
    assert isinstance(rows, list)
    assert [(row["symbol"], row["session"]) for row in rows] == [("KO", "2022-12-23")]


def test_trace_reaches_the_vendors_bytes(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    done = cli("trace", "core_signals__signal")
    assert done.returncode == 0, done.stderr
    assert f"intact {hashlib.sha256(BODY).hexdigest()[:12]}" in done.stdout
    assert "2 artifacts, 1 vendor answers, every link proven in the ledger" in done.stdout
    tree = _json(cli("trace", "core_signals__signal", "--json"))
    assert isinstance(tree, dict)
    assert tree["parents"][0]["vendor_bytes"][0]["intact"] is True


@pytest.mark.parametrize("signal", [("2022-12-23/KO",), ("KO",), ("KO", "--session", "2022-12-23")])
def test_trace_of_a_signal_begins_with_its_row(
    cli: Cli, refs: dict[str, ArtifactRef], signal: tuple[str, ...]
) -> None:
    done = cli("trace", *signal)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first.rstrip() == "the signal 2022-12-23/KO, model linear"
    assert "+12.5 bps" in done.stdout
    assert f"intact {hashlib.sha256(BODY).hexdigest()[:12]}" in "".join(rest)


def test_trace_down_says_which_outputs_touched_an_answer(
    cli: Cli, refs: dict[str, ArtifactRef]
) -> None:
    version = f"raw_yahoo__response/2022-12-23@{refs['raw_yahoo__response'].sha256[:8]}"
    done = cli("trace", version, "--down", "--symbol", "KO")
    assert done.returncode == 0, done.stderr
    assert "core_signals__signal session=2022-12-23" in done.stdout
    assert "every link shown is proven in the ledger" in done.stdout
    assert "that none is missing is the index's word" in done.stdout
    assert "--reindex" in done.stdout
    tree = _json(cli("trace", version, "--down", "--json", "--reindex"))
    assert isinstance(tree, dict)
    assert [child["contract"] for child in tree["children"]] == ["core_signals__signal"]


def test_trace_writes_one_page_that_loads_nothing(
    cli: Cli, refs: dict[str, ArtifactRef], tmp_path_factory: pytest.TempPathFactory
) -> None:
    page = tmp_path_factory.mktemp("traced") / "lineage.html"
    assert cli("trace", "2022-12-23/KO", "--html", str(page)).returncode == 0
    text = page.read_text()
    for shown in (
        refs["core_signals__signal"].sha256,
        hashlib.sha256(BODY).hexdigest(),
        "every link proven",
        "rank 1, score +12.5 bps",
    ):
        assert shown in text
    assert "<script" not in text
    assert 'src="' not in text
    assert "<link" not in text


def test_why_says_what_is_recorded_and_what_is_not(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    found = _json(cli("why", "2022-12-23/KO", "--json"))
    assert isinstance(found, dict)
    assert found["confidence"]["interval_95"] == [0.50, 0.52]
    assert found["features"] == "not recorded"
    assert [row["contract"] for row in found["data"]] == ["raw_yahoo__response"]
    assert found["proof"]["decision"]["side"] == "long"
    assert found["proof"]["published"]["ledger_index"] < found["proof"]["decision"]["ledger_index"]
    told = cli("why", "KO")
    assert told.returncode == 0
    assert "not recorded" in told.stdout
    assert cli("why", "--help").returncode == 0


def test_a_signal_that_is_none_is_a_usage_error_and_a_missing_one_a_failure(
    program: Cli, refs: dict[str, ArtifactRef]
) -> None:
    unreadable = program("why", "yesterday/KO")
    assert unreadable.returncode == 2
    assert "SESSION/SYMBOL" in unreadable.stderr
    missing = program("why", "2022-12-23/XOM")
    assert missing.returncode == 1
    assert "signals of KO" in missing.stderr


def test_trace_of_what_the_ledger_never_saw_exits_1(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    done = cli("trace", "out_reports__daily")
    assert done.returncode == 1
    assert "not in the ledger" in done.stdout


def test_audit_verify_recomputes_the_ledger(cli: Cli, refs: dict[str, ArtifactRef]) -> None:
    done = cli("audit", "verify")
    assert done.returncode == 0, done.stdout + done.stderr
    found = _json(cli("audit", "verify", "--json"))
    assert isinstance(found, dict)
    assert found["ok"] is True
    assert found["size"] >= len(refs) - 1
    assert found["root_hash"] in done.stdout


def test_sql_is_a_psql_on_the_warehouse(program: Cli, cli: Cli, warehouse: Warehouse) -> None:
    statement = "select current_database() as db, count(*) as n from core.signals__signal"
    done = program("sql", "-c", statement, "--csv")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "db,n"
    rows = _json(cli("sql", "--json", "-c", statement))
    assert isinstance(rows, list)
    assert rows[0]["db"] == "warehouse"


def test_sql_json_prints_what_a_query_rounds_and_likes(cli: Cli, warehouse: Warehouse) -> None:
    statement = "select round(2.345, 1) as share, date '2022-12-28' as day where 'ab' like 'a%'"
    assert _json(cli("sql", "--json", "-c", statement)) == [{"share": 2.3, "day": "2022-12-28"}]


def test_sql_json_without_a_statement_is_a_usage_error(program: Cli) -> None:
    done = program("sql", "--json")
    assert done.returncode == 2
    assert "marketlake sql --json -c" in done.stderr


def test_contracts_list_names_every_contract(cli: Cli) -> None:
    listed = _json(cli("contracts", "list", "--json"))
    assert isinstance(listed, list)
    assert [row["contract"] for row in listed] == [item.name for item in catalog.CATALOG]


def test_contracts_check_agrees_with_what_is_committed(cli: Cli) -> None:
    done = cli("contracts", "check")
    assert done.returncode == 0, done.stdout
    assert _json(cli("contracts", "check", "--json")) == []


def test_an_unknown_artifact_is_a_usage_error_and_a_missing_one_a_failure(
    program: Cli, refs: dict[str, ArtifactRef]
) -> None:
    unknown = program("show", "core_nothing__at_all")
    assert unknown.returncode == 2
    assert "marketlake contracts list" in unknown.stderr
    missing = program("signals", "--session", "2022-12-22")
    assert missing.returncode == 1
    assert "predict_signals" in missing.stderr


@pytest.mark.parametrize(
    "command",
    [
        ("artifacts",),
        ("show",),
        ("signals",),
        ("trace",),
        ("why",),
        ("audit", "verify"),
        ("sql",),
        ("contracts", "render"),
        ("contracts", "check"),
        ("contracts", "list"),
    ],
)
def test_every_command_has_help(cli: Cli, command: tuple[str, ...]) -> None:
    done = cli(*command, "--help")
    assert done.returncode == 0
    assert "Usage:" in done.stdout
