"""Compute the features of one session from core market data.

Every feature reads a window that ends with the session, so the sessions before it must be
published: by `load_history`, by a backfill, or by the runs of the days before.

**Triage**

- `compute` is up for retry with MissingPartition: a session of the window is not published. In a
  backfill it is on its way; otherwise the message names it: `marketlake backfill --missing`, or
  trigger `load_history`.
- `compute` failed with LookaheadError: a feature asked for data after its session. A bug.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import FEATURES_BUILT, WAREHOUSE_BUILT
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RESEARCH, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=WAREHOUSE_BUILT),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_RESEARCH),
    tags=[Tag.LAYER_CORE, Tag.TIER_DAILY, Tag.DOMAIN_MODELS],
    doc_md=__doc__,
)
def build_features() -> None:
    @task
    def compute() -> Json:
        from marketlake.pipelines import build_features

        return run_step(build_features.compute)

    @task(outlets=[FEATURES_BUILT])
    def publish(staged: Json) -> Json:
        from marketlake.pipelines import build_features

        return run_step(build_features.publish, staged=staged)

    publish(compute())


build_features()
