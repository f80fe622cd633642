"""The named files, found by their names: times sort them, and numbers within a second."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from marketlake.contracts.spec_files import SPEC_FILES, SpecFile
from marketlake.settings import PROJECT_ROOT

SPECIFIED = PROJECT_ROOT.parent / "shared" / "ARTIFACTS.md"
ROW = re.compile(r"\| `(?P<file>[^`]+)` \| (?P<section>[\d.]+) \| [^|]+ \| `(?P<contract>\w+)` \|")


def spec_file(beginning: str) -> SpecFile:
    (found,) = (item for item in SPEC_FILES if item.pattern.startswith(beginning))
    return found


def specified(table: Path) -> list[tuple[str, str, str]]:
    """Return the pattern, section and contract of each row; who writes a file may change."""
    return [
        (
            re.sub("YYYYMMDD|YYYYMM|HHMMSS|HH", lambda part: f"{{{part[0].lower()}}}", row["file"]),
            row["section"],
            row["contract"],
        )
        for row in ROW.finditer(table.read_text())
    ]


@pytest.mark.skipif(not SPECIFIED.is_file(), reason=f"no list of the named files in {SPECIFIED}")
def test_the_named_files_are_those_that_the_specification_names() -> None:
    rows = specified(SPECIFIED)
    assert len(rows) == 49
    assert [(item.pattern, item.section, item.contract) for item in SPEC_FILES] == rows


@pytest.mark.parametrize(
    ("beginning", "key"),
    [
        ("audit_logs/api_calls", "audit_logs/api_calls/20261201_00.json"),
        ("audit_logs/master", "audit_logs/master_log_202612.db"),
        ("snapshots/analysis", "snapshots/analysis/snapshot_20261201_093000.json"),
        ("snapshots/signals", "snapshots/signals/snapshot_20261201_093000_2.json"),
        ("real_time/price_ticks", "real_time/price_ticks/20261201/ticks_09.csv"),
        ("ml_models/trained", "ml_models/trained_models/lstm_model_20261201.keras"),
    ],
)
def test_a_file_is_known_by_its_name(beginning: str, key: str) -> None:
    assert [item.pattern for item in SPEC_FILES if item.matches(key)] == [
        spec_file(beginning).pattern
    ]


@pytest.mark.parametrize(
    "key",
    [
        "audit_logs/api_calls/20261201.json",
        "audit_logs/api_calls/20261201_00.json.part",
        "audit_logs/master_log_2026.db",
        "snapshots/analysis/snapshot_20261201_093000_.json",
        "archive/audit_logs/api_calls/20261201_00.json",
    ],
)
def test_another_name_is_no_named_file(key: str) -> None:
    assert not any(item.matches(key) for item in SPEC_FILES)


def test_the_newest_is_the_last_in_time_then_by_number() -> None:
    decisions = spec_file("audit_logs/decisions")
    keys = [
        f"audit_logs/decisions/trade_decision_20261201_{second}.json"
        for second in ("000030", "000030_2", "000030_10", "000029_11")
    ]
    assert sorted(keys, key=decisions.place_of) == [keys[3], *keys[:3]]
