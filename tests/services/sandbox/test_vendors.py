"""What the vendors of one sandbox have in common, and in what they differ."""

from __future__ import annotations

import urllib.error
import urllib.request
from datetime import date

import numpy as np
import pytest
from curl_cffi import requests
from marketlake.calendars import Calendar
from marketlake.errors import ConfigError
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.services.sandbox.faults import DATA_FAULTS, FaultBook
from marketlake.services.sandbox.generated import generated_world
from marketlake.services.sandbox.limits import Limits
from marketlake.services.sandbox.macro import series_name, with_macro
from marketlake.services.sandbox.packaged import packaged_world
from marketlake.services.sandbox.vendors import VENDORS
from marketlake.services.sandbox.vendors.alpaca import Alpaca
from marketlake.services.sandbox.vendors.alpha_vantage import AlphaVantage
from marketlake.services.sandbox.vendors.stooq import Stooq
from marketlake.services.sandbox.vendors.wire import Vendor, VendorRequest
from marketlake.services.sandbox.vendors.yahoo import Yahoo
from marketlake.services.sandbox.world import View

DAY = date(2022, 12, 28)
PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")
REPLICAS: tuple[Vendor, ...] = (AlphaVantage(), Alpaca(), Stooq())


@pytest.fixture(scope="module")
def view() -> View:
    seen = packaged_world(20221228, benchmark="^GSPC").view("AAPL", DAY)
    assert seen is not None
    return seen


def test_replicas_differ_by_less_than_a_tenth_of_a_percent_and_never_agree(view: View) -> None:
    closes = [
        vendor.shows(view, seed=7, difference_bps=4.0).close_usd for vendor in (Yahoo(), *REPLICAS)
    ]
    for i, one in enumerate(closes):
        for other in closes[i + 1 :]:
            off = np.abs(one / other - 1.0)
            assert 1e-5 < np.median(off) < off.max() < 1e-3
    assert closes[0] is view.close_usd


def test_differences_are_seeded_and_a_bar_stays_a_bar(view: View) -> None:
    for vendor in REPLICAS:
        one, same = (vendor.shows(view, seed=7, difference_bps=4.0) for _ in range(2))
        assert np.array_equal(one.close_usd, same.close_usd)
        assert not np.array_equal(
            one.close_usd, vendor.shows(view, seed=8, difference_bps=4.0).close_usd
        )
        assert (one.high_usd >= np.maximum(one.open_usd, one.close_usd)).all()
        assert (one.low_usd <= np.minimum(one.open_usd, one.close_usd)).all()
        assert "adjusted_close" in one.simulated
        none = vendor.shows(view, seed=7, difference_bps=0.0)
        assert np.array_equal(none.close_usd, view.close_usd)


def test_only_one_venue_sees_a_part_of_the_volume(view: View) -> None:
    shares = {
        vendor.name: vendor.shows(view, seed=7, difference_bps=4.0).volume_shares.sum()
        / view.volume_shares.sum()
        for vendor in (Yahoo(), *REPLICAS)
    }
    assert 0.01 < shares.pop("iex") < 0.05
    assert set(shares.values()) == {1.0}


def test_a_view_taken_back_to_as_traded_is_the_series_itself() -> None:
    world = packaged_world(20221228, benchmark="^GSPC")
    series, seen = world.market("AAPL", DAY), world.view("AAPL", DAY)
    assert series is not None
    assert seen is not None
    traded = seen.as_traded()
    for name in PRICES:
        assert np.allclose(getattr(traded, name), getattr(series, name), rtol=1e-12)
    assert np.allclose(traded.dividends_usd, series.dividends_usd, rtol=1e-12)
    assert (np.abs(traded.volume_shares - series.volume_shares) <= 1.0).all()


@pytest.mark.parametrize("kind", sorted(DATA_FAULTS))
def test_every_data_fault_hits_the_newest_bar_unless_told_otherwise(kind: str, view: View) -> None:
    book = FaultBook()
    args = {"ratio": 2.0} if kind == "split_unadjusted" else {}
    book.add({"kind": kind, "args": args})
    place = {"namespace": "n", "vendor": "v", "path": "p", "symbol": view.symbol}
    edited = book.edit(view, **place)
    before = slice(0, len(view.sessions) - 1)
    if kind != "wrong_currency":
        assert np.array_equal(edited.sessions[before], view.sessions[before])
        assert np.array_equal(edited.close_usd[before], view.close_usd[before])
    same = len(edited.sessions) == len(view.sessions) and all(
        np.array_equal(getattr(edited, name), getattr(view, name)) for name in PRICES
    )
    assert not same


def test_a_stale_run_repeats_one_bar_and_a_wrong_day_moves_along(view: View) -> None:
    days = [str(day) for day in view.sessions[-3:]]
    place = {"namespace": "n", "vendor": "v", "path": "p", "symbol": view.symbol}
    last = view.close_usd[-4:].tolist()
    stale = FaultBook()
    stale.add({"kind": "stale_repeat", "args": {"sessions": days}})
    assert stale.edit(view, **place).close_usd[-3:].tolist() == [last[0]] * 3
    wrong = FaultBook()
    wrong.add({"kind": "wrong_day", "args": {"sessions": days}})
    assert wrong.edit(view, **place).close_usd[-3:].tolist() == last[:3]


def test_a_split_left_out_of_the_books_leaves_prices_as_traded(view: View) -> None:
    book = FaultBook()
    book.add({"kind": "split_unadjusted"})
    place = {"namespace": "n", "vendor": "v", "path": "p", "symbol": view.symbol}
    edited = book.edit(view, **place)
    assert view.split_ratios.size > 0
    assert edited.split_ratios.size == 0
    assert np.allclose(edited.close_usd, view.as_traded().close_usd)


def test_a_rule_may_spare_the_first_requests_so_that_a_limit_is_reached() -> None:
    book = FaultBook()
    book.add({"kind": "soft_limit", "vendor": "alpha_vantage", "after": 2, "times": 1})
    place = {"namespace": "n", "vendor": "alpha_vantage", "path": "p", "symbol": "KO"}
    hits = [book.wire_fault(**place) is not None for _ in range(4)]
    assert hits == [False, False, True, False]


def test_a_rule_for_a_symbol_hits_a_request_for_several() -> None:
    book = FaultBook()
    book.add({"kind": "http_429", "symbol": "KO"})
    place = {"namespace": "n", "vendor": "iex", "path": "p"}
    assert book.wire_fault(**place, symbol="JPM,KO") is not None
    assert book.wire_fault(**place, symbol="JPM,KOD") is None


@pytest.mark.parametrize("name", ["SP500", "VIXCLS", "DGS10", "DCOILWTICO"])
def test_a_longer_history_changes_no_earlier_value_of_a_series(name: str) -> None:
    calendar = Calendar.of("XNYS")
    made = generated_world(
        7, symbols=["A"], benchmark="^GSPC", calendar=calendar, first=date(2010, 1, 4)
    )
    world = with_macro(made, seed=7, benchmark="^GSPC")
    early = world.view(series_name(name), date(2012, 6, 29))
    late = world.view(series_name(name), date(2020, 6, 30))
    assert early is not None
    assert late is not None
    assert early.sessions[-1].item() == date(2012, 6, 29)
    assert np.array_equal(early.close_usd, late.close_usd[: len(early.close_usd)])
    assert world.view(series_name("NOPE"), DAY) is None
    assert world.symbols == made.symbols


def test_the_vendors_are_reached_without_proxy_by_a_base_url(vendors: RunningSandbox) -> None:
    base = f"http://{vendors.host}:{vendors.http_port}/2022-12-22"
    for place in ("yahoo", "query1.finance.yahoo.com"):
        answer = requests.get(f"{base}/{place}/v8/finance/chart/KO?range=5d", timeout=10)
        result = answer.json()["chart"]["result"][0]
        through = requests.get(
            "https://query2.finance.yahoo.com/v8/finance/chart/KO?range=5d",
            proxy=vendors.egress("2022-12-22").proxy_url,
            verify=str(vendors.ca_file),
            timeout=10,
        )
        assert through.json()["chart"]["result"][0] == result
    assert requests.get(f"{base}/nobody/x", timeout=10).status_code == 404


def test_a_base_url_leads_to_no_control_without_its_token(vendors: RunningSandbox) -> None:
    for path in ("/__ctl/requests", "/__ctl/yahoo/v8/finance/chart/KO"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"http://{vendors.host}:{vendors.http_port}{path}", timeout=10)
        assert refused.value.code in {401, 404}


@pytest.mark.parametrize("vendor", VENDORS, ids=lambda vendor: vendor.name)
def test_every_vendor_words_its_own_refusals_and_knows_its_own_paths_only(vendor: Vendor) -> None:
    for status in (401, 429, 503):
        assert vendor.refusal(status)
    assert vendor.soft_limit("")
    assert vendor.soft_limit("a wording that it has not")
    assert vendor.main_host in vendor.hosts
    keys = {"APCA-API-KEY-ID": "k", "APCA-API-SECRET-KEY": "s"}
    request = VendorRequest(vendor.main_host, "GET", "/no/such/path", {"apikey": "k"}, keys)
    assert vendor.answer(request, lambda _: None).status == 404


def test_limits_slide_with_a_clock_that_only_control_moves() -> None:
    limits = Limits()
    limits.set("n", "iex", a_minute=2, a_day=3)
    assert [limits.over("n", "iex") for _ in range(3)] == [None, None, "minute"]
    assert limits.over("n", "yahoo") is None
    assert limits.over("m", "iex") is None
    limits.advance("n", 60.0)
    assert [limits.over("n", "iex") for _ in range(2)] == [None, "day"]
    limits.advance("n", 86_400.0)
    assert limits.over("n", "iex") is None
    limits.reset("n")
    assert [limits.over("n", "iex") for _ in range(9)] == [None] * 9
    with pytest.raises(ConfigError):
        limits.advance("n", -1.0)
