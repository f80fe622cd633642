"""The page of the gates: every verdict and every suite, nobody else's hosts, the same bytes."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd
import pytest
from marketlake.contracts.catalog import CATALOG, CORE_MARKET_CORPORATE_ACTION
from marketlake.domain.reporting.page_style import STYLE
from marketlake.quality import data_docs
from marketlake.quality.gate import judge
from marketlake.types import Partition

SESSIONS = (date(2022, 12, 28), date(2022, 12, 27))


def actions(session: date, *, kind: str = "dividend") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "session": [session, session],
            "symbol": ["KO", "XOM"],
            "kind": ["dividend", kind],
            "split_ratio": [None, None],
            "dividend_usd": [0.5, 0.25],
            "simulated_fields": [[], []],
            "known_at_utc": [datetime(2022, 12, 28, 21, 15, tzinfo=UTC)] * 2,
        }
    ).astype({"split_ratio": float})


def report(session: date, *, kind: str = "dividend") -> dict[str, Any]:
    return judge(
        CORE_MARKET_CORPORATE_ACTION,
        actions(session, kind=kind),
        partition=Partition.of_session(session),
        max_quarantined_fraction=0.25,
    ).report


@pytest.fixture(scope="module")
def reports() -> list[dict[str, Any]]:
    return [report(SESSIONS[0], kind="<b>bribe</b>"), report(SESSIONS[1])]


@pytest.fixture(scope="module")
def page(reports: list[dict[str, Any]]) -> str:
    return data_docs.page(reports, style=STYLE)[0].decode()


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.split("</style>")[1]))


def test_a_refused_artifact_is_shown_with_the_value_that_refused_it(page: str) -> None:
    refused = page.split('id="core_market__corporate_action-session=2022-12-28"')[1]
    refused = text_of("</style>" + refused.split("</section>")[0])
    assert "session=2022-12-28 core_market__corporate_action failed" in refused
    assert "values must belong to this set: split dividend" in refused
    assert "1 unexpected values found. 50% of 2 total rows." in refused
    assert "bribe" in refused
    assert "quarantined_fraction(max=0.25): 0.5" in refused


def test_a_vendors_text_does_not_become_markup(page: str) -> None:
    assert "<b>bribe" not in page
    assert "<script" not in page


def test_a_report_inside_a_report_has_a_verdict_of_its_own(reports: list[dict[str, Any]]) -> None:
    outer = {**reports[1], "corporate_actions": reports[0]}
    verdicts = data_docs.page([outer], style=STYLE)[1]["verdicts"]
    assert [(item["partition"], item["verdict"]) for item in verdicts] == [
        ("session=2022-12-27", "passed"),
        ("session=2022-12-28", "failed"),
    ]
    assert [item["checks_failed"] for item in verdicts] == [0, 2]


def test_every_suite_is_on_the_page_with_its_number_of_checks(page: str) -> None:
    shown = text_of(page)
    with_checks = [item for item in CATALOG if item.checks]
    assert with_checks
    for item in with_checks:
        assert f"{item.name} ({len(item.checks)} checks)" in shown


def test_a_check_that_left_the_suite_since_is_still_told(reports: list[dict[str, Any]]) -> None:
    old = {**reports[1]["results"][0], "check": "unique(gone)", "success": False}
    shown = data_docs.page([{**reports[1], "results": [old, *reports[1]["results"]]}], style=STYLE)[
        0
    ]
    assert "✗ unique(gone)" in shown.decode()


def test_the_page_asks_no_other_host_for_anything(page: str) -> None:
    assert re.findall(r"(?:src|href)\s*=\s*[\"'](?!#)[^\"']*", page) == []
    assert re.findall(r"url\(|@import", page) == []


def test_the_same_reports_give_the_same_bytes(reports: list[dict[str, Any]], page: str) -> None:
    assert data_docs.page(reports, style=STYLE)[0].decode() == page
