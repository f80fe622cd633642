"""Why a bar differs from the consensus: rules that evidence can refute.

Each rule claims one fault, says what would refute the claim, and is applied to what was known at
the bar's session; the run-level rules of ``episodes`` see what came right after. What does not
belong: choosing the consensus.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from marketlake.domain.consensus.estimate import SAME
from marketlake.domain.consensus.panel import Bools, Floats

SPLIT_RATIOS = (*(5 / 4, 4 / 3, 3 / 2, 2, 5 / 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50),)
WRONG_DAYS_BACK = 10
ONE_VENUE_SHARE = 0.25
"""Share of the other sources' volume below which a bar is one venue's."""
PART_SHARE = 0.5
"""The same for a bar whose range lies within theirs."""
WHOLE_BAR = 0.002
"""Greatest difference between the log ratios of two prices that is still one factor."""
SINGLE_PRINT = 0.002
"""Least relative difference that is another print."""
LEAST_PRICES = 3
"""Prices of a bar that must share a factor, or be those of another session."""
LEAST_ACTION_RUN = 3
"""Sessions a factor must last to be a corporate action that one side has and the other not."""


@dataclass(frozen=True)
class Apart:
    """Bars that differ from the consensus, one row each; prices [n, 4].

    ``earlier``: the source's own bars 1 to 10 sessions before, then the consensus's, [n, 20, 4];
    ``share``: volume over the median volume of the sources that agree; ``differs``: the fields
    apart by more than their threshold.
    """

    bars: Floats
    consensus: Floats
    earlier: Floats
    share: Floats
    differs: Bools

    @property
    def logs(self) -> Floats:
        """Log ratio to the consensus, [n, 4]."""
        return np.asarray(np.log(self.bars / self.consensus))


@dataclass(frozen=True)
class Rule:
    """A fault class, what its evidence number is, and what would refute it."""

    name: str
    evidence: str
    refuted_if: str
    judge: Callable[[Apart], tuple[Bools, Floats]]
    """Return whether the rule holds for each row, and its evidence number."""


def whole_bar(logs: Floats) -> tuple[Bools, Floats]:
    """Whether the close and two more prices differ by one factor, and its log, from logs [n, 4].

    Two more, not three: vendors disagree on opens of their own accord.
    """
    close = logs[:, 3:]
    same = (np.abs(logs - close) <= WHOLE_BAR).sum(axis=-1)
    return (same >= LEAST_PRICES) & (np.abs(close[:, 0]) > WHOLE_BAR), close[:, 0]


def _unit_x100(apart: Apart) -> tuple[Bools, Floats]:
    off = np.abs(np.abs(apart.logs) - np.log(100.0)) < 0.05
    held = np.where(apart.differs, off, True).all(axis=-1) & apart.differs.any(axis=-1)
    biggest = np.nanmax(np.where(apart.differs, np.abs(apart.logs), 0.0), axis=-1)
    return np.asarray(held), np.exp(biggest)


def _stale_repeat(apart: Apart) -> tuple[Bools, Floats]:
    away = np.abs(apart.bars / apart.earlier[:, 0] - 1.0)
    worst = np.where(np.isnan(away).any(axis=-1), np.inf, np.nan_to_num(away).max(axis=-1))
    return worst < 1e-9, worst


def _swapped_ohlc(apart: Apart) -> tuple[Bools, Floats]:
    away = np.abs(np.sort(apart.bars, axis=-1) / np.sort(apart.consensus, axis=-1) - 1.0)
    worst = np.where(np.isnan(away).any(axis=-1), np.inf, np.nan_to_num(away).max(axis=-1))
    in_place = (np.abs(apart.bars / apart.consensus - 1.0) <= SAME).sum(axis=-1)
    return (worst < 5 * SAME) & (in_place <= 2), worst


def _split_not_applied(apart: Apart) -> tuple[Bools, Floats]:
    one, log = whole_bar(apart.logs)
    nearest = np.min(np.abs(np.abs(log)[:, None] - np.log(SPLIT_RATIOS)), axis=-1)
    return one & (nearest < 0.004), np.exp(log)


def wrong_day_matches(bars: Floats, others: Floats) -> tuple[Bools, Floats]:
    """Whether three of the four prices are those of another session, and how far that is.

    ``others`` [n, 2 x sessions, 4]: the source's own bars by distance, then the consensus's.
    """
    same = (np.abs(bars[:, None, :] / others - 1.0) < SAME).sum(axis=-1)
    best = np.argmax(same, axis=-1)
    days = best % (others.shape[1] // 2) + 1.0
    return np.take_along_axis(same, best[:, None], axis=-1)[:, 0] >= LEAST_PRICES, days


def _wrong_day(apart: Apart) -> tuple[Bools, Floats]:
    held, days = wrong_day_matches(apart.bars, apart.earlier)
    return held, -days


def _one_sided_action(apart: Apart) -> tuple[Bools, Floats]:
    one, log = whole_bar(apart.logs)
    return one, np.exp(log)


def _one_venue_print(apart: Apart) -> tuple[Bools, Floats]:
    logs = apart.logs
    near = np.abs(logs[:, 3]) < 0.1
    inside = (logs[:, 1] <= SAME) & (logs[:, 2] >= -SAME)
    limit = np.where(inside, PART_SHARE, ONE_VENUE_SHARE)
    return near & (apart.share <= limit), apart.share


def _single_print(apart: Apart) -> tuple[Bools, Floats]:
    """One price is another print; an extreme moved only as far as it must to contain it."""
    logs = apart.logs
    moved = np.abs(logs) > SINGLE_PRINT
    price = np.where(moved[:, 3], apart.bars[:, 3], apart.bars[:, 0])
    contains = np.isclose(apart.bars[:, 1:3], price[:, None], rtol=SAME, atol=0.0)
    ends = moved[:, [0, 3]].sum(axis=-1)
    extremes = moved[:, 1:3]
    alone = (ends == 0) & (extremes.sum(axis=-1) == 1)
    contained = (ends == 1) & (~extremes | contains).all(axis=-1)
    biggest = np.where(apart.differs, np.abs(logs), 0.0).max(axis=-1)
    return (alone | contained) & (biggest < 0.1), np.exp(biggest)


RULES = (
    Rule(
        "unit_x100",
        "factor of the price furthest away",
        "a price that is apart is not 100 times, or a hundredth of, the consensus within 5 %",
        _unit_x100,
    ),
    Rule(
        "stale_repeat",
        "greatest relative change of the four prices since the source's bar before",
        "any of the four prices differs from the source's own bar of the session before",
        _stale_repeat,
    ),
    Rule(
        "swapped_ohlc",
        "greatest relative difference between the sorted prices of bar and consensus",
        "sorted by size, a price differs from the consensus by more than 0.1 %",
        _swapped_ohlc,
    ),
    Rule(
        "split_not_applied",
        "factor on the whole bar",
        "fewer than three prices share the factor, or it is not a usual split ratio within 0.4 %",
        _split_not_applied,
    ),
    Rule(
        "wrong_day",
        "sessions from the bar's own to the one whose prices it has",
        "fewer than three of its prices are those of one session up to 10 before or after",
        _wrong_day,
    ),
    Rule(
        "one_sided_action",
        "factor on the whole bar",
        "fewer than three prices share the factor; a run is under 3 sessions or has more "
        "than two levels of it and another for every 50 sessions",
        _one_sided_action,
    ),
    Rule(
        "one_venue_print",
        "volume over that of the sources that agree",
        "its volume is above a quarter of theirs (a half if its range lies within theirs), or its "
        "close is 10 % away",
        _one_venue_print,
    ),
    Rule(
        "single_print",
        "factor of the price furthest away",
        "a second price differs, other than an extreme that contains the first; or 10 % away",
        _single_print,
    ),
)
REFUTED_IF = {
    **{rule.name: rule.refuted_if for rule in RULES},
    "dividend_adjustment": "the factor is neither that of the dividends between the bar and "
    "the end of its run nor, for one or two sessions, that of the last one before, within 15 %",
    "missing_day": "the source gives a bar of the session, or no other source does",
    "duplicate": "the source gives one bar of the session",
    "unexplained": "any other rule holds",
}


def classify(apart: Apart) -> tuple[list[str], Floats]:
    """Return the class of each bar (the first rule that holds) and its evidence number."""
    names = np.full(len(apart.bars), "unexplained", dtype=object)
    numbers = np.full(len(apart.bars), np.nan)
    open_ = np.ones(len(apart.bars), dtype=bool)
    with np.errstate(invalid="ignore", divide="ignore"):
        for rule in RULES:
            held, evidence = rule.judge(apart)
            held = held & open_
            names[held], numbers[held] = rule.name, evidence[held]
            open_ &= ~held
    return names.tolist(), numbers
