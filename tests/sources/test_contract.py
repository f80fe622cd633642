"""The contract of every source, kept through its real client against the vendor sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from urllib.parse import unquote, urlsplit

import polars as pl
import pytest
from marketlake.calendars import Calendar
from marketlake.errors import EmptyAnswer, MarketlakeError, NotFound, RateLimited
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import EgressSettings, Settings
from marketlake.sources.availability import Budget
from marketlake.sources.catalog import SOURCES, open_source
from marketlake.sources.history import SourceHistory
from marketlake.sources.recording import VendorCall
from marketlake.sources.source import CallPlan

from tests.sources import page
from tests.sources.cases import (
    BEFORE,
    CASES,
    CHANGED,
    DATA_PATHS,
    DAY,
    KEYS,
    MISSING,
    NULLS,
    OWN_ENDS,
    SAME,
    SHORT_TIMEOUT_S,
    SYMBOLS,
    TIMEOUT_S,
    TWICE,
    Case,
    settings_of,
)

CALENDAR = Calendar.of("XNYS")


@dataclass
class Asked:
    """One question to a source: what came of it and every call that it took."""

    calls: list[VendorCall] = field(default_factory=list)
    history: SourceHistory | None = None
    error: MarketlakeError | None = None


@pytest.fixture
def ask(vendors: RunningSandbox, namespace: str) -> Callable[..., Asked]:
    """Ask a source for one symbol and keep whatever comes."""

    def call(
        name: str,
        symbol: str | None = None,
        first: date = BEFORE,
        last: date = DAY,
        *,
        egress: EgressSettings | None = None,
        **values: Any,
    ) -> Asked:
        symbol = symbol or SYMBOLS[name]
        settings = Settings(egress=egress or vendors.egress(namespace))
        asked = Asked()
        source = open_source(name, settings_of(name, settings, **values))
        try:
            answers = source.fetch(
                [symbol],
                first,
                last,
                as_of=last,
                calendar=CALENDAR,
                on_call=asked.calls.append,
            )
        except MarketlakeError as error:
            asked.error = error
            return asked
        asked.history = answers.histories.get(symbol)
        asked.error = answers.left_out.get(symbol)
        assert (asked.history is None) is (asked.error is not None)
        return asked

    return call


@pytest.fixture(scope="module")
def clean(vendors: RunningSandbox) -> Callable[[str], SourceHistory]:
    """Return what a source says of the session when nothing is broken."""

    @cache
    def history(name: str) -> SourceHistory:
        settings = settings_of(name, Settings(egress=vendors.egress(DAY.isoformat())))
        return (
            open_source(name, settings)
            .fetch(
                [SYMBOLS[name]], BEFORE, DAY, as_of=DAY, calendar=CALENDAR, on_call=lambda _: None
            )
            .histories[SYMBOLS[name]]
        )

    return history


@pytest.fixture
def break_it(vendors: RunningSandbox, namespace: str) -> Callable[[str, Case], None]:
    """Let a vendor do what a case says, in the namespace of the test, at the session's clock."""
    vendors.control("PUT", "/__ctl/clock", {"namespace": namespace, "at": DAY.isoformat()})

    def inject(name: str, case: Case) -> None:
        rule = {"namespace": namespace, "vendor": name, "path_contains": DATA_PATHS[name]}
        rule |= {"kind": case.kind, "args": dict(case.args)}
        if case.times is not None:
            rule["times"] = case.times
        vendors.control("POST", "/__ctl/faults", rule)

    return inject


@pytest.fixture(scope="module")
def ended(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], str]]:
    """Yield where cases leave their outcome; written to the page if that was asked for."""
    outcomes: dict[tuple[str, str], str] = {}
    yield outcomes
    # A part of the cases makes no page.
    if _writes(request) and set(outcomes) == set(page.expected()):
        page.PAGE.write_text(page.render(outcomes), encoding="utf-8")


def _writes(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--write-sources-page", default=False))


def rows_of(history: SourceHistory) -> pl.DataFrame:
    return history.observations if history.observations.height else history.bars


def outcome(asked: Asked, right: SourceHistory) -> str:
    """Return how a question ended, in the words of the page."""
    if asked.error is not None:
        return type(asked.error).__name__
    assert asked.history is not None
    rows = rows_of(asked.history)
    if rows.equals(rows_of(right)):
        return SAME
    day = rows.filter(pl.col("session") == DAY)
    if day.height != 1:
        return TWICE if day.height else MISSING
    values = day.select(pl.selectors.by_name("value", "close_usd", require_all=False))
    return NULLS if values.item() is None else CHANGED


def _path(call: VendorCall) -> str:
    parts = urlsplit(call.url)
    return f"{parts.netloc}{unquote(parts.path)}"


@pytest.mark.parametrize("name", SOURCES)
def test_a_good_day_arrives_whole_and_its_calls_are_recorded(
    name: str, ask: Callable[..., Asked], break_it: object, ended: dict[tuple[str, str], str]
) -> None:
    asked = ask(name)
    assert asked.error is None
    assert asked.history is not None
    rows = rows_of(asked.history)
    assert rows["session"].to_list() == [BEFORE, DAY]
    assert rows["symbol"].unique().to_list() == [SYMBOLS[name]]
    assert rows.select(pl.selectors.by_name("value", "close_usd", require_all=False)).min().item()
    assert asked.history.responses
    assert [row["request_no"] for row in asked.history.responses] == list(
        range(len(asked.history.responses))
    )
    shown = [call for call in asked.calls if DATA_PATHS[name] in call.url]
    assert [call.status for call in shown] == [200]
    assert shown[0].body_sha256 == asked.history.responses[0]["body_sha256"]
    assert asked.history.calls == asked.calls
    ended["happy", name] = outcome(asked, asked.history)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("name", SOURCES)
def test_each_fault_ends_as_documented_within_its_limit_and_recorded(
    name: str,
    case: Case,
    ask: Callable[..., Asked],
    clean: Callable[[str], SourceHistory],
    break_it: Callable[[str, Case], None],
    ended: dict[tuple[str, str], str],
    vendors: RunningSandbox,
    namespace: str,
) -> None:
    right = clean(name)
    break_it(name, case)
    limit_s = SHORT_TIMEOUT_S if case.kind == "hang" else TIMEOUT_S
    asked = ask(name, timeout_s=limit_s)
    seen = vendors.control("GET", f"/__ctl/requests?namespace={namespace}")
    # The vendor's own record and ours are about the same calls; one that was cut on a connection
    # kept open is sent again by libcurl itself.
    served = [row["path"] for row in seen]
    if case.kind == "reset" and len(served) > len(asked.calls):
        served.pop()
    assert served == [_path(call) for call in asked.calls]
    data = [call for call in asked.calls if DATA_PATHS[name] in call.url]
    assert data, "a call left no record"
    # A client may ask twice (yfinance does); a limit holds for every call.
    assert all(call.seconds < limit_s + 5.0 for call in data)
    assert len(data) <= 2
    assert "a-good-key-of-the-test" not in f"{asked.calls}{asked.error}{asked.error!r}"
    if asked.error is not None:
        assert SYMBOLS[name] in asked.error.where
        assert name in asked.error.where
        assert all((asked.error.expected, asked.error.was, asked.error.todo))
    if isinstance(asked.error, RateLimited) and case.kind == "http_429":
        assert asked.error.retry_after_s == 7
    ended[case.name, name] = outcome(asked, right)
    assert ended[case.name, name] == case.outcome(name), asked.error


@pytest.mark.parametrize("name", SOURCES)
def test_after_a_failure_the_next_question_is_asked_anew(
    name: str,
    ask: Callable[..., Asked],
    break_it: Callable[[str, Case], None],
    vendors: RunningSandbox,
    namespace: str,
) -> None:
    break_it(name, next(case for case in CASES if case.name == "malformed"))
    assert ask(name).error is not None
    vendors.control("POST", "/__ctl/reset", {"namespace": namespace})
    vendors.control("PUT", "/__ctl/clock", {"namespace": namespace, "at": DAY.isoformat()})
    assert ask(name).history is not None


@pytest.mark.parametrize("name", SOURCES)
def test_a_span_without_rows_is_empty_and_an_unknown_symbol_is_not_found_where_it_can_be_told(
    name: str,
    ask: Callable[..., Asked],
    break_it: Callable[[str, Case], None],
    ended: dict[tuple[str, str], str],
) -> None:
    unknown = ask(name, "NOPE")
    assert isinstance(unknown.error, EmptyAnswer | NotFound)
    ended["unknown", name] = type(unknown.error).__name__
    # Alpha Vantage answers without a span: all of the symbol's rows must be gone.
    start = date(1990, 1, 2) if name == "alpha_vantage" else date(2022, 12, 1)
    sessions = [day.isoformat() for day in CALENDAR.sessions(start, DAY)]
    break_it(name, Case("", "", "missing_days", "", {"sessions": sessions}))
    asked = ask(name)
    assert asked.error is not None
    ended["empty", name] = type(asked.error).__name__
    for about in ("unknown", "empty"):
        assert ended[about, name] == OWN_ENDS[about][name]


@pytest.mark.parametrize("name", [*KEYS, "fred"])
def test_a_refused_key_is_an_error_that_names_the_setting_and_not_the_key(
    name: str,
    ask: Callable[..., Asked],
    break_it: object,
    ended: dict[tuple[str, str], str],
) -> None:
    names = KEYS.get(name, ("api_key",))
    asked = ask(name, **dict.fromkeys(names, "bad-key-of-somebody"))
    assert asked.error is not None
    assert f"MARKETLAKE_{name.upper()}__API_KEY" in str(asked.error)
    assert "bad-key-of-somebody" not in f"{asked.error}{asked.error!r}{asked.calls}"
    ended["bad-key", name] = type(asked.error).__name__
    assert ended["bad-key", name] == OWN_ENDS["bad-key"][name]


@pytest.mark.parametrize("name", KEYS)
def test_without_a_key_a_source_is_not_configured_and_asks_nobody(
    name: str, vendors: RunningSandbox, namespace: str
) -> None:
    # The sandbox's own settings have keys.
    settings = Settings(mode="live", egress=vendors.egress(namespace))
    source = open_source(name, settings)
    assert source.not_configured == " and ".join(source.credentials)
    with pytest.raises(MarketlakeError, match="not configured"):
        source.fetch(["JPM"], BEFORE, DAY, as_of=DAY, calendar=CALENDAR, on_call=lambda _: None)
    assert vendors.control("GET", f"/__ctl/requests?namespace={namespace}") == []
    assert open_source(name, settings_of(name, settings)).not_configured is None


@pytest.mark.parametrize("name", SOURCES)
def test_a_reached_limit_is_told_and_whoever_keeps_to_the_budget_never_reaches_it(
    name: str,
    ask: Callable[..., Asked],
    break_it: object,
    vendors: RunningSandbox,
    namespace: str,
) -> None:
    limits = {"namespace": namespace, "vendor": name, "a_minute": 2, "a_day": 5}
    vendors.control("PUT", "/__ctl/limits", limits)
    budget, at = Budget(CallPlan(a_day=5, a_minute=2)), datetime(2022, 12, 22, tzinfo=UTC)
    for _ in range(6):
        wait_s = budget.wait_s(at)
        if wait_s:
            # One call more would be too many; yfinance asks a second time by itself.
            assert type(ask(name).error) is RateLimited
        vendors.control("POST", "/__ctl/wait", {"namespace": namespace, "seconds": wait_s})
        at += timedelta(seconds=wait_s)
        assert ask(name).history is not None
        budget = budget.after_calls(at)


@pytest.mark.parametrize("name", SOURCES)
def test_what_the_shell_says_of_proxies_and_authorities_changes_nothing(
    name: str, ask: Callable[..., Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(variable, "/nobody/has/this.pem")
    for variable in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    assert ask(name).history is not None


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "yahoo"])
def test_a_source_is_redirected_by_its_base_url_alone(
    name: str, ask: Callable[..., Asked], vendors: RunningSandbox, namespace: str
) -> None:
    # yfinance takes no address, so only a proxy redirects it.
    direct = f"http://{vendors.host}:{vendors.http_port}/{DAY}/{name}"
    asked = ask(name, egress=EgressSettings(), base_url=direct)
    assert asked.history is not None
    through_proxy = ask(name, egress=vendors.egress(DAY.isoformat()))
    assert through_proxy.history is not None
    assert rows_of(asked.history).equals(rows_of(through_proxy.history))


def test_the_page_is_what_the_cases_render_to(request: pytest.FixtureRequest) -> None:
    assert _writes(request) or page.PAGE.read_text(encoding="utf-8") == page.render(
        page.expected()
    ), "run `python -m pytest tests/sources/test_contract.py --write-sources-page`"
