"""What somebody who owns the database does to the log, and which message gives it away.

The log, its file and its object-locked bucket are real; the adversary is a superuser whom triggers
do not hold. Each attack ends with the verification that an operator would run.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import boto3
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from marketlake.clock import sleep_s, utc_now
from marketlake.errors import ConfigError, ContractViolation, SourceUnavailable
from marketlake.services.ledger_appender import Appender
from marketlake.services.platform.ports import free_ports
from marketlake.services.signing_key import public_key, signing_key
from marketlake.settings import Settings
from marketlake.storage.checkpoints import PublishedCheckpoints, verify_ledger
from marketlake.storage.ledger import Checkpoint, Entry, LedgerClient
from marketlake.storage.objects import ObjectStore
from marketlake.storage.proof.checkpoint import new_key_pem, open_signed, public_key_text, sign
from marketlake.storage.proof.merkle import MerkleTree, leaf_hash
from psycopg import sql

from tests.storage.test_ledger import appender_thread

BEGAN = datetime.fromisoformat("2022-12-28T21:15:00+00:00")
ENTRIES = 8
LAST_ENTRY = ENTRIES - 1


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = BEGAN

    def __call__(self) -> datetime:
        return self.now


@dataclass(frozen=True)
class Log:
    """A published log of eight entries, one commit each, whose appender has stopped."""

    settings: Settings
    clock: Clock

    def tamper(self, *statements: str | tuple[str, tuple[object, ...]]) -> None:
        """Do it as a superuser whom neither triggers nor rules hold."""
        with self._connect() as connection:
            connection.execute("set session_replication_role = replica")
            for statement in statements:
                text, values = (statement, ()) if isinstance(statement, str) else statement
                connection.execute(text.encode(), values)

    def entries(self) -> list[Entry]:
        with self._connect() as connection:
            rows = connection.execute("select canonical from ledger.entry order by index")
            return [Entry.from_canonical(content) for (content,) in rows]

    def rewrite(self, entries: list[Entry], key: Ed25519PrivateKey | None) -> None:
        """Replace the whole log by another that agrees with itself, one checkpoint an entry."""
        tree = MerkleTree()
        self.tamper(
            "truncate ledger.entry",
            "delete from ledger.checkpoint where size > 0",
            "alter table ledger.checkpoint alter column note drop not null",
        )
        for index, entry in enumerate(entries):
            content = entry.canonical()
            tree.append(leaf_hash(content))
            size, at = index + 1, BEGAN + timedelta(seconds=index)
            point = Checkpoint(size, tree.root(size).hex(), at.isoformat())
            note = sign(point, origin="marketlake", key=key) if key is not None else None
            self.plant(index, entry)
            self.tamper(
                (
                    "insert into ledger.checkpoint (size, root_hash, recorded_at, note)"
                    " values (%s, %s, %s, %s)",
                    (size, tree.root(size), at, note),
                ),
            )

    def plant(self, index: int, entry: Entry) -> None:
        """Insert a row that no appender made, wherever it may be."""
        content = entry.canonical()
        self.tamper(
            "alter table ledger.entry drop constraint if exists entry_index_from_0",
            (
                "insert into ledger.entry values (%s, %s, %s, null, null, %s, %s, %s)",
                (
                    *(index, entry.key, entry.kind, entry.recorded_at_utc),
                    *(content, leaf_hash(content)),
                ),
            ),
        )

    def delete_from_bucket(self) -> list[str]:
        """Delete every checkpoint by its name, as whoever may write there can; return which."""
        lake = self.settings.lake
        client = boto3.client(
            "s3",
            endpoint_url=lake.endpoint_url,
            region_name=lake.region,
            aws_access_key_id=lake.access_key.get_secret_value(),
            aws_secret_access_key=lake.secret_key.get_secret_value(),
        )
        keys = [item.key for item in ObjectStore(lake).list(lake.worm_bucket, "checkpoints/")]
        for key in keys:
            client.delete_object(Bucket=lake.worm_bucket, Key=key)
        assert keys
        assert ObjectStore(lake).list(lake.worm_bucket, "checkpoints/") == []
        return [f"s3://{lake.worm_bucket}/{key}" for key in keys]

    def faults(self) -> list[str]:
        """Start the appender again, as an operator would, and verify everything."""
        with appender_thread(self.settings, self.clock):
            return verify_ledger(self.settings).faults

    def first_fault(self) -> str:
        faults = self.faults()
        assert faults, "nothing was found"
        return faults[0]

    def _connect(self) -> psycopg.Connection[tuple[object, ...]]:
        postgres = self.settings.postgres
        return psycopg.connect(postgres.conninfo(postgres.ledger_db))


def entry(number: int, at: datetime) -> Entry:
    return Entry(f"run/{number}", "calculation", {"value_usd": number * 10}, at.isoformat())


def fill(client: LedgerClient, clock: Clock, first: int = 0, end: int = ENTRIES) -> None:
    for number in range(first, end):
        clock.now = BEGAN + timedelta(seconds=number)
        client.append([entry(number, clock.now)])


@pytest.fixture
def settings(storage_settings: Settings, tmp_path: Path) -> Iterator[Settings]:
    """Yield the settings of an empty ledger with a key, a file and a bucket of its own."""
    unique = uuid.uuid4().hex[:12]
    postgres = storage_settings.postgres
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        name = sql.Identifier(f"adversary_{unique}")
        connection.execute(sql.SQL("create database {}").format(name))
        key_file = tmp_path / "signing_key.pem"
        own = storage_settings.model_copy(
            update={
                "postgres": postgres.model_copy(update={"ledger_db": f"adversary_{unique}"}),
                "lake": storage_settings.lake.model_copy(update={"worm_bucket": f"worm-{unique}"}),
                "ledger": storage_settings.ledger.model_copy(
                    update={
                        "port": free_ports(1)[0],
                        "signing_key_file": key_file,
                        "public_key": None,
                        "checkpoint_file": tmp_path / "checkpoints.txt",
                    }
                ),
            }
        )
        public_key = public_key_text("marketlake", signing_key(own))
        pinned = own.ledger.model_copy(update={"public_key": public_key})
        yield own.model_copy(update={"ledger": pinned})
        connection.execute(sql.SQL("drop database {} with (force)").format(name))


@pytest.fixture
def log(settings: Settings) -> Log:
    clock = Clock()
    with appender_thread(settings, clock) as client:
        fill(client, clock)
    log = Log(settings, clock)
    assert PublishedCheckpoints(settings).in_bucket(lambda *_: True).read
    return log


def test_an_untouched_log_verifies_and_goes_on(log: Log) -> None:
    with appender_thread(log.settings, log.clock) as client:
        assert verify_ledger(log.settings).faults == []
        fill(client, log.clock, ENTRIES, ENTRIES + 2)
        assert verify_ledger(log.settings).faults == []
    assert log.faults() == []


def test_a_checkpoint_is_in_file_and_bucket_within_a_second(settings: Settings) -> None:
    clock = Clock()
    with appender_thread(settings, clock) as client:
        fill(client, clock)
        sleep_s(1.0)
        places = PublishedCheckpoints(settings)
        kept = places.in_file() + places.in_bucket(lambda *_: True).read
        assert [one.note.split("\n")[1] for one in (kept[-2], kept[-1])] == [str(ENTRIES)] * 2


def test_1_a_flipped_bit(log: Log) -> None:
    log.tamper(
        "update ledger.entry set canonical ="
        " set_bit(canonical, 480, 1 - get_bit(canonical, 480)) where index = 3"
    )
    assert log.first_fault() == "entry 3: its bytes do not have the stored leaf hash"


def test_2_an_edited_and_rehashed_entry(log: Log) -> None:
    content = entry(3_000, BEGAN + timedelta(seconds=3)).canonical()
    log.tamper(
        (
            "update ledger.entry set canonical = %s, leaf_hash = %s, key = 'run/3000'"
            " where index = 3",
            (content, leaf_hash(content)),
        )
    )
    assert log.first_fault().startswith("entry 3 is not what was recorded")


def test_3_a_deleted_middle_entry(log: Log) -> None:
    log.tamper("delete from ledger.entry where index = 3")
    assert log.first_fault() == "entry 3 is missing (the next one is 4)"


def test_4_a_cut_tail_with_its_checkpoints(log: Log) -> None:
    log.tamper(
        "delete from ledger.entry where index >= 6", "delete from ledger.checkpoint where size > 6"
    )
    assert log.first_fault().startswith("entries 6 to 7 are missing: the tail was cut")


def test_4_a_cut_tail_where_the_file_is_gone_and_the_bucket_hides_its_checkpoints(log: Log) -> None:
    """A lock does not keep anybody from deleting a name: the object is behind a marker then."""
    log.tamper(
        "delete from ledger.entry where index >= 6", "delete from ledger.checkpoint where size > 6"
    )
    log.settings.checkpoint_file.unlink()
    hidden = log.delete_from_bucket()
    faults = log.faults()
    assert faults[0].startswith("entries 6 to 7 are missing: the tail was cut (s3://")
    assert [fault.split(" was deleted: ")[0] for fault in faults[1:]] == hidden


def test_4_a_hidden_checkpoint_of_a_log_in_which_nothing_is_wrong(log: Log) -> None:
    hidden = log.delete_from_bucket()
    assert [fault.split(" was deleted: ")[0] for fault in log.faults()] == hidden


def test_4_a_checkpoint_that_another_version_covers_in_the_bucket(log: Log) -> None:
    log.tamper(
        "delete from ledger.entry where index >= 6", "delete from ledger.checkpoint where size > 6"
    )
    log.settings.checkpoint_file.unlink()
    store, bucket = ObjectStore(log.settings.lake), log.settings.lake.worm_bucket
    newest = store.list(bucket, "checkpoints/")[-1].key
    store.put(bucket, newest, b"nothing", content_type="text/plain")
    covered, cut = log.faults()[:2]
    assert "malformed note" in covered
    assert cut.startswith("entries 6 to 7 are missing: the tail was cut (s3://")


def test_4_a_log_of_which_nothing_is_to_be_found_outside(log: Log) -> None:
    empty = log.settings.model_copy(
        update={
            "lake": log.settings.lake.model_copy(update={"worm_bucket": f"e-{uuid.uuid4().hex}"})
        }
    )
    ObjectStore(empty.lake).ensure_locked_bucket(empty.lake.worm_bucket, retention_days=1)
    with appender_thread(log.settings, log.clock):
        found = verify_ledger(empty)
        assert (found.ok, found.kept_in_file > 0, found.kept_in_bucket) == (True, True, 0)
        log.settings.checkpoint_file.unlink()
        found = verify_ledger(empty)
    assert [fault.split(",")[0] for fault in found.faults] == [
        "no checkpoint of any entry is to be found outside the database"
    ]
    assert not found.ok


def test_4_a_cut_tail_where_the_file_is_gone_is_not_gone_on_with(log: Log) -> None:
    log.tamper(
        "delete from ledger.entry where index >= 6", "delete from ledger.checkpoint where size > 6"
    )
    log.settings.checkpoint_file.unlink()
    log.delete_from_bucket()
    refused = pytest.raises(ContractViolation, match="entries 6 to 7 are missing: a checkpoint of")
    with appender_thread(log.settings, log.clock) as client, refused:
        client.append([entry(100, log.clock.now)])
    assert not log.settings.checkpoint_file.exists()  # a cut log is not published


def test_4_a_cut_tail_behind_the_note_of_an_empty_log(log: Log) -> None:
    """An appender that had not reached Postgres once published that, as the file's last note."""
    log.tamper(
        "delete from ledger.entry where index >= 6", "delete from ledger.checkpoint where size > 6"
    )
    empty = Checkpoint(0, MerkleTree().root(0).hex(), log.clock.now.isoformat())
    note = sign(empty, origin="marketlake", key=signing_key(log.settings))
    with log.settings.checkpoint_file.open("a") as file:
        file.write(f"\n{note}")
    refused = pytest.raises(ContractViolation, match="entries 6 to 7 are missing: a checkpoint of")
    with appender_thread(without_store(log.settings), log.clock) as client, refused:
        client.append([entry(100, log.clock.now)])


def test_what_did_not_reach_the_bucket_does_after_a_restart_in_which_nobody_appends(
    log: Log,
) -> None:
    with appender_thread(without_store(log.settings), log.clock) as client:
        fill(client, log.clock, ENTRIES, ENTRIES + 2)
    places = PublishedCheckpoints(log.settings)
    key = str(log.settings.ledger.public_key)
    assert places.newest_in_bucket(key, since=0)[0].size == ENTRIES
    with appender_thread(log.settings, log.clock):
        sleep_s(1.0)
        assert places.newest_in_bucket(key, since=0)[0].size == ENTRIES + 2
    sizes = [one.note.split("\n")[1] for one in places.in_file()]
    assert sizes[-1] == str(ENTRIES + 2)
    assert len(sizes) == len(set(sizes))  # trying again fills no disk
    assert log.faults() == []


def test_a_checkpoint_in_the_bucket_counts_only_with_our_signature_and_under_its_own_name(
    log: Log,
) -> None:
    places, store = PublishedCheckpoints(log.settings), ObjectStore(log.settings.lake)
    bucket, key = log.settings.lake.worm_bucket, str(log.settings.ledger.public_key)
    (newest,) = places.newest_in_bucket(key, since=0)
    assert newest.size == ENTRIES
    larger = f"checkpoints/{ENTRIES + 5:012d}-{'0' * 64}.txt"
    theirs = sign(newest, origin="marketlake", key=Ed25519PrivateKey.generate())
    for note in (theirs, places.in_file()[-1].note):
        store.put(bucket, larger, note.encode(), content_type="text/plain")
    assert places.newest_in_bucket(key, since=0) == [newest]
    assert places.newest_in_bucket(key, since=ENTRIES) == [newest]
    assert places.newest_in_bucket(key, since=ENTRIES + 1) == []


def test_a_log_too_young_to_be_published_is_no_fault(settings: Settings) -> None:
    elsewhere = settings.model_copy(
        update={
            "ledger": settings.ledger.model_copy(
                update={"checkpoint_file": settings.checkpoint_file.with_name("none.txt")}
            ),
            "lake": settings.lake.model_copy(update={"worm_bucket": f"e-{uuid.uuid4().hex}"}),
        }
    )
    ObjectStore(elsewhere.lake).ensure_locked_bucket(elsewhere.lake.worm_bucket, retention_days=1)
    with appender_thread(settings, utc_now) as client:
        client.append([entry(0, utc_now())])
        found = verify_ledger(elsewhere)
    assert (found.faults, found.kept_in_file, found.kept_in_bucket) == ([], 0, 0)


def test_5_everything_dropped_and_begun_anew(log: Log) -> None:
    log.tamper("drop schema ledger cascade")
    with appender_thread(log.settings, log.clock) as client:
        with pytest.raises(ContractViolation, match="entries 0 to 7 are missing"):
            client.append([entry(0, log.clock.now)])
        faults = verify_ledger(log.settings).faults
    assert faults[0].startswith("entries 0 to 7 are missing: everything was dropped")


def test_6_two_entries_that_change_places(log: Log) -> None:
    log.tamper(
        "update ledger.entry set index = 1000 where index = 3",
        "update ledger.entry set index = 3 where index = 4",
        "update ledger.entry set index = 4 where index = 1000",
    )
    assert log.first_fault().startswith("entry 3 is not what was recorded")


def test_7_an_entry_twice(log: Log) -> None:
    log.tamper(
        "alter table ledger.entry drop constraint entry_key_key",
        "update ledger.entry set index = index + 1000 where index > 3",
        "update ledger.entry set index = index - 999 where index > 1000",
        "insert into ledger.entry (index, key, kind, dag_id, run_id, recorded_at, canonical,"
        " leaf_hash) select 4, key, kind, dag_id, run_id, recorded_at, canonical, leaf_hash"
        " from ledger.entry where index = 3",
    )
    assert log.first_fault().startswith("entry 4 is not what was recorded")


def test_8_a_fork_by_a_second_appender_on_a_copy(log: Log) -> None:
    """A copy of the database went on with other entries; both have the key and the same bucket."""
    copy = f"{log.settings.postgres.ledger_db}_copy"
    postgres = log.settings.postgres
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(
            sql.SQL("create database {} template {}").format(
                sql.Identifier(copy), sql.Identifier(postgres.ledger_db)
            )
        )
    theirs = log.settings.model_copy(
        update={
            "postgres": postgres.model_copy(update={"ledger_db": copy}),
            "ledger": log.settings.ledger.model_copy(
                update={
                    "port": free_ports(1)[0],
                    "checkpoint_file": log.settings.checkpoint_file.with_name("other.txt"),
                }
            ),
        }
    )
    with (
        appender_thread(log.settings, log.clock) as ours,
        appender_thread(theirs, log.clock) as client,
    ):
        fill(ours, log.clock, ENTRIES, ENTRIES + 2)
        client.append([entry(500, log.clock.now), entry(501, log.clock.now)])
    assert log.first_fault().startswith("fork: ")
    # Whoever starts later finds the other's checkpoint in the bucket.
    refused = pytest.raises(ContractViolation, match="the first 10 entries are not those of a pub")
    for settings in (log.settings, theirs):
        with appender_thread(settings, log.clock) as client, refused:
            client.append([entry(502, log.clock.now)])
    with psycopg.connect(postgres.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(copy)))


def test_8_a_second_appender_on_the_same_log_does_not_start(log: Log) -> None:
    other = log.settings.ledger.model_copy(update={"port": free_ports(1)[0]})
    refused = pytest.raises(ConfigError, match="one appender for a ledger")
    with appender_thread(log.settings, log.clock), refused:
        _serve_once(log.settings.model_copy(update={"ledger": other}), log.clock)


def test_9_a_clock_that_goes_back(log: Log) -> None:
    log.clock.now = BEGAN - timedelta(hours=2)
    refused = pytest.raises(SourceUnavailable, match="earlier")
    with appender_thread(log.settings, log.clock) as client, refused:
        client.append([entry(100, log.clock.now)])
    key = signing_key(log.settings)
    tree = MerkleTree()
    for one in log.entries():
        tree.append(leaf_hash(one.canonical()))
    point = Checkpoint(5, tree.root(5).hex(), (BEGAN - timedelta(hours=2)).isoformat())
    log.tamper(
        (
            "update ledger.checkpoint set recorded_at = %s, note = %s where size = 5",
            (point.recorded_at_utc, sign(point, origin="marketlake", key=key)),
        )
    )
    assert "checkpoint 5 is dated before checkpoint 4" in log.first_fault()


def test_10_checkpoints_signed_with_another_key(log: Log) -> None:
    entries = log.entries()
    log.rewrite(entries, Ed25519PrivateKey.generate())
    assert log.first_fault().startswith("checkpoint 1: signed by another key")


def test_10_an_entry_with_a_checkpoint_of_its_own_added_while_nobody_appends(log: Log) -> None:
    """The next signature would cover it, and the checkpoint that shows who made it could go."""
    added = entry(ENTRIES, log.clock.now)
    tree = MerkleTree()
    for one in [*log.entries(), added]:
        tree.append(leaf_hash(one.canonical()))
    point = Checkpoint(tree.size, tree.root(tree.size).hex(), log.clock.now.isoformat())
    note = sign(point, origin="marketlake", key=Ed25519PrivateKey.generate())
    log.plant(ENTRIES, added)
    log.tamper(
        (
            "insert into ledger.checkpoint (size, root_hash, recorded_at, note)"
            " values (%s, %s, %s, %s)",
            (tree.size, tree.root(tree.size), log.clock.now, note),
        )
    )
    refused = pytest.raises(ContractViolation, match="checkpoint 9: signed by another key")
    with appender_thread(log.settings, log.clock) as client, refused:
        client.append([entry(100, log.clock.now)])
    assert log.first_fault().startswith("checkpoint 9: signed by another key")


def test_10_an_empty_log_may_get_another_key(settings: Settings) -> None:
    clock = Clock()
    with appender_thread(settings, clock):
        pass
    settings.checkpoint_file.unlink()
    settings.signing_key_file.write_text(new_key_pem())
    ledger = settings.ledger.model_copy(update={"public_key": None})
    unpinned = settings.model_copy(update={"ledger": ledger})
    with appender_thread(unpinned, clock) as client:
        fill(client, clock)
        assert client.checkpoint().size == ENTRIES
    notes = [one.note for one in PublishedCheckpoints(settings).in_file()]
    assert {open_signed(note, public_key=public_key(unpinned)).size for note in notes} >= {ENTRIES}


def test_10_an_appender_with_another_key_does_not_start(log: Log) -> None:
    log.settings.signing_key_file.write_text(new_key_pem())
    with pytest.raises(ConfigError, match="the private key of marketlake"):
        _serve_once(log.settings, log.clock)


@pytest.mark.parametrize("signed", [False, True], ids=["without the key", "with the key"])
def test_11_a_consistent_rewrite_by_a_superuser(log: Log, signed: bool) -> None:
    entries = log.entries()
    entries[2] = entry(2_000, BEGAN + timedelta(seconds=2))
    log.rewrite(entries, signing_key(log.settings) if signed else None)
    fault = log.first_fault()
    if signed:  # only what was published before gives it away
        assert "fork: one of entries" in fault or "rewritten since" in fault
    else:
        assert fault == "checkpoint 1 is not signed"


@pytest.mark.parametrize("index", [-1, ENTRIES, 10_000])
def test_12_a_row_planted_under_a_key_that_is_still_to_come(log: Log, index: int) -> None:
    """Who asks to record it must not get a receipt for the planted row, which no root covers."""
    coming = entry(ENTRIES, BEGAN + timedelta(seconds=ENTRIES))
    refused = pytest.raises(ContractViolation, match=f"entry {index}, which has the key 'run/8'")
    with appender_thread(log.settings, log.clock) as client:
        log.plant(index, coming)
        for _ in range(2):
            with refused:
                client.append([coming])
        assert verify_ledger(log.settings).faults
    assert f"entry {index if index < 0 else ENTRIES} was " in log.first_fault()


def test_12_a_planted_row_that_is_gone_again_before_anybody_verifies(log: Log) -> None:
    coming = entry(ENTRIES, BEGAN + timedelta(seconds=ENTRIES))
    with appender_thread(log.settings, log.clock) as client:
        log.plant(10_000, coming)
        with pytest.raises(ContractViolation, match="entry 10000"):
            client.append([coming])
        log.tamper("delete from ledger.entry where index = 10000")
        assert "entry 10000" in verify_ledger(log.settings).faults[0]
    with appender_thread(log.settings, log.clock) as client:
        assert client.append([coming])[0].index == ENTRIES
        assert verify_ledger(log.settings).faults == []


@pytest.mark.parametrize("is_old", [False, True], ids=["found by its key", "looked up first"])
def test_12_a_key_moved_to_an_old_entry(log: Log, is_old: bool) -> None:
    """The same kind and payload under another key is another fact."""
    coming = Entry("run/8", "calculation", {"value_usd": 30}, log.clock.now.isoformat())
    with appender_thread(log.settings, log.clock) as client:
        log.tamper("update ledger.entry set key = 'run/8' where index = 3")
        if is_old:
            log.clock.now += timedelta(hours=1)
        with pytest.raises(ContractViolation, match="entry 3: column key is 'run/8'"):
            client.append([coming])
    assert log.first_fault() == "entry 3: column key differs from its bytes"


def without_store(settings: Settings) -> Settings:
    """Return the settings of an appender that finds nobody where the store should be."""
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    lake = settings.lake.model_copy(update={"endpoint_url": url})
    return settings.model_copy(update={"lake": lake})


def _serve_once(settings: Settings, clock: Clock) -> None:
    asyncio.run(Appender(settings, clock=clock).serve())
