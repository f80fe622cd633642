"""Settings of no platform, and a place for the files Airflow writes as soon as it is imported."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from marketlake.settings import current_settings

os.environ.setdefault("AIRFLOW_HOME", tempfile.mkdtemp(prefix="marketlake-airflow-"))


@pytest.fixture(autouse=True)
def default_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Read the defaults, whatever platform the checkout happens to run."""
    monkeypatch.setenv("MARKETLAKE_HOME", str(tmp_path))
    current_settings.cache_clear()
    yield
    current_settings.cache_clear()
