"""The integrity page, from a made-up pair of documents. No number in it is a market's."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from marketlake.domain.reporting import integrity_page
from marketlake.errors import ContractViolation

from tests.domain.reporting.html_page import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
_THIN_SPACE, _MINUS, _DASH = "\u202f", "\u2212", "\u2013"

SESSION = date(2022, 12, 22)
SYMBOLS = (
    *("AAPL", "AMD", "BAC", "BBY", "CVX", "GE", "HD", "JNJ", "JPM", "KO", "LLY"),
    *("MRK", "MSFT", "PEP", "PFE", "PG", "RRC", "UNH", "WMT", "XOM", "SPX"),
)
_WEIGHTS = {"yahoo": 0.98, "alpha_vantage": 0.91, "iex": 0.64}


def _sessions() -> list[str]:
    closed = {date(2022, 11, 24), date(2022, 9, 5)}
    days = [SESSION - timedelta(days=back) for back in range(120)]
    open_days = [day for day in days if day.weekday() < 5 and day not in closed]
    return [day.isoformat() for day in open_days[:63][::-1]]


def _sources() -> list[dict[str, Any]]:
    counts = {"no_bar": 0, "failed": 0, "not_asked": 0, "rows_quarantined": 0}
    return [
        {
            "source": "yahoo",
            "outcome": "answered",
            "reason": "",
            "asked": 21,
            "answered": 21,
            **counts,
            "rows_quarantined": 1,
            "agreed_pct": 95.2,
            "weight": 0.98,
        },
        {
            "source": "alpha_vantage",
            "outcome": "answered",
            "reason": "",
            "asked": 21,
            "answered": 19,
            **counts,
            "no_bar": 1,
            "failed": 1,
            "agreed_pct": 89.5,
            "weight": 0.91,
        },
        {
            "source": "iex",
            "outcome": "dropped",
            "reason": "answered 503 to 4 of 4 requests; resting until 2022-12-23",
            "asked": 4,
            "answered": 0,
            **counts,
            "failed": 4,
            "not_asked": 17,
            "agreed_pct": None,
            "weight": None,
        },
        {
            "source": "stooq",
            "outcome": "not_configured",
            "reason": "no key in MARKETLAKE_SOURCES__STOOQ_KEY",
            "asked": 0,
            "answered": 0,
            **counts,
            "agreed_pct": None,
            "weight": None,
        },
    ]


def _comparison_of(symbol: str, close: float, **apart: float) -> dict[str, Any]:
    """Return a symbol's comparison; ``apart`` are factors of the sources that disagree."""
    names = ("yahoo", "alpha_vantage")
    prices = {}
    for field, share in (("open_usd", 0.99), ("high_usd", 1.02), ("close_usd", 1.0)):
        consensus = close * share
        prices[field] = {
            "consensus_usd": consensus,
            "by_source": {
                name: {
                    "value_usd": consensus * apart.get(name, 1.0),
                    "apart_pct": 100.0 * (apart.get(name, 1.0) - 1.0),
                    "agreed": name not in apart,
                    "weight": _WEIGHTS[name],
                }
                for name in names
            },
        }
    return {
        "symbol": symbol,
        "n_sources": len(names),
        "n_agreed": len(names) - len(apart),
        "chosen_source": "yahoo",
        "spread_pct": max((100.0 * abs(factor - 1.0) for factor in apart.values()), default=0.0),
        "flags": [],
        "prices": prices,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """Return an ``out_data_validation__daily_integrity_report`` with something in every part."""
    sessions = _sessions()
    return {
        "session": SESSION.isoformat(),
        "calendar": {
            "name": "XNYS",
            "open_utc": "2022-12-22T14:30:00+00:00",
            "close_utc": "2022-12-22T21:00:00+00:00",
            "half_day": False,
        },
        "symbols": {"expected": 21, "accepted": 20, "missing": [], "quarantined": ["XOM"]},
        "sources": _sources(),
        "gate": {
            "verdict": "passed",
            "rows_in": 21,
            "rows_quarantined": 1,
            "source_rows_quarantined": 1,
        },
        "anomalies": {
            "price_spike": {"findings": 2, "alarms": 1},
            "stale_repeat": {"findings": 1, "alarms": 1},
            "missing_bar": {"findings": 1, "alarms": 1},
            "late_print": {"findings": 3, "alarms": 0},
        },
        "alarms": [
            {
                "symbol": "RRC",
                "source": "core",
                "kind": "price_spike",
                "severity": "warning",
                "value": -10.6,
                "expected": None,
                "limit": 10.0,
                "detail": "close moved by more than its own volatility explains",
            },
            {
                "symbol": "XOM",
                "source": "yahoo",
                "kind": "unit_x100",
                "severity": "critical",
                "value": 10854.0,
                "expected": 108.54,
                "limit": None,
                "detail": "every price is 100 times the one before <script>alert(1)</script>",
            },
            {
                "symbol": "KO",
                "source": "alpha_vantage",
                "kind": "missing_bar",
                "severity": "warning",
                "value": 1.0,
                "expected": 0.0,
                "limit": 0.0,
                "detail": "the exchange was open and there is no bar",
            },
        ],
        "worst_symbols": [
            {
                "symbol": "XOM",
                "alarms": 9,
                "disagreements": 12,
                "kinds": ["unit_x100", "stale_repeat"],
            },
            {"symbol": "KO", "alarms": 6, "disagreements": 5, "kinds": ["missing_bar"]},
            {"symbol": "GE", "alarms": 0, "disagreements": 4, "kinds": ["split_not_applied"]},
            {"symbol": "RRC", "alarms": 1, "disagreements": 0, "kinds": ["price_spike"]},
        ],
        "gaps": {
            "sessions": sessions,
            "series": [
                {
                    "symbol": "KO",
                    "source": "alpha_vantage",
                    "absent": {
                        sessions[-1]: "missing_bar",
                        sessions[-2]: "missing_bar",
                        sessions[30]: "missing_bar",
                    },
                },
                *(
                    {
                        "symbol": "GE",
                        "source": source,
                        "absent": {sessions[40]: "halted", sessions[41]: "halted"},
                    }
                    for source in ("yahoo", "alpha_vantage", "iex")
                ),
                {
                    "symbol": "MBLY",
                    "source": "yahoo",
                    "absent": dict.fromkeys(sessions[:24], "not_yet_listed"),
                },
                {
                    "symbol": "TWTR",
                    "source": "yahoo",
                    "absent": dict.fromkeys(sessions[26:], "delisted"),
                },
                *(
                    {"symbol": symbol, "source": "iex", "absent": {sessions[-1]: "missing_bar"}}
                    for symbol in SYMBOLS
                    if symbol != "GE"
                ),
            ],
        },
        "repairs": {
            "proposals": [
                {
                    "proposal": "2022-12-22-XOM-yahoo-unit_x100",
                    "symbol": "XOM",
                    "source": "yahoo",
                    "rule": "unit_x100",
                    "confidence": 0.95,
                    "evidence": "all four prices are 100 times those of alpha_vantage",
                    "cells": 4,
                }
            ],
            "in_force": [
                {
                    "proposal": "2022-12-22-GE-yahoo-split",
                    "symbol": "GE",
                    "source": "yahoo",
                    "applied_by": "ann",
                    "reason": "the spin-off is in the exchange's notice",
                }
            ],
        },
        "caveats": [
            "the sources are replicas of one history with seeded differences: agreement here is "
            "not evidence",
            "open, high, low and volume are simulated",
        ],
    }


@pytest.fixture
def comparison() -> dict[str, Any]:
    """Return the ``out_data_validation__source_comparison`` beside the report."""
    apart = {"XOM": {"yahoo": 100.0}, "PFE": {"alpha_vantage": 1.04}}
    comparisons = [
        _comparison_of(symbol, 50.0 + 7.31 * index, **apart.get(symbol, {}))
        for index, symbol in enumerate(SYMBOLS)
    ]
    alone = comparisons[SYMBOLS.index("KO")]
    alone |= {"n_sources": 1, "n_agreed": 1}
    for price in alone["prices"].values():
        del price["by_source"]["alpha_vantage"]
    return {
        "session": SESSION.isoformat(),
        "sources": _sources(),
        "threshold_pct": dict.fromkeys(("open_usd", "high_usd", "low_usd", "close_usd"), 0.5),
        "comparisons": comparisons,
        "discrepancies": [
            {
                "symbol": "PFE",
                "source": "alpha_vantage",
                "kind": "single_field",
                "fields": ["close_usd"],
                "apart_pct": {"close_usd": 4.0},
                "evidence": None,
            },
            {
                "symbol": "XOM",
                "source": "yahoo",
                "kind": "unit_x100",
                "fields": ["open_usd", "high_usd", "close_usd"],
                "apart_pct": {"open_usd": 9900.0, "high_usd": 9900.0, "close_usd": 9900.0},
                "evidence": 100.0,
            },
            {
                "symbol": "KO",
                "source": "alpha_vantage",
                "kind": "missing_day",
                "fields": [],
                "apart_pct": {},
                "evidence": None,
            },
        ],
        "caveats": ["open, high, low and volume are simulated"],
    }


def _words(report: dict[str, Any], comparison: dict[str, Any]) -> str:
    return Page(integrity_page.render(report, comparison)).words


def _sound(report: dict[str, Any], comparison: dict[str, Any]) -> None:
    """Turn the pair into one of a session in which nothing happened."""
    for document in (report, comparison):
        document["sources"] = [
            {**row, "answered": 21, "failed": 0, "no_bar": 0, "agreed_pct": 100.0}
            for row in document["sources"][:2]
        ]
        document["caveats"] = ["volume is of one venue"]
    report["symbols"] = {"expected": 21, "accepted": 21, "missing": [], "quarantined": []}
    report["gaps"]["series"] = []
    report["repairs"] = {"proposals": [], "in_force": []}
    report |= {"alarms": [], "anomalies": {}, "worst_symbols": []}
    comparison["discrepancies"] = []
    comparison["comparisons"] = [_comparison_of(symbol, 50.0) for symbol in SYMBOLS]


def test_the_same_documents_give_the_same_page_in_any_order(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    page = integrity_page.render(report, comparison)
    stored = [json.loads(json.dumps(each, sort_keys=True)) for each in (report, comparison)]
    for rows in (
        stored[0]["alarms"],
        stored[0]["gaps"]["series"],
        stored[0]["repairs"]["proposals"],
        stored[1]["discrepancies"],
        stored[1]["comparisons"],
    ):
        rows.reverse()
    assert integrity_page.render(*stored) == page


def test_rendering_leaves_the_documents_as_they_were(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    before = copy.deepcopy((report, comparison))
    integrity_page.render(report, comparison)
    assert (report, comparison) == before


def test_the_page_asks_for_nothing_and_runs_nothing(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    text = integrity_page.render(report, comparison)
    names = {name for name, _ in Page(text).attributes}
    assert names.isdisjoint({"src", "href", "srcset", "action", "onload", "onclick"})
    assert "<script" not in text
    assert not re.search(r"https?:|@import|url\(", text)


def _poison(value: Any) -> Any:
    """Return the document with markup in every text of it but its dates."""
    if isinstance(value, dict):
        return {name: _poison(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_poison(inner) for inner in value]
    if isinstance(value, str) and not re.match(r"\d{4}-\d{2}-\d{2}(T[\d:+]+)?$", value):
        return f"""{value}<img src=x onerror='a()'>"&"""
    return value


def test_every_text_from_the_documents_is_escaped(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    poisoned = _poison(report), _poison(comparison)
    # Names of sources are keys of the comparisons, too.
    for row in poisoned[1]["comparisons"]:
        for price in row["prices"].values():
            price["by_source"] = {_poison(name): cell for name, cell in price["by_source"].items()}
    poisoned[0]["anomalies"] = {"<img src=x>": {"findings": 1, "alarms": 0}}
    text = integrity_page.render(*poisoned)
    assert "<img" not in text
    page = Page(text)
    assert {name for name, _ in page.attributes}.isdisjoint({"src", "onerror"})
    assert text.count("&lt;img") > 50


def test_a_command_to_paste_is_one_command(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    report["repairs"]["proposals"][0]["proposal"] = "x; rm -r ~"
    assert "marketlake repair apply 'x; rm -r ~'" in _words(report, comparison)


def test_the_verdict_comes_first_then_the_caveats_then_the_figures(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    parts = [
        "Thursday 22 December 2022",
        "Use it with care: XOM quarantined; iex dropped; 1 critical alarm; "
        "no two sources agree on the close of PFE, XOM.",
        "20 of 21 symbols accepted, 2 of 3 sources answered, 3 alarms, 1 symbol quarantined; "
        "sources apart in 3 places.",
        "agreement here is not evidence",
        "Symbols accepted",
        "Source agreement",
        "Discrepancies",
        "Gaps calendar, last 63 sessions",
        "Worst symbols, last 63 sessions",
    ]
    places = [words.index(part) for part in parts]
    assert places == sorted(places)
    assert words.count("Open, high, low and volume are simulated") == 1


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"symbols": {"missing": ["KO"]}}, "! Use it with care: no bar of KO."),
        ({"gate": {"verdict": "failed"}}, "✗ Do not use it: the gate refused this session."),
        ({}, "✓ Nothing found that speaks against it."),
    ],
)
def test_the_verdict_follows_the_report(
    report: dict[str, Any],
    comparison: dict[str, Any],
    change: dict[str, dict[str, Any]],
    expected: str,
) -> None:
    _sound(report, comparison)
    for part, members in change.items():
        report[part] |= members
    assert expected in _words(report, comparison)


def test_one_source_alone_is_never_called_agreement(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    _sound(report, comparison)
    for document in (report, comparison):
        document["sources"] = [document["sources"][0] | {"agreed_pct": None}]
    for row in comparison["comparisons"]:
        row |= {"n_sources": 1, "n_agreed": 1}
    words = _words(report, comparison)
    assert "fewer than two sources, so nothing confirms the prices" in words
    assert "none quarantined; no source to compare with." in words
    assert "Closes on which all agree n/a nothing to compare · 21 with one source only" in words
    assert "No symbol has two sources: there was nothing to compare." in words


def test_a_source_that_failed_shows_why_it_was_dropped(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    why = "answered 503 to 4 of 4 requests; resting until 2022-12-23"
    assert f"iex {_DASH} {_DASH} 0 of 4 ✗ dropped{why}4 failed, 17 not asked" in words
    assert "yahoo 95.2 % 0.98 21 of 21 ✓ answered1 quarantined" in words
    assert f"stooq {_DASH} {_DASH} {_DASH} not configuredno key" in words
    assert "dropped: iex · not configured: stooq" in words


def test_a_discrepancy_shows_every_value_beside_the_consensus(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    assert "1 missing day, 1 single field, 1 unit x100" in words
    close = f"188.89 ✗ 18{_THIN_SPACE}889.00 188.89"
    far = f"+9{_THIN_SPACE}900.00 %"
    assert f"XOM unit x100yahoo close +2 {far} {close}" in words
    assert "PFE single fieldalpha_vantage close +4.00 % 152.34 152.34 ✗ 158.43" in words
    assert f"KO missing dayalpha_vantage close {_DASH} 115.79 115.79 {_DASH}" in words
    assert words.index("XOM unit") < words.index("PFE single") < words.index("KO missing")


def test_a_discrepancy_that_spares_the_close_shows_the_price_furthest_apart(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    comparison["discrepancies"][0] |= {
        "fields": ["open_usd", "high_usd"],
        "apart_pct": {"open_usd": 1.0, "high_usd": -3.0},
    }
    assert f"PFE single fieldalpha_vantage high +1 {_MINUS}3.00 %" in _words(report, comparison)


def test_absences_are_told_apart_by_letter_and_legend(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    text = integrity_page.render(report, comparison)
    lines = dict(re.findall(r'class="name" title="(\w+)[^"]*">.*?</th>(.*?)</tr>', text))
    cells = {
        symbol: "".join(re.findall(r">(.?)</td>", re.sub("<td></td>", "<td>.</td>", line)))
        for symbol, line in lines.items()
    }
    assert {len(row) for row in cells.values()} == {63}
    assert cells["KO"] == "." * 30 + "M" + "." * 30 + "MM"
    assert cells["GE"] == "." * 40 + "HH" + "." * 21
    assert cells["MBLY"] == "N" * 24 + "." * 39
    assert cells["TWTR"] == "." * 26 + "D" * 37
    words = _words(report, comparison)
    for letter, meaning in (("M", "the exchange was open"), ("H", "trading"), ("D", "delisted")):
        assert f"{letter}{meaning}" in words


def test_series_that_lack_the_same_share_a_line(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    assert "GE 3 sources" in words
    assert "AAPL +19 iex" in words


def test_the_calendar_has_a_column_a_session_under_its_months(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    head = re.findall(r"<thead>(.*?)</thead>", integrity_page.render(report, comparison))
    calendar = next(part for part in head if "colspan" in part)
    for row in calendar.split("</tr>")[:2]:
        assert sum(map(int, re.findall(r'colspan="(\d+)"', row))) == 63
    assert ">November 2022</th>" in calendar


def test_repairs_name_the_command_and_who_applied_what(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    assert "marketlake repair apply 2022-12-22-XOM-yahoo-unit_x100" in words
    assert "4 cells, confidence 95 %" in words
    assert "applied by ann: the spin-off is in the exchange's notice" in words


def test_alarms_stand_with_the_gravest_first(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    words = _words(report, comparison)
    critical = words.index("unit x100 of yahoo (critical)")
    assert critical < words.index("missing bar of alpha") < words.index("price spike of core")
    assert f"{_MINUS}10.60limit 10.00" in words


def test_a_quiet_session_says_so(report: dict[str, Any], comparison: dict[str, Any]) -> None:
    _sound(report, comparison)
    words = _words(report, comparison)
    for sentence in (
        "21 of 21 symbols accepted, 2 of 2 sources answered, no alarm, none quarantined; "
        "sources nowhere apart.",
        "No source is apart from the consensus by more than 0.50 %.",
        "No series lacks a bar that it should have.",
        "No alarm.",
        "No proposal.",
        "No repair is in force.",
        "No symbol had an alarm or a disagreement.",
        "Nothing unusual.",
    ):
        assert sentence in words
    assert "not evidence" not in words


def test_of_500_symbols_only_the_unusual_is_shown(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    names = [f"S{index:03d}" for index in range(500)]
    comparison["comparisons"] = [
        _comparison_of(name, 20.0, yahoo=1.01 + index / 1e4) for index, name in enumerate(names)
    ]
    comparison["discrepancies"] = [
        {**comparison["discrepancies"][0], "symbol": name, "apart_pct": {"close_usd": index / 100}}
        for index, name in enumerate(names)
    ]
    days = report["gaps"]["sessions"]
    report["gaps"]["series"] = [
        {"symbol": name, "source": "iex", "absent": {days[index % 60]: "missing_bar"}}
        for index, name in enumerate(names)
    ]
    report["alarms"] = [{**report["alarms"][0], "symbol": name} for name in names]
    report["symbols"] |= {"expected": 500, "accepted": 0, "quarantined": names}
    report["repairs"]["proposals"] = [
        {**report["repairs"]["proposals"][0], "symbol": name, "proposal": name} for name in names
    ]
    words = _words(report, comparison)
    assert len(integrity_page.render(report, comparison)) < 120_000
    assert "Shown: 40 of 500; all of them are in" in words
    assert "Shown: 40 of 60; all of them are in" in words
    assert "S007 and 492 more" in words
    assert "S499 single fieldalpha_vantage close +4.99 %" in words
    assert "S001 single fieldalpha_vantage" not in words


def test_a_missing_member_is_named(report: dict[str, Any], comparison: dict[str, Any]) -> None:
    del report["gaps"]["series"]
    with pytest.raises(ContractViolation, match="'series'"):
        integrity_page.render(report, comparison)


def test_documents_of_two_sessions_are_refused(
    report: dict[str, Any], comparison: dict[str, Any]
) -> None:
    comparison["session"] = "2022-12-21"
    with pytest.raises(ContractViolation, match="2022-12-21"):
        integrity_page.render(report, comparison)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_the_page_fits_its_screen(
    report: dict[str, Any], comparison: dict[str, Any], tmp_path: Path, width: int
) -> None:
    (tmp_path / "page.html").write_text(integrity_page.render(report, comparison))
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0" onload="'
        "const page=this.contentDocument,root=page.documentElement,"
        "days=page.querySelector('.gaps'),"
        "last=page.querySelector('.gaps tbody tr td:last-child').getBoundingClientRect();"
        "document.title='overflow '+(root.scrollWidth-root.clientWidth)"
        "+', newest session '+(last.right<=days.getBoundingClientRect().right+1)\"></iframe>"
    )
    shown = subprocess.run(
        [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--allow-file-access-from-files",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--dump-dom",
            (tmp_path / "frame.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    ).stdout
    assert "<title>overflow 0, newest session true</title>" in shown
