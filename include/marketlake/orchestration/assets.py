"""The assets that chain the daily DAGs, in the order they come to be.

Each is emitted by the single ``publish`` task of one DAG, with the session as partition key, and is
the only thing the next DAG waits for. Data is never handed over by an asset: it is read from the
lake. What does not belong here: assets of on-demand DAGs, which emit none.
"""

from __future__ import annotations

from airflow.sdk import Asset

MARKET_DATA_INGESTED = Asset(name="market_data_ingested")
MARKET_DATA_VALIDATED = Asset(name="market_data_validated")
WAREHOUSE_BUILT = Asset(name="warehouse_built")
FEATURES_BUILT = Asset(name="features_built")
SIGNALS_PREDICTED = Asset(name="signals_predicted")
RISK_ASSESSED = Asset(name="risk_assessed")
DAILY_REPORTED = Asset(name="daily_reported")
