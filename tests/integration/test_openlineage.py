"""The events of a whole run, held against the ledger, which is the record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.types import RunIdentity

from tests.integration.conftest import Installation

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

Artifact = tuple[str, str, str]


def artifacts(event: dict[str, Any], side: str) -> Iterator[Artifact]:
    """Yield what an event names, staged parts and warehouse tables aside, with content hashes."""
    for dataset in event[f"{side}s"]:
        if dataset["namespace"].startswith("s3://") and not dataset["name"].startswith("_staging/"):
            subset = dataset[f"{side}Facets"]["subset"][f"{side}Condition"]
            for part in subset["partitions"]:
                ((kind, label),) = part["dimensions"].items()
                yield dataset["name"], f"{kind}={label}", part["identifier"]


def test_openlineage_heard_of_every_task_and_of_all_that_the_ledger_knows_as_published(
    ran: Installation,
) -> None:
    ledger, lake = LedgerClient(ran.settings.ledger), Lake(ran.settings.lake)
    finished = {
        RunIdentity(**entry.run).key for entry in ledger.entries("task_finished", limit=100_000)
    }
    published: dict[str, set[Artifact]] = {key: set() for key in finished}
    for entry in ledger.entries("published", limit=100_000):
        payload = entry.payload
        published.setdefault(RunIdentity(**entry.run).key, set()).add(
            (payload["contract"], payload["partition"], payload["sha256"])
        )
    known = set().union(*published.values())

    told: dict[str, dict[str, dict[str, Any]]] = {}
    for key in lake.list_keys("lineage/"):
        event = json.loads(lake.get_bytes(key))
        tags = {tag["key"]: tag["value"] for tag in event["run"]["facets"]["tags"]["tags"]}
        assert f"session={tags['session']}/" in key
        told.setdefault(tags["ledger_run"], {})[event["eventType"]] = event

    assert len(finished) > 50
    for run in finished:
        assert told[run].keys() == {"START", "COMPLETE"}, run
        assert told[run]["START"]["run"]["runId"] == told[run]["COMPLETE"]["run"]["runId"]
        assert set(artifacts(told[run]["COMPLETE"], "output")) == published[run], run
        assert set(artifacts(told[run]["COMPLETE"], "input")) <= known, run
    jobs = {
        told[run]["COMPLETE"]["job"]["name"]: set(artifacts(told[run]["COMPLETE"], "input"))
        for run in finished
    }
    assert {name for name, _, _ in jobs["predict_signals.predict"]} >= {
        "core_factors__daily",
        "core_features__daily",
        "core_models__file",
        "core_models__model",
        "core_reference__universe_member",
    }
    warehouse = ran.settings.postgres.warehouse_db
    assert {
        item["name"]
        for run in finished
        for item in told[run]["COMPLETE"]["outputs"]
        if "columnLineage" in item["facets"]
    } >= {
        "core_features__daily",
        f"{warehouse}.core.features__daily",
        f"{warehouse}.marts.fct_daily_return",
    }
