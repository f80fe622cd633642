"""What every source must do: the faults of a vendor, and how each source must end.

``test_contract.py`` makes each of them for real; ``page.py`` puts the outcomes into
``docs/sources.md``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from marketlake.settings import Settings
from marketlake.sources.catalog import SOURCES

DAY = date(2022, 12, 21)
BEFORE = date(2022, 12, 20)
SYMBOLS = {name: "VIXCLS" if name == "fred" else "JPM" for name in SOURCES}
DATA_PATHS = {
    "yahoo": "/v8/finance/chart/",
    "alpha_vantage": "/query",
    "iex": "/v2/stocks/bars",
    "fred": "/graph/fredgraph.csv",
    "stooq": "/q/d/l/",
}
KEYS = {"alpha_vantage": ("api_key",), "iex": ("api_key", "secret_key")}
TIMEOUT_S, SHORT_TIMEOUT_S = 20.0, 0.6
"""A limit that a busy machine keeps, and one that a vendor without an answer is waited for."""

# How a call may end, in the words of the page.
SAME = "as if nothing had happened"
CHANGED = "arrives changed, for the checks to find"
MISSING = "no row of the session"
NULLS = "a row without values"
TWICE = "the row twice, for the checks to find"

RATE, DOWN, TIME = "RateLimited", "SourceUnavailable", "Timeout"
BAD, AUTH, EMPTY, UNKNOWN = "BadPayload", "AuthFailed", "EmptyAnswer", "NotFound"


@dataclass(frozen=True)
class Case:
    """One thing that can go wrong. ``ends`` is how, for every source or for one."""

    name: str
    about: str
    kind: str
    ends: str
    args: Mapping[str, Any] = field(default_factory=dict)
    times: int | None = None
    but: Mapping[str, str] = field(default_factory=dict)

    def outcome(self, source: str) -> str:
        """Return how this must end for a source."""
        return self.but.get(source, self.ends)


_ON_DAY = {"sessions": [DAY.isoformat()]}
_NO_BARS = {"fred": SAME}

CASES = (
    Case("429", "HTTP 429, retry after 7 s", "http_429", RATE, {"retry_after": 7}),
    Case(
        "429-once",
        "HTTP 429 once",
        "http_429",
        RATE,
        {"retry_after": 7},
        times=1,
        but={"yahoo": SAME},
    ),
    Case(
        "limit-note",
        "a limit told under HTTP 200",
        "soft_limit",
        RATE,
        but={"yahoo": BAD, "iex": BAD, "fred": BAD},
    ),
    Case("500", "HTTP 500", "http_5xx", DOWN, {"status": 500}),
    Case("503", "HTTP 503", "http_5xx", DOWN, {"status": 503}),
    Case("504", "HTTP 504", "http_5xx", DOWN, {"status": 504}),
    Case("500-good-body", "HTTP 500 with a good body", "status500_with_good_body", DOWN),
    Case("hang", "no answer", "hang", TIME),
    Case("reset", "connection cut before the answer", "reset", DOWN),
    Case("truncate", "connection cut within the answer", "truncate", DOWN),
    Case("malformed", "half a body, as if whole", "malformed", BAD),
    Case("html", "a page of HTML under HTTP 200", "html_200", BAD),
    Case("empty-body", "an empty body under HTTP 200", "empty_200", DOWN),
    Case("bad-auth", "HTTP 401", "bad_auth", AUTH),
    Case("stale", "a vendor one session behind", "stale", MISSING, {"days": 1}),
    Case("missing-day", "a day left out", "missing_days", MISSING, _ON_DAY),
    Case("null-row", "a row of nulls", "null_row", NULLS, _ON_DAY, but={"fred": MISSING}),
    Case("outlier", "prices a hundred times too high", "outlier", CHANGED, _ON_DAY),
    Case(
        "wrong-currency",
        "prices in another currency",
        "wrong_currency",
        CHANGED,
        but={"yahoo": BAD},
    ),
    Case("stale-repeat", "the bar of the day before again", "stale_repeat", CHANGED, _ON_DAY),
    Case("wrong-day", "the bar of another day", "wrong_day", CHANGED, {**_ON_DAY, "shift": -2}),
    Case(
        "duplicate",
        "a row twice",
        "dup_rows",
        TWICE,
        _ON_DAY,
        but={"yahoo": SAME, "alpha_vantage": SAME, "fred": SAME},
    ),
    Case("high-low", "high and low swapped", "swapped_high_low", CHANGED, _ON_DAY, but=_NO_BARS),
    Case(
        "ohlc",
        "open, high, low, close in another order",
        "swapped_ohlc",
        CHANGED,
        _ON_DAY,
        but=_NO_BARS,
    ),
    Case(
        "split",
        "a split not applied",
        "split_unadjusted",
        CHANGED,
        {**_ON_DAY, "ratio": 2},
    ),
    Case("one-venue-print", "close on one odd trade", "one_venue_print", CHANGED, _ON_DAY),
)

OWN_ENDS = {
    "happy": dict.fromkeys(SOURCES, SAME),
    "empty": dict.fromkeys(SOURCES, EMPTY),
    "unknown": dict.fromkeys(SOURCES, UNKNOWN) | {"iex": EMPTY, "stooq": EMPTY},
    "bad-key": {"alpha_vantage": AUTH, "iex": AUTH, "fred": AUTH},
}
ABOUT_OWN = {
    "happy": "nothing",
    "empty": "a span without any row",
    "unknown": "a symbol that does not exist",
    "bad-key": "a key that the vendor refuses",
}


def settings_of(name: str, settings: Settings, **values: Any) -> Settings:
    """Return settings with a source's section changed: short limits and good keys unless given."""
    keys = dict.fromkeys(KEYS.get(name, ()), "a-good-key-of-the-test")
    plan = {"plan": "premium"} if name == "alpha_vantage" else {}
    own = getattr(settings, name).model_dump()
    # Validated anew, since a key must become a secret.
    section = type(getattr(settings, name))(
        **{**own, "timeout_s": TIMEOUT_S, **keys, **plan, **values}
    )
    return settings.model_copy(update={name: section})
