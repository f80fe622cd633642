"""A scheduler that starts nothing is found out, whatever the API says about its health."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.checkup import Finding, examine
from marketlake.services.platform.stack import Platform

pytestmark = [pytest.mark.slow, pytest.mark.platform, pytest.mark.timeout(600)]


def scheduler(platform: Platform) -> psutil.Process:
    pid = platform.components["scheduler"].process.pid
    assert pid is not None
    return psutil.Process(pid)


def workers(platform: Platform) -> list[psutil.Process]:
    found = [
        child
        for child in scheduler(platform).children()
        if "LocalExecutor" in " ".join(child.cmdline())
    ]
    assert found
    return found


@contextmanager
def stopped(processes: list[psutil.Process]) -> Iterator[None]:
    for process in processes:
        os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            os.kill(process.pid, signal.SIGCONT)


def scheduling(platform: Platform) -> Finding:
    (found,) = [one for one in examine(platform.settings.home) if one.subject == "scheduling"]
    return found


def wait_for(platform: Platform, verdict: str, *, within_s: float) -> Finding:
    deadline = monotonic_s() + within_s
    while (found := scheduling(platform)).verdict != verdict:
        assert monotonic_s() < deadline, found
        sleep_s(2.0)
    return found


@pytest.mark.parametrize(
    "hanging",
    [lambda platform: [scheduler(platform)], workers],
    ids=["the scheduler's own loop", "the executor's workers"],
)
def test_a_scheduler_that_starts_nothing_is_found_out_although_the_api_answers(
    platform: Platform, hanging: Callable[[Platform], list[psutil.Process]]
) -> None:
    wait_for(platform, "fine", within_s=90)
    with AirflowApi(platform.settings.airflow) as api:
        with stopped(hanging(platform)):
            run_id = api.trigger("ingest_market_data")  # without a key: it fails at once
            assert scheduling(platform).verdict == "fine"  # it may take a moment
            found = wait_for(platform, "wrong", within_s=90)
            assert run_id in found.found
            assert api.health()["metadatabase"]["status"] == "healthy"
            if hanging is workers:
                assert api.health()["scheduler"]["status"] == "healthy"
        wait_for(platform, "fine", within_s=90)
        deadline = monotonic_s() + 90
        while api.run("ingest_market_data", run_id)["state"] != "failed":
            assert monotonic_s() < deadline
            sleep_s(1.0)
