from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import pytest
from marketlake.calendars import Calendar
from marketlake.errors import (
    AuthFailed,
    BadPayload,
    EmptyAnswer,
    MarketlakeError,
    NotFound,
    RateLimited,
    SourceUnavailable,
)
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import IexSettings
from marketlake.sources.iex import bars_of_iex_cloud, fetch_histories
from marketlake.sources.source import Answers

from tests.sources.test_stooq import fetch_stooq

CALENDAR = Calendar.of("XNYS")
DAY = date(2022, 12, 28)
KEYS = {"api_key": "the-key-of-the-test", "secret_key": "the-secret-of-the-test"}

Fetch = Callable[..., Answers]


@pytest.fixture
def fetch(vendors: RunningSandbox, namespace: str) -> Fetch:
    def call(*symbols: str, first: date = DAY, last: date = DAY, **values: Any) -> Answers:
        return fetch_histories(
            symbols,
            first,
            last,
            as_of=last,
            calendar=CALENDAR,
            egress=vendors.egress(namespace),
            settings=IexSettings(**{**KEYS, "timeout_s": 20.0, **values}),
            on_call=lambda _: None,
        )

    return call


def bar(stamp: str, close: float = 1.0) -> dict[str, Any]:
    return {"t": stamp, "o": 1.0, "h": 2.0, "l": 0.5, "c": close, "v": 100}


def test_midnight_in_new_york_is_the_session_in_summer_and_in_winter(
    fetch: Fetch, say: Any
) -> None:
    stamps = ["2022-07-05T04:00:00Z", "2022-12-28T05:00:00Z"]
    say("iex", {"bars": {"JPM": [bar(stamp) for stamp in stamps]}, "next_page_token": None})
    history = fetch("JPM", first=date(2022, 7, 1)).histories["JPM"]
    assert history.bars["session"].to_list() == [date(2022, 7, 5), DAY]


def test_the_volume_is_one_venues_and_the_price_the_markets(fetch: Fetch, vendors: Any) -> None:
    bars = fetch("JPM", first=date(2022, 1, 3)).histories["JPM"].bars
    market = fetch_stooq(vendors, "JPM", date(2022, 1, 3), DAY).bars
    share = bars["volume_shares"].sum() / market["volume_shares"].sum()
    assert 0.01 < share < 0.05
    assert bars["close_usd"][-1] == pytest.approx(market["close_usd"][-1], rel=1e-3)
    assert bars["close_usd"][-1] != market["close_usd"][-1]


def test_planted_faults_arrive_as_the_vendor_made_them(vendors: RunningSandbox) -> None:
    def on(symbol: str, day: date) -> dict[str, Any]:
        answers = fetch_histories(
            [symbol],
            day,
            day,
            as_of=day,
            calendar=CALENDAR,
            egress=vendors.egress(),
            settings=IexSettings(**KEYS),
            on_call=lambda _: None,
        )
        return answers.histories[symbol].bars.row(0, named=True)

    swapped = on("PG", date(2022, 12, 21))
    assert swapped["high_usd"] < max(swapped["open_usd"], swapped["close_usd"])
    odd = on("WMT", date(2022, 12, 23))
    market = fetch_stooq(vendors, "WMT", date(2022, 12, 23), date(2022, 12, 23)).bars
    assert odd["close_usd"] == pytest.approx(1.04 * market["close_usd"].item(), rel=1e-3)


def test_every_page_is_followed_and_none_is_read_twice(fetch: Fetch) -> None:
    answers = fetch("AAPL", "JPM", "KO", first=date(1990, 1, 2))
    calls = answers.histories["AAPL"].calls
    # 8,313 sessions of three symbols, ten thousand bars a page.
    assert len(calls) == 3
    assert "page_token" not in calls[0].url
    assert [len(answers.histories[s].responses) for s in ("AAPL", "JPM", "KO")] == [3, 0, 0]
    for history in answers.histories.values():
        assert history.bars["session"].to_list() == CALENDAR.sessions(date(1990, 1, 2), DAY)


def test_one_call_serves_many_symbols_and_leaves_out_what_is_not_there(fetch: Fetch) -> None:
    answers = fetch("JPM", "NOPE", "^GSPC", "KO")
    assert list(answers.histories) == ["JPM", "KO"]
    assert isinstance(answers.left_out["NOPE"], EmptyAnswer)
    # Alpaca refuses the whole request for one impossible symbol: it is asked again without.
    assert isinstance(answers.left_out["^GSPC"], NotFound)
    assert len(answers.histories["JPM"].calls) == 2
    assert fetch("^GSPC").histories == {}


@pytest.mark.parametrize(("kind", "args"), [("http_429", {}), ("http_5xx", {"status": 504})])
def test_the_clients_own_retries_are_off(
    fetch: Fetch, vendors: RunningSandbox, namespace: str, kind: str, args: dict[str, int]
) -> None:
    rule = {"namespace": namespace, "vendor": "iex", "kind": kind, "args": args}
    vendors.control("POST", "/__ctl/faults", rule)
    with pytest.raises((RateLimited, SourceUnavailable)):
        fetch("JPM")
    # It would try three times more, three seconds apart.
    assert len(vendors.control("GET", f"/__ctl/requests?namespace={namespace}")) == 1


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (
            500,
            b"<html>not JSON, which the client's own message chokes on</html>",
            SourceUnavailable,
        ),
        (403, {"code": 42210000, "message": "subscription does not permit"}, AuthFailed),
        (401, {"message": "unauthorized."}, AuthFailed),
        (422, {"message": "unprocessable"}, BadPayload),
        (200, {"rab": {}}, BadPayload),
        (200, {"bars": {"JPM": [{"t": "tomorrow"}]}, "next_page_token": None}, BadPayload),
        (200, {"bars": {"JPM": [bar("2022-12-28T05:00:00Z") | {"c": "x"}]}}, BadPayload),
        (200, {"bars": ["JPM"]}, BadPayload),
        (200, {"bars": None}, BadPayload),
        (200, {"bars": {}, "next_page_token": None}, EmptyAnswer),
    ],
)
def test_an_answer_that_is_not_as_documented_is_told_for_what_it_is(
    fetch: Fetch, say: Any, status: int, body: object, error: type[MarketlakeError]
) -> None:
    say("iex", body, status=status)
    if error is EmptyAnswer:
        assert isinstance(fetch("JPM").left_out["JPM"], error)
        return
    with pytest.raises(error) as raised:
        fetch("JPM")
    assert type(raised.value) is error
    assert "APCA" not in str(raised.value)


def test_a_fault_on_the_second_page_is_no_shorter_history(
    fetch: Fetch, vendors: RunningSandbox, namespace: str
) -> None:
    for kind, error in (("truncate", SourceUnavailable), ("malformed", BadPayload)):
        rule = {"namespace": namespace, "vendor": "iex", "kind": kind, "after": 1, "times": 1}
        vendors.control("POST", "/__ctl/faults", rule)
        with pytest.raises(error):
            fetch("AAPL", "JPM", first=date(1990, 1, 2))


def test_keys_travel_in_headers_and_are_recorded_as_hashes(
    fetch: Fetch, vendors: RunningSandbox, namespace: str
) -> None:
    fetch("JPM")
    (row,) = vendors.control("GET", f"/__ctl/requests?namespace={namespace}")
    assert len(row["credentials"]) == 2
    assert all(value.startswith("sha256:") for value in row["credentials"].values())
    assert not any(key in json.dumps(row) for key in KEYS.values())


def test_a_chart_recorded_from_iex_cloud_is_read_as_it_is(
    recorded: Callable[[str], dict[str, bytes]],
) -> None:
    ((name, body),) = recorded("cloud.iexapis.com_v1_stock_GME_chart").items()
    assert "ytd" in name
    told = {row["date"]: row for row in json.loads(body)}
    first, last = (date.fromisoformat(day) for day in (min(told), max(told)))
    bars = bars_of_iex_cloud("GME", body, first, last, calendar=CALENDAR)
    assert bars["session"].cast(pl.String).to_list() == sorted(told)
    assert bars["close_usd"].to_list() == [told[day]["uClose"] for day in sorted(told)]
    with pytest.raises(BadPayload, match="bars of"):
        bars_of_iex_cloud("AMC", body, first, last, calendar=CALENDAR)
    with pytest.raises(BadPayload):
        bars_of_iex_cloud("GME", body[:500], first, last, calendar=CALENDAR)
