"""A large history from three sources: 500 symbols, ten years, through the platform and its gates.

The market is the generated one; the sandbox answers as fast as it can, so the time is ours. Vendors
allow fewer calls: what a session takes of them is held against what their plans allow.
"""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

from marketlake.clock import monotonic_s
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR, CORE_MARKET_SOURCE_BAR
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.storage.lake import Lake
from marketlake.types import Partition

from tests.acceptance.figures import say
from tests.acceptance.installation import told
from tests.acceptance.processes import peak_memory
from tests.integration.conftest import Installation, wait_until

FIRST, THROUGH, SESSION = date(2013, 1, 2), date(2022, 12, 29), date(2022, 12, 30)
TARGET_MINUTES, TARGET_PSS_MB = 15.0, 4096.0
ALLOWED_CALLS_A_DAY = {"alpha_vantage": 75 * 60 * 24, "iex": 200 * 60 * 24}
"""Of Alpha Vantage's smallest paid plan and Alpaca's free one; Yahoo names no limit."""


def market(folder: Path, symbols: int) -> dict[str, str]:
    """Return the settings of a generated market of so many symbols; its files go to a folder."""
    names = [f"S{number:03d}" for number in range(symbols)]
    files = {
        "universe": [("symbol", "valid_from", "valid_to"), *((name, "", "") for name in names)],
        "sector": [
            ("symbol", "name", "sector"),
            *((name, name, f"Sector {number % 11}") for number, name in enumerate(names)),
        ],
    }
    for name, rows in files.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)
    return {
        "MARKETLAKE_MARKET__NAME": "generated",
        "MARKETLAKE_MARKET__FIRST_SESSION": FIRST.isoformat(),
        "MARKETLAKE_MARKET__LAST_SESSION": SESSION.isoformat(),
        "MARKETLAKE_MARKET__UNIVERSE_FILE": str(folder / "universe.csv"),
        "MARKETLAKE_MARKET__SECTOR_FILE": str(folder / "sector.csv"),
    }


def measure(one: Installation) -> dict[str, Any]:
    """Load the history and run one session's ingestion and gate; return the figures."""
    told(one, "up")
    with peak_memory(one.home) as peak:
        began = monotonic_s()
        told(one, "load-history", "--through", THROUGH.isoformat(), timeout_s=3600)
        load_s = monotonic_s() - began
        began = monotonic_s()
        told(
            one, "airflow", "backfill", "create", "--dag-id", "ingest_market_data",
            "--from-date", SESSION.isoformat(), "--to-date", SESSION.isoformat(),
        )  # fmt: skip
        with AirflowApi(one.settings.airflow) as api:
            wait_until(
                lambda: any(
                    run["partition_key"] == str(SESSION) and run["state"] == "success"
                    for run in api.runs("validate_market_data")
                ),
                what="the session's bars to be validated",
                within_s=900,
            )
        session_s = monotonic_s() - began
    requests = RunningSandbox.of(one.settings).control(
        "GET", f"/__ctl/requests?namespace={SESSION}"
    )
    calls = Counter(row["vendor"] for row in requests)
    lake = Lake(one.settings.lake)
    years = range(FIRST.year, THROUGH.year + 1)
    return {
        "load_minutes": load_s / 60,
        "target_minutes": TARGET_MINUTES,
        "session_s": session_s,
        "peak_pss_mb": peak.total_pss_mb,
        "peak_pss_mb_by_component": dict(peak.pss_mb),
        "target_pss_mb": TARGET_PSS_MB,
        "calls_of_a_session": dict(calls),
        "allowed_calls_a_day": ALLOWED_CALLS_A_DAY,
        **{
            name: sum(lake.ref(contract, Partition.of_year(year)).rows for year in years)
            for name, contract in (
                ("source_bars", CORE_MARKET_SOURCE_BAR),
                ("bars", CORE_MARKET_DAILY_BAR),
            )
        },
    }


def show(found: dict[str, Any]) -> None:
    """Print the figures for a person."""
    say(
        f"{found['source_bars']:,} bars of the sources, {found['bars']:,} in core, in "
        f"{found['load_minutes']:.1f} min (target {TARGET_MINUTES:.0f}); one session "
        f"{found['session_s']:.0f} s"
    )
    parts = sorted(found["peak_pss_mb_by_component"].items())
    say(
        f"most memory at once {found['peak_pss_mb']:,.0f} MB: "
        + ", ".join(f"{name} {size:,.0f}" for name, size in parts)
    )
    say(f"calls of a session: {found['calls_of_a_session']}")


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were missed."""
    calls = found["calls_of_a_session"]
    over = {
        f"{found['load_minutes']:.1f} minutes": found["load_minutes"] > TARGET_MINUTES,
        f"{found['peak_pss_mb']:,.0f} MB": found["peak_pss_mb"] > TARGET_PSS_MB,
        **{
            f"{calls.get(name, 0)} calls to {name}": calls.get(name, 0) > limit
            for name, limit in ALLOWED_CALLS_A_DAY.items()
        },
    }
    return [name for name, is_over in over.items() if is_over]
