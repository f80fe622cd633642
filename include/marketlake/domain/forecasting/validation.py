"""Cross-validation by label interval: purged, embargoed, nested, with one locked final window.

Rows are told apart by the returns their labels hold, never by how many rows lie between them
(Lopez de Prado 2018, Advances in Financial Machine Learning, chapters 7 and 12). A training row is
purged when its span (session, label end] shares a return with a tested span, or comes within
``embargo`` sessions of one, on either side. What does not belong: models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import combinations
from math import comb
from typing import Any, TypeVar

import numpy as np

from marketlake.domain.forecasting.fitted import FitWindow, Positions
from marketlake.errors import ContractViolation, LookaheadError

Candidate = TypeVar("Candidate")


@dataclass(frozen=True)
class LabelSpans:
    """The label interval of every row, on one ascending list of exchange sessions.

    ``start`` and ``end`` are positions in ``sessions``; row ``i``'s label holds the returns of
    sessions ``start[i] + 1`` to ``end[i]``.
    """

    sessions: tuple[date, ...]
    start: Positions
    end: Positions

    @classmethod
    def of(
        cls, starts: Sequence[date], ends: Sequence[date], *, sessions: Sequence[date]
    ) -> LabelSpans:
        """Place each row's session and label end on the calendar."""
        days = np.array(sessions, dtype="datetime64[D]")
        asked = [np.array(values, dtype="datetime64[D]") for values in (starts, ends)]
        start, end = (np.searchsorted(days, values) for values in asked)
        known = [
            np.array_equal(days[np.minimum(at, len(days) - 1)], values)
            for at, values in zip((start, end), asked, strict=True)
        ]
        if not all(known) or (end <= start).any():
            raise ContractViolation(
                expected="label ends after their sessions, both on the calendar",
                was="a session off the calendar, or a label that ends when it begins",
                where="label spans",
                todo="pass the exchange sessions that the labels were made on",
            )
        return cls(tuple(sessions), start.astype(np.int64), end.astype(np.int64))

    def __len__(self) -> int:
        return len(self.start)

    def rows(self, at: Positions) -> LabelSpans:
        """Return the spans of some rows."""
        return LabelSpans(self.sessions, self.start[at], self.end[at])

    def window(self, at: Positions) -> FitWindow:
        """Return the fit window of some rows."""
        return FitWindow.of(
            [self.sessions[position] for position in self.start[at]],
            [self.sessions[position] for position in self.end[at]],
        )

    def covered(self, at: Positions, *, margin: int = 0) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return for every session whether a span of some rows, widened by ``margin``, holds it."""
        edges = np.zeros(len(self.sessions) + 2, dtype=np.int64)
        np.add.at(edges, np.maximum(self.start[at] + 1 - margin, 0), 1)
        np.add.at(edges, np.minimum(self.end[at] + margin, len(self.sessions) - 1) + 1, -1)
        return np.cumsum(edges)[: len(self.sessions)] > 0

    def meets(self, covered: np.ndarray[Any, np.dtype[np.bool_]]) -> Positions:
        """Return, for every row, how many of its returns are covered."""
        total = np.concatenate([[0], np.cumsum(covered)])
        return np.asarray(total[self.end + 1] - total[self.start + 1], dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Rows to fit on and rows to test on; ``groups`` are the tested runs of a CPCV split."""

    train: Positions
    test: Positions
    groups: tuple[int, ...]


def purged(
    spans: LabelSpans,
    *,
    train: Positions,
    test: Positions,
    groups: tuple[int, ...],
    embargo: int,
    purge: bool = True,
) -> Split:
    """Take out of ``train`` what meets the test or its embargo.

    Raises
    ------
    LookaheadError
        With ``purge`` off (0), when the label of a training row shares a return with a tested one.
    ContractViolation
        When nothing is left on one side.
    """
    candidates = spans.rows(train)
    if not purge:
        overlapping = int((candidates.meets(spans.covered(test)) > 0).sum())
        if overlapping:
            raise LookaheadError(
                expected="no training label that shares a return with a tested one",
                was=f"purge=0 and {overlapping} training rows whose labels overlap the test",
                where=f"cross-validation, test groups {groups}",
                todo="leave purge on, or forecast one session ahead",
            )
        left = train
    else:
        left = train[candidates.meets(spans.covered(test, margin=embargo)) == 0]
    if not len(left) or not len(test):
        raise ContractViolation(
            expected="rows to train on and rows to test on",
            was=f"{len(left)} of {len(train)} training rows left and {len(test)} test rows",
            where=f"cross-validation, test groups {groups}",
            todo="load more history, or lower the number of folds or the embargo",
        )
    return Split(left, test, groups)


def walk_forward_splits(
    spans: LabelSpans,
    *,
    folds: int,
    embargo: int,
    purge: bool = True,
    train_sessions: int | None = None,
) -> list[Split]:
    """Cut the sessions into ``folds + 1`` runs; test each but the first by what came before.

    Parameters
    ----------
    spans
        Label intervals of all rows.
    folds, embargo
        Test runs, at least 1; sessions kept clear between training labels and the test.
    purge
        False is 0: refused when labels overlap the test.
    train_sessions
        Length of a rolling training window in sessions; None lets it expand.
    """
    runs = _runs(spans, folds + 1)
    splits = []
    for number in range(1, folds + 1):
        first = runs[number][0]
        oldest = 0 if train_sessions is None else first - train_sessions
        train = np.flatnonzero((spans.start < first) & (spans.start >= oldest))
        splits.append(
            purged(
                spans,
                train=train,
                test=_in_run(spans, runs[number]),
                groups=(number,),
                embargo=embargo,
                purge=purge,
            )
        )
    return splits


def combinatorial_splits(
    spans: LabelSpans, *, groups: int, tested: int, embargo: int, purge: bool = True
) -> list[Split]:
    """Return all splits that test ``tested`` of ``groups`` runs of sessions and fit on the rest.

    Every group is tested ``comb(groups - 1, tested - 1)`` times: see :func:`backtest_paths`.
    """
    if not 1 <= tested < groups:
        raise ContractViolation(
            expected=f"from 1 to {groups - 1} tested groups",
            was=str(tested),
            where="combinatorial cross-validation",
            todo="test fewer groups than there are",
        )
    members = [_in_run(spans, run) for run in _runs(spans, groups)]
    splits = []
    for chosen in combinations(range(groups), tested):
        rest = [members[number] for number in range(groups) if number not in chosen]
        splits.append(
            purged(
                spans,
                train=np.sort(np.concatenate(rest)),
                test=np.sort(np.concatenate([members[number] for number in chosen])),
                groups=chosen,
                embargo=embargo,
                purge=purge,
            )
        )
    return splits


def backtest_paths(splits: Sequence[Split]) -> list[dict[int, int]]:
    """Return how tested groups join to whole histories: group -> number of the split, a path each.

    ``comb(groups - 1, tested - 1)`` paths, each with every group once, no (group, split) twice.
    """
    uses: dict[int, list[int]] = {}
    for number, split in enumerate(splits):
        for group in split.groups:
            uses.setdefault(group, []).append(number)
    groups, tested = len(uses), len(splits[0].groups)
    return [
        {group: uses[group][path] for group in sorted(uses)}
        for path in range(comb(groups - 1, tested - 1))
    ]


@dataclass
class FinalWindow:
    """The last rows, locked: they open for one configuration, by its hash, and for no second."""

    rows: Positions
    first_session: date
    opened_by: str | None = field(default=None)

    def open(self, configuration_sha256: str) -> Positions:
        """Return the rows to the configuration that was chosen.

        Raises
        ------
        LookaheadError
            When another configuration has already seen them.
        """
        if self.opened_by not in (None, configuration_sha256):
            raise LookaheadError(
                expected=f"configuration {self.opened_by}, which opened the final window",
                was=configuration_sha256,
                where=f"final window from {self.first_session}",
                todo="choose on the development rows; the final window is looked at once",
            )
        self.opened_by = configuration_sha256
        return self.rows


def lock_final(
    spans: LabelSpans, *, first_session: date, embargo: int = 0
) -> tuple[Positions, FinalWindow]:
    """Return the development rows, purged of what the final window holds, and that window."""
    at = bisect_left(spans.sessions, first_session)
    split = purged(
        spans,
        train=np.flatnonzero(spans.start < at),
        test=np.flatnonzero(spans.start >= at),
        groups=(0,),
        embargo=embargo,
    )
    return split.train, FinalWindow(split.test, first_session)


@dataclass(frozen=True)
class Tuning:
    """What was tried inside one training window; every candidate is a trial."""

    chosen: int
    scores: tuple[tuple[float, ...], ...]
    window: FitWindow

    @property
    def trials(self) -> int:
        """Number of candidates tried."""
        return len(self.scores)


def tune(
    candidates: Sequence[Candidate],
    *,
    spans: LabelSpans,
    train: Positions,
    inner: Callable[[LabelSpans], list[Split]],
    score: Callable[[Candidate, Positions, Positions], float],
) -> Tuning:
    """Choose the candidate with the highest mean score over splits inside the training rows.

    ``score(candidate, fit_rows, test_rows)`` gets rows of ``spans``; a tie goes to the first.
    """
    splits = inner(spans.rows(train))
    scores = tuple(
        tuple(score(candidate, train[split.train], train[split.test]) for split in splits)
        for candidate in candidates
    )
    means = [float(np.mean(values)) for values in scores]
    return Tuning(int(np.argmax(means)), scores, spans.window(train))


def nested(
    candidates: Sequence[Candidate],
    *,
    spans: LabelSpans,
    outer: Iterable[Split],
    inner: Callable[[LabelSpans], list[Split]],
    score: Callable[[Candidate, Positions, Positions], float],
) -> list[tuple[Split, Tuning]]:
    """Tune anew inside the training rows of every outer split; no tested row takes part."""
    return [
        (
            split,
            tune(candidates, spans=spans, train=split.train, inner=inner, score=score),
        )
        for split in outer
    ]


def _runs(spans: LabelSpans, number: int) -> list[tuple[int, int]]:
    """Cut the sessions that have rows into ``number`` runs, the longer first."""
    used = np.unique(spans.start)
    if len(used) < number:
        raise ContractViolation(
            expected=f"at least {number} sessions for {number} runs",
            was=f"{len(used)} sessions",
            where="cross-validation",
            todo="load more history, or lower the number of folds",
        )
    return [(int(run[0]), int(run[-1])) for run in np.array_split(used, number)]


def _in_run(spans: LabelSpans, run: tuple[int, int]) -> Positions:
    return np.flatnonzero((spans.start >= run[0]) & (spans.start <= run[1]))
