from __future__ import annotations

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from marketlake.errors import ConfigError
from marketlake.services.sandbox.folder import folder_spans, folder_world

BARS = pl.DataFrame(
    {
        "symbol": ["X", "X", "X"],
        "date": [date(2020, 1, 2), date(2020, 1, 3), date(2020, 1, 6)],
        "open": [100, 104, 53],
        "high": [101, 105, 54],
        "low": [99, 103, 52],
        "close": [100.0, 104.0, 53.0],
        "volume": [10, 10, 20],
    }
)


def test_actions_in_the_file_make_closes_as_traded(tmp_path: Path) -> None:
    BARS.with_columns(
        split=pl.Series([1.0, 1.0, 2.0]), dividend=pl.Series([None, 5.0, None])
    ).write_parquet(tmp_path / "bars.parquet")
    world = folder_world(tmp_path)
    early, late = world.view("X", date(2020, 1, 3)), world.view("X", date(2020, 1, 6))
    assert early is not None
    assert late is not None
    assert early.close_usd.tolist() == [100.0, 104.0]
    assert late.close_usd.tolist() == [50.0, 52.0, 53.0]
    assert late.adj_close_usd == pytest.approx([47.5, 52.0, 53.0])
    assert late.simulated == ()


def test_an_adjusted_close_knows_no_more_than_its_session(tmp_path: Path) -> None:
    BARS.with_columns(adj_close=pl.Series([40.0, 50.0, 53.0])).write_parquet(tmp_path / "a.parquet")
    world = folder_world(tmp_path)
    early = world.view("X", date(2020, 1, 3))
    assert early is not None
    assert early.adj_close_usd == pytest.approx([104.0 * 40.0 / 50.0, 104.0])
    assert (world.first_session, world.last_session) == (date(2020, 1, 2), date(2020, 1, 6))


def test_a_history_of_another_vendor_is_replayed(tmp_path: Path, shared_data: Path) -> None:
    source = pl.read_parquet(shared_data / "us_daily_sp500_4vendor_dev" / "yahoo.parquet")
    renamed = source.rename({"adj close": "adj_close"})
    renamed.write_parquet(tmp_path / "yahoo.parquet")
    world = folder_world(tmp_path)
    known = date(2016, 6, 30)
    for symbol in world.symbols[:10]:
        view = world.view(symbol, known)
        assert view is not None
        days = pl.col("date").cast(pl.String).str.slice(0, 10).str.to_date()
        rows = renamed.filter(pl.col("symbol") == symbol, days <= known).sort(days)
        assert view.close_usd.tolist() == rows["close"].to_list()


def test_each_symbol_has_its_own_span(tmp_path: Path) -> None:
    BARS.write_parquet(tmp_path / "a.parquet")
    later = BARS.filter(pl.col("date") > date(2020, 1, 2))
    later.with_columns(symbol=pl.lit("Y"), date=pl.col("date").cast(pl.String)).write_parquet(
        tmp_path / "b.parquet"
    )
    assert folder_spans(tmp_path) == {
        "X": (date(2020, 1, 2), date(2020, 1, 6)),
        "Y": (date(2020, 1, 3), date(2020, 1, 6)),
    }


def test_a_folder_without_bars_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"at least one \.parquet"):
        folder_world(tmp_path)
    BARS.drop("high").write_parquet(tmp_path / "bars.parquet")
    with pytest.raises(ConfigError, match="no high"):
        folder_world(tmp_path)
