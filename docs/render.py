"""Write the parts of the documentation that are made from the code, or check that they still agree.

``python docs/render.py`` writes ``architecture.svg`` and ``settings.md``; with ``--check`` it only
compares, and exits 1 when one differs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from marketlake.settings import PROJECT_ROOT, Settings
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

FOLDER = Path(__file__).resolve().parent
sys.path.insert(0, str(FOLDER))

_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
_HEAD = """# Settings

Every setting is an environment variable: `MARKETLAKE_`, then the section and the name, joined by
`__`. The strongest source wins: the environment, then `.env` at the root of the repository, then
`runtime.env` in the state folder (written by `marketlake up`: ports and generated secrets), then
the default below. An unknown name or a wrong value stops every command with a message that names
it. `MARKETLAKE_HOME` in `.env` may be relative to the repository; make other paths there absolute.
Secrets are never logged or put into XCom.

This page is made from `include/marketlake/settings.py` by `docs/render.py`.
"""


def rendered() -> dict[Path, str]:
    """Return the text of every made page by its path."""
    import picture

    return {
        FOLDER / "architecture.svg": picture.draw(),
        FOLDER / "settings.md": settings_page(),
    }


def settings_page() -> str:
    """Return the reference of all settings as Markdown."""
    top = [(name, field) for name, field in Settings.model_fields.items() if not _section_of(field)]
    parts = [_HEAD, "## The whole\n", _table(top, prefix="MARKETLAKE_")]
    for name, field in Settings.model_fields.items():
        section = _section_of(field)
        if section is not None:
            about = " ".join((section.__doc__ or "").split())
            parts += [
                f"\n## {name}\n\n{about}\n",
                _table(section.model_fields.items(), prefix=f"MARKETLAKE_{name.upper()}__"),
            ]
    return "\n".join(parts) + "\n"


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _table(fields: Iterator[tuple[str, FieldInfo]], *, prefix: str) -> str:
    lines = ["| variable | type | default |", "|---|---|---|"]
    for name, field in fields:
        lines.append(f"| `{prefix}{name.upper()}` | {_kind(field)} | {_default(field)} |")
    return "\n".join(lines)


def _kind(field: FieldInfo) -> str:
    kind = field.annotation
    text = kind.__name__ if isinstance(kind, type) else str(kind)
    for long in ("typing.", "datetime.", "pathlib.", "pydantic.types."):
        text = text.replace(long, "")
    limits = ", ".join(
        f"{words} {getattr(limit, name)}"
        for limit in field.metadata
        for name, words in _LIMITS.items()
        if hasattr(limit, name)
    )
    return f"`{text.replace('|', 'or')}`" + (f" ({limits})" if limits else "")


def _default(field: FieldInfo) -> str:
    value = field.default
    if isinstance(value, SecretStr):
        return "generated at the first start"
    if value is None:
        return "none"
    if isinstance(value, Path) and value.is_relative_to(PROJECT_ROOT):
        value = value.relative_to(PROJECT_ROOT).as_posix()
    return f"`{value}`"


def main(arguments: list[str]) -> int:
    """Write or check; return the exit code."""
    stale = [
        path
        for path, text in rendered().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    for path in stale:
        if "--check" not in arguments:
            path.write_text(rendered()[path], encoding="utf-8")
        print(path.relative_to(PROJECT_ROOT).as_posix())
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
