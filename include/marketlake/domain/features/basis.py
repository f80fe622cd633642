"""One symbol's run of sessions on one price basis.

Prices and volumes come as traded, with the factors of their corporate actions. A block of sessions
is brought to the basis of its own first session (what is later is divided by the factors that came
since, what is earlier multiplied), so an action changes nothing before its ex-date, and the bits of
a value depend neither on where the history begins nor on where it ends.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from marketlake.domain.features.compiled import entry, kernel
from marketlake.domain.prices import Floats


@kernel
def cut(arrays: tuple[Floats, ...], row: int, first: int, start: int, end: int) -> Floats:
    """Return sessions ``first .. end - 1`` of a symbol on the basis of session ``start``.

    [5, end - first]: open, high, low, close, volume. Sessions before the history, prices that are
    not above zero, volumes below zero, and the whole bar where the close is missing, are NaN.
    """
    opens, highs, lows, closes, volumes, price_factors, share_factors = arrays
    size = end - first
    price, share = np.ones(size), np.ones(size)
    at = start - first
    for i in range(at + 1, size):
        price[i] = price[i - 1] / price_factors[row, first + i]
        share[i] = share[i - 1] / share_factors[row, first + i]
    for i in range(at - 1, -1, -1):
        if first + i + 1 < 0:
            break
        price[i] = price[i + 1] * price_factors[row, first + i + 1]
        share[i] = share[i + 1] * share_factors[row, first + i + 1]
    bars = np.full((5, size), np.nan)
    for i in range(max(0, -first), size):
        t = first + i
        if not (closes[row, t] > 0.0 and closes[row, t] < np.inf):
            continue
        if opens[row, t] > 0.0 and opens[row, t] < np.inf:
            bars[0, i] = opens[row, t] * price[i]
        if highs[row, t] > 0.0 and highs[row, t] < np.inf:
            bars[1, i] = highs[row, t] * price[i]
        if lows[row, t] > 0.0 and lows[row, t] < np.inf:
            bars[2, i] = lows[row, t] * price[i]
        bars[3, i] = closes[row, t] * price[i]
        if volumes[row, t] >= 0.0 and volumes[row, t] < np.inf:
            bars[4, i] = volumes[row, t] * share[i]
    return bars


@entry
def cut_all(
    arrays: tuple[Floats, ...], symbols: NDArray[np.int64], first: int, start: int, end: int
) -> Floats:
    """Return what :func:`cut` does for symbols ``symbols[0] .. symbols[1] - 1``: [5, n, ...]."""
    bars = np.empty((5, symbols[1] - symbols[0], end - first))
    for row in range(symbols[0], symbols[1]):
        bars[:, row - symbols[0]] = cut(arrays, row, first, start, end)
    return bars


@entry
def put(values: Floats, out: NDArray[np.floating]) -> None:
    """Write values into a view of a result of any float type, every NaN as the same bits.

    The sign of a NaN depends on how a loop was unrolled; bytes that are published may not.
    """
    for row in range(values.shape[0]):
        for s in range(values.shape[1]):
            for j in range(values.shape[2]):
                value = values[row, s, j]
                out[row, s, j] = value if value == value else np.nan
