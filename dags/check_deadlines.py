"""Look whether a session's report is there by its deadline, and fail when it is not.

Runs once a session, `MARKETLAKE_DEADLINES__MINUTES` after the session was due; a failure is told
like any other (`MARKETLAKE_NOTIFY__URLS`), once. It depends on no run of the chain, so it also
notices a run that never began. A platform that was off at the deadline gets the same minutes again.
Runs started by hand or by backfill check nothing: old sessions have no deadline.

**Triage**

- `require_report` failed with DeadlineMissed: the message names the first artifact that is missing
  and the DAG that makes it. Look at that DAG's run for the session. Is there none, look whether the
  DAG is paused and whether the one before it failed.
- The session itself goes on. Clear this task when the report is there, if the red mark disturbs.
"""

from airflow.sdk import dag, task
from marketlake.orchestration.deadlines import deadline_timetable, held_to_deadline
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_PLATFORM, Tag
from marketlake.orchestration.tasks import Json, run_step
from marketlake.settings import current_settings


@dag(
    schedule=deadline_timetable(current_settings()),
    catchup=False,
    max_active_runs=5,
    default_args=task_defaults(OWNER_PLATFORM),
    tags=[Tag.LAYER_OUT, Tag.TIER_DAILY, Tag.DOMAIN_REPORTS],
    doc_md=__doc__,
)
def check_deadlines() -> None:
    @task
    def require_report() -> Json:
        from marketlake.pipelines import check_deadlines

        return run_step(check_deadlines.require_report, held=held_to_deadline())

    require_report()


check_deadlines()
