"""Load the market's history from every source: the daily path and its gates, by calendar year.

Needed once, before the first daily session: features, models and risk read windows of the past.
Running it again publishes only what differs.

**Triage**

- `fetch` is up for retry: the only source there is; see `ingest_market_data`. Where there are
  several, one that fails is left out with its reasons in `core_quality__source_answer`: run the
  DAG again when it is back.
- `validate_year` failed with GateFailed: the year's gate report says which check; one year's
  failure leaves the others published.
- `compute_features` failed with MissingPartition: a year is not loaded.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, POOL_DBT, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step
from marketlake.settings import current_settings

THROUGH = optional_session(
    "Through",
    "Last session to load. Empty: the one before the market's last five.",
)


def through():
    return date_param("through", sessions_before_end=5)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"through": THROUGH},
    default_args=task_defaults(OWNER_PLATFORM),
    tags=[Tag.LAYER_CORE, Tag.TIER_ON_DEMAND, Tag.DOMAIN_MARKET],
    doc_md=__doc__,
)
def load_history() -> None:
    @task
    def plan_years() -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.plan_years, as_of=through())

    @task
    def fetch(source: str) -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.fetch, as_of=through(), source=source)

    @task
    def publish_years(staged: list[Json]) -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.publish_years, as_of=through(), staged=staged)

    # A year of hundreds of symbols takes most of a gigabyte.
    @task(max_active_tis_per_dag=2, map_index_template="{{ task.op_kwargs['year'] }}")
    def validate_year(year: int) -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.validate_year, as_of=through(), year=year)

    @task
    def compute_features() -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.compute_features, as_of=through())

    @task(pool=POOL_DBT)
    def load_warehouse() -> Json:
        from marketlake.pipelines import load_history

        return run_step(load_history.load_warehouse, as_of=through())

    years = plan_years()
    fetched = [
        fetch.override(task_id=f"fetch_{source}", pool=source)(source)
        for source in current_settings().market.sources
    ]
    years >> fetched
    published = publish_years(fetched)
    published >> validate_year.expand(year=years) >> compute_features() >> load_warehouse()


load_history()
