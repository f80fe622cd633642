"""The ledger's client against a real appender (on a thread of this process) and a real Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from marketlake.clock import utc_now
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    ContractViolation,
    NotFound,
    SourceUnavailable,
)
from marketlake.services.ledger_appender import Appender
from marketlake.services.platform.ports import free_ports
from marketlake.settings import Settings
from marketlake.storage.ledger import (
    Checkpoint,
    Entry,
    LedgerClient,
    LedgerWriter,
    Receipt,
    StoredCheckpoint,
    StoredRow,
    redact,
    verify_log,
)
from marketlake.storage.proof.leaf import canonical_json, decode_entry
from marketlake.storage.proof.merkle import MerkleTree, leaf_hash
from marketlake.types import ArtifactRef, RunIdentity
from psycopg import sql
from pydantic import SecretStr

AT = "2022-12-28T21:15:00+00:00"
RUN = RunIdentity("ingest_market_data", "run-1", "fetch", map_index=2)


@dataclass(frozen=True)
class Bench:
    """A log of its own: settings, a client, and the database behind it."""

    settings: Settings
    client: LedgerClient

    def tamper(self, *statements: str) -> None:
        """Do as someone who owns the database can: triggers do not hold them."""
        conninfo = self.settings.postgres.conninfo(self.settings.postgres.ledger_db)
        with psycopg.connect(conninfo) as connection:
            connection.execute("set session_replication_role = replica")
            for statement in statements:
                connection.execute(statement)

    def append(self, count: int) -> list[Receipt]:
        """Append entries one by one, each with its own checkpoint."""
        return [self.client.append([entry(f"k{n}", n=n)])[0] for n in range(count)]


def entry(key: str, kind: str = "calculation", **payload: object) -> Entry:
    return Entry(key, kind, payload, AT)


@contextmanager
def appender_thread(
    settings: Settings, clock: Callable[[], datetime] = lambda: datetime.fromisoformat(AT)
) -> Iterator[LedgerClient]:
    appender = Appender(settings, clock=clock)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await appender.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    client = LedgerClient(settings.ledger)
    try:
        for _ in range(500):
            try:
                client.ping()
            except SourceUnavailable:
                threading.Event().wait(0.01)
            except ContractViolation:
                break  # it answers, and says that the log was changed
            else:
                break
        yield client
    finally:
        client.close()
        loops[0].call_soon_threadsafe(appender.stop)
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def database(storage_settings: Settings) -> Settings:
    """Return the settings of a ledger database that only this module uses."""
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(
        storage_settings.postgres.conninfo("postgres"), autocommit=True
    ) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    own = storage_settings.postgres.model_copy(update={"ledger_db": name})
    # Where the shared ledger publishes, nobody else may.
    lake = storage_settings.lake.model_copy(update={"worm_bucket": name.replace("_", "-")})
    return storage_settings.model_copy(update={"postgres": own, "lake": lake})


@pytest.fixture
def empty(database: Settings, tmp_path: Path) -> Settings:
    """Return the settings of an empty log and a free port for its appender."""
    conninfo = database.postgres.conninfo(database.postgres.ledger_db)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("drop schema if exists ledger cascade")
    own = database.ledger.model_copy(
        update={
            "port": free_ports(1)[0],
            "checkpoint_file": tmp_path / "checkpoints.txt",
            # What the log before this one published in the bucket is then another log's.
            "origin": f"log-{uuid.uuid4().hex[:12]}",
            "public_key": None,
        }
    )
    return database.model_copy(update={"ledger": own})


@pytest.fixture
def bench(empty: Settings) -> Iterator[Bench]:
    with appender_thread(empty) as client:
        yield Bench(empty, client)


@pytest.fixture
def live(empty: Settings) -> Iterator[Bench]:
    """Yield a log whose appender shares our clock, for what takes its time from that."""
    with appender_thread(empty, utc_now) as client:
        yield Bench(empty, client)


# --- entries ------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)  # fmt: skip
texts = st.text(st.characters(codec="utf-8"), max_size=30)
entries = st.builds(
    Entry, texts, texts, st.dictionaries(st.text(max_size=8), json_values, max_size=4), texts
)


@given(entries)
@hypothesis_settings(deadline=None)
def test_an_entry_comes_back_from_its_canonical_bytes(original: Entry) -> None:
    content = original.canonical()
    assert Entry.from_canonical(content) == original
    assert Entry.from_canonical(content).canonical() == content


@given(st.dictionaries(st.text(max_size=8), json_values, max_size=4))
@hypothesis_settings(deadline=None)
def test_the_payload_is_spelled_as_the_json_module_spells_it(payload: dict[str, object]) -> None:
    asked = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
    text = json.dumps(payload, allow_nan=False, **asked)
    assert canonical_json(payload) == text
    assert decode_entry(Entry("k", "gate", payload, AT).canonical()).payload == json.loads(text)


@given(entries, entries)
@hypothesis_settings(deadline=None)
def test_different_entries_never_have_the_same_bytes(one: Entry, other: Entry) -> None:
    same_content = json.dumps(one.payload, sort_keys=True) == json.dumps(
        other.payload, sort_keys=True
    )
    same = (one.key, one.kind, one.recorded_at_utc) == (
        other.key, other.kind, other.recorded_at_utc,
    ) and same_content  # fmt: skip
    assert (one.canonical() == other.canonical()) == same


def test_the_encoding_is_what_a_verifier_written_from_its_description_expects() -> None:
    content = Entry("a/b", "gate", {"b": 1, "a": "é"}, AT).canonical()
    assert content == (
        b"26:marketlake.ledger.entry.v1,3:a/b,4:gate,25:2022-12-28T21:15:00+00:00,"
        + b"16:"
        + '{"a":"é","b":1},'.encode()
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content + b" ",
        lambda content: content[:-1],
        lambda content: content.replace(b"4:gate", b"04:gate"),
        lambda content: content.replace(b"4:gate", b"+4:gate"),
        lambda content: content.replace(b"4:gate", b"5:gate"),
        lambda content: content.replace(b"4:gate", b"99999999999:gate"),
        lambda content: content.replace(b"4:gate", b"999999999999:gate"),
        lambda content: content.replace(b"4:gate", b":gate"),
        lambda content: content + b"12",
        lambda content: content.replace(b"entry.v1", b"entry.v2"),
        lambda content: content.replace(b'7:{"a":1}', b'8:{"a": 1}'),
        lambda content: content.replace(b'7:{"a":1}', b'8: {"a":1}'),
        lambda content: content.replace(b'7:{"a":1}', b'8:{"a":1} '),
        lambda content: content.replace(b'7:{"a":1}', b'8:{"a":1}}'),
        lambda content: content.replace(b'7:{"a":1}', b'13:{"a":2,"a":1}'),
        lambda content: content.replace(b'7:{"a":1}', b'9:{"a":NaN}'),
        lambda content: content.replace(b'7:{"a":1}', b"2:[]"),
        lambda content: content.replace(b'7:{"a":1}', b"0:"),
        lambda content: b"\xff" + content,
    ],
)
def test_bytes_that_are_not_exactly_canonical_are_no_entry(
    change: Callable[[bytes], bytes],
) -> None:
    content = Entry("k", "gate", {"a": 1}, AT).canonical()
    assert change(content) != content
    with pytest.raises(BadPayload):
        Entry.from_canonical(change(content))


@pytest.mark.parametrize(
    "bad",
    [
        entry("k", "gossip"),
        entry(""),
        entry("a\0b"),
        entry("k" * 1001),
        replace(entry("k"), recorded_at_utc="yesterday"),
        replace(entry("k"), recorded_at_utc="2022-12-28T21:15:00"),
        replace(entry("k"), recorded_at_utc="2022-12-28T21:15:00+01:00"),
        entry("k", run={"dag_id": 7}),
        entry("k", value=float("nan")),
        entry("k", value=b"bytes"),
        entry("k", value="\ud800"),
        entry("k", value="x" * (1 << 20)),
    ],
)
def test_what_cannot_be_recorded_is_refused_before_anything_is_sent(
    bench: Bench, bad: Entry
) -> None:
    with pytest.raises(ContractViolation):
        bench.client.append([entry("good"), bad])
    assert bench.client.checkpoint().size == 0


# --- append, prove, read ------------------------------------------------------------------------


def test_receipts_name_consecutive_indexes_and_the_leaf_hashes(bench: Bench) -> None:
    batch = [entry(f"k{n}", n=n) for n in range(5)]
    receipts = bench.client.append(batch)
    assert receipts == [Receipt(n, leaf_hash(e.canonical()).hex()) for n, e in enumerate(batch)]
    assert bench.client.append([]) == []


def test_the_checkpoint_is_the_merkle_root_of_the_entries(bench: Bench) -> None:
    bench.append(7)
    tree = MerkleTree()
    for n in range(7):
        tree.append(leaf_hash(entry(f"k{n}", n=n).canonical()))
    checkpoint = bench.client.checkpoint()
    assert (checkpoint.size, checkpoint.root_hash) == (7, tree.root(7).hex())


def test_every_entry_can_be_proved(bench: Bench) -> None:
    receipts = bench.append(6)
    head = bench.client.checkpoint()
    for receipt in receipts:
        proof = bench.client.prove(receipt.index)
        assert proof.holds()
        assert (proof.leaf_hash, proof.size) == (receipt.leaf_hash, 6)
        assert proof.root_hash == head.root_hash
        assert not replace(proof, leaf_hash=receipts[receipt.index - 1].leaf_hash).holds()
    with pytest.raises(NotFound):
        bench.client.prove(6)


def test_the_same_key_again_gets_the_first_receipt(bench: Bench) -> None:
    first = bench.client.append([entry("a", n=1), entry("b", n=2)])
    later = replace(entry("b", n=2), recorded_at_utc="2023-01-03T21:15:00+00:00")
    again = bench.client.append([later, entry("c"), entry("c"), entry("a", n=1)])
    assert again == [first[1], again[1], again[1], first[0]]
    assert bench.client.checkpoint().size == 3
    assert bench.client.entries()[1].recorded_at_utc == AT


def test_the_same_key_with_other_content_is_an_error_and_appends_nothing(bench: Bench) -> None:
    bench.client.append([entry("a", n=1)])
    for clash in (entry("a", n=2), entry("a", "gate", n=1)):
        with pytest.raises(ContractViolation, match="same key"):
            bench.client.append([entry("new"), clash])
    with pytest.raises(ContractViolation, match="same key"):
        bench.client.append([entry("twice", n=1), entry("twice", n=2)])
    assert [found.key for found in bench.client.entries()] == ["a"]


def test_entries_are_found_by_kind_run_and_position(live: Bench) -> None:
    other = RunIdentity("predict_signals", "run-2", "predict")
    writers = [LedgerWriter(live.client, run) for run in (RUN, other)]
    for n in range(3):
        for writer in writers:
            writer.record("vendor_call", n=n)
            writer.record("calculation", n=n)
    client = live.client
    assert [e.index for e in client.entries()] == list(range(12))
    assert [e.index for e in client.entries("vendor_call")] == [0, 2, 4, 6, 8, 10]
    assert [e.index for e in client.entries(dag_id="predict_signals")] == [2, 3, 6, 7, 10, 11]
    assert [e.index for e in client.entries(run_id="run-1", since_index=4)] == [4, 5, 8, 9]
    found = client.entries("calculation", "predict_signals", run_id="run-2", limit=2)
    assert [(e.index, e.payload["n"]) for e in found] == [(3, 0), (7, 1)]
    assert found[0].run == {
        "dag_id": "predict_signals", "run_id": "run-2", "task_id": "predict",
        "try_number": 1, "map_index": -1,
    }  # fmt: skip
    assert client.entries(run_id="run-3") == []


def test_the_table_refuses_update_delete_and_truncate(bench: Bench) -> None:
    bench.append(2)
    conninfo = bench.settings.postgres.conninfo(bench.settings.postgres.ledger_db)
    for statement in (
        "update ledger.entry set kind = 'gate'",
        "delete from ledger.entry",
        "truncate ledger.entry",
        "delete from ledger.checkpoint",
    ):
        with (
            psycopg.connect(conninfo) as connection,
            pytest.raises(psycopg.errors.RaiseException, match="append-only"),
        ):
            connection.execute(statement)


def test_no_index_is_below_0_in_a_log_made_before_that_rule_either(empty: Settings) -> None:
    with appender_thread(empty) as client:
        Bench(empty, client).append(2)
    log = Bench(empty, client)
    log.tamper("alter table ledger.entry drop constraint entry_index_from_0")
    with appender_thread(empty), pytest.raises(psycopg.errors.CheckViolation):
        log.tamper("update ledger.entry set index = -1 where index = 1")


# --- writer -------------------------------------------------------------------------------------


def test_a_writer_numbers_its_entries_and_goes_on_where_the_try_left_off(live: Bench) -> None:
    writer, second = LedgerWriter(live.client, RUN), LedgerWriter(live.client, RUN)
    writer.record("task_started")
    second.record("calculation", name="x")
    writer.record("task_finished")
    # What a resumed task's new process knows: nothing but the ledger.
    assert live.client.next_sequence(f"{RUN.key}/") == 3
    assert live.client.next_sequence(f"{replace(RUN, try_number=2).key}/") == 0
    keys = [found.key for found in live.client.entries()]
    assert keys == [f"ingest_market_data/run-1/fetch/2/1/{n:08d}" for n in range(3)]


def test_nothing_secret_reaches_the_ledger(live: Bench) -> None:
    LedgerWriter(live.client, RUN).record(
        "secret_access",
        api_key="hunter2",
        settings={"Password": "hunter2", "inner": [{"access_token": "hunter2"}]},
        wrapped=SecretStr("hunter2"),
        url="https://user:hunter2@host/q?symbol=KO&apikey=hunter2&secret_id=hunter2#top",
        partition_key="2022-12-28",
    )
    recorded = live.client.entries()[0].payload
    assert "hunter2" not in json.dumps(recorded)
    assert recorded["api_key"] == recorded["wrapped"] == "<redacted>"
    assert recorded["url"] == (
        "https://<redacted>@host/q?symbol=KO&apikey=<redacted>&secret_id=<redacted>#top"
    )
    assert recorded["partition_key"] == "2022-12-28"


def test_payloads_may_hold_what_pipelines_hold() -> None:
    ref = ArtifactRef("c", "session=2022-12-28", "s3://lake/x", "ab", 1, "v")
    payload = {"ref": ref, "days": (date(2022, 12, 28),), "path": Path("/a"), "tags": {"b", "a"}}
    assert redact(payload, where="test") == {
        "ref": ref.as_json(), "days": ["2022-12-28"], "path": "/a", "tags": ["a", "b"],
    }  # fmt: skip
    with pytest.raises(ContractViolation, match="bytes"):
        redact({"body": b"raw"}, where="test")


def test_a_payload_cannot_pretend_to_be_another_run(bench: Bench) -> None:
    with pytest.raises(ContractViolation, match="run"):
        LedgerWriter(bench.client, RUN).record("decision", run={"dag_id": "other"})


def test_threads_share_a_client_and_a_writer_without_losing_or_doubling_entries(
    live: Bench,
) -> None:
    writer = LedgerWriter(live.client, RUN)
    receipts: list[Receipt] = []

    def work(worker: int) -> None:
        receipts.extend(writer.record("calculation", worker=worker, n=n) for n in range(20))

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(receipt.index for receipt in receipts) == list(range(320))
    assert len(live.client.entries(limit=1000)) == 320
    assert live.client.verify().ok


def test_a_forked_child_opens_its_own_connection_and_the_parents_goes_on(bench: Bench) -> None:
    bench.client.append([entry("parent-1")])
    child = os.fork()
    if child == 0:
        # Whatever happens here must not run the parent's tests or its clean-up.
        status = 1
        try:
            bench.client.append([entry("child")])
            status = 0
        finally:
            os._exit(status)
    bench.client.append([entry("parent-2")])
    _, status = os.waitpid(child, 0)
    bench.client.append([entry("parent-3")])
    assert os.waitstatus_to_exitcode(status) == 0
    keys = {found.key for found in bench.client.entries()}
    assert keys == {"parent-1", "parent-2", "parent-3", "child"}


def test_a_wrong_token_is_refused(bench: Bench) -> None:
    wrong = bench.settings.ledger.model_copy(update={"token": SecretStr("guess")})
    with pytest.raises(AuthFailed):
        LedgerClient(wrong).ping()


# --- verify -------------------------------------------------------------------------------------


def test_an_honest_log_verifies_and_so_does_its_continuation(bench: Bench) -> None:
    assert bench.client.verify().ok
    bench.append(9)
    kept = bench.client.checkpoint()
    bench.client.append([entry(f"more-{n}") for n in range(30)])
    found = bench.client.verify(trusted=[kept])
    assert (found.ok, found.size, found.faults) == (True, 39, [])
    assert found.root_hash == bench.client.checkpoint().root_hash


FLIP = "update ledger.entry set canonical = set_byte(canonical, 84, get_byte(canonical, 84) # 1)"
TAMPERINGS = {
    "bit flip in the bytes": (
        [f"{FLIP} where index = 4"],
        "entry 4: its bytes do not have the stored leaf hash",
    ),
    "bit flip in the leaf hash": (
        ["update ledger.entry set leaf_hash = set_byte(leaf_hash, 0, 255) where index = 4"],
        "entry 4: its bytes do not have the stored leaf hash",
    ),
    "edit and rehash": (
        [
            "update ledger.entry set canonical ="
            " convert_to(replace(convert_from(canonical, 'utf8'), '\"n\":4', '\"n\":5'), 'utf8')"
            " where index = 4",
            "update ledger.entry set leaf_hash = sha256('\\x00'::bytea || canonical)"
            " where index = 4",
        ],
        "entry 4 is not what was recorded",
    ),
    "deleted middle row": (
        ["delete from ledger.entry where index = 4"],
        "entry 4 is missing (the next one is 5)",
    ),
    "deleted row closed up": (
        [
            "delete from ledger.entry where index = 4",
            "update ledger.entry set index = index - 1 where index > 4",
        ],
        "entry 4 is not what was recorded",
    ),
    "cut tail": (
        ["delete from ledger.entry where index >= 7"],
        "entries 7 to 9 are missing: the tail was cut",
    ),
    "cut tail and its checkpoints": (
        [
            "delete from ledger.entry where index >= 7",
            "delete from ledger.checkpoint where size > 7",
        ],
        "entries 7 to 9 are missing: the tail was cut",
    ),
    "everything deleted": (
        ["delete from ledger.entry", "delete from ledger.checkpoint"],
        "entries 0 to 9 are missing: the tail was cut",
    ),
    "swapped rows": (
        [
            "update ledger.entry set index = 1000 where index = 4",
            "update ledger.entry set index = 4 where index = 6",
            "update ledger.entry set index = 6 where index = 1000",
        ],
        "entry 4 is not what was recorded",
    ),
    "duplicated row": (
        [
            "insert into ledger.entry select 10, 'copy', kind, dag_id, run_id, recorded_at,"
            " canonical, leaf_hash from ledger.entry where index = 4"
        ],
        "entry 10 was inserted behind the appender",
    ),
    "a row below the first": (
        [
            "alter table ledger.entry drop constraint entry_index_from_0",
            "insert into ledger.entry select -1, 'planted', kind, dag_id, run_id, recorded_at,"
            " canonical, leaf_hash from ledger.entry where index = 4",
        ],
        "entry -1 was planted below the first",
    ),
    "a column that searches use": (
        ["update ledger.entry set kind = 'gate' where index = 4"],
        "entry 4: column kind differs from its bytes",
    ),
    "a time no clock shows": (
        ["update ledger.entry set recorded_at = 'infinity' where index = 4"],
        "entry 4: column recorded_at differs from its bytes",
    ),
    "an edited checkpoint": (
        ["update ledger.checkpoint set root_hash = sha256('x') where size = 5"],
        "checkpoint 5: its root is not that of its signed note",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TAMPERINGS)
def test_verify_detects_and_names_the_first_bad_entry(bench: Bench, name: str) -> None:
    statements, message = TAMPERINGS[name]
    bench.append(10)
    assert bench.client.verify().ok
    bench.tamper(*statements)
    found = bench.client.verify()
    assert not found.ok
    assert found.faults[0].startswith(message)


def test_a_whole_rewrite_is_caught_by_a_checkpoint_kept_elsewhere(bench: Bench) -> None:
    bench.append(10)
    kept = bench.client.checkpoint()
    forged = MerkleTree()
    for n in range(10):
        forged.append(leaf_hash(entry(f"k{n}", n=-n).canonical()))
    rows = [
        StoredRow(n, f"k{n}", "calculation", None, None, AT, content, leaf_hash(content).hex())
        for n in range(10)
        for content in [entry(f"k{n}", n=-n).canonical()]
    ]
    own = [Checkpoint(size, forged.root(size).hex(), AT) for size in range(11)]
    assert verify_log(rows, own, end=10).ok
    found = verify_log(rows, [*own, kept], end=10)
    assert found.faults[0].startswith("entry 9 is not what was recorded: the root of the first 10")


def test_a_change_inside_one_commit_is_narrowed_down_to_it(bench: Bench) -> None:
    bench.append(3)
    bench.client.append([entry(f"batch-{n}") for n in range(4)])
    bench.tamper(
        "update ledger.entry set index = 1000 where index = 4",
        "update ledger.entry set index = 4 where index = 5",
        "update ledger.entry set index = 5 where index = 1000",
    )
    assert bench.client.verify().faults[0].startswith("one of entries 3 to 6 is not what was")


@pytest.mark.parametrize(
    "name", ["cut tail", "deleted middle row", "duplicated row", "a row below the first"]
)
def test_after_a_restart_a_changed_log_takes_no_entries_but_can_be_examined(
    empty: Settings, name: str
) -> None:
    statements, message = TAMPERINGS[name]
    with appender_thread(empty) as client:
        Bench(empty, client).append(10)
    Bench(empty, client).tamper(*statements)
    with appender_thread(empty) as client:
        for refused in (client.ping, lambda: client.append([entry("next")])):
            with pytest.raises(ContractViolation, match=message[:10]):
                refused()
        assert client.verify().faults[0].startswith(message)


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=12),
    st.data(),
)
@hypothesis_settings(deadline=None, max_examples=30)
def test_any_single_change_of_any_history_is_found_and_honest_ones_never_are(
    commits: list[int], data: st.DataObject
) -> None:
    tree = MerkleTree()
    rows, checkpoints = [], [Checkpoint(0, tree.root(0).hex(), AT)]
    for count in commits:
        for _ in range(count):
            n = len(rows)
            content = entry(f"k{n}", n=n).canonical()
            leaf = leaf_hash(content)
            tree.append(leaf)
            rows.append(StoredRow(n, f"k{n}", "calculation", None, None, AT, content, leaf.hex()))
        checkpoints.append(Checkpoint(len(rows), tree.root(len(rows)).hex(), AT))
    assert verify_log(rows, checkpoints, end=len(rows)).ok
    bad = data.draw(st.integers(0, len(rows) - 1))
    new = entry(f"k{bad}", n=-1).canonical()
    edited = replace(rows[bad], canonical=new, leaf_hash=leaf_hash(new).hex())
    for changed in (
        [*rows[:bad], edited, *rows[bad + 1 :]],
        [*rows[:bad], *rows[bad + 1 :]],
        [*rows[:bad], *(replace(row, index=row.index - 1) for row in rows[bad + 1 :])],
    ):
        found = verify_log(changed, checkpoints, end=len(rows))
        assert not found.ok
        named = re.findall(r"entr(?:y|ies) (\d+)", found.faults[0])
        assert min(int(number) for number in named) <= bad


# --- export -------------------------------------------------------------------------------------


def test_the_export_is_a_sqlite_file_that_verifies_by_itself(bench: Bench, tmp_path: Path) -> None:
    bench.append(12)
    path = tmp_path / "exports" / "master_log_202212.db"
    path.parent.mkdir()
    assert bench.client.export(path) == 12
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with closing(sqlite3.connect(path)) as database:
        rows = [StoredRow(*row) for row in database.execute("select * from entry order by idx")]
        points = [StoredCheckpoint(*row) for row in database.execute("select * from checkpoint")]
    assert verify_log(rows, points, end=12).ok
    assert verify_log(rows[:-1], points, end=12).faults == [
        "entries 11 to 11 are missing: the tail was cut"
    ]
    assert bench.client.export(path) == 12
