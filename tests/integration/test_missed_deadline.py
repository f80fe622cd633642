"""A late report is told once, by a running platform, to a real receiver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from marketlake.calendars import Calendar
from marketlake.clock import sleep_s, utc_now
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.storage.ledger import LedgerClient

from tests.integration.conftest import Installation, stopped_afterwards, wait_until
from tests.mailbox import Mailbox

pytestmark = [pytest.mark.slow, pytest.mark.platform, pytest.mark.timeout(900)]


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox()
    box.open()
    yield box
    box.close()


def test_a_session_without_a_report_is_told_once_even_if_nobody_was_there_at_first(
    install: Callable[..., Installation], mailbox: Mailbox
) -> None:
    """Without history no report can be made: each of its tasks waits for what is missing."""
    mailbox.answer = 503
    extra = {
        "MARKETLAKE_NOTIFY__URLS": mailbox.url(user="robot:s3cr3t-passw0rd@"),
        "MARKETLAKE_DEADLINES__MINUTES": "1",
    }
    generated = install("late", name="generated", first_session="2024-01-02")
    late = replace(generated, market=(*generated.market, *extra.items()))
    with stopped_afterwards(late):
        late.must("up")
        newest = Calendar.of("XNYS").latest_due(
            utc_now(), late.settings.market.publish_delay_minutes
        )
        ledger = LedgerClient(late.settings.ledger)
        with AirflowApi(late.settings.airflow) as api:
            wait_until(lambda: ledger.entries("notification_failed"), what="a failed delivery")
            mailbox.answer = 200
            [run] = api.runs("check_deadlines")
            assert (run["run_type"], run["partition_key"]) == ("scheduled", newest.isoformat())
            sleep_s(61)  # the wait after a first try
            older = Calendar.of("XNYS").previous(newest).isoformat()
            asked = api.trigger("check_deadlines", partition_key=older)
            wait_until(
                lambda: api.run("check_deadlines", asked)["state"] == "success",
                what="a run by hand, which has no deadline",
            )
            late.must(
                *("airflow", "backfill", "create", "--dag-id", "check_deadlines"),
                *("--from-date", older, "--to-date", older, "--reprocess-behavior", "completed"),
            )
            wait_until(
                lambda: (
                    [
                        run["state"]
                        for run in api.runs("check_deadlines")
                        if run["run_type"] == "backfill"
                    ]
                    == ["success"]
                ),
                what="a backfill, which has no deadline",
            )
        sleep_s(5)
        [body] = mailbox.received
        assert body["title"] == f"{newest}: check_deadlines.require_report: DeadlineMissed"
        assert f"{late.settings.airflow.base_url}/dags/check_deadlines/runs/" in body["message"]
        assert [entry.payload["try"] for entry in ledger.entries("notified")] == [2]
        logs = [path for path in late.home.rglob("*.log") if path.is_file()]
        assert logs
        for path in logs:
            assert "s3cr3t-passw0rd" not in path.read_text(errors="replace")
