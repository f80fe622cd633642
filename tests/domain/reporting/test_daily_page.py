from __future__ import annotations

import copy
import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from marketlake.domain.reporting import daily_page
from marketlake.errors import ContractViolation

from tests.domain.reporting.html_page import Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def _read(document: dict[str, Any]) -> Page:
    return Page(daily_page.render(document).decode())


def _words(document: dict[str, Any]) -> str:
    return _read(document).words.replace("\u202f", " ")


def test_the_same_document_gives_the_same_bytes_in_any_member_order(
    document: dict[str, Any],
) -> None:
    stored = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    assert daily_page.render(stored) == daily_page.render(document)


def test_rendering_leaves_the_document_as_it_was(document: dict[str, Any]) -> None:
    before = copy.deepcopy(document)
    daily_page.render(document)
    assert document == before


def test_the_page_asks_for_nothing_from_anywhere(document: dict[str, Any]) -> None:
    page = _read(document)
    assert {name for name, _ in page.attributes}.isdisjoint({"src", "href", "srcset", "action"})
    text = daily_page.render(document).decode()
    assert "<script" not in text
    assert not re.search(r"https?:|@import|url\(", text)


def test_text_from_artifacts_is_escaped(document: dict[str, Any]) -> None:
    assert "unit error <script>alert(1)</script>" in _words(document)
    assert b"<script>" not in daily_page.render(document)


def test_caveats_stand_before_the_first_figure(document: dict[str, Any]) -> None:
    words = _words(document)
    first_figure = words.index("Hit rate, out of fold")
    for caveat in document["caveats"]:
        assert words.index(caveat[1:]) < first_figure


def test_headlines_carry_interval_base_rate_and_sample_size(document: dict[str, Any]) -> None:
    words = _words(document)
    assert (
        "95 % interval 50.4 to 51.4 % · base rate 50.4 % · n = 41 234 (8 247 without overlap)"
        in words
    )
    assert "95 % interval \u22120.002 to +0.031 · chance is 0 · n = 2 061 sessions" in words
    assert "n = 500 sessions" in words


@pytest.mark.parametrize(
    ("accuracy", "rank_ic", "expected"),
    [
        ((0.51, 0.55), (0.01, 0.03), "lies above the base rate, and its ranking is better"),
        ((0.49, 0.55), (-0.01, 0.03), "cannot be told from the base rate, and its ranking cannot"),
        ((0.40, 0.49), (-0.03, -0.01), "lies below the base rate, and its ranking cannot be told"),
    ],
)
def test_the_verdict_on_the_model_follows_the_intervals(
    document: dict[str, Any],
    accuracy: tuple[float, float],
    rank_ic: tuple[float, float],
    expected: str,
) -> None:
    validation = document["headline"]["validation"]
    validation["base_rate"] = {"value": 0.5}
    for name, (low, high) in (("accuracy", accuracy), ("rank_ic", rank_ic)):
        validation[name] |= {"low": low, "high": high, "value": (low + high) / 2}
    assert expected in _words(document)


def test_every_signal_every_quarantined_row_and_every_hash_is_shown(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    for row in document["signals"]:
        assert f" {row['symbol']}" in words
    for row in document["integrity"]["quarantine"]:
        assert row["check"] in words
        assert row["reason"] in words
    for row in document["inputs"]:
        assert row["sha256"] in words
    assert "GM (no bar at the session)" in words


def test_the_curve_compounds_the_returns_and_skips_missing_ones(document: dict[str, Any]) -> None:
    returns = [row["book_return"] for row in document["risk"]["returns"]]
    assert None in returns
    total = 100 * (math.prod(1 + r for r in returns if r is not None) - 1)
    shown = f"{total:+.1f}".replace("-", "\u2212")
    assert f"{shown} % from 2022-01-10 to 2022-12-28" in _words(document)


def test_the_page_says_who_answered_what_was_kept_out_of_whom_and_where_to_read_on(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    assert "no source has a bar of KO." in words
    assert "2 of 3 sources answered, not alpha_vantage; 1 of their rows had no vote." in words
    assert "XOM yahoo not_above(close_usd, high_usd)" in words
    assert "RRC iex price spike (warning)" in words
    assert "2 alarms of 5 findings" in words
    assert "reports/integrity_20221228.html" in words


def test_a_quiet_day_says_so(document: dict[str, Any]) -> None:
    document["integrity"] |= {"quarantine": [], "alarms": [], "anomalies": {}}
    document["integrity"]["gate"] |= {"rows_quarantined": 0, "source_rows_quarantined": 0}
    for source in document["integrity"]["sources"]:
        source["outcome"] = "answered"
    document["integrity"]["symbols"]["missing"] = []
    words = _words(document)
    assert "20 of 20 bars passed the gate, none was kept out. 3 of 3 sources answered." in words
    assert "No row was kept out." in words
    assert "No alarm." in words


def test_a_large_universe_shows_its_two_ends(document: dict[str, Any]) -> None:
    row = document["signals"][0]
    document["signals"] = [
        {**row, "symbol": f"S{rank:03d}", "rank": rank, "score_bps": 50.0 - rank}
        for rank in range(1, 101)
    ]
    words = _words(document)
    assert "S020" in words
    assert "S081" in words
    assert "S050" not in words
    assert "the 20 highest and lowest scores" in words


def test_a_missing_member_is_named(document: dict[str, Any]) -> None:
    del document["regime"]["rule"]
    with pytest.raises(ContractViolation, match="'rule'"):
        daily_page.render(document)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_the_page_fits_its_screen(document: dict[str, Any], tmp_path: Path, width: int) -> None:
    (tmp_path / "page.html").write_bytes(daily_page.render(document))
    (tmp_path / "frame.html").write_text(
        f'<iframe src="page.html" style="width:{width}px;height:900px;border:0" onload="'
        "const page=this.contentDocument.documentElement;"
        "document.title='overflow '+(page.scrollWidth-page.clientWidth)\"></iframe>"
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
    assert "<title>overflow 0</title>" in shown
