"""A session that its gate refuses is closed: later ones go on around a known gap, until mended."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import date

import polars as pl
import pytest
from marketlake.contracts.catalog import (
    CORE_FEATURES_DAILY,
    CORE_MARKET_CORPORATE_ACTION,
    CORE_MARKET_DAILY_BAR,
)
from marketlake.errors import GateFailed, MissingPartition
from marketlake.pipelines import (
    build_features,
    build_warehouse,
    daily_line,
)
from marketlake.pipelines.context import RunContext, as_polars, open_context
from marketlake.readmodels.staleness import refused_sessions, stale_artifacts
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import Settings
from marketlake.storage.ledger import LedgerClient
from marketlake.types import ArtifactRef, Partition, RunIdentity

pytestmark = [pytest.mark.slow]

BEFORE, REFUSED, AFTER, LATER = (date(2022, 12, day) for day in (14, 15, 16, 19))
EVERY = [BEFORE, REFUSED, AFTER, LATER]


class Market:
    """Four sessions of a market that begins with the first of them, step by step."""

    def __init__(self, settings: Settings, vendor: RunningSandbox) -> None:
        self.settings = settings
        self._vendor = vendor
        self._namespace = {session: f"refused-{uuid.uuid4().hex}" for session in EVERY}

    def settings_of(self, session: date) -> Settings:
        clock = {"namespace": self._namespace[session], "at": session.isoformat()}
        self._vendor.control("PUT", "/__ctl/clock", clock)
        egress = self._vendor.egress(self._namespace[session])
        return self.settings.model_copy(update={"egress": egress})

    def context(self, session: date) -> RunContext:
        run = RunIdentity("refused", uuid.uuid4().hex, "step")
        with open_context(self.settings_of(session), run) as ctx:
            return ctx

    def spoil(self, session: date) -> None:
        rule = {"namespace": self._namespace[session], "kind": "outlier"}
        args = {"sessions": [session.isoformat()], "factor": -1}
        self._vendor.control("POST", "/__ctl/faults", rule | {"args": args})

    def correct(self, session: date) -> None:
        self._vendor.control("POST", "/__ctl/reset", {"namespace": self._namespace[session]})

    def validate(self, session: date) -> None:
        settings, run_id = self.settings_of(session), uuid.uuid4().hex
        daily_line.ingest_session(settings, session, run_id=run_id)
        daily_line.validate_session(settings, session, run_id=run_id)

    def features(self, session: date) -> ArtifactRef:
        ctx = self.context(session)
        build_warehouse.load(ctx, session)
        ref, _ = build_features.publish(ctx, session, staged=build_features.compute(ctx, session))
        return ref

    def features_of(self, session: date) -> pl.DataFrame:
        lake = self.context(session).lake
        return as_polars(lake.read(CORE_FEATURES_DAILY, [session], as_of=session))


@pytest.fixture(scope="module")
def market(
    make_line: Callable[..., Settings],
    sandbox_settings: Settings,
    tmp_path_factory: pytest.TempPathFactory,
) -> Market:
    universe = tmp_path_factory.mktemp("refused") / "universe.csv"
    universe.write_text("symbol,valid_from,valid_to\nJPM,,\nKO,,\nXOM,,\n")
    settings = make_line(first_session=BEFORE, universe_file=universe)
    return Market(settings, RunningSandbox.of(sandbox_settings))


@pytest.fixture(scope="module")
def refused(market: Market) -> Market:
    """Return the market after its second session was refused and the later two have run."""
    market.validate(BEFORE)
    market.features(BEFORE)
    with pytest.raises(MissingPartition, match=str(REFUSED)):
        market.validate(AFTER)
    market.spoil(REFUSED)
    with pytest.raises(GateFailed, match="closed without bars"):
        market.validate(REFUSED)
    for session in (AFTER, LATER):
        market.validate(session)
        market.features(session)
    return market


def test_a_refused_session_is_closed_without_bars_under_its_gates_report(refused: Market) -> None:
    lake = refused.context(REFUSED).lake
    closed = lake.manifest(CORE_MARKET_DAILY_BAR, Partition.of_session(REFUSED))
    assert closed.rows == 0
    (report,) = [ref for ref in closed.parents if ref.contract == "core_quality__gate_report"]
    document = lake.read_ref(report)
    assert document["verdict"] == "failed"  # type: ignore[call-overload]
    assert refused_sessions(lake, EVERY) == [REFUSED]
    ledger = LedgerClient(refused.settings.ledger)
    entries = ledger.entries(kind="decision", dag_id="validate_market_data", limit=1000)
    assert f"session={REFUSED}" in {
        entry.payload["partition"] for entry in entries if entry.payload["name"] == "session_closed"
    }


def test_its_corporate_actions_stay_known_so_that_prices_across_the_gap_compare(
    refused: Market,
) -> None:
    lake = refused.context(REFUSED).lake
    assert Partition.of_session(REFUSED) in lake.partitions(CORE_MARKET_CORPORATE_ACTION)


def test_features_after_the_gap_are_null_where_they_would_bridge_it(refused: Market) -> None:
    across = refused.features_of(AFTER)
    assert across.height
    assert across["return_1d"].null_count() == across.height
    later = refused.features_of(LATER)
    assert later["return_1d"].null_count() == 0


def test_later_sessions_name_the_gap_among_what_they_were_made_from(refused: Market) -> None:
    lake = refused.context(LATER).lake
    manifest = lake.manifest(CORE_FEATURES_DAILY, Partition.of_session(LATER))
    gaps = [
        ref.partition
        for ref in manifest.parents
        if ref.contract == CORE_MARKET_DAILY_BAR.name and not ref.rows
    ]
    assert gaps == [f"session={REFUSED}"]


def test_a_refusal_never_takes_bars_away_that_an_earlier_run_published(refused: Market) -> None:
    lake = refused.context(BEFORE).lake
    before = lake.ref(CORE_MARKET_DAILY_BAR, Partition.of_session(BEFORE))
    refused.spoil(BEFORE)
    with pytest.raises(GateFailed) as raised:
        refused.validate(BEFORE)
    assert "closed" not in raised.value.was
    refused.correct(BEFORE)
    assert lake.ref(CORE_MARKET_DAILY_BAR, Partition.of_session(BEFORE)) == before


def test_good_bars_open_it_again_and_make_exactly_its_dependents_stale(refused: Market) -> None:
    refused.validate(BEFORE)  # its raw answers are the good ones again
    lake = refused.context(REFUSED).lake
    assert {item.contract for item in stale_artifacts(lake, EVERY)} == set()
    refused.correct(REFUSED)
    refused.validate(REFUSED)
    assert refused_sessions(lake, EVERY) == []
    stale = {(item.session, item.contract) for item in stale_artifacts(lake, EVERY)}
    assert {session for session, _ in stale} == {AFTER, LATER}
    made_from_it = {CORE_MARKET_DAILY_BAR.name, CORE_FEATURES_DAILY.name}
    assert made_from_it <= {contract for _, contract in stale}
    refused.features(REFUSED)
    for session in (AFTER, LATER):
        refused.validate(session)
        refused.features(session)
    assert stale_artifacts(lake, EVERY) == []
    assert refused.features_of(AFTER)["return_1d"].null_count() == 0
