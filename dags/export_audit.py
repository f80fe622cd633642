"""Write the audit files, by name, from the ledger: `audit_logs/` in the lake.

Runs after each session's report, one at a time. The hours and the month that have grown since the
last export are written again, whole; every other file stays as it is. In a long backfill most runs
write nothing: files are written once they have grown by an eighth, and all of them with the
market's last sessions. `archive_lake` writes what is left before it backs up.

**Triage**

- `export` failed with SourceUnavailable: the ledger or the lake did not answer; the next export
  writes what this one has not.
- A file looks wrong: every entry in it has its index and leaf hash, and the file the checkpoint
  that covers it. `marketlake audit verify` says whether the ledger itself is sound. To have files
  made anew, delete them and the `master_log` files from their month on, then clear this task for
  the newest session: they are made from the ledger alone.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import DAILY_REPORTED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=DAILY_REPORTED),
    catchup=False,
    max_active_runs=1,
    default_args=task_defaults(OWNER_PLATFORM),
    tags=[Tag.LAYER_OUT, Tag.TIER_DAILY, Tag.DOMAIN_AUDIT],
    doc_md=__doc__,
)
def export_audit() -> None:
    @task
    def export() -> Json:
        from marketlake.pipelines import export_audit

        return run_step(export_audit.export)

    export()


export_audit()
