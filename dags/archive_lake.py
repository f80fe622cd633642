"""Compact the lake's sessions into years, archive old raw answers, verify the ledger, back up.

On demand; for a live market also every Saturday, when no session is under way.

Compaction rewrites no session: a year object holds the same rows, sorted for long reads. Raw
answers older than `MARKETLAKE_LAKE__ARCHIVE_RAW_AFTER_DAYS` are copied below `archive/`, unless
the store moves them to cold storage itself. Snapshots of months that are
`MARKETLAKE_SNAPSHOTS__ARCHIVE_AFTER_DAYS` over become one compressed object a month; `marketlake
snapshots restore` puts them back. The verification recomputes every leaf hash and the
root. The backup copies what is new of ledger and lake to the bucket of `MARKETLAKE_BACKUP__*`.

**Triage**

- `compact` is up for retry with MissingPartition: a session of the year was never published; the
  message names it: `marketlake backfill --missing`.
- `archive_raw` failed with BadPayload: the copy has other bytes than the original, which stays.
  Look at the store's disk, then clear the task.
- `archive_snapshots` failed with BadPayload: a snapshot is not what the ledger says of it, or the
  archive was not written whole. Nothing was removed; keep everything as it is.
- `verify_ledger` failed with ContractViolation: an entry was changed after the fact, or the store
  is damaged. Do not clear it. Keep the disk as it is, run `marketlake audit verify`, and compare
  with the checkpoints in the `worm` bucket.
- `verify_ledger` failed with ConfigError: no public key is pinned where tasks run; the message says
  how. Then clear it.
- `back_up` failed with BadPayload: an object of the lake has other bytes than its manifest says. Do
  not clear it before you know why; earlier backups have the right bytes.
"""

from airflow.sdk import CronTriggerTimetable, dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step
from marketlake.settings import current_settings

THROUGH = optional_session(
    "Through",
    "Last session to compact, and the one that ages are counted from. Empty: the market's last.",
)

# After a training that begins at six, should the first of the month be a Saturday.
WEEKLY = CronTriggerTimetable("0 10 * * 6", timezone="UTC", run_immediately=False)


@dag(
    schedule=None if current_settings().market.last_session else WEEKLY,
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
    def archive_snapshots() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.archive_snapshots, as_of=date_param("through"))

    @task
    def verify_ledger() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.verify_ledger, as_of=date_param("through"))

    @task
    def back_up() -> Json:
        from marketlake.pipelines import archive_lake

        return run_step(archive_lake.back_up, as_of=date_param("through"))

    compact() >> archive_raw() >> archive_snapshots() >> verify_ledger() >> back_up()


archive_lake()
