"""Moments along the last axis of windows that may have gaps, by the catalog's NaN rule.

A missing value is NaN and is never filled: a moment is that of what is there, and NaN when fewer
than 80 % are. What does not belong: which windows to take, and any statistic only one module needs.
"""

from __future__ import annotations

import numpy as np

from marketlake.domain.prices import Bools, Floats

MIN_THERE = 0.8
"""Share of a window's values that must be there."""


def count(window: Floats) -> Floats:
    """Return how many values are there."""
    return np.asarray((~np.isnan(window)).sum(axis=-1), dtype=np.float64)


def enough(window: Floats) -> Bools:
    """Return whether at least 80 % of the values are there."""
    return np.asarray(count(window) >= MIN_THERE * window.shape[-1])


def mean(window: Floats) -> Floats:
    """Return the mean of what is there; NaN when fewer than 80 % are."""
    total = np.where(np.isnan(window), 0.0, window).sum(axis=-1)
    return np.where(enough(window), total / np.maximum(count(window), 1.0), np.nan)


def std(window: Floats) -> Floats:
    """Return the standard deviation with ddof 1 of what is there; NaN when fewer than 80 % are."""
    n = count(window)
    squares = mean((window - mean(window)[..., None]) ** 2) * n
    return np.sqrt(squares / np.where(n > 1.0, n - 1.0, np.nan))
