"""The executor ends although its workers have more results than a pipe holds."""

import json
import multiprocessing
import subprocess
import sys
import time

import pytest
from airflow.executors.local_executor import LocalExecutor
from airflow.utils.state import TaskInstanceState
from marketlake.orchestration.executor import PRELOADED, DrainingLocalExecutor

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


@pytest.mark.slow
def test_what_is_preloaded_survives_a_fork():
    # Thread pools started before a fork hang in the child; these libraries start them on import.
    code = (
        f"import importlib, json, sys; [importlib.import_module(m) for m in {PRELOADED!r}];"
        "print(json.dumps([m for m in ('polars', 'jax', 'numba', 'lightgbm') if m in sys.modules]))"
    )

    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )

    assert json.loads(answer.stdout.splitlines()[-1]) == []
