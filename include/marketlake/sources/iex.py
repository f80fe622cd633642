"""Prices of the IEX exchange through the real alpaca-py client: daily bars as traded.

IEX Cloud closed on 2024-08-31; the exchange's own prices live on in Alpaca's data API. Their volume
is one venue's, their close its last trade, and a bar's stamp is midnight in New York.
What does not belong here: retries (the client's own are off), and any judgement of the values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, time
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl
from alpaca.common.exceptions import APIError
from alpaca.data.enums import Adjustment, DataFeed
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.requests import StockBarsRequest
from alpaca.data.timeframe import TimeFrame
from curl_cffi.requests import exceptions as curl

from marketlake.calendars import Calendar
from marketlake.errors import ConfigError, EmptyAnswer, NotFound
from marketlake.settings import EgressSettings, IexSettings, Settings
from marketlake.sources.failures import UNREADABLE, Failures
from marketlake.sources.history import (
    SourceHistory,
    action_frame,
    bar_frame,
    lead_start,
    response_rows,
)
from marketlake.sources.recording import RecordingSession, VendorCall, address, open_session
from marketlake.sources.source import Answers, CallPlan, Source, missing
from marketlake.types import Semantics

_KEYS = ("MARKETLAKE_IEX__API_KEY", "MARKETLAKE_IEX__SECRET_KEY")
_ZONE = ZoneInfo("America/New_York")
_COLUMNS = {
    "open_usd": "o",
    "high_usd": "h",
    "low_usd": "l",
    "close_usd": "c",
    "volume_shares": "v",
}
_CLOUD_COLUMNS = {
    "open_usd": "uOpen",
    "high_usd": "uHigh",
    "low_usd": "uLow",
    "close_usd": "uClose",
    "volume_shares": "uVolume",
}

Bar = dict[str, Any]


class _Client(StockHistoricalDataClient):
    """Alpaca's client over our session: bounded, recorded, and asked once only."""

    def __init__(self, keys: tuple[str, str], base_url: str, session: RecordingSession) -> None:
        key, secret = keys
        super().__init__(key, secret, raw_data=True, url_override=base_url)
        self._session = session
        # It would try a 429 and a 504 three times more, three seconds apart.
        self._retry = 0


def fetch_histories(
    symbols: Sequence[str],
    first: date,
    last: date,
    *,
    as_of: date,
    calendar: Calendar,
    egress: EgressSettings,
    settings: IexSettings,
    on_call: Callable[[VendorCall], None],
) -> Answers:
    """Fetch several symbols' bars from ``first`` to ``last``, both included, in one request.

    Alpaca leaves out a symbol that had no bar, and one that it does not know: ``EmptyAnswer``. A
    symbol that it refuses is asked for no more, and the rest again.
    """
    keys = _keys(settings)
    left_out: dict[str, EmptyAnswer | NotFound] = {}
    with open_session(egress, as_of, timeout_s=settings.timeout_s, on_call=on_call) as session:
        client = _Client(keys, address(settings.base_url, as_of), session)
        wanted, bars = list(symbols), dict[str, list[Bar]]()
        while wanted:
            failures = Failures("iex", "Alpaca", ", ".join(wanted), settings.timeout_s, _KEYS, keys)
            try:
                bars = _bars(client, wanted, first, last, failures=failures, session=session)
                break
            except _Refused as refused:
                left_out[refused.symbol] = refused.error
                wanted.remove(refused.symbol)
                session.exchanges.clear()
        read = partial(_history, session, failures, first=first, last=last, calendar=calendar)
        found = {symbol: bars.get(_theirs(symbol)) or [] for symbol in wanted}
        left_out |= {symbol: _nothing(symbol) for symbol, own in found.items() if not own}
        histories = {symbol: read(symbol, own) for symbol, own in found.items() if own}
    if histories:
        # One answer is about all of them.
        one = next(iter(histories))
        rows = response_rows(one, session.exchanges)
        histories[one] = replace(histories[one], responses=rows)
    return Answers(histories, left_out)


def _history(
    session: RecordingSession,
    failures: Failures,
    symbol: str,
    bars: Sequence[Bar],
    *,
    first: date,
    last: date,
    calendar: Calendar,
) -> SourceHistory:
    answer = session.exchanges[-1]
    try:
        days = [datetime.fromisoformat(bar["t"]).astimezone(_ZONE).date() for bar in bars]
        values = _numbers(bars, _COLUMNS)
    except UNREADABLE as error:
        raise failures.explained(error, answer) from error
    return SourceHistory(
        symbol=symbol,
        bars=bar_frame(
            symbol, days, values, first, last, calendar=calendar, simulated=answer.simulated
        ),
        actions=action_frame(symbol, ()),
        later_splits=action_frame(symbol, ()),
        responses=[],
        calls=session.calls,
    )


class _Refused(Exception):
    """One symbol of a request is not one, so the whole request was refused."""

    def __init__(self, symbol: str, error: NotFound) -> None:
        super().__init__(symbol)
        self.symbol = symbol
        self.error = error


def _bars(
    client: _Client,
    symbols: Sequence[str],
    first: date,
    last: date,
    *,
    failures: Failures,
    session: RecordingSession,
) -> dict[str, list[Bar]]:
    request = StockBarsRequest(
        symbol_or_symbols=[_theirs(symbol) for symbol in symbols],
        timeframe=TimeFrame.Day,
        start=datetime.combine(lead_start(first), time(), tzinfo=_ZONE),
        end=datetime.combine(last, time(23, 59), tzinfo=_ZONE),
        feed=DataFeed.IEX,
        adjustment=Adjustment.RAW,
        # Symbols as they were called on the session, not as they are called today.
        asof=last.isoformat(),
    )
    try:
        found = client.get_stock_bars(request)
        if not isinstance(found, dict):
            raise TypeError(type(found).__name__)
        return found
    except (APIError, curl.RequestException, *UNREADABLE) as error:
        answer = session.exchanges[-1] if session.exchanges else None
        if answer is not None and answer.status == 400:
            said = answer.body.decode("utf-8", "replace")
            for symbol in sorted(symbols, key=len, reverse=True):
                if f"invalid symbol: {_theirs(symbol)}" in said:
                    expected, todo = "a symbol that Alpaca knows", "correct the universe"
                    raise _Refused(
                        symbol, failures.error(NotFound, expected, said, todo)
                    ) from error
        raise failures.explained(error, answer) from error


def _numbers(bars: Sequence[Bar], names: dict[str, str]) -> dict[str, npt.NDArray[np.float64]]:
    return {
        ours: np.asarray([np.nan if bar[theirs] is None else float(bar[theirs]) for bar in bars])
        for ours, theirs in names.items()
    }


def bars_of_iex_cloud(
    symbol: str, body: bytes, first: date, last: date, *, calendar: Calendar
) -> pl.DataFrame:
    """Return the as-traded bars of a chart answer archived from IEX Cloud before it closed."""
    failures = Failures("iex", "IEX Cloud", symbol, 0.0)
    try:
        bars = sorted(json.loads(body), key=lambda bar: str(bar["date"]))
        days = [date.fromisoformat(bar["date"]) for bar in bars]
        if {bar["symbol"] for bar in bars} - {symbol}:
            raise ValueError(f"bars of {sorted({bar['symbol'] for bar in bars})}")
        values = _numbers(bars, _CLOUD_COLUMNS)
    except UNREADABLE as error:
        raise failures.bad_payload(f"{body[:80]!r} ({error!r})") from error
    return bar_frame(symbol, days, values, first, last, calendar=calendar)


def _theirs(symbol: str) -> str:
    return symbol.replace("-", ".")


def _nothing(symbol: str) -> EmptyAnswer:
    return Failures("iex", "Alpaca", symbol, 0.0).error(
        EmptyAnswer,
        "bars",
        "none: Alpaca leaves out symbols without bars, known or not",
        "check that the symbol traded in this span",
    )


def _keys(settings: IexSettings) -> tuple[str, str]:
    absent = missing(**dict(zip(_KEYS, (settings.api_key, settings.secret_key), strict=True)))
    if not settings.api_key or not settings.secret_key:
        raise ConfigError(
            expected="both keys of Alpaca's data API",
            was=f"no {absent}: the source is not configured",
            where=" and ".join(_KEYS),
            todo="set them, or leave this source out",
        )
    return settings.api_key.get_secret_value(), settings.secret_key.get_secret_value()


def source(settings: Settings) -> Source:
    """Return IEX, by way of Alpaca, as these settings reach it."""
    own = settings.iex
    keys = dict(zip(_KEYS, (own.api_key, own.secret_key), strict=True))
    return Source(
        name="iex",
        vendor="IEX by Alpaca",
        semantics=Semantics(
            basis="as_traded", close="last_trade", volume="one_venue", lag_minutes=own.lag_minutes
        ),
        plan=CallPlan(a_minute=own.calls_a_minute, symbols_a_call=own.batch_symbols),
        fetch=partial(fetch_histories, egress=settings.egress, settings=own),
        credentials=_KEYS,
        not_configured=missing(**keys),
    )
