"""Measure the risk of the reference book at one session, and name the market's regime.

The book is the universe's members at the session, equally weighted. Historical VaR and CVaR,
volatility, beta and exposures come from a window that ends with the session; the regime is read
from the past of the benchmark only.

**Triage**

- `classify_regime` or `measure_risk` is up for retry with MissingPartition: a session of the window
  is not published; see `build_features`.
- `classify_regime` failed with ContractViolation: the benchmark has no close at the session. See
  its quarantine in `validate_market_data`; a regime is not guessed.
- `publish` failed with GateFailed: a measure breaks its contract. The message names the check.
"""

from airflow.sdk import PartitionedAssetTimetable, dag, task
from marketlake.orchestration.assets import RISK_ASSESSED, SIGNALS_PREDICTED
from marketlake.orchestration.retries import task_defaults
from marketlake.orchestration.style import OWNER_RISK, Tag
from marketlake.orchestration.tasks import Json, run_step


@dag(
    schedule=PartitionedAssetTimetable(assets=SIGNALS_PREDICTED),
    catchup=False,
    max_active_runs=16,
    default_args=task_defaults(OWNER_RISK),
    tags=[Tag.LAYER_OUT, Tag.TIER_DAILY, Tag.DOMAIN_RISK],
    doc_md=__doc__,
)
def assess_risk() -> None:
    @task
    def classify_regime() -> Json:
        from marketlake.pipelines import assess_risk

        return run_step(assess_risk.classify_regime)

    @task
    def measure_risk() -> Json:
        from marketlake.pipelines import assess_risk

        return run_step(assess_risk.measure_risk)

    @task(outlets=[RISK_ASSESSED])
    def publish(regime: list[Json], risk: list[Json]) -> Json:
        from marketlake.pipelines import assess_risk

        return run_step(assess_risk.publish, regime=regime, measured=risk)

    publish(classify_regime(), measure_risk())


assess_risk()
