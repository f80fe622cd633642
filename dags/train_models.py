"""Train the models on what was known at a session, and promote the better one.

Cross-validation walks forward and is purged by label end. The promotion takes effect at the first
session after the cutoff and after its last label ended: trained in retrospect, it is flagged so.

**Triage**

- `train` failed with ConfigError: too little history before the cutoff; trigger `load_history`.
- `train` is up for retry with MissingPartition: the message names the sessions without features.
- `promote` failed with ContractViolation: the model document breaks its contract; the model before
  it stays champion.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RESEARCH, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step

AS_OF = optional_session(
    "As of",
    "Training cutoff: the last session the models may know. Empty: the market's last.",
)


@dag(
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={"as_of": AS_OF},
    default_args=task_defaults(OWNER_RESEARCH),
    tags=[Tag.LAYER_CORE, Tag.TIER_ON_DEMAND, Tag.DOMAIN_MODELS],
    doc_md=__doc__,
)
def train_models() -> None:
    @task
    def train() -> Json:
        from marketlake.pipelines import train_models

        return run_step(train_models.train, as_of=date_param("as_of"))

    @task
    def promote(trained: Json) -> Json:
        from marketlake.pipelines import train_models

        return run_step(train_models.promote, as_of=date_param("as_of"), trained=trained)

    promote(train())


train_models()
