from __future__ import annotations

import base64
import json
import multiprocessing
import warnings
import zipfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
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
    Timeout,
)
from marketlake.services.sandbox.embedded import RunningSandbox, running_sandbox
from marketlake.services.sandbox.packaged import packaged_world, read_closes
from marketlake.services.sandbox.world import Series
from marketlake.settings import EgressSettings, Settings, YahooSettings
from marketlake.sources.history import SourceHistory
from marketlake.sources.recording import VendorCall
from marketlake.sources.yahoo import fetch_history
from yfinance.cache import _TzDBManager

CALENDAR = Calendar.of("XNYS")
LAST = date(2022, 12, 28)
CHART_PATH = "/v8/finance/chart/"

Fetch = Callable[..., SourceHistory]


@pytest.fixture
def fetch(vendors: RunningSandbox) -> Fetch:
    """Fetch through the real client; by default in the namespace of the session itself."""

    def call(
        symbol: str,
        first: date,
        last: date,
        *,
        as_of: date | None = None,
        egress: EgressSettings | None = None,
        on_call: Callable[[VendorCall], None] = lambda _: None,
        timeout_s: float = 5.0,
    ) -> SourceHistory:
        return fetch_history(
            symbol,
            first,
            last,
            as_of=as_of or last,
            calendar=CALENDAR,
            egress=egress or vendors.egress(),
            settings=YahooSettings(timeout_s=timeout_s),
            on_call=on_call,
        )

    return call


@pytest.fixture(scope="module")
def as_traded() -> Callable[[str], Series]:
    world = packaged_world(20221228, benchmark="^GSPC")

    def series(symbol: str) -> Series:
        found = world.market(symbol, LAST)
        assert found is not None
        return found

    return series


def unadjusted_closes(history: SourceHistory) -> dict[date, float]:
    """Multiply each close by every split after it that Yahoo had already applied."""
    splits = pl.concat([history.actions, history.later_splits]).filter(pl.col("kind") == "split")
    closes = {}
    for session, close in history.bars.select("session", "close_usd").iter_rows():
        for ex, ratio in splits.select("session", "split_ratio").iter_rows():
            close *= ratio if ex > session else 1.0
        closes[session] = close
    return closes


def test_a_whole_history_adjusts_to_the_real_closes(fetch: Fetch) -> None:
    history = fetch("AAPL", date(1990, 1, 2), LAST)
    sessions, real = read_closes("sp500_dataset")
    assert history.bars["session"].to_list() == sessions.tolist()
    closes = np.asarray(list(unadjusted_closes(history).values()))
    adjusted = closes.copy()
    days = history.bars["session"].to_numpy()
    splits = history.actions.filter(pl.col("kind") == "split")
    for ex, ratio in splits.select("session", "split_ratio").iter_rows():
        adjusted[days < np.datetime64(ex)] /= ratio
    for ex, paid in (
        history.actions.filter(pl.col("kind") == "dividend")
        .select("session", "dividend_usd")
        .iter_rows()
    ):
        later = splits.filter(pl.col("session") > ex)["split_ratio"].product()
        before = int(np.searchsorted(days, np.datetime64(ex))) - 1
        adjusted[: before + 1] *= 1.0 - paid * later / closes[before]
    assert np.abs(adjusted / real["AAPL"] - 1.0).max() <= 1e-12
    assert np.abs(history.bars["adj_close_usd"].to_numpy() / real["AAPL"] - 1.0).max() <= 1e-12


def test_bars_are_what_the_market_was(fetch: Fetch, as_traded: Callable[[str], Series]) -> None:
    first, last = date(2022, 3, 1), date(2022, 3, 31)
    history = fetch("JPM", first, last)
    series = as_traded("JPM")
    inside = (series.sessions >= np.datetime64(first)) & (series.sessions <= np.datetime64(last))
    assert history.bars["session"].to_list() == CALENDAR.sessions(first, last)
    for name in ("open_usd", "high_usd", "low_usd", "close_usd", "volume_shares"):
        assert history.bars[name].to_list() == getattr(series, name)[inside].tolist(), name
    expected = ["open_usd", "high_usd", "low_usd", "close_usd", "volume_shares"]
    assert history.bars["simulated_fields"].to_list() == [expected] * history.bars.height
    index = fetch("^GSPC", last, last).bars
    assert index["close_usd"].to_list() == [4530.41]  # S&P 500 close of 2022-03-31
    assert "close_usd" not in index["simulated_fields"].to_list()[0]


def test_a_year_fetched_later_still_un_adjusts_to_as_traded(
    fetch: Fetch, as_traded: Callable[[str], Series]
) -> None:
    first, last = date(2011, 1, 3), date(2012, 12, 31)
    early = fetch("AAPL", first, last)
    late = fetch("AAPL", first, last, as_of=LAST)
    assert early.later_splits.height == 0
    assert late.later_splits["session"].to_list() == [date(2020, 1, 8)]
    assert late.later_splits.schema == late.actions.schema
    assert late.bars["close_usd"][0] != early.bars["close_usd"][0]
    series = as_traded("AAPL")
    truth = dict(zip(series.sessions.tolist(), series.close_usd.tolist(), strict=True))
    for history in (early, late):
        for session, close in unadjusted_closes(history).items():
            assert close == pytest.approx(truth[session], rel=1e-12)
    assert [row["request_no"] for row in late.responses] == [0, 1]


def test_a_split_is_unknown_until_its_ex_date(fetch: Fetch) -> None:
    eve = fetch("AAPL", date(2012, 4, 16), date(2012, 4, 16))
    day = fetch("AAPL", date(2012, 4, 16), date(2012, 4, 17))
    assert eve.actions.height == eve.later_splits.height == 0
    assert day.actions.select("session", "kind", "split_ratio").rows() == [
        (date(2012, 4, 17), "split", 3.0)
    ]
    assert day.actions["simulated_fields"].to_list() == [["split_ratio"]]
    assert eve.bars["close_usd"][0] == pytest.approx(3.0 * day.bars["close_usd"][0], rel=1e-12)


def test_the_previous_close_is_the_session_before_in_the_same_adjustment(fetch: Fetch) -> None:
    history = fetch("AAPL", date(2012, 4, 16), date(2012, 4, 18))
    closes = history.bars["close_usd"].to_list()
    assert history.bars["previous_close_usd"].to_list()[1:] == closes[:-1]
    alone = fetch("AAPL", date(2012, 4, 18), date(2012, 4, 18))
    assert alone.bars["previous_close_usd"].to_list() == [closes[1]]
    start = fetch("AAPL", date(1990, 1, 2), date(1990, 1, 3))
    assert start.bars["previous_close_usd"].to_list()[0] is None
    # A holiday lies between: 2022-12-23 is the session before 2022-12-27.
    after = fetch("JPM", date(2022, 12, 27), date(2022, 12, 27))
    before = fetch("JPM", date(2022, 12, 22), date(2022, 12, 23), as_of=LAST)
    assert after.bars["previous_close_usd"].to_list() == [before.bars["close_usd"].to_list()[1]]


def test_the_same_call_gives_the_same_bytes(fetch: Fetch) -> None:
    one = fetch("KO", date(2020, 1, 2), date(2020, 12, 31), as_of=LAST)
    two = fetch("KO", date(2020, 1, 2), date(2020, 12, 31), as_of=LAST)
    assert one.responses == two.responses
    assert one.bars.equals(two.bars)
    assert all("crumb" not in call.url for call in (*one.calls, *two.calls))
    assert len(two.calls) == 2


def test_planted_faults_arrive_as_the_vendor_made_them(fetch: Fetch) -> None:
    day = date(2022, 12, 22)
    xom = fetch("XOM", day, day).bars.row(0, named=True)
    assert xom["close_usd"] > 50.0 * xom["previous_close_usd"]
    day = date(2022, 12, 23)
    jpm = fetch("JPM", day, day).bars.row(0, named=True)
    assert jpm["high_usd"] < jpm["low_usd"]
    day = date(2022, 12, 27)
    assert fetch("KO", day, day).bars.height == 0
    pfe = fetch("PFE", day, day).bars.row(0, named=True)
    assert pfe["close_usd"] is None
    assert pfe["open_usd"] is not None
    later = fetch("KO", day, LAST, as_of=LAST).bars
    assert later["session"].to_list() == [day, LAST]
    assert later.null_count().sum_horizontal().item() == 0


def inject(vendors: RunningSandbox, namespace: str, kind: str, **more: Any) -> EgressSettings:
    rule = {"namespace": namespace, "path_contains": CHART_PATH, "kind": kind, **more}
    vendors.control("POST", "/__ctl/faults", rule)
    return vendors.egress(namespace)


@pytest.mark.parametrize(
    ("kind", "args", "error"),
    [
        ("http_429", {"retry_after": 7}, RateLimited),
        ("http_5xx", {"status": 500}, SourceUnavailable),
        ("http_5xx", {"status": 503}, SourceUnavailable),
        ("hang", {}, Timeout),
        ("reset", {}, SourceUnavailable),
        ("truncate", {}, SourceUnavailable),
        ("malformed", {}, BadPayload),
        ("html_200", {}, BadPayload),
        ("empty_200", {}, SourceUnavailable),
        ("bad_auth", {}, AuthFailed),
        ("status500_with_good_body", {}, SourceUnavailable),
    ],
)
def test_each_vendor_fault_ends_in_its_error_within_its_timeout(
    vendors: RunningSandbox,
    namespace: str,
    fetch: Fetch,
    kind: str,
    args: dict[str, Any],
    error: type[MarketlakeError],
) -> None:
    egress = inject(vendors, namespace, kind, args=args)
    calls: list[VendorCall] = []
    with pytest.raises(error) as raised:
        fetch("JPM", LAST, LAST, egress=egress, on_call=calls.append, timeout_s=1.0)
    assert type(raised.value) is error
    assert "JPM" in raised.value.where
    assert getattr(raised.value, "retry_after_s", None) == args.get("retry_after")
    charts = [call for call in calls if CHART_PATH in call.url]
    assert charts
    assert all(call.seconds < 2.5 for call in charts)
    # The next try must ask again instead of reading the failure from the client's cache.
    vendors.control("POST", "/__ctl/reset", {"namespace": namespace})
    assert fetch("JPM", LAST, LAST, egress=egress).bars.height == 1


@pytest.mark.parametrize("kind", ["http_429", "http_5xx"])
def test_a_single_refusal_is_recovered_by_the_client_itself(
    vendors: RunningSandbox, namespace: str, fetch: Fetch, kind: str
) -> None:
    egress = inject(vendors, namespace, kind, times=1)
    calls: list[VendorCall] = []
    history = fetch("JPM", LAST, LAST, egress=egress, on_call=calls.append)
    assert history.bars.height == 1
    charts = [call.status for call in calls if CHART_PATH in call.url]
    assert charts == [429 if kind == "http_429" else 503, 200]
    assert [row["status"] for row in history.responses] == [200]


def test_a_refused_crumb_does_not_stop_the_data(
    vendors: RunningSandbox, namespace: str, fetch: Fetch
) -> None:
    rule = {"namespace": namespace, "path_contains": "getcrumb", "kind": "http_429"}
    vendors.control("POST", "/__ctl/faults", rule)
    assert fetch("JPM", LAST, LAST, egress=vendors.egress(namespace)).bars.height == 1


def body(document: object) -> dict[str, str]:
    text = document if isinstance(document, str) else json.dumps(document)
    return {"body_base64": base64.b64encode(text.encode()).decode()}


def chart_of(symbol: str, currency: str) -> dict[str, Any]:
    stamp = int(datetime(2022, 12, 28, 14, 30, tzinfo=UTC).timestamp())
    quote = {name: [10.0] for name in ("open", "high", "low", "close", "volume")}
    meta = {
        "currency": currency,
        "symbol": symbol,
        "instrumentType": "EQUITY",
        "exchangeTimezoneName": "America/New_York",
        "regularMarketTime": stamp,
    }
    result = {"meta": meta, "timestamp": [stamp], "indicators": {"quote": [quote]}}
    return {"chart": {"result": [result], "error": None}}


@pytest.mark.parametrize(
    ("document", "error", "says"),
    [
        ("<html>Will be right back</html>", SourceUnavailable, "right back"),
        (chart_of("PEP", "USD"), BadPayload, "a chart of PEP"),
        (chart_of("JPM", "GBp"), BadPayload, "in GBp"),
        ({"chart": {"result": None, "error": None}}, BadPayload, "HTTP 200 with"),
        ({"chart": {"result": [{"meta": {}}], "error": None}}, BadPayload, "KeyError"),
    ],
)
def test_a_body_that_is_no_answer_to_the_question_is_refused(
    vendors: RunningSandbox,
    namespace: str,
    fetch: Fetch,
    document: object,
    error: type[MarketlakeError],
    says: str,
) -> None:
    egress = inject(vendors, namespace, "replay", args=body(document))
    with pytest.raises(error, match=says):
        fetch("JPM", LAST, LAST, egress=egress)


def refusal(description: str) -> dict[str, Any]:
    error = {"code": "Bad Request", "description": description}
    return {"chart": {"result": None, "error": error}}


@pytest.mark.parametrize(
    ("status", "document", "error"),
    [
        (400, refusal("Data doesn't exist for startDate = 1, endDate = 2"), EmptyAnswer),
        (400, refusal("Invalid input - start date cannot be after end date"), BadPayload),
        (422, refusal("Invalid input - interval=1d is not supported"), BadPayload),
        (408, refusal("Request Timeout"), SourceUnavailable),
        (418, chart_of("JPM", "USD"), BadPayload),
    ],
)
def test_a_refused_request_is_no_symbol_without_bars(
    vendors: RunningSandbox,
    namespace: str,
    fetch: Fetch,
    status: int,
    document: object,
    error: type[MarketlakeError],
) -> None:
    egress = inject(vendors, namespace, "replay", args={"status": status, **body(document)})
    with pytest.raises(error) as raised:
        fetch("JPM", LAST, LAST, egress=egress)
    assert type(raised.value) is error


def test_an_unknown_symbol_is_told_from_an_empty_span(
    vendors: RunningSandbox, namespace: str, fetch: Fetch
) -> None:
    with pytest.raises(NotFound):
        fetch("NOPE", LAST, LAST)
    sessions = [day.isoformat() for day in CALENDAR.sessions(date(2022, 12, 1), LAST)]
    egress = inject(vendors, namespace, "missing_days", args={"sessions": sessions})
    with pytest.raises(EmptyAnswer):
        fetch("JPM", LAST, LAST, egress=egress)


def test_a_volume_that_yahoo_does_not_give_is_not_read_as_none_traded(
    vendors: RunningSandbox, namespace: str, fetch: Fetch
) -> None:
    args = {"sessions": [LAST.isoformat()], "fields": ["volume_shares"]}
    egress = inject(vendors, namespace, "null_row", args=args)
    row = fetch("JPM", LAST, LAST, egress=egress).bars.row(0, named=True)
    assert row["volume_shares"] is None
    assert row["close_usd"] > 0.0


def test_rows_without_values_and_outliers_arrive_for_the_gate_to_judge(
    vendors: RunningSandbox, namespace: str, fetch: Fetch
) -> None:
    day = date(2022, 12, 21)
    egress = inject(vendors, namespace, "null_row", args={"sessions": [day.isoformat()]})
    bars = fetch("JPM", date(2022, 12, 20), LAST, egress=egress).bars
    row = bars.filter(pl.col("session") == day).row(0, named=True)
    assert row["close_usd"] is row["volume_shares"] is row["adj_close_usd"] is None
    assert bars.filter(pl.col("session") > day)["close_usd"].null_count() == 0
    vendors.control("POST", "/__ctl/reset", {"namespace": namespace})
    inject(vendors, namespace, "outlier", args={"sessions": [day.isoformat()], "factor": 10})
    odd = fetch("JPM", day, day, egress=egress).bars.row(0, named=True)
    assert odd["close_usd"] > 5.0 * odd["previous_close_usd"]


def test_a_dead_proxy_and_a_wrong_authority_are_told_apart(
    vendors: RunningSandbox, fetch: Fetch, tmp_path: Path
) -> None:
    dead = EgressSettings(proxy_url="http://x@127.0.0.1:9", ca_bundle=vendors.ca_file)
    with pytest.raises(SourceUnavailable):
        fetch("JPM", LAST, LAST, egress=dead)
    untrusted = EgressSettings(proxy_url=vendors.egress("ca").proxy_url)
    with pytest.raises(ConfigError, match="CA_BUNDLE"):
        fetch("JPM", LAST, LAST, egress=untrusted)
    missing = vendors.egress("ca").model_copy(update={"ca_bundle": tmp_path / "none.pem"})
    with pytest.raises(ConfigError, match="CA_BUNDLE"):
        fetch("JPM", LAST, LAST, egress=missing)


def test_the_clients_caches_stay_out_of_the_home_folder_and_its_warnings_out_of_ours(
    fetch: Fetch,
) -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        fetch("JPM", LAST, LAST)
    assert not [item for item in heard if "Pandas" in item.category.__name__]
    # A cookie of the sandbox must never be sent to Yahoo by another process.
    cache = Path(_TzDBManager.get_location())
    assert cache.name.startswith("marketlake-yfinance-")
    assert Path.home() not in cache.parents


def _closes_in_child(egress: EgressSettings, results: Any) -> None:
    history = fetch_history(
        "JPM",
        LAST,
        LAST,
        as_of=LAST,
        calendar=CALENDAR,
        egress=egress,
        settings=YahooSettings(),
        on_call=lambda _: None,
    )
    results.put(history.bars["close_usd"].to_list())


def test_a_forked_task_fetches_and_leaves_its_parent_working(
    vendors: RunningSandbox, fetch: Fetch
) -> None:
    mine = fetch("JPM", LAST, LAST).bars["close_usd"].to_list()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    child = context.Process(target=_closes_in_child, args=(vendors.egress(), results))
    child.start()
    assert results.get(timeout=30) == mine
    child.join(30)
    assert child.exitcode == 0
    again = fetch("JPM", LAST, LAST)
    assert again.bars["close_usd"].to_list() == mine
    assert [call.error for call in again.calls] == [None]


def test_a_restarted_sandbox_with_a_new_authority_is_followed(tmp_path: Path, fetch: Fetch) -> None:
    settings = Settings(
        home=tmp_path,
        sandbox={"http_port": 0, "tls_port": 0, "proxy_port": 0, "control_token": "t"},
    )
    closes = []
    for _ in range(2):
        with running_sandbox(settings) as sandbox:
            egress = sandbox.egress()
            closes.append(fetch("KO", LAST, LAST, egress=egress).bars["close_usd"].to_list())
    assert closes[0] == closes[1]
    with pytest.raises(SourceUnavailable):
        fetch("KO", LAST, LAST, egress=egress)


RECORDED = (
    "PM_1d_369ba3",
    "PM_1d_5e17db",
    "AAPL_1d_001f7f",
    "AAPL_1d_70ab18",
    "TSLA_1d_8e13b7",
    "TSLA_1d_fd3434",
    "GME_1d_205cc2",
    "%5EGSPC_1d_0138b2",
)


def recorded_body(shared_data: Path, name: str) -> bytes:
    archive = shared_data / "wire_gamestonk_2021_2022" / "wire_gamestonk_2021_2022.zip"
    with zipfile.ZipFile(archive) as recorded:
        return recorded.read(f"query2.finance.yahoo.com_v8_finance_chart_{name}.json")


@pytest.mark.parametrize("name", RECORDED)
def test_bodies_recorded_from_yahoo_are_read_as_they_are(
    vendors: RunningSandbox, namespace: str, fetch: Fetch, shared_data: Path, name: str
) -> None:
    raw = recorded_body(shared_data, name)
    chart = json.loads(raw)["chart"]["result"][0]
    days = [
        datetime.fromtimestamp(stamp + chart["meta"]["gmtoffset"], UTC).date()
        for stamp in chart["timestamp"]
    ]
    first = max(days[0], date(1990, 1, 2))
    args = {"body_base64": base64.b64encode(raw).decode()}
    egress = inject(vendors, namespace, "replay", args=args)
    history = fetch(chart["meta"]["symbol"], first, days[-1], egress=egress)
    quote = chart["indicators"]["quote"][0]
    told = {day: quote["close"][i] for i, day in enumerate(days) if day >= first}
    assert dict(history.bars.select("session", "close_usd").iter_rows()) == told
    assert set(history.bars["session"]) <= set(CALENDAR.sessions(first, days[-1]))
    events = chart.get("events", {})
    dividends = history.actions.filter(pl.col("kind") == "dividend")
    assert dividends["dividend_usd"].to_list() == [
        item["amount"]
        for item in sorted(events.get("dividends", {}).values(), key=lambda item: item["date"])
        if datetime.fromtimestamp(item["date"], UTC).date() >= first
    ]
    splits = history.actions.filter(pl.col("kind") == "split")["split_ratio"]
    if name == "TSLA_1d_8e13b7":
        assert splits.to_list() == [5.0]
    if name == "AAPL_1d_001f7f":
        assert splits.to_list() == [2.0, 2.0, 7.0, 4.0]
    assert history.responses[0]["body"] == raw
    assert history.bars["simulated_fields"].list.len().sum() == 0


def test_a_recorded_body_in_another_currency_is_refused(
    vendors: RunningSandbox, namespace: str, fetch: Fetch, shared_data: Path
) -> None:
    raw = recorded_body(shared_data, "TOT.TO_1d_884f64")
    args = {"body_base64": base64.b64encode(raw).decode()}
    egress = inject(vendors, namespace, "replay", args=args)
    with pytest.raises(BadPayload, match="in CAD"):
        fetch("TOT.TO", date(2021, 1, 4), date(2021, 12, 20), egress=egress)
