"""Two hundred kill -9 of the appender and of Postgres while callers append."""

from __future__ import annotations

import os
import random
import signal
import threading
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from marketlake.clock import sleep_s
from marketlake.errors import SourceUnavailable, Timeout
from marketlake.services.platform import components
from marketlake.services.platform.ports import free_ports
from marketlake.services.platform.postgres import EmbeddedPostgres
from marketlake.services.platform.runtime import prepare
from marketlake.settings import Settings
from marketlake.storage.ledger import LedgerClient, Receipt

from tests.services.test_ledger_appender import entry, start, wait_until_it_answers

KILLS = 200
WORKERS = 8
LONGEST_PAUSE_S = 0.4


@pytest.fixture
def server(scratch_root: Path) -> Iterator[tuple[Settings, EmbeddedPostgres]]:
    """Yield a Postgres that this test may kill, and settings with a port for the appender."""
    settings = prepare(scratch_root / f"crash-{uuid.uuid4().hex[:8]}", usual_ports=False)
    postgres = components.postgres(settings)
    postgres.start()
    ledger = settings.ledger.model_copy(
        update={"port": free_ports(1)[0], "unpublished_limit_s": 3600.0}
    )
    yield settings.model_copy(update={"ledger": ledger}), postgres
    postgres.stop()


class Callers:
    """Threads that append without end; each repeats an entry until it is acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self.acknowledged: dict[str, Receipt] = {}
        self._stop = threading.Event()
        clients = [LedgerClient(settings.ledger) for _ in range(2)]
        self._threads = [
            threading.Thread(target=self._append, args=(clients[number % 2], number))
            for number in range(WORKERS)
        ]
        for thread in self._threads:
            thread.start()

    def _append(self, client: LedgerClient, worker: int) -> None:
        number = 0
        while not self._stop.is_set():
            one = entry(f"{worker}/{number}")
            try:
                self.acknowledged[one.key] = client.append([one])[0]
            except (SourceUnavailable, Timeout):
                sleep_s(0.02)
            else:
                number += 1

    def wait_for_another(self) -> None:
        """Return when something more is acknowledged: what was killed works again."""
        before = len(self.acknowledged)
        while len(self.acknowledged) == before:
            sleep_s(0.005)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_no_acknowledged_entry_is_lost_in_200_kills(
    server: tuple[Settings, EmbeddedPostgres],
) -> None:
    settings, postgres = server
    chance = random.Random(6962)  # noqa: S311 (which one is killed)
    log = (settings.home / "appender.log").open("w")  # a full pipe would stop the appender
    appender = start(settings, log=log)
    wait_until_it_answers(settings)
    callers = Callers(settings)
    killed: Counter[str] = Counter()
    try:
        for _ in range(KILLS):
            callers.wait_for_another()
            sleep_s(chance.uniform(0, LONGEST_PAUSE_S))
            victim = chance.choice(["appender", "postgres"])
            killed[victim] += 1
            if victim == "appender":
                appender.kill()
                assert appender.wait() == -signal.SIGKILL
                appender = start(settings, log=log)
            else:
                os.killpg(postgres.process.pid or 0, signal.SIGKILL)
                postgres.start()
        callers.wait_for_another()
        callers.stop()
        client = LedgerClient(settings.ledger)
        found = {one.key: Receipt(one.index, one.leaf_hash) for one in client.rows(0, 1 << 40)}
        verified = client.verify(public_key=settings.ledger.public_key)
    finally:
        callers.stop()
        appender.kill()
        appender.wait()
        log.close()
    lost = {key for key, receipt in callers.acknowledged.items() if found.get(key) != receipt}
    assert lost == set()
    assert sorted(receipt.index for receipt in found.values()) == list(range(len(found)))
    assert verified.faults == []
    assert min(killed.values()) > KILLS / 4
    print(f"{dict(killed)}, {len(callers.acknowledged):,} acknowledged, {len(found):,} in the log")
