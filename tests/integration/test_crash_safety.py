"""kill -9 in the middle of a run: nothing is lost, nothing is half-published, the run completes.

Three cells of the matrix that ``make accept`` runs as a whole, on sessions of the main job.
"""

from __future__ import annotations

from datetime import date

import pytest
from marketlake.contracts.catalog import OUT_REPORTS_DAILY
from marketlake.storage.lake import Lake
from marketlake.storage.objects import ObjectStore
from marketlake.types import Partition

from tests.acceptance.crashes import MOMENTS, fingerprints, kill_and_see
from tests.integration.conftest import ContentHashes, Installation

pytestmark = [pytest.mark.slow, pytest.mark.platform, pytest.mark.timeout(600)]


def unpublish_report(one: Installation, session: date) -> None:
    """Remove a session's report from the lake, so that the next run has to place it anew."""
    lake, partition = Lake(one.settings.lake), Partition.of_session(session)
    store, bucket = ObjectStore(one.settings.lake), one.settings.lake.bucket
    manifest = lake.manifest(OUT_REPORTS_DAILY, partition)
    key = f"{OUT_REPORTS_DAILY.prefix}/{partition.key}/manifest.json"
    while key in lake.list_keys(f"{OUT_REPORTS_DAILY.prefix}/{partition.key}/"):
        store.delete(bucket, key, store.get(bucket, key).version_id)
    store.delete(bucket, manifest.data_key, manifest.version_id)


@pytest.mark.parametrize(
    ("victim", "moment", "session"),
    [
        ("task", "ingest", date(2022, 12, 21)),
        ("postgres", "warehouse", date(2022, 12, 22)),
        ("seaweedfs", "report", date(2022, 12, 23)),
    ],
)
def test_a_killed_component_costs_time_and_nothing_else(
    ran: Installation, first_hashes: ContentHashes, victim: str, moment: str, session: date
) -> None:
    rows = fingerprints(ran.settings, [session])
    unpublish_report(ran, session)
    cell = kill_and_see(ran, victim, MOMENTS[moment], session, reprocess="completed")
    assert cell.faults == []
    assert all(count > 10 for count in cell.acknowledged.values()), cell.acknowledged
    assert cell.lost == dict.fromkeys(cell.acknowledged, 0)
    assert cell.completed_by == ("itself" if victim == "task" else "up")
    assert ran.hashes() == first_hashes
    assert fingerprints(ran.settings, [session]) == rows
