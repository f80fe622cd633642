"""The index of the ledger: right, caught up once, dropped when the ledger is another one."""

from __future__ import annotations

import hashlib
import threading
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from marketlake.errors import BadPayload, ConfigError
from marketlake.settings import PostgresSettings, Settings
from marketlake.storage.ledger import Entry
from marketlake.storage.lineage_index import LineageIndex, split_name

AT = "2026-01-02T03:04:05+00:00"


def name(number: int, version: int = 0) -> str:
    sha256 = hashlib.sha256(f"{number}/{version}".encode()).hexdigest()
    return f"core_test__x/year={number:04d}@{sha256}"


@dataclass
class Log:
    """A ledger's table in a database of its own; whoever owns it may also tamper with it."""

    postgres: PostgresSettings
    connection: psycopg.Connection[tuple[object, ...]]
    size: int = 0

    def publish(self, child: str, parents: Sequence[str] = (), *, kind: str = "published") -> int:
        contract, partition, sha256 = split_name(child)
        payload = {
            "contract": contract,
            "partition": partition,
            "sha256": sha256,
            "parents": list(parents),
        }
        content = Entry(f"k{uuid.uuid4()}", kind, payload, AT).canonical()
        self.run(
            "insert into ledger.entry values (%s, %s, %s, %s)",
            (self.size, kind, content, hashlib.sha256(content).digest()),
        )
        self.size += 1
        return self.size - 1

    def run(self, statement: str, values: Sequence[object] = ()) -> list[tuple[object, ...]]:
        cursor = self.connection.execute(statement.encode(), values or None)
        return cursor.fetchall() if cursor.description else []

    def restart(self) -> None:
        self.run("truncate ledger.entry")
        self.size = 0


@pytest.fixture(scope="module")
def database(storage_settings: Settings) -> Iterator[PostgresSettings]:
    unique = f"lineage_{uuid.uuid4().hex[:12]}"
    server = storage_settings.postgres
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"create database {unique}")
    yield server.model_copy(update={"ledger_db": unique})
    with psycopg.connect(server.conninfo("postgres"), autocommit=True) as connection:
        connection.execute(f"drop database {unique} with (force)")


@pytest.fixture
def log(database: PostgresSettings) -> Iterator[Log]:
    with psycopg.connect(database.conninfo(database.ledger_db), autocommit=True) as connection:
        found = Log(database, connection)
        found.run("create schema if not exists ledger")
        found.run(
            "create table if not exists ledger.entry (index bigint primary key, kind text not null,"
            " canonical bytea not null, leaf_hash bytea not null)"
        )
        found.restart()
        found.run("drop schema if exists lineage cascade")
        yield found


def told(log: Log, start: str, direction: str) -> tuple[set[str], set[tuple[str, str, int]]]:
    with LineageIndex(log.postgres) as index:
        closure = index.closure([start], direction)  # type: ignore[arg-type]
    return {item for item, _ in closure.nodes.values()}, set(closure.edges())


def test_a_chain_is_walked_both_ways(log: Log) -> None:
    raw, bar, feature = name(1), name(2), name(3)
    log.publish(raw)
    log.publish(bar, [raw])
    log.publish(feature, [bar, raw])
    edges = {(bar, raw, 1), (feature, bar, 2), (feature, raw, 2)}
    assert told(log, feature, "up") == ({raw, bar, feature}, edges)
    assert told(log, raw, "down") == ({raw, bar, feature}, edges)
    assert told(log, raw, "up") == ({raw}, set())


def test_what_was_only_named_has_no_entry_until_it_is_published(log: Log) -> None:
    log.publish(name(2), [name(1)])
    with LineageIndex(log.postgres) as index:
        assert dict(index.closure([name(2)], "up").nodes.values()) == {name(2): 0, name(1): None}
        log.publish(name(1))
        index.catch_up()
        assert dict(index.closure([name(2)], "up").nodes.values()) == {name(2): 0, name(1): 1}


def test_content_published_again_goes_up_by_its_newest_entry_and_down_by_every_one(
    log: Log,
) -> None:
    for parent in (name(1), name(2)):
        log.publish(name(3), [parent])
    assert told(log, name(3), "up") == ({name(2), name(3)}, {(name(3), name(2), 1)})
    assert told(log, name(1), "down") == ({name(1), name(3)}, {(name(3), name(1), 0)})
    log.publish(name(3), [name(1)])
    assert told(log, name(3), "up") == ({name(1), name(3)}, {(name(3), name(1), 2)})


def test_versions_are_found_by_the_beginning_of_their_hash(log: Log) -> None:
    old, new = name(1, version=1), name(1, version=2)
    for one in (old, new):
        log.publish(one)
    with LineageIndex(log.postgres) as index:
        assert list(index.versions("core_test__x", "year=0001")) == [new, old]
        short = split_name(old)[2][:8]
        assert index.versions("core_test__x", "year=0001", short) == {old: 0}
        place = ("core_test__x", "year=0001")
        assert index.newest([place, ("core_test__x", "year=0002")]) == {"/".join(place): new}


def test_only_what_is_new_is_read(log: Log) -> None:
    log.publish(name(1))
    log.publish(name(9), kind="gate")
    with LineageIndex(log.postgres) as index:
        assert index.catch_up().published == 0
        log.publish(name(2), [name(1)])
        caught_up = index.catch_up()
        assert (caught_up.published, caught_up.indexed_through) == (1, 3)
        assert not caught_up.rebuilt


def test_a_ledger_that_is_shorter_or_another_one_is_read_from_its_beginning(log: Log) -> None:
    for number in range(3):
        log.publish(name(number), [name(99)])
    assert len(told(log, name(99), "down")[0]) == 4
    log.run("delete from ledger.entry where index = 2")
    assert told(log, name(99), "down")[0] == {name(0), name(1), name(99)}
    log.restart()
    for number in range(10, 12):
        log.publish(name(number), [name(99)])
    assert told(log, name(99), "down")[0] == {name(10), name(11), name(99)}


def test_an_emptied_ledger_leaves_an_empty_index(log: Log) -> None:
    log.publish(name(1), [name(2)])
    assert len(told(log, name(2), "down")[0]) == 2
    log.restart()
    assert told(log, name(2), "down") == (set(), set())


def test_a_crash_in_the_middle_leaves_it_as_it_was(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.publish(name(1))
    with LineageIndex(log.postgres) as index:
        for number in range(2, 6):
            log.publish(name(number), [name(1)])
        monkeypatch.setattr("marketlake.storage.lineage_index._ENTRIES_AT_ONCE", 2)
        store, stored = LineageIndex._store, []

        def half(self: LineageIndex, entries: Sequence[tuple[int, str, list[str]]]) -> None:
            if stored:
                raise KeyboardInterrupt
            stored.append(entries)
            store(self, entries)

        monkeypatch.setattr(LineageIndex, "_store", half)
        with pytest.raises(KeyboardInterrupt):
            index.catch_up()
        assert len(index.closure([name(1)], "down").nodes) == 1
        monkeypatch.setattr(LineageIndex, "_store", store)
        assert index.catch_up().published == 4
        assert len(index.closure([name(1)], "down").nodes) == 5


def test_callers_at_once_take_turns(log: Log) -> None:
    for number in range(1, 200):
        log.publish(name(number), [name(number // 2)])
    found: list[int] = []

    def ask() -> None:
        with LineageIndex(log.postgres) as index:
            found.append(len(index.closure([name(0)], "down").nodes))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [200] * 6


def test_what_is_no_publication_is_nobodys(log: Log) -> None:
    log.publish("core_test__x/year=0001@not-a-hash")
    log.run("insert into ledger.entry values (1, 'published', 'nonsense', 'x')")
    log.size = 2
    log.publish(name(3), ["nonsense", name(1)])
    assert told(log, name(3), "up") == ({name(3), name(1)}, {(name(3), name(1), 2)})


def test_rebuilding_brings_back_what_somebody_took_out(log: Log) -> None:
    log.publish(name(1))
    log.publish(name(2), [name(1)])
    with LineageIndex(log.postgres) as index:
        log.run("delete from lineage.edge")
        assert len(index.closure([name(1)], "down").nodes) == 1
        assert index.catch_up(rebuild=True).rebuilt
        assert len(index.closure([name(1)], "down").nodes) == 2


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4, unique=True)),
        max_size=12,
    ),
    st.integers(1, 5),
)
def test_closures_are_those_of_the_entries(
    log: Log, published: list[tuple[int, list[int]]], caught_up_every: int
) -> None:
    log.restart()
    newest: dict[int, list[int]] = {}
    ever: set[tuple[int, int]] = set()
    with LineageIndex(log.postgres) as index:
        index.catch_up(rebuild=True)
        for number, (child, parents) in enumerate(published):
            log.publish(name(child), [name(parent) for parent in parents])
            newest[child] = parents
            ever |= {(child, parent) for parent in parents}
            if number % caught_up_every == 0:
                index.catch_up()
        index.catch_up()
        for start in newest:
            up = {start}
            while more := {parent for one in up for parent in newest.get(one, [])} - up:
                up |= more
            down = {start}
            while more := {child for child, parent in ever if parent in down} - down:
                down |= more
            for direction, expected in (("up", up), ("down", down)):
                closure = index.closure([name(start)], direction)  # type: ignore[arg-type]
                assert {item for item, _ in closure.nodes.values()} == set(map(name, expected))


def test_a_closed_index_and_a_name_that_is_none_are_refused(log: Log) -> None:
    with pytest.raises(ConfigError, match="with statement"):
        LineageIndex(log.postgres).closure([name(1)], "up")
    with pytest.raises(BadPayload, match="contract/partition@sha256"):
        split_name("core_test__x")
