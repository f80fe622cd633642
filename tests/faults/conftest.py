"""The option that writes ``docs/errors.md`` from what the faults said."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let `--write-errors-page` take what is raised for what is right."""
    parser.addoption(
        "--write-errors-page", action="store_true", help="Write docs/errors.md from this run."
    )
