"""How the dbt project is run: what it answers when the database is not there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from marketlake.errors import SourceUnavailable
from marketlake.services.platform.ports import free_ports
from marketlake.settings import PostgresSettings, Settings
from marketlake.storage import dbt_project
from pydantic import SecretStr


@pytest.fixture
def nowhere(tmp_path: Path) -> Settings:
    """Return settings of a Postgres that does not run."""
    postgres = PostgresSettings(port=free_ports(1)[0], password=SecretStr("not-a-real-password"))
    return Settings(home=tmp_path, postgres=postgres)


def test_a_dead_database_is_an_unavailable_source_and_retried(
    nowhere: Settings, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable) as raised:
        dbt_project.build(
            nowhere, select=None, session=None, target_dir=tmp_path / "target", full_refresh=True
        )
    assert "not-a-real-password" not in str(raised.value)
    log = tmp_path / "target" / "logs" / "dbt.log"
    assert str(log.parent) in raised.value.where
    assert log.stat().st_size
    assert "DBT_ENV_SECRET_POSTGRES_PASSWORD" not in os.environ


def test_the_parsed_project_is_kept_under_its_database_and_fingerprint(
    nowhere: Settings, tmp_path: Path
) -> None:
    with pytest.raises(SourceUnavailable):
        dbt_project.build(
            nowhere, select="dim_session", session=None, target_dir=tmp_path / "target"
        )
    (kept,) = (tmp_path / "dbt").iterdir()
    fingerprint = dbt_project.project_fingerprint()[:16]
    assert kept.name == f"manifest-{nowhere.postgres.warehouse_db}-{fingerprint}.msgpack"


def test_the_fingerprint_is_of_the_files_and_not_of_the_moment() -> None:
    assert dbt_project.project_fingerprint() == dbt_project.project_fingerprint()
    assert len(dbt_project.project_fingerprint()) == 64


def test_warming_up_needs_no_database_and_leaves_no_command_behind(nowhere: Settings) -> None:
    dbt_project.warm(nowhere)
    assert not (nowhere.home / "dbt").exists()
