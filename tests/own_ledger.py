"""A ledger of its own, empty, in this process: its clock and its database are the test's."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from unittest.mock import patch

import psycopg
from marketlake.clock import sleep_s, utc_now
from marketlake.errors import MarketlakeError
from marketlake.services.ledger_appender import Appender
from marketlake.services.platform.ports import free_ports
from marketlake.settings import Settings
from marketlake.storage.ledger import Entry, LedgerClient, Receipt


@dataclass
class OwnLedger:
    """Entries get the time that the clock shows; so does the commit."""

    settings: Settings
    client: LedgerClient
    at: datetime = field(default_factory=utc_now)

    def append(self, kind: str, *, ago_s: int = 0, **payload: object) -> Receipt:
        recorded_at = self.at - timedelta(seconds=ago_s)
        entry = Entry(uuid.uuid4().hex, kind, payload, recorded_at.isoformat())
        return self.client.append([entry])[0]

    def clock(self) -> datetime:
        self.at += timedelta(microseconds=1)
        return self.at


@contextmanager
def own_ledger(
    storage: Settings, *, at: datetime, database: str | None = None
) -> Iterator[OwnLedger]:
    """Yield an empty ledger beside the shared one, or the one of a database that there is."""
    name = database or f"ledger_{uuid.uuid4().hex[:8]}"
    if database is None:
        with psycopg.connect(
            storage.postgres.conninfo(storage.postgres.ledger_db), autocommit=True
        ) as connection:
            connection.execute(f'create database "{name}"')
    settings = storage.model_copy(
        update={
            "postgres": storage.postgres.model_copy(update={"ledger_db": name}),
            "ledger": storage.ledger.model_copy(
                update={
                    "port": free_ports(1)[0],
                    "checkpoint_file": storage.home / "ledger" / f"checkpoints-{name}.txt",
                }
            ),
        }
    )
    own = OwnLedger(settings, LedgerClient(settings.ledger), at)
    appender = Appender(settings, clock=own.clock)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await appender.serve()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        _await_ready(own.client)
        # What this process records has the ledger's time, or the ledger would refuse it.
        with patch("marketlake.storage.ledger.utc_now", own.clock):
            yield own
    finally:
        own.client.close()
        loops[0].call_soon_threadsafe(appender.stop)
        thread.join(10)


def _await_ready(client: LedgerClient) -> None:
    for _ in range(200):
        with suppress(MarketlakeError):
            client.ping()
            return
        sleep_s(0.05)
    client.ping()
