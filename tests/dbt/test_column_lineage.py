"""What a real build says of its models: every column of every mart, back to contracts' tables."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from marketlake.contracts.catalog import CATALOG
from marketlake.orchestration.lineage_events import task_event
from marketlake.pipelines import build_warehouse
from marketlake.pipelines.context import no_rows, open_context
from marketlake.settings import PROJECT_ROOT, Settings
from marketlake.storage import dbt_project
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import Partition, RunIdentity

SESSION = date(2022, 12, 28)
RUN = RunIdentity("build_warehouse", "manual__1", "publish")
MARTS = {path.stem: path for path in (PROJECT_ROOT / "dbt" / "models" / "marts").glob("*.yml")}
# Counted or generated: from no column, but from rows.
GENERATED = {
    "dim_session.session",
    "dim_session.session_no",
    "dim_session.previous_session",
    "dim_session.next_session",
    "fct_daily_return.previous_session",
    "fct_sector_daily.members",
}

CLOSE = ("core.market__daily_bar", "close_usd")
VOLUME = ("core.market__daily_bar", "volume_shares")
SIMULATED = ("core.market__daily_bar", "simulated_fields")
SPLIT = ("core.market__corporate_action", "split_ratio")
DIVIDEND = ("core.market__corporate_action", "dividend_usd")
Use = tuple[tuple[str, str], str]
GOLDEN: dict[str, set[Use]] = {
    "fct_daily_return.close_usd": {(CLOSE, "IDENTITY")},
    "fct_daily_return.previous_close_usd": {(CLOSE, "IDENTITY")},
    "fct_daily_return.dividend_usd": {(DIVIDEND, "AGGREGATION")},
    "fct_daily_return.total_return": {
        (CLOSE, "TRANSFORMATION"),
        (SPLIT, "AGGREGATION"),
        (DIVIDEND, "AGGREGATION"),
    },
    "fct_daily_return.simulated": {(SIMULATED, "TRANSFORMATION")},
    "fct_symbol_liquidity.dollar_volume_usd": {
        (CLOSE, "TRANSFORMATION"),
        (VOLUME, "TRANSFORMATION"),
    },
    "fct_symbol_liquidity.simulated": {
        (SIMULATED, "AGGREGATION"),
        (("core.market__daily_bar", "symbol"), "WINDOW"),
    },
    "fct_sector_daily.advancers": {
        (CLOSE, "FILTER"),
        (SPLIT, "FILTER"),
        (DIVIDEND, "FILTER"),
    },
    "fct_sector_daily.median_return": {
        (CLOSE, "AGGREGATION"),
        (SPLIT, "AGGREGATION"),
        (DIVIDEND, "AGGREGATION"),
    },
    "dim_instrument.sector": {
        (("core.reference__universe_member", "sector"), "TRANSFORMATION"),
        (("reference.sector", "sector"), "TRANSFORMATION"),
    },
    "fct_signal.sector": {(("core.reference__universe_member", "sector"), "IDENTITY")},
    "fct_signal.score_bps": {(("core.signals__signal", "score_bps"), "IDENTITY")},
    "fct_portfolio_risk.value": {(("out.risk_analysis__portfolio_risk", "value"), "IDENTITY")},
    "fct_source_disagreement.prices_apart": {
        (("core.quality__disagreement", "fields"), "TRANSFORMATION")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def own(dbt_settings: Settings, lake: Lake) -> Settings:
    """Return settings with a warehouse and a lake of this module's own."""
    bucket = dbt_settings.lake.model_copy(update={"bucket": lake.bucket})
    return dbt_settings.model_copy(update={"lake": bucket})


@pytest.fixture(scope="module")
def events(own: Settings, ledger: LedgerClient) -> list[dict[str, Any]]:
    """Return what a build of everything tells, and what a build of one session does after it."""
    told = []
    with open_context(own, RUN) as ctx:
        for contract in build_warehouse.LOADED:
            ctx.publish(
                contract,
                Partition.of_session(SESSION),
                no_rows(contract),
                sessions=[SESSION],
                parents=[],
            )
    for _ in range(2):
        with open_context(own, RUN) as ctx:
            build_warehouse.publish(ctx, SESSION, loaded={})
            told.append(task_event(ctx, "COMPLETE", session=SESSION, at=datetime.now(UTC)))
    return told


@pytest.fixture(scope="module")
def models(events: list[dict[str, Any]], own: Settings) -> dict[str, dbt_project.Model]:
    """Return what was kept of the models: nothing is compiled again."""
    assert events
    kept = dbt_project.models(own, target_dir=Path("/nowhere"))
    return {model.relation: model for model in kept.values()}


def test_every_column_of_every_mart_comes_from_a_contracts_table_or_a_seed(
    models: dict[str, dbt_project.Model],
) -> None:
    sources = {
        f"{item.layer}.{item.table}": {field.name for field in item.fields}
        for item in CATALOG
        if item.warehouse
    }
    sources |= {"reference.sector": {"symbol", "name", "sector"}}
    sources |= {"reference.exchange_holiday": {"day"}}
    from_nothing = set()
    for mart, path in MARTS.items():
        (described,) = yaml.safe_load(path.read_text(encoding="utf-8"))["models"]
        lineage = models[f"marts.{mart}"].lineage
        assert list(lineage.columns) == [column["name"] for column in described["columns"]]
        from_nothing |= {f"{mart}.{name}" for name, used in lineage.columns.items() if not used}
        for used in (*lineage.columns.values(), lineage.rows):
            assert {
                item.column for item in used if item.column not in sources[item.dataset]
            } == set()
        assert lineage.rows or all(lineage.columns.values())
    assert from_nothing == GENERATED


@pytest.mark.parametrize("column", GOLDEN)
def test_a_column_comes_from_what_its_sql_says(
    models: dict[str, dbt_project.Model], column: str
) -> None:
    mart, _, name = column.partition(".")
    used = models[f"marts.{mart}"].lineage.columns[name]
    assert {((item.dataset, item.column), item.subtype) for item in used} == GOLDEN[column]


def test_rows_of_a_mart_depend_on_its_joins_and_the_calendar(
    models: dict[str, dbt_project.Model],
) -> None:
    rows = models["marts.fct_daily_return"].lineage.rows
    assert {(item.dataset, item.column, item.subtype) for item in rows} == {
        ("core.market__daily_bar", "session", "JOIN"),
        ("core.market__daily_bar", "symbol", "JOIN"),
        ("core.market__corporate_action", "session", "GROUP_BY"),
        ("core.market__corporate_action", "session", "JOIN"),
        ("core.market__corporate_action", "symbol", "GROUP_BY"),
        ("core.market__corporate_action", "symbol", "JOIN"),
        ("reference.exchange_holiday", "day", "FILTER"),
        ("reference.exchange_holiday", "day", "JOIN"),
    }


def test_a_build_tells_of_the_models_it_built_and_of_the_tables_they_come_from(
    events: list[dict[str, Any]], own: Settings
) -> None:
    whole, one_session = ({item["name"]: item for item in event["outputs"]} for event in events)
    database = own.postgres.warehouse_db
    marts = {f"{database}.marts.{mart}" for mart in MARTS}
    assert marts < whole.keys()
    # The calendar does not change with a session.
    assert one_session.keys() == marts - {f"{database}.marts.dim_session"} | {
        "core_warehouse__build"
    }
    for event in events:
        inputs = {(item["namespace"], item["name"]) for item in event["inputs"]}
        for dataset in event["outputs"]:
            lineage = dataset["facets"].get("columnLineage", {"fields": {}, "dataset": []})
            named = [item for one in lineage["fields"].values() for item in one["inputFields"]]
            named += lineage["dataset"]
            assert {(item["namespace"], item["name"]) for item in named} <= inputs
    schema = one_session[f"{database}.marts.fct_daily_return"]["facets"]["schema"]["fields"]
    assert {
        "name": "total_return",
        "type": "double precision",
        "description": "simple total return, null without a bar at the session before",
    } in schema


def test_what_is_kept_costs_a_build_little(models: dict[str, Any], own: Settings) -> None:
    started = time.process_time()
    assert len(dbt_project.models(own, target_dir=Path("/nowhere"))) == len(models)
    assert time.process_time() - started < 0.3
