"""The published pages as the running UI serves them: behind its login, and in its navigation."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from marketlake.contracts.catalog import (
    OUT_DOCS_DBT,
    OUT_DOCS_QUALITY,
    OUT_REPORTS_DAILY,
    OUT_REPORTS_INTEGRITY,
    OUT_REPORTS_TRAINING,
)
from marketlake.services.platform.stack import Platform
from marketlake.storage.lake import Lake

pytestmark = [pytest.mark.platform, pytest.mark.timeout(600)]

PLACES = {
    "/marketlake/docs/dbt/": OUT_DOCS_DBT,
    "/marketlake/docs/quality/": OUT_DOCS_QUALITY,
    "/marketlake/integrity/": OUT_REPORTS_INTEGRITY,
    "/marketlake/reports/": OUT_REPORTS_DAILY,
    "/marketlake/training/": OUT_REPORTS_TRAINING,
}


@pytest.fixture
def browser(platform: Platform) -> Iterator[httpx.Client]:
    base_url = platform.settings.airflow.base_url
    with httpx.Client(base_url=base_url, timeout=60, trust_env=False) as client:
        yield client


def log_in(browser: httpx.Client, platform: Platform) -> None:
    settings = platform.settings.airflow
    login = {"username": settings.user, "password": settings.password.get_secret_value()}
    # What the login page leaves in a browser.
    token = browser.post("/auth/token", json=login).json()["access_token"]
    browser.cookies.set("_token", token)


def test_the_pages_ask_for_the_uis_own_login(platform: Platform, browser: httpx.Client) -> None:
    assert [browser.get(place).status_code for place in PLACES] == [401] * len(PLACES)
    browser.cookies.set("_token", "made.up.token")
    assert [browser.get(place).status_code for place in PLACES] == [403] * len(PLACES)


def test_a_person_who_is_logged_in_reaches_the_lake(
    platform: Platform, browser: httpx.Client
) -> None:
    log_in(browser, platform)
    lake = Lake(platform.settings.lake)
    for place, contract in PLACES.items():
        answer = browser.get(place)
        # Usually nobody has run anything on this platform; what answers is its lake all the same.
        assert answer.status_code == (200 if lake.partitions(contract) else 404)
        assert answer.status_code == 200 or "nothing published" in answer.text


def test_the_navigation_links_to_every_page(platform: Platform, browser: httpx.Client) -> None:
    log_in(browser, platform)
    plugins = browser.get("/api/v2/plugins").json()["plugins"]
    (ours,) = [plugin for plugin in plugins if plugin["name"] == "marketlake"]
    links = {view["href"]: view["destination"] for view in ours["external_views"]}
    assert links == dict.fromkeys(PLACES, "nav")
    assert browser.get("/api/v2/plugins/importErrors").json()["total_entries"] == 0
