"""One line from vendor to report: complete, the same every time, and blind to the future."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CATALOG,
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MARKET_DAILY_BAR,
    CORE_QUALITY_QUARANTINE,
    CORE_SIGNALS_SIGNAL,
    OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT,
    OUT_DATA_VALIDATION_SOURCE_COMPARISON,
    OUT_ML_MODELS_LSTM_MODEL,
    OUT_REPORTS_DAILY,
    OUT_RISK_ANALYSIS_MARKET_REGIME,
    contract,
)
from marketlake.errors import ConfigError, MissingPartition
from marketlake.pipelines import daily_line
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.warehouse import Warehouse
from marketlake.types import ArtifactRef, Partition

from tests.pipelines.conftest import AS_OF

FIRST, SECOND = date(2022, 12, 21), date(2022, 12, 22)


def content_hashes(refs: list[ArtifactRef]) -> dict[tuple[str, str], str]:
    return {
        (ref.contract, ref.partition): ref.sha256
        for ref in refs
        if not contract(ref.contract).record
    }


def published(lake: Lake, item: Contract, session: date) -> Any:
    return lake.read_ref(lake.ref(item, Partition.of_session(session)))


@pytest.fixture(scope="module")
def first_run(line: Settings) -> list[ArtifactRef]:
    return daily_line.run_session(line, FIRST, run_id="first")


@pytest.fixture(scope="module")
def second_run(line: Settings, first_run: list[ArtifactRef]) -> list[ArtifactRef]:
    return daily_line.run_session(line, SECOND, run_id="second")


def test_a_session_publishes_every_daily_contract(first_run: list[ArtifactRef]) -> None:
    on_demand = {"publish_docs", "train_models"}
    daily = {
        item.name
        for item in CATALOG
        if item.owner not in on_demand and item.freshness != "on demand"
    }
    judged = {
        "core_quality__gate_report",
        "core_quality__quarantine",
        "core_quality__disagreement",
        "core_quality__provenance",
    }
    assert {ref.contract for ref in first_run} | judged == daily


def test_named_exports_stand_beside_their_artifacts(
    line: Settings, first_run: list[ArtifactRef]
) -> None:
    lake = Lake(line.lake)
    for name in (
        "data_validation/daily_integrity_report_20221221.json",
        "data_validation/anomaly_log_20221221.csv",
        "data_validation/source_comparison_20221221.json",
        "ml_models/predictions/daily_predictions_20221221.json",
        "ml_models/performance/model_accuracy_20221221.csv",
        "risk_analysis/market_regime_20221221.json",
        "risk_analysis/portfolio_risk_20221221.csv",
        "reports/daily_report_20221221.html",
        "reports/integrity_20221221.html",
    ):
        assert len(lake.get_bytes(name)) > 40, name


def test_a_training_leaves_its_lstm_under_its_exact_name(line: Settings) -> None:
    lake = Lake(line.lake)
    archive = lake.get_bytes(f"ml_models/trained_models/lstm_model_{AS_OF:%Y%m%d}.keras")
    document = published(lake, OUT_ML_MODELS_LSTM_MODEL, AS_OF)
    assert hashlib.sha256(archive).hexdigest() == document["sha256"]


def test_a_planted_unit_error_is_quarantined_with_its_reason_and_the_other_sources_give_the_bar(
    line: Settings, second_run: list[ArtifactRef]
) -> None:
    lake = Lake(line.lake)
    quarantine = published(lake, CORE_QUALITY_QUARANTINE, SECOND).to_pylist()
    assert {(row["symbol"], json.loads(row["row_json"])["source"]) for row in quarantine} == {
        ("XOM", "yahoo")
    }
    assert {row["reason"] for row in quarantine} == {"close_usd above high_usd"}
    bars = lake.read(CORE_MARKET_DAILY_BAR, [SECOND], as_of=SECOND).to_pylist()
    (exxon,) = [row for row in bars if row["symbol"] == "XOM"]
    wrong = json.loads(quarantine[0]["row_json"])["close_usd"]
    assert exxon["close_usd"] == pytest.approx(wrong / 100, rel=0.005)
    assert exxon["chosen_source"] == "alpha_vantage"
    assert exxon["flags"] == ["two_source"]
    report = published(lake, OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT, SECOND)
    assert report["symbols"]["quarantined"] == []
    assert report["gate"]["source_rows_quarantined"] == 1
    assert ("XOM", "yahoo", "unit") in {
        (row["symbol"], row["source"], row["kind"]) for row in report["alarms"]
    }


def test_where_a_source_is_apart_the_consensus_stands_and_says_why(
    line: Settings, second_run: list[ArtifactRef]
) -> None:
    lake = Lake(line.lake)
    comparison = published(lake, OUT_DATA_VALIDATION_SOURCE_COMPARISON, SECOND)
    (repeated,) = comparison["discrepancies"]
    assert (repeated["symbol"], repeated["source"], repeated["kind"]) == (
        "MRK",
        "alpha_vantage",
        "stale_repeat",
    )
    (merck,) = [item for item in comparison["comparisons"] if item["symbol"] == "MRK"]
    said = merck["prices"]["open_usd"]["by_source"]
    assert [said[name]["agreed"] for name in ("yahoo", "alpha_vantage", "iex")] == [
        True,
        False,
        True,
    ]
    bars = lake.read(CORE_MARKET_DAILY_BAR, [SECOND], as_of=SECOND).to_pylist()
    (bar,) = [row for row in bars if row["symbol"] == "MRK"]
    assert bar["open_usd"] == said["yahoo"]["value_usd"]
    assert bar["flags"] == ["discrepancy"]


def test_running_a_session_again_gives_the_same_bytes(
    line: Settings, first_run: list[ArtifactRef]
) -> None:
    again = daily_line.run_session(line, FIRST, run_id="again")
    assert content_hashes(again) == content_hashes(first_run)


@pytest.mark.slow
def test_later_sessions_change_nothing_of_an_earlier_one(
    line: Settings, first_run: list[ArtifactRef], second_run: list[ArtifactRef]
) -> None:
    after = daily_line.run_session(line, FIRST, run_id="after-second")
    assert content_hashes(after) == content_hashes(first_run)


@pytest.mark.slow
def test_a_longer_history_changes_no_feature_label_regime_or_signal_of_a_shorter_one(
    make_line: Callable[..., Settings], line: Settings, first_run: list[ArtifactRef]
) -> None:
    """The same session, once with and once without two further weeks of market in the lake."""
    longer = make_line(first_session=date(2019, 1, 2))
    daily_line.prepare(longer, date(2022, 12, 28), run_id="longer-history")
    daily_line.train(longer, date(2022, 11, 30), run_id="longer-training")
    rerun = daily_line.run_session(longer, FIRST, run_id="longer")
    names = {
        CORE_FEATURES_DAILY.name,
        CORE_FACTORS_DAILY.name,
        CORE_SIGNALS_SIGNAL.name,
        OUT_RISK_ANALYSIS_MARKET_REGIME.name,
    }
    expected = {k: v for k, v in content_hashes(first_run).items() if k[0] in names}
    assert {name for name, _ in expected} == names
    assert {k: v for k, v in content_hashes(rerun).items() if k[0] in names} == expected


def test_the_warehouse_holds_what_the_lake_holds(
    line: Settings, first_run: list[ArtifactRef], warehouse: Warehouse
) -> None:
    rows = warehouse.query(
        "select symbol, score_bps from core.signals__signal where session = %s order by symbol",
        (FIRST,),
    )
    signals = Lake(line.lake).read(CORE_SIGNALS_SIGNAL, [FIRST], as_of=FIRST)
    assert [(row["symbol"], row["score_bps"]) for row in rows] == sorted(
        zip(signals["symbol"].to_pylist(), signals["score_bps"].to_pylist(), strict=True)
    )


def test_the_report_names_hashes_of_what_it_was_made_from(
    line: Settings, first_run: list[ArtifactRef]
) -> None:
    lake = Lake(line.lake)
    page = lake.get_bytes("reports/daily_report_20221221.html").decode()
    document = published(lake, OUT_REPORTS_DAILY, FIRST)
    hashes = {ref.sha256 for ref in first_run}
    for item in document["inputs"]:
        assert item["sha256"][:12] in page
        assert item["partition"] == f"session={FIRST}"
        if item["contract"] != CORE_QUALITY_QUARANTINE.name:  # the gate publishes that one itself
            assert item["sha256"] in hashes


@pytest.mark.slow
def test_without_a_champion_the_error_names_the_command_that_trains_one(
    line: Settings,
) -> None:
    before_any_promotion = date(2022, 11, 15)
    with pytest.raises(ConfigError, match=r"marketlake train --as-of 2022-1\d-\d\d"):
        daily_line.run_session(line, before_any_promotion, run_id="too-early")


def test_a_session_whose_past_is_not_loaded_waits_for_it(
    make_line: Callable[..., Settings],
) -> None:
    empty = make_line(first_session=date(2022, 12, 1))
    with pytest.raises(MissingPartition, match="2022-12"):
        daily_line.run_session(empty, FIRST, run_id="no-history")


def test_the_ledger_knows_every_publish_and_no_secret(
    line: Settings, first_run: list[ArtifactRef], ledger: LedgerClient
) -> None:
    entries = ledger.entries(kind="published", run_id="first", limit=1000)
    logged = {(entry.payload["contract"], entry.payload["sha256"]) for entry in entries}
    assert {(ref.contract, ref.sha256) for ref in first_run} <= logged
    assert ledger.verify().ok
    text = json.dumps([dict(entry.payload) for entry in ledger.entries(limit=100_000)])
    for secret in (line.lake.secret_key, line.postgres.password, line.ledger.token):
        assert secret.get_secret_value() not in text


@pytest.mark.slow
def test_without_the_benchmarks_only_source_the_line_still_reaches_its_report(
    line: Settings,
) -> None:
    vendors, day = RunningSandbox.of(line), FIRST.isoformat()
    rule = {"namespace": day, "vendor": "yahoo", "kind": "http_5xx"}
    vendors.control("POST", "/__ctl/faults", rule)
    try:
        daily_line.run_session(line, FIRST, run_id="without-yahoo")
    finally:
        vendors.control("POST", "/__ctl/reset", {"namespace": day})
    lake = Lake(line.lake)
    integrity = published(lake, OUT_DATA_VALIDATION_DAILY_INTEGRITY_REPORT, FIRST)
    regime = published(lake, OUT_RISK_ANALYSIS_MARKET_REGIME, FIRST)
    report = published(lake, OUT_REPORTS_DAILY, FIRST)
    page = lake.get_bytes("reports/daily_report_20221221.html").decode()
    daily_line.run_session(line, FIRST, run_id="with-yahoo-again")

    assert integrity["symbols"]["missing"] == ["^GSPC"]
    assert [item["outcome"] for item in integrity["sources"]] == ["dropped", "answered", "answered"]
    assert (regime["session"], regime["evidence"]["as_of"]) == (day, "2022-12-20")
    assert report["regime"]["regime"] == regime["regime"]
    assert "2022-12-20" in page
