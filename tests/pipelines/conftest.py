"""The whole daily line on real stores and the real sandbox, without an orchestrator."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date

import pytest
from marketlake.pipelines import daily_line
from marketlake.settings import MarketSettings, Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.warehouse import Warehouse

THROUGH = date(2022, 12, 20)
AS_OF = date(2022, 11, 30)


@pytest.fixture(scope="session")
def make_line(
    storage_settings: Settings,
    sandbox_settings: Settings,
    ledger: LedgerClient,
    warehouse: Warehouse,
) -> Callable[..., Settings]:
    """Return a maker of settings: shared servers, but a lake of its own each time."""

    def make(**market: object) -> Settings:
        ledger.ping()
        unique = uuid.uuid4().hex[:12]
        lake = storage_settings.lake.model_copy(
            update={"bucket": f"line-{unique}", "worm_bucket": f"line-worm-{unique}"}
        )
        Lake(lake).ensure_buckets()
        return storage_settings.model_copy(
            update={
                "lake": lake,
                "egress": sandbox_settings.egress,
                "sandbox": sandbox_settings.sandbox,
                "market": MarketSettings(**market),
            }
        )

    return make


@pytest.fixture(scope="session")
def line(make_line: Callable[..., Settings]) -> Settings:
    """Return settings of a market from 2019 on, its history loaded and a champion promoted."""
    settings = make_line(first_session=date(2019, 1, 2))
    daily_line.prepare(settings, THROUGH, run_id="history")
    daily_line.train(settings, AS_OF, run_id="training")
    return settings
