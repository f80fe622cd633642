"""Purged, embargoed, expanding walk-forward splits by session."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from marketlake.errors import ContractViolation


@dataclass(frozen=True)
class Fold:
    """One step of a walk-forward.

    A row trains when its label was known (``label_end``) by ``known_by``, which lies ``embargo``
    sessions before ``test_first``; a row tests when its session is in
    ``test_first``..``test_last``.
    """

    number: int
    known_by: date
    test_first: date
    test_last: date


def walk_forward(sessions: Sequence[date], *, folds: int, embargo: int) -> list[Fold]:
    """Cut sessions into ``folds + 1`` runs of equal length; each but the first is tested once.

    Parameters
    ----------
    sessions
        Ascending sessions that have rows.
    folds
        Number of test runs, at least 1. The first runs are one longer where it does not divide.
    embargo
        Sessions left out between the last label that trains and the first session that tests.

    Raises
    ------
    ContractViolation
        When a run would not be longer than twice the embargo.
    """
    length, longer = divmod(len(sessions), folds + 1)
    if length <= 2 * embargo:
        raise ContractViolation(
            expected=f"more than {2 * embargo * (folds + 1)} sessions for {folds} folds",
            was=f"{len(sessions)} sessions",
            where="walk-forward validation",
            todo="load more history, or lower models.folds",
        )
    starts = [number * length + min(number, longer) for number in range(folds + 2)]
    return [
        Fold(
            number=number,
            known_by=sessions[starts[number] - 1 - embargo],
            test_first=sessions[starts[number]],
            test_last=sessions[starts[number + 1] - 1],
        )
        for number in range(1, folds + 1)
    ]
