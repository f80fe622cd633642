"""What was recorded of a line is enough to do it again, byte by byte, and nothing else is read."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from dataclasses import asdict, replace
from datetime import date, timedelta
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from marketlake.clock import utc_now
from marketlake.contracts.catalog import CORE_FEATURES_DAILY
from marketlake.errors import GateFailed, NotFound
from marketlake.pipelines import (
    archive_lake,
    back_up,
    daily_line,
    restore_backup,
    validate_market_data,
)
from marketlake.pipelines.context import open_context
from marketlake.pipelines.replay import Replay, Replayer
from marketlake.pipelines.snapshots import snapshot_of
from marketlake.quality.gate import Judgement
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.objects import ObjectStore
from marketlake.storage.snapshots import Snapshots
from marketlake.storage.warehouse import Warehouse
from marketlake.types import ArtifactRef, Partition, RunIdentity

SESSION = date(2022, 12, 21)
CHAIN = [
    "ingest_market_data.fetch",
    "ingest_market_data.publish",
    "validate_market_data.gate",
    "validate_market_data.compare_sources",
    "validate_market_data.report_integrity",
    "validate_market_data.publish",
    "build_features.compute",
    "build_features.publish",
    "predict_signals.predict",
    "predict_signals.publish",
]


@pytest.fixture(scope="module")
def published(line: Settings) -> list[ArtifactRef]:
    return daily_line.run_session(line, SESSION, run_id="recorded")


@pytest.fixture(scope="module")
def kept(line: Settings, published: list[ArtifactRef], ledger: LedgerClient) -> Snapshots:
    return Snapshots(Lake(line.lake), ledger)


def steps(replay: Replay) -> list[str]:
    return list(dict.fromkeys(step.step for step in replay.steps))


def faults(replay: Replay) -> dict[str, Any]:
    return {
        step.step: step.fault or [item for item in step.outputs if not item.equal]
        for step in replay.steps
        if step.failed
    }


def test_every_step_of_a_line_has_one_snapshot_under_the_name_of_its_kind(
    kept: Snapshots, published: list[ArtifactRef], ledger: LedgerClient
) -> None:
    entries = [entry for entry in kept.entries() if entry.run.run_id == "recorded"]
    finished = ledger.entries("task_finished", run_id="recorded", limit=10_000)
    assert len(entries) >= 19
    assert [asdict(entry.run) for entry in entries] == [
        entry.run for entry in finished if entry.payload["part"] == 1
    ]
    folders = {(entry.run.dag_id, entry.name.split("/")[1]) for entry in entries}
    assert folders >= {
        ("ingest_market_data", "data_fetch"),
        ("validate_market_data", "data_fetch"),
        ("build_warehouse", "analysis"),
        ("build_features", "analysis"),
        ("predict_signals", "signals"),
        ("assess_risk", "analysis"),
        ("report_daily", "analysis"),
    }
    moments = [entry.moment for entry in entries if entry.run.dag_id == "predict_signals"]
    assert moments == ["before_decision", "after_decision"]
    wrote = {own.objects[place].sha256 for own in map(kept.read, entries) for place in own.wrote}
    assert {ref.sha256 for ref in published} <= wrote


def test_a_snapshot_holds_the_settings_that_matter_and_no_secret(
    line: Settings, kept: Snapshots
) -> None:
    (entry,) = [item for item in kept.entries(run_id="recorded") if item.run.task_id == "predict"]
    recorded = kept.read(entry).parameters["settings"]
    assert recorded["market"]["first_session"] == "2019-01-02"
    assert recorded["models"]["seed"] == line.models.seed
    body = kept.body(entry.name).decode()
    secrets = (line.lake.secret_key, line.postgres.password, line.alpha_vantage.api_key)
    for secret in secrets:
        assert secret is not None
        assert secret.get_secret_value() not in body
    assert str(line.home) not in body
    assert "universe_packaged" not in body


def test_a_signal_is_rebuilt_from_its_inputs_to_the_same_bytes_and_nothing_is_written(
    line: Settings, kept: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written(*_: Any, **__: Any) -> None:
        raise AssertionError("a replay wrote")

    for name in ("put", "copy", "delete"):
        monkeypatch.setattr(ObjectStore, name, written)
    monkeypatch.setattr(LedgerClient, "append", written)
    monkeypatch.setattr(Warehouse, "transaction", written)
    replay = Replayer(line).signals(SESSION)
    assert steps(replay) == CHAIN
    assert faults(replay) == {}
    assert replay.identical
    assert [step.step for step in replay.steps if step.skipped] == CHAIN[:1] * 3
    compared = {item.artifact for step in replay.steps for item in step.outputs}
    assert f"core/core_signals__signal/session={SESSION}/part.parquet" in compared
    assert "ml_models/predictions/daily_predictions_20221221.json" in compared


@pytest.mark.slow
def test_the_command_rebuilds_a_signal_in_a_process_of_its_own(
    line: Settings, kept: Snapshots
) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from marketlake.cli import main; main()"),
            *("replay", f"{SESSION}/KO"),
        ],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT_ROOT / "include"),
            "MARKETLAKE_ENV_FILE": os.devnull,
            "MARKETLAKE_HOME": str(line.home),
            "MARKETLAKE_LAKE__BUCKET": line.lake.bucket,
        },
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"replay of the signal {SESSION}/KO" in done.stdout
    assert "steps: identical bytes" in done.stdout


def test_every_step_of_the_day_that_asks_no_vendor_gives_the_same_bytes_again(
    line: Settings, kept: Snapshots
) -> None:
    replayer = Replayer(line)
    dags = {entry.run.dag_id for entry in kept.entries() if entry.run.run_id == "recorded"}
    for dag_id in dags:
        assert faults(replayer.run(dag_id, "recorded")) == {}, dag_id
    report = replayer.run("report_daily", "recorded", "publish")
    assert [item.artifact for item in report.steps[0].outputs] == [
        f"out/out_reports__daily/session={SESSION}/part.json",
        "reports/daily_report_20221221.html",
    ]


@pytest.mark.slow
def test_history_and_training_are_replayed_too(line: Settings, kept: Snapshots) -> None:
    for run in (
        ("load_history", "history", "compute_features"),
        ("train_models", "training", None),
    ):
        replay = Replayer(line).run(*run)
        assert faults(replay) == {}
        assert replay.identical


def test_a_computation_that_changed_is_named_with_both_hashes(
    line: Settings, kept: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    from marketlake.domain import features

    honest = features.compute_features

    def off_by_a_hair(*inputs: Any, **more: Any) -> pl.DataFrame:
        return honest(*inputs, **more).with_columns(pl.col("return_1d") + 1e-12)

    monkeypatch.setattr(features, "compute_features", off_by_a_hair)
    replay = Replayer(line).run("build_features", "recorded")
    assert not replay.identical
    (different,) = faults(replay)["build_features.compute"]
    assert different.recorded_sha256 != different.replayed_sha256
    # What follows is judged on what was recorded, so that the first culprit is the only one.
    assert list(faults(replay)) == ["build_features.compute"]


def test_another_code_version_is_said_and_replayed_all_the_same(
    line: Settings, kept: Snapshots
) -> None:
    later = line.model_copy(update={"code_version": "later"})
    replay = Replayer(later).run("build_features", "recorded")
    assert replay.identical
    assert any("replayed by later" in note for note in replay.notes)


def test_recorded_settings_rule_not_those_of_today(line: Settings, kept: Snapshots) -> None:
    changed = line.model_copy(update={"risk": line.risk.model_copy(update={"book_value_usd": 1.0})})
    assert Replayer(changed).run("assess_risk", "recorded", "measure_risk").identical


def test_a_step_that_was_refused_must_be_refused_again(
    line: Settings, kept: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = validate_market_data.judge

    def refusing(*given: Any, **more: Any) -> Judgement:
        judgement = honest(*given, **more)
        return replace(judgement, report={**judgement.report, "verdict": "failed"})

    monkeypatch.setattr(validate_market_data, "judge", refusing)
    run = RunIdentity("validate_market_data", "refused", "gate")
    gate = validate_market_data.gate
    with (
        pytest.raises(GateFailed),
        open_context(line, run) as ctx,
        snapshot_of(ctx, SESSION, gate, {}),
    ):
        gate(ctx, SESSION)
    assert [entry.error for entry in kept.entries(run_id="refused")] == ["GateFailed"]
    assert Replayer(line).run("validate_market_data", "refused").identical
    monkeypatch.undo()
    lenient = Replayer(line).run("validate_market_data", "refused")
    assert "recorded was GateFailed" in faults(lenient)["validate_market_data.gate"]
    with open_context(line, replace(run, run_id="mended")) as ctx:
        gate(ctx, SESSION)  # other tests use this lake too


def test_a_try_that_died_before_its_snapshot_was_kept_is_noted_and_not_in_the_way(
    line: Settings, kept: Snapshots, ledger: LedgerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    (entry,) = [item for item in kept.entries(run_id="recorded") if item.run.task_id == "predict"]
    snapshot = kept.read(entry)
    dead = replace(snapshot, run=replace(entry.run, try_number=7))
    with monkeypatch.context() as patch:
        patch.setattr(ObjectStore, "put", lambda *_, **__: pytest.fail("the task died here"))
        with pytest.raises(pytest.fail.Exception):
            kept.write(dead, local=utc_now() + timedelta(days=400))
    replay = Replayer(line).signals(SESSION)
    assert replay.identical
    assert any("neither lake nor archive has it" in note for note in replay.notes)


def test_what_was_never_recorded_is_not_replayed(line: Settings, kept: Snapshots) -> None:
    with pytest.raises(NotFound, match="snapshots of build_features/never"):
        Replayer(line).run("build_features", "never")


def test_an_archived_snapshot_replays_and_comes_back_with_the_same_bytes(
    line: Settings, kept: Snapshots, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(line.lake)
    ((month, names),) = kept.months().items()
    before = {name: lake.get_bytes(name) for name in names}
    run = RunIdentity("archive_lake", "archive", "archive_snapshots")
    never = line.snapshots.model_copy(update={"archive_after_days": 0})
    with open_context(line, run) as ctx:
        assert archive_lake.archive_snapshots(ctx, SESSION)["archived"] == 0  # too young
        monkeypatch.setattr(archive_lake, "utc_now", lambda: utc_now() + timedelta(days=200))
        unwanted = replace(ctx, settings=line.model_copy(update={"snapshots": never}))
        assert archive_lake.archive_snapshots(unwanted, SESSION)["archived"] == 0
        found = archive_lake.archive_snapshots(ctx, SESSION)
        assert found["archived"] == len(names)
        assert found["archive_bytes"] < found["bytes"] / 4
        assert archive_lake.archive_snapshots(ctx, SESSION)["archived"] == 0
    assert kept.months() == {}
    assert Replayer(line).signals(SESSION).identical
    assert sorted(kept.restore(month)) == sorted(names)
    assert {name: lake.get_bytes(name) for name in names} == before


def test_parts_that_tasks_handed_over_may_be_gone_but_a_replaced_version_may_not(
    line: Settings, kept: Snapshots
) -> None:
    """The last test of this file: what it removes does not come back."""
    lake = Lake(line.lake)
    staged = [key for key in lake.list_keys("_staging/") if f"session={SESSION}" in key]
    for key in staged:
        lake.remove_record(key, lake.get_record(key).version_id)
    replay = Replayer(line).signals(SESSION)
    assert faults(replay) == {}
    assert replay.identical
    skipped = {step.step: step.skipped for step in replay.steps if step.skipped}
    assert "UNFINISHED_DAYS" in str(skipped["ingest_market_data.publish"])
    alone = Replayer(line).run("build_features", "recorded", "publish")
    assert "replay the whole run" in faults(alone)["build_features.publish"]

    manifest = lake.manifest(CORE_FEATURES_DAILY, Partition.of_session(SESSION))
    table = lake.read_ref(manifest.ref(lake.bucket))
    assert isinstance(table, pa.Table)
    for content in (table.slice(1), table):  # replaced, and back again in another version
        lake.write(
            CORE_FEATURES_DAILY,
            Partition.of_session(SESSION),
            content,
            sessions=[SESSION],
            parents=manifest.parents,
            run=manifest.run,
            code_version=manifest.code_version,
            recorded_at=utc_now(),
        )
    assert Replayer(line).run("predict_signals", "recorded", "predict").identical
    lake.remove_record(manifest.data_key, manifest.version_id)
    predicted = Replayer(line).run("predict_signals", "recorded", "predict")
    assert "gone from the lake" in faults(predicted)["predict_signals.predict"]


def test_a_signal_is_rebuilt_in_a_lake_restored_from_its_backup(
    line: Settings, kept: Snapshots
) -> None:
    unique = uuid.uuid4().hex[:8]
    backup = line.backup.model_copy(update={"bucket": f"backup-{unique}"})
    settings = line.model_copy(update={"backup": backup})
    run = RunIdentity("test_replay", f"run {unique}", "back_up")
    with open_context(settings, run) as ctx:
        back_up.back_up(ctx)
    restore_backup.restore(settings, into=f"restored-{unique}")
    # Only the lake: the ledger that answers here is the one that was backed up.
    lake = restore_backup.settings_into(settings, f"restored-{unique}").lake
    replay = Replayer(settings.model_copy(update={"lake": lake})).signals(SESSION)
    assert faults(replay) == {}
    assert replay.identical
    compared = {item.artifact for step in replay.steps for item in step.outputs}
    assert f"core/core_signals__signal/session={SESSION}/part.parquet" in compared
