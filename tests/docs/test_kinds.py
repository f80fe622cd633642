"""The pages on integrity and consensus name every kind that the code can tell, and no other."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from marketlake.domain.consensus import REFUTED_IF
from marketlake.settings import PROJECT_ROOT

_DOMAIN = PROJECT_ROOT / "include" / "marketlake" / "domain"
_RULES = [_DOMAIN / "integrity" / name for name in ("rules.py", "gaps.py")]
_REPAIRS = _DOMAIN / "integrity" / "repair.py"


def _rows(page: str, section: str) -> dict[str, str]:
    """Return the rows of the first table of a section, by each name in their first column."""
    text = (PROJECT_ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    table = re.search(r"(?:^\|.*\n)+", section, flags=re.M)
    assert table is not None
    rows = [line.split("|", 2)[1:] for line in table[0].splitlines()[2:]]
    return {name: rest for first, rest in rows for name in re.findall(r"`(\w+)`", first)}


def _words(path: Path) -> set[str]:
    """Return every plain string in a module: the names of its rules are among them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def _second_arguments(path: Path, function: str) -> set[str]:
    """Return the strings that are the second argument of a function's calls, or literals in it."""
    arguments = [
        node.args[1]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == function
    ]
    literals = [
        node.args[0]
        for argument in arguments
        for node in ast.walk(argument)
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "lit"
    ]
    return {
        node.value
        for node in [*arguments, *literals]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value
    }


def test_every_kind_of_finding_is_explained_and_exists() -> None:
    explained = set(_rows("integrity.md", "Findings"))
    told = {name for path in _RULES for name in _second_arguments(path, "findings")}
    assert len(told) > 12
    assert told - explained == set()
    # Kept out by a gate, which is no rule of a series.
    assert explained - {"quarantined"} - {word for path in _RULES for word in _words(path)} == set()


def test_every_repair_rule_is_explained_and_exists() -> None:
    explained = set(_rows("integrity.md", "Repair"))
    assert _second_arguments(_REPAIRS, "_cells") - explained == set()
    assert explained - _words(_REPAIRS) == set()


def test_every_kind_of_disagreement_says_what_would_refute_it() -> None:
    rows = _rows("consensus.md", "Why a source disagrees")
    assert set(rows) == set(REFUTED_IF)
    assert [name for name, text in REFUTED_IF.items() if text not in rows[name]] == []


def test_every_flag_of_a_bar_is_explained() -> None:
    explained = set(_rows("consensus.md", "Flags on a bar"))
    written = _words(_DOMAIN / "consensus" / "reconcile.py") | _words(
        PROJECT_ROOT / "include" / "marketlake" / "pipelines" / "source_consensus.py"
    )
    assert explained - written == set()
    assert {"single_source", "no_agreement", "repaired"} <= explained
