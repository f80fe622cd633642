from __future__ import annotations

import importlib.util
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from marketlake.calendars import Calendar
from marketlake.services.sandbox.packaged import packaged_world
from marketlake.services.sandbox.world import Series, View, World

LAST = date(2022, 12, 28)


@pytest.fixture(scope="module")
def world() -> World:
    return packaged_world(20221228, benchmark="^GSPC")


@pytest.fixture(scope="module")
def real_closes() -> pd.DataFrame:
    package = importlib.util.find_spec("skfolio")
    assert package is not None
    assert package.submodule_search_locations is not None
    folder = Path(package.submodule_search_locations[0]) / "datasets" / "data"
    return pd.read_csv(
        folder / "sp500_dataset.csv.gz", index_col="Date", parse_dates=True, float_precision="high"
    )


def series_of(world: World, symbol: str) -> Series:
    series = world.market(symbol, LAST)
    assert series is not None
    return series


def readjusted(view: View) -> npt.NDArray[np.float64]:
    """Un-adjust a vendor's closes with its splits, then adjust them for splits and dividends."""
    close = view.close_usd.copy()
    for session, ratio in zip(view.split_sessions, view.split_ratios, strict=True):
        close[view.sessions < session] *= ratio
    dividends = view.dividends_usd.copy()
    for session, ratio in zip(view.split_sessions, view.split_ratios, strict=True):
        dividends[view.dividend_sessions < session] *= ratio
    adjusted = close.copy()
    for session, ratio in zip(view.split_sessions, view.split_ratios, strict=True):
        adjusted[view.sessions < session] /= ratio
    for session, dividend in zip(view.dividend_sessions, dividends, strict=True):
        before = int(np.searchsorted(view.sessions, session)) - 1
        adjusted[: before + 1] *= 1.0 - dividend / close[before]
    return adjusted


def test_adjusting_the_simulated_levels_gives_the_real_closes_back(
    world: World, real_closes: pd.DataFrame
) -> None:
    for symbol in real_closes.columns:
        view = world.view(symbol, LAST)
        assert view is not None
        off = np.abs(readjusted(view) / real_closes[symbol].to_numpy() - 1.0)
        assert off.max() <= 1e-12, symbol
        assert np.abs(view.adj_close_usd / real_closes[symbol].to_numpy() - 1.0).max() <= 1e-12


def test_at_an_earlier_session_returns_are_the_real_ones(
    world: World, real_closes: pd.DataFrame
) -> None:
    known = date(2012, 4, 16)
    for symbol in real_closes.columns:
        view = world.view(symbol, known)
        assert view is not None
        real = real_closes.loc[: str(known), symbol].to_numpy()
        assert np.allclose(readjusted(view) / view.close_usd[-1], real / real[-1], rtol=1e-12)


def test_the_index_shows_its_real_closes_and_no_actions(world: World) -> None:
    series = series_of(world, "^GSPC")
    # S&P 500 closes of 2019-12-31 and 2022-12-28, as published by S&P Dow Jones Indices.
    at = dict(zip(series.sessions.astype(str).tolist(), series.close_usd.tolist(), strict=True))
    assert (at["2019-12-31"], at["2022-12-28"]) == (3230.78, 3783.22)
    assert series.split_ratios.size == 0
    assert series.dividends_usd.size == 0
    assert set(series.simulated) == {"open_usd", "high_usd", "low_usd", "volume_shares"}


def test_every_session_of_the_exchange_has_one_bar(world: World) -> None:
    expected = Calendar.of("XNYS").sessions(date(1990, 1, 2), LAST)
    for symbol in world.symbols:
        assert series_of(world, symbol).sessions.tolist() == expected


def test_bars_and_actions_are_plausible(world: World) -> None:
    for symbol in world.symbols:
        series = series_of(world, symbol)
        top = np.maximum(series.open_usd, series.close_usd)
        bottom = np.minimum(series.open_usd, series.close_usd)
        assert (series.high_usd >= top).all()
        assert (series.low_usd <= bottom).all()
        assert (series.low_usd > 0.0).all()
        assert (series.volume_shares >= 100.0).all()
        assert not np.intersect1d(series.split_sessions, series.dividend_sessions).size
        if series.kind == "equity":
            # Share prices of listed companies, not thousandths of a dollar.
            assert 1.0 < np.median(series.close_usd) < 1_000.0
            assert "adjusted_close" not in series.simulated
            assert "close_usd" in series.simulated


def test_a_seed_decides_the_level_and_never_the_returns(
    world: World, real_closes: pd.DataFrame
) -> None:
    again = packaged_world(20221228, benchmark="^GSPC")
    other = packaged_world(7, benchmark="^GSPC")
    one, same, two = (series_of(item, "AAPL") for item in (world, again, other))
    assert np.array_equal(one.close_usd, same.close_usd)
    assert np.array_equal(one.volume_shares, same.volume_shares)
    assert not np.array_equal(one.close_usd, two.close_usd)
    view = other.view("AAPL", LAST)
    assert view is not None
    assert np.allclose(view.adj_close_usd, real_closes["AAPL"].to_numpy(), rtol=1e-12, atol=0.0)
