"""The executor that runs tasks on one machine: Airflow's LocalExecutor, kept from hanging.

Airflow 3.3.2 joins its workers at shutdown (and dispatches to them) without reading their results;
the pipe holds about forty, so a full one stops both sides for ever (apache/airflow #67870, #70526).
What does not belong here: Celery, which needs none of this.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from airflow.executors.local_executor import LocalExecutor

from marketlake.clock import monotonic_s

PRELOADED = (
    "great_expectations",
    "great_expectations.expectations",
    "dbt.cli.main",
    "dbt.adapters.postgres",
    "boto3",
    "h5py",
    "lightgbm",
    "numba",
    "polars",
    "psycopg",
    "scipy.special",
    "xgboost",
)
"""Slow to import and safe to fork: imported once, inherited by every task.

A library whose thread pool starts with its import (jax) must never be here: the pool does not
survive a fork. Those of polars, numba and the boosted trees start with first use, which is in a
task.
"""


class DrainingLocalExecutor(LocalExecutor):  # type: ignore[misc]  # airflow ships no strict types
    """LocalExecutor that reads its workers' results whenever it might block on them."""

    shutdown_grace_s = 30.0

    def start(self) -> None:
        """Import the slow libraries, then start the workers."""
        for module in PRELOADED:
            importlib.import_module(module)
        super().start()

    def _process_workloads(self, workload_list: Sequence[Any]) -> None:
        for workload in workload_list:
            self._read_results()
            super()._process_workloads([workload])

    def end(self) -> None:
        """Let running tasks finish for a while, then stop the workers that are left."""
        running = [worker for worker in self.workers.values() if worker.is_alive()]
        for _ in running:
            self._read_results()
            self.activity_queue.put(None)
        deadline = monotonic_s() + self.shutdown_grace_s
        while running and monotonic_s() < deadline:
            self._read_results()
            running[0].join(timeout=0.2)
            running = [worker for worker in running if worker.is_alive()]
        for worker in running:
            worker.terminate()
        for worker in running:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
        self._read_results()
        self.activity_queue.close()
        self.result_queue.close()
