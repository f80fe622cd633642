"""Fetch one exchange session from every source and publish what each of them said.

Runs after each close; the run's partition key is the session. Every source (Yahoo Finance, Alpha
Vantage, IEX) is asked for the universe's members at that session, side by side. Raw responses land
in the lake beside the rows parsed from them, and beside both the same bars as they traded.

**Triage**

- `plan` failed with ConfigError: the run has no partition key, or the day is no session. Trigger it
  again with one, or use `marketlake backfill --from --to`.
- A source that is down, slow or out of calls does not stop the day: it is dropped for this run and
  asked again in the next. `core_quality__source_answer` says why; clear its `fetch` to ask again.
- `fetch` is up for retry or failed: it is the only source there is. Its log names what is wrong.
- `publish` failed with EmptyAnswer: no source has the session. Nothing was published; the message
  has each source's reason. Clear the fetch tasks when the cause is gone.
- Clearing any task here redoes the session, and with it every DAG downstream.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.assets import MARKET_DATA_INGESTED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_DATA, Tag
from marketlake.orchestration.tasks import Json, run_step
from marketlake.orchestration.timetable import ExchangeSessionTimetable
from marketlake.settings import current_settings

MARKET = current_settings().market


@dag(
    schedule=ExchangeSessionTimetable.of(MARKET),
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

    @task
    def fetch(source: str, symbols: list[str]) -> Json:
        from marketlake.pipelines import ingest_market_data

        return run_step(ingest_market_data.fetch, source=source, symbols=symbols)

    @task(outlets=[MARKET_DATA_INGESTED])
    def publish(staged: list[Json]) -> Json:
        from marketlake.pipelines import ingest_market_data

        return run_step(ingest_market_data.publish, staged=staged)

    symbols = plan()
    publish(
        [
            fetch.override(task_id=f"fetch_{source}", pool=source)(source, symbols)
            for source in MARKET.sources
        ]
    )


ingest_market_data()
