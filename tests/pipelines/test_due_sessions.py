"""A session that is not over yet is refused where a run begins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from marketlake.clock import utc_now
from marketlake.errors import ConfigError
from marketlake.pipelines import ingest_market_data, load_history
from marketlake.pipelines.context import open_context
from marketlake.settings import Settings
from marketlake.types import RunIdentity


@pytest.mark.parametrize("first_step", [ingest_market_data.plan, load_history.plan_years])
def test_the_first_step_refuses_a_session_that_is_not_due(
    make_line: Callable[..., Settings], first_step: Callable[..., Any]
) -> None:
    settings = make_line(name="generated")
    with open_context(settings, RunIdentity("due", "once", "plan")) as ctx:
        delay = settings.market.publish_delay_minutes
        newest = ctx.calendar.latest_due(utc_now(), delay)
        assert first_step(ctx, newest)
        # Two ahead: the next may become due while this runs.
        with pytest.raises(ConfigError, match="a session that is over"):
            first_step(ctx, ctx.calendar.next(newest, 2))
