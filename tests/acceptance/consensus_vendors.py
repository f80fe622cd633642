"""What the consensus makes of four real vendors that disagree: episodes, classes, known conflicts.

The rules' classes are those that name a fault, and two that name a shape only: a whole-bar factor
whose action nobody told us (a spin-off), and a single print. ``unexplained_strict`` counts the two
as unexplained. The rules were made with all of this recording in sight, so that the two halves of
the symbols show how even the figures are and not what a stranger would find.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from marketlake.domain.consensus import Consensus, episodes, normalise, reconcile

from tests.acceptance import figures
from tests.corpora.vendor_histories import OVERLAP, SEMANTICS, four_vendors

TARGET_UNEXPLAINED = 0.10
SHAPES_ONLY = ("one_sided_action", "single_print")
_ABSENT = ("missing_day", "duplicate")
CONFLICTS = {
    "CTXS": "google iex",
    "JEC": "google",
    "DHR": "yahoo",
    "DISCK": "iex",
    "VFC": "iex",
    "GOOG": "yahoo",
    "HON": "yahoo",
    "PPL": "yahoo",
}
"""Symbols that the recording's provenance names, and who is apart from the others for long."""
DATES = (date(2014, 7, 17), date(2014, 8, 1), date(2014, 10, 30), date(2017, 8, 1))
"""Days that the provenance names: one vendor's closes differ on many symbols."""
_LONG = 60


def compare(shared_data: Path) -> tuple[Consensus, pl.DataFrame]:
    """Return the consensus where all four overlap, and the dividends."""
    bars, dividends, last = four_vendors(shared_data)
    as_traded = normalise(
        bars, dividends, semantics=SEMANTICS, as_of=max(last.values()), answered_on=last
    ).filter(pl.col("session").is_between(*OVERLAP))
    sessions = as_traded["session"].unique().to_list()
    return reconcile(as_traded, dividends, sessions=sessions), dividends


def measure(shared_data: Path) -> dict[str, Any]:
    """Count episodes and find the conflicts the provenance names."""
    found, dividends = compare(shared_data)
    symbols = found.bars["symbol"].unique().sort().to_list()
    by_close = _prices(episodes(found, dividends, field="close_usd"))
    by_any = _prices(episodes(found, dividends))
    halves = {
        name: by_close.filter(pl.col("symbol").is_in(symbols[at::2]))
        for at, name in enumerate(("first", "second"))
    }
    return {
        "bars": found.bars.height,
        "symbols": len(symbols),
        "apart_bars": found.disagreements.filter(~pl.col("class").is_in(_ABSENT)).height,
        "close": _counts(by_close),
        **{f"close_{name}_half": _counts(half) for name, half in halves.items()},
        "any_price": _counts(by_any),
        "conflicts": {symbol: _conflict(by_close, symbol) for symbol in CONFLICTS},
        "dates": {str(day): _on(by_close, day) for day in DATES},
        "google_at_the_edge": _edge(found),
    }


def _prices(runs: pl.DataFrame) -> pl.DataFrame:
    return runs.filter(~pl.col("class").is_in(_ABSENT))


def _counts(runs: pl.DataFrame) -> dict[str, Any]:
    classes = Counter(runs["class"])
    loose = sum(classes[name] for name in SHAPES_ONLY)
    return {
        "episodes": runs.height,
        "classes": dict(classes.most_common()),
        "by_source": dict(Counter(runs["source"])),
        "unexplained": classes["unexplained"] / max(1, runs.height),
        "unexplained_strict": (classes["unexplained"] + loose) / max(1, runs.height),
    }


def _conflict(runs: pl.DataFrame, symbol: str) -> list[dict[str, Any]]:
    own = runs.filter((pl.col("symbol") == symbol) & (pl.col("n_sessions") >= _LONG))
    return own.select(
        "source", "class", "factor", "n_sessions", pl.col("first_session", "last_session").cast(str)
    ).to_dicts()


def _on(runs: pl.DataFrame, day: date) -> dict[str, int]:
    """Count iex's episodes of up to three sessions over a day, by class."""
    over = runs.filter(
        (pl.col("source") == "iex")
        & (pl.col("first_session") <= day)
        & (pl.col("last_session") >= day)
        & (pl.col("n_sessions") <= 3)
    )
    return dict(Counter(over["class"]))


def _edge(found: Consensus) -> dict[str, Any]:
    """Say how many sources answer where google's recording ends and has holes."""
    return dict(Counter(found.bars["n_sources"].cast(str)))


def conflicts_missed(found: dict[str, Any]) -> list[str]:
    """Name the conflicts and days of the provenance that were not found."""
    missing = [
        f"{symbol}: {source}"
        for symbol, sources in CONFLICTS.items()
        for source in sources.split()
        if source not in {item["source"] for item in found["conflicts"][symbol]}
    ]
    return missing + [day for day, classes in found["dates"].items() if not classes]


def missed(found: dict[str, Any]) -> list[str]:
    """Name the targets that are not met."""
    problems = [f"not found: {what}" for what in conflicts_missed(found)]
    for name in ("close", "close_second_half", "any_price"):
        share = found[name]["unexplained"]
        if share > TARGET_UNEXPLAINED:
            problems.append(f"{name}: {share:.1%} unexplained")
    return problems


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    names = ("close", "close_first_half", "close_second_half", "any_price")
    classes = sorted({name for one in names for name in found[one]["classes"]})
    figures.table(
        f"Episodes above 0.5 %: {found['symbols']} symbols, {found['bars']} bars",
        ("class", *names),
        [
            *((name, *(found[one]["classes"].get(name, 0) for one in names)) for name in classes),
            ("all", *(found[one]["episodes"] for one in names)),
            ("unexplained %", *(100 * found[one]["unexplained"] for one in names)),
            ("and shapes %", *(100 * found[one]["unexplained_strict"] for one in names)),
        ],
    )
    figures.table(
        f"Named conflicts: runs of {_LONG} sessions or more",
        ("symbol", "source", "class", "factor", "sessions", "first", "last"),
        [(symbol, *run.values()) for symbol, runs in found["conflicts"].items() for run in runs],
    )
    figures.table(
        "Named days: short episodes of iex",
        ("day", "episodes", "classes"),
        [(day, sum(said.values()), str(said)) for day, said in found["dates"].items()],
    )
