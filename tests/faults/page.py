"""``docs/errors.md``: the declared faults, each with what it really said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from marketlake.errors import MarketlakeError, Retryable
from marketlake.settings import PROJECT_ROOT

from tests.faults.cases import FAULTS, KEPT_OUT, LEFT_OUT, Case, KeptOut, LeftOut

PAGE = PROJECT_ROOT / "docs" / "errors.md"

_HEAD = """# What happens to bad input

Each of these faults is made for real by `tests/faults`: on a vendor sandbox, an S3 store, Postgres
and the ledger, for one session of the daily line. The test holds each to the place, the error and
the words below, and to nothing being published behind the place where it stops. An error says what
was expected, what was, where, and what to do. A task tries again after an error that is marked so,
and fails at once after any other. What differs between runs is put in capitals.

This page is made by `python -m pytest tests/faults --write-errors-page`.
"""
_LEFT_HEAD = """
## Sources that are left out

A source that fails does not stop a session while another one is configured. What it answered before
counts; of the rest `core_market__daily_bar` has bars of the others, with the flag `two_source` or
`single_source`. Of which symbol it failed and why is in `core_quality__source_answer`; the source
comparison and the integrity page say it of the source. Only Yahoo has the benchmark, an index.

| what is broken | has answered for | what is said of it |
|---|---|---|
"""
_KEPT_HEAD = """
## Rows that are kept out

One bad row does not stop a session. It never reaches `core_market__daily_bar`, and is told of; the
bar of the other sources stands in for it, where they have one.

| what is broken | bar of | told in | as |
|---|---|---|---|
"""
_TABLE = "| what is broken | stops at | error | what it says |\n|---|---|---|---|\n"
_VARIABLE = (
    (re.compile(r"faults-[0-9a-f]{12}"), "BUCKET"),
    (re.compile(re.escape(str(PROJECT_ROOT)) + r"/"), ""),
    (re.compile(r"(?<![\w/])/(?!dev/)[\w.-]+/[\w./-]*/(?=[\w.-]+)"), "FOLDER/"),
    (re.compile(r"(?<=127\.0\.0\.1:)\d{2,}|(?<=\"127\.0\.0\.1\", port )\d{2,}"), "PORT"),
    (re.compile(r"/[0-9a-f]{16}/"), "/RUN/"),
    (re.compile(r"snapshot_\d{8}_\d{6}(_\d+)?(?=\.json)"), "snapshot_TIME"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00"), "INSTANT"),
    (re.compile(r"after \d+ ms"), "after SOME ms"),
    (re.compile(r"(?<=frame of )\d+|0x[0-9a-f]+"), "NUMBER"),
    (re.compile(r"(?<=python)3\.\d+"), "3"),
)


def told(error: MarketlakeError) -> str:
    """Return an error's four parts as one cell."""
    parts = ("expected", error.expected), ("was", error.was), ("where", error.where)
    lines = [f"*{name}* {_cell(text)}" for name, text in (*parts, ("do", error.todo))]
    return "<br>".join(lines)


def masked(text: str) -> str:
    """Return a text without what differs between runs and machines."""
    for pattern, name in _VARIABLE:
        text = pattern.sub(name, text)
    return text


def _cell(text: str) -> str:
    # Markdown must not read what a machine said as its own signs; within backticks it does not,
    # but a table reads its bars even there.
    words = " ".join(masked(text).split()).split("`")
    words[::2] = [re.sub(r"([<>*\\_])", r"\\\1", part) for part in words[::2]]
    return "`".join(words).replace("|", r"\|")


def row(case: Case, said: str) -> str:
    """Return one case's line of the page."""
    if isinstance(case, KeptOut):
        instead = ", ".join(f"`{name}`" for name in case.stands_in) or "nobody"
        return f"| {case.broken} (`{case.symbol}`) | {instead} | `{case.told_in}` | {said} |"
    if isinstance(case, LeftOut):
        before = "; ".join(
            f"`{source}`: {'all, no bars' if case.no_bars else ', '.join(symbols) or 'nothing'}"
            for source, symbols in case.answered.items()
        )
        return f"| {case.broken} | {before} | {said} |"
    again = ", tried again" if issubclass(case.error, Retryable) else ""
    return f"| {case.broken} | `{case.stops_at}` | `{case.error.__name__}`{again} | {said} |"


def quoted(text: str) -> str:
    """Return some words from a table as a cell."""
    return _cell(text)


def render(said: Mapping[str, str]) -> str:
    """Return the whole page; ``said`` has each case's words by its name."""
    parts = [_HEAD]
    for group in dict.fromkeys(case.group for case in FAULTS):
        rows = [row(case, said.get(case.name, "")) for case in FAULTS if case.group == group]
        parts.append(f"\n## {group}\n\n{_TABLE}" + "\n".join(rows) + "\n")
    for head, cases in ((_LEFT_HEAD, LEFT_OUT), (_KEPT_HEAD, KEPT_OUT)):
        parts.append(head + "\n".join(row(case, said.get(case.name, "")) for case in cases) + "\n")
    return "".join(parts)


def words_on_the_page(text: str) -> dict[str, str]:
    """Return what the page has each declared case say; a case that is not on it is left out."""
    found = {}
    for case in (*FAULTS, *LEFT_OUT, *KEPT_OUT):
        before, after = row(case, "\0").split("\0")
        for line in text.splitlines():
            if line.startswith(before) and line.endswith(after):
                found[case.name] = line.removeprefix(before).removesuffix(after)
    return found


def page_text(path: Path = PAGE) -> str:
    """Return the committed page."""
    return path.read_text(encoding="utf-8") if path.exists() else ""
