"""The named audit files on a real ledger and lake: complete, the same again, verified alone."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from marketlake.pipelines import export_audit
from marketlake.pipelines.context import RunContext, open_context
from marketlake.readmodels import published
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import Entry
from marketlake.storage.proof.checkpoint import (
    Checkpoint,
    new_key_pem,
    open_signed,
    public_key_text,
    read_key_pem,
)
from marketlake.storage.proof.export_file import ExportFile
from marketlake.storage.proof.merkle import MerkleTree, leaf_hash
from marketlake.storage.proof.month_file import Frontier, month_of, verify_month
from marketlake.types import RunIdentity

from tests.own_ledger import OwnLedger, own_ledger

LAST = date(2022, 12, 28)
# 23:59:30 in New York on the last day of November.
BEGINNING = datetime(2026, 12, 1, 4, 59, 30, tzinfo=UTC)
ANOTHER_KEY = public_key_text("marketlake", read_key_pem(new_key_pem()))


@pytest.fixture
def own(storage_settings: Settings) -> Iterator[OwnLedger]:
    """Yield an empty ledger and an empty lake."""
    unique = uuid.uuid4().hex[:12]
    lake = storage_settings.lake.model_copy(
        update={"bucket": f"audit-{unique}", "worm_bucket": f"audit-worm-{unique}"}
    )
    Lake(lake).ensure_buckets()
    with own_ledger(storage_settings.model_copy(update={"lake": lake}), at=BEGINNING) as ledger:
        yield ledger


def in_context(own: OwnLedger) -> RunContext:
    run = RunIdentity("export_audit", f"run {uuid.uuid4().hex[:8]}", "export")
    with open_context(own.settings, run) as context:
        return context


def files(own: OwnLedger) -> dict[str, bytes]:
    lake = Lake(own.settings.lake)
    return {key: lake.get_bytes(key) for key in lake.list_keys("audit_logs/")}


def indices(body: bytes) -> list[int]:
    return [entry["index"] for entry in json.loads(body)["entries"]]


def fill(own: OwnLedger) -> None:
    """Append what a session leaves, over the end of a New York month."""
    own.append("vendor_call", symbol="KO")  # 0
    own.append("calculation", name="returns", value=0.1)  # 1
    own.at += timedelta(minutes=1)  # 00:00:30 on the first of December
    own.append("vendor_call", symbol="PG")  # 2
    own.append("gate", verdict="passed")  # 3
    own.append("model", sha256="0" * 64)  # 4
    own.append("decision", name="signal", symbol="KO")  # 5
    own.append("decision", name="signal", symbol="PG")  # 6
    own.append("decision", name="promotion", champion="ridge")  # 7
    own.append("task_finished", step="publish")  # 8


def test_every_entry_is_in_the_file_of_its_local_hour_and_every_trade_in_one_of_its_own(
    own: OwnLedger,
) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    found = files(own)
    assert sorted(found) == [
        "audit_logs/api_calls/20261130_23.json",
        "audit_logs/api_calls/20261201_00.json",
        "audit_logs/calculations/20261130_23.json",
        "audit_logs/calculations/20261201_00.json",
        "audit_logs/decisions/trade_decision_20261201_000030.json",
        "audit_logs/decisions/trade_decision_20261201_000030_2.json",
        "audit_logs/master_log_202611.db",
        "audit_logs/master_log_202612.db",
    ]
    assert [indices(body) for name, body in sorted(found.items()) if name.endswith("json")] == [
        [0], [2], [1], [3, 4], [5], [6],
    ]  # fmt: skip


def test_an_entry_in_a_file_finds_its_place_in_the_log(own: OwnLedger) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    document = json.loads(files(own)["audit_logs/calculations/20261201_00.json"])
    assert document["range"] == {"first": 3, "end": 5}
    signed = open_signed(document["checkpoint"]["note"], public_key=own.settings.ledger.public_key)
    assert signed.size == document["checkpoint"]["size"]
    tree = MerkleTree()
    rows = list(own.client.rows(0, document["checkpoint"]["size"]))
    for row in rows:
        tree.append(leaf_hash(row.canonical))
    assert tree.root(document["checkpoint"]["size"]).hex() == document["checkpoint"]["root_hash"]
    for entry in document["entries"]:
        again = Entry(entry["key"], entry["kind"], entry["payload"], entry["recorded_at_utc"])
        assert again.canonical() == rows[entry["index"]].canonical
        assert leaf_hash(again.canonical()).hex() == entry["leaf_hash"]
        assert own.client.prove(entry["index"]).leaf_hash == entry["leaf_hash"]


def test_only_what_has_grown_is_written_again_and_in_another_lake_it_is_the_same(
    own: OwnLedger,
) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    before = files(own)
    own.at += timedelta(minutes=3)
    own.append("vendor_call", symbol="XOM")
    own.append("decision", ago_s=220, name="signal", symbol="XOM")  # by a task that was slow
    export_audit.export_everything(in_context(own))
    after = files(own)
    assert sorted(name for name in after if after[name] != before.get(name)) == [
        "audit_logs/api_calls/20261201_00.json",
        "audit_logs/decisions/trade_decision_20261130_235950.json",
        "audit_logs/master_log_202612.db",
    ]
    (exported,) = own.client.entries("exported", since_index=10)
    for file in exported.payload["files"]:
        assert hashlib.sha256(after[file["file"]]).hexdigest() == file["sha256"]
    assert {file["file"] for file in exported.payload["files"]} == {
        name for name in after if after[name] != before.get(name)
    }
    elsewhere = own.settings.lake.model_copy(update={"bucket": f"again-{uuid.uuid4().hex[:8]}"})
    Lake(elsewhere).ensure_buckets()
    other = OwnLedger(own.settings.model_copy(update={"lake": elsewhere}), own.client)
    export_audit.export_everything(in_context(other))
    again = files(other)
    json_files = {name for name in after if name.endswith(".json")}
    assert {name: again[name] for name in json_files} == {name: after[name] for name in json_files}
    assert again["audit_logs/master_log_202611.db"] == after["audit_logs/master_log_202611.db"]


def test_files_that_were_lost_are_made_anew_from_the_ledger_with_the_same_bytes(
    own: OwnLedger,
) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    before = files(own)
    lake = Lake(own.settings.lake)
    for name in before:
        lake._store._client.delete_object(Bucket=lake.bucket, Key=name)
    assert files(own) == {}
    export_audit.export_everything(in_context(own))
    after = files(own)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {
        "audit_logs/master_log_202612.db"  # it has the first export's own entry now
    }


def test_a_session_in_a_backfill_waits_until_enough_has_come_together(own: OwnLedger) -> None:
    fill(own)
    old = date(2022, 12, 1)
    assert export_audit.export(in_context(own), old)["files"] == 8
    for number in range(20):
        own.append("task_finished", step=str(number))
    assert export_audit.export(in_context(own), old)["files"] == 1
    assert export_audit.export(in_context(own), old) == {"files": 0, "entries": 30, "waiting": 1}
    assert export_audit.export(in_context(own), LAST)["files"] == 1


def months(own: OwnLedger, folder: Path) -> list[Path]:
    paths = []
    for name, body in sorted(files(own).items()):
        if name.endswith(".db"):
            paths.append(folder / Path(name).name)
            paths[-1].write_bytes(body)
    return paths


def test_each_months_file_verifies_alone_and_together_they_are_the_log(
    own: OwnLedger, tmp_path: Path
) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    own.at += timedelta(days=31)
    fill(own)
    export_audit.export_everything(in_context(own))
    paths = months(own, tmp_path)
    assert [path.name for path in paths] == [
        f"master_log_{month}.db" for month in ("202611", "202612", "202701")
    ]
    end = 0
    for path in paths:
        found = verify_month(path, public_key=own.settings.ledger.public_key)
        assert found.ok, found.faults
        assert not verify_month(path, public_key=ANOTHER_KEY).ok
        with ExportFile(path) as file:
            assert month_of(file).before.size == end
            assert file.bounds()[0] == end
            first, *_, last = file.checkpoints()
        end = found.size
        assert (last.size, last.root_hash) == (found.size, found.root_hash)
        assert first.size in {0, month_start(path)}
    rows = list(own.client.rows(0, end))
    tree = MerkleTree()
    for row in rows:
        tree.append(leaf_hash(row.canonical))
    assert tree.root(end).hex() == found.root_hash


def month_start(path: Path) -> int:
    with ExportFile(path) as file:
        return month_of(file).before.size


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("update leaf set canonical = x'00' where idx = 5", "entry 5"),
        ("update leaf set leaf_hash = zeroblob(32) where idx = 5", "entry 5"),
        ("delete from leaf where idx = 5", "entry 5 is missing"),
        ("delete from leaf where idx >= 8", "the tail was cut"),
        ("delete from checkpoint where size = 2", "no checkpoint stands at the file's start"),
        ("update meta set value = replace(value, substr(value, 1, 8), '00000000')"
         " where name = 'frontier'", "the root differs"),
        ("delete from checkpoint where size > 8", "behind the last checkpoint"),
    ],
)  # fmt: skip
def test_a_damaged_month_says_where(own: OwnLedger, tmp_path: Path, damage: str, says: str) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    path = months(own, tmp_path)[1]
    with closing(sqlite3.connect(path)) as database, database:
        assert database.execute(damage).rowcount
    found = verify_month(path)
    assert not found.ok
    assert says in " ".join(found.faults)


def test_the_frontier_has_the_roots_of_the_tree() -> None:
    tree, frontier = MerkleTree(), Frontier()
    for number in range(70):
        assert frontier.root() == tree.root(number)
        kept = Frontier(frontier.size, [bytes.fromhex(one) for one in frontier.text().split()])
        assert kept.root() == frontier.root()
        leaf = leaf_hash(b"%d" % number)
        tree.append(leaf)
        frontier.append(leaf)
    with pytest.raises(ValueError, match="2 complete subtrees"):
        Frontier(5, [b"\0" * 32])


def test_the_named_files_count_as_built(own: OwnLedger) -> None:
    fill(own)
    lake = Lake(own.settings.lake)
    export_audit.export_everything(in_context(own))
    built = {item.file: item for item in published.spec_coverage(lake) if item.sha256 is not None}
    assert {name: item.uri for name, item in built.items()} == {
        f"audit_logs/{pattern}": f"s3://{lake.bucket}/audit_logs/{file}"
        for pattern, file in (
            ("api_calls/YYYYMMDD_HH.json", "api_calls/20261201_00.json"),
            ("calculations/YYYYMMDD_HH.json", "calculations/20261201_00.json"),
            (
                "decisions/trade_decision_YYYYMMDD_HHMMSS.json",
                "decisions/trade_decision_20261201_000030_2.json",
            ),
            ("master_log_YYYYMM.db", "master_log_202612.db"),
        )
    }
    rows = {name.split("/")[1]: item.rows for name, item in built.items()}
    assert rows == {"api_calls": 1, "calculations": 2, "decisions": 1, "master_log_YYYYMM.db": None}
    for item in built.values():
        body = lake.get_bytes(item.uri.removeprefix(f"s3://{lake.bucket}/"))
        assert item.sha256 == hashlib.sha256(body).hexdigest()


def test_a_checkpoint_of_the_month_is_one_of_the_log(own: OwnLedger, tmp_path: Path) -> None:
    fill(own)
    export_audit.export_everything(in_context(own))
    stored = {(point.size, point.root_hash) for point in own.client.checkpoints(0, 10**9)}
    for path in months(own, tmp_path):
        with ExportFile(path) as file:
            kept: list[Checkpoint] = list(file.checkpoints())
        assert kept
        assert {(point.size, point.root_hash) for point in kept} <= stored
