"""The sandbox that the tests of this folder talk to."""

from __future__ import annotations

import uuid

import pytest
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import Settings


@pytest.fixture(scope="session")
def vendors(sandbox_settings: Settings) -> RunningSandbox:
    """Return the running sandbox with its control API."""
    return RunningSandbox.of(sandbox_settings)


@pytest.fixture
def namespace() -> str:
    """Return the name of a namespace that no other test uses."""
    return f"test-{uuid.uuid4().hex}"
