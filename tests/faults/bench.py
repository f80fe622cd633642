"""Where a fault is made: own buckets and an own market clock on the shared, real servers."""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psycopg
import pytest
from curl_cffi import requests
from marketlake.contracts.catalog import CATALOG
from marketlake.errors import SourceUnavailable
from marketlake.pipelines import daily_line, ingest_market_data, validate_market_data
from marketlake.pipelines.context import open_context
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import MarketSettings, Settings, load_settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition, RunIdentity
from pydantic import SecretStr

SESSION = date(2022, 12, 21)
SYMBOLS = ("JPM", "KO", "XOM")
CHARTS = "/v8/finance/chart/"


@dataclass
class Bench:
    """One fault's surroundings. ``settings`` are good; a case changes what it breaks."""

    settings: Settings
    vendor: RunningSandbox
    namespace: str
    folder: Path
    scratch_root: Path
    cleanup: ExitStack
    run_id: str = field(default_factory=lambda: f"fault-{uuid.uuid4().hex[:12]}")

    @classmethod
    @contextmanager
    def of(
        cls, storage: Settings, sandbox: Settings, *, folder: Path, scratch_root: Path
    ) -> Iterator[Bench]:
        """Yield a bench; its faults end with it."""
        unique, key = uuid.uuid4().hex[:12], SecretStr(uuid.uuid4().hex)
        lake = storage.lake.model_copy(
            update={"bucket": f"faults-{unique}", "worm_bucket": f"faults-worm-{unique}"}
        )
        Lake(lake).ensure_buckets()
        vendor, namespace = RunningSandbox.of(sandbox), f"faults-{unique}"
        vendor.control("PUT", "/__ctl/clock", {"namespace": namespace, "at": SESSION.isoformat()})
        universe = folder / "universe.csv"
        rows = [f"{symbol},," for symbol in SYMBOLS]
        universe.write_text("\n".join(["symbol,valid_from,valid_to", *rows, ""]))
        settings = storage.model_copy(
            update={
                "lake": lake,
                "egress": vendor.egress(namespace),
                "sandbox": sandbox.sandbox,
                # A market that begins with the session needs no history before it.
                "market": MarketSettings(first_session=SESSION, universe_file=universe),
                # Keys that no text holds by chance; one call of IEX is about one symbol here.
                "alpha_vantage": storage.alpha_vantage.model_copy(update={"api_key": key}),
                "iex": storage.iex.model_copy(
                    update={"api_key": key, "secret_key": key, "batch_symbols": 1}
                ),
            }
        )
        with ExitStack() as cleanup:
            cleanup.callback(vendor.control, "POST", "/__ctl/reset", {"namespace": namespace})
            yield cls(settings, vendor, namespace, folder, scratch_root, cleanup)

    def changed(self, section: str, **values: Any) -> Settings:
        """Return the good settings with some values of one section replaced."""
        part = getattr(self.settings, section).model_copy(update=values)
        return self.settings.model_copy(update={section: part})

    def vendor_fault(
        self, kind: str, *, vendor: str = "yahoo", symbol: str = "", after: int = 0, **args: Any
    ) -> None:
        """Let a vendor (``""``: every one) answer wrongly, after some answers that are good."""
        # Yahoo is asked for cookies too, which are no answers.
        path = CHARTS if vendor == "yahoo" else ""
        rule = {"namespace": self.namespace, "vendor": vendor, "path_contains": path}
        rule |= {"kind": kind, "symbol": symbol}
        self.vendor.control("POST", "/__ctl/faults", {**rule, "after": after, "args": args})

    def vendor_says(self, document: object, *, symbol: str) -> None:
        """Let Yahoo answer a symbol's charts with this document."""
        body = base64.b64encode(json.dumps(document).encode()).decode()
        self.vendor_fault("replay", symbol=symbol, body_base64=body)

    def run(self, settings: Settings | None = None) -> None:
        """Run the whole daily line for the session."""
        daily_line.run_session(settings or self.settings, SESSION, run_id=self.run_id)

    def validate(self, settings: Settings | None = None) -> None:
        """Fetch, judge and publish the session; nothing after it."""
        run = RunIdentity("faults", self.run_id, "validate")
        with open_context(settings or self.settings, run) as ctx:
            symbols = ingest_market_data.plan(ctx, SESSION)
            staged = [
                ingest_market_data.fetch(ctx, SESSION, source=name, symbols=symbols)
                for name in ctx.settings.market.sources
            ]
            ingest_market_data.publish(ctx, SESSION, staged=staged)
            accepted = validate_market_data.gate(ctx, SESSION)
            validate_market_data.compare_sources(ctx, SESSION, staged=accepted)
            validate_market_data.report_integrity(ctx, SESSION, staged=accepted)
            validate_market_data.publish(ctx, SESSION, staged=accepted)

    def load(self, **environment: str) -> None:
        """Read the settings as every command and task does, in this environment."""
        with patch.dict(os.environ, environment):
            load_settings(self.folder)

    def chart(self, symbol: str) -> dict[str, Any]:
        """Return what Yahoo says of a symbol when nothing is broken."""
        egress = self.settings.egress
        with requests.Session(proxy=egress.proxy_url, verify=str(egress.ca_bundle)) as session:
            answer = session.get(
                f"https://query2.finance.yahoo.com{CHARTS}{symbol}",
                params={"range": "5d", "interval": "1d", "events": "div,splits"},
                timeout=10,
            )
        document: dict[str, Any] = answer.json()
        return document

    def file(self, name: str, text: str) -> Path:
        """Write a file and return its path."""
        path = self.folder / name
        path.write_text(text)
        return path

    @contextmanager
    def full_postgres(self, *, with_the_ledgers: bool = False) -> Iterator[None]:
        """Take every connection that the server gives, the ledger's too if asked."""
        conninfo = self.settings.postgres.conninfo("postgres")
        with ExitStack() as taken:
            first = taken.enter_context(psycopg.connect(conninfo, autocommit=True))
            _take_all(conninfo, taken)
            if with_the_ledgers:
                first.execute(_END_THE_LEDGERS)
                _take_all(conninfo, taken)
            yield

    def full_store(self) -> None:
        """Start an S3 store on a file system of 32 MB, fill it, and use it from now on."""
        settings = prepare(self.scratch_root / f"full-{uuid.uuid4().hex[:8]}", usual_ports=False)
        store = components.seaweedfs(settings)
        program = store.process.program
        (folder,) = (word[5:] for word in program.argv if word.startswith("-dir="))
        # In a user and mount namespace of its own, anybody may mount a file system in memory.
        if subprocess.run(["unshare", "-rm", "true"], check=False).returncode != 0:
            pytest.skip("this machine allows no user namespace to mount a small file system in")
        mounted = ("unshare", "-rm", "sh", "-c", _MOUNT, folder, *program.argv)
        store.process.program = replace(program, argv=mounted)
        store.start()
        self.cleanup.callback(store.stop)
        lake = Lake(settings.lake)
        lake.ensure_buckets()
        # Where nothing large fits any more, something small may.
        for size in (1_000_000, 50_000, 2_000):
            with pytest.raises(SourceUnavailable):
                _put_for_ever(lake, size)
        self.settings = self.settings.model_copy(update={"lake": settings.lake})


def _put_for_ever(lake: Lake, size: int) -> None:
    for number in itertools.count():
        lake.put_record(f"fill/{size}/{number}", os.urandom(size))


def _take_all(conninfo: str, taken: ExitStack) -> None:
    with pytest.raises(psycopg.OperationalError, match="too many clients"):
        _connect_for_ever(conninfo, taken)


def _connect_for_ever(conninfo: str, taken: ExitStack) -> None:
    while True:
        taken.enter_context(psycopg.connect(conninfo, autocommit=True))


_END_THE_LEDGERS = """
    select pg_terminate_backend(pid, 5000) from pg_stat_activity
    where application_name like 'marketlake ledger%'
"""
_MOUNT = 'mount -t tmpfs -o size=32m marketlake-full "$0" && exec "$@"'


def published(settings: Settings, session: date = SESSION) -> set[str]:
    """Return the contracts of which the lake has something for a session."""
    lake = Lake(settings.lake)
    return {item.name for item in CATALOG if Partition.of_session(session) in lake.partitions(item)}
