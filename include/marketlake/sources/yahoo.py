"""Yahoo Finance through the real yfinance client: daily bars, splits and dividends.

yfinance reads many failures as "possibly delisted", replays failed answers from a cache and
accepts a good body under HTTP 500; everything here that looks roundabout undoes one of these.
What does not belong here: retries, and any judgement of the values.
"""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any, Protocol, TypeVar
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import pandas as pd
import yfinance as yf
from curl_cffi.requests import exceptions as curl
from yfinance import cache as yf_cache
from yfinance.data import YfData
from yfinance.exceptions import YFDataException, YFException, YFRateLimitError

from marketlake.calendars import Calendar
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    EmptyAnswer,
    MarketlakeError,
    NotFound,
    SourceUnavailable,
)
from marketlake.settings import EgressSettings, Settings, YahooSettings
from marketlake.sources.failures import PASSING, UNREADABLE, Failures
from marketlake.sources.history import (
    Action,
    SourceHistory,
    action_frame,
    bar_frame,
    lead_start,
    response_rows,
)
from marketlake.sources.recording import (
    Exchange,
    RecordingSession,
    VendorCall,
    ca_bundle,
    modified_ns,
)
from marketlake.sources.source import CallPlan, FetchOne, Source, one_by_one
from marketlake.types import Semantics

_FAR_FUTURE = date(2100, 1, 1)
_KEPT_SESSIONS = 4

# The zone of an exchange never changes, so it need not be asked for every symbol.
_ZONES = {"XNYS": "America/New_York", "XNAS": "America/New_York"}

_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
_COLUMNS = {
    "open_usd": "Open",
    "high_usd": "High",
    "low_usd": "Low",
    "close_usd": "Close",
    "adj_close_usd": "Adj Close",
    "volume_shares": "Volume",
}
_BEFORE_FIRST_BAR = b"Data doesn't exist for startDate"

_Part = TypeVar("_Part")

# Whatever yfinance lets through when an answer is not what it hoped for.
_FAILURES = (YFException, curl.RequestException, *UNREADABLE)


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
) -> SourceHistory:
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
        frame, chart, answer = work.history(
            lead_start(first), last + timedelta(days=1), interval="1d"
        )
        answers = [answer]
        later: list[Action] = []
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
        return SourceHistory(
            symbol=symbol,
            bars=bar_frame(
                symbol,
                [stamp.date() for stamp in frame.index],
                _values(frame, work.read(_days_without_volume, chart)),
                first,
                last,
                calendar=calendar,
                simulated=simulated,
            ),
            actions=action_frame(symbol, inside, simulated),
            later_splits=action_frame(symbol, later, simulated),
            responses=response_rows(symbol, answers),
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
        bundle = ca_bundle(egress)
        # A restarted sandbox has a new authority in the same file.
        written = egress.ca_bundle and f"{bundle}@{modified_ns(egress.ca_bundle)}"
        key = (proxy, str(written) if written else None)
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


@dataclass(frozen=True)
class _Fetch:
    symbol: str
    session: RecordingSession
    settings: YahooSettings
    record: Callable[[VendorCall], None]

    @property
    def _failures(self) -> Failures:
        return Failures("yahoo", "Yahoo", self.symbol, self.settings.timeout_s)

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
        failures = self._failures
        if isinstance(error, curl.RequestException):
            return failures.transport(error)
        answer = self._answer()
        if isinstance(error, YFRateLimitError) or (answer and answer.status == 429):
            return failures.too_many_requests(answer)
        if answer is None:
            return failures.error(SourceUnavailable, "an answer", f"none: {error}")
        if answer.status in {401, 403}:
            return failures.error(
                AuthFailed,
                "a chart without credentials",
                f"HTTP {answer.status}",
                "check whether Yahoo still serves this address, then clear the task",
            )
        if answer.status >= 500 or answer.status in PASSING:
            return failures.refused(answer)
        if answer.status == 404:
            return failures.error(
                NotFound, "a symbol that Yahoo knows", f"HTTP 404, {error}", "correct the universe"
            )
        return self._about_body(answer, error)

    def _about_body(self, answer: Exchange, error: Exception) -> MarketlakeError:
        if not answer.body.strip():
            return self._failures.error(
                SourceUnavailable, "a chart", f"HTTP {answer.status}, no body"
            )
        if b"Will be right back" in answer.body:
            return self._failures.error(
                SourceUnavailable, "a chart", "Yahoo's page 'Will be right back'"
            )
        if self._has_no_bars(answer):
            return self._failures.error(
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

    def _bad_payload(self, was: str) -> BadPayload:
        return self._failures.error(
            BadPayload,
            f"Yahoo's chart JSON of {self.symbol} in USD",
            was,
            "compare the recorded response with the documented chart",
        )


def _exchange_day(stamp: float, chart: dict[str, Any]) -> date:
    zone = ZoneInfo(str(chart["meta"]["exchangeTimezoneName"]))
    return datetime.fromtimestamp(stamp, UTC).astimezone(zone).date()


def _trade_day(chart: dict[str, Any]) -> date:
    """Return the day of the newest trade that Yahoo knows of; far ahead if it does not say."""
    stamp = chart["meta"].get("regularMarketTime")
    return _FAR_FUTURE if stamp is None else _exchange_day(float(stamp), chart)


def _actions_of(chart: dict[str, Any]) -> list[Action]:
    """Return a chart's events by their own dates (yfinance's frame moves them onto bars)."""
    events = chart.get("events", {})
    dividends = [
        Action(_exchange_day(item["date"], chart), "dividend", float(item["amount"]))
        for item in events.get("dividends", {}).values()
    ]
    splits = [
        Action(
            _exchange_day(item["date"], chart),
            "split",
            float(item["numerator"]) / float(item["denominator"]),
        )
        for item in events.get("splits", {}).values()
    ]
    return [*dividends, *splits]


def _days_without_volume(chart: dict[str, Any]) -> set[date]:
    """Return the days whose volume a chart gives as null."""
    volumes = chart["indicators"]["quote"][0].get("volume", ())
    return {
        _exchange_day(stamp, chart)
        for stamp, volume in zip(chart.get("timestamp", ()), volumes, strict=False)
        if volume is None
    }


def _values(frame: pd.DataFrame, without_volume: set[date]) -> dict[str, npt.NDArray[np.float64]]:
    """Return yfinance's columns; an answer without bars has none."""
    if frame.empty:
        return {}
    values = {name: frame[column].to_numpy(dtype=np.float64) for name, column in _COLUMNS.items()}
    priced = ~np.isnan(np.stack([values[name] for name in _PRICES])).all(axis=0)
    # yfinance writes a missing volume as 0.
    told = np.asarray([stamp.date() not in without_volume for stamp in frame.index])
    volumes = values["volume_shares"]
    values["volume_shares"] = np.where(priced & (told | (volumes != 0.0)), volumes, np.nan)
    return values


def source(settings: Settings) -> Source:
    """Return Yahoo Finance as these settings reach it."""
    fetch: FetchOne = partial(fetch_history, egress=settings.egress, settings=settings.yahoo)
    return Source(
        name="yahoo",
        vendor="Yahoo Finance",
        semantics=Semantics(
            basis="split_adjusted",
            close="auction",
            volume="consolidated",
            actions=("split", "dividend"),
            lag_minutes=settings.yahoo.lag_minutes,
        ),
        # A chart, and the splits after it where the vendor knows later sessions.
        plan=CallPlan(calls_a_symbol=2),
        fetch=one_by_one(fetch),
        kinds=frozenset({"equity", "index"}),
    )
