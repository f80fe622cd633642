"""Score one session's features with the champion model and publish the signals.

The champion is the last promotion that was effective at the session: data time, not the wall clock.

**Triage**

- `predict` failed with ConfigError: no model was effective at this session. The message has the
  `marketlake train --as-of` that makes one; then clear the task.
- A symbol is missing from the signals: the document lists who was not predicted, and why.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import FEATURES_BUILT, SIGNALS_PREDICTED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RESEARCH, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=FEATURES_BUILT),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_RESEARCH),
    tags=[Tag.LAYER_OUT, Tag.TIER_DAILY, Tag.DOMAIN_MODELS],
    doc_md=__doc__,
)
def predict_signals() -> None:
    @task
    def predict() -> Json:
        from marketlake.pipelines import predict_signals

        return run_step(predict_signals.predict)

    @task(outlets=[SIGNALS_PREDICTED])
    def publish(staged: Json) -> Json:
        from marketlake.pipelines import predict_signals

        return run_step(predict_signals.publish, staged=staged)

    publish(predict())


predict_signals()
