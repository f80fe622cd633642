"""Yahoo Finance's wire: the chart service, and the cookie and crumb handshake around it.

Histories come split-adjusted as of the clock, with an adjusted close beside them; ``meta`` has one
member that Yahoo's has not: ``simulated``, the quantities that a generator made.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from marketlake.services.sandbox.counter_random import Days, Floats
from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.vendors.wire import (
    Answer,
    Look,
    VendorRequest,
    too_many_requests,
)
from marketlake.services.sandbox.world import Dates, View

_ZONE_NAME = "America/New_York"
_ZONE = ZoneInfo(_ZONE_NAME)
_OPEN = time(9, 30)
_OPEN_SECONDS = 6.5 * 3600
_CHART = re.compile(r"^/v8/finance/chart/([^/]+)$")
_RANGES = {
    "1d": 1,
    "5d": 5,
    "1mo": 21,
    "3mo": 63,
    "6mo": 126,
    "1y": 252,
    "2y": 504,
    "5y": 1260,
    "10y": 2520,
}
_INTERVAL_UNITS = {"1d": "D", "1wk": "W", "1mo": "M", "3mo": "M"}
_COOKIE = (
    "A3=d=AQABBSandbox&S=AQAAAg; Expires=Sun, 31 Dec 2090 23:59:59 GMT; Max-Age=31557600; "
    "Domain=.yahoo.com; Path=/; SameSite=None; Secure; HttpOnly"
)
_CONSENT = (
    b'<html><body><form method="post" action="https://consent.yahoo.com/v2/collectConsent">'
    b'<input type="hidden" name="csrfToken" value="sandbox">'
    b'<input type="hidden" name="sessionId" value="3_cc-session_sandbox">'
    b"</form></body></html>"
)


class Yahoo:
    """Yahoo Finance, as the yfinance client meets it."""

    name = "yahoo"
    hosts = frozenset(
        {
            "fc.yahoo.com",
            "query1.finance.yahoo.com",
            "query2.finance.yahoo.com",
            "guce.yahoo.com",
            "consent.yahoo.com",
            "finance.yahoo.com",
        }
    )
    main_host = "query2.finance.yahoo.com"

    def symbol(self, request: VendorRequest) -> str:
        """Return the symbol of a chart request."""
        match = _CHART.match(request.path)
        return match[1] if match else ""

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return the market as it is."""
        return view

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Answer the handshake, charts, and everything else with Yahoo's 404."""
        if request.host in {"guce.yahoo.com", "consent.yahoo.com"}:
            return Answer(200, _CONSENT, {"Content-Type": "text/html"})
        if request.host == "fc.yahoo.com":
            return Answer(404, b"", {"Set-Cookie": _COOKIE, "Content-Type": "text/html"})
        if request.path == "/v1/test/getcrumb":
            return Answer(200, b"sandbox.crumb", {"Content-Type": "text/plain;charset=utf-8"})
        symbol = self.symbol(request)
        if symbol:
            return _chart_answer(symbol, request.query, look(symbol))
        return Answer.of_json(_error("finance", "Not Found", "No data found"), status=404)

    def refusal(self, status: int) -> bytes:
        """Return Yahoo's wording of a refusal."""
        if status == 429:
            return b"Edge: Too Many Requests"
        if status == 401:
            return Answer.of_json(_error("finance", "Unauthorized", "Invalid Crumb")).body
        return b"<html><body>Internal Server Error</body></html>"

    def over_limit(self, span: Span) -> Answer:
        """Return a 429."""
        return too_many_requests(self, span)

    def soft_limit(self, wording: str) -> bytes:
        """Return Yahoo's refusal: it knows no other words than under a 429."""
        return self.refusal(429)


def _error(member: str, code: str, description: str) -> dict[str, Any]:
    return {member: {"result": None, "error": {"code": code, "description": description}}}


def _chart_answer(symbol: str, query: Mapping[str, str], view: View | None) -> Answer:
    if view is None or not view.sessions.size:
        description = "No data found, symbol may be delisted"
        return Answer.of_json(_error("chart", "Not Found", description), status=404)
    interval = query.get("interval", "1d")
    if interval not in _INTERVAL_UNITS:
        description = f"Invalid input - interval={interval} is not supported"
        return Answer.of_json(_error("chart", "Unprocessable Entity", description), status=422)
    first, last = _span(query, view)
    stamps = _open_stamps(view.sessions)
    asked = view.rows((stamps >= first) & (stamps < last))
    if interval != "1d":
        asked = _coarser(asked, interval)
    result: dict[str, Any] = {"meta": _meta(symbol, interval, query, view)}
    result["indicators"] = {"quote": [{}]}
    if asked.sessions.size:
        result |= _bars(asked)
    events = _events(view, first, last, query.get("events", ""))
    if events:
        result["events"] = events
    return Answer.of_json({"chart": {"result": [result], "error": None}})


def _span(query: Mapping[str, str], view: View) -> tuple[float, float]:
    if "period1" in query:
        return float(query["period1"]), float(query.get("period2", "inf"))
    length = _RANGES.get(query.get("range", "1mo"), len(view.sessions))
    return float(_open_stamps(view.sessions[-length:][:1])[0]), math.inf


@lru_cache(maxsize=32768)
def _open_stamp(day: int) -> int:
    session = date.fromordinal(day + date(1970, 1, 1).toordinal())
    return int(datetime.combine(session, _OPEN, tzinfo=_ZONE).astimezone(UTC).timestamp())


def _open_stamps(sessions: Dates) -> Days:
    days = sessions.astype("datetime64[D]").astype(np.int64).tolist()
    return np.asarray([_open_stamp(day) for day in days], dtype=np.int64)


def _coarser(view: View, interval: str) -> View:
    """Return a view of weekly, monthly or quarterly bars, each stamped with its first session."""
    if interval == "1wk":
        # 1970-01-01 was a Thursday: three days later the weeks begin on Mondays.
        period = (view.sessions.astype("datetime64[D]").astype(np.int64) + 3) // 7
    else:
        months = view.sessions.astype("datetime64[M]").astype(np.int64)
        period = months // (3 if interval == "3mo" else 1)
    starts = np.flatnonzero(np.diff(period, prepend=period[:1] - 1))
    ends = np.append(starts[1:], len(period)) - 1
    if not starts.size:
        return view
    return replace(
        view,
        sessions=view.sessions[starts],
        open_usd=view.open_usd[starts],
        high_usd=np.fmax.reduceat(view.high_usd, starts),
        low_usd=np.fmin.reduceat(view.low_usd, starts),
        close_usd=view.close_usd[ends],
        adj_close_usd=view.adj_close_usd[ends],
        volume_shares=np.add.reduceat(view.volume_shares, starts),
    )


def _meta(symbol: str, interval: str, query: Mapping[str, str], view: View) -> dict[str, Any]:
    latest = int(_open_stamps(view.sessions[-1:])[0] + _OPEN_SECONDS)
    local = datetime.fromtimestamp(latest, UTC).astimezone(_ZONE)
    offset = local.utcoffset()
    index = view.kind == "index"
    meta = {
        "currency": view.currency,
        "symbol": symbol,
        "exchangeName": "SNP" if index else "NYQ",
        "instrumentType": "INDEX" if index else "EQUITY",
        "firstTradeDate": int(_open_stamps(view.sessions[:1])[0]),
        "regularMarketTime": latest,
        "gmtoffset": int(offset.total_seconds()) if offset else 0,
        "timezone": local.tzname(),
        "exchangeTimezoneName": _ZONE_NAME,
        "regularMarketPrice": _number(float(view.close_usd[-1])),
        "priceHint": 2,
        "dataGranularity": interval,
        "range": query.get("range", ""),
        "validRanges": [*_RANGES, "ytd", "max"],
    }
    if view.simulated:
        meta["simulated"] = list(view.simulated)
    return meta


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _column(values: Floats) -> list[float | None]:
    return [_number(value) for value in values.tolist()]


def _bars(view: View) -> dict[str, Any]:
    quote = {
        "open": _column(view.open_usd),
        "high": _column(view.high_usd),
        "low": _column(view.low_usd),
        "close": _column(view.close_usd),
        "volume": [None if value is None else int(value) for value in _column(view.volume_shares)],
    }
    return {
        "timestamp": _open_stamps(view.sessions).tolist(),
        "indicators": {"quote": [quote], "adjclose": [{"adjclose": _column(view.adj_close_usd)}]},
    }


def _events(view: View, first: float, last: float, wanted: str) -> dict[str, Any]:
    events: dict[str, Any] = {}
    if "div" in wanted:
        stamps = _open_stamps(view.dividend_sessions)
        paid = {
            str(stamp): {"amount": amount, "date": stamp}
            for stamp, amount in zip(stamps.tolist(), view.dividends_usd.tolist(), strict=True)
            if first <= stamp < last
        }
        if paid:
            events["dividends"] = paid
    if "split" in wanted:
        stamps = _open_stamps(view.split_sessions)
        split = {
            str(stamp): {"date": stamp, **_split_terms(ratio)}
            for stamp, ratio in zip(stamps.tolist(), view.split_ratios.tolist(), strict=True)
            if first <= stamp < last
        }
        if split:
            events["splits"] = split
    return events


def _split_terms(ratio: float) -> dict[str, Any]:
    numerator, denominator = (ratio, 1.0) if ratio >= 1.0 else (1.0, 1.0 / ratio)
    return {
        "numerator": numerator,
        "denominator": denominator,
        "splitRatio": f"{numerator:g}:{denominator:g}",
    }
