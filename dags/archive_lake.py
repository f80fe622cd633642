"""Compact the lake's sessions into years, archive old raw answers, verify the whole ledger.

Compaction rewrites no session: a year object holds the same rows, sorted for long reads. Raw
answers older than `MARKETLAKE_LAKE__ARCHIVE_RAW_AFTER_DAYS` are copied below `archive/`, unless
the store moves them to cold storage itself. The verification recomputes every leaf hash and the
root.

**Triage**

- `compact` is up for retry with MissingPartition: a session of the year was never published; the
  message names it: `marketlake backfill --missing`.
- `archive_raw` failed with BadPayload: the copy has other bytes than the original, which stays.
  Look at the store's disk, then clear the task.
- `verify_ledger` failed: an entry was changed after the fact, or the store is damaged. Do not clear
  it. Keep the disk as it is, run `marketlake audit verify`, and compare with the checkpoints in the
  `worm` bucket.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step

THROUGH = optional_session(
    "Through",
    "Last session to compact, and the one that ages are counted from. Empty: the market's last.",
)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"through": THROUGH},
    default_args=task_defaults(OWNER_PLATFORM),
    tags=[Tag.LAYER_CORE, Tag.TIER_ON_DEMAND, Tag.DOMAIN_AUDIT],
    doc_md=__doc__,
)
def archive_lake() -> None:
    @task
    def compact() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.compact, as_of=date_param("through"))

    @task
    def archive_raw() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.archive_raw, as_of=date_param("through"))

    @task
    def verify_ledger() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.verify_ledger, as_of=date_param("through"))

    compact() >> archive_raw() >> verify_ledger()


archive_lake()
