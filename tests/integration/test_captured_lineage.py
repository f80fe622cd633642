"""Every task of every DAG that ran is in the ledger, with what it read, wrote and loaded.

The graph is Airflow's own, of the whole main job: history, training, the chain of every session.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from marketlake.contracts.catalog import CATALOG
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.following import DAILY_CHAIN
from marketlake.storage.ledger import LedgerClient
from marketlake.types import RunIdentity

from tests.integration.conftest import SESSIONS, Installation, wait_until

pytestmark = [pytest.mark.platform, pytest.mark.timeout(900)]

_MAKERS = frozenset({*DAILY_CHAIN, "load_history", "train_models"})
_TABLES = {f"{item.layer}.{item.table}": item.name for item in CATALOG if item.warehouse}


@dataclass
class Captured:
    """What the ledger has of one try of one task."""

    finished: int = 0
    parts: int = 1
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    loaded: set[str] = field(default_factory=set)
    really_published: set[str] = field(default_factory=set)
    really_loaded: set[str] = field(default_factory=set)


def captured(ledger: LedgerClient) -> dict[str, Captured]:
    """Return what every try told at its end, and what it told while it worked."""
    tries: dict[str, Captured] = defaultdict(Captured)
    for entry in ledger.entries("task_finished", limit=1_000_000):
        one = tries[RunIdentity(**entry.run).key]
        one.finished += 1
        one.parts = entry.payload["parts"]
        one.inputs.update(entry.payload["inputs"])
        one.outputs.update(entry.payload["outputs"])
        one.loaded.update(item["contract"] for item in entry.payload["loaded"])
    for entry in ledger.entries("published", limit=1_000_000):
        told = entry.payload
        name = f"{told['contract']}/{told['partition']}@{told['sha256']}"
        tries[RunIdentity(**entry.run).key].really_published.add(name)
    for entry in ledger.entries("calculation", limit=1_000_000):
        if entry.payload["name"] == "warehouse_load":
            table = entry.payload["parameters"]["table"]
            tries[RunIdentity(**entry.run).key].really_loaded.add(_TABLES[table])
    return tries


def gaps(
    graph: Mapping[str, list[dict[str, Any]]],
    ran: Mapping[tuple[str, str], list[dict[str, Any]]],
    tries: Mapping[str, Captured],
) -> Iterator[str]:
    """Yield what the ledger does not know of the tasks that ran."""
    writers = {
        (dag_id, task["task_id"])
        for (dag_id, run_id), tasks in ran.items()
        for task in tasks
        if tries.get(key_of(task), Captured()).outputs
    }
    for (dag_id, run_id), tasks in ran.items():
        missing = {task["task_id"] for task in graph[dag_id]} - {item["task_id"] for item in tasks}
        yield from (f"{dag_id}/{run_id}: {name} did not run" for name in sorted(missing))
        upstream = upstream_of(graph[dag_id])
        for task in tasks:
            where = f"{key_of(task)}"
            told = tries.get(key_of(task))
            if told is None or told.finished == 0:
                yield f"{where}: no task_finished entry"
                continue
            if told.finished != told.parts:
                yield f"{where}: {told.finished} of {told.parts} parts of its end"
            if told.really_published - told.outputs:
                yield f"{where}: published, and not among its outputs"
            if told.really_loaded - told.loaded:
                yield f"{where}: loaded {told.really_loaded - told.loaded}, and does not say so"
            if must_write(task, graph[dag_id]) and not (told.outputs or told.loaded):
                yield f"{where}: others wait for what it makes, and it has no outputs"
            follows_dag = dag_id in DAILY_CHAIN[1:] and not upstream[task["task_id"]]
            # The tasks of the others only come after one another.
            follows_writer = dag_id in _MAKERS and any(
                (dag_id, before) in writers for before in upstream[task["task_id"]]
            )
            if (follows_dag or follows_writer) and not told.inputs:
                yield f"{where}: consumes what others wrote, and has no inputs"


def key_of(task: Mapping[str, Any]) -> str:
    return RunIdentity(
        dag_id=task["dag_id"],
        run_id=task["dag_run_id"],
        task_id=task["task_id"],
        try_number=task["try_number"],
        map_index=task["map_index"],
    ).key


def upstream_of(tasks: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {task["task_id"]: set() for task in tasks}
    for task in tasks:
        for after in task["downstream_task_ids"]:
            found[after].add(task["task_id"])
    return found


def must_write(task: Mapping[str, Any], tasks: list[dict[str, Any]]) -> bool:
    """Whether a task is one that fetches, or the last of a DAG that others wait for."""
    (declared,) = [item for item in tasks if item["task_id"] == task["task_id"]]
    is_last = not declared["downstream_task_ids"]
    return (is_last and task["dag_id"] in _MAKERS) or task["task_id"].startswith("fetch")


@pytest.fixture(scope="module")
def graph(ran: Installation) -> dict[str, list[dict[str, Any]]]:
    with AirflowApi(ran.settings.airflow) as api:
        return {
            dag_id: api._call("GET", f"/api/v2/dags/{dag_id}/tasks")["tasks"]
            for dag_id in api.dags()
        }


@pytest.fixture(scope="module")
def instances(ran: Installation) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return what ran, after those DAGs that the main job needs not."""
    with AirflowApi(ran.settings.airflow) as api:
        asked = {
            "archive_lake": api.trigger("archive_lake"),
            "check_deadlines": api.trigger("check_deadlines", partition_key=str(SESSIONS[-1])),
        }
        for dag_id, run_id in asked.items():
            wait_until(
                lambda dag_id=dag_id, run_id=run_id: api.run(dag_id, run_id)["state"] == "success",
                what=f"{dag_id} to succeed",
            )
        return {
            (run["dag_id"], run["dag_run_id"]): api.tasks(run["dag_id"], run["dag_run_id"])
            for run in api.runs()
            if run["state"] == "success"
        }


@pytest.fixture(scope="module")
def tries(ran: Installation) -> dict[str, Captured]:
    return captured(LedgerClient(ran.settings.ledger))


def test_every_task_of_every_dag_that_ran_is_in_the_ledger_with_inputs_and_outputs(
    graph: dict[str, list[dict[str, Any]]],
    instances: dict[tuple[str, str], list[dict[str, Any]]],
    tries: dict[str, Captured],
) -> None:
    assert {dag_id for dag_id, _ in instances} == set(graph)
    assert list(gaps(graph, instances, tries)) == []


@pytest.mark.parametrize(
    ("task_id", "taken_out"),
    [("predict", "inputs"), ("publish", "outputs"), ("publish", "loaded"), ("predict", "finished")],
)
def test_a_gap_in_one_session_is_found(
    graph: dict[str, list[dict[str, Any]]],
    instances: dict[tuple[str, str], list[dict[str, Any]]],
    tries: dict[str, Captured],
    task_id: str,
    taken_out: str,
) -> None:
    run = next(
        key
        for key, tasks in instances.items()
        if key[0] == "predict_signals" and len(tasks) == len(graph["predict_signals"])
    )
    one = {run: instances[run]}
    (task,) = [item for item in instances[run] if item["task_id"] == task_id]
    told = tries[key_of(task)]
    without: Any = 0 if taken_out == "finished" else set()
    with_gap = {**tries, key_of(task): Captured(**{**vars(told), taken_out: without})}
    assert list(gaps(graph, one, tries)) == []
    assert [gap for gap in gaps(graph, one, with_gap) if key_of(task) in gap]


def test_every_calculation_says_what_it_was_made_from_how_and_with_which_seed(
    ran: Installation, instances: dict[tuple[str, str], list[dict[str, Any]]]
) -> None:
    ledger = LedgerClient(ran.settings.ledger)
    entries = [entry.payload for entry in ledger.entries("calculation", limit=1_000_000)]
    told = {"name", "inputs", "outputs", "parameters", "seed", "code_version"}
    for entry in entries:
        assert told <= set(entry), entry["name"]
        assert entry["inputs"], entry["name"]
        assert entry["parameters"], entry["name"]
        assert entry["code_version"], entry["name"]
        assert (entry["seed"] is not None) == (entry["name"] == "training"), entry["name"]
        assert entry["outputs"] or entry["name"] == "warehouse_load", entry["name"]
    assert {
        "as_traded_source_bars",
        "consensus_bars",
        "factors",
        "features",
        "market_regime",
        "portfolio_risk",
        "predictions",
        "training",
        "warehouse_load",
    } <= {entry["name"] for entry in entries}


def test_every_session_of_the_main_job_was_looked_at(
    ran: Installation, instances: dict[tuple[str, str], list[dict[str, Any]]]
) -> None:
    with AirflowApi(ran.settings.airflow) as api:
        keys = {run["partition_key"] for run in api.runs() if run["dag_id"] == "report_daily"}
    assert {session.isoformat() for session in SESSIONS} <= keys
