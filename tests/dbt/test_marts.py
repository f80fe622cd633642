"""The marts, built in a real Postgres from twenty stocks' real returns, against pandas."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from marketlake.calendars import Calendar
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_MARKET_DAILY_BAR,
    CORE_SIGNALS_SIGNAL,
    OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
)
from marketlake.domain import features
from marketlake.errors import GateFailed
from marketlake.settings import Settings
from marketlake.storage import dbt_project
from marketlake.storage.warehouse import Warehouse

from tests.readme import blocks

LAST = date(2022, 12, 28)
LAST_THREE = Calendar.of("XNYS").window(LAST, 3)
FACTS = (
    "fct_daily_return",
    "fct_symbol_liquidity",
    "fct_symbol_volatility",
    "fct_sector_daily",
    "fct_source_disagreement",
)


@pytest.fixture(scope="module")
def target_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dbt-target")


@pytest.fixture(scope="module")
def first_build(dbt_settings: Settings, loaded: Warehouse, target_dir: Path) -> dict[str, Any]:
    """Return the first build of a fresh warehouse, asked for one session."""
    return dbt_project.build(dbt_settings, select=None, session=LAST, target_dir=target_dir)


@pytest.fixture
def built(first_build: dict[str, Any], loaded: Warehouse) -> Warehouse:
    assert first_build["nodes"]
    return loaded


def frame_of(warehouse: Warehouse, table: str) -> pd.DataFrame:
    return pd.DataFrame(warehouse.query(f"select * from marts.{table}"))  # noqa: S608


def wide(frame: pd.DataFrame, values: str) -> pd.DataFrame:
    """Return session by symbol; two rows for one cell are an error, not an average."""
    pivoted = frame.pivot(index="session", columns="symbol", values=values)  # noqa: PD010
    return pivoted.astype(float).sort_index()


def checksums(warehouse: Warehouse) -> dict[str, str]:
    return {
        table: warehouse.query(
            f"select md5(string_agg(t::text, '|' order by t::text)) as m from marts.{table} t"  # noqa: S608
        )[0]["m"]
        for table in FACTS
    }


def build_session(settings: Settings, session: date, target_dir: Path) -> dict[str, Any]:
    return dbt_project.build(settings, select=None, session=session, target_dir=target_dir)


def test_a_fresh_warehouse_is_built_whole_and_every_node_succeeds(
    first_build: dict[str, Any], loaded: Warehouse
) -> None:
    assert {node["status"] for node in first_build["nodes"]} == {"success", "pass"}
    kinds = {node["id"].split(".", 1)[0] for node in first_build["nodes"]}
    assert {"seed", "model", "test", "unit_test"} <= kinds
    assert first_build["engine"].startswith("dbt 1.11.")
    (row,) = loaded.query("select count(distinct session) as n from marts.fct_daily_return")
    assert row["n"] == 3300


def test_total_return_is_the_return_of_the_real_adjusted_close(
    built: Warehouse, market: Any
) -> None:
    returns = wide(frame_of(built, "fct_daily_return"), "total_return")
    expected = market.adjusted / market.adjusted.shift(1) - 1
    assert returns.iloc[0].isna().all()
    np.testing.assert_allclose(returns[expected.columns], expected, rtol=0, atol=1e-12)
    assert len(market.actions) > 500


def test_liquidity_is_what_pandas_rolls(built: Warehouse, market: Any) -> None:
    table = frame_of(built, "fct_symbol_liquidity")
    assert "^GSPC" not in set(table["symbol"])
    bars = market.bars[market.bars["symbol"] != "^GSPC"]
    dollars = wide(bars.assign(usd=bars["close_usd"] * bars["volume_shares"]), "usd")
    returns = (market.adjusted / market.adjusted.shift(1) - 1)[dollars.columns]
    moves = returns.abs() / (dollars / 1e6)
    mean, illiquidity = (
        values.rolling(20, min_periods=16).mean().where(dollars.notna())
        for values in (dollars, moves)
    )
    for column, expected in (
        ("average_dollar_volume_20d_usd", mean),
        ("dollar_volume_ratio_20d", dollars / mean),
        ("amihud_illiquidity_20d_per_musd", illiquidity),
    ):
        found = wide(table, column)[dollars.columns]
        np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-9)


def test_dbt_and_the_feature_engine_agree_where_they_overlap(built: Warehouse, market: Any) -> None:
    sessions = sorted(market.bars["session"].unique())
    first = sessions[-500]
    bars = pl.from_pandas(market.bars).with_columns(pl.col("session").cast(pl.Date))
    actions = pl.from_pandas(market.actions).with_columns(pl.col("session").cast(pl.Date))
    symbols = sorted(set(market.bars["symbol"]) - {"^GSPC"})
    given = {"bars": bars, "actions": actions, "sessions": sessions, "symbols": symbols}
    computed = features.compute_features(**given, benchmark="^GSPC", first_output=first)
    members = computed.select("session", "symbol")
    factors = features.compute_factors(**given, first_output=first, members=members)
    engine = computed.join(factors, on=["session", "symbol"]).to_pandas()
    engine["session"] = pd.to_datetime(engine["session"]).dt.date
    engine["dollars_20d"] = 10.0 ** engine["log_dollar_volume_20d"]
    volatility = frame_of(built, "fct_symbol_volatility")
    liquidity = frame_of(built, "fct_symbol_liquidity")
    # Factors are float32.
    for mart, column, own, tolerance in (
        (volatility, "total_return", "return_1d", 1e-9),
        (volatility, "volatility_20d", "volatility_20d", 1e-9),
        (volatility, "volatility_60d", "volatility_60d", 1e-9),
        (liquidity, "average_dollar_volume_20d_usd", "dollars_20d", 1e-5),
        (liquidity, "amihud_illiquidity_20d_per_musd", "amihud_illiquidity_20d", 1e-5),
    ):
        by_engine = wide(engine, own)
        by_dbt = wide(mart, column).loc[by_engine.index, by_engine.columns]
        np.testing.assert_allclose(by_dbt, by_engine, rtol=tolerance, atol=1e-12, err_msg=column)
        assert by_engine.notna().to_numpy().mean() > 0.98
    # Enough bars for the one mean, and too few returns for the other: after a halt, in a window
    # with several gaps, and early after a listing.
    short = wide(engine, "dollars_20d").notna() & wide(engine, "amihud_illiquidity_20d").isna()
    assert list(short.columns[short.any()]) == ["AMD", "BBY", "RRC"]


def test_sectors_are_equal_weights_of_their_members(built: Warehouse, market: Any) -> None:
    table = frame_of(built, "fct_sector_daily").set_index(["session", "sector"]).sort_index()
    returns = (market.adjusted / market.adjusted.shift(1) - 1).loc[LAST]
    members = market.members[market.members["session"] == LAST]
    by_sector = members.assign(r=members["symbol"].map(returns)).groupby("sector")["r"]
    last = table.loc[LAST]
    for column, expected in (
        ("mean_return", by_sector.mean()),
        ("median_return", by_sector.median()),
        ("return_dispersion", by_sector.std()),
        ("members", by_sector.size()),
        ("advancers", by_sector.apply(lambda values: (values > 0).sum())),
    ):
        np.testing.assert_allclose(
            last[column].astype(float).to_numpy(), expected.to_numpy(), rtol=1e-9, err_msg=column
        )


def test_a_disagreement_has_the_price_that_is_furthest_off_and_none_without_a_bar(
    built: Warehouse,
) -> None:
    rows = built.query(
        "select source, kind, prices_apart, largest_apart_pct, weight"
        " from marts.fct_source_disagreement where session = %s order by source",
        (LAST,),
    )
    assert [tuple(row.values()) for row in rows] == [
        ("alpha_vantage", "missing_day", 0, None, None),
        ("iex", "wrong_day", 2, 7.5, 0.8),
    ]


def test_simulation_is_told_by_column_not_by_row(built: Warehouse) -> None:
    (row,) = built.query(
        "select (select bool_or(simulated) from marts.fct_daily_return) as returns,"
        " (select bool_and(simulated) from marts.fct_symbol_liquidity) as liquidity,"
        " (select bool_or(return_simulated) from marts.fct_sector_daily) as sector_returns,"
        " (select bool_and(dollar_volume_simulated) from marts.fct_sector_daily) as sector_dollars"
    )
    assert row == {
        "returns": False, "liquidity": True, "sector_returns": False, "sector_dollars": True
    }  # fmt: skip


def test_sessions_built_one_by_one_in_any_order_are_the_whole_build(
    built: Warehouse, dbt_settings: Settings, target_dir: Path
) -> None:
    import psycopg

    whole = checksums(built)
    with psycopg.connect(built.conninfo) as connection:
        for table in FACTS:
            connection.execute(
                f"delete from marts.{table} where session = any(%s)",  # noqa: S608
                (LAST_THREE,),
            )
    assert checksums(built) != whole
    for session in (LAST_THREE[2], LAST_THREE[0], LAST_THREE[1]):
        nodes = build_session(dbt_settings, session, target_dir)["nodes"]
        assert not [node for node in nodes if node["id"].startswith(("seed.", "unit_test."))]
    assert checksums(built) == whole


@pytest.mark.slow
def test_a_bar_that_is_gone_leaves_the_marts_with_its_session(
    built: Warehouse, dbt_settings: Settings, market: Any, target_dir: Path
) -> None:
    whole = checksums(built)
    without = market.bars[~((market.bars["session"] == LAST) & (market.bars["symbol"] == "KO"))]
    built.load(CORE_MARKET_DAILY_BAR, market.table(without, LAST, LAST), sessions=[LAST])
    build_session(dbt_settings, LAST, target_dir)
    count = "select count(*) as n from marts.fct_daily_return where symbol = 'KO' and session = %s"
    assert built.query(count, (LAST,)) == [{"n": 0}]
    assert built.query(count, (LAST_THREE[1],)) == [{"n": 1}]
    built.load(CORE_MARKET_DAILY_BAR, market.table(market.bars, LAST, LAST), sessions=[LAST])
    build_session(dbt_settings, LAST, target_dir)
    assert checksums(built) == whole


@pytest.mark.slow
def test_a_missing_session_makes_no_return_that_spans_it(
    built: Warehouse, dbt_settings: Settings, market: Any, target_dir: Path
) -> None:
    middle = LAST_THREE[1]
    without = market.bars[~((market.bars["session"] == middle) & (market.bars["symbol"] == "XOM"))]
    built.load(CORE_MARKET_DAILY_BAR, market.table(without, middle, middle), sessions=[middle])
    build_session(dbt_settings, LAST, target_dir)
    rows = built.query(
        "select total_return, previous_session from marts.fct_daily_return"
        " where symbol = 'XOM' and session = %s",
        (LAST,),
    )
    assert rows == [{"total_return": None, "previous_session": middle}]
    built.load(CORE_MARKET_DAILY_BAR, market.table(market.bars, middle, middle), sessions=[middle])
    build_session(dbt_settings, LAST, target_dir)


def risk_rows(*, weight_pct: float) -> list[dict[str, Any]]:
    return [
        {
            "session": LAST,
            "scope": "symbol",
            "name": name,
            "measure": "weight_pct",
            "value": weight_pct,
            "n": 500,
            "simulated": False,
        }
        for name in ("AAPL", "MSFT")
    ]


def signal_row(symbol: str) -> dict[str, Any]:
    return {
        "session": LAST,
        "symbol": symbol,
        "score_bps": 12.5,
        "rank": 1,
        "side": "long",
        "probability_up": 0.51,
        "probability_right": 0.53,
        "conformal_set": "both",
        "confidence": 0.52,
        "confidence_low": 0.5,
        "confidence_high": 0.54,
        "confidence_n": 1000,
        "base_rate": 0.51,
        "horizon_sessions": 5,
        "model_name": "linear",
        "model_sha256": "0" * 64,
        "simulated": False,
        "known_at_utc": datetime(2022, 12, 28, 21, 15, tzinfo=UTC),
    }


def load_rows(
    warehouse: Warehouse,
    contract: Contract,
    rows: list[dict[str, Any]],
    session: date = LAST,
) -> None:
    from marketlake.contracts.arrow import schema

    table = pa.Table.from_pylist(rows, schema=schema(contract))
    warehouse.load(contract, table, sessions=[session])


def test_signals_and_risk_are_there_as_soon_as_they_are_loaded(built: Warehouse) -> None:
    load_rows(built, CORE_SIGNALS_SIGNAL, [signal_row("AAPL")])
    load_rows(built, OUT_RISK_ANALYSIS_PORTFOLIO_RISK, risk_rows(weight_pct=50.0))
    (signal,) = built.query("select symbol, sector, score_bps from marts.fct_signal")
    assert signal == {"symbol": "AAPL", "sector": "Information Technology", "score_bps": 12.5}
    assert len(built.query("select * from marts.fct_portfolio_risk")) == 2


def test_the_readme_follows_signals_to_their_horizon_against_the_mean_of_all(
    built: Warehouse, market: Any
) -> None:
    decided, ended = market.adjusted.index[-8], market.adjusted.index[-3]
    scores = {"KO": -40.0, "JPM": 30.0, "AAPL": 12.5, "AMD": 5.0}
    rows = [
        signal_row(symbol) | {"session": decided, "score_bps": score}
        for symbol, score in scores.items()
    ]
    load_rows(built, CORE_SIGNALS_SIGNAL, rows, session=decided)
    try:
        found = built.query(blocks("sql")[0])
    finally:
        load_rows(built, CORE_SIGNALS_SIGNAL, [], session=decided)
    symbols = [row["symbol"] for row in found]
    assert symbols == list(scores)
    # AMD has no bar at one of the sessions.
    known = symbols[:3]
    returns = (market.adjusted.loc[ended] / market.adjusted.loc[decided] - 1)[known]
    expected = 1e4 * (returns - returns.mean())
    assert found[3]["realised_bps"] is None
    assert [float(row["realised_bps"]) for row in found[:3]] == pytest.approx(
        expected.to_list(), abs=0.051
    )
    assert {(row["sessions_so_far"], row["horizon_sessions"]) for row in found} == {(5, 5)}


@pytest.mark.parametrize(
    ("contract", "bad", "good", "test"),
    [
        (
            OUT_RISK_ANALYSIS_PORTFOLIO_RISK,
            risk_rows(weight_pct=49.0),
            risk_rows(weight_pct=50.0),
            "assert_book_weights_sum_to_100",
        ),
        (CORE_SIGNALS_SIGNAL, [signal_row("NONE")], [signal_row("AAPL")], "no_nulls_fct_signal"),
    ],
    ids=["book that does not add up", "signal of a symbol outside the universe"],
)
def test_a_relation_that_does_not_hold_fails_the_gate_by_name(
    built: Warehouse,
    dbt_settings: Settings,
    target_dir: Path,
    contract: Contract,
    bad: list[dict[str, Any]],
    good: list[dict[str, Any]],
    test: str,
) -> None:
    load_rows(built, contract, bad)
    try:
        with pytest.raises(GateFailed, match=test) as raised:
            build_session(dbt_settings, LAST, target_dir)
        assert str(target_dir / "logs") in raised.value.where
        assert list((target_dir / "compiled").rglob(f"{test}*.sql"))
    finally:
        load_rows(built, contract, good)


@pytest.mark.slow
def test_other_sql_than_the_tables_were_made_by_rebuilds_everything(
    built: Warehouse, dbt_settings: Settings, target_dir: Path
) -> None:
    import psycopg

    with psycopg.connect(built.conninfo) as connection:
        connection.execute("comment on schema marts is 'another project'")
        connection.execute("update marts.fct_daily_return set total_return = 0")
    nodes = build_session(dbt_settings, LAST, target_dir)["nodes"]
    assert [node for node in nodes if node["id"].startswith("unit_test.")]
    (row,) = built.query("select count(*) as n from marts.fct_daily_return where total_return <> 0")
    assert row["n"] > 60_000


def test_the_password_is_in_no_file_that_dbt_wrote_and_the_environment_is_as_before(
    first_build: dict[str, Any], dbt_settings: Settings, target_dir: Path
) -> None:
    assert first_build["nodes"]
    password = dbt_settings.postgres.password.get_secret_value()
    assert len(password) >= 8
    files = [path for path in target_dir.rglob("*") if path.is_file()]
    files += [path for path in dbt_settings.home.rglob("*") if path.is_file()]
    assert {"manifest.json", "run_results.json", "dbt.log"} <= {path.name for path in files}
    assert [path for path in files if password.encode() in path.read_bytes()] == []
    assert "DBT_ENV_SECRET_POSTGRES_PASSWORD" not in os.environ
