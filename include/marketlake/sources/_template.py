"""A source to copy: one vendor, here one that serves a CSV of daily bars and wants a key.

Copy it to ``sources/<vendor>.py`` and go through the comments; docs/adding-a-source.md has the
other places. First line: the vendor, its client, and what one must know of it (traps that were
hit). What does not belong here: retries, and any judgement of the values.
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

# The vendor's names of what we have; a column that it does not have is null in the bars.
_COLUMNS = {
    "open": "open_usd",
    "high": "high_usd",
    "low": "low_usd",
    "close": "close_usd",
    "volume": "volume_shares",
}


def fetch_history(
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: StooqSettings,  # a section of settings.py of your own, with ``api_key: SecretStr``
    on_call: Callable[[VendorCall], None],
) -> SourceHistory:
    """Fetch a symbol's bars from ``first`` to ``last``, both included.

    Raises an error of the tree for every failure.
    """
    # Every error of this work is made by one object, which knows what no message may repeat:
    # Failures(..., credentials=("MARKETLAKE_<VENDOR>__API_KEY",), secrets=(the key's value,)).
    failures = Failures("template", "The Vendor", symbol, settings.timeout_s)
    # Build the request: with an explicit end, and a few days more before the first bar.
    url = f"{address(settings.base_url, as_of)}/daily.csv"
    span = {"symbol": symbol, "from": lead_start(first).isoformat(), "to": last.isoformat()}
    # Fetch: this session is bounded, recorded and redirected. A client library is given it in the
    # place of its own (see ``alpha_vantage`` and ``iex``), and its own retries are switched off.
    with open_session(egress, as_of, timeout_s=settings.timeout_s, on_call=on_call) as session:
        # The status comes before the body; ``refused=`` makes errors of a vendor's own wording.
        answer = failures.get(session, url, span)
        try:
            days, values = _columns(answer.body)
        except UNREADABLE as error:
            raise failures.unreadable(answer, error) from error
        if not days:
            raise failures.error(
                EmptyAnswer, "bars", "none", "check that the symbol traded in this span"
            )
        return SourceHistory(
            symbol=symbol,
            bars=bar_frame(
                symbol, days, values, first, last, calendar=calendar, simulated=answer.simulated
            ),
            # What the vendor says of splits and dividends, on their ex-dates.
            actions=action_frame(symbol, ()),
            later_splits=action_frame(symbol, ()),
            responses=response_rows(symbol, [answer]),
            calls=session.calls,
        )


def _columns(body: bytes) -> tuple[list[date], dict[str, npt.NDArray[np.float64]]]:
    """Parse: anything but the documented shape raises, and half an answer is not one."""
    head, *rows = csv_rows(body)
    if head != ["date", *_COLUMNS]:
        raise ValueError(f"the columns {head}")
    if {len(row) for row in rows} - {len(head)}:
        raise ValueError("rows of different lengths")
    values = {
        name: np.asarray([float(row[i] or "nan") for row in rows])
        for i, name in enumerate(_COLUMNS.values(), start=1)
    }
    return [date.fromisoformat(row[0]) for row in rows], values


def source(settings: Settings) -> Source:
    """Return the vendor as these settings reach it."""
    own = settings.stooq
    fetch: FetchOne = partial(fetch_history, egress=settings.egress, settings=own)
    return Source(
        name="template",
        vendor="The Vendor",
        # What its numbers mean: consensus compares like with like by this alone.
        semantics=Semantics(
            basis="as_traded", close="auction", volume="consolidated", lag_minutes=own.lag_minutes
        ),
        # dated=False where a request has no dates, so that one call brings them all.
        plan=CallPlan(a_day=own.calls_a_day),
        fetch=one_by_one(fetch),
        # kinds=frozenset({"equity", "index"}) where it lists more than shares
        # credentials=(name,), not_configured=missing(**{name: own.api_key})
    )
