"""Stooq's CSV of daily bars: shares and indices, adjusted for splits and dividends.

Everything comes as HTTP 200: bars, "No data" (for an unknown symbol and for an empty span alike)
and the refusal of too many downloads. What does not belong here: retries, judgement of values.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np
import numpy.typing as npt

from marketlake.calendars import Calendar
from marketlake.errors import EmptyAnswer
from marketlake.settings import EgressSettings, Settings, StooqSettings
from marketlake.sources.failures import UNREADABLE, Failures, csv_rows
from marketlake.sources.history import (
    SourceHistory,
    action_frame,
    bar_frame,
    lead_start,
    response_rows,
)
from marketlake.sources.recording import VendorCall, address, open_session
from marketlake.sources.source import CallPlan, FetchOne, Source, one_by_one
from marketlake.types import Semantics

_INDICES = {"^GSPC": "^spx", "^IXIC": "^ndq", "^DJI": "^dji"}
_COLUMNS = {
    "Open": "open_usd",
    "High": "high_usd",
    "Low": "low_usd",
    "Close": "close_usd",
    "Volume": "volume_shares",
}
_NOTHING, _TOO_MANY = b"No data", b"Exceeded the daily hits limit"


def fetch_history(
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: StooqSettings,
    on_call: Callable[[VendorCall], None],
) -> SourceHistory:
    """Fetch a symbol's bars from ``first`` to ``last``, both included.

    Raises an error of the tree for every failure; a symbol that Stooq does not know is an
    ``EmptyAnswer``, because Stooq does not tell it from an empty span.
    """
    failures = Failures("stooq", "Stooq", symbol, settings.timeout_s)
    base_url = address(settings.base_url, as_of)
    parameters = {
        "s": _INDICES.get(symbol) or f"{symbol.lower()}.us",
        "i": "d",
        "d1": f"{lead_start(first):%Y%m%d}",
        "d2": f"{last:%Y%m%d}",
    }
    with open_session(egress, as_of, timeout_s=settings.timeout_s, on_call=on_call) as session:
        answer = failures.get(session, f"{base_url}/q/d/l/", parameters)
        if answer.body.startswith(_TOO_MANY):
            raise failures.rate_limited(answer.body.decode())
        if answer.body.startswith(_NOTHING):
            raise failures.error(
                EmptyAnswer, "bars", "'No data'", "check the symbol, and that it traded in the span"
            )
        try:
            days, values = _columns(answer.body)
        except UNREADABLE as error:
            raise failures.unreadable(answer, error) from error
        return SourceHistory(
            symbol=symbol,
            bars=bar_frame(
                symbol, days, values, first, last, calendar=calendar, simulated=answer.simulated
            ),
            actions=action_frame(symbol, ()),
            later_splits=action_frame(symbol, ()),
            responses=response_rows(symbol, [answer]),
            calls=session.calls,
        )


def _columns(body: bytes) -> tuple[list[date], dict[str, npt.NDArray[np.float64]]]:
    head, *rows = csv_rows(body)
    if head not in (["Date", *_COLUMNS], ["Date", *list(_COLUMNS)[:-1]]):
        raise ValueError(f"the columns {head[:8]}")
    table = np.asarray([[float(text or "nan") for text in row[1:]] for row in rows])
    values = {_COLUMNS[name]: table[:, i] for i, name in enumerate(head[1:])}
    # Its closes are adjusted for dividends too.
    values["adj_close_usd"] = values["close_usd"]
    return [date.fromisoformat(row[0]) for row in rows], values


def source(settings: Settings) -> Source:
    """Return Stooq as these settings reach it."""
    fetch: FetchOne = partial(fetch_history, egress=settings.egress, settings=settings.stooq)
    return Source(
        name="stooq",
        vendor="Stooq",
        semantics=Semantics(
            basis="total_return",
            close="auction",
            volume="consolidated",
            lag_minutes=settings.stooq.lag_minutes,
            volume_follows_dividends=True,
        ),
        plan=CallPlan(a_day=settings.stooq.calls_a_day),
        fetch=one_by_one(fetch),
        kinds=frozenset({"equity", "index"}),
    )
