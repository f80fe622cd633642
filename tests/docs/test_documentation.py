"""The documentation keeps its promises: links, names of commands, made pages.

That the README's commands and queries work is tested with a platform (``tests/integration``).
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import typer
from marketlake.cli import app
from marketlake.contracts.catalog import CATALOG
from marketlake.settings import PROJECT_ROOT
from typer.testing import CliRunner

from tests.readme import README, shell_lines

if TYPE_CHECKING:
    import click

PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
_PASSED_ON = {"sql", "airflow"}  # what they do not know themselves goes to psql and airflow


def _links() -> list[tuple[Path, str]]:
    return [
        (page, link)
        for page in PAGES
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if not link.startswith(("http://", "https://"))
    ]


def _commands() -> list[str]:
    """Return every command line that the README shows, in its blocks and in its sentences."""
    prose = re.sub(r"```.*?```", "", README, flags=re.S)
    lines = shell_lines() + re.findall(r"`((?:make|marketlake)\b[^`]*)`", prose)
    return sorted({line for line in lines if line.startswith(("make ", "marketlake "))})


@pytest.mark.parametrize(
    ("page", "link"), _links(), ids=lambda value: getattr(value, "name", value)
)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    assert (page.parent / link).exists()


def test_the_readme_has_its_commands() -> None:
    shown = " ".join(_commands())
    for needed in ("make run", "make stop", "marketlake backfill", "marketlake trace"):
        assert needed in shown or needed in README
    assert len(_commands()) > 12


@pytest.mark.parametrize("line", [line for line in _commands() if line.startswith("make ")])
def test_make_targets_of_the_readme_exist(line: str) -> None:
    words = re.sub(r"<[^>]*>", "FOLDER", line).split()[1:]
    if words[:1] == ["-C"]:
        words = words[2:]
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT_ROOT / "Makefile").read_text(), flags=re.M))
    named = [word for word in words if "=" not in word]
    assert named
    assert set(named) <= targets


def _resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = typer.main.get_command(app)
    while words and hasattr(command, "commands") and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", [line for line in _commands() if line.startswith("marketlake ")])
def test_marketlake_commands_of_the_readme_exist_with_their_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command, rest = _resolve(words)
    assert not hasattr(command, "commands"), f"{line} names no command"
    if command.name in _PASSED_ON:
        return
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in rest if word.startswith("-")} <= known
    path = words[: len(words) - len(rest)]
    assert CliRunner().invoke(app, [*path, "--help"]).exit_code == 0


def test_contracts_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"\b(?:raw|core|out)_[a-z_]+__[a-z_]+", README))
    assert named
    assert named <= {contract.name for contract in CATALOG}


def test_places_that_the_readme_names_exist() -> None:
    places = set(re.findall(r"`((?:include|dags|plugins|dbt|expectations)/[\w./]*)`", README))
    assert len(places) > 12
    assert [place for place in places if not (PROJECT_ROOT / place).exists()] == []


def test_made_pages_agree_with_the_code() -> None:
    done = subprocess.run(
        [sys.executable, "docs/render.py", "--check"],
        cwd=PROJECT_ROOT,
        env={"PYTHONPATH": "include", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"run `python docs/render.py`: {done.stdout}{done.stderr}"


def test_the_picture_shows_every_dag() -> None:
    picture = (PROJECT_ROOT / "docs" / "architecture.svg").read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", " ", picture.split("</style>")[1])
    shown = re.sub(r"_\s+", "_", words)
    for path in (PROJECT_ROOT / "dags").glob("*.py"):
        assert path.stem in shown


def test_every_decision_is_listed_and_complete() -> None:
    folder = PROJECT_ROOT / "docs" / "adr"
    index = (folder / "README.md").read_text(encoding="utf-8")
    pages = sorted(folder.glob("0*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert page.name in index
        assert re.findall(r"^## (\w+)", text, flags=re.M) == ["Context", "Decision", "Consequences"]


def test_the_example_environment_holds_only_real_settings() -> None:
    text = (PROJECT_ROOT / ".env.example").read_text(encoding="utf-8")
    names = re.findall(r"^# (MARKETLAKE_\w+)=", text, flags=re.M)
    reference = (PROJECT_ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert names
    assert [name for name in names if f"`{name}`" not in reference] == []


def test_the_licence_is_apache_2() -> None:
    text = (PROJECT_ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text
    assert "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
