"""A source killed in the middle of a run: what is published is whole, right, and says so."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from marketlake.clock import utc_now
from marketlake.contracts.catalog import (
    CATALOG,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_BAR,
    CORE_QUALITY_SOURCE_ANSWER,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    contract,
)
from marketlake.pipelines import ingest_market_data, source_answers, validate_market_data
from marketlake.pipelines.context import RunContext, as_polars, open_context
from marketlake.services.sandbox.embedded import RunningSandbox, running_sandbox
from marketlake.services.sandbox.vendors.wire import FREE_KEY
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import Partition, RunIdentity
from pydantic import SecretStr

# Sessions at which no vendor has a planted fault.
SESSION, NEXT = date(2022, 12, 19), date(2022, 12, 20)
EQUITIES, BENCHMARK = ("JPM", "KO", "PFE", "PG", "XOM"), "^GSPC"
BEFORE = ("JPM", "KO")
"""What a source answers for before it is killed."""
SOURCES = ("yahoo", "alpha_vantage", "iex")
PRICES = ["open_usd", "high_usd", "low_usd", "close_usd"]
KEY = ["session", "symbol", "source"]
FREE_CALLS, BEYOND = 25, 5


@dataclass
class Market:
    """A lake of its own and a place of its own at the vendors."""

    settings: Settings
    vendors: RunningSandbox
    namespace: str = field(default_factory=lambda: f"failover-{uuid.uuid4().hex[:12]}")

    @property
    def lake(self) -> Lake:
        return Lake(self.settings.lake)

    def change(self, section: str, **values: Any) -> None:
        part = getattr(self.settings, section).model_copy(update=values)
        self.settings = self.settings.model_copy(update={section: part})

    def kill(self, source: str, kind: str, *, times: int | None = None) -> None:
        rule = {"namespace": self.namespace, "vendor": source, "kind": kind, "times": times}
        # Yahoo is asked for cookies too, which are no answers; a call of IEX is about two symbols.
        path = "/v8/finance/chart/" if source == "yahoo" else ""
        after = 1 if source == "iex" else len(BEFORE)
        self.vendors.control(
            "POST", "/__ctl/faults", {**rule, "path_contains": path, "after": after}
        )

    def revive(self) -> None:
        self.vendors.control("POST", "/__ctl/reset", {"namespace": self.namespace})

    def context(self, session: date) -> AbstractContextManager[RunContext]:
        clock = {"namespace": self.namespace, "at": session.isoformat()}
        self.vendors.control("PUT", "/__ctl/clock", clock)
        settings = self.settings.model_copy(update={"egress": self.vendors.egress(self.namespace)})
        return open_context(settings, RunIdentity("failover", uuid.uuid4().hex, "run"))

    def run(self, session: date = SESSION) -> None:
        """Fetch, judge and publish a session; nothing after it."""
        with self.context(session) as ctx:
            symbols = ingest_market_data.plan(ctx, session)
            staged = [
                ingest_market_data.fetch(ctx, session, source=name, symbols=symbols)
                for name in ctx.settings.market.sources
            ]
            ingest_market_data.publish(ctx, session, staged=staged)
            accepted = validate_market_data.gate(ctx, session)
            validate_market_data.compare_sources(ctx, session, staged=accepted)
            validate_market_data.report_integrity(ctx, session, staged=accepted)
            validate_market_data.publish(ctx, session, staged=accepted)

    def asked(self, source: str) -> dict[str, tuple[str, str]]:
        """Ask one source alone for the session, and return outcome and reason by symbol."""
        with self.context(SESSION) as ctx:
            symbols = ingest_market_data.plan(ctx, SESSION)
            staged = ingest_market_data.fetch(ctx, SESSION, source=source, symbols=symbols)
            return _outcomes(ctx.staged(CORE_QUALITY_SOURCE_ANSWER, staged))

    def rows(self, name: str, session: date = SESSION) -> pl.DataFrame:
        content = self.lake.read_ref(self.lake.ref(contract(name), Partition.of_session(session)))
        assert isinstance(content, pa.Table)
        return as_polars(content)

    def bars(self, session: date = SESSION) -> dict[str, dict[str, Any]]:
        rows = self.rows(CORE_MARKET_DAILY_BAR.name, session)
        return {bar["symbol"]: bar for bar in rows.iter_rows(named=True)}

    def answers(self, source: str, session: date = SESSION) -> dict[str, tuple[str, str]]:
        """Return outcome and reason by symbol."""
        rows = self.rows(CORE_QUALITY_SOURCE_ANSWER.name, session)
        return _outcomes(rows.filter(source=source))

    def told(self, session: date = SESSION) -> dict[str, dict[str, Any]]:
        """Return what the source comparison says of each source."""
        ref = self.lake.ref(OUT_DATA_VALIDATION_SOURCE_COMPARISON, Partition.of_session(session))
        content = self.lake.read_ref(ref)
        assert isinstance(content, dict)
        return {item["source"]: item for item in content["sources"]}

    def published(self, session: date = SESSION) -> set[str]:
        """Return what is published of a session, each with the hash and rows it declares."""
        partition = Partition.of_session(session)
        names = set()
        for item in CATALOG:
            if partition not in self.lake.partitions(item):
                continue
            content = self.lake.read_ref(self.lake.ref(item, partition))
            manifest = self.lake.manifest(item, partition)
            assert manifest.sessions == (session.isoformat(),)
            if isinstance(content, pa.Table):
                assert content.num_rows == manifest.rows
            names.add(item.name)
        return names


def _outcomes(answers: pl.DataFrame) -> dict[str, tuple[str, str]]:
    return {
        symbol: (outcome, reason)
        for symbol, outcome, reason in answers.select("symbol", "outcome", "reason").iter_rows()
    }


NewMarket = Callable[[], Market]


@pytest.fixture(scope="module")
def new_market(
    make_line: Callable[..., Settings],
    vendors: RunningSandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> NewMarket:
    """Return a maker of markets that begin with the session, and so need no history."""
    universe = tmp_path_factory.mktemp("failover") / "universe.csv"
    rows = [f"{symbol},," for symbol in EQUITIES]
    universe.write_text("\n".join(["symbol,valid_from,valid_to", *rows, ""]))

    def make() -> Market:
        market = Market(make_line(first_session=SESSION, universe_file=universe), vendors)
        market.change("iex", batch_symbols=2)
        market.change("availability", failures=2)
        return market

    return make


@pytest.fixture(scope="module")
def undisturbed(new_market: NewMarket) -> Market:
    market = new_market()
    market.run()
    return market


def require_whole_without(market: Market, source: str, undisturbed: Market) -> None:
    """Assert that a session without most of a source is complete, right and flagged."""
    assert market.published() == undisturbed.published()
    limit = market.settings.gates.discrepancy_pct / 100.0
    bars, whole = market.bars(), undisturbed.bars()
    assert set(whole) == {*EQUITIES, BENCHMARK}
    assert set(bars) == {*whole} - ({BENCHMARK} if source == "yahoo" else set())
    for symbol, bar in bars.items():
        lost = symbol not in (*BEFORE, BENCHMARK)
        expected = ["two_source"] if lost else whole[symbol]["flags"]
        assert bar["flags"] == expected, symbol
        assert bar["n_sources"] == whole[symbol]["n_sources"] - lost
        if lost:
            assert source not in {bar["chosen_source"], bar["volume_source"]}
        for name in PRICES:
            assert bar[name] == pytest.approx(whole[symbol][name], rel=limit), (symbol, name)
    # Of the killed source there is what it answered before, as if nothing had happened, and the
    # others are as they were.
    known = undisturbed.rows(CORE_MARKET_SOURCE_BAR.name).filter(
        (pl.col("source") != source) | pl.col("symbol").is_in(BEFORE)
    )
    assert market.rows(CORE_MARKET_SOURCE_BAR.name).sort(KEY).equals(known.sort(KEY))
    raw, good = (
        one.rows(f"raw_{source}__response").select("body", "body_sha256", "status")
        for one in (market, undisturbed)
    )
    assert raw.height == (1 if source == "iex" else len(BEFORE))
    assert {*raw["body"]} <= {*good["body"]}
    assert [sha256(body).hexdigest() for body in raw["body"]] == raw["body_sha256"].to_list()
    assert {*raw["status"]} == {200}
    asked = {*EQUITIES, BENCHMARK} if source == "yahoo" else {*EQUITIES}
    answers = market.answers(source)
    assert set(answers) == asked
    for symbol, (outcome, reason) in answers.items():
        assert (outcome, bool(reason)) == (
            ("answered", False) if symbol in BEFORE else ("failed", True)
        ), symbol
    assert market.told()[source]["failed"] == len(asked) - len(BEFORE)
    assert market.told()[source]["reason"]


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        pytest.param(
            source,
            kind,
            marks=[] if (source, kind) == ("yahoo", "truncate") else [pytest.mark.slow],
        )
        for source in SOURCES
        for kind in ("reset", "hang", "truncate")
    ],
)
def test_a_source_killed_in_mid_run_leaves_whole_partitions_and_is_back_the_next_session(
    source: str, kind: str, new_market: NewMarket, undisturbed: Market
) -> None:
    market = new_market()
    market.change(source, timeout_s=2.0)
    market.kill(source, kind)
    market.run()
    require_whole_without(market, source, undisturbed)
    market.revive()
    market.run(NEXT)
    assert {outcome for outcome, _ in market.answers(source, NEXT).values()} == {"answered"}
    assert {bar["n_sources"] for name, bar in market.bars(NEXT).items() if name in EQUITIES} == {3}
    assert market.published(NEXT) == undisturbed.published()


@pytest.mark.parametrize(
    "source", ["yahoo", *[pytest.param(s, marks=pytest.mark.slow) for s in SOURCES[1:]]]
)
def test_a_failure_that_passes_costs_nothing_because_the_symbol_is_asked_for_again(
    source: str, new_market: NewMarket, undisturbed: Market
) -> None:
    market = new_market()
    market.kill(source, "reset", times=1)
    market.run()
    assert {outcome for outcome, _ in market.answers(source).values()} == {"answered"}
    assert market.bars() == undisturbed.bars()


def test_the_use_of_a_vendors_keys_is_in_the_ledger_before_its_calls_and_once_a_task(
    new_market: NewMarket, ledger: LedgerClient
) -> None:
    market = new_market()
    with market.context(SESSION) as ctx:
        for name in (*SOURCES, *SOURCES):
            source_answers.ask(ctx, name, EQUITIES, SESSION, SESSION)
    entries = ledger.entries(run_id=ctx.run.run_id)
    uses = [entry for entry in entries if entry.kind == "secret_access"]
    assert [(entry.payload["name"], entry.payload["purpose"]) for entry in uses] == [
        ("MARKETLAKE_ALPHA_VANTAGE__API_KEY", "calls to Alpha Vantage"),
        ("MARKETLAKE_IEX__API_KEY", "calls to IEX by Alpaca"),
        ("MARKETLAKE_IEX__SECRET_KEY", "calls to IEX by Alpaca"),
    ]
    calls = [
        entry.index
        for entry in entries
        if entry.kind == "vendor_call" and entry.payload["vendor"] != "yahoo"
    ]
    assert uses[0].index < min(calls)
    said = b"".join(entry.canonical() for entry in entries)
    own = market.settings
    for key in (own.alpha_vantage.api_key, own.iex.api_key, own.iex.secret_key):
        assert key is not None
        assert key.get_secret_value().encode() not in said
        assert sha256(key.get_secret_value().encode()).hexdigest().encode() not in said


@pytest.fixture(scope="module")
def free_plan(
    make_line: Callable[..., Settings], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Market]:
    """Yield a generated market of thirty shares at an Alpha Vantage on its free plan."""
    folder = tmp_path_factory.mktemp("free-plan")
    symbols = [f"SIM{number:02}" for number in range(FREE_CALLS + BEYOND)]
    universe, sectors = folder / "universe.csv", folder / "sector.csv"
    universe.write_text("\n".join(["symbol,valid_from,valid_to", *(f"{s},," for s in symbols), ""]))
    sectors.write_text("\n".join(["symbol,name,sector", *(f"{s},{s},Energy" for s in symbols), ""]))
    files = {"name": "generated", "universe_file": universe, "sector_file": sectors}
    outside = Settings(
        home=folder,
        market={**files, "first_session": "2022-01-03"},
        sandbox={"http_port": 0, "tls_port": 0, "proxy_port": 0, "control_token": "t"},
    )
    with running_sandbox(outside) as there:
        market = Market(make_line(**files, first_session=SESSION), there)
        market.change("alpha_vantage", api_key=SecretStr(f"{FREE_KEY}key"), plan="free")
        yield market


@pytest.fixture
def waited_s(free_plan: Market, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let our clock go with the one that the sandbox's limits run on; return what was waited."""
    now, waits = utc_now(), list[float]()

    def wait(seconds: float) -> None:
        waits.append(seconds)
        waited = {"namespace": free_plan.namespace, "seconds": seconds}
        free_plan.vendors.control("POST", "/__ctl/wait", waited)

    def virtual_now() -> datetime:
        return now + timedelta(seconds=sum(waits))

    monkeypatch.setattr(source_answers, "sleep_s", wait)
    monkeypatch.setattr(source_answers, "utc_now", virtual_now)
    limits = {"namespace": free_plan.namespace, "vendor": "alpha_vantage"}
    free_plan.vendors.control(
        "PUT", "/__ctl/limits", {**limits, "a_minute": 5, "a_day": FREE_CALLS}
    )
    return waits


def calls_of_alpha_vantage(market: Market) -> int:
    path = f"/__ctl/requests?namespace={market.namespace}"
    requests = market.vendors.control("GET", path)
    return sum(request["vendor"] == "alpha_vantage" for request in requests)


def test_what_the_free_plans_day_does_not_allow_is_not_asked_and_flagged(
    free_plan: Market, waited_s: list[float]
) -> None:
    before = calls_of_alpha_vantage(free_plan)
    free_plan.run()
    answers = free_plan.answers("alpha_vantage")
    asked = sorted(answers)[:FREE_CALLS]
    assert {answers[symbol] for symbol in asked} == {("answered", "")}
    beyond = {*answers} - {*asked}
    assert len(beyond) == BEYOND
    assert {answers[symbol] for symbol in beyond} == {("not_asked", "beyond the day's call budget")}
    assert calls_of_alpha_vantage(free_plan) - before == FREE_CALLS
    assert sum(waited_s) >= 60.0 * (FREE_CALLS // 5 - 1)
    bars = free_plan.bars()
    for symbol in (*asked, *beyond):
        assert ("two_source" in bars[symbol]["flags"]) == (symbol in beyond)
    told = free_plan.told()["alpha_vantage"]
    assert (told["answered"], told["not_asked"], told["failed"]) == (FREE_CALLS, BEYOND, 0)
    assert told["reason"] == "beyond the day's call budget"


def test_what_failed_when_the_days_calls_are_spent_is_not_waited_for_until_tomorrow(
    free_plan: Market, waited_s: list[float]
) -> None:
    free_plan.kill("alpha_vantage", "reset", times=1)
    before = calls_of_alpha_vantage(free_plan)
    answers = free_plan.asked("alpha_vantage")
    outcomes = [outcome for outcome, _ in answers.values()]
    assert [outcomes.count(name) for name in ("answered", "failed", "not_asked")] == [
        FREE_CALLS - 1,
        1,
        BEYOND,
    ]
    (reason,) = {reason for outcome, reason in answers.values() if outcome == "failed"}
    assert "SourceUnavailable" in reason
    assert calls_of_alpha_vantage(free_plan) - before == FREE_CALLS
    assert sum(waited_s) < 3600.0
