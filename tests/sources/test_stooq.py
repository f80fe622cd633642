from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from marketlake.calendars import Calendar
from marketlake.errors import BadPayload, EmptyAnswer, MarketlakeError, RateLimited
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import StooqSettings
from marketlake.sources.history import SourceHistory
from marketlake.sources.stooq import fetch_history

CALENDAR = Calendar.of("XNYS")
DAY = date(2022, 12, 28)

Fetch = Callable[..., SourceHistory]


def fetch_stooq(
    vendors: RunningSandbox,
    symbol: str,
    first: date = DAY,
    last: date = DAY,
    *,
    namespace: str = "{session}",
) -> SourceHistory:
    return fetch_history(
        symbol,
        first,
        last,
        as_of=last,
        calendar=CALENDAR,
        egress=vendors.egress(namespace),
        settings=StooqSettings(timeout_s=20.0),
        on_call=lambda _: None,
    )


def test_prices_are_adjusted_for_everything_and_the_volume_with_them(
    vendors: RunningSandbox,
) -> None:
    first, last = date(2020, 1, 7), date(2020, 1, 8)
    then = fetch_stooq(vendors, "AAPL", first, last)
    # The day of a 3:1 split: no jump in price, none in volume.
    before, after = then.bars["close_usd"].to_list()
    assert after == pytest.approx(before, rel=0.05)
    assert then.bars["adj_close_usd"].to_list() == [before, after]
    assert then.actions.height == 0


def test_an_index_has_a_name_of_stooqs_own(vendors: RunningSandbox) -> None:
    history = fetch_stooq(vendors, "^GSPC")
    assert "s=%5Espx" in history.calls[0].url
    assert history.bars["close_usd"].to_list() == pytest.approx([3783.22], rel=1e-3)


HEAD = b"Date,Open,High,Low,Close,Volume\r\n"
ROW = b"2022-12-28,1.0,2.0,0.5,1.5,100\r\n"


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"No data", EmptyAnswer),
        (b"Exceeded the daily hits limit", RateLimited),
        (HEAD + ROW[:-5], BadPayload),  # cut in the volume
        (HEAD + b"2022-12-28,1.0,2.0\r\n", BadPayload),
        (b"Data,Otwarcie,Najwyzszy,Najnizszy,Zamkniecie,Wolumen\r\n", BadPayload),
        (HEAD + ROW.replace(b"1.5", b"x"), BadPayload),
        (HEAD, BadPayload),
    ],
)
def test_the_words_of_an_http_200_tell_what_it_is(
    vendors: RunningSandbox, namespace: str, say: Any, body: bytes, error: type[MarketlakeError]
) -> None:
    say("stooq", body)
    with pytest.raises(error) as raised:
        fetch_stooq(vendors, "JPM", namespace=namespace)
    assert type(raised.value) is error


def test_a_series_without_volume_is_read(vendors: RunningSandbox, namespace: str, say: Any) -> None:
    say("stooq", b"Date,Open,High,Low,Close\r\n2022-12-28,1.0,2.0,0.5,1.5\r\n")
    row = fetch_stooq(vendors, "EURUSD", namespace=namespace).bars.row(0, named=True)
    assert (row["close_usd"], row["volume_shares"]) == (1.5, None)
