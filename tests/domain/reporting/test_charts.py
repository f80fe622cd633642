from __future__ import annotations

import re
from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marketlake.domain.reporting import charts

_FINITE = st.floats(-1e6, 1e6, allow_nan=False, allow_infinity=False)


@given(low=_FINITE, span=st.floats(1e-3, 1e6))
def test_ticks_ascend_inside_the_range_and_are_few(low: float, span: float) -> None:
    ticks = charts.nice_ticks(low, low + span)
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 7
    slack = span * 1e-6
    assert all(low - slack <= tick <= low + span + slack for tick in ticks)


def test_ticks_are_round_numbers() -> None:
    assert charts.nice_ticks(87.2, 108.0) == [90.0, 95.0, 100.0, 105.0]
    assert charts.nice_ticks(-0.31, 0.0) == pytest.approx([-0.3, -0.2, -0.1, 0.0])


def test_months_are_labelled_at_their_first_session() -> None:
    days = [date(2022, 1, 3) + timedelta(days=i) for i in range(0, 360, 1)]
    assert charts.month_ticks(days, most=4) == [
        (days.index(date(2022, 4, 1)), "Apr 2022"),
        (days.index(date(2022, 7, 1)), "Jul 2022"),
        (days.index(date(2022, 10, 1)), "Oct 2022"),
    ]


@given(st.integers(2, 3000), st.integers(2, 8))
def test_month_labels_never_crowd(length: int, most: int) -> None:
    days = [date(2011, 1, 3) + timedelta(days=i) for i in range(length)]
    assert len(charts.month_ticks(days, most=most)) <= most + 1


@given(st.tuples(_FINITE, _FINITE, _FINITE, _FINITE))
def test_interval_stays_in_its_box(numbers: tuple[float, float, float, float]) -> None:
    value, low, high, reference = numbers
    low, high = min(low, high), max(low, high)
    drawn = charts.interval(value, low, high, reference=reference, within=(-1.0, 1.0))
    assert all(0 <= float(left) <= 100 for left in re.findall(r"left:([\d.-]+)%", drawn))


def test_diverging_bar_grows_left_for_losses_and_right_for_gains() -> None:
    assert "left:25.00%;width:25.00%" in charts.diverging_bar(-2.0, largest=4.0)
    assert "left:50.00%;width:50.00%" in charts.diverging_bar(4.0, largest=4.0)
    assert "width:0.00%" in charts.diverging_bar(0.0, largest=0.0)


def test_line_chart_puts_the_highest_value_on_top() -> None:
    days = [date(2022, 1, 3) + timedelta(days=i) for i in range(3)]
    drawn = charts.line_chart(
        days, [100.0, 120.0, 80.0], label="a < b", format_tick=str, base=100.0, tone="book"
    )
    line = re.search(r'polyline class="line book" points="([^"]+)"', drawn)
    assert line is not None
    x, y = zip(*(map(float, point.split(",")) for point in line[1].split()), strict=True)
    assert x == (0.0, 500.0, 1000.0)
    assert 0 < y[1] < y[0] < y[2] < 200
    assert 'aria-label="a &lt; b"' in drawn


def test_a_line_of_intervals_puts_shares_across_values_up_and_the_reference_among_them() -> None:
    drawn = charts.line_of_intervals(
        [(0.25, 0.54, 0.50, 0.58), (1.0, 0.52, 0.51, 0.53)],
        label="a < b",
        format_tick=str,
        reference=0.49,
    )
    line = re.search(r'polyline class="line book" points="([^"]+)"', drawn)
    assert line is not None
    x, y = zip(*(map(float, point.split(",")) for point in line[1].split()), strict=True)
    assert x == (250.0, 1000.0)
    base = re.search(r'y1="([\d.]+)" y2="[\d.]+" class="base dashed"', drawn)
    assert base is not None
    assert 0 < y[0] < y[1] < float(base[1]) < 200
    ends = re.findall(r'y1="([\d.]+)" y2="([\d.]+)" class="range"', drawn)
    assert all(float(top) < at < float(bottom) for (top, bottom), at in zip(ends, y, strict=True))
    assert 'aria-label="a &lt; b"' in drawn


def test_a_line_of_one_interval_of_no_width_is_drawn() -> None:
    drawn = charts.line_of_intervals(
        [(1.0, 0.5, 0.5, 0.5)], label="one", format_tick=str, reference=0.5
    )
    assert 'class="dot" style="left:100.00%;top:50.00%"' in drawn
