"""dbt's documentation on one page: whole, the same twice, and silent about this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from marketlake.contracts.catalog import CATALOG
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage import dbt_project
from marketlake.storage.warehouse import Warehouse

Page = tuple[bytes, dict[str, Any]]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("docs-target")


@pytest.fixture(scope="module")
def page(dbt_settings: Settings, target: Path) -> Page:
    postgres = dbt_settings.postgres
    with psycopg.connect(postgres.conninfo(postgres.warehouse_db), autocommit=True) as connection:
        connection.execute("create schema if not exists marts")
        connection.execute("comment on schema marts is 'as built'")
    return dbt_project.docs_page(dbt_settings, target_dir=target)


def test_every_table_of_the_warehouse_is_documented(page: Page) -> None:
    _, contents = page
    loaded = {f"{item.layer}.{item.table}" for item in CATALOG if item.warehouse}
    relations = {item["name"]: item["columns"] for item in contents["relations"]}
    assert loaded <= set(relations)
    assert all(relations.values())
    models = {path.stem for path in (PROJECT_ROOT / "dbt" / "models").rglob("*.sql")}
    assert contents["nodes"]["model"] == len(models)
    for name in models:
        assert f'"model.marketlake.{name}"'.encode() in page[0]


def test_documenting_twice_gives_the_same_bytes(
    page: Page, dbt_settings: Settings, tmp_path: Path
) -> None:
    assert dbt_project.docs_page(dbt_settings, target_dir=tmp_path) == page


def test_the_page_tells_nothing_of_this_machine_or_run(
    page: Page, dbt_settings: Settings, target: Path
) -> None:
    manifest = json.loads((target / "manifest.json").read_bytes())
    told = [
        str(PROJECT_ROOT),
        str(target),
        manifest["metadata"]["invocation_id"],
        manifest["metadata"]["generated_at"],
        dbt_settings.postgres.password.get_secret_value(),
    ]
    assert all(told)
    assert [secret for secret in told if secret.encode() in page[0]] == []


def test_no_text_of_the_project_ends_the_script_that_it_lies_in(page: Page, target: Path) -> None:
    dbts_own = (target / "index.html").read_bytes()
    assert b"</script>" in dbts_own
    assert page[0].count(b"</script>") == dbts_own.count(b"</script>")
    assert page[0].count(b"<script") == dbts_own.count(b"<script")


def test_documenting_leaves_the_record_of_the_last_build_alone(
    dbt_settings: Settings, page: Page
) -> None:
    recorded = "select obj_description(to_regnamespace('marts'), 'pg_namespace') as fingerprint"
    assert Warehouse(dbt_settings.postgres).query(recorded) == [{"fingerprint": "as built"}]
