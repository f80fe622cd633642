"""Writers whose every acknowledged write must outlive a kill: objects, rows, ledger entries."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import psycopg
from marketlake.clock import sleep_s, utc_now
from marketlake.errors import MarketlakeError
from marketlake.settings import Settings
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.ledger import Entry, LedgerClient, Receipt
from marketlake.storage.objects import ObjectStore

_PAUSE_S = 0.02
_CREATE_SCHEMA = "create schema if not exists acceptance"
_CREATE_TABLE = "create table if not exists acceptance.acknowledged (name text, number bigint)"
_INSERT = "insert into acceptance.acknowledged values (%s, %s)"
_SELECT = "select number from acceptance.acknowledged where name = %s"


@dataclass(frozen=True)
class Lost:
    """How much was acknowledged of each kind, and how much of it is gone."""

    acknowledged: dict[str, int]
    lost: dict[str, int]


class Writers:
    """Three threads that write until they are refused or stopped, and note what was confirmed."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._objects: list[tuple[str, str, str]] = []
        self._rows: list[int] = []
        self._entries: list[Receipt] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._until_refused, args=(write,))
            for write in (self._write_objects, self._write_rows, self._write_entries)
        ]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Write no more; what a store has confirmed by now is what counts."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def look_for_everything(self) -> Lost:
        """Read everything back that was acknowledged."""
        return Lost(
            acknowledged={
                "objects": len(self._objects),
                "rows": len(self._rows),
                "entries": len(self._entries),
            },
            lost={
                "objects": self._lost_objects(),
                "rows": self._lost_rows(),
                "entries": self._lost_entries(),
            },
        )

    def _until_refused(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (MarketlakeError, psycopg.Error):
            return  # the kill has reached this store

    def _write_objects(self) -> None:
        store, bucket = ObjectStore(self._settings.lake), self._settings.lake.bucket
        for number in range(1_000_000):
            if self._over.is_set():
                return
            key = f"_acceptance/{self._name}/{number:06d}"
            body = f"{self._name} {number} ".encode() * (1 + number % 200)
            version = store.put(bucket, key, body, content_type="text/plain")
            self._objects.append((key, version, sha256_hex(body)))
            sleep_s(_PAUSE_S)

    def _write_rows(self) -> None:
        postgres = self._settings.postgres
        with psycopg.connect(postgres.conninfo(postgres.warehouse_db), autocommit=True) as database:
            database.execute(_CREATE_SCHEMA)
            database.execute(_CREATE_TABLE)
            for number in range(1_000_000):
                if self._over.is_set():
                    return
                database.execute(_INSERT, (self._name, number))
                self._rows.append(number)
                sleep_s(_PAUSE_S)

    def _write_entries(self) -> None:
        ledger = LedgerClient(self._settings.ledger)
        for number in range(1_000_000):
            if self._over.is_set():
                return
            entry = Entry(
                key=f"acceptance/{self._name}/{number:06d}",
                kind="decision",
                payload={"name": "acceptance", "number": number},
                recorded_at_utc=utc_now().isoformat(),
            )
            self._entries += ledger.append([entry])
            sleep_s(_PAUSE_S)

    def _lost_objects(self) -> int:
        store, bucket = ObjectStore(self._settings.lake), self._settings.lake.bucket

        def is_there(key: str, version: str, sha256: str) -> bool:
            try:
                return sha256_hex(store.get(bucket, key, version_id=version).body) == sha256
            except MarketlakeError:
                return False

        return sum(not is_there(*item) for item in self._objects)

    def _lost_rows(self) -> int:
        postgres = self._settings.postgres
        with psycopg.connect(postgres.conninfo(postgres.warehouse_db)) as database:
            found = database.execute(_SELECT, (self._name,))
            return len(set(self._rows) - {number for (number,) in found})

    def _lost_entries(self) -> int:
        if not self._entries:
            return 0
        first = min(receipt.index for receipt in self._entries)
        ledger = LedgerClient(self._settings.ledger)
        entries = ledger.entries(since_index=first, limit=1_000_000)
        found = {(entry.index, entry.leaf_hash) for entry in entries}
        return sum((receipt.index, receipt.leaf_hash) not in found for receipt in self._entries)
