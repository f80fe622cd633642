"""What crosses from Airflow into a step, and back."""

from datetime import UTC, date, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.execution_time.context import set_current_context
from hypothesis import given
from hypothesis import strategies as st
from marketlake.errors import ConfigError, MissingPartition
from marketlake.orchestration.tasks import (
    date_param,
    from_json,
    identity_of,
    session_of,
    to_json,
)
from marketlake.pipelines.context import Touched, recorded
from marketlake.storage.ledger import LedgerWriter
from marketlake.types import ArtifactRef, RunIdentity

TEXT = st.text(max_size=8)
REFS = st.builds(ArtifactRef, TEXT, TEXT, TEXT, TEXT, st.integers(0, 9), TEXT)
SCALARS = st.none() | st.booleans() | st.integers() | TEXT
RESULTS = st.recursive(
    REFS | SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def context(*, partition_key: str | None = None, params: dict | None = None) -> dict:
    run = SimpleNamespace(
        dag_id="report_daily",
        run_id="manual__1",
        partition_key=partition_key,
        run_after=datetime(2026, 1, 2, tzinfo=UTC),
    )
    ti = SimpleNamespace(
        dag_id=run.dag_id, run_id=run.run_id, task_id="publish", try_number=2, map_index=None
    )
    return {"dag_run": run, "ti": ti, "params": params or {}}


@given(RESULTS)
def test_results_cross_xcom_and_come_back_the_same(result):
    assert from_json(to_json(result)) == result


def test_data_does_not_cross_xcom():
    with pytest.raises(ConfigError, match="return its ArtifactRef"):
        to_json([{"frame": {1, 2}}])


def test_the_session_of_a_run_is_its_partition_key():
    assert session_of(context(partition_key="2022-11-25")) == date(2022, 11, 25)


def test_a_run_without_a_partition_key_says_how_to_trigger_one():
    with pytest.raises(ConfigError, match="marketlake backfill") as caught:
        session_of(context())

    assert "manual__1 of report_daily" in caught.value.where


@pytest.mark.parametrize(
    ("key", "said"), [("2022-11-24", "2022-11-23 or 2022-11-25"), ("soon", "YYYY-MM-DD")]
)
def test_a_partition_key_that_is_no_session_is_refused(key, said):
    with pytest.raises(ConfigError, match=said):
        session_of(context(partition_key=key))


def test_a_date_parameter_is_read_from_the_run():
    with set_current_context(context(params={"as_of": "2022-11-30"})):
        assert date_param("as_of") == date(2022, 11, 30)


def test_an_empty_date_parameter_means_the_end_of_the_market():
    with set_current_context(context(params={"through": None})):
        assert date_param("through") == date(2022, 12, 28)
        # 21, 22, 23, 27 and 28 December are the last five; the 26th was a holiday.
        assert date_param("through", sessions_before_end=5) == date(2022, 12, 20)


@pytest.mark.parametrize(
    ("run_after", "newest"),
    [("2022-11-25T18:29", "2022-11-23"), ("2022-11-25T18:30", "2022-11-25")],
)
def test_an_empty_date_parameter_of_a_market_without_an_end_means_the_newest_session_due(
    run_after, newest, monkeypatch
):
    monkeypatch.setenv("MARKETLAKE_MARKET__NAME", "generated")
    run = context(params={"through": None})
    run["dag_run"].run_after = datetime.fromisoformat(run_after).replace(tzinfo=UTC)

    with set_current_context(run):
        assert date_param("through") == date.fromisoformat(newest)


@pytest.mark.parametrize(("map_index", "expected"), [(None, -1), (-1, -1), (3, 3)])
def test_a_task_instance_is_who_computes(map_index, expected):
    task = context()
    task["ti"].map_index = map_index

    assert identity_of(task) == RunIdentity("report_daily", "manual__1", "publish", 2, expected)


def test_the_ledger_hears_how_a_task_ended(ledger):
    run = RunIdentity("report_daily", "test_the_ledger_hears", "publish")
    writer = LedgerWriter(ledger, run)

    with recorded(writer, Touched(), step="good"):
        pass
    with (
        pytest.raises(MissingPartition),
        recorded(writer, Touched(), step="bad"),
    ):
        raise MissingPartition(expected="a", was="b", where="c", todo="d")

    told = [(e.kind, e.payload["step"]) for e in ledger.entries(run_id=run.run_id)]
    assert told == [
        ("task_started", "good"),
        ("task_finished", "good"),
        ("task_started", "bad"),
        ("task_failed", "bad"),
    ]


def ref(number, *, staged=False):
    place = "_staging/core" if staged else "core"
    return ArtifactRef(
        "core_test__x", f"year={number:04d}", f"s3://lake/{place}/x", "ab" * 32, 1, "v"
    )


def test_the_ledger_hears_what_a_task_read_wrote_and_loaded(ledger):
    run = RunIdentity("report_daily", "test_the_ledger_hears_what", "publish")
    touched = Touched()

    with recorded(LedgerWriter(ledger, run), touched, step="good"):
        touched.read.update({ref(1), ref(2), ref(3, staged=True)})
        touched.written.update({ref(2), ref(4)})
        touched.loaded["core_rates__key_rate"] = 7

    (entry,) = ledger.entries("task_finished", run_id=run.run_id)
    assert entry.payload["inputs"] == [
        "_staging/" + ref(3).versioned_name,
        ref(1).versioned_name,
    ]
    assert entry.payload["outputs"] == [ref(2).versioned_name, ref(4).versioned_name]
    assert entry.payload["loaded"] == [{"contract": "core_rates__key_rate", "rows": 7}]


def test_a_task_that_touched_more_than_an_entry_holds_is_told_in_several(ledger):
    run = RunIdentity("report_daily", "test_a_task_that_touched_more", "publish")
    touched = Touched(read={ref(number) for number in range(9000)}, written={ref(9999)})

    with recorded(LedgerWriter(ledger, run), touched, step="wide"):
        pass

    entries = ledger.entries("task_finished", run_id=run.run_id)
    assert [(e.payload["part"], e.payload["parts"]) for e in entries] == [(1, 3), (2, 3), (3, 3)]
    assert sorted(name for e in entries for name in e.payload["inputs"]) == sorted(
        item.versioned_name for item in touched.read
    )
    assert entries[-1].payload["outputs"] == [ref(9999).versioned_name]
