"""What the README shows: its text, its blocks, its command lines."""

from __future__ import annotations

import re

from marketlake.settings import PROJECT_ROOT

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the content of every code block of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.S)


def shell_lines() -> list[str]:
    """Return every command line of the shell blocks, in order, without its comment."""
    lines = [
        re.sub(r"\s+#.*", "", line).strip()
        for block in blocks("sh")
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    ]
    return [line for line in lines if line]
