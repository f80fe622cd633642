"""Shared fixtures: real storage, a real ledger, a real vendor sandbox, the whole platform.

Each is started once a test session, in a scratch folder, on free ports, and stopped at the end.
``lake`` is a bucket of its own for every test module, so modules never see each other's objects.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.settings import PROJECT_ROOT, EgressSettings, Settings

if TYPE_CHECKING:
    from marketlake.services.platform.stack import Platform
    from marketlake.services.sandbox.embedded import RunningSandbox
    from marketlake.storage.lake import Lake
    from marketlake.storage.ledger import LedgerClient
    from marketlake.storage.warehouse import Warehouse

# Tests choose their settings; what a developer's shell exports must not change an outcome.
for _name in [name for name in os.environ if name.startswith(("MARKETLAKE_", "AIRFLOW_"))]:
    del os.environ[_name]
os.environ["MARKETLAKE_ENV_FILE"] = os.devnull  # nor what the checkout's .env says
# The store is plain HTTP on the loopback interface; a missing bundle file would break the client.
for _name in [name for name in os.environ if name.startswith("AWS_")]:
    del os.environ[_name]


@pytest.fixture(scope="session")
def scratch_root() -> Iterator[Path]:
    """Yield a folder that the unprivileged Postgres user can reach (pytest's own is closed)."""
    folder = Path(tempfile.mkdtemp(prefix="marketlake-tests-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def storage_settings(scratch_root: Path) -> Iterator[Settings]:
    """Yield the settings of a running Postgres (databases created) and S3 store."""
    settings = prepare(scratch_root / "storage", usual_ports=False)
    postgres, store = components.postgres(settings), components.seaweedfs(settings)
    try:
        postgres.start()
        store.start()
        yield settings
    finally:
        store.stop()
        postgres.stop()


@pytest.fixture(scope="module")
def lake(storage_settings: Settings) -> Lake:
    """Return a lake whose buckets nobody but this test module uses."""
    from marketlake.storage.lake import Lake

    unique = uuid.uuid4().hex[:12]
    own = storage_settings.lake.model_copy(
        update={"bucket": f"lake-{unique}", "worm_bucket": f"worm-{unique}"}
    )
    fresh = Lake(own)
    fresh.ensure_buckets()
    return fresh


@pytest.fixture(scope="session")
def warehouse(storage_settings: Settings) -> Warehouse:
    """Return the warehouse, its tables created from the contracts."""
    from marketlake.storage.warehouse import Warehouse

    prepared = Warehouse(storage_settings.postgres)
    prepared.ensure_schema()
    return prepared


@pytest.fixture(scope="session")
def ledger(storage_settings: Settings) -> Iterator[LedgerClient]:
    """Yield a client of a running ledger appender; tests tell entries apart by their keys."""
    from marketlake.storage.ledger import LedgerClient

    appender = components.ledger(storage_settings)
    try:
        appender.start()
        yield LedgerClient(storage_settings.ledger)
    finally:
        appender.stop()


@pytest.fixture(scope="session")
def sandbox_settings(scratch_root: Path) -> Iterator[Settings]:
    """Yield the settings of a running vendor sandbox with the packaged market."""
    settings = prepare(scratch_root / "sandbox", usual_ports=False)
    vendors = components.sandbox(settings)
    try:
        vendors.start()
        yield settings
    finally:
        vendors.stop()


@pytest.fixture(scope="session")
def sandbox(sandbox_settings: Settings) -> EgressSettings:
    """Return how calls reach the running sandbox; its control API is in ``sandbox_settings``."""
    return sandbox_settings.egress


@pytest.fixture(scope="session")
def vendors(sandbox_settings: Settings) -> RunningSandbox:
    """Return the running sandbox with its control API."""
    from marketlake.services.sandbox.embedded import RunningSandbox

    return RunningSandbox.of(sandbox_settings)


@pytest.fixture
def namespace() -> str:
    """Return the name of a namespace of the sandbox that no other test uses."""
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def live_vendors(scratch_root: Path) -> Iterator[dict[str, str]]:
    """Yield the environment of live mode, whose way out leads to a generated market of today."""
    from marketlake.services.sandbox.embedded import running_sandbox

    with running_sandbox(
        Settings(
            home=scratch_root / "outside",
            market={"name": "generated", "first_session": "2019-01-02"},
            sandbox={"http_port": 0, "tls_port": 0, "proxy_port": 0, "control_token": "t"},
        )
    ) as there:
        egress = there.egress()
        yield {
            "MARKETLAKE_MODE": "live",
            "MARKETLAKE_EGRESS__PROXY_URL": str(egress.proxy_url),
            "MARKETLAKE_EGRESS__CA_BUNDLE": str(egress.ca_bundle),
        }


@pytest.fixture(scope="session")
def platform(scratch_root: Path) -> Iterator[Platform]:
    """Yield the whole platform, up, in a scratch folder. Tests that use it are marked so."""
    from marketlake.services.platform.stack import Platform

    whole = Platform.at(scratch_root / "the platform")
    try:
        whole.up(usual_ports=False)
        yield whole
    finally:
        whole.down()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real reference data that may lie beside the checkout."""
    folder = PROJECT_ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no reference data in {folder}")
    return folder
