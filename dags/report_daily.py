"""Write one session's report: a page for people, and the document it is drawn from.

Every number is read from what the DAGs before published for the session; nothing is computed anew.

**Triage**

- `publish` is up for retry with MissingPartition: an artifact of the session is not published. The
  message names it, and so the DAG to look at.
- A number looks wrong: `marketlake trace out_reports__daily` walks from the page to the vendor's
  bytes.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import DAILY_REPORTED, RISK_ASSESSED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RISK, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=RISK_ASSESSED),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_RISK),
    tags=[Tag.LAYER_OUT, Tag.TIER_DAILY, Tag.DOMAIN_REPORTS],
    doc_md=__doc__,
)
def report_daily() -> None:
    @task(outlets=[DAILY_REPORTED])
    def publish() -> Json:
        from marketlake.pipelines import report_daily

        return run_step(report_daily.publish)

    publish()


report_daily()
