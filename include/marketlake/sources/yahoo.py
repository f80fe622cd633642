"""Yahoo Finance through the real yfinance client: daily bars, splits and dividends.

yfinance reads many failures as "possibly delisted", replays failed answers from a cache and
accepts a good body under HTTP 500; everything here that looks roundabout undoes one of these.
What does not belong here: retries, and any judgement of the values.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import yfinance as yf
from curl_cffi.requests import exceptions as curl
from yfinance import cache as yf_cache
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFException, YFRateLimitError

from marketlake.calendars import Calendar
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    ConfigError,
    EmptyAnswer,
    MarketlakeError,
    NotFound,
    RateLimited,
    SourceUnavailable,
    Timeout,
)
from marketlake.settings import EgressSettings, YahooSettings
from marketlake.sources.recording import Exchange, RecordingSession, VendorCall

__all__ = ["VendorCall", "YahooHistory", "fetch_history"]

_LEAD = timedelta(days=10)
_FAR_FUTURE = date(2100, 1, 1)
_KEPT_SESSIONS = 4
_FIRST_COVERED = date(1990, 1, 1)

# The zone of an exchange never changes, so it need not be asked for every symbol.
_ZONES = {"XNYS": "America/New_York", "XNAS": "America/New_York"}

_BAR_SCHEMA: dict[str, Any] = {
    "session": pl.Date,
    "symbol": pl.String,
    "open_usd": pl.Float64,
    "high_usd": pl.Float64,
    "low_usd": pl.Float64,
    "close_usd": pl.Float64,
    "adj_close_usd": pl.Float64,
    "volume_shares": pl.Float64,
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
_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_COLUMNS = {
    "open_usd": "Open",
    "high_usd": "High",
    "low_usd": "Low",
    "close_usd": "Close",
    "adj_close_usd": "Adj Close",
    "volume_shares": "Volume",
}
# Request Timeout and Too Early: the same request may pass later.
_PASSING = frozenset({408, 425})
_BEFORE_FIRST_BAR = b"Data doesn't exist for startDate"
_PROXY_WORDS = ("CONNECT tunnel failed", "over proxy")
_CURL_ADVICE = " See https://curl.se/libcurl/c/libcurl-errors.html first for more details."
_USER_IN_URL = re.compile(r"://[^/@\s]+@")
_ACTION_QUANTITIES = {"split": "split_ratio", "dividend": "dividend_usd"}


@dataclass(frozen=True)
class YahooHistory:
    """What Yahoo said about one symbol.

    ``bars`` and ``actions`` cover the sessions asked for; ``later_splits`` are splits after them
    that Yahoo has already applied to the bars. ``responses`` are the answers that these were read
    from, ``calls`` every request that was made.
    """

    symbol: str
    bars: pl.DataFrame
    actions: pl.DataFrame
    later_splits: pl.DataFrame
    responses: list[dict[str, Any]]
    calls: list[VendorCall]


_Kind = TypeVar("_Kind", bound=MarketlakeError)
_Part = TypeVar("_Part")

# Whatever yfinance lets through when an answer is not what it hoped for.
_FAILURES = (
    YFException,
    curl.RequestException,
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    NotImplementedError,
)


class _Client(Protocol):
    def history(self, **options: object) -> pd.DataFrame: ...


def fetch_history(
    symbol: str,
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: YahooSettings,
    on_call: Callable[[VendorCall], None],
) -> YahooHistory:
    """Fetch a symbol's bars and actions from ``first`` to ``last``, both included.

    ``as_of`` is the session for which the call is made; it chooses the sandbox's market clock.
    Raises an error of the tree for every failure; see ``_explain``.
    """
    calls: list[VendorCall] = []

    def record(call: VendorCall) -> None:
        calls.append(call)
        on_call(call)

    # yfinance keeps one cookie, crumb and session for the whole process.
    with _LOCK, warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=pd.errors.Pandas4Warning)
        session = _PROCESS.session(egress.proxy_for(as_of), egress)
        _PROCESS.know_zone(symbol, calendar.name)
        work = _Fetch(symbol, session, settings, record)
        start = max(first - _LEAD, _FIRST_COVERED)
        frame, chart, answer = work.history(start, last + timedelta(days=1), interval="1d")
        answers = [answer]
        later: list[_Action] = []
        if work.read(_trade_day, chart) > last:
            # Quarterly bars keep the answer small; its events have exact dates all the same.
            _, later_chart, later_answer = work.history(
                last + timedelta(days=1), _FAR_FUTURE, interval="3mo", may_be_empty=True
            )
            answers.append(later_answer)
            later = [
                item
                for item in work.read(_actions_of, later_chart)
                if item.session > last and item.kind == "split"
            ]
        simulated = tuple(str(name) for name in chart["meta"].get("simulated", ()))
        inside = [item for item in work.read(_actions_of, chart) if first <= item.session <= last]
        return YahooHistory(
            symbol=symbol,
            bars=_bar_frame(symbol, frame, first, last, calendar=calendar, simulated=simulated),
            actions=_action_frame(symbol, inside, simulated),
            later_splits=_action_frame(symbol, later, simulated),
            responses=[
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
            ],
            calls=calls,
        )


class _Process:
    """What yfinance shares in one process: sessions by proxy, and its caches' folder."""

    def __init__(self) -> None:
        self._pid = 0
        self._sessions: OrderedDict[tuple[str | None, str | None], RecordingSession] = OrderedDict()
        self._inherited: list[RecordingSession] = []
        self._zoned: set[str] = set()

    def session(self, proxy: str | None, egress: EgressSettings) -> RecordingSession:
        """Return the session for a proxy, opened once and kept while it is in use."""
        self._enter_process()
        bundle = None if egress.ca_bundle is None else str(egress.ca_bundle)
        # A restarted sandbox has a new authority in the same file.
        key = (proxy, bundle and f"{bundle}@{_modified(bundle)}")
        if key not in self._sessions:
            self._sessions[key] = RecordingSession(
                impersonate="chrome",
                proxy=proxy,
                verify=bundle if bundle is not None else True,
            )
        self._sessions.move_to_end(key)
        while len(self._sessions) > _KEPT_SESSIONS:
            self._sessions.popitem(last=False)[1].close()
        return self._sessions[key]

    def know_zone(self, symbol: str, exchange: str) -> None:
        """Spare yfinance its request for the symbol's time zone where the exchange tells it."""
        zone = _ZONES.get(exchange)
        if zone is not None and symbol not in self._zoned:
            yf_cache.get_tz_cache().store(symbol, zone)
            self._zoned.add(symbol)

    def _enter_process(self) -> None:
        # Tasks are forked: curl handles and SQLite files must not be shared with the parent.
        if self._pid == os.getpid():
            return
        self._pid = os.getpid()
        # Closing them here would end the parent's connections.
        self._inherited.extend(self._sessions.values())
        self._sessions = OrderedDict()
        self._zoned = set()
        yf.config.debug.hide_exceptions = False
        folder = tempfile.mkdtemp(prefix="marketlake-yfinance-")
        atexit.register(_remove_own, folder, self._pid)
        yf.set_tz_cache_location(folder)


_LOCK = threading.Lock()
_PROCESS = _Process()


def _remove_own(folder: str, pid: int) -> None:
    """Remove a process's cache folder at its exit; a forked child's exit is not it."""
    if os.getpid() == pid:
        shutil.rmtree(folder, ignore_errors=True)


def _modified(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(
            expected="a readable file of certificate authorities",
            was=str(error),
            where="MARKETLAKE_EGRESS__CA_BUNDLE",
            todo="start the platform (it writes the sandbox's), or correct the setting",
        ) from None


@dataclass(frozen=True)
class _Fetch:
    symbol: str
    session: RecordingSession
    settings: YahooSettings
    record: Callable[[VendorCall], None]

    def history(
        self, start: date, end: date, *, interval: str, may_be_empty: bool = False
    ) -> tuple[pd.DataFrame, dict[str, Any], Exchange]:
        """Return yfinance's frame, the chart it came from, and that answer."""
        self.session.begin(self.record, limit_s=self.settings.timeout_s)
        # yfinance replays failed answers of past ranges from this cache.
        YfData.cache_get.cache_clear()
        client: _Client = yf.Ticker(self.symbol, session=self.session)
        frame = pd.DataFrame()
        try:
            frame = client.history(
                start=start.isoformat(),
                end=end.isoformat(),
                interval=interval,
                auto_adjust=False,
                actions=True,
                keepna=True,
                timeout=self.settings.timeout_s,
            )
        except _FAILURES as error:
            failure = self._explain(error)
            if not (may_be_empty and isinstance(failure, EmptyAnswer)):
                raise failure from error
        answer = self._answer()
        if answer is None or answer.status >= 400:
            # yfinance reads the body of an HTTP 500 as if all were well.
            raise self._explain(YFDataException("no good answer"))
        return frame, self._chart(answer), answer

    def read(self, part: Callable[[dict[str, Any]], _Part], chart: dict[str, Any]) -> _Part:
        """Return what a reader finds in a chart; BadPayload when it is not as documented."""
        try:
            return part(chart)
        except _FAILURES as error:
            raise self._bad_payload(f"unreadable: {error!r}") from error

    def _answer(self) -> Exchange | None:
        charts = [item for item in self.session.exchanges if "/v8/finance/chart/" in item.url]
        return charts[-1] if charts else None

    def _chart(self, answer: Exchange) -> dict[str, Any]:
        try:
            chart: dict[str, Any] = json.loads(answer.body)["chart"]["result"][0]
            told = (str(chart["meta"]["symbol"]), str(chart["meta"]["currency"]))
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise self._bad_payload(f"unreadable: {error!r}") from error
        if told != (self.symbol, "USD"):
            raise self._bad_payload(f"a chart of {told[0]} in {told[1]}")
        return chart

    def _explain(self, error: Exception) -> MarketlakeError:
        """Return the error of our tree for a failure of the client."""
        if isinstance(error, curl.RequestException):
            return self._transport(error)
        answer = self._answer()
        if isinstance(error, YFRateLimitError) or (answer and answer.status == 429):
            return self._rate_limited(answer)
        if answer is None:
            return self._error(SourceUnavailable, "an answer", f"none: {error}")
        if answer.status in {401, 403}:
            return self._error(
                AuthFailed,
                "a chart without credentials",
                f"HTTP {answer.status}",
                "check whether Yahoo still serves this address, then clear the task",
            )
        if answer.status >= 500 or answer.status in _PASSING:
            return self._error(SourceUnavailable, "HTTP 200", f"HTTP {answer.status}")
        if answer.status == 404:
            return self._error(
                NotFound, "a symbol that Yahoo knows", f"HTTP 404, {error}", "correct the universe"
            )
        return self._about_body(answer, error)

    def _about_body(self, answer: Exchange, error: Exception) -> MarketlakeError:
        if not answer.body.strip():
            return self._error(SourceUnavailable, "a chart", f"HTTP {answer.status}, no body")
        if b"Will be right back" in answer.body:
            return self._error(SourceUnavailable, "a chart", "Yahoo's page 'Will be right back'")
        if self._has_no_bars(answer):
            return self._error(
                EmptyAnswer, "bars", f"none: {error}", "check that the symbol traded in this span"
            )
        start = answer.body[:80].decode("utf-8", "replace")
        return self._bad_payload(f"HTTP {answer.status} with {start!r} ({error!r})")

    def _has_no_bars(self, answer: Exchange) -> bool:
        """Return whether Yahoo says that the symbol has no bars in the span, in its two ways."""
        if answer.status >= 400:
            return answer.status == 400 and _BEFORE_FIRST_BAR in answer.body
        try:
            return not self._chart(answer).get("timestamp")
        except BadPayload:
            return False

    def _transport(self, error: curl.RequestException) -> MarketlakeError:
        if isinstance(error, curl.Timeout):
            limit = f"an answer within {self.settings.timeout_s:g} s"
            return self._error(Timeout, limit, "none")
        # A proxy's URL may hold a password.
        said = _USER_IN_URL.sub("://", str(error)).removesuffix(_CURL_ADVICE)
        if isinstance(error, curl.CertificateVerifyError) or "trust anchors" in said:
            return self._error(
                ConfigError,
                "a certificate signed by a trusted authority",
                said,
                "set MARKETLAKE_EGRESS__CA_BUNDLE to the proxy's authority",
            )
        if isinstance(error, curl.ProxyError) or any(words in said for words in _PROXY_WORDS):
            return self._error(
                SourceUnavailable,
                "an egress proxy that lets this host through",
                said,
                "check MARKETLAKE_EGRESS__PROXY_URL and `marketlake status`",
            )
        return self._error(SourceUnavailable, "a complete answer", said)

    def _rate_limited(self, answer: Exchange | None) -> RateLimited:
        wait = answer.retry_after_s if answer else None
        error = self._error(
            RateLimited,
            "an answer",
            f"HTTP 429, to try again in {'?' if wait is None else f'{wait:g}'} s",
            "wait; lower the slots of pool 'yahoo' if it goes on",
        )
        error.retry_after_s = wait
        return error

    def _bad_payload(self, was: str) -> BadPayload:
        return self._error(
            BadPayload,
            f"Yahoo's chart JSON of {self.symbol} in USD",
            was,
            "compare the recorded response with the documented chart",
        )

    def _error(
        self,
        kind: type[_Kind],
        expected: str,
        was: str,
        todo: str = "the task tries again; if it goes on, look at Yahoo's state",
    ) -> _Kind:
        return kind(expected=expected, was=was, where=f"yahoo, {self.symbol}", todo=todo)


@dataclass(frozen=True)
class _Action:
    session: date
    kind: str
    amount: float


def _exchange_day(stamp: float, chart: dict[str, Any]) -> date:
    zone = ZoneInfo(str(chart["meta"]["exchangeTimezoneName"]))
    return datetime.fromtimestamp(stamp, UTC).astimezone(zone).date()


def _trade_day(chart: dict[str, Any]) -> date:
    """Return the day of the newest trade that Yahoo knows of; far ahead if it does not say."""
    stamp = chart["meta"].get("regularMarketTime")
    return _FAR_FUTURE if stamp is None else _exchange_day(float(stamp), chart)


def _actions_of(chart: dict[str, Any]) -> list[_Action]:
    """Return a chart's events by their own dates (yfinance's frame moves them onto bars)."""
    events = chart.get("events", {})
    dividends = [
        _Action(_exchange_day(item["date"], chart), "dividend", float(item["amount"]))
        for item in events.get("dividends", {}).values()
    ]
    splits = [
        _Action(
            _exchange_day(item["date"], chart),
            "split",
            float(item["numerator"]) / float(item["denominator"]),
        )
        for item in events.get("splits", {}).values()
    ]
    return [*dividends, *splits]


def _action_frame(symbol: str, actions: list[_Action], simulated: tuple[str, ...]) -> pl.DataFrame:
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


def _bar_frame(
    symbol: str,
    frame: pd.DataFrame,
    first: date,
    last: date,
    *,
    calendar: Calendar,
    simulated: tuple[str, ...],
) -> pl.DataFrame:
    """Return the bars of the span; a value that Yahoo does not give is null."""
    days = [stamp.date() for stamp in frame.index]
    sessions = calendar.sessions(max(first - _LEAD, _FIRST_COVERED), last)
    before = dict(pairwise(reversed(sessions)))
    closes = dict(zip(days, frame["Close"].tolist(), strict=True)) if days else {}
    kept = np.asarray([first <= day <= last for day in days], dtype=bool)
    inside = [day for day in days if first <= day <= last]
    # Columns as yfinance names them; an answer without bars has none.
    values = {
        name: frame[column].to_numpy(dtype=np.float64)[kept] if days else np.empty(0)
        for name, column in _COLUMNS.items()
    }
    priced = ~np.isnan(np.stack([values[name] for name in _PRICES])).all(axis=0)
    own = [name for name in simulated if name not in _ACTION_QUANTITIES.values()]
    return pl.DataFrame(
        {
            "session": inside,
            "symbol": [symbol] * len(inside),
            **values,
            # yfinance writes a missing volume as 0.
            "volume_shares": np.where(priced, values["volume_shares"], np.nan),
            "previous_close_usd": np.asarray(
                [closes.get(before.get(day), np.nan) for day in inside], dtype=np.float64
            ),
            "simulated_fields": [own] * len(inside),
        },
        schema=_BAR_SCHEMA,
        nan_to_null=True,
    ).sort("session")
