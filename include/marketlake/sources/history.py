"""What every source gives: bars, actions and observations in one shape, and what they came from.

What does not belong here: how a vendor is asked, and any judgement of the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from marketlake.calendars import Calendar
from marketlake.sources.recording import Exchange, VendorCall

LEAD = timedelta(days=10)
"""How much earlier than asked a vendor is asked, so that the first bar has a close before it."""

_FIRST_COVERED = date(1990, 1, 1)
_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_VALUES = (*_PRICES, "adj_close_usd", "volume_shares")
_ACTION_QUANTITIES = {"split": "split_ratio", "dividend": "dividend_usd"}
_BAR_SCHEMA: dict[str, Any] = {
    "session": pl.Date,
    "symbol": pl.String,
    **dict.fromkeys(_VALUES, pl.Float64),
    "previous_close_usd": pl.Float64,
    "simulated_fields": pl.List(pl.String),
}
_ACTION_SCHEMA: dict[str, Any] = {
    "session": pl.Date,
    "symbol": pl.String,
    "kind": pl.String,
    "split_ratio": pl.Float64,
    "dividend_usd": pl.Float64,
    "simulated_fields": pl.List(pl.String),
}
_RESPONSE_SCHEMA: dict[str, Any] = {
    "symbol": pl.String,
    "request_no": pl.Int64,
    "method": pl.String,
    "url": pl.String,
    "status": pl.Int64,
    "body": pl.Binary,
    "body_sha256": pl.String,
}
_OBSERVATION_SCHEMA: dict[str, Any] = {
    "session": pl.Date,
    "symbol": pl.String,
    "value": pl.Float64,
    "simulated_fields": pl.List(pl.String),
}


@dataclass(frozen=True)
class Action:
    """A split (new shares per old) or a dividend (USD a share) on its ex-date."""

    session: date
    kind: str
    amount: float


def no_bars() -> pl.DataFrame:
    """Return an empty frame of bars."""
    return pl.DataFrame(schema=_BAR_SCHEMA)


def no_actions() -> pl.DataFrame:
    """Return an empty frame of actions."""
    return pl.DataFrame(schema=_ACTION_SCHEMA)


def no_observations() -> pl.DataFrame:
    """Return an empty frame of observations."""
    return pl.DataFrame(schema=_OBSERVATION_SCHEMA)


@dataclass(frozen=True)
class SourceHistory:
    """What one vendor said about one symbol.

    ``bars``, ``actions`` and ``observations`` (of a publisher of single values, such as FRED) cover
    the sessions asked for; ``later_splits`` are splits after them that the vendor has already
    applied to the bars. ``responses`` are the answers that these were read from (one about several
    symbols is kept under the first of them), ``calls`` every request that was made.
    """

    symbol: str
    bars: pl.DataFrame
    actions: pl.DataFrame
    later_splits: pl.DataFrame
    responses: list[dict[str, Any]]
    calls: list[VendorCall]
    observations: pl.DataFrame = field(default_factory=no_observations)


def lead_start(first: date) -> date:
    """Return from when a vendor is asked for bars that begin at ``first``."""
    return max(first - LEAD, _FIRST_COVERED)


def bar_frame(
    symbol: str,
    days: Sequence[date],
    values: Mapping[str, npt.NDArray[np.float64]],
    first: date,
    last: date,
    *,
    calendar: Calendar,
    simulated: Iterable[str] = (),
) -> pl.DataFrame:
    """Return the bars of a span; NaN, and a value that the vendor does not give, becomes null.

    ``days`` may begin before ``first``: those bars only give the close before.
    """
    before = dict(pairwise(reversed(calendar.sessions(lead_start(first), last))))
    absent = np.full(len(days), np.nan)
    closes: dict[date | None, float] = dict(
        zip(days, values.get("close_usd", absent).tolist(), strict=True)
    )
    kept = np.asarray([first <= day <= last for day in days], dtype=bool)
    inside = [day for day in days if first <= day <= last]
    own = [name for name in simulated if name not in _ACTION_QUANTITIES.values()]
    return pl.DataFrame(
        {
            "session": inside,
            "symbol": [symbol] * len(inside),
            **{name: values.get(name, absent)[kept] for name in _VALUES},
            "previous_close_usd": np.asarray(
                [closes.get(before.get(day), np.nan) for day in inside], dtype=np.float64
            ),
            "simulated_fields": [own] * len(inside),
        },
        schema=_BAR_SCHEMA,
        nan_to_null=True,
    ).sort("session")


def action_frame(
    symbol: str, actions: Iterable[Action], simulated: Sequence[str] = ()
) -> pl.DataFrame:
    """Return actions by ex-date and kind."""
    rows = [
        {
            "session": item.session,
            "symbol": symbol,
            "kind": item.kind,
            "split_ratio": item.amount if item.kind == "split" else None,
            "dividend_usd": item.amount if item.kind == "dividend" else None,
            "simulated_fields": [
                name for name in simulated if name == _ACTION_QUANTITIES[item.kind]
            ],
        }
        for item in actions
    ]
    return pl.DataFrame(rows, schema=_ACTION_SCHEMA).sort("session", "kind")


def observation_frame(
    symbol: str,
    values: Mapping[date, float | None],
    first: date,
    last: date,
    *,
    simulated: Sequence[str] = (),
) -> pl.DataFrame:
    """Return the observations of a span; a day without a value is no observation."""
    told = {
        day: value
        for day, value in sorted(values.items())
        if value is not None and first <= day <= last
    }
    return pl.DataFrame(
        {
            "session": list(told),
            "symbol": [symbol] * len(told),
            "value": list(told.values()),
            "simulated_fields": [["value"] if simulated else []] * len(told),
        },
        schema=_OBSERVATION_SCHEMA,
    )


def response_rows(symbol: str, answers: Iterable[Exchange]) -> list[dict[str, Any]]:
    """Return answers as rows of a vendor's response contract."""
    return [
        {
            "symbol": symbol,
            "request_no": number,
            "method": item.method,
            "url": item.url,
            "status": item.status,
            "body": item.body,
            "body_sha256": item.body_sha256,
        }
        for number, item in enumerate(answers)
    ]


def response_frame(rows: Sequence[Mapping[str, Any]] = ()) -> pl.DataFrame:
    """Return rows of :func:`response_rows` as a frame."""
    return pl.DataFrame(rows, schema=_RESPONSE_SCHEMA)
