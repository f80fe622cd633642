"""What OpenLineage hears: events of the standard, of everything a step really touched."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest
from airflow.sdk.execution_time.context import set_current_context
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.calendars import Calendar
from marketlake.contracts.catalog import CATALOG, CORE_QUALITY_GATE_REPORT
from marketlake.contracts.catalog import CORE_FEATURES_DAILY as FEATURES
from marketlake.contracts.catalog import CORE_REFERENCE_UNIVERSE_MEMBER as MEMBER
from marketlake.contracts.lineage import ColumnLineage, InputColumn
from marketlake.errors import GateFailed, SourceUnavailable
from marketlake.orchestration.lineage_events import record_key, task_event
from marketlake.orchestration.tasks import identity_of, run_step
from marketlake.pipelines.context import RunContext, Touched
from marketlake.services.platform import components
from marketlake.services.platform.runtime import prepare
from marketlake.settings import LineageSettings, Settings, current_settings
from marketlake.storage.dbt_project import Model
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, LedgerWriter
from marketlake.storage.warehouse import Warehouse
from marketlake.types import ArtifactRef, Partition, RunIdentity
from openlineage.client import event_v2
from openlineage.client import facet_v2 as facet
from openlineage.client.generated import base_subset_dataset as subset
from openlineage.client.serde import Serde

DAY_BEFORE, SESSION = date(2022, 11, 23), date(2022, 11, 25)
AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RUN = RunIdentity("assess_risk", "manual__2026-01-02T03:04:05+00:00", "publish", 2)

# The first example builds the calendar, which takes seconds on a busy machine.
FEW = settings(max_examples=40, deadline=None)
PARTITIONS = st.builds(Partition.of_session, st.dates(date(2010, 1, 4), date(2022, 12, 28)))
REFS = st.builds(
    lambda contract, partition, sha256, rows, folder: ArtifactRef(
        contract.name,
        partition.key,
        f"s3://lake/{folder}{contract.prefix}/{partition.key}/part",
        sha256,
        rows,
        "v1",
    ),
    st.sampled_from([*CATALOG[:4], FEATURES]),
    PARTITIONS | st.builds(Partition.of_year, st.integers(2010, 2022)),
    st.text("0123456789abcdef", min_size=64, max_size=64),
    st.integers(0, 10_000),
    st.sampled_from(["", "_staging/"]),
)


def touched_by(touched: Touched) -> RunContext:
    """Return the context of a run that has touched something, connected to nothing."""
    defaults = Settings()
    return RunContext(
        settings=defaults,
        run=RUN,
        lake=Lake(defaults.lake),
        ledger=LedgerWriter(LedgerClient(defaults.ledger), RUN),
        warehouse=Warehouse(defaults.postgres),
        calendar=Calendar.of("XNYS"),
        code_version="0123456789abcdef",
        touched=touched,
    )


def told(datasets: list[dict[str, Any]], side: str) -> list[tuple[str, str, str]]:
    """Return every partition that an event names, as dataset, partition and content hash."""
    return sorted(
        (dataset["name"], *(f"{kind}={label}" for kind, label in part["dimensions"].items()), sha)
        for dataset in datasets
        if "subset" in dataset[f"{side}Facets"]
        for part in dataset[f"{side}Facets"]["subset"][f"{side}Condition"]["partitions"]
        for sha in [part["identifier"]]
    )


def names(refs: set[ArtifactRef]) -> list[tuple[str, str, str]]:
    return sorted(
        (("_staging/" if "/_staging/" in ref.uri else "") + ref.contract, ref.partition, ref.sha256)
        for ref in refs
    )


@FEW
@given(st.sets(REFS, max_size=12), st.sets(REFS, max_size=12), st.sets(REFS, max_size=3))
def test_everything_read_or_written_is_told_exactly_once(read, written, both):
    ctx = touched_by(Touched(read | both, written | both))

    event = task_event(ctx, "COMPLETE", session=SESSION, at=AT)

    assert told(event["inputs"], "input") == names(read - written - both)
    assert told(event["outputs"], "output") == names(written | both)
    for side in ("inputs", "outputs"):
        datasets = [dataset["name"] for dataset in event[side]]
        assert len(datasets) == len(set(datasets))


def test_each_try_of_each_task_is_a_run_of_its_own_and_stays_the_same_one():
    def run_id(**changed: Any) -> str:
        ctx = touched_by(Touched())
        identity = RunIdentity(**{**vars(RUN), **changed})
        fresh = RunContext(**{**vars(ctx), "run": identity})
        return str(task_event(fresh, "START", session=SESSION, at=AT)["run"]["runId"])

    changes: list[dict[str, Any]] = [
        {}, {"dag_id": "other"}, {"run_id": "other"}, {"task_id": "other"}, {"try_number": 3},
        {"map_index": 0},
    ]  # fmt: skip
    assert len({run_id(**change) for change in changes}) == len(changes)
    assert run_id() == run_id() == str(uuid.UUID(run_id()))


FACETS = {
    "parent": facet.parent_run.ParentRunFacet,
    "nominalTime": facet.nominal_time_run.NominalTimeRunFacet,
    "processing_engine": facet.processing_engine_run.ProcessingEngineRunFacet,
    "tags": facet.tags_run.TagsRunFacet,
    "errorMessage": facet.error_message_run.ErrorMessageRunFacet,
    "jobType": facet.job_type_job.JobTypeJobFacet,
    "schema": facet.schema_dataset.SchemaDatasetFacet,
    "columnLineage": facet.column_lineage_dataset.ColumnLineageDatasetFacet,
    "version": facet.dataset_version_dataset.DatasetVersionDatasetFacet,
    "inputStatistics": facet.input_statistics_input_dataset.InputStatisticsInputDatasetFacet,
    "outputStatistics": facet.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "inputSubset": subset.InputSubsetInputDatasetFacet,
    "outputSubset": subset.OutputSubsetOutputDatasetFacet,
}


def typed(name: str, value: Mapping[str, Any]) -> Any:
    """Rebuild a facet with the official client's class, which knows its names and its schema."""
    content = {key: item for key, item in value.items() if not key.startswith("_")}
    if name == "parent":
        content["run"] = facet.parent_run.Run(**content["run"])
        content["job"] = facet.parent_run.Job(**content["job"])
    if name == "tags":
        content["tags"] = [facet.tags_run.TagsRunFacetFields(**tag) for tag in content["tags"]]
    if name == "schema":
        field = facet.schema_dataset.SchemaDatasetFacetFields
        content["fields"] = [field(**item) for item in content["fields"]]
    if name == "columnLineage":
        content["dataset"] = input_fields(content["dataset"])
        content["fields"] = {
            column: facet.column_lineage_dataset.Fields(input_fields(**inputs))
            for column, inputs in content["fields"].items()
        }
    if name.endswith("Subset"):
        (key,) = content
        assert content[key]["type"] == "partition"
        parts = [subset.Partition(**part) for part in content[key]["partitions"]]
        content[key] = subset.PartitionSubsetCondition(partitions=parts)
    return FACETS[name](**content, producer=value["_producer"])


def input_fields(inputFields: list[dict[str, Any]]) -> list[Any]:
    lineage = facet.column_lineage_dataset
    return [
        lineage.InputField(
            item["namespace"],
            item["name"],
            item["field"],
            [lineage.Transformation(**use) for use in item["transformations"]],
        )
        for item in inputFields
    ]


def facets(values: Mapping[str, Any], side: str = "") -> dict[str, Any]:
    return {
        name: typed(f"{side}Subset" if name == "subset" else name, value)
        for name, value in values.items()
    }


def official(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the official client would have sent for an event."""

    def dataset(value: Mapping[str, Any], side: str, kind: type) -> Any:
        own = {f"{side}Facets": facets(value[f"{side}Facets"], side)}
        return kind(value["namespace"], value["name"], facets=facets(value["facets"]), **own)

    run, job = event["run"], event["job"]
    rebuilt = event_v2.RunEvent(
        eventType=event_v2.RunState(event["eventType"]),
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=event_v2.Run(run["runId"], facets=facets(run["facets"])),
        job=event_v2.Job(job["namespace"], job["name"], facets=facets(job["facets"])),
        inputs=[dataset(item, "input", event_v2.InputDataset) for item in event["inputs"]],
        outputs=[dataset(item, "output", event_v2.OutputDataset) for item in event["outputs"]],
    )
    return without_empty(Serde.to_dict(rebuilt))


def without_empty(value: Any) -> Any:
    """Leave out empty lists and mappings: the client writes them for what is not given."""
    if isinstance(value, Mapping):
        return {key: without_empty(item) for key, item in value.items() if item not in ([], {})}
    return [without_empty(item) for item in value] if isinstance(value, list) else value


MODEL = Model(
    "marts.sector_count",
    ({"name": "sector", "type": "text", "description": "GICS sector"}, {"name": "made_up"}),
    ColumnLineage(
        {
            "sector": (
                InputColumn("core.reference__universe_member", "sector", "DIRECT", "IDENTITY"),
                InputColumn("reference.sector", "sector", "DIRECT", "TRANSFORMATION"),
                InputColumn("reference.sector", "sector", "INDIRECT", "CONDITIONAL"),
            ),
            "made_up": (),
        },
        (InputColumn("core.reference__universe_member", "symbol", "INDIRECT", "FILTER"),),
    ),
)


@FEW
@given(st.sets(REFS, max_size=6), st.sets(REFS, max_size=6))
def test_events_are_those_of_the_official_client(read, written):
    ctx = touched_by(Touched(read, written, {MEMBER.name: 20}, built=[MODEL]))
    for event in (
        task_event(touched_by(Touched()), "START", session=SESSION, at=AT),
        task_event(ctx, "COMPLETE", session=SESSION, at=AT),
        task_event(ctx, "FAIL", session=SESSION, at=AT, error=ValueError("no")),
    ):
        assert official(event) == without_empty(event)


def test_an_event_names_its_session_its_try_in_the_ledger_and_the_run_it_belongs_to():
    event = task_event(touched_by(Touched()), "START", session=SESSION, at=AT)

    assert (event["job"]["namespace"], event["job"]["name"]) == (
        "marketlake",
        "assess_risk.publish",
    )
    said = event["run"]["facets"]
    assert {tag["key"]: tag["value"] for tag in said["tags"]["tags"]} == {
        "session": "2022-11-25",
        "ledger_run": RUN.key,
        "code_version": "0123456789abcdef",
    }
    # The day after Thanksgiving ends at 13:00 in New York.
    assert said["nominalTime"]["nominalStartTime"] == "2022-11-25T14:30:00+00:00"
    assert said["nominalTime"]["nominalEndTime"] == "2022-11-25T18:00:00+00:00"
    assert said["parent"]["job"]["name"] == "assess_risk"


# --- whole tasks, on real stores


class Backend:
    """An OpenLineage backend: keeps what is posted, and answers ``status``."""

    def __init__(self) -> None:
        self.received: list[tuple[str, str | None, bytes]] = []
        self.status = 201
        backend = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                backend.received.append((self.path, self.headers["Authorization"], body))
                self.send_response(backend.status)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_POST()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def backend() -> Iterator[Backend]:
    one = Backend()
    thread = threading.Thread(target=one.server.serve_forever)
    thread.start()
    yield one
    one.server.shutdown()
    thread.join()
    one.server.server_close()


Task = Callable[..., tuple[RunIdentity, Any]]


@pytest.fixture
def task(
    storage_settings: Settings, lake: Lake, ledger: LedgerClient, monkeypatch: pytest.MonkeyPatch
) -> Task:
    """Return a runner of one step as a task of its own, with lineage settings if given."""

    def run(step: Callable[..., Any], run_id: str, **variables: str) -> tuple[RunIdentity, Any]:
        chosen = {
            "HOME": str(storage_settings.home),
            "LAKE__BUCKET": lake.bucket,
            **variables,
        }
        for name, value in chosen.items():
            monkeypatch.setenv(f"MARKETLAKE_{name}", value)
        current_settings.cache_clear()
        dag_run = SimpleNamespace(
            dag_id="test_lineage", run_id=run_id, partition_key=SESSION.isoformat()
        )
        ti = SimpleNamespace(
            dag_id="test_lineage", run_id=run_id, task_id="step", try_number=1, map_index=None
        )
        context: Any = {"dag_run": dag_run, "ti": ti, "params": {}}
        with set_current_context(context):
            return identity_of(context), run_step(step)

    return run


def members(session: date, *symbols: str) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "session": [session for _ in symbols],
            "symbol": list(symbols),
            "sector": ["Energy" for _ in symbols],
            "membership_dated": [False for _ in symbols],
        }
    )


def publish_members(ctx: RunContext, session: date, *parents: ArtifactRef) -> ArtifactRef:
    return ctx.publish(
        MEMBER,
        Partition.of_session(session),
        members(session, "JPM", "XOM"),
        sessions=[session],
        parents=parents,
    )


def publish_the_day_before(ctx: RunContext, session: date) -> ArtifactRef:
    return publish_members(ctx, DAY_BEFORE)


def read_stage_publish_and_load(ctx: RunContext, session: date) -> list[ArtifactRef]:
    # Past the context's own methods, as some steps do.
    table = ctx.lake.read(MEMBER, [DAY_BEFORE], as_of=session)
    staged = ctx.stage(MEMBER, Partition.of_session(session), "part", table)
    published = publish_members(
        ctx, session, ctx.lake.ref(MEMBER, Partition.of_session(DAY_BEFORE))
    )
    ctx.read(MEMBER, [session], as_of=session)
    ctx.warehouse.load(MEMBER, ctx.lake.read(MEMBER, [session], as_of=session), sessions=[session])
    return [staged, published]


def publish_and_fail(ctx: RunContext, session: date) -> None:
    publish_members(ctx, session)
    raise GateFailed(
        expected="good bars",
        was="bad ones",
        where="https://user:hunter2@vendor/?apikey=hunter2",
        todo="look",
    )


def events_of(lake: Lake, run: RunIdentity) -> dict[str, dict[str, Any]]:
    """Return the events of a try that lie in the lake, by state."""
    prefix = f"lineage/session={SESSION}/{run.dag_id}/{run.run_id}/"
    found = {key: json.loads(lake.get_bytes(key)) for key in lake.list_keys(prefix)}
    assert all(key == record_key(run, found[key]["eventType"], session=SESSION) for key in found)
    return {event["eventType"]: event for event in found.values()}


def undelivered(ledger: LedgerClient, run: RunIdentity) -> list[Any]:
    found = ledger.entries("lineage_undelivered", run.dag_id, run_id=run.run_id)
    return [entry.payload["events"] for entry in found]


def test_a_task_tells_what_it_really_read_and_wrote(
    task: Task, lake: Lake, ledger: LedgerClient, warehouse: Warehouse, backend: Backend
) -> None:
    _, earlier = task(publish_the_day_before, "the_day_before")
    run, (staged, published) = task(
        read_stage_publish_and_load,
        "manual__2026-01-02T03:04:05+00:00",
        LINEAGE__URL=backend.url,
        LINEAGE__API_KEY="hunter2",
    )

    events = events_of(lake, run)
    assert events.keys() == {"START", "COMPLETE"}
    assert (events["START"]["inputs"], events["START"]["outputs"]) == ([], [])
    assert told(events["COMPLETE"]["inputs"], "input") == names({ArtifactRef.from_json(earlier)})
    assert told(events["COMPLETE"]["outputs"], "output") == names(
        {ArtifactRef.from_json(staged), ArtifactRef.from_json(published)}
    )
    (loaded,) = (item for item in events["COMPLETE"]["outputs"] if "postgres" in item["namespace"])
    assert loaded["name"] == "warehouse.core.reference__universe_member"
    assert loaded["outputFacets"]["outputStatistics"]["rowCount"] == 2
    assert [path for path, _, _ in backend.received] == ["/api/v1/lineage"] * 2
    assert {authorization for _, authorization, _ in backend.received} == {"Bearer hunter2"}
    (use,) = ledger.entries("secret_access", run.dag_id, run_id=run.run_id)
    assert use.payload["name"] == "MARKETLAKE_LINEAGE__API_KEY"
    assert "hunter2" not in str(use.payload)
    assert [json.loads(body) for _, _, body in backend.received] == [
        events["START"],
        events["COMPLETE"],
    ]
    assert undelivered(ledger, run) == []


def test_a_failing_step_tells_why_and_what_it_had_published_and_no_secret(
    task: Task, lake: Lake
) -> None:
    with pytest.raises(GateFailed):
        task(publish_and_fail, "failing")

    events = events_of(lake, RunIdentity("test_lineage", "failing", "step"))
    assert events.keys() == {"START", "FAIL"}
    message = events["FAIL"]["run"]["facets"]["errorMessage"]["message"]
    assert message.startswith("GateFailed: expected good bars; was bad ones")
    assert "hunter2" not in message
    assert [item["name"] for item in events["FAIL"]["outputs"]] == [MEMBER.name]


@contextmanager
def deaf() -> Iterator[str]:
    """Yield the URL of a backend that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def refusing() -> Iterator[str]:
    """Yield a URL where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(("dead", "reason"), [(deaf, "within 0.3 s"), (refusing, "refused")])
def test_a_dead_backend_is_in_the_ledger_and_the_task_goes_on(
    task: Task, lake: Lake, ledger: LedgerClient, dead: Any, reason: str
) -> None:
    with dead() as url:
        started = time.monotonic()
        run, result = task(
            lambda ctx, session: "done", dead.__name__, LINEAGE__URL=url, LINEAGE__TIMEOUT_S="0.3"
        )
        took_s = time.monotonic() - started

    assert result == "done"
    assert took_s < 3
    assert events_of(lake, run).keys() == {"START", "COMPLETE"}
    (faults,) = undelivered(ledger, run)
    assert faults.keys() == {"START", "COMPLETE"}
    assert reason in faults["COMPLETE"]
    kinds = [entry.kind for entry in ledger.entries(dag_id=run.dag_id, run_id=run.run_id)]
    assert kinds == ["task_started", "snapshot", "lineage_undelivered", "task_finished"]


@pytest.mark.parametrize("status", [302, 401, 500])
def test_an_answer_other_than_yes_is_no_delivery(
    task: Task, ledger: LedgerClient, backend: Backend, status: int
) -> None:
    backend.status = status
    run, _ = task(lambda ctx, session: None, f"answer_{status}", LINEAGE__URL=backend.url)

    (faults,) = undelivered(ledger, run)
    assert all(f"HTTP Error {status}" in fault for fault in faults.values())
    assert len(faults) == len(backend.received) == 2


@pytest.fixture
def own_store(scratch_root: Path) -> Iterator[tuple[Settings, Any]]:
    """Yield an S3 store that a test may stop, with its settings."""
    settings = prepare(scratch_root / f"store-{uuid.uuid4().hex[:8]}", usual_ports=False)
    store = components.seaweedfs(settings)
    store.start()
    Lake(settings.lake).ensure_buckets()
    yield settings, store
    store.stop()
    shutil.rmtree(settings.home)


@pytest.mark.slow
def test_a_lake_that_dies_during_a_step_fails_the_task_but_hides_no_error_of_its_own(
    task: Task, ledger: LedgerClient, own_store: tuple[Settings, Any]
) -> None:
    settings, store = own_store
    variables = {
        "LAKE__ENDPOINT_URL": settings.lake.endpoint_url,
        "LAKE__BUCKET": settings.lake.bucket,
        "LAKE__ACCESS_KEY": settings.lake.access_key.get_secret_value(),
        "LAKE__SECRET_KEY": settings.lake.secret_key.get_secret_value(),
    }

    def stops_the_store(ctx: RunContext, session: date) -> None:
        store.stop()

    def stops_the_store_and_fails(ctx: RunContext, session: date) -> None:
        store.stop()
        raise GateFailed(expected="a", was="b", where="c", todo="d")

    with pytest.raises(GateFailed):
        task(stops_the_store_and_fails, "dying_and_failing", **variables)
    store.start()
    # The first object that a step which ended leaves in the lake is its snapshot.
    with pytest.raises(SourceUnavailable, match="expected an answer of the lake store"):
        task(stops_the_store, "dying", **variables)

    (faults,) = undelivered(ledger, RunIdentity("test_lineage", "dying_and_failing", "step"))
    assert "expected an answer of the lake store" in faults["FAIL"]
    kinds = [entry.kind for entry in ledger.entries(dag_id="test_lineage", run_id="dying")]
    assert kinds == ["task_started", "snapshot", "lineage_undelivered", "task_failed"]


def test_settings_refuse_a_backend_that_is_not_http() -> None:
    with pytest.raises(ValueError, match="url"):
        LineageSettings(url="file:///etc/passwd")


def test_a_documents_statistics_count_no_rows():
    contract = CORE_QUALITY_GATE_REPORT
    ref = ArtifactRef(contract.name, f"session={SESSION}", "s3://lake/x", "ab" * 32, 1, "v1")

    (dataset,) = task_event(touched_by(Touched(written={ref})), "COMPLETE", session=SESSION, at=AT)[
        "outputs"
    ]

    statistics = dataset["outputFacets"]["outputStatistics"]
    assert (statistics["fileCount"], "rowCount" in statistics) == (1, False)


def used(dataset: dict[str, Any], column: str) -> set[tuple[str, str, str]]:
    """Return the columns that one comes from, with where they are."""
    inputs = dataset["facets"]["columnLineage"]["fields"][column]["inputFields"]
    return {(item["namespace"], item["name"], item["field"]) for item in inputs}


def test_features_name_the_columns_of_the_lake_that_they_are_made_from():
    ref = ArtifactRef(FEATURES.name, f"session={SESSION}", "s3://lake/x", "ab" * 32, 1, "v1")
    ctx = touched_by(Touched(written={ref}, loaded={FEATURES.name: 1}))

    in_lake, in_warehouse = task_event(ctx, "COMPLETE", session=SESSION, at=AT)["outputs"]

    bucket = f"s3://{ctx.lake.bucket}"
    assert used(in_lake, "beta_60d") == {
        (bucket, "core_market__daily_bar", "close_usd"),
        (bucket, "core_market__corporate_action", "split_ratio"),
        (bucket, "core_market__corporate_action", "dividend_usd"),
    }
    assert used(in_warehouse, "beta_60d") == {(bucket, FEATURES.name, "beta_60d")}
    for dataset in (in_lake, in_warehouse):
        assert dataset["facets"]["columnLineage"]["fields"].keys() == {
            item["name"] for item in dataset["facets"]["schema"]["fields"]
        }


def test_a_model_is_an_output_and_the_tables_that_its_columns_come_from_are_inputs():
    ctx = touched_by(Touched(built=[MODEL]))

    event = task_event(ctx, "COMPLETE", session=SESSION, at=AT)

    (model,) = event["outputs"]
    assert model["name"] == "warehouse.marts.sector_count"
    assert [item["name"] for item in event["inputs"]] == [
        "warehouse.core.reference__universe_member",
        "warehouse.reference.sector",
    ]
    (member, seed) = event["inputs"]
    assert "sector" in {item["name"] for item in member["facets"]["schema"]["fields"]}
    assert used(model, "made_up") == set()
    assert used(model, "sector") == {
        (dataset["namespace"], dataset["name"], "sector") for dataset in (member, seed)
    }
    told = model["facets"]["columnLineage"]["fields"]["sector"]["inputFields"][1]
    assert told["transformations"] == [
        {"type": "DIRECT", "subtype": "TRANSFORMATION"},
        {"type": "INDIRECT", "subtype": "CONDITIONAL"},
    ]
