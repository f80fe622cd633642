"""The appender as a process: killed, stopped, doubled, and cut off from its Postgres."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, MarketlakeError, SourceUnavailable, Timeout
from marketlake.services.ledger_appender import Appender
from marketlake.services.platform import components
from marketlake.services.platform.ports import free_ports, is_free
from marketlake.services.platform.postgres import EmbeddedPostgres
from marketlake.services.platform.runtime import prepare
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage.ledger import FRAME_HEADER, Entry, LedgerClient, Receipt, pack_frame
from pydantic import SecretStr

AT = "2022-12-28T21:15:00+00:00"
KILLS = 3


def entry(key: str) -> Entry:
    return Entry(key, "calculation", {"key_of": key}, AT)


@pytest.fixture(scope="module")
def server(scratch_root: Path) -> Iterator[tuple[Settings, EmbeddedPostgres]]:
    """Yield a Postgres that these tests may stop, with the settings that reach it."""
    settings = prepare(scratch_root / f"ledger-{uuid.uuid4().hex[:8]}", usual_ports=False)
    postgres = components.postgres(settings)
    postgres.start()
    yield settings, postgres
    postgres.stop()


@pytest.fixture
def own(server: tuple[Settings, EmbeddedPostgres]) -> Settings:
    """Return settings with an empty log and a free port."""
    settings, postgres = server
    postgres.start()
    conninfo = settings.postgres.conninfo(settings.postgres.ledger_db)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("drop schema if exists ledger cascade")
    ledger = settings.ledger.model_copy(update={"port": free_ports(1)[0], "timeout_s": 15.0})
    return settings.model_copy(update={"ledger": ledger})


def start(settings: Settings) -> subprocess.Popen[str]:
    ledger, postgres = settings.ledger, settings.postgres
    variables = {
        "MARKETLAKE_HOME": str(settings.home),
        "MARKETLAKE_LEDGER__PORT": str(ledger.port),
        "MARKETLAKE_LEDGER__TOKEN": ledger.token.get_secret_value(),
        "MARKETLAKE_POSTGRES__PORT": str(postgres.port),
        "MARKETLAKE_POSTGRES__PASSWORD": postgres.password.get_secret_value(),
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "marketlake.services.ledger_appender"],
        env=os.environ | variables,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(settings: Settings) -> Iterator[subprocess.Popen[str]]:
    process = start(settings)
    try:
        wait_until_it_answers(settings)
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_until_it_answers(settings: Settings) -> None:
    deadline = monotonic_s() + 60
    while True:
        try:
            return LedgerClient(settings.ledger).ping()
        except MarketlakeError:
            if monotonic_s() > deadline:
                raise
            sleep_s(0.05)


def test_what_was_acknowledged_before_kill_9_is_there_after_it(own: Settings) -> None:
    acknowledged: dict[str, Receipt] = {}

    def work(worker: int, stop: threading.Event) -> None:
        client = LedgerClient(own.ledger)
        number = 0
        while not stop.is_set():
            key = f"{len(kills)}/{worker}/{number}"
            try:
                acknowledged[key] = client.append([entry(key)])[0]
            except (SourceUnavailable, Timeout):
                return
            number += 1

    kills: list[int] = []
    for _ in range(KILLS):
        with running(own) as process:
            stop = threading.Event()
            threads = [threading.Thread(target=work, args=(n, stop)) for n in range(6)]
            before = len(acknowledged)
            for thread in threads:
                thread.start()
            while len(acknowledged) < before + 40:
                sleep_s(0.01)
            process.kill()
            stop.set()
            for thread in threads:
                thread.join()
            kills.append(process.wait())
    assert kills == [-signal.SIGKILL] * KILLS
    with running(own):
        client = LedgerClient(own.ledger)
        found = {e.key: Receipt(e.index, e.leaf_hash) for e in client.entries(limit=100_000)}
        assert {key: found.get(key) for key in acknowledged} == acknowledged
        assert client.verify().ok
        # An entry whose acknowledgement was lost may be sent again without being doubled.
        again = {key: client.append([entry(key)])[0] for key in found}
        assert again == found


def test_a_client_survives_a_restart_of_the_appender(own: Settings) -> None:
    client = LedgerClient(own.ledger)
    with running(own) as process:
        client.append([entry("before")])
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    with pytest.raises(SourceUnavailable, match="marketlake up"):
        client.append([entry("during")])
    with running(own):
        assert client.append([entry("after")])[0].index == 1


def test_without_postgres_appends_fail_clearly_and_go_on_when_it_is_back(
    own: Settings, server: tuple[Settings, EmbeddedPostgres]
) -> None:
    client = LedgerClient(own.ledger)
    postgres = server[1]
    with running(own):
        client.append([entry("before")])
        postgres.stop()
        for call in (
            lambda: client.append([entry("during")]),
            client.ping,
            client.entries,
            client.verify,
        ):
            with pytest.raises(SourceUnavailable, match="Postgres"):
                call()
        postgres.start()
        assert client.append([entry("after")])[0].index == 1
        assert client.verify().ok


def test_a_restart_of_postgres_between_two_appends_goes_unnoticed(
    own: Settings, server: tuple[Settings, EmbeddedPostgres]
) -> None:
    client = LedgerClient(own.ledger)
    with running(own):
        client.append([entry("before")])
        server[1].stop()
        server[1].start()
        assert client.append([entry("before"), entry("after")])[1].index == 1


def test_an_appender_started_before_postgres_waits_for_it(
    own: Settings, server: tuple[Settings, EmbeddedPostgres]
) -> None:
    server[1].stop()
    process = start(own)
    try:
        deadline = monotonic_s() + 60
        while is_free(own.ledger.port) and monotonic_s() < deadline:
            sleep_s(0.05)
        with pytest.raises(SourceUnavailable, match="Postgres"):
            LedgerClient(own.ledger).ping()
        server[1].start()
        assert LedgerClient(own.ledger).append([entry("first")])[0].index == 0
    finally:
        process.kill()
        process.communicate()


def test_a_second_appender_may_not_run(own: Settings) -> None:
    with running(own):
        other = own.ledger.model_copy(update={"port": free_ports(1)[0]})
        second = start(own.model_copy(update={"ledger": other}))
        _, log = second.communicate(timeout=60)
        assert second.returncode == 2
        assert "another one holds its lock" in log
        assert LedgerClient(own.ledger).append([entry("still")])[0].index == 0


def test_without_a_token_it_does_not_start(own: Settings) -> None:
    ledger = own.ledger.model_copy(update={"token": SecretStr("")})
    with pytest.raises(ConfigError, match="MARKETLAKE_LEDGER__TOKEN"):
        Appender(own.model_copy(update={"ledger": ledger}))


def test_a_ledger_that_does_not_answer_is_given_up_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        base = Settings().ledger
        silent = base.model_copy(update={"port": deaf.getsockname()[1], "timeout_s": 0.3})
        began = monotonic_s()
        with pytest.raises(Timeout, match=r"within 0\.3 s"):
            LedgerClient(silent).ping()
        assert monotonic_s() - began < 5


@pytest.mark.parametrize(
    "message",
    [
        pack_frame({"op": "rows"}),  # no hello first
        FRAME_HEADER.pack(1 << 31),
        FRAME_HEADER.pack(4) + b"nope",
        FRAME_HEADER.pack(2) + b"[]",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
)
def test_strangers_are_hung_up_on_and_others_still_served(own: Settings, message: bytes) -> None:
    with running(own):
        with socket.create_connection(("127.0.0.1", own.ledger.port), timeout=20) as stranger:
            stranger.sendall(message)
            answer = b""
            while part := stranger.recv(4096):
                answer += part
        assert b"rows" not in answer
        assert LedgerClient(own.ledger).append([entry("served")])[0].index == 0
