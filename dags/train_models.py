"""Train the ensemble on what was known at a session, and put it to the gate.

On demand; for a live market also on the first of every month. Cross-validation walks forward and is
purged by label interval; a null panel runs every time. What passes the gate predicts from the first
session after the cutoff; trained in retrospect, it is flagged so. What does not pass predicts only
where nothing that passed is there.

**Triage**

- `train` failed with ConfigError: the cutoff is before `models.train_from`.
- `train` failed with ContractViolation: too few sessions or symbols before the cutoff; trigger
  `load_history`, or train as of a later session.
- `train` is up for retry with MissingPartition: the message names the sessions without features.
- `promote` failed with ContractViolation: the model document breaks its contract; the model before
  it stays champion.
- The promotion says `passed_gate = false`: its reason names each check that failed, with its value.
"""

from airflow.sdk import CronTriggerTimetable, Param, dag, task
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RESEARCH, Tag
from marketlake.orchestration.tasks import Json, date_param, optional_session, run_step, text_param
from marketlake.settings import current_settings

AS_OF = optional_session(
    "As of",
    "Training cutoff: the last session the models may know. Empty: the market's last.",
)
PROFILE = Param(
    None,
    type=["null", "string"],
    enum=[None, "quick", "full"],
    title="Profile",
    description="How much is trained. Empty: as the settings say (`models.profile`).",
)

# Not at once: the platform's first run trains by itself, after the history is there.
MONTHLY = CronTriggerTimetable("0 6 1 * *", timezone="UTC", run_immediately=False)


@dag(
    schedule=None if current_settings().market.last_session else MONTHLY,
    catchup=False,
    max_active_runs=1,
    params={"as_of": AS_OF, "profile": PROFILE},
    default_args=task_defaults(OWNER_RESEARCH),
    tags=[Tag.LAYER_CORE, Tag.TIER_ON_DEMAND, Tag.DOMAIN_MODELS],
    doc_md=__doc__,
)
def train_models() -> None:
    @task
    def train() -> Json:
        from marketlake.pipelines import train_models

        as_of, profile = date_param("as_of"), text_param("profile")
        return run_step(train_models.train, as_of=as_of, profile=profile)

    @task
    def promote(trained: Json) -> Json:
        from marketlake.pipelines import train_models

        return run_step(train_models.promote, as_of=date_param("as_of"), trained=trained)

    promote(train())


train_models()
