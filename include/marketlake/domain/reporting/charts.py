"""Small charts as HTML and SVG text: no fonts, no scripts, no dates, the same bytes every time.

Shapes are SVG stretched to the box they are given, labels are HTML placed over it by percentage:
so text keeps its size on a phone and colours follow the page's light or dark scheme. What does not
belong here: numbers that are not given, and page layout.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date
from html import escape

_WIDTH = 1000.0
_HEIGHT = 200.0
_NO_LABEL_SHARE = 0.04


def nice_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Return round numbers inside [low, high], about ``count`` of them."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [index * step for index in range(first, last + 1)]


def month_ticks(sessions: Sequence[date], *, most: int = 5) -> list[tuple[int, str]]:
    """Return (position, label) of the first session of evenly chosen months, at most ``most``."""
    # A label at either end would hang over the edge of the chart.
    edge = math.ceil(len(sessions) * _NO_LABEL_SHARE)
    starts = [
        index
        for index in range(max(1, edge), len(sessions) - edge)
        if sessions[index].month != sessions[index - 1].month
    ]
    stride = max(1, math.ceil(len(starts) / most))
    # Counting months from January keeps the labels at quarter and year starts.
    wide = next(size for size in (1, 2, 3, 4, 6, 12, 24, 48, 96, 1200) if size >= stride)
    return [
        (index, f"{sessions[index]:%b %Y}")
        for index in starts
        if (sessions[index].year * 12 + sessions[index].month - 1) % wide == 0
    ]


def line_chart(
    sessions: Sequence[date],
    values: Sequence[float],
    *,
    label: str,
    format_tick: Callable[[float], str],
    base: float,
    tone: str,
) -> str:
    """Return a line with its area down (or up) to ``base`` as an HTML fragment.

    Parameters
    ----------
    sessions, values
        Same length, at least two; finite values.
    label
        What a screen reader says for the picture.
    base
        Value of the reference line, included in the scale.
    tone
        CSS class of the line: ``book`` or ``loss``.
    """
    low, high = min(*values, base), max(*values, base)
    pad = (high - low) * 0.06 or 1.0
    low, high = (low - pad if low < base else low), (high + pad if high > base else high)

    def down(value: float) -> float:
        return (high - value) / (high - low) * _HEIGHT

    step = _WIDTH / (len(values) - 1)
    points = " ".join(f"{i * step:.2f},{down(v):.2f}" for i, v in enumerate(values))
    zero = f"{down(base):.2f}"
    grid, marks = [], []
    for tick in nice_ticks(low, high):
        y = down(tick)
        grid.append(f'<line x1="0" x2="1000" y1="{y:.2f}" y2="{y:.2f}" class="grid"/>')
        marks.append(
            f'<span class="y" style="top:{y / _HEIGHT * 100:.2f}%">'
            f"{escape(format_tick(tick))}</span>"
        )
    for index, text in month_ticks(sessions):
        x = index * step
        grid.append(f'<line x1="{x:.2f}" x2="{x:.2f}" y1="0" y2="200" class="grid"/>')
        marks.append(f'<span class="x" style="left:{x / _WIDTH * 100:.2f}%">{escape(text)}</span>')
    return (
        f'<div class="chart"><svg viewBox="0 0 1000 200" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(grid)}'
        f'<polygon class="area {tone}" points="0,{zero} {points} 1000,{zero}"/>'
        f'<line x1="0" x2="1000" y1="{zero}" y2="{zero}" class="base"/>'
        f'<polyline class="line {tone}" points="{points}"/></svg>{"".join(marks)}</div>'
    )


def line_of_intervals(
    points: Sequence[tuple[float, float, float, float]],
    *,
    label: str,
    format_tick: Callable[[float], str],
    reference: float,
) -> str:
    """Return values over shares of a whole, each with its interval, and a reference line.

    Parameters
    ----------
    points
        (share, value, low, high), at least one; shares from 0 to 1, ascending; finite.
    label
        What a screen reader says for the picture.
    reference
        Value of the dashed line, included in the scale.
    """
    low = min(reference, *(point[2] for point in points))
    high = max(reference, *(point[3] for point in points))
    pad = (high - low) * 0.08 or 1.0
    low, high = low - pad, high + pad

    def down(value: float) -> float:
        return (high - value) / (high - low) * _HEIGHT

    shapes, marks = [], []
    for tick in nice_ticks(low, high):
        y = down(tick)
        shapes.append(f'<line x1="0" x2="1000" y1="{y:.2f}" y2="{y:.2f}" class="grid"/>')
        marks.append(
            f'<span class="y" style="top:{y / _HEIGHT * 100:.2f}%">'
            f"{escape(format_tick(tick))}</span>"
        )
    marks += [
        f'<span class="x" style="left:{quarter}%">{quarter} %</span>'
        for quarter in (0, 25, 50, 75, 100)
    ]
    for share, value, lower, upper in points:
        x = share * _WIDTH
        shapes.append(
            f'<line x1="{x:.2f}" x2="{x:.2f}" y1="{down(upper):.2f}" y2="{down(lower):.2f}" '
            'class="range"/>'
        )
        marks.append(
            f'<i class="dot" style="left:{100 * share:.2f}%;'
            f'top:{down(value) / _HEIGHT * 100:.2f}%"></i>'
        )
    at = f"{down(reference):.2f}"
    line = " ".join(f"{share * _WIDTH:.2f},{down(value):.2f}" for share, value, _, _ in points)
    return (
        f'<div class="chart"><svg viewBox="0 0 1000 200" preserveAspectRatio="none" role="img" '
        f'aria-label="{escape(label)}">{"".join(shapes)}'
        f'<line x1="0" x2="1000" y1="{at}" y2="{at}" class="base dashed"/>'
        f'<polyline class="line book" points="{line}"/></svg>{"".join(marks)}</div>'
    )


def interval(
    value: float, low: float, high: float, *, reference: float, within: tuple[float, float]
) -> str:
    """Return a whisker from ``low`` to ``high`` with a dot at ``value`` and a tick at a reference.

    Positions outside ``within`` are drawn at its ends.
    """

    def at(number: float) -> float:
        share = (number - within[0]) / (within[1] - within[0])
        return 100.0 * min(1.0, max(0.0, share))

    left, right = at(low), at(high)
    return (
        '<span class="whisker" aria-hidden="true">'
        f'<i class="ref" style="left:{at(reference):.2f}%"></i>'
        f'<i class="range" style="left:{left:.2f}%;width:{max(right - left, 0.5):.2f}%"></i>'
        f'<i class="dot" style="left:{at(value):.2f}%"></i></span>'
    )


def diverging_bar(value: float, *, largest: float) -> str:
    """Return a bar that grows right of the middle when positive and left of it when negative."""
    share = 50.0 * min(1.0, abs(value) / largest) if largest > 0 else 0.0
    left = 50.0 if value >= 0 else 50.0 - share
    tone = "long" if value >= 0 else "short"
    return (
        '<span class="diverging" aria-hidden="true">'
        f'<i class="{tone}" style="left:{left:.2f}%;width:{share:.2f}%"></i></span>'
    )


def bar(value: float, *, largest: float) -> str:
    """Return a bar from the left whose length is ``value`` in units of ``largest``."""
    share = 100.0 * min(1.0, max(0.0, value / largest)) if largest > 0 else 0.0
    return f'<span class="bar" aria-hidden="true"><i style="width:{share:.2f}%"></i></span>'
