"""The Celery executor: two workers carry a session to the same bytes as the scheduler's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date

import pytest
from marketlake.cli.runs import plan_run

from tests.integration.conftest import ContentHashes, Installation, stopped_afterwards

pytestmark = [pytest.mark.slow, pytest.mark.platform, pytest.mark.timeout(1500)]

WORKERS = ("worker-1", "worker-2")


def tasks_of(one: Installation, worker: str) -> int:
    """Return how many tasks a worker says it has carried out."""
    log = (one.home / "logs" / f"{worker}.log").read_text(errors="replace")
    return log.count("succeeded in")


def test_two_celery_workers_carry_a_session_to_the_same_bytes(
    ran: Installation, first_hashes: ContentHashes, install: Callable[..., Installation]
) -> None:
    plan = plan_run(ran.settings)
    session = plan.sessions[0]
    made = install("celery", first_session="2019-01-02")
    celery = Installation(made.home, (*made.market, ("MARKETLAKE_AIRFLOW__EXECUTOR", "celery")))
    with stopped_afterwards(celery):
        celery.must("up")
        status = json.loads(celery.must("status", "--json"))
        assert status["ready"]
        assert {*WORKERS, "valkey"} < {one["name"] for one in status["components"]}
        celery.must("load-history", "--through", str(plan.history_through))
        celery.must("train", "--as-of", str(plan.train_as_of))
        celery.must("backfill", "--from", str(session), "--to", str(session))
        assert all(tasks_of(celery, worker) >= 5 for worker in WORKERS)
        assert_same(celery.hashes([session]), first_hashes, session)


def assert_same(found: ContentHashes, expected: ContentHashes, session: date) -> None:
    wanted = {key: sha256 for key, sha256 in expected.items() if key[1] == f"session={session}"}
    assert len(wanted) > 15
    assert found == wanted
