from __future__ import annotations

import zipfile
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from defusedxml import ElementTree
from marketlake.calendars import Calendar
from marketlake.errors import AuthFailed, BadPayload, EmptyAnswer, MarketlakeError, NotFound
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import FredSettings
from marketlake.sources.fred import fetch_history
from marketlake.sources.history import SourceHistory

CALENDAR = Calendar.of("XNYS")
DAY = date(2022, 12, 28)
KEY = "the-key-of-the-test"

Fetch = Callable[..., SourceHistory]


@pytest.fixture
def fetch(vendors: RunningSandbox, namespace: str) -> Fetch:
    def call(
        symbol: str,
        first: date = DAY,
        last: date = DAY,
        *,
        as_of: date | None = None,
        **values: Any,
    ) -> SourceHistory:
        return fetch_history(
            symbol,
            first,
            last,
            as_of=as_of or last,
            calendar=CALENDAR,
            egress=vendors.egress(namespace),
            settings=FredSettings(**{"timeout_s": 20.0, **values}),
            on_call=lambda _: None,
        )

    return call


def values_of(history: SourceHistory) -> dict[date, float]:
    return dict(history.observations.select("session", "value").iter_rows())


@pytest.mark.parametrize("key", [None, KEY])
def test_a_holiday_is_no_observation_in_either_form(fetch: Fetch, key: str | None) -> None:
    first = date(2022, 12, 22)
    history = fetch("SP500", first, api_key=key)
    # 2022-12-26 was a holiday: FRED has a row for it, without a value.
    body = history.responses[0]["body"]
    assert b"2022-12-26" in body
    assert list(values_of(history)) == CALENDAR.sessions(first, DAY)
    # S&P 500 closes as published by S&P Dow Jones Indices.
    assert values_of(history)[DAY] == 3783.22
    assert history.observations["simulated_fields"].list.len().sum() == 0
    assert history.bars.height == 0


def test_values_that_were_made_say_so(fetch: Fetch) -> None:
    made = fetch("DGS10").observations
    assert made["simulated_fields"].to_list() == [["value"]]
    recorded = fetch("VIXCLS", date(2018, 2, 5), date(2018, 2, 5))
    # The VIX closed at 37.32 on that day, as Cboe published.
    assert recorded.observations["value"].to_list() == [37.32]


def test_a_vintage_shows_what_was_known_on_a_day(
    fetch: Fetch, vendors: RunningSandbox, namespace: str
) -> None:
    history = fetch("SP500", date(2022, 12, 20), DAY, as_of=date(2022, 12, 22), api_key=KEY)
    assert max(values_of(history)) == date(2022, 12, 22)
    assert "realtime_end=2022-12-22" in history.calls[0].url
    assert KEY not in str(history.calls)


@pytest.mark.parametrize("key", [None, KEY])
def test_an_unknown_series_is_not_found_in_either_form(fetch: Fetch, key: str | None) -> None:
    with pytest.raises(NotFound):
        fetch("NOPE", api_key=key)


CSV = b"observation_date,VIXCLS\n"
XML = b'<?xml version="1.0"?>\n'
ROW = b'<observations><observation date="2022-12-28" value="22.14"/></observations>'


@pytest.mark.parametrize(
    ("key", "status", "body", "error"),
    [
        (None, 200, CSV + b"2022-12-27,21.65\n2022-12-28,22.1", BadPayload),  # cut in a number
        (None, 200, CSV, EmptyAnswer),
        (None, 200, CSV + b"2022-12-28,\n", EmptyAnswer),
        (None, 200, b"observation_date,DGS10\n2022-12-28,3.8\n", BadPayload),  # another series
        (None, 200, CSV + b"yesterday,1\n", BadPayload),
        (None, 200, CSV + b"2022-12-28,1,2\n", BadPayload),
        (None, 404, b"<html>Page not found</html>", NotFound),
        (KEY, 400, b'<error code="400" message="Bad Request. The value for api_key"/>', AuthFailed),
        (KEY, 400, b'<error code="400" message="limit is not an integer"/>', BadPayload),
        (KEY, 200, XML + b"<html>down for maintenance</html>", BadPayload),
        (KEY, 200, XML + ROW[:40], BadPayload),
        (KEY, 200, XML + ROW.replace(b"22.14", b"many"), BadPayload),
        (KEY, 200, XML + ROW.replace(b"22.14", b"."), EmptyAnswer),
    ],
)
def test_a_body_that_is_no_answer_is_refused(
    fetch: Fetch,
    say: Any,
    key: str | None,
    status: int,
    body: bytes,
    error: type[MarketlakeError],
) -> None:
    say("fred", body, status=status)
    with pytest.raises(error) as raised:
        fetch("VIXCLS", api_key=key)
    assert type(raised.value) is error


def test_the_older_name_of_the_day_column_is_known_too(fetch: Fetch, say: Any) -> None:
    say("fred", b"DATE,VIXCLS\n2022-12-28,22.14\n")
    assert values_of(fetch("VIXCLS")) == {DAY: 22.14}


def test_xml_recorded_from_fred_is_read_as_it_is(
    fetch: Fetch, say: Any, recorded: Callable[[str], dict[str, bytes]]
) -> None:
    bodies = recorded("api.stlouisfed.org_fred_series_observations_")
    assert len(bodies) >= 30
    for name, body in bodies.items():
        series = name.split("_observations_")[1].split("_")[0]
        rows = ElementTree.fromstring(body).findall("observation")
        told = {
            date.fromisoformat(row.attrib["date"]): float(row.attrib["value"])
            for row in rows
            if row.attrib["value"] != "."
        }
        say("fred", body, times=1)
        history = fetch(series, min(told), max(told), api_key=KEY)
        assert values_of(history) == told, name


@pytest.mark.parametrize("series", ["VIXCLS", "DGS10", "DTWEXBGS"])
def test_csv_of_fred_is_read_as_it_is(
    fetch: Fetch, say: Any, shared_data: Path, series: str
) -> None:
    with zipfile.ZipFile(shared_data / "fred_qie" / "fred_qie.zip") as files:
        body = files.read(f"{series}.csv")
    told = pl.read_csv(body).drop_nulls()
    say("fred", body)
    history = fetch(series, date(1960, 1, 1), date(2026, 12, 31))
    assert history.observations["value"].to_list() == told[series].to_list()
    assert history.observations["session"].cast(pl.String).to_list() == told[:, 0].to_list()
