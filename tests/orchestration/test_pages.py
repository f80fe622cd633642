"""The pages inside Airflow's UI: for people who are logged in, as published, and shut in."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    OUT_DOCS_DBT,
    OUT_DOCS_QUALITY,
    OUT_REPORTS_DAILY,
    OUT_REPORTS_INTEGRITY,
    OUT_REPORTS_TRAINING,
)
from marketlake.orchestration import pages
from marketlake.settings import PROJECT_ROOT, Settings, current_settings
from marketlake.storage.lake import Lake
from marketlake.types import Partition, RunIdentity

OLDER, NEWER = date(2022, 12, 27), date(2022, 12, 28)
PLACES = [
    *("/docs/dbt/", "/docs/quality/"),
    *("/reports/", f"/reports/{NEWER}"),
    *("/integrity/", f"/integrity/{NEWER}"),
    *("/training/", f"/training/{NEWER}"),
]


@pytest.fixture(autouse=True)
def at_the_lake(lake: Lake, storage_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the pages find the module's own bucket as they find any: through the settings."""
    store = storage_settings.lake
    for name, value in {
        "ENDPOINT_URL": store.endpoint_url,
        "BUCKET": lake.bucket,
        "ACCESS_KEY": store.access_key.get_secret_value(),
        "SECRET_KEY": store.secret_key.get_secret_value(),
    }.items():
        monkeypatch.setenv(f"MARKETLAKE_LAKE__{name}", value)
    current_settings.cache_clear()
    pages._lake.cache_clear()


@pytest.fixture
def stranger() -> TestClient:
    return TestClient(pages.app)


@pytest.fixture
def person(stranger: TestClient) -> Iterator[TestClient]:
    """Yield a client that Airflow has let in; that it lets in nobody else is tested without."""
    pages.app.dependency_overrides[get_user] = lambda: SimpleAuthManagerUser(
        username="ann", role="viewer"
    )
    yield stranger
    pages.app.dependency_overrides.clear()


def publish(lake: Lake, contract: Contract, session: date, page: bytes) -> None:
    document = {field.name: None for field in contract.fields} | {"session": str(session)}
    lake.write(
        contract,
        Partition.of_session(session),
        document,
        sessions=[session],
        parents=[],
        run=RunIdentity("tests", "run 1", "publish"),
        code_version="test",
        recorded_at=datetime(2026, 11, 22, tzinfo=UTC),
        export=page,
    )


def test_before_anything_is_published_a_page_says_what_to_run(person: TestClient) -> None:
    for place in PLACES:
        answer = person.get(place)
        assert answer.status_code == 404
        assert answer.headers["content-type"].startswith("text/plain")
        assert "nothing published" in answer.text


@pytest.mark.parametrize("place", [*PLACES, "/reports/1999-01-04", "/nowhere"])
def test_a_stranger_gets_nothing(stranger: TestClient, lake: Lake, place: str) -> None:
    for contract in (OUT_REPORTS_DAILY, OUT_REPORTS_INTEGRITY):
        publish(lake, contract, NEWER, b"<p>secret signals")
    answer = stranger.get(place)
    assert answer.status_code == (404 if place == "/nowhere" else 401)
    assert "secret" not in answer.text
    assert "published" not in answer.text


def test_a_made_up_login_is_no_login(stranger: TestClient) -> None:
    stranger.cookies.set("_token", "")
    assert stranger.get("/reports/").status_code == 401


@pytest.mark.parametrize(
    ("place", "contract"),
    [
        ("/docs/dbt/", OUT_DOCS_DBT),
        ("/docs/quality/", OUT_DOCS_QUALITY),
        ("/reports/", OUT_REPORTS_DAILY),
        ("/integrity/", OUT_REPORTS_INTEGRITY),
        ("/training/", OUT_REPORTS_TRAINING),
    ],
)
def test_a_person_sees_what_was_published_last(
    person: TestClient, lake: Lake, place: str, contract: Contract
) -> None:
    publish(lake, contract, OLDER, b"<!doctype html><p>older")
    publish(lake, contract, NEWER, "<!doctype html><p>newer é".encode())
    answer = person.get(place)
    assert answer.status_code == 200
    assert answer.content == "<!doctype html><p>newer é".encode()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "private" in answer.headers["cache-control"]


@pytest.mark.parametrize(
    ("place", "contract"),
    [
        ("/reports", OUT_REPORTS_DAILY),
        ("/integrity", OUT_REPORTS_INTEGRITY),
        ("/training", OUT_REPORTS_TRAINING),
    ],
)
def test_the_report_of_a_session_has_an_address(
    person: TestClient, lake: Lake, place: str, contract: Contract
) -> None:
    for session in (OLDER, NEWER):
        publish(lake, contract, session, str(session).encode())
    assert person.get(f"{place}/{OLDER}").text == str(OLDER)


@pytest.mark.parametrize(
    "place",
    [
        "/reports/..%2f..%2fraw%2fraw_yahoo__response",
        "/reports/2022-12-28%2f..%2f..",
        "/reports/raw_yahoo__response",
        "/integrity/..%2f..%2fraw%2fraw_yahoo__response",
        "/docs/..%2freports",
        "/docs/dbt/..%2f..%2fmanifest.json",
    ],
)
def test_no_address_leads_to_anything_else_of_the_lake(person: TestClient, place: str) -> None:
    answer = person.get(place)
    assert answer.status_code in {404, 422}
    assert "version_id" not in answer.text


def test_a_page_is_shut_in_and_only_dbts_may_run_its_script(person: TestClient, lake: Lake) -> None:
    policies = {}
    for place, contract in (("dbt", OUT_DOCS_DBT), ("quality", OUT_DOCS_QUALITY)):
        publish(lake, contract, NEWER, b"<p>page")
        answer = person.get(f"/docs/{place}/")
        parts = answer.headers["content-security-policy"].split("; ")
        policies[place] = {part.split()[0]: part.split()[1:] for part in parts}
    # No allow-same-origin: in its sandbox a page has an origin of its own, and no cookie.
    assert policies["dbt"]["sandbox"] == ["allow-scripts"]
    assert policies["quality"]["sandbox"] == []
    assert "script-src" not in policies["quality"]
    for policy in policies.values():
        assert policy["default-src"] == ["'none'"]
        assert policy["frame-ancestors"] == ["'self'"]
        assert not any("http" in source for sources in policy.values() for source in sources)


def test_a_page_that_was_changed_in_the_store_is_not_shown(person: TestClient, lake: Lake) -> None:
    publish(lake, OUT_DOCS_QUALITY, NEWER, b"<p>as published")
    manifest = lake.manifest(OUT_DOCS_QUALITY, Partition.of_session(NEWER))
    forged = manifest.to_json().replace(str(manifest.export_sha256).encode(), b"0" * 64)
    lake.put_record(f"{OUT_DOCS_QUALITY.prefix}/session={NEWER}/manifest.json", forged)
    answer = person.get("/docs/quality/")
    assert answer.status_code == 503
    assert "as published" not in answer.text


def test_the_plugin_imports_no_page_before_somebody_asks_for_one() -> None:
    """It is executed in every task process."""
    tree = ast.parse(Path(PROJECT_ROOT / "plugins" / "marketlake_plugin.py").read_text())
    at_the_top = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert "marketlake.orchestration.pages" not in at_the_top
    assert not any("fastapi" in str(module) for module in at_the_top)
