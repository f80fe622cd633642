"""Stooq's wire: one CSV of daily bars, adjusted for splits and dividends.

What Stooq does not have and what it does not want to say both come as HTTP 200 with a line of text.
"""

from __future__ import annotations

import math
from datetime import datetime

from marketlake.services.sandbox.limits import Span
from marketlake.services.sandbox.replicas import replica
from marketlake.services.sandbox.vendors.wire import (
    Answer,
    Look,
    VendorRequest,
    between,
    days_of,
    simulated_header,
)
from marketlake.services.sandbox.world import View

_INDICES = {"^spx": "^GSPC", "^ndq": "^IXIC", "^dji": "^DJI"}
_HEADERS = {"Content-Type": "text/plain"}


class Stooq:
    """Stooq's download of daily bars."""

    name = "stooq"
    hosts = frozenset({"stooq.com"})
    main_host = "stooq.com"

    def symbol(self, request: VendorRequest) -> str:
        """Return the symbol of a download."""
        asked = request.query.get("s", "").lower()
        return _INDICES.get(asked) or asked.removesuffix(".us").upper()

    def shows(self, view: View, *, seed: int, difference_bps: float) -> View:
        """Return the market with small differences."""
        return replica(view, self.name, seed=seed, difference_bps=difference_bps)

    def answer(self, request: VendorRequest, look: Look) -> Answer:
        """Answer a download of daily bars."""
        if request.path != "/q/d/l/":
            return Answer(404, b"<html>Not Found</html>", {"Content-Type": "text/html"})
        view = look(self.symbol(request)) if request.query.get("i") == "d" else None
        if view is None:
            return Answer(200, b"No data", _HEADERS)
        first, last = (_day(request.query.get(name, "")) for name in ("d1", "d2"))
        shown = between(view, first, last).totalled()
        if not shown.sessions.size:
            return Answer(200, b"No data", _HEADERS)
        columns = (shown.open_usd, shown.high_usd, shown.low_usd, shown.close_usd)
        values = zip(*(column.tolist() for column in (*columns, shown.volume_shares)), strict=True)
        lines = [
            ",".join([day, *(_text(value) for value in row[:4]), _text(row[4], decimals=0)])
            for day, row in zip(days_of(shown), values, strict=True)
        ]
        body = "\r\n".join(["Date,Open,High,Low,Close,Volume", *lines, ""])
        return Answer(200, body.encode(), {**_HEADERS, **simulated_header(view)})

    def refusal(self, status: int) -> bytes:
        """Return Stooq's wording of a refusal."""
        return b"Access denied" if status == 401 else b"<html><body>Server error</body></html>"

    def over_limit(self, span: Span) -> Answer:
        """Return the line that replaces a download, whichever limit it is."""
        return Answer(200, self.soft_limit(""), _HEADERS)

    def soft_limit(self, wording: str) -> bytes:
        """Return the line that replaces a download when the day's hits are spent."""
        return b"Exceeded the daily hits limit"


def _day(compact: str) -> str:
    return datetime.strptime(compact, "%Y%m%d").date().isoformat() if compact else ""  # noqa: DTZ007


def _text(value: float, *, decimals: int = 6) -> str:
    return f"{value:.{decimals}f}" if math.isfinite(value) else ""
