"""Column lineage read off SQL: every way in which a column can depend on another, by hand."""

from __future__ import annotations

import pytest
from marketlake.contracts.lineage import InputColumn
from marketlake.errors import ConfigError
from marketlake.storage.column_lineage import lineage_of_models

SOURCES = {"core.bar": ["session", "symbol", "close", "volume"], "core.action": ["symbol", "ratio"]}


def of(sql: str, **models: str) -> dict[str, set[str]]:
    """Return the inputs of each column of a model, and of its rows, as ``source.column USE``."""
    chain = {**{f"staging.{name}": text for name, text in models.items()}, "marts.m": sql}
    lineage = lineage_of_models(chain, SOURCES)["marts.m"]
    columns = {name: told(inputs) for name, inputs in lineage.columns.items()}
    return {**columns, "*": told(lineage.rows)}


def told(inputs: tuple[InputColumn, ...]) -> set[str]:
    return {f"{item.dataset.partition('.')[2]}.{item.column} {item.subtype}" for item in inputs}


@pytest.mark.parametrize(
    ("expression", "inputs"),
    [
        ("close", {"bar.close IDENTITY"}),
        ("(close)", {"bar.close IDENTITY"}),
        ("1", set()),
        ("count(*) over ()", set()),
        ("close * volume", {"bar.close TRANSFORMATION", "bar.volume TRANSFORMATION"}),
        ("close::text", {"bar.close TRANSFORMATION"}),
        ("coalesce(close, 0)", {"bar.close TRANSFORMATION"}),
        (
            "case when volume > 0 then close end",
            {"bar.volume CONDITIONAL", "bar.close TRANSFORMATION"},
        ),
        (
            "case symbol when 'A' then close else volume end",
            {"bar.symbol CONDITIONAL", "bar.close TRANSFORMATION", "bar.volume TRANSFORMATION"},
        ),
        (
            "sum(close) over (partition by symbol order by session)",
            {"bar.close AGGREGATION", "bar.symbol WINDOW", "bar.session WINDOW"},
        ),
        (
            "avg(abs(close)) over w",
            {"bar.close AGGREGATION", "bar.symbol WINDOW", "bar.volume WINDOW"},
        ),
        (
            "lag(close) over (order by session)",
            {"bar.close TRANSFORMATION", "bar.session WINDOW"},
        ),
        ("(select max(ratio) from core.action)", {"action.ratio AGGREGATION"}),
    ],
)
def test_an_expression_uses_its_columns(expression: str, inputs: set[str]) -> None:
    sql = (
        f"select {expression} as x from core.bar window w as (partition by symbol order by volume)"  # noqa: S608
    )
    assert of(sql) == {"x": inputs, "*": set()}


@pytest.mark.parametrize(
    ("expression", "inputs"),
    [
        ("max(close)", {"bar.close AGGREGATION"}),
        ("sum(close order by symbol)", {"bar.close AGGREGATION", "bar.symbol SORT"}),
        ("count(*) filter (where volume > 0)", {"bar.volume FILTER"}),
        ("percentile_cont(0.5) within group (order by close)", {"bar.close AGGREGATION"}),
    ],
)
def test_an_aggregate_uses_its_columns_and_the_groups_decide_the_rows(
    expression: str, inputs: set[str]
) -> None:
    sql = f"select {expression} as x from core.bar group by session having count(*) > min(volume)"  # noqa: S608
    assert of(sql) == {"x": inputs, "*": {"bar.session GROUP_BY", "bar.volume FILTER"}}


def test_stars_and_steps_are_followed_to_the_source_and_keep_the_strongest_use() -> None:
    assert of(
        """
        with bars as (select * from staging.bar),
        doubled as (select symbol, close * 2 as twice, x from bars),
        final as (select symbol, sum(twice) as total, max(x) as x from doubled group by symbol)
        select * from final
        """,
        bar="select *, case when volume > 1 then 1 end as x from core.bar",
    ) == {
        "symbol": {"bar.symbol IDENTITY"},
        "total": {"bar.close AGGREGATION"},
        "x": {"bar.volume CONDITIONAL"},
        "*": {"bar.symbol GROUP_BY"},
    }


def test_a_join_tells_its_sides_apart_and_decides_the_rows() -> None:
    assert of(
        """
        select bar.close, before.close as previous_close, coalesce(action.ratio, 1) as ratio
        from core.bar
        left join core.bar as before on bar.session = before.session
        left join core.action using (symbol)
        where bar.volume > 0
        """
    ) == {
        "close": {"bar.close IDENTITY"},
        "previous_close": {"bar.close IDENTITY"},
        "ratio": {"action.ratio TRANSFORMATION"},
        "*": {"bar.session JOIN", "bar.symbol JOIN", "action.symbol JOIN", "bar.volume FILTER"},
    }


def test_a_union_takes_columns_by_position_from_every_side() -> None:
    assert of(
        "select symbol as s from core.bar union select symbol from core.action"
        " union select close::text from core.bar where volume > 0"
    ) == {
        "s": {"bar.symbol IDENTITY", "action.symbol IDENTITY", "bar.close TRANSFORMATION"},
        "*": {"bar.volume FILTER"},
    }


def test_the_first_row_of_a_group_depends_on_the_order() -> None:
    assert of(
        "select distinct on (symbol) symbol, close from core.bar order by symbol, session desc"
    ) == {
        "symbol": {"bar.symbol IDENTITY"},
        "close": {"bar.close IDENTITY"},
        "*": {"bar.symbol GROUP_BY", "bar.symbol SORT", "bar.session SORT"},
    }


def test_rows_of_a_function_come_from_no_table() -> None:
    assert of(
        "select day::date as day from generate_series(1, 9) as day"
        " left join core.bar on day = close"
    ) == {"day": set(), "*": {"bar.close JOIN"}}


def test_a_condition_on_a_subquery_counts_for_the_rows() -> None:
    assert of(
        "select close from core.bar"
        " where symbol in (select symbol from core.action where ratio > 1)"
    )["*"] == {"bar.symbol FILTER", "action.symbol FILTER", "action.ratio FILTER"}


@pytest.mark.parametrize(
    "sql",
    [
        "select nothing from core.bar",
        "select close from core.nothing",
        "select close from",
        "drop table core.bar",
    ],
)
def test_sql_that_cannot_be_followed_is_refused_by_name(sql: str) -> None:
    with pytest.raises(ConfigError, match=r"marts\.m"):
        of(sql)
