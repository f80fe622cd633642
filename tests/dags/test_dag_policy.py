"""The house style, enforced on every DAG file: what a reader may rely on without looking."""

import ast
import importlib
import inspect
import statistics
from pathlib import Path

import pytest
from marketlake.orchestration.retries import TASK_DEFAULTS
from marketlake.orchestration.style import TAG_FAMILIES, Tag
from marketlake.services.platform.airflow import POOLS
from marketlake.settings import PROJECT_ROOT, MarketSettings

from tests.dags.conftest import parse

FILES = sorted((PROJECT_ROOT / "dags").glob("*.py"))
CHAIN = [
    "ingest_market_data",
    "validate_market_data",
    "build_warehouse",
    "build_features",
    "predict_signals",
    "assess_risk",
    "report_daily",
]
WATCHING = ["check_deadlines"]
RECORDING = ["export_audit"]
ON_DEMAND = ["archive_lake", "load_history", "publish_docs", "train_models"]
SOURCES = MarketSettings().sources
FETCHING = ["ingest_market_data", "load_history"]

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
every_dag = pytest.mark.parametrize("dag_id", [*CHAIN, *WATCHING, *RECORDING, *ON_DEMAND])


def steps_called(path: Path) -> list[tuple[str, str, set[str]]]:
    """Return (pipeline module, function, keyword names) of each ``run_step`` call in a file."""
    calls = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "run_step"
    ]
    return [
        (
            call.args[0].value.id,
            call.args[0].attr,
            {keyword.arg for keyword in call.keywords} - {"as_of"},
        )
        for call in calls
    ]


def imports_of(path: Path, *, top_level_only: bool) -> set[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module for node in nodes if isinstance(node, ast.ImportFrom)}


# ---------- files


def test_the_dags_are_the_ones_of_the_design_and_every_file_declares_its_own(parsed_files):
    declared = {name: list(parsed["dags"]) for name, parsed in parsed_files.items()}

    designed = [*CHAIN, *WATCHING, *RECORDING, *ON_DEMAND]
    assert declared == {f"{dag_id}.py": [dag_id] for dag_id in designed}


@every_file
def test_a_dag_file_parses_without_an_error(parsed_files, path):
    assert parsed_files[path.name]["errors"] == {}


@every_file
def test_a_dag_file_parses_in_less_than_a_second(parsed_files, path):
    assert parsed_files[path.name]["cpu_seconds"] < 1


@every_file
def test_parsing_a_dag_file_imports_nothing_heavy(parsed_files, path):
    assert parsed_files[path.name]["heavy"] == []


@every_file
def test_a_dag_file_declares_and_does_not_compute(path):
    source = path.read_text()

    assert imports_of(path, top_level_only=True) <= {
        "airflow.sdk",
        "marketlake.orchestration.assets",
        "marketlake.orchestration.deadlines",
        "marketlake.orchestration.retries",
        "marketlake.orchestration.style",
        "marketlake.orchestration.tasks",
        "marketlake.orchestration.timetable",
        "marketlake.settings",
    }
    assert imports_of(path, top_level_only=False) - imports_of(path, top_level_only=True) == {
        "marketlake.pipelines"
    }
    assert "environ" not in source
    assert "logical_date" not in source


def test_dag_files_are_short():
    lines = [len(path.read_text().splitlines()) for path in FILES]

    assert statistics.median(lines) <= 60
    assert max(lines) <= 120


@every_file
def test_every_step_a_dag_calls_exists_in_its_pipeline_and_takes_what_it_is_given(path):
    calls = steps_called(path)

    assert calls
    for module, function, keywords in calls:
        assert module == path.stem
        step = getattr(importlib.import_module(f"marketlake.pipelines.{module}"), function)
        inspect.signature(step).bind("ctx", "session", **dict.fromkeys(keywords))


# ---------- what people see


@every_dag
def test_a_dag_says_what_it_does_and_what_to_do_when_it_fails(dags, dag_id):
    what, found, triage = dags[dag_id]["doc"].partition("**Triage**")

    assert found
    assert len(what.split()) >= 15
    assert any(f"`{task_id}`" in triage for task_id in dags[dag_id]["tasks"])


@every_dag
def test_a_dag_has_one_tag_of_each_family(dags, dag_id):
    tags = dags[dag_id]["tags"]

    assert set(tags) <= {tag.value for tag in Tag}
    assert sorted(tag.partition("/")[0] for tag in tags) == sorted(TAG_FAMILIES)


@every_dag
def test_every_task_has_an_owner_and_a_bound_on_its_time(dags, dag_id):
    for task in dags[dag_id]["tasks"].values():
        assert task["owner"] not in {"", "airflow"}
        assert 0 < task["execution_timeout_s"] <= 3600


@every_dag
def test_a_mapped_task_names_its_instances(dags, dag_id):
    for task in dags[dag_id]["tasks"].values():
        assert bool(task["map_index_template"]) == task["mapped"]


# ---------- failures


@every_dag
def test_every_task_retries_by_the_error_tree_gates_among_them(dags, dag_id):
    for task in dags[dag_id]["tasks"].values():
        assert task["retry_policy"] == "ErrorTreePolicy"
        assert task["retry_backoff"] > 1
        assert task["retries"] == TASK_DEFAULTS["retries"]


def test_each_source_is_fetched_by_a_task_in_its_pool_and_no_other_task_is_in_it(dags):
    in_a_pool = {
        (dag_id, task_id): task["pool"]
        for dag_id, dag in dags.items()
        for task_id, task in dag["tasks"].items()
        if task["pool"] in SOURCES
    }

    assert in_a_pool == {
        (dag_id, f"fetch_{source}"): source for dag_id in FETCHING for source in SOURCES
    }


@every_dag
def test_every_pool_is_one_that_the_platform_creates(dags, dag_id):
    for task in dags[dag_id]["tasks"].values():
        assert task["pool"] in {"default_pool", *POOLS}


# ---------- schedule


@every_dag
def test_nothing_catches_up_by_itself(dags, dag_id):
    assert dags[dag_id]["catchup"] is False


@pytest.mark.parametrize("dag_id", CHAIN)
def test_a_daily_dag_has_exactly_one_unmapped_publish_task_with_the_only_outlet(dags, dag_id):
    tasks = dags[dag_id]["tasks"]

    emitting = {task_id: task for task_id, task in tasks.items() if task["outlets"]}
    assert list(emitting) == ["publish"]
    assert len(emitting["publish"]["outlets"]) == 1
    assert not emitting["publish"]["mapped"]
    assert emitting["publish"]["downstream"] == []
    # Whatever is cleared, the publish task runs after it, and with it every DAG downstream.
    assert [task_id for task_id, task in tasks.items() if not task["downstream"]] == ["publish"]


def test_each_daily_dag_waits_for_exactly_the_asset_of_the_one_before(dags):
    emitted = [dags[dag_id]["tasks"]["publish"]["outlets"] for dag_id in CHAIN]
    waited_for = [dags[dag_id]["schedule"]["waits_for"] for dag_id in CHAIN]

    assert waited_for == [[], *emitted[:-1]]
    assert len({name for [name] in emitted}) == len(CHAIN)


@pytest.mark.parametrize("dag_id", CHAIN)
def test_the_partition_key_goes_down_the_chain_unchanged(dags, dag_id):
    schedule = dags[dag_id]["schedule"]

    if dag_id == CHAIN[0]:
        assert schedule["timetable"] == "ExchangeSessionTimetable"
    else:
        assert schedule["timetable"] == "PartitionedAssetTimetable"
        assert schedule["partition_mapper"] == "IdentityMapper"


@pytest.mark.parametrize("dag_id", CHAIN)
def test_sessions_run_side_by_side(dags, dag_id):
    assert dags[dag_id]["max_active_runs"] >= 5


@pytest.mark.parametrize("dag_id", ON_DEMAND)
def test_an_on_demand_dag_takes_dates_or_choices_emits_nothing_and_runs_alone(dags, dag_id):
    dag = dags[dag_id]

    assert dag["schedule"]["timetable"] == "NullTimetable"
    assert dag["params"]
    for schema in dag["params"].values():
        assert schema.get("format") == "date" or schema["enum"]
        assert schema["description"]
    assert not any(task["outlets"] for task in dag["tasks"].values())
    assert dag["max_active_runs"] == 1


LIVE_SCHEDULES = {"train_models": "0 6 1 * *", "archive_lake": "0 10 * * 6"}


def test_a_live_market_trains_monthly_archives_weekly_and_neither_at_once(tmp_path):
    live = parse(tmp_path, MARKETLAKE_MODE="live")

    for dag_id in ON_DEMAND:
        schedule = live[f"{dag_id}.py"]["dags"][dag_id]["schedule"]
        if dag_id in LIVE_SCHEDULES:
            assert schedule["timetable"] == "CronTriggerTimetable"
            assert schedule["expression"] == LIVE_SCHEDULES[dag_id]
            assert schedule["run_immediately"] is False
        else:
            assert schedule["timetable"] == "NullTimetable"


@pytest.mark.parametrize("dag_id", RECORDING)
def test_a_recording_dag_follows_the_report_one_run_at_a_time_in_one_task_and_starts_nothing(
    dags, dag_id
):
    dag = dags[dag_id]

    assert dag["schedule"]["waits_for"] == dags[CHAIN[-1]]["tasks"]["publish"]["outlets"]
    assert dag["schedule"]["partition_mapper"] == "IdentityMapper"
    assert dag["max_active_runs"] == 1
    (task,) = dag["tasks"].values()
    assert task["outlets"] == []


@pytest.mark.parametrize("dag_id", WATCHING)
def test_a_watching_dag_runs_once_a_session_later_than_the_chain_and_starts_nothing(dags, dag_id):
    root, watching = dags[CHAIN[0]]["schedule"], dags[dag_id]["schedule"]

    assert watching["timetable"] == root["timetable"]
    assert watching["delay_minutes"] > root["delay_minutes"]
    assert not any(task["outlets"] for task in dags[dag_id]["tasks"].values())
