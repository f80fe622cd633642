"""What was fitted, and on what: a value never travels without its fit window.

A label of session ``s`` that ends on ``e`` holds the returns of the sessions after ``s`` up to and
with ``e``: the span (s, e]. Two spans meet when they share a return. Everything that is estimated
(scalers, bin edges, selections, models, calibrators) is a :class:`Fitted`, and gives its value only
for samples whose spans the fit has not seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from marketlake.domain.prices import Floats
from marketlake.errors import ContractViolation, LookaheadError

T = TypeVar("T")
Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class FitWindow:
    """The label spans that a fit has seen, merged: each (first session, last label end].

    ``spans`` ascends and has a gap between neighbours; ``rows`` is the number of samples.
    """

    spans: tuple[tuple[date, date], ...]
    rows: int

    @classmethod
    def of(cls, starts: Sequence[date], ends: Sequence[date]) -> FitWindow:
        """Return the window of samples with these sessions and label ends; at least one."""
        if len(starts) == 0 or len(starts) != len(ends):
            raise ContractViolation(
                expected="as many label ends as sessions, at least one",
                was=f"{len(starts)} sessions and {len(ends)} label ends",
                where="fit window",
                todo="give a fit the rows it trains on",
            )
        merged: list[tuple[date, date]] = []
        for start, end in sorted(set(zip(starts, ends, strict=True))):
            if merged and start <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
            else:
                merged.append((start, end))
        return cls(tuple(merged), len(starts))

    @property
    def known_by(self) -> date:
        """The session on which the last of its labels was known."""
        return self.spans[-1][1]

    def meets(self, start: date, end: date) -> bool:
        """Whether a label span (start, end] shares a return with what was seen."""
        return any(start < seen_end and seen_start < end for seen_start, seen_end in self.spans)


@dataclass(frozen=True)
class Fitted(Generic[T]):
    """A fitted value with its window; ask for it by what it is to be used on."""

    value: T
    window: FitWindow

    def at(self, session: date) -> T:
        """Return the value for use at a session, when every label it saw had ended."""
        if session < self.window.known_by:
            raise LookaheadError(
                expected=f"use on {self.window.known_by} or later, when the last label was known",
                was=str(session),
                where=f"fitted {type(self.value).__name__}",
                todo="fit on labels that ended by the session",
            )
        return self.value

    def on(self, starts: Sequence[date], ends: Sequence[date]) -> T:
        """Return the value for scoring samples with these sessions and label ends.

        Raises
        ------
        LookaheadError
            When the fit saw a return that one of these labels holds.
        """
        for start, end in FitWindow.of(starts, ends).spans:
            if self.window.meets(start, end):
                raise LookaheadError(
                    expected="labels whose spans the fit has not seen",
                    was=f"labels over ({start}, {end}] and a fit on {self.window.spans}",
                    where=f"fitted {type(self.value).__name__}",
                    todo="purge the training rows by label interval",
                )
        return self.value


@dataclass(frozen=True)
class Scaler:
    """Per column: location and spread of the fitting rows, and where values are clipped."""

    means: Floats
    scales: Floats
    clip: float

    def apply(self, X: Floats) -> Floats:
        """Standardise the last axis, clipped at ``clip`` spreads; what is missing becomes 0."""
        scaled = np.clip((X - self.means) / self.scales, -self.clip, self.clip)
        return np.asarray(np.nan_to_num(scaled, nan=0.0), dtype=np.float64)


def fit_scaler(X: Floats, *, clip: float = 5.0) -> Scaler:
    """Return mean and standard deviation of each column over its rows (all axes but the last).

    A column that is constant or wholly missing gets mean 0 or its constant, and scale 1.
    """
    rows = X.reshape(-1, X.shape[-1])
    there = ~np.isnan(rows)
    count = np.maximum(there.sum(axis=0), 1)
    means = np.where(there, rows, 0.0).sum(axis=0) / count
    spread = np.sqrt(np.where(there, (rows - means) ** 2, 0.0).sum(axis=0) / count)
    return Scaler(means, np.where(spread > 0, spread, 1.0), clip)


def fit_bins(X: Floats, *, bins: int) -> list[Floats]:
    """Return the inner edges of equally full bins, ascending and distinct, of every column."""
    levels = np.arange(1, bins) / bins
    edges = []
    for column in X.T:
        values = column[~np.isnan(column)]
        edges.append(
            np.unique(np.quantile(values, levels, method="inverted_cdf"))
            if len(values)
            else np.empty(0)
        )
    return edges


def select_columns(X: Floats, y: Floats, *, keep: int, twin: float = 0.98) -> Positions:
    """Return the columns that go with ``y`` most, strongest first, without near copies.

    Columns are ranked by absolute correlation with ``y`` over rows where they are there; one that
    correlates above ``twin`` with a stronger one that was kept is left out.
    """
    Z = fit_scaler(X).apply(X)
    centred = Z - Z.mean(axis=0)
    norms = np.sqrt((centred**2).sum(axis=0))
    norms[norms == 0] = np.inf
    target = y - y.mean()
    strength = np.abs(centred.T @ target) / norms
    kept: list[int] = []
    for column in np.argsort(-strength, kind="stable"):
        if len(kept) == keep or strength[column] == 0:
            break
        cosines = centred[:, kept].T @ centred[:, column] / (norms[kept] * norms[column])
        if not kept or np.abs(cosines).max() <= twin:
            kept.append(int(column))
    return np.array(kept, dtype=np.int64)
