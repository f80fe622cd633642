"""Backfills beyond the main job: other sessions, reprocessing, another folder, a live market."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime

import pytest
from marketlake.calendars import Calendar
from marketlake.cli.runs import plan_run
from marketlake.clock import sleep_s, utc_now
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.storage.lake import Lake

from tests.integration.conftest import (
    SESSIONS,
    ContentHashes,
    Installation,
    stopped_afterwards,
    wait_until,
)

pytestmark = [pytest.mark.slow, pytest.mark.platform, pytest.mark.timeout(1500)]

HALF_DAY = date(2022, 11, 25)
SPRING, AUTUMN = date(2022, 3, 14), date(2022, 11, 7)  # first sessions of each clock change


def test_ten_more_sessions_run_the_whole_chain_across_a_holiday_a_half_day_and_both_clock_changes(
    ran: Installation, first_hashes: ContentHashes, api: AirflowApi
) -> None:
    ran.must("train", "--as-of", "2022-02-14")
    ranges = [
        ("2022-03-10", "2022-03-15"),
        ("2022-11-04", "2022-11-07"),
        ("2022-11-22", "2022-11-28"),
    ]
    for first, last in ranges:
        ran.must("backfill", "--from", first, "--to", last)
    calendar = Calendar.of("XNYS")
    sessions = [
        session
        for first, last in ranges
        for session in calendar.sessions(date.fromisoformat(first), date.fromisoformat(last))
    ]
    assert len(sessions) == 10
    roots = {
        run["partition_key"]: datetime.fromisoformat(run["run_after"])
        for run in api.runs("ingest_market_data")
        if run["run_type"] == "backfill"
    }
    assert set(roots) == {str(session) for session in [*sessions, *SESSIONS]}
    assert "2022-11-24" not in roots  # Thanksgiving
    assert roots[str(HALF_DAY)].strftime("%H:%M") == "18:30"
    assert roots["2022-03-11"].strftime("%H:%M") == "21:30"
    assert roots[str(SPRING)].strftime("%H:%M") == "20:30"
    assert roots["2022-11-04"].strftime("%H:%M") == "20:30"
    assert roots[str(AUTUMN)].strftime("%H:%M") == "21:30"
    assert all(ran.progress(api, session).is_complete for session in sessions)
    reports = {key for name, key in ran.hashes(sessions) if name == "out_reports__daily"}
    assert reports == {f"session={session}" for session in sessions}


def test_backfilled_sessions_inside_the_history_leave_later_sessions_current(
    ran: Installation, first_hashes: ContentHashes
) -> None:
    """A session object goes before its year; the same prices must not make a later day stale."""
    printed = ran.must("backfill", "--from", "2022-12-21", "--to", "2022-12-28", "--stale")
    assert "nothing is stale" in printed


def test_live_mode_runs_its_newest_closed_session_once_and_the_whole_chain(
    install: Callable[..., Installation], live_vendors: dict[str, str]
) -> None:
    """Live mode knows nothing of a sandbox: here only its way out, the egress, leads to one."""
    with stopped_afterwards(install("live", live_vendors, first_session="2019-01-02")) as live:
        live.must("up")
        assert "sandbox" not in {path.stem for path in (live.home / "run").glob("*.json")}
        calendar = Calendar.of("XNYS")
        with AirflowApi(live.settings.airflow) as api:
            wait_until(lambda: api.runs("ingest_market_data"), what="a scheduled run", within_s=90)
            delay_minutes = live.settings.market.publish_delay_minutes
            newest = calendar.latest_due(utc_now(), delay_minutes)
            sleep_s(30)  # time enough for a second run, if the scheduler wanted one
            runs = api.runs("ingest_market_data")
            assert [(run["run_type"], run["partition_key"]) for run in runs] == [
                ("scheduled", newest.isoformat())
            ]

        live.must("run")
        plan = plan_run(live.settings)
        with AirflowApi(live.settings.airflow) as api:
            assert live.progress(api, newest).is_complete
            keys = [run["partition_key"] for run in api.runs("ingest_market_data")]
        assert sorted(keys) == [session.isoformat() for session in plan.sessions]
        bars = Lake(live.settings.lake).read(CORE_MARKET_DAILY_BAR, [newest], as_of=newest)
        assert bars.num_rows == 21  # twenty members and the index


def test_missed_sessions_are_seen_and_filled_and_a_republished_one_redoes_what_was_made_from_it(
    ran: Installation, first_hashes: ContentHashes, api: AirflowApi
) -> None:
    """The platform was off for three sessions; later a vendor corrects a price of the second."""
    missed = [date(2022, 12, day) for day in (16, 19, 20)]
    span = ("--from", str(missed[0]), "--to", str(SESSIONS[-1]))
    days = [str(session) for session in missed]
    # Due are the sessions after the first that ever ran.
    ran.must("backfill", "--from", "2022-12-15", "--to", "2022-12-15")
    told = json.loads(ran.must("status", "--json"))["sessions"]
    assert [day for day in told["missing"] if day >= days[0]] == days

    assert "3 of 8 sessions are missing" in ran.must("backfill", *span, "--missing")
    assert all(ran.progress(api, session).is_complete for session in missed)
    told = json.loads(ran.must("status", "--json"))["sessions"]
    assert not set(days) & set(told["missing"])

    corrected, before = missed[1], ran.hashes()
    runs_before = {run["dag_run_id"] for run in api.runs("report_daily")}
    vendors = RunningSandbox.of(ran.settings)
    rule = {
        "kind": "outlier",
        "namespace": str(corrected),
        "symbol": "KO",
        "args": {"sessions": [str(corrected)], "factor": 1.01},
    }
    vendors.control("POST", "/__ctl/faults", rule)
    again = ("--from", str(corrected), "--to", str(corrected), "--reprocess", "completed")
    ran.must("backfill", *again)
    dependents = [*missed[2:], *SESSIONS]
    told = json.loads(ran.must("status", "--json"))["sessions"]
    assert told["stale"] == [str(session) for session in dependents]

    ran.must("backfill", *span, "--stale")
    redone = [run for run in api.runs("report_daily") if run["dag_run_id"] not in runs_before]
    assert {run["partition_key"] for run in redone} == {
        str(session) for session in (corrected, *dependents)
    }
    after = ran.hashes()
    changed = {key for name, key in before if before[name, key] != after[name, key]}
    # A session on which the stock has no bar is redone, and stays as it was.
    assert f"session={corrected}" in changed
    assert changed <= {f"session={session}" for session in (corrected, *dependents)}

    # The vendor takes the correction back: so does everything made from it.
    vendors.control("POST", "/__ctl/reset", {"namespace": str(corrected)})
    ran.must("backfill", *again)
    ran.must("backfill", *span, "--stale")
    assert ran.hashes() == before
