from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
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
)
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import AlphaVantageSettings, EgressSettings
from marketlake.sources.alpha_vantage import fetch_history
from marketlake.sources.history import SourceHistory
from marketlake.sources.recording import VendorCall

CALENDAR = Calendar.of("XNYS")
DAY = date(2022, 12, 28)
KEY = "the-demo-key-of-the-test"

Fetch = Callable[..., SourceHistory]


@pytest.fixture
def fetch(vendors: RunningSandbox, namespace: str) -> Fetch:
    def call(
        symbol: str,
        first: date = DAY,
        last: date = DAY,
        *,
        as_of: date | None = None,
        egress: EgressSettings | None = None,
        on_call: Callable[[VendorCall], None] = lambda _: None,
        **values: Any,
    ) -> SourceHistory:
        return fetch_history(
            symbol,
            first,
            last,
            as_of=as_of or last,
            calendar=CALENDAR,
            egress=egress or vendors.egress(namespace),
            settings=AlphaVantageSettings(
                **{"api_key": KEY, "plan": "premium", "timeout_s": 20.0, **values}
            ),
            on_call=on_call,
        )

    return call


def test_rows_come_newest_first_and_leave_oldest_first_as_numbers(fetch: Fetch) -> None:
    bars = fetch("JPM", date(2022, 12, 1), DAY).bars
    assert bars["session"].to_list() == CALENDAR.sessions(date(2022, 12, 1), DAY)
    assert bars["close_usd"].dtype == pl.Float64
    assert bars["previous_close_usd"].to_list()[1:] == bars["close_usd"].to_list()[:-1]


def test_the_client_is_asked_for_json_since_its_csv_passes_errors_off_as_data(
    fetch: Fetch,
) -> None:
    (call,) = fetch("JPM").calls
    assert "datatype=json" in call.url


def test_prices_are_as_traded_and_actions_are_told_beside_them(fetch: Fetch) -> None:
    history = fetch("AAPL", date(2020, 1, 2), date(2020, 1, 15), as_of=DAY)
    split = history.actions.filter(pl.col("kind") == "split")
    assert split.select("session", "split_ratio").rows() == [(date(2020, 1, 8), 3.0)]
    closes = dict(history.bars.select("session", "close_usd").iter_rows())
    # Three new shares for one: as traded, the price falls to a third.
    assert closes[date(2020, 1, 8)] == pytest.approx(closes[date(2020, 1, 7)] / 3.0, rel=0.05)
    adjusted = dict(history.bars.select("session", "adj_close_usd").iter_rows())
    assert adjusted[date(2020, 1, 8)] == pytest.approx(adjusted[date(2020, 1, 7)], rel=0.05)
    assert history.later_splits.height == 0


def test_only_as_many_rows_are_asked_for_as_are_needed(fetch: Fetch) -> None:
    assert "outputsize=compact" in fetch("JPM", date(2022, 9, 1), DAY).calls[0].url
    assert "outputsize=full" in fetch("JPM", date(2021, 9, 1), DAY).calls[0].url
    # The newest hundred rows are those before the day of the call, not of the span.
    old = fetch("JPM", date(2015, 6, 1), date(2015, 6, 1), as_of=DAY)
    assert "outputsize=full" in old.calls[0].url
    assert old.bars["session"].to_list() == [date(2015, 6, 1)]


def test_a_plan_without_adjusted_prices_falls_back_to_prices_as_traded(
    fetch: Fetch, vendors: RunningSandbox, namespace: str
) -> None:
    premium = fetch("JPM", date(2022, 12, 1), DAY)
    # The sandbox gives a key that begins so no more than the vendor's free plan.
    fallen = fetch("JPM", date(2022, 12, 1), DAY, api_key="free-key")
    assert [call.url.split("function=")[1].split("&")[0] for call in fallen.calls] == [
        "TIME_SERIES_DAILY_ADJUSTED",
        "TIME_SERIES_DAILY",
    ]
    free = fetch("JPM", date(2022, 12, 1), DAY, plan="free")
    assert len(free.calls) == 1
    assert free.bars.equals(fallen.bars)
    assert free.bars["adj_close_usd"].null_count() == free.bars.height
    assert free.actions.height == 0
    kept = ["session", "open_usd", "high_usd", "low_usd", "close_usd", "volume_shares"]
    assert free.bars.select(kept).equals(premium.bars.select(kept))


def test_where_even_the_plain_series_is_premium_the_plan_is_named(fetch: Fetch, say: Any) -> None:
    say("alpha_vantage", {"Information": "This is a premium endpoint. Subscribe."})
    with pytest.raises(AuthFailed, match="plan"):
        fetch("JPM")


LIMIT = "our standard API rate limit is 25 requests per day. Please subscribe"


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"Note": "Our standard API call frequency is 5 calls per minute"}, RateLimited),
        ({"Information": f"We have detected your API key as {KEY} and {LIMIT}"}, RateLimited),
        ({"Information": "Please spread out your requests (1 request per second)."}, RateLimited),
        ({"Information": "The outputsize=full value is a premium feature."}, AuthFailed),
        ({"Information": "The **demo** API key is for demo purposes only."}, AuthFailed),
        ({"Information": "We are moving house."}, BadPayload),
        ({"Error Message": "the parameter apikey is invalid or missing."}, AuthFailed),
        ({"Error Message": "Invalid API call. Please retry or visit"}, NotFound),
        ({"Error Message": "This API function does not exist."}, BadPayload),
        ({}, EmptyAnswer),
        ([], BadPayload),
        ({"Meta Data": {}, "Time Series (Daily)": {}}, EmptyAnswer),
        ({"Meta Data": {}, "Weekly Time Series": {}}, BadPayload),
        ({"Meta Data": {}, "Time Series (Daily)": {"2022-12-28": {"4. close": "1"}}}, BadPayload),
        ({"Meta Data": {}, "Time Series (Daily)": {"yesterday": {}}}, BadPayload),
    ],
)
def test_only_the_words_of_an_http_200_tell_what_it_is(
    fetch: Fetch, say: Any, document: object, error: type[MarketlakeError]
) -> None:
    say("alpha_vantage", document)
    with pytest.raises(error) as raised:
        fetch("JPM")
    assert type(raised.value) is error
    # The vendor repeats the caller's key; a message must not.
    assert KEY not in f"{raised.value}{raised.value!r}"


def test_a_minute_that_is_spent_says_when_to_come_back(fetch: Fetch, say: Any) -> None:
    say("alpha_vantage", {"Note": "API call frequency is 5 calls per minute and 500 per day"})
    with pytest.raises(RateLimited) as raised:
        fetch("JPM")
    assert raised.value.retry_after_s == 60.0


def test_the_key_is_in_no_message_when_the_connection_fails(
    fetch: Fetch, vendors: RunningSandbox
) -> None:
    calls: list[VendorCall] = []
    dead = EgressSettings(proxy_url="http://x@127.0.0.1:9", ca_bundle=vendors.ca_file)
    with pytest.raises(SourceUnavailable) as raised:
        fetch("JPM", egress=dead, on_call=calls.append)
    assert KEY not in f"{raised.value}{raised.value!r}{raised.value.__cause__}{calls}"
    untrusted = EgressSettings(proxy_url=vendors.egress("ca").proxy_url)
    with pytest.raises(ConfigError, match="CA_BUNDLE"):
        fetch("JPM", egress=untrusted)


def test_planted_faults_arrive_as_the_vendor_made_them(
    fetch: Fetch, vendors: RunningSandbox
) -> None:
    def on(symbol: str, day: date) -> dict[str, Any]:
        # A namespace that is a date stands at that session, when the fault was not yet mended.
        egress = vendors.egress(day.isoformat())
        return fetch(symbol, day, day, egress=egress).bars.row(0, named=True)

    stale = on("MRK", date(2022, 12, 22))
    assert stale["close_usd"] == stale["previous_close_usd"]
    doubled = on("UNH", date(2022, 12, 27))
    assert doubled["close_usd"] == pytest.approx(2.0 * doubled["previous_close_usd"], rel=0.05)


def test_an_index_is_not_known_to_alpha_vantage(fetch: Fetch) -> None:
    with pytest.raises(NotFound):
        fetch("^GSPC")


def test_notes_recorded_from_alpha_vantage_are_limits(
    fetch: Fetch, say: Any, recorded: Callable[[str], dict[str, bytes]]
) -> None:
    bodies = recorded("www.alphavantage.co_query_").values()
    notes = [body for body in bodies if b'"Note"' in body]
    assert len(notes) >= 5
    for body in notes:
        say("alpha_vantage", body, times=1)
        with pytest.raises(RateLimited):
            fetch("TSLA")


def test_the_premium_notice_recorded_from_alpha_vantage_leads_to_the_plain_series(
    fetch: Fetch, say: Any, recorded: Callable[[str], dict[str, bytes]]
) -> None:
    ((name, body),) = recorded("www.alphavantage.co_query_TIME_SERIES_DAILY_ADJUST").items()
    assert "GME" in name
    say("alpha_vantage", body, times=1)
    history = fetch("JPM")
    assert len(history.calls) == 2
    assert history.bars["session"].to_list() == [DAY]


@pytest.mark.parametrize("pair", ["EUR_USD", "USD_JPY", "GBP_EUR", "CHF_USD"])
def test_exchange_rates_recorded_from_alpha_vantage_are_read_as_they_are(
    fetch: Fetch, say: Any, recorded: Callable[[str], dict[str, bytes]], pair: str
) -> None:
    (body,) = recorded(f"www.alphavantage.co_query_FX_DAILY_{pair}").values()
    say("alpha_vantage", body)
    rows = json.loads(body)["Time Series FX (Daily)"]
    days = sorted(date.fromisoformat(day) for day in rows)
    bars = fetch(f"{pair.replace('_', '')}=X", days[0], days[-1]).bars
    assert bars["session"].to_list() == days
    newest = rows[days[-1].isoformat()]
    assert bars["close_usd"][-1] == float(newest["4. close"])
    assert bars["volume_shares"].null_count() == bars.height


def test_a_whole_history_of_alpha_vantage_is_read_as_it_is(
    fetch: Fetch, say: Any, shared_data: Path
) -> None:
    archive = shared_data / "alphavantage_daily_adjusted_csv"
    with zipfile.ZipFile(archive / "alphavantage_daily_adjusted_csv.zip") as files:
        text = files.read("daily_adjusted_AAPL.csv").decode()
    names = {
        "1. open": "open",
        "2. high": "high",
        "3. low": "low",
        "4. close": "close",
        "5. adjusted close": "adjusted_close",
        "6. volume": "volume",
        "7. dividend amount": "dividend_amount",
        "8. split coefficient": "split_coefficient",
    }
    rows = list(csv.DictReader(io.StringIO(text)))
    series = {row["timestamp"]: {name: row[ours] for name, ours in names.items()} for row in rows}
    say("alpha_vantage", {"Meta Data": {}, "Time Series (Daily)": series})
    history = fetch("AAPL", date(1995, 1, 3), date(2018, 8, 6))
    assert history.bars.height == len(rows)
    kinds = history.actions["kind"].value_counts()
    # AAPL: 2:1 in 2000 and 2005, 7:1 in 2014; 28 dividends from 2012 (and early ones) to 2018.
    splits = history.actions.filter(pl.col("kind") == "split")["split_ratio"].to_list()
    assert splits == [2.0, 2.0, 7.0]
    assert dict(kinds.iter_rows())["dividend"] == sum(
        float(row["dividend_amount"]) > 0 for row in rows
    )
