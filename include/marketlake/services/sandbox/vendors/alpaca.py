"""Alpaca's market data wire: ``/v2/stocks/bars`` of the IEX exchange, in pages.

A bar is stamped with midnight in New York, in UTC. Symbols without bars are left out, whether the
vendor knows them or not. The volume is that of one exchange.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.replicas import one_venue, replica
from marketlake.services.sandbox.vendors.wire import (
    BAD_KEY,
    Answer,
    Look,
    VendorRequest,
    between,
    class_share,
    simulated_header,
    too_many_requests,
)
from marketlake.services.sandbox.world import View

_ZONE = ZoneInfo("America/New_York")
_SYMBOL = re.compile(r"^[A-Z][A-Z0-9.]*$")
_LARGEST_PAGE = 10_000
_ADJUSTMENTS = frozenset({"raw", "split", "all"})


class Alpaca:
    """Alpaca's data API with ``feed=iex``, as the alpaca-py client meets it."""

    name = "iex"
    hosts = frozenset({"data.alpaca.markets"})
    main_host = "data.alpaca.markets"

    def symbol(self, request: VendorRequest) -> str:
        """Return the symbols of a bars request."""
        return class_share(request.query.get("symbols", ""), mark=".")

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return the market with small differences and one exchange's part of the volume."""
        seen = replica(view, self.name, seed=seed, difference_bps=difference_bps)
        return one_venue(seen, self.name, seed=seed)

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Answer daily bars; other paths as not found."""
        keys = [
            request.headers.get(name, "") for name in ("APCA-API-KEY-ID", "APCA-API-SECRET-KEY")
        ]
        if not all(keys) or any(key.startswith(BAD_KEY) for key in keys):
            return Answer(401, self.refusal(401), {"Content-Type": "application/json"})
        if request.path != "/v2/stocks/bars":
            return _refused(404, "endpoint not found.")
        query = request.query
        wrong = _wrong(query)
        if wrong is not None:
            return wrong
        adjustment = query.get("adjustment", "raw")
        views: list[tuple[str, View]] = []
        for name in sorted(query["symbols"].split(",")):
            view = look(class_share(name, mark="."))
            if view is not None and view.kind != "index":
                first, last = _span(query.get("start", ""), query.get("end", ""))
                shown = between(view, first, last)
                views.append((name, _adjusted(shown, adjustment)))
        return _page(views, query.get("limit", ""), query.get("page_token", ""))

    def refusal(self, status: int) -> bytes:
        """Return Alpaca's wording of a refusal."""
        words = {401: "unauthorized.", 429: "too many requests."}
        return json.dumps({"message": words.get(status, "internal server error")}).encode()

    def over_limit(self, span: Span) -> Answer:
        """Return a 429."""
        return too_many_requests(self, span)

    def soft_limit(self, wording: str) -> bytes:
        """Return the words of a 429: Alpaca has no others."""
        return self.refusal(429)


def _refused(status: int, message: str, **more: Any) -> Answer:
    return Answer.of_json({**more, "message": message}, status=status)


def _wrong(query: Any) -> Answer | None:
    """Return the refusal of a request's parameters; None when they are right."""
    if query.get("timeframe") != "1Day":
        return _refused(400, f"invalid timeframe: {query.get('timeframe')}")
    if query.get("feed") != "iex":
        message = "subscription does not permit querying recent SIP data"
        return _refused(403, message, code=42210000)
    if query.get("adjustment", "raw") not in _ADJUSTMENTS:
        return _refused(400, f"invalid adjustment: {query['adjustment']}")
    for name in query.get("symbols", "").split(","):
        if not _SYMBOL.match(name):
            return _refused(400, f"invalid symbol: {name}")
    return None


def _span(start: str, end: str) -> tuple[str, str]:
    """Return the first and last day whose midnight in New York lies between two instants."""
    first = last = ""
    if start:
        begins = _instant(start)
        first = str(begins.date() + timedelta(days=begins.time() > time()))
    if end:
        last = str(_instant(end).date())
    return first, last


def _instant(text: str) -> datetime:
    instant = datetime.fromisoformat(text)
    # A day alone is its midnight in New York.
    return instant.astimezone(_ZONE) if instant.tzinfo else instant.replace(tzinfo=_ZONE)


def _adjusted(view: View, adjustment: str) -> View:
    if adjustment == "raw":
        return view.as_traded()
    if adjustment == "split":
        return view
    return view.totalled()


def _page(views: list[tuple[str, View]], limit: str, token: str) -> Answer:
    length = min(int(limit or 1000), _LARGEST_PAGE)
    try:
        start = int(base64.b64decode(token, validate=True)) if token else 0
    except (ValueError, binascii.Error):
        return _refused(400, "invalid page_token")
    bars: dict[str, list[dict[str, Any]]] = {}
    skipped = 0
    for name, view in views:
        first = max(start - skipped, 0)
        skipped += len(view.sessions)
        room = length - sum(map(len, bars.values()))
        if room > 0 and first < len(view.sessions):
            bars[name] = list(_bars(view))[first : first + room]
    end = start + sum(map(len, bars.values()))
    more = end < sum(len(view.sessions) for _, view in views)
    following = base64.b64encode(str(end).encode()).decode() if more else None
    answer = Answer.of_json({"bars": bars, "next_page_token": following})
    simulated = simulated_header(*(view for _, view in views))
    return Answer(answer.status, answer.body, {**answer.headers, **simulated})


def _bars(view: View) -> Iterator[dict[str, Any]]:
    columns = (view.open_usd, view.high_usd, view.low_usd, view.close_usd, view.volume_shares)
    days = view.sessions.tolist()
    for day, *values in zip(days, *(column.tolist() for column in columns), strict=True):
        open_, high, low, close, volume = (v if math.isfinite(v) else None for v in values)
        yield {
            "t": _midnight(day),
            "o": open_,
            "h": high,
            "l": low,
            "c": close,
            "v": None if volume is None else int(volume),
            "n": None if volume is None else max(1, int(volume) // 100),
            "vw": None if high is None or low is None else round((high + low) / 2.0, 6),
        }


@lru_cache(maxsize=32768)
def _midnight(day: date) -> str:
    local = datetime.combine(day, time(), tzinfo=_ZONE)
    return local.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
