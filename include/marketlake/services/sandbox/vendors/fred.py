"""FRED's wires: the CSV behind its graphs (no key), and its API's XML (key, as known at a date).

A series is a value a weekday; a holiday is there without a value. What does not belong here: how
the series are made (``macro``).
"""

from __future__ import annotations

import math
from xml.sax.saxutils import quoteattr

import numpy as np

from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.macro import series_name
from marketlake.services.sandbox.vendors.wire import (
    BAD_KEY,
    Answer,
    Look,
    VendorRequest,
    between,
    days_of,
    simulated_header,
    too_many_requests,
)
from marketlake.services.sandbox.world import View

_XML = {"Content-Type": "text/xml; charset=utf-8"}
_UNKNOWN = "Bad Request.  The series does not exist."
_UNREGISTERED = "Bad Request.  The value for variable api_key is not registered."


class Fred:
    """The Federal Reserve Bank of St. Louis, as a program meets it."""

    name = "fred"
    hosts = frozenset({"fred.stlouisfed.org", "api.stlouisfed.org"})
    main_host = "fred.stlouisfed.org"

    def symbol(self, request: VendorRequest) -> str:
        """Return the series that a request asks about."""
        return request.query.get("id") or request.query.get("series_id", "")

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return the series as it is: there is one publisher of it."""
        return view

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Answer a graph's CSV or the API's observations."""
        name = self.symbol(request)
        view = look(series_name(name)) or look(name)
        if request.path == "/graph/fredgraph.csv":
            return _graph(name, request, view)
        if request.path == "/fred/series/observations":
            return _observations(request, view)
        return Answer(404, b"<html>Not Found</html>", {"Content-Type": "text/html"})

    def refusal(self, status: int) -> bytes:
        """Return FRED's wording of a refusal."""
        words = {401: _UNREGISTERED, 429: "Too Many Requests.  Exceeded Rate Limit"}
        return _error(status, words.get(status, "Internal Server Error")).body

    def over_limit(self, span: Span) -> Answer:
        """Return a 429."""
        return too_many_requests(self, span)

    def soft_limit(self, wording: str) -> bytes:
        """Return the words of a 429: FRED has no others."""
        return self.refusal(429)


def _graph(name: str, request: VendorRequest, view: View | None) -> Answer:
    if view is None:
        return Answer(404, b"<html>Page not found</html>", {"Content-Type": "text/html"})
    rows = _weekdays(view, request.query.get("cosd", ""), request.query.get("coed", ""))
    lines = [f"{day},{value}" for day, value in rows]
    body = "\n".join([f"observation_date,{name}", *lines, ""])
    return Answer(200, body.encode(), {"Content-Type": "application/csv", **simulated_header(view)})


def _observations(request: VendorRequest, view: View | None) -> Answer:
    query = request.query
    key = query.get("api_key", "")
    if not key or key.startswith(BAD_KEY):
        return _error(400, _UNREGISTERED)
    if view is None:
        return _error(400, _UNKNOWN)
    first, last = (query.get(f"observation_{end}", "") for end in ("start", "end"))
    # A vintage is what was known at its end, and the future has none.
    asked = query.get("realtime_end", "")
    known = min(asked, view.known.isoformat()) if asked else view.known.isoformat()
    stamps = f"realtime_start={quoteattr(known)} realtime_end={quoteattr(known)}"
    rows = [
        f'  <observation {stamps} date="{day}" value="{value or "."}"/>'
        for day, value in _weekdays(view, first, min(last or known, known))
    ]
    head = f'<observations {stamps} units="lin" file_type="xml" count="{len(rows)}">'
    body = "\n".join(['<?xml version="1.0" encoding="utf-8" ?>', head, *rows, "</observations>"])
    return Answer(200, body.encode(), {**_XML, **simulated_header(view)})


def _weekdays(view: View, first: str, last: str) -> list[tuple[str, str]]:
    """Return each row's day and value; a weekday between two rows that has none is empty."""
    shown = between(view, first, last)
    told = list(zip(days_of(shown), shown.close_usd.tolist(), strict=True))
    values = [(day, f"{value:.2f}" if math.isfinite(value) else "") for day, value in told]
    if shown.sessions.size:
        days = np.arange(shown.sessions[0], shown.sessions[-1])
        off = np.setdiff1d(days[np.is_busday(days)], view.sessions)
        values += [(str(day), "") for day in off]
    return sorted(values, key=lambda row: row[0])


def _error(status: int, message: str) -> Answer:
    body = f'<?xml version="1.0" encoding="utf-8" ?>\n<error code="{status}" message="{message}" />'
    return Answer(status, body.encode(), _XML)
