"""A made-up report document for the tests of the daily page. No number in it is a market's."""

from __future__ import annotations

import math
from datetime import date, timedelta
from typing import Any

import pytest

SESSION = date(2022, 12, 28)
SYMBOLS = (
    ("AAPL", "Information Technology"),
    ("AMD", "Information Technology"),
    ("BAC", "Financials"),
    ("BBY", "Consumer Discretionary"),
    ("CVX", "Energy"),
    ("GE", "Industrials"),
    ("HD", "Consumer Discretionary"),
    ("JNJ", "Health Care"),
    ("JPM", "Financials"),
    ("KO", "Consumer Staples"),
    ("LLY", "Health Care"),
    ("MRK", "Health Care"),
    ("MSFT", "Information Technology"),
    ("PEP", "Consumer Staples"),
    ("PFE", "Health Care"),
    ("PG", "Consumer Staples"),
    ("RRC", "Energy"),
    ("UNH", "Health Care"),
    ("WMT", "Consumer Staples"),
    ("XOM", "Energy"),
)
_MODEL = "c0ffee" * 10 + "abcd"


def _weekdays_back(last: date, count: int) -> list[date]:
    days, day = [], last
    while len(days) < count:
        if day.weekday() < 5:
            days.append(day)
        day -= timedelta(days=1)
    return days[::-1]


def _signals() -> list[dict[str, Any]]:
    rows = []
    for index, (symbol, _) in enumerate(SYMBOLS):
        score = 38.0 - 4.1 * index
        hit = 0.5 + abs(score) / 1200
        rows.append(
            {
                "symbol": symbol,
                "score_bps": score,
                "rank": index + 1,
                "side": "long" if score > 5 else "short" if score < -5 else "flat",
                "confidence": hit,
                "confidence_low": hit - 0.011,
                "confidence_high": hit + 0.011,
                "confidence_n": 8123 + index,
                "probability_right": 0.5 + 0.001 * index,
                "base_rate": 0.5042,
                "horizon_sessions": 5,
                "simulated": symbol == "RRC",
            }
        )
    return rows


def _risk() -> dict[str, Any]:
    book = {
        "volatility_annual_pct": 17.83,
        "var_95_pct": 1.71,
        "var_99_pct": 2.98,
        "cvar_95_pct": 2.46,
        "cvar_99_pct": 3.61,
        "max_drawdown_pct": 16.4,
        "beta": 0.91,
        "gross_pct": 100.0,
        "net_pct": 100.0,
        "concentration_hhi": 0.05,
        "var_95_usd": 17100.0,
    }
    symbols = []
    for index, (symbol, _) in enumerate(SYMBOLS):
        measures = {
            "weight_pct": 5.0,
            "volatility_annual_pct": 14.0 + 1.9 * index,
            "beta": 0.4 + 0.07 * index,
            "contribution_to_volatility_pct": (index + 1) / 2.1,
        }
        symbols += [{"name": symbol, "measure": m, "value": v} for m, v in measures.items()]
    sectors = [
        {
            "name": sector,
            "measure": "weight_pct",
            "value": 5.0 * sum(1 for _, name in SYMBOLS if name == sector),
        }
        for sector in sorted({sector for _, sector in SYMBOLS})
    ]
    days = _weekdays_back(SESSION, 253)
    moves = [0.0004 + 0.011 * math.sin(i * 1.7) * math.cos(i * 0.37) for i in range(len(days))]
    returns = [
        {"session": day.isoformat(), "book_return": move - (0.004 if 120 < i < 170 else 0.0)}
        for i, (day, move) in enumerate(zip(days, moves, strict=True))
    ]
    return {
        "book": book,
        "n": dict.fromkeys(book, 500),
        "sectors": sectors,
        "symbols": symbols,
        "returns": [{"session": "2022-01-07", "book_return": None}, *returns],
    }


@pytest.fixture
def document() -> dict[str, Any]:
    """Return an ``out_reports__daily`` document with something in every part of the page."""
    return {
        "session": SESSION.isoformat(),
        "headline": {
            "regime": "bear",
            "volatility_state": "normal",
            "model": {
                "name": "linear",
                "as_of": "2022-11-30",
                "effective_from": "2022-12-01",
                "sha256": "c0ffee" * 10 + "abcd",
                "passed_gate": False,
                "reason": "1 of 6 checks of the gate failed: deflated Sharpe ratio 0.36, "
                "must be above 0.95",
            },
            "validation": {
                "accuracy": {
                    "value": 0.5089,
                    "low": 0.5041,
                    "high": 0.5137,
                    "n": 41234,
                    "n_independent": 8246.8,
                },
                "base_rate": {"value": 0.5042, "low": 0.4994, "high": 0.509, "n": 41234},
                "rank_ic": {"value": 0.0143, "low": -0.0021, "high": 0.0307, "n": 2061},
            },
        },
        "signals": _signals(),
        "not_predicted": [{"symbol": "GM", "reason": "no bar at the session"}],
        "risk": _risk(),
        "regime": {
            "session": SESSION.isoformat(),
            "regime": "bear",
            "volatility_state": "normal",
            "evidence": {
                "close_usd": 3783.22,
                "mean_200d_usd": 4004.31,
                "distance_pct": -5.52,
                "slope_20d_pct": -0.61,
                "volatility_annual_pct": 21.4,
                "volatility_percentile": 0.62,
                "limits": {"stressed_above": 0.9, "calm_below": 0.3},
            },
            "history": [
                {"session": day.isoformat(), "regime": "bear" if i % 21 > 4 else "sideways"}
                for i, day in enumerate(_weekdays_back(SESSION, 60))
            ],
            "rule": "bull: close above its 200-session mean and the mean rising; bear: close below "
            "it and the mean falling; otherwise sideways.",
        },
        "integrity": {
            "calendar": {
                "name": "XNYS",
                "open_utc": "2022-12-28T14:30:00+00:00",
                "close_utc": "2022-12-28T21:00:00+00:00",
            },
            "symbols": {"expected": 21, "accepted": 19, "missing": ["KO"], "quarantined": ["XOM"]},
            "session": SESSION.isoformat(),
            "sources": [
                {"source": "yahoo", "outcome": "answered"},
                {"source": "alpha_vantage", "outcome": "dropped"},
                {"source": "iex", "outcome": "answered"},
            ],
            "gate": {
                "verdict": "passed",
                "rows_in": 20,
                "rows_quarantined": 1,
                "source_rows_quarantined": 1,
            },
            "anomalies": {
                "price_spike": {"findings": 1, "alarms": 1},
                "quarantined": {"findings": 1, "alarms": 1},
                "not_yet_listed": {"findings": 3, "alarms": 0},
            },
            "quarantine": [
                {
                    "symbol": "XOM",
                    "source": "core",
                    "check": "in_range(close_move_pct)",
                    "reason": "one-session move no listed share has made without an action",
                },
                {
                    "symbol": "XOM",
                    "source": "yahoo",
                    "check": "not_above(close_usd, high_usd)",
                    "reason": "close_usd above high_usd",
                },
            ],
            "alarms": [
                {
                    "symbol": "RRC",
                    "source": "iex",
                    "kind": "price_spike",
                    "value": -10.6,
                    "limit": 10.0,
                    "severity": "warning",
                    "detail": "close moved by more than the limit",
                },
                {
                    "symbol": "XOM",
                    "source": "core",
                    "kind": "quarantined",
                    "value": None,
                    "limit": None,
                    "severity": "critical",
                    "detail": "unit error <script>alert(1)</script>",
                },
            ],
        },
        "inputs": [
            {"contract": name, "partition": f"session={SESSION}", "sha256": digit * 64}
            for name, digit in (
                ("core_quality__quarantine", "7"),
                ("out_data_validation__daily_integrity_report", "a"),
                ("out_ml_models__daily_predictions", "1"),
                ("out_risk_analysis__market_regime", "f"),
                ("out_risk_analysis__portfolio_risk", "3"),
            )
        ],
        "caveats": [
            "survivorship: not controlled (the universe has no dated membership; its symbols are "
            "known to have survived)",
            "closes are real total-return histories; as-traded levels, corporate actions, open, "
            "high, low and volume are simulated and labelled in simulated_fields",
            "the sources are replicas of one history: agreement here is not evidence",
        ],
    }
