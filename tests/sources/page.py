"""``docs/sources.md``: what every source declares, and how each fault of a vendor really ended."""

from __future__ import annotations

from collections.abc import Mapping

from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.sources.catalog import SOURCES, open_source
from marketlake.sources.source import CallPlan, Source

from tests.sources.cases import ABOUT_OWN, CASES, OWN_ENDS

PAGE = PROJECT_ROOT / "docs" / "sources.md"

_HEAD = """# Sources

A source asks one vendor through the vendor's real client and gives bars, actions or observations
in one shape (`include/marketlake/sources/history.py`). It never tries again (the task layer does),
bounds every call, reports every call with its secrets out, and ends in an error of
`include/marketlake/errors.py` or with rows. It judges no value: what arrives changed is for the
gates to find. How to add one: [adding-a-source.md](adding-a-source.md).

This page is made by `python -m pytest tests/sources/test_contract.py --write-sources-page`.

## What each source declares

A source without its credentials is not configured, and is not asked. The basis is what prices are
adjusted for as of the answer; dividends are per share of their own day where prices are as traded,
of the answer's day otherwise. Calls are those of the default plan. A source of `series` has values
under names of its publisher's, such as `VIXCLS`.

"""
_FAULTS = """
## What happens when a vendor fails

Each cell is what really came of it: an error (`RateLimited`, `SourceUnavailable` and `Timeout` are
tried again by the task) or rows. Every one ended within its time limit, with a record of each call.

"""


def told(cell: str) -> str:
    """Return an outcome as a cell: errors in code."""
    return f"`{cell}`" if cell and cell[0].isupper() else cell or "-"


def render(ended: Mapping[tuple[str, str], str]) -> str:
    """Return the page; ``ended`` has the outcome of each case and source."""
    rows = [(ABOUT_OWN[name], name) for name in OWN_ENDS]
    rows += [(case.about, case.name) for case in CASES]
    lines = [f"| what happens | {' | '.join(SOURCES)} |", "|---|" + "---|" * len(SOURCES)]
    for about, name in rows:
        cells = (told(ended.get((name, source), "")) for source in SOURCES)
        lines.append(f"| {about} | {' | '.join(cells)} |")
    return _HEAD + _declared() + _FAULTS + "\n".join(lines) + "\n"


def expected() -> dict[tuple[str, str], str]:
    """Return the outcome that each case must have, for every source that has it."""
    own = {(name, source): end for name, ends in OWN_ENDS.items() for source, end in ends.items()}
    return own | {(case.name, name): case.outcome(name) for case in CASES for name in SOURCES}


def _declared() -> str:
    # The sandbox's own settings have keys and no limits.
    sources = [open_source(name, Settings(mode="live")) for name in SOURCES]
    lines = ["| source | vendor | lists | basis | close | volume | actions | calls | credentials |"]
    lines.append("|---|" + "---|" * 8)
    lines += [_line(source) for source in sources]
    return "\n".join(lines) + "\n"


def _line(source: Source) -> str:
    meaning = source.semantics
    cells = (
        f"`{source.name}`",
        source.vendor,
        ", ".join(sorted(source.kinds)),
        meaning.basis.replace("_", " "),
        meaning.close.replace("_", " "),
        meaning.volume.replace("_", " "),
        ", ".join(meaning.actions) or "-",
        _calls(source.plan),
        "<br>".join(f"`{name}`" for name in source.credentials) or "none needed",
    )
    return f"| {' | '.join(cells)} |"


def _calls(plan: CallPlan) -> str:
    limits = [(plan.a_day, "a day"), (plan.a_minute, "a minute")]
    said = [f"{limit} {span}" for limit, span in limits if limit is not None]
    if plan.symbols_a_call > 1:
        said.append(f"{plan.symbols_a_call} symbols a call")
    if not plan.dated:
        said.append("a call brings all dates")
    return ", ".join(said) or "no declared limit"
