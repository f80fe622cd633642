"""Load one session of core data into Postgres and build the dbt models on it.

`load` copies the session's rows in one transaction (loading the same rows again changes nothing);
`publish` runs one `dbt build`: staging, intermediate, marts with enforced contracts, and the tests.

**Triage**

- `load` is up for retry with SourceUnavailable: Postgres does not answer; `marketlake status`.
- `load` failed with ConfigError about a column: the table and its contract differ, because a
  contract changed. The message names the column.
- `publish` failed with GateFailed: a dbt test failed; the message and `core_warehouse__build` name
  it. `marketlake sql` opens the warehouse.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import MARKET_DATA_VALIDATED, WAREHOUSE_BUILT
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_DATA, POOL_DBT, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=MARKET_DATA_VALIDATED),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_DATA),
    tags=[Tag.LAYER_CORE, Tag.TIER_DAILY, Tag.DOMAIN_WAREHOUSE],
    doc_md=__doc__,
)
def build_warehouse() -> None:
    @task
    def load() -> Json:
        from marketlake.pipelines import build_warehouse

        return run_step(build_warehouse.load)

    @task(pool=POOL_DBT, outlets=[WAREHOUSE_BUILT])
    def publish(loaded: Json) -> Json:
        from marketlake.pipelines import build_warehouse

        return run_step(build_warehouse.publish, loaded=loaded)

    publish(load())


build_warehouse()
