"""The appender as a process: killed, stopped, doubled, and cut off from its Postgres."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any

import psycopg
import pytest
from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import (
    ConfigError,
    ContractViolation,
    MarketlakeError,
    SourceUnavailable,
    Timeout,
)
from marketlake.services.ledger_appender import Appender
from marketlake.services.platform import components
from marketlake.services.platform.ports import free_ports, is_free
from marketlake.services.platform.postgres import EmbeddedPostgres
from marketlake.services.platform.runtime import prepare
from marketlake.services.signing_key import public_key, signer
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage.ledger import (
    FRAME_HEADER,
    PROTOCOL,
    Entry,
    LedgerClient,
    Receipt,
    pack_frame,
)
from marketlake.storage.ledger_log import Leaf, LedgerLog
from pydantic import SecretStr

KILLS = 3


def entry(key: str) -> Entry:
    return Entry(key, "calculation", {"key_of": key}, utc_now().isoformat())


@pytest.fixture(scope="module")
def server(scratch_root: Path) -> Iterator[tuple[Settings, EmbeddedPostgres]]:
    """Yield a Postgres that these tests may stop, with the settings that reach it."""
    settings = prepare(scratch_root / f"ledger-{uuid.uuid4().hex[:8]}", usual_ports=False)
    postgres = components.postgres(settings)
    postgres.start()
    yield settings, postgres
    postgres.stop()


@pytest.fixture
def own(server: tuple[Settings, EmbeddedPostgres], tmp_path: Path) -> Settings:
    """Return settings with an empty log and a free port."""
    settings, postgres = server
    postgres.start()
    conninfo = settings.postgres.conninfo(settings.postgres.ledger_db)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("drop schema if exists ledger cascade")
    ledger = settings.ledger.model_copy(
        update={
            "port": free_ports(1)[0],
            "timeout_s": 15.0,
            "checkpoint_file": tmp_path / "checkpoints.txt",
        }
    )
    return settings.model_copy(update={"ledger": ledger})


def start(settings: Settings, *, log: IO[str] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    ledger, postgres = settings.ledger, settings.postgres
    variables = {
        "MARKETLAKE_HOME": str(settings.home),
        "MARKETLAKE_LEDGER__PORT": str(ledger.port),
        "MARKETLAKE_LEDGER__TOKEN": ledger.token.get_secret_value(),
        "MARKETLAKE_LEDGER__CHECKPOINT_FILE": str(settings.checkpoint_file),
        "MARKETLAKE_LEDGER__UNPUBLISHED_LIMIT_S": str(ledger.unpublished_limit_s),
        "MARKETLAKE_POSTGRES__PORT": str(postgres.port),
        "MARKETLAKE_POSTGRES__PASSWORD": postgres.password.get_secret_value(),
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "marketlake.services.ledger_appender"],
        env=os.environ | variables,
        stderr=log,
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


def receive(wire: socket.socket) -> dict[str, Any]:
    with wire.makefile("rb") as stream:
        (length,) = FRAME_HEADER.unpack(stream.read(FRAME_HEADER.size))
        answer: dict[str, Any] = json.loads(stream.read(length))
    return answer


def commits(settings: Settings) -> list[datetime]:
    """Return the times of the checkpoints after the empty one."""
    conninfo = settings.postgres.conninfo(settings.postgres.ledger_db)
    with psycopg.connect(conninfo) as connection:
        rows = connection.execute(
            "select recorded_at from ledger.checkpoint where size > 0 order by size"
        ).fetchall()
    return [row[0] for row in rows]


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

    def work(client: LedgerClient, worker: int, stop: threading.Event) -> None:
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
            clients = [LedgerClient(own.ledger) for _ in range(2)]
            threads = [
                threading.Thread(target=work, args=(clients[n % 2], n, stop)) for n in range(8)
            ]
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


def test_callers_that_wait_together_share_a_commit_and_outlive_an_interrupted_one(
    own: Settings,
) -> None:
    client = LedgerClient(own.ledger)
    receipts: list[Receipt] = []

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with running(own) as process:
            client.append([entry("first")])
            process.send_signal(signal.SIGSTOP)
            threads = [
                threading.Thread(target=lambda n=n: receipts.extend(client.append([entry(f"{n}")])))
                for n in range(8)
            ]
            late = threading.Timer(0.2, lambda: [thread.start() for thread in threads])
            late.start()
            signal.setitimer(signal.ITIMER_REAL, 0.6)
            with pytest.raises(KeyboardInterrupt):
                client.append([entry("interrupted")])
            process.send_signal(signal.SIGCONT)
            for thread in threads:
                thread.join(timeout=20)
            assert len({receipt.index for receipt in receipts}) == len(receipts) == 8
            assert len(commits(own)) < len(receipts)
            assert client.append([entry("interrupted")])[0].index <= 10
            assert client.verify().ok
    finally:
        signal.signal(signal.SIGALRM, before)


def test_connections_that_wait_together_share_commits_and_each_gets_its_own_answer(
    own: Settings,
) -> None:
    receipts: dict[int, Receipt] = {}
    clients = [LedgerClient(own.ledger) for _ in range(8)]

    def work(number: int) -> None:
        (receipts[number],) = clients[number].append([entry(f"{number}")])

    with running(own) as process:
        for client in clients:
            client.ping()
        process.send_signal(signal.SIGSTOP)
        threads = [threading.Thread(target=work, args=(n,)) for n in range(len(clients))]
        for thread in threads:
            thread.start()
        sleep_s(0.3)
        process.send_signal(signal.SIGCONT)
        for thread in threads:
            thread.join(timeout=20)
        found = {int(e.key): Receipt(e.index, e.leaf_hash) for e in clients[0].entries()}
        assert receipts == found
        assert len(found) == len(clients) > len(commits(own))
        assert clients[0].verify().ok


def test_an_error_that_nobody_foresaw_is_answered_and_ends_the_appender(own: Settings) -> None:
    broken = threading.Event()

    def clock() -> datetime:
        if broken.is_set():
            raise RuntimeError("a broken clock")
        return utc_now()

    ended: list[BaseException] = []

    def serve() -> None:
        try:
            asyncio.run(Appender(own, clock=clock).serve())
        except RuntimeError as error:
            ended.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    wait_until_it_answers(own)
    client = LedgerClient(own.ledger)
    client.append([entry("before")])
    broken.set()
    with pytest.raises(SourceUnavailable):
        client.append([entry("after")])
    thread.join(timeout=20)
    assert [str(error) for error in ended] == ["a broken clock"]


def test_when_nothing_answers_every_waiting_caller_is_told_so_and_the_client_goes_on(
    own: Settings,
) -> None:
    client = LedgerClient(own.ledger.model_copy(update={"timeout_s": 0.5}))
    failures: list[MarketlakeError] = []

    def work(number: int) -> None:
        try:
            client.append([entry(f"{number}")])
        except MarketlakeError as error:
            failures.append(error)

    with running(own) as process:
        client.append([entry("first")])
        process.send_signal(signal.SIGSTOP)
        began = monotonic_s()
        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        assert monotonic_s() - began < 5
        assert [type(error) for error in failures] == [Timeout] * 8
        process.send_signal(signal.SIGCONT)
        wait_until_it_answers(own)
        after = LedgerClient(own.ledger).append([entry("after")])
        assert client.append([entry("after")]) == after


def test_a_process_forked_while_threads_append_appends_for_itself(own: Settings) -> None:
    client = LedgerClient(own.ledger)
    stop = threading.Event()
    counts = [0] * 4

    def work(worker: int) -> None:
        while not stop.is_set():
            client.append([entry(f"{worker}/{counts[worker]}")])
            counts[worker] += 1

    with running(own):
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        children = []
        for number in range(5):
            child = os.fork()
            if child == 0:
                # Whatever happens here must not run the parent's tests or its clean-up.
                status = 1
                try:
                    client.append([entry(f"child-{number}")])
                    status = 0
                finally:
                    os._exit(status)
            children.append(child)
        ended = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        stop.set()
        for thread in threads:
            thread.join(timeout=20)
        assert ended == [0] * 5
        assert client.checkpoint().size == sum(counts) + 5


def test_one_callers_refusal_is_not_anothers(own: Settings) -> None:
    good, bad = entry("good").canonical().decode(), "7:nothing,"
    clash = replace(entry("good"), payload={"another": "fact"}).canonical().decode()
    token = own.ledger.token.get_secret_value()
    requests = [[good], [clash], [bad], [entry("later").canonical().decode(), good], []]
    with running(own), socket.create_connection(("127.0.0.1", own.ledger.port), 20) as wire:
        wire.sendall(pack_frame({"op": "hello", "protocol": PROTOCOL, "token": token}))
        assert receive(wire) == {}
        wire.sendall(pack_frame({"op": "append", "requests": requests}))
        answers = receive(wire)["answers"]
    assert [sorted(answer) for answer in answers] == [
        ["receipts"], ["error"], ["error"], ["receipts"], ["receipts"],
    ]  # fmt: skip
    assert [answers[n]["error"]["kind"] for n in (1, 2)] == ["ContractViolation", "BadPayload"]
    assert [[index for index, _ in answers[n]["receipts"]] for n in (0, 3, 4)] == [[0], [1, 0], []]


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
        sleep_s(1)
        assert not own.checkpoint_file.exists()  # it knows of no log yet
        server[1].start()
        assert LedgerClient(own.ledger).append([entry("first")])[0].index == 0
    finally:
        process.kill()
        process.communicate()


def test_postgres_notices_within_seconds_that_an_appenders_machine_is_gone(log: LedgerLog) -> None:
    log.ping()
    connection = log._link.connection
    assert connection is not None
    found = connection.execute(
        "select name, setting from pg_settings where name like 'tcp\\_%' order by name"
    ).fetchall()
    assert dict(found) == {
        "tcp_keepalives_count": "3",
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_user_timeout": "15000",
    }


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


# --- clocks ---------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A clock that a test sets."""

    now: datetime = datetime(2022, 12, 28, 21, 15, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def shows(self, **seconds: float) -> str:
        return (self.now + timedelta(**seconds)).isoformat()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def log_of(settings: Settings, clock: Clock) -> LedgerLog:
    return LedgerLog(
        settings.postgres, sign=signer(settings), public_key=public_key(settings), clock=clock
    )


@pytest.fixture
def log(own: Settings, clock: Clock) -> Iterator[LedgerLog]:
    opened = log_of(own, clock)
    yield opened
    opened.close()


def leaf(key: str, at: str) -> Leaf:
    return Leaf.of(replace(entry(key), recorded_at_utc=at).canonical())


@pytest.mark.parametrize("off_s", [-301, 301, -1e6])
def test_an_entry_from_a_wrong_clock_is_refused_alone(
    log: LedgerLog, clock: Clock, off_s: float
) -> None:
    wrong = leaf("wrong", clock.shows(seconds=off_s))
    before, refused, after, together = log.append(
        [
            [leaf("before", clock.shows(seconds=-300))],
            [wrong],
            [leaf("after", clock.shows(seconds=300))],
            [leaf("with it", clock.shows()), wrong],
        ]
    )
    assert isinstance(before, list)
    assert isinstance(after, list)
    assert [before[0].index, after[0].index] == [0, 1]
    assert log.head.size == 2
    for refusal in (refused, together):
        assert isinstance(refusal, ContractViolation)
        assert refusal.was == clock.shows(seconds=off_s)
        assert "correct the clock" in refusal.todo


def test_a_known_key_gets_its_first_receipt_however_old_it_is(log: LedgerLog, clock: Clock) -> None:
    at = clock.shows()
    (first,) = log.append([[leaf("old", at)]])
    clock.now += timedelta(days=30)
    again, new = log.append([[leaf("old", at)], [leaf("new", clock.shows())]])
    assert again == first
    assert new == [Receipt(1, leaf("new", clock.shows()).hash.hex())]
    clash = replace(entry("old"), payload={"another": "fact"}, recorded_at_utc=at)
    (refused,) = log.append([[Leaf.of(clash.canonical())]])
    assert "same key" in str(refused)


def test_the_time_of_a_checkpoint_never_goes_back(
    own: Settings, log: LedgerLog, clock: Clock
) -> None:
    began = clock.now
    log.append([[leaf("a", clock.shows())]])
    clock.now = began - timedelta(seconds=5)
    log.append([[leaf("b", clock.shows())]])
    clock.now = began + timedelta(seconds=1)
    log.append([[leaf("c", clock.shows())]])
    assert commits(own) == [began, began, began + timedelta(seconds=1)]


@pytest.mark.parametrize(("off_s", "is_taken"), [(-300, False), (-295, True), (305, True)])
def test_an_entry_at_the_limit_while_the_clock_is_set_back_raises_no_alarm_later(
    own: Settings, log: LedgerLog, clock: Clock, off_s: float, is_taken: bool
) -> None:
    """The checkpoint keeps the last time then, and a verification measures against that."""
    log.append([[leaf("a", clock.shows())]])
    clock.now -= timedelta(seconds=5)
    (outcome,) = log.append([[leaf("b", clock.shows(seconds=off_s))]])
    assert isinstance(outcome, list if is_taken else ContractViolation)
    log.close()
    with running(own):
        found = LedgerClient(own.ledger).verify(public_key=own.ledger.public_key)
    assert (found.faults, found.size) == ([], 1 + is_taken)


def test_a_clock_that_went_back_far_stops_the_log_until_it_is_right(
    own: Settings, log: LedgerLog, clock: Clock
) -> None:
    began = clock.now
    log.append([[leaf("a", clock.shows())]])
    clock.now = began - timedelta(seconds=65.5)
    for one in (log, log_of(own, clock)):
        with pytest.raises(SourceUnavailable, match=r"gone back.*65\.500 s earlier"):
            one.append([[leaf("b", clock.shows())]])
        one.close()
    clock.now = began
    assert log.append([[leaf("b", clock.shows())]]) == [
        [Receipt(1, leaf("b", clock.shows()).hash.hex())]
    ]
    assert len(commits(own)) == 2
