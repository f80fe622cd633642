"""Judge one session of raw market data and publish what passes as core data.

The gate is the Great Expectations suite in `expectations/`. Rows that break a critical check go to
quarantine with the reason; when too many do, or a check of the whole table fails, nothing is
published and the day stops here. The comparison of sources and the integrity report say what was
found.

**Triage**

- `gate` failed with GateFailed: read the gate report (`marketlake show core_quality__gate_report`)
  and the quarantine. A verdict is never retried: the same rows get the same one. After the vendor
  corrects its data, clear `ingest_market_data` for the session.
- `gate` failed with LookaheadError or ContractViolation: a bug in ours, not in the data.
- `publish` is up for retry with MissingPartition: the session before is still on its way.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import MARKET_DATA_INGESTED, MARKET_DATA_VALIDATED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_DATA, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=MARKET_DATA_INGESTED),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_DATA),
    tags=[Tag.LAYER_CORE, Tag.TIER_DAILY, Tag.DOMAIN_MARKET],
    doc_md=__doc__,
)
def validate_market_data() -> None:
    @task
    def gate() -> Json:
        from marketlake.pipelines import validate_market_data

        return run_step(validate_market_data.gate)

    @task
    def compare_sources(staged: Json) -> Json:
        from marketlake.pipelines import validate_market_data

        return run_step(validate_market_data.compare_sources, staged=staged)

    @task
    def report_integrity(staged: Json) -> Json:
        from marketlake.pipelines import validate_market_data

        return run_step(validate_market_data.report_integrity, staged=staged)

    @task(outlets=[MARKET_DATA_VALIDATED])
    def publish(staged: Json) -> Json:
        from marketlake.pipelines import validate_market_data

        return run_step(validate_market_data.publish, staged=staged)

    staged = gate()
    [compare_sources(staged), report_integrity(staged)] >> publish(staged)


validate_market_data()
