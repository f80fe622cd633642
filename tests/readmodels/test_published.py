from __future__ import annotations

import hashlib
from datetime import date
from typing import TYPE_CHECKING

import pytest
from marketlake.contracts import catalog
from marketlake.errors import ConfigError, MissingPartition, NotFound
from marketlake.readmodels import published
from marketlake.types import ArtifactRef, Partition

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake

SESSION = date(2022, 12, 23)
PARTITION = Partition.of_session(SESSION)


def test_artifacts_come_in_the_order_of_the_daily_run_with_their_hashes(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    found = published.artifacts(lake)
    order = [item.name for item in catalog.CATALOG]
    assert [order.index(item.contract) for item in found] == sorted(
        order.index(name) for name in day
    )
    assert {item.contract: (item.sha256, item.rows, item.uri) for item in found} == {
        name: (ref.sha256, ref.rows, ref.uri) for name, ref in day.items()
    }


def test_artifacts_of_a_session_without_any_are_none(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    assert len(published.artifacts(lake, SESSION)) == len(day)
    assert published.artifacts(lake, date(2022, 12, 22)) == []


def test_spec_coverage_names_all_49_files_and_hashes_only_those_that_exist(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    files = published.spec_coverage(lake)
    assert len({item.file for item in files}) == 49
    built = {item.file: item for item in files if item.sha256 is not None}
    assert set(built) == {
        "data_validation/anomaly_log_YYYYMMDD.csv",
        "risk_analysis/portfolio_risk_YYYYMMDD.csv",
    }
    risk = built["risk_analysis/portfolio_risk_YYYYMMDD.csv"]
    assert (risk.section, risk.produced_by, risk.rows) == ("4.1", "assess_risk", 3)
    assert risk.uri == f"s3://{lake.bucket}/risk_analysis/portfolio_risk_20221223.csv"
    body = lake.get_bytes("risk_analysis/portfolio_risk_20221223.csv")
    assert risk.sha256 == hashlib.sha256(body).hexdigest()


def test_spec_coverage_up_to_an_earlier_session_is_empty(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    assert all(item.sha256 is None for item in published.spec_coverage(lake, date(2022, 12, 22)))


@pytest.mark.parametrize(
    "text",
    [
        "core_signals__signal",
        "core_signals__signal/2022-12-23",
        "core_signals__signal/session=2022-12-23",
        "s3://{bucket}/core/core_signals__signal/session=2022-12-23/part.parquet",
    ],
)
def test_an_artifact_can_be_named_in_several_ways(
    lake: Lake, day: dict[str, ArtifactRef], text: str
) -> None:
    named = published.resolve(lake, text.replace("{bucket}", lake.bucket))
    assert named == (catalog.CORE_SIGNALS_SIGNAL, PARTITION)


def test_a_year_is_named_by_four_digits(lake: Lake) -> None:
    named = published.resolve(lake, "core_market__daily_bar/2021")
    assert named == (catalog.CORE_MARKET_DAILY_BAR, Partition.of_year(2021))


def test_an_unknown_contract_is_a_config_error_and_an_unpublished_one_is_missing(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    with pytest.raises(ConfigError, match="marketlake contracts list"):
        published.resolve(lake, "core_nothing__at_all")
    with pytest.raises(MissingPartition, match="build_features"):
        published.resolve(lake, "core_features__daily")


def test_the_named_file_is_what_was_exported(lake: Lake, day: dict[str, ArtifactRef]) -> None:
    page = published.export_bytes(lake, catalog.OUT_REPORTS_DAILY, PARTITION)
    assert page == b"<!doctype html><title>day</title>"
    with pytest.raises(NotFound, match="only its canonical form"):
        published.export_bytes(lake, catalog.CORE_SIGNALS_SIGNAL, PARTITION)


def test_the_named_file_is_the_version_that_the_manifest_means(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    key = lake.manifest(catalog.OUT_REPORTS_DAILY, PARTITION).export_key
    assert key is not None
    page = lake.get_bytes(key)
    lake.put_record(key, b"of a publication that ended before its manifest")
    try:
        assert published.export_bytes(lake, catalog.OUT_REPORTS_DAILY, PARTITION) == page
    finally:
        lake.put_record(key, page)
