"""Windows' statistics against NumPy's of each window, and what they do not depend on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from marketlake.domain.features import windows
from marketlake.domain.prices import Floats


def series(seed: int) -> Floats:
    """Return rows with gaps, ties, a late beginning and one that is whole."""
    x = np.random.default_rng(seed).choice(np.round(np.linspace(9.0, 11.0, 41), 2), (5, 160))
    x[0, 30:33] = x[1, ::6] = x[2, :50] = np.nan
    x[3, 70:120] = 10.17
    return x


STATISTICS: dict[str, tuple[Callable[[Floats, int], Floats], Callable[[Floats], float]]] = {
    "mean": (windows.mean, np.nanmean),
    "std": (lambda x, n: windows.std(x, n, 1), lambda w: np.nanstd(w, ddof=1)),
    "highest": (windows.highest, np.nanmax),
    "lowest": (windows.lowest, np.nanmin),
    "since": (
        windows.sessions_since_highest,
        lambda w: float(np.flatnonzero(w[::-1] == np.nanmax(w))[0]),
    ),
    "fourth": (
        lambda x, n: windows.mean_power_about(x, windows.mean(x, n), n, 4),
        lambda w: np.nanmean((w - np.nanmean(w)) ** 4),
    ),
    "weighted": (
        windows.weighted_mean,
        lambda w: (
            np.nansum(w * np.arange(1, w.size + 1))
            / np.sum(~np.isnan(w) * np.arange(1, w.size + 1))
        ),
    ),
}


@pytest.mark.parametrize("window", [1, 2, 5, 8, 14, 23])
@pytest.mark.parametrize("name", sorted(STATISTICS.keys() - {"weighted"}))
def test_a_statistic_is_that_of_what_its_window_holds(name: str, window: int) -> None:
    compute, said = STATISTICS[name]
    x = series(1)
    found = compute(x, window)
    for row, last in np.ndindex(x.shape):
        inside = x[row, max(last - window + 1, 0) : last + 1]
        there = np.count_nonzero(~np.isnan(inside))
        if there < windows.MIN_THERE * window or (name == "std" and there < 2):
            assert np.isnan(found[row, last])
        else:
            assert found[row, last] == pytest.approx(said(inside), rel=1e-9, abs=1e-12)


def test_a_weighted_mean_needs_four_fifths_of_its_weight() -> None:
    compute, said = STATISTICS["weighted"]
    x = series(2)
    found = compute(x, 10)
    for row, last in np.ndindex(x.shape):
        inside = x[row, max(last - 9, 0) : last + 1]
        weight = np.sum(np.arange(11 - inside.size, 11) * ~np.isnan(inside))
        if weight < 44:
            assert np.isnan(found[row, last])
        elif inside.size == 10:
            assert found[row, last] == pytest.approx(said(inside), rel=1e-12)


@pytest.mark.parametrize("name", sorted(STATISTICS))
@pytest.mark.parametrize("window", [5, 14, 20])
def test_a_value_has_the_same_bits_with_no_more_history_than_its_window(
    name: str, window: int
) -> None:
    compute, _ = STATISTICS[name]
    x = series(3)
    whole = compute(x, window)
    for first in (3, 41, 90):
        cut = compute(np.ascontiguousarray(x[:, first:]), window)
        kept = slice(window - 1, None)
        assert cut[:, kept].tobytes() == whole[:, first:][:, kept].tobytes()


def test_a_correlation_is_that_of_the_pairs_and_needs_no_more_history() -> None:
    x, y = series(5), series(6)
    whole = windows.correlation(x, y, 20)
    cut = windows.correlation(np.ascontiguousarray(x[:, 41:]), np.ascontiguousarray(y[:, 41:]), 20)
    assert cut[:, 19:].tobytes() == np.ascontiguousarray(whole[:, 60:]).tobytes()
    for row, last in np.argwhere(~np.isnan(whole)):
        inside = slice(max(last - 19, 0), last + 1)
        pairs = np.stack([x[row, inside], y[row, inside]])
        said = np.corrcoef(pairs[:, ~np.isnan(pairs).any(axis=0)])[0, 1]
        assert whole[row, last] == pytest.approx(said, abs=1e-12)


def test_hurst_spreads_are_the_standard_deviations_of_changes() -> None:
    x = series(4)
    out = np.empty((4, 5, 100))
    windows.spreads_of_changes(x, 30, 5, 60, out)
    for lag in range(2, 6):
        said = windows.std(windows.differences(x, lag), 30 - lag, 0)[:, 60:]
        assert out[lag - 2].tobytes() == np.ascontiguousarray(said).tobytes()
