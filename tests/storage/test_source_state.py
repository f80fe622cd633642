from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from marketlake.errors import SourceUnavailable
from marketlake.settings import Settings
from marketlake.storage.source_state import SourceStates
from marketlake.storage.warehouse import Warehouse


@pytest.fixture
def states(warehouse: Warehouse) -> SourceStates:
    return SourceStates(warehouse)


@pytest.fixture
def name() -> str:
    return f"source-{uuid.uuid4().hex}"


@pytest.fixture
def no_table(warehouse: Warehouse) -> None:
    """Let a test find the warehouse as it is before any source was asked."""
    with psycopg.connect(warehouse.conninfo) as connection:
        connection.execute("drop schema if exists ops cascade")


def side_by_side(work: Callable[[], object], *, tasks: int) -> None:
    """Do the same in several threads that begin together; raise what went wrong."""
    begin, wrong = threading.Barrier(tasks), []

    def task() -> None:
        begin.wait()
        try:
            work()
        except Exception as error:
            wrong.append(error)

    threads = [threading.Thread(target=task) for _ in range(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def one_more(state: dict[str, Any] | None) -> dict[str, Any]:
    return {"calls": (state or {"calls": 0})["calls"] + 1}


def test_a_state_is_kept_until_it_is_changed(
    states: SourceStates, name: str, warehouse: Warehouse
) -> None:
    assert states.read(name) is None
    assert states.update(name, one_more) == {"calls": 1}
    assert states.update(name, one_more) == {"calls": 2}
    assert SourceStates(warehouse).read(name) == {"calls": 2}
    assert states.read(f"another {name}") is None


def test_a_change_that_fails_changes_nothing(states: SourceStates, name: str) -> None:
    def fail(_: object) -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        states.update(name, fail)
    assert states.read(name) is None
    states.update(name, one_more)
    with pytest.raises(ZeroDivisionError):
        states.update(name, fail)
    assert states.read(name) == {"calls": 1}


def test_updaters_side_by_side_lose_nothing(states: SourceStates, name: str) -> None:
    def work() -> None:
        for _ in range(10):
            states.update(name, one_more)

    side_by_side(work, tasks=5)
    assert states.read(name) == {"calls": 50}


@pytest.mark.usefixtures("no_table")
def test_tasks_that_make_the_table_at_once_do_not_clash(states: SourceStates, name: str) -> None:
    side_by_side(lambda: states.update(name, one_more), tasks=8)
    assert states.read(name) == {"calls": 8}


def test_a_dead_server_is_unavailable(storage_settings: Settings, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    dead = Warehouse(storage_settings.postgres.model_copy(update={"port": port}))
    with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{port}"):
        SourceStates(dead).update(name, one_more)
