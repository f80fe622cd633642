"""What the fixed models find in the real closes of 2011-2022: nothing, and they say so.

Figures of the walk-forward, kept as a record. If they move, something that matters has changed:
the prices, a feature, a label, a split or a model.
"""

from __future__ import annotations

import time
from datetime import date

import polars as pl
import pytest
from marketlake.domain import features, forecasting

from tests.acceptance import walk_forward
from tests.domain.market import BENCHMARK, real_market


@pytest.mark.slow
def test_five_session_returns_of_twenty_large_stocks_are_not_foretold() -> None:
    document = walk_forward.train(walk_forward.packaged(), "quick").document
    assert document["fit_window"]["rows"] == 59_880
    assert document["fit_window"]["last_label_end"] == walk_forward.AS_OF.isoformat()
    figures = {name: item["rank_ic"] for name, item in document["validation"]["metrics"].items()}
    assert figures["linear"]["value"] == pytest.approx(-0.0009, abs=2e-3)
    assert figures["lightgbm"]["value"] == pytest.approx(-0.0128, abs=4e-3)
    assert all(figure["low"] < 0 < figure["high"] for figure in figures.values())
    assert document["report"]["null_panel"]["clean"]
    promoted = forecasting.promotion_row(
        document, model_sha256="x", calendar_next=date(2022, 12, 1)
    )
    assert promoted["passed_gate"] is False


def test_the_features_of_twelve_years_take_less_than_a_few_seconds_of_one_core() -> None:
    market = real_market()
    started = time.process_time()
    frame = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=date(2010, 1, 4),
    )
    assert time.process_time() - started < 6
    assert frame.height == 3270 * 20
    assert frame.select(pl.all_horizontal(pl.all().is_not_null())).to_series().all()
