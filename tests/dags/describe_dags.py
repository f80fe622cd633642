"""Parse every DAG file as the dag-processor does, and print what came out as JSON.

A program of its own: Airflow reads its configuration once a process, and each file is parsed in a
fork that has Airflow imported and nothing else, which is what a parse costs in production.
Usage: ``python describe_dags.py FOLDER_OF_DAGS``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.timetables.simple import PartitionedAssetTimetable

HEAVY = (
    "boto3", "dbt", "exchange_calendars", "great_expectations", "jax", "keras", "lightgbm",
    "matplotlib", "numba", "numpy", "pandas", "polars", "psycopg", "pyarrow", "sklearn", "xgboost",
    "yfinance",
)  # fmt: skip


def describe_task(task: Any) -> dict[str, Any]:
    return {
        "downstream": sorted(task.downstream_task_ids),
        "execution_timeout_s": task.execution_timeout.total_seconds(),
        "map_index_template": task.map_index_template,
        "mapped": task.is_mapped,
        "max_retry_delay_s": task.max_retry_delay.total_seconds(),
        "outlets": sorted(asset.name for asset in task.outlets),
        "owner": task.owner,
        "pool": task.pool,
        "retries": task.retries,
        "retry_backoff": task.retry_exponential_backoff,
        "retry_delay_s": task.retry_delay.total_seconds(),
        "retry_policy": type(task.retry_policy).__name__ if task.retry_policy else None,
    }


def describe_schedule(timetable: Any) -> dict[str, Any]:
    kind = type(timetable).__name__
    if isinstance(timetable, PartitionedAssetTimetable):
        mapper = type(timetable.default_partition_mapper).__name__
        waits_for = sorted(key.name for key, _ in timetable.asset_condition.iter_assets())
        return {"timetable": kind, "waits_for": waits_for, "partition_mapper": mapper}
    return {"timetable": kind, "waits_for": [], **timetable.serialize()}


def describe_param(param: Any) -> dict[str, Any]:
    return {**param.schema, "default": param.value, "description": param.description}


def describe_dag(dag: Any) -> dict[str, Any]:
    # What the scheduler works with is what survives storing.
    stored = DagSerialization.from_dict(DagSerialization.to_dict(dag))
    return {
        "catchup": dag.catchup,
        "doc": dag.doc_md or "",
        "max_active_runs": dag.max_active_runs,
        "params": {name: describe_param(dag.params.get_param(name)) for name in dag.params},
        "schedule": describe_schedule(stored.timetable),
        "tags": sorted(dag.tags),
        "tasks": {task.task_id: describe_task(task) for task in dag.tasks},
    }


def describe_file(path: Path) -> dict[str, Any]:
    already = set(sys.modules)
    # Of the processor, not of the clock: a busy machine must not fail a file quick to parse.
    begun = time.process_time()
    bag = DagBag(path, bundle_path=path.parent)
    seconds = time.process_time() - begun
    imported = {name.partition(".")[0] for name in set(sys.modules) - already}
    return {
        "dags": {dag_id: describe_dag(dag) for dag_id, dag in bag.dags.items()},
        "errors": bag.import_errors,
        "heavy": sorted(imported.intersection(HEAVY)),
        "cpu_seconds": seconds,
    }


def in_a_fork(path: Path) -> dict[str, Any]:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        with os.fdopen(writer, "w") as pipe:
            json.dump(describe_file(path), pipe)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    return json.loads(text)


def main() -> None:
    described = {}
    for path in sorted(Path(sys.argv[1]).glob("*.py")):
        described[path.name] = in_a_fork(path)
    json.dump(described, sys.stdout)


main()
