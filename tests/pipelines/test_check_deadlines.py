"""Whether a report is there, and what is missing first where it is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date

import pytest
from marketlake.clock import utc_now
from marketlake.contracts.catalog import CORE_WAREHOUSE_BUILD, OUT_REPORTS_DAILY
from marketlake.errors import DeadlineMissed
from marketlake.pipelines import check_deadlines
from marketlake.pipelines.context import RunContext, open_context
from marketlake.settings import Settings
from marketlake.types import Partition, RunIdentity

HALF_DAY = date(2022, 11, 25)


def publish(ctx: RunContext, contract) -> None:
    ctx.lake.write(
        contract,
        Partition.of_session(HALF_DAY),
        {item.name: None for item in contract.fields},
        sessions=[HALF_DAY],
        parents=[],
        run=ctx.run,
        code_version="test",
        recorded_at=utc_now(),
        export=None if contract.export is None else b"page",
    )


def test_a_missing_report_is_told_with_the_first_step_that_is_missing_until_it_is_there(
    make_line: Callable[..., Settings],
) -> None:
    run = RunIdentity("check_deadlines", "once", "require_report")
    with open_context(make_line(), run) as ctx:
        with pytest.raises(DeadlineMissed, match="2022-11-25 19:30 UTC") as missed:
            check_deadlines.require_report(ctx, HALF_DAY, held=True)
        assert missed.value.where == "ingest_market_data"

        publish(ctx, CORE_WAREHOUSE_BUILD)
        with pytest.raises(DeadlineMissed) as missed:
            check_deadlines.require_report(ctx, HALF_DAY, held=True)
        # A step that was skipped counts as missing, whatever came after it.
        assert missed.value.where == "ingest_market_data"

        publish(ctx, OUT_REPORTS_DAILY)
        assert check_deadlines.require_report(ctx, HALF_DAY, held=True) is True
        assert check_deadlines.require_report(ctx, date(2022, 11, 23), held=False) is False
