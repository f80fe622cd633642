"""Fetch one exchange session from Yahoo Finance and publish it as raw data.

Runs after each close; the run's partition key is the session. Raw responses land in the lake beside
the rows parsed from them. The symbols are the universe's members at that session and the benchmark,
fetched in batches.

**Triage**

- `plan` failed with ConfigError: the run has no partition key, or the day is no session. Trigger it
  again with one, or use `marketlake backfill --from --to`.
- `fetch` is up for retry: the vendor is slow, down or limits us; its log names which. Nothing to do
  until the retries are used up; then `marketlake status`, and clear the failed batch.
- `fetch` failed with BadPayload or EmptyAnswer: the vendor changed. Its raw answer is in the lake.
- Clearing any task here redoes the session, and with it every DAG downstream.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.assets import MARKET_DATA_INGESTED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_DATA, POOL_YAHOO, Tag
from marketlake.orchestration.tasks import Json, run_step
from marketlake.orchestration.timetable import ExchangeSessionTimetable
from marketlake.settings import current_settings


@dag(
    schedule=ExchangeSessionTimetable.of(current_settings().market),
    catchup=False,
    max_active_runs=5,
    default_args=task_defaults(OWNER_DATA),
    tags=[Tag.LAYER_RAW, Tag.TIER_DAILY, Tag.DOMAIN_MARKET],
    doc_md=__doc__,
)
def ingest_market_data() -> None:
    @task
    def plan() -> Json:
        from marketlake.pipelines import ingest_market_data

        return run_step(ingest_market_data.plan)

    @task(pool=POOL_YAHOO, map_index_template="{{ task.op_kwargs['symbols'] | join(' ') }}")
    def fetch(symbols: list[str], ti=None) -> Json:
        from marketlake.pipelines import ingest_market_data

        return run_step(ingest_market_data.fetch, symbols=symbols, batch=ti.map_index)

    @task(outlets=[MARKET_DATA_INGESTED])
    def publish(staged: list[Json]) -> Json:
        from marketlake.pipelines import ingest_market_data

        return run_step(ingest_market_data.publish, staged=staged)

    publish(fetch.expand(symbols=plan()))


ingest_market_data()
