"""Every rendering of the contracts that is committed, and whether the committed ones still agree.

Belongs here: which files are renderings. Does not belong: how one looks (its own module).
"""

from __future__ import annotations

from pathlib import Path

from marketlake.contracts import dbt, dictionary, gx
from marketlake.contracts.catalog import CATALOG

EXPECTATIONS = "expectations"
DICTIONARY = "docs/data-dictionary.md"


def render_all(root: Path) -> dict[Path, str]:
    """Return the text of every rendering by its path below ``root``; writes nothing."""
    texts = {
        f"{EXPECTATIONS}/{gx.suite_name(contract)}.json": gx.render_suite(contract)
        for contract in CATALOG
        if contract.checks
    }
    texts |= {f"dbt/{name}": text for name, text in dbt.render_models(CATALOG).items()}
    texts[DICTIONARY] = dictionary.render_dictionary(CATALOG)
    return {root / name: text for name, text in texts.items()}


def write_all(root: Path) -> list[Path]:
    """Write every rendering that differs, remove those of contracts that are gone, name both."""
    wanted = render_all(root)
    changed = [path for path, text in wanted.items() if _committed(path) != text]
    for path in changed:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
    leftovers = _leftovers(root, wanted)
    for path in leftovers:
        path.unlink()
    return sorted([*changed, *leftovers])


def differences(root: Path) -> list[str]:
    """Say, one line each, which committed renderings differ from the contracts; empty is good."""
    wanted = render_all(root)
    lines = []
    for path, text in wanted.items():
        committed = _committed(path)
        name = path.relative_to(root).as_posix()
        if committed is None:
            lines.append(f"{name}: is not there")
        elif committed != text:
            lines.append(f"{name}: {_first_difference(committed, text)}")
    lines += [
        f"{path.relative_to(root).as_posix()}: no contract renders it"
        for path in _leftovers(root, wanted)
    ]
    return lines


def _committed(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.is_file() else None


def _leftovers(root: Path, wanted: dict[Path, str]) -> list[Path]:
    """Return files in folders that hold nothing but renderings and that no contract renders."""
    folders = [root / EXPECTATIONS, root / "dbt" / dbt.RENDERED_FOLDER]
    return sorted(
        path
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path not in wanted
    )


def _first_difference(committed: str, text: str) -> str:
    has, needs = committed.splitlines(), text.splitlines()
    for number, (old, new) in enumerate(zip(has, needs, strict=False), start=1):
        if old != new:
            return f"line {number} is {old.strip()!r}, the contracts say {new.strip()!r}"
    return f"{len(has)} lines, the contracts say {len(needs)}"
