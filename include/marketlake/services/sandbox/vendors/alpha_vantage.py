"""Alpha Vantage's wire: ``/query``, daily series as traded, with actions on the premium plan.

Limits and refusals come as HTTP 200 with one member that says so. There are no dates in a request:
a compact answer has the newest 100 rows, a full one all. Values are strings with four decimals.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np

from marketlake.services.sandbox.counter_random import Floats
from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.replicas import replica
from marketlake.services.sandbox.vendors.wire import (
    BAD_KEY,
    FREE_KEY,
    Answer,
    Look,
    VendorRequest,
    class_share,
    days_of,
    simulated_header,
)
from marketlake.services.sandbox.world import View

_COMPACT_ROWS = 100
_HEADERS = {"Content-Type": "application/json"}
_DOCS = "https://www.alphavantage.co/documentation/"
_PREMIUM = "https://www.alphavantage.co/premium/"
_BAD_KEY = (
    "the parameter apikey is invalid or missing. Please claim your free API key on "
    "(https://www.alphavantage.co/support/#api-key). It should take less than 20 seconds."
)
_TOO_OFTEN = (
    "Thank you for using Alpha Vantage! Our standard API call frequency is 5 calls per minute and "
    f"500 calls per day. Please visit {_PREMIUM} if you would like to target a higher API call "
    "frequency."
)
_SPENT = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per "
    f"day. Please subscribe to any of the premium plans at {_PREMIUM} to instantly remove all "
    "daily rate limits."
)
_PREMIUM_ONLY = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of "
    f"the premium plans at {_PREMIUM} to instantly unlock all premium endpoints"
)
_LIMITS = {
    "": {"Note": _TOO_OFTEN},
    "note": {"Note": _TOO_OFTEN},
    "information": {"Information": _SPENT},
    "premium": {"Information": _PREMIUM_ONLY},
}


class AlphaVantage:
    """Alpha Vantage, as the alpha_vantage client meets it."""

    name = "alpha_vantage"
    hosts = frozenset({"www.alphavantage.co"})
    main_host = "www.alphavantage.co"

    def symbol(self, request: VendorRequest) -> str:
        """Return the symbol of a query."""
        if request.query.get("function") == "FX_DAILY":
            return f"{request.query.get('from_symbol')}{request.query.get('to_symbol')}=X"
        return class_share(request.query.get("symbol", ""), mark=".")

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return the market with small differences."""
        return replica(view, self.name, seed=seed, difference_bps=difference_bps)

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Answer a daily series; everything else as a call with wrong parameters."""
        if request.path != "/query":
            return Answer(404, b"<h1>Not Found</h1>", {"Content-Type": "text/html"})
        key, function = request.query.get("apikey", ""), request.query.get("function", "")
        if not key or key.startswith(BAD_KEY):
            return _says({"Error Message": _BAD_KEY})
        if key.startswith(FREE_KEY) and function == "TIME_SERIES_DAILY_ADJUSTED":
            return _says(_LIMITS["premium"])
        if function not in _ROWS:
            return _says({"Error Message": f"This API function ({function}) does not exist."})
        view = look(self.symbol(request))
        if view is None or view.kind == "index":
            invalid = f"Invalid API call. Please retry or visit the documentation ({_DOCS})"
            return _says({"Error Message": f"{invalid} for {function}."})
        return _series(function, request, view)

    def refusal(self, status: int) -> bytes:
        """Return Alpha Vantage's wording of a refusal."""
        if status == 401:
            return json.dumps({"Error Message": _BAD_KEY}).encode()
        if status == 429:
            return self.soft_limit("")
        return b"<html><body><h1>503 Service Unavailable</h1></body></html>"

    def over_limit(self, span: Span) -> Answer:
        """Return the note of a spent minute, or the notice of a spent day."""
        wording = "note" if span == "minute" else "information"
        return Answer(200, self.soft_limit(wording), _HEADERS)

    def soft_limit(self, wording: str) -> bytes:
        """Return the note of too many calls, the spent day, or the premium notice."""
        return json.dumps(_LIMITS.get(wording, _LIMITS[""]), indent=4).encode()


def _says(document: dict[str, str]) -> Answer:
    return Answer(200, json.dumps(document, indent=4).encode(), _HEADERS)


def _series(function: str, request: VendorRequest, view: View) -> Answer:
    size = request.query.get("outputsize", "compact")
    shown = view.as_traded()
    if size != "full":
        shown = shown.bars_at(np.arange(len(shown.sessions))[-_COMPACT_ROWS:])
    days = days_of(shown)
    meta = {
        "1. Information": "Daily Prices (open, high, low, close) and Volumes",
        "2. Symbol": request.query.get("symbol", ""),
        "3. Last Refreshed": days[-1] if days else "",
        "4. Output Size": "Full size" if size == "full" else "Compact",
        "5. Time Zone": "US/Eastern",
    }
    # Written row by row, newest first: a day may come twice, which no dictionary can hold.
    rows = [f'"{day}":{{{row}}}' for day, row in zip(days, _ROWS[function](shown), strict=True)]
    member = "Time Series FX (Daily)" if function == "FX_DAILY" else "Time Series (Daily)"
    body = f'{{"Meta Data":{json.dumps(meta)},"{member}":{{{",".join(reversed(rows))}}}}}'
    return Answer(200, body.encode(), {**_HEADERS, **simulated_header(view)})


def _prices(view: View) -> Iterator[str]:
    columns = (view.open_usd, view.high_usd, view.low_usd, view.close_usd)
    for open_, high, low, close in zip(*map(_texts, columns), strict=True):
        yield f'"1. open":"{open_}","2. high":"{high}","3. low":"{low}","4. close":"{close}"'


def _daily(view: View) -> Iterator[str]:
    for row, volume in zip(_prices(view), _texts(view.volume_shares, decimals=0), strict=True):
        yield f'{row},"5. volume":"{volume}"'


def _daily_adjusted(view: View) -> Iterator[str]:
    paid = dict(zip(view.dividend_sessions.tolist(), view.dividends_usd.tolist(), strict=True))
    split = dict(zip(view.split_sessions.tolist(), view.split_ratios.tolist(), strict=True))
    adjusted = _texts(view.adj_close_usd, decimals=6)
    volumes = _texts(view.volume_shares, decimals=0)
    days = view.sessions.tolist()
    for row, day, close, volume in zip(_prices(view), days, adjusted, volumes, strict=True):
        yield (
            f'{row},"5. adjusted close":"{close}","6. volume":"{volume}",'
            f'"7. dividend amount":"{paid.get(day, 0.0):.4f}",'
            f'"8. split coefficient":"{_coefficient(split.get(day, 1.0))}"'
        )


def _texts(values: Floats, *, decimals: int = 4) -> list[str]:
    return [
        f"{value:.{decimals}f}" if math.isfinite(value) else "None" for value in values.tolist()
    ]


_ROWS = {
    "TIME_SERIES_DAILY": _daily,
    "TIME_SERIES_DAILY_ADJUSTED": _daily_adjusted,
    "FX_DAILY": _prices,
}


def _coefficient(ratio: float) -> str:
    """Return a split as Alpha Vantage writes it: 4.0, or 0.125."""
    return str(round(ratio, 6))
