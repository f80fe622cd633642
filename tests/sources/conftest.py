"""What the tests of this folder let a vendor say."""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from marketlake.services.sandbox.embedded import RunningSandbox


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `--write-sources-page` take how faults ended for what is right."""
    parser.addoption(
        "--write-sources-page", action="store_true", help="Write docs/sources.md from this run."
    )


Say = Callable[..., None]


@pytest.fixture
def say(vendors: RunningSandbox, namespace: str) -> Say:
    """Let a vendor answer with given bytes, as if they were its own."""

    def reply(vendor: str, body: bytes | object, *, status: int = 200, **rule: Any) -> None:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        args = {"status": status, "body_base64": base64.b64encode(raw).decode()}
        document = {"namespace": namespace, "vendor": vendor, "kind": "replay", "args": args}
        vendors.control("POST", "/__ctl/faults", {**document, **rule})

    return reply


@pytest.fixture
def recorded(shared_data: Path) -> Callable[[str], dict[str, bytes]]:
    """Return the bodies recorded from vendors whose file names begin so."""
    archive = shared_data / "wire_gamestonk_2021_2022" / "wire_gamestonk_2021_2022.zip"

    def beginning(prefix: str) -> dict[str, bytes]:
        with zipfile.ZipFile(archive) as bodies:
            names = [name for name in bodies.namelist() if name.startswith(prefix)]
            return {name: bodies.read(name) for name in names}

    return beginning
