"""Publish what describes the platform: dbt's documentation and the quality gates, as two pages.

Both lie in the lake under contracts and are linked from the navigation of this UI. The dbt page
shows models, columns, tests and lineage as the warehouse has them now; the page of the gates shows
the committed suites and what they said about the newest sessions.

**Triage**

- `publish_dbt` failed with ConfigError: dbt does not accept the project; the log's folder is named.
- `publish_dbt` or `publish_quality` is up for retry with MissingPartition: no session has been
  built or gated yet: `marketlake backfill`.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, POOL_DBT, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step

THROUGH = optional_session(
    "Through",
    "Last session that the pages may show. Empty: the market's last.",
)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"through": THROUGH},
    default_args=task_defaults(OWNER_PLATFORM),
    tags=[Tag.LAYER_OUT, Tag.TIER_ON_DEMAND, Tag.DOMAIN_REPORTS],
    doc_md=__doc__,
)
def publish_docs() -> None:
    @task(pool=POOL_DBT)
    def publish_dbt() -> Json:
        from marketlake.pipelines import publish_docs

        return run_step(publish_docs.publish_dbt, as_of=date_param("through"))

    @task
    def publish_quality() -> Json:
        from marketlake.pipelines import publish_docs

        return run_step(publish_docs.publish_quality, as_of=date_param("through"))

    publish_dbt()
    publish_quality()


publish_docs()
