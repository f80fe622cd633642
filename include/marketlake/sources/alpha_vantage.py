"""Alpha Vantage through the real alpha_vantage client: daily bars as traded, and actions.

The client has no timeout and never looks at the status; limits and refusals come as HTTP 200 with a
sentence, sometimes with our key in it. Everything passes one method of it, which is replaced here.
What does not belong here: retries, and any judgement of the values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from alpha_vantage.foreignexchange import ForeignExchange
from alpha_vantage.timeseries import TimeSeries

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError, EmptyAnswer, MarketlakeError, NotFound
from marketlake.settings import AlphaVantageSettings, EgressSettings, Settings
from marketlake.sources.failures import UNREADABLE, Failures
from marketlake.sources.history import (
    Action,
    SourceHistory,
    action_frame,
    bar_frame,
    lead_start,
    response_rows,
)
from marketlake.sources.recording import RecordingSession, VendorCall, address, open_session
from marketlake.sources.source import CallPlan, FetchOne, Source, missing, one_by_one
from marketlake.types import Semantics

_KEY = "MARKETLAKE_ALPHA_VANTAGE__API_KEY"
_COMPACT_ROWS = 100
_FREE_CALLS_A_DAY, _FREE_CALLS_A_MINUTE = 25, 5
_CURRENCIES = re.compile(r"^([A-Z]{3})([A-Z]{3})=X$")
_ENDPOINT = re.compile(r"^https?://[^/?]+/query\?")
_PREMIUM_WORDS = ("premium endpoint", "premium feature")
_LIMIT_WORDS = ("rate limit", "call frequency", "requests per", "request per", "calls per")
_ABSENT = frozenset({"None", ".", "", "-"})
_COLUMNS = {
    "open": "open_usd",
    "high": "high_usd",
    "low": "low_usd",
    "close": "close_usd",
    "adjusted close": "adj_close_usd",
    "volume": "volume_shares",
}

Rows = Mapping[str, Mapping[str, str]]


class _PremiumOnly(Exception):
    """The plan behind the key does not have this function."""


@dataclass(frozen=True)
class _Work:
    """One symbol's talk with the vendor."""

    session: RecordingSession
    failures: Failures
    base_url: str

    def ask(self, url: str) -> dict[str, Any]:
        """Return the document behind a URL of the client, which keeps the key in it."""
        answer = self.failures.get(self.session, _ENDPOINT.sub(f"{self.base_url}/query?", url))
        try:
            document = json.loads(answer.body)
        except ValueError as error:
            raise self.failures.unreadable(answer, error) from error
        if not isinstance(document, dict):
            raise self.failures.bad_payload(f"JSON that is no object: {answer.body[:80]!r}")
        if not document:
            raise self._nothing("an empty object")
        for member in ("Error Message", "Information", "Note"):
            if member in document:
                raise self._said(member, str(document[member]))
        return document

    def read(self, rows: Callable[[], tuple[Rows, object]]) -> Rows:
        """Return the rows that a method of the client finds in its document."""
        try:
            found, _ = rows()
        except UNREADABLE as error:
            raise self._explained(error) from error
        if not found:
            raise self._nothing("a series without rows")
        return found

    def columns(self, rows: Rows) -> tuple[list[date], dict[str, npt.NDArray[np.float64]]]:
        """Return the days, oldest first, and the numbers of rows that come newest first."""
        try:
            days = sorted(rows)
            table = [{name[3:]: text for name, text in rows[day].items()} for day in days]
            values = {
                ours: np.asarray([_number(row[theirs]) for row in table])
                for theirs, ours in _COLUMNS.items()
                if theirs in table[0]
            }
            if not {"open_usd", "high_usd", "low_usd", "close_usd"} <= set(values):
                raise KeyError(", ".join(sorted(table[0])))
            return [date.fromisoformat(day) for day in days], values
        except UNREADABLE as error:
            raise self._explained(error) from error

    def actions(self, rows: Rows, first: date, last: date) -> list[Action]:
        """Return what the rows say of dividends and splits."""
        found = []
        try:
            for day, row in rows.items():
                paid = _number(row.get("7. dividend amount", "0"))
                ratio = _number(row.get("8. split coefficient", "1"))
                session = date.fromisoformat(day)
                if not first <= session <= last:
                    continue
                if paid > 0.0:
                    found.append(Action(session, "dividend", paid))
                if ratio > 0.0 and ratio != 1.0:
                    found.append(Action(session, "split", ratio))
        except UNREADABLE as error:
            raise self._explained(error) from error
        return found

    def _explained(self, error: Exception) -> MarketlakeError:
        return self.failures.explained(error, self.session.exchanges[-1])

    def _nothing(self, was: str) -> EmptyAnswer:
        return self.failures.error(
            EmptyAnswer, "bars", was, "check that the symbol traded in this span"
        )

    def _said(self, member: str, text: str) -> Exception:
        """Return the error for a sentence that came instead of data."""
        # The sentence may hold our key, and a key any word.
        known = self.failures.cleaned(text).lower()
        was = f"{member}: {text}"
        if "invalid api call" in known:
            return self.failures.error(
                NotFound, "a symbol that Alpha Vantage knows", was, "correct the universe"
            )
        if "apikey" in known or "demo" in known:
            return self.failures.auth_failed(was)
        if any(words in known for words in _PREMIUM_WORDS):
            return _PremiumOnly(text)
        if member == "Note" or any(words in known for words in _LIMIT_WORDS):
            # A spent minute passes; when a spent day ends, Alpha Vantage does not say.
            wait = 60.0 if "per minute" in known else None
            return self.failures.rate_limited(was, wait)
        return self.failures.bad_payload(was)


class _Asks:
    """Takes the place of the client's own request: our session, limit, status and address."""

    work: _Work

    def _handle_api_call(self, url: str) -> dict[str, Any]:
        return self.work.ask(url)


class _Stocks(_Asks, TimeSeries):  # type: ignore[misc]  # the client ships no types
    """The client's daily series of shares."""


class _Currencies(_Asks, ForeignExchange):  # type: ignore[misc]
    """The client's daily series of currency pairs."""


def fetch_history(
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: AlphaVantageSettings,
    on_call: Callable[[VendorCall], None],
) -> SourceHistory:
    """Fetch a symbol's bars and actions from ``first`` to ``last``, both included.

    A currency pair is a symbol like ``EURUSD=X``. On the free plan there are no actions and no
    adjusted close. Raises an error of the tree for every failure.
    """
    key = _key(settings)
    failures = Failures(
        "alpha_vantage", "Alpha Vantage", symbol, settings.timeout_s, (_KEY,), (key,)
    )
    base_url = address(settings.base_url, as_of)
    # There are no dates in a request: the newest 100 rows, or all of them.
    start = lead_start(first)
    near = len(calendar.sessions(start, max(as_of, last))) <= _COMPACT_ROWS
    size = "compact" if near else "full"
    with open_session(egress, as_of, timeout_s=settings.timeout_s, on_call=on_call) as session:
        work = _Work(session, failures, base_url)
        rows = _rows(symbol, key, work, size=size, adjusted=settings.plan == "premium")
        days, values = work.columns(rows)
        answer = session.exchanges[-1]
        simulated = answer.simulated
        return SourceHistory(
            symbol=symbol,
            bars=bar_frame(
                symbol, days, values, first, last, calendar=calendar, simulated=simulated
            ),
            actions=action_frame(symbol, work.actions(rows, first, last), simulated),
            later_splits=action_frame(symbol, ()),
            responses=response_rows(symbol, [answer]),
            calls=session.calls,
        )


def _rows(symbol: str, key: str, work: _Work, *, size: str, adjusted: bool) -> Rows:
    pair = _CURRENCIES.match(symbol)
    try:
        if pair:
            currencies = _client(_Currencies, key, work)
            daily = partial(currencies.get_currency_exchange_daily, *pair.groups())
            return work.read(partial(daily, outputsize=size))
        stocks, theirs = _client(_Stocks, key, work), symbol.replace("-", ".")
        if adjusted:
            try:
                return work.read(partial(stocks.get_daily_adjusted, theirs, outputsize=size))
            except _PremiumOnly:
                pass  # as traded and without actions is better than nothing
        return work.read(partial(stocks.get_daily, theirs, outputsize=size))
    except _PremiumOnly as error:
        raise work.failures.auth_failed(str(error)) from error


def _client(kind: type[Any], key: str, work: _Work) -> Any:
    client = kind(key=key, output_format="json")
    client.work = work
    return client


def _key(settings: AlphaVantageSettings) -> str:
    if not settings.api_key:
        raise ConfigError(
            expected="a key of Alpha Vantage",
            was="none: the source is not configured",
            where=_KEY,
            todo="set it, or leave this source out",
        )
    return settings.api_key.get_secret_value()


def _number(text: str) -> float:
    return float("nan") if text in _ABSENT else float(text)


def source(settings: Settings) -> Source:
    """Return Alpha Vantage as these settings reach it."""
    own = settings.alpha_vantage
    premium = own.plan == "premium"
    fetch: FetchOne = partial(fetch_history, egress=settings.egress, settings=own)
    return Source(
        name="alpha_vantage",
        vendor="Alpha Vantage",
        semantics=Semantics(
            basis="as_traded",
            close="auction",
            volume="consolidated",
            actions=("split", "dividend") if premium else (),
            lag_minutes=own.lag_minutes,
        ),
        plan=CallPlan(a_minute=own.calls_a_minute, dated=False)
        if premium
        else CallPlan(a_day=_FREE_CALLS_A_DAY, a_minute=_FREE_CALLS_A_MINUTE, dated=False),
        fetch=one_by_one(fetch),
        kinds=frozenset({"equity", "currency"}),
        credentials=(_KEY,),
        not_configured=missing(**{_KEY: own.api_key}),
    )
