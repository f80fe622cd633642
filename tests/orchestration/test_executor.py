"""The executor ends although its workers have more results than a pipe holds."""

import json
import multiprocessing
import os
import subprocess
import sys
import time

import pytest
from airflow.executors.local_executor import LocalExecutor
from airflow.utils.state import TaskInstanceState
from marketlake.orchestration.executor import DrainingLocalExecutor

RESULTS = 60
RESULT_BYTES = 4096  # 60 of these are four times what a pipe holds


def _work(activity, results):
    for number in range(RESULTS):
        results.put((f"{number:0{RESULT_BYTES}d}", TaskInstanceState.SUCCESS, None))
    while activity.get() is not None:
        pass


def _started(executor: LocalExecutor) -> multiprocessing.Process:
    fork = multiprocessing.get_context("fork")
    executor.activity_queue = fork.SimpleQueue()
    executor.result_queue = fork.SimpleQueue()
    worker = fork.Process(target=_work, args=(executor.activity_queue, executor.result_queue))
    worker.start()
    executor.workers = {worker.pid: worker}
    return worker


def test_shutdown_reads_the_results_that_a_worker_is_blocked_on():
    executor = DrainingLocalExecutor(parallelism=1)
    worker = _started(executor)

    begun = time.monotonic()
    executor.end()

    assert time.monotonic() - begun < executor.shutdown_grace_s / 2
    assert not worker.is_alive()
    assert worker.exitcode == 0, "it ended by itself"
    assert len(executor.event_buffer) == RESULTS


def test_a_worker_that_does_not_end_is_stopped():
    executor = DrainingLocalExecutor(parallelism=1)
    executor.shutdown_grace_s = 0.5
    _started(executor)
    stuck = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    stuck.start()
    executor.workers[stuck.pid] = stuck

    executor.end()

    assert not stuck.is_alive()


FORKS = 100
IN_EVERY_TASK = """
import lightgbm, xgboost
import numpy as np
import polars as pl
X = np.arange(400.0).reshape(100, 4) % 7
y = (X[:, 0] > 3).astype(int)
parameters = {"num_threads": 2, "verbosity": -1, "min_data_in_leaf": 5}
assert lightgbm.train(parameters, lightgbm.Dataset(X, label=y), num_boost_round=2).num_trees() == 2
boosted = xgboost.train({"nthread": 2}, xgboost.QuantileDMatrix(X, label=y), num_boost_round=2)
assert len(boosted.inplace_predict(X)) == 100
frame = pl.DataFrame({"key": [n % 7 for n in range(50_000)], "x": [n / 3 for n in range(50_000)]})
summed = frame.lazy().group_by("key").agg(pl.col("x").sum()).sort("key").collect()
assert frame.join(summed, on="key").sort("x").to_arrow().num_rows == 50_000
"""
PARENT = f"""
import json, os, signal, sys
from pathlib import Path
from marketlake.orchestration.scheduler import import_what_tasks_inherit

import_what_tasks_inherit()
threads = [Path(f"/proc/self/task/{{one}}/comm").read_text().strip()
           for one in os.listdir("/proc/self/task")]
ends = []
for _ in range({FORKS}):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)  # one that hangs is killed
        exec({IN_EVERY_TASK!r})
        os._exit(0)
    ends.append(os.waitpid(pid, 0)[1])
print(json.dumps({{"pools": [m for m in ("jax",) if m in sys.modules],
                  "threads": threads, "failed": sum(map(bool, ends))}}))
"""


@pytest.mark.slow
def test_what_is_preloaded_survives_a_fork(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", PARENT],
        env={**os.environ, "MARKETLAKE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=250,
        check=True,
    )

    found = json.loads(answer.stdout.splitlines()[-1])
    assert found["pools"] == []
    assert not [
        name for name in found["threads"] if name.startswith("polars-") and name[7].isdigit()
    ]
    assert found["failed"] == 0
