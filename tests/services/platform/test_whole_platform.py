"""The platform as a person has it: everything up, found by status, mended by a second up."""

from __future__ import annotations

import os
import signal
from datetime import UTC, datetime

import httpx
import psutil
import pytest
from marketlake.services.platform.airflow import POOLS
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.following import DAILY_CHAIN
from marketlake.services.platform.stack import Platform

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]


def test_every_component_is_ready_and_not_older_than_the_platform(platform: Platform) -> None:
    found = platform.status()
    assert {one.name: one.state for one in found} == dict.fromkeys(platform.components, "ready")
    now = datetime.now(UTC).timestamp()
    assert all(one.born_at_s is not None and now - one.born_at_s < 3600 for one in found)


def test_the_daily_chain_is_parsed_without_an_import_error(platform: Platform) -> None:
    with AirflowApi(platform.settings.airflow) as api:
        assert set(DAILY_CHAIN) <= set(api.dags())
        assert api.import_errors() == []


def test_the_pools_bound_vendors_and_dbt(platform: Platform) -> None:
    settings = platform.settings.airflow
    with httpx.Client(base_url=settings.base_url, timeout=30, trust_env=False) as client:
        login = {"username": settings.user, "password": settings.password.get_secret_value()}
        token = client.post("/auth/token", json=login).json()["access_token"]
        answer = client.get("/api/v2/pools", headers={"Authorization": f"Bearer {token}"}).json()
    slots = {pool["name"]: pool["slots"] for pool in answer["pools"]}
    assert {name: slots[name] for name in POOLS} == {name: n for name, (n, _) in POOLS.items()}


def test_the_ui_asks_for_a_login(platform: Platform) -> None:
    base_url = platform.settings.airflow.base_url
    with httpx.Client(base_url=base_url, timeout=30, trust_env=False) as client:
        assert client.get("/api/v2/dags").status_code == 401
        wrong = client.post("/auth/token", json={"username": "admin", "password": "guess"})
        assert wrong.status_code == 401


@pytest.mark.parametrize("name", ["sandbox", pytest.param("api-server", marks=pytest.mark.slow)])
def test_a_second_up_restarts_only_what_died(platform: Platform, name: str) -> None:
    before = {one.name: one.pid for one in platform.status()}
    victim = before[name]
    assert victim is not None
    os.kill(victim, signal.SIGKILL)
    done = {one.name: one.outcome for one in platform.up()}
    assert {one for one, outcome in done.items() if outcome == "started"} == {name}
    after = {one.name: one.pid for one in platform.status()}
    assert {one for one in before if before[one] != after[one]} == {name}


def test_no_component_shows_a_secret_in_its_arguments(platform: Platform) -> None:
    password = platform.settings.postgres.password.get_secret_value()
    key = platform.settings.lake.secret_key.get_secret_value()
    for one in platform.status():
        assert one.pid is not None
        line = " ".join(psutil.Process(one.pid).cmdline())
        assert password not in line
        assert key not in line
