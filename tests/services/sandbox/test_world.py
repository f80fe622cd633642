from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.services.sandbox.packaged import packaged_world
from marketlake.services.sandbox.world import Series, World, view_of

PRICES = ("open_usd", "high_usd", "low_usd", "close_usd", "volume_shares")


@lru_cache(maxsize=1)
def packaged() -> World:
    return packaged_world(20221228, benchmark="^GSPC")


def series_of(symbol: str) -> Series:
    series = packaged().market(symbol, date(2022, 12, 28))
    assert series is not None
    return series


def known_days() -> st.SearchStrategy[date]:
    return st.dates(date(1990, 1, 2), date(2022, 12, 28))


def share_with_one_split_and_one_dividend() -> Series:
    sessions = np.asarray(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07"], "datetime64[D]")
    close = np.asarray([100.0, 104.0, 53.0, 54.0])
    return Series(
        symbol="X",
        kind="equity",
        sessions=sessions,
        open_usd=close,
        high_usd=close,
        low_usd=close,
        close_usd=close,
        volume_shares=np.asarray([10.0, 10.0, 20.0, 20.0]),
        split_sessions=sessions[2:3],
        split_ratios=np.asarray([2.0]),
        dividend_sessions=sessions[1:2],
        dividends_usd=np.asarray([5.0]),
    )


def test_before_a_split_nothing_knows_of_it() -> None:
    view = view_of(share_with_one_split_and_one_dividend(), date(2020, 1, 3))
    assert view.close_usd.tolist() == [100.0, 104.0]
    assert view.adj_close_usd == pytest.approx([95.0, 104.0])
    assert view.dividends_usd.tolist() == [5.0]
    assert view.split_ratios.size == 0


def test_from_its_ex_date_on_a_split_divides_what_was_before() -> None:
    view = view_of(share_with_one_split_and_one_dividend(), date(2020, 1, 6))
    assert view.close_usd.tolist() == [50.0, 52.0, 53.0]
    assert view.volume_shares.tolist() == [20.0, 20.0, 20.0]
    assert view.adj_close_usd == pytest.approx([47.5, 52.0, 53.0])
    assert view.dividends_usd.tolist() == [2.5]


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(packaged().symbols), known_days())
def test_a_view_shows_no_bar_and_no_action_after_its_session(symbol: str, known: date) -> None:
    view = view_of(series_of(symbol), known)
    for days in (view.sessions, view.split_sessions, view.dividend_sessions):
        assert (days <= np.datetime64(known)).all()


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(packaged().symbols), known_days())
def test_deleting_the_future_changes_no_view(symbol: str, known: date) -> None:
    series = series_of(symbol)
    past = series.sessions <= np.datetime64(known)
    splits = series.split_sessions <= np.datetime64(known)
    paid = series.dividend_sessions <= np.datetime64(known)
    cut = replace(
        series,
        sessions=series.sessions[past],
        **{name: getattr(series, name)[past] for name in PRICES},
        split_sessions=series.split_sessions[splits],
        split_ratios=series.split_ratios[splits],
        dividend_sessions=series.dividend_sessions[paid],
        dividends_usd=series.dividends_usd[paid],
    )
    whole, without = view_of(series, known), view_of(cut, known)
    for name in (*PRICES, "adj_close_usd", "dividends_usd", "split_ratios"):
        assert np.array_equal(getattr(whole, name), getattr(without, name)), name


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(packaged().symbols), known_days())
def test_only_splits_known_by_the_session_are_applied(symbol: str, known: date) -> None:
    series = series_of(symbol)
    view = view_of(series, known)
    expected = series.close_usd[: len(view.sessions)].copy()
    for session, ratio in zip(series.split_sessions, series.split_ratios, strict=True):
        if session <= np.datetime64(known):
            expected[view.sessions < session] /= ratio
    assert np.allclose(view.close_usd, expected, rtol=1e-12, atol=0.0)


def test_the_last_adjusted_close_of_a_view_is_its_close() -> None:
    for symbol in packaged().symbols:
        for days in range(0, 12_000, 997):
            view = view_of(series_of(symbol), date(1990, 1, 2) + timedelta(days=days))
            assert view.adj_close_usd[-1] == view.close_usd[-1]


def test_an_unknown_symbol_has_no_view() -> None:
    assert packaged().view("NOPE", date(2020, 1, 2)) is None
