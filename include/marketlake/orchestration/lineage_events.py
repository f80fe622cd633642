"""What OpenLineage hears of a task: START, then COMPLETE or FAIL, with what it read and wrote.

The ledger is the record; these events are the copy that other tools read. Datasets are contracts,
their partitions sessions, their versions content hashes; of what is computed by column, so is the
lineage: features, warehouse tables, dbt models. The events are plain JSON, because importing the
OpenLineage client would cost every task more than half a CPU second; tests rebuild each event with
the client's own classes. What does not belong here: what a step reads and writes
(``pipelines/context.py`` notes it).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import date, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias
from urllib.request import HTTPRedirectHandler, Request, build_opener

from airflow import __version__ as airflow_version

from marketlake import __version__
from marketlake.clock import utc_now
from marketlake.contracts import Contract
from marketlake.contracts.catalog import CATALOG
from marketlake.contracts.catalog import contract as contract_of
from marketlake.contracts.lineage import LINEAGE, ColumnLineage, InputColumn
from marketlake.errors import MarketlakeError
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.ledger import redact
from marketlake.types import ArtifactRef, Partition, RunIdentity

if TYPE_CHECKING:
    from marketlake.pipelines.context import RunContext
    from marketlake.settings import LineageSettings

State: TypeAlias = Literal["START", "COMPLETE", "FAIL"]
Side: TypeAlias = Literal["input", "output"]

_SPEC = "https://openlineage.io/spec"
_SUBSET = {
    "input": "1-0-0/BaseSubsetDatasetFacet#InputSubsetInputDatasetFacet",
    "output": "1-0-0/BaseSubsetDatasetFacet#OutputSubsetOutputDatasetFacet",
}
_STATISTICS = {
    "input": "1-0-0/InputStatisticsInputDatasetFacet",
    "output": "1-0-2/OutputStatisticsOutputDatasetFacet",
}
_PRODUCER = f"urn:marketlake:{__version__}"
_API_KEY = "MARKETLAKE_LINEAGE__API_KEY"


class TaskLineage:
    """Tells OpenLineage that a task started, and how it ended.

    Every event goes to the lake, and the task fails if the lake does not take it. A backend that
    does not take one is written into the ledger, and the task goes on.
    """

    def __init__(self, ctx: RunContext, session: date) -> None:
        self._ctx = ctx
        self._session = session
        settings = ctx.settings.lineage
        self._backend = None
        if settings.url is not None:
            if settings.api_key is not None:
                ctx.record_secret_access([_API_KEY], purpose="events to the OpenLineage backend")
            self._backend = _Backend(settings, settings.url)

    def __enter__(self) -> Self:
        self._tell("START")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        unwritten: dict[str, str] = {}
        if error is None:
            self._tell("COMPLETE")
        else:
            try:
                self._tell("FAIL", error)
            except MarketlakeError as fault:
                # What stopped the step is the error to see, not this.
                unwritten["FAIL"] = str(fault)
        if self._backend is not None:
            unwritten |= self._backend.undelivered()
        if unwritten:
            self._ctx.ledger.record("lineage_undelivered", events=unwritten)

    def _tell(self, state: State, error: BaseException | None = None) -> None:
        event = task_event(self._ctx, state, session=self._session, at=utc_now(), error=error)
        body = json.dumps(event, sort_keys=True).encode()
        self._ctx.lake.put_record(record_key(self._ctx.run, state, session=self._session), body)
        if self._backend is not None:
            self._backend.send(state, body)


class _Backend:
    """Posts events in order from a thread of its own, so that the task does not wait for them."""

    def __init__(self, settings: LineageSettings, url: str) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/lineage"
        self._timeout_s = settings.timeout_s
        self._headers = {"Content-Type": "application/json"}
        if settings.api_key is not None:
            self._headers["Authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
        self._pool = ThreadPoolExecutor(max_workers=1)
        self._sent: dict[str, Future[None]] = {}

    def send(self, state: State, body: bytes) -> None:
        self._sent[state] = self._pool.submit(self._post, body)

    def undelivered(self) -> dict[str, str]:
        """Wait for what is under way, within the time bound; return why the rest failed."""
        wait(self._sent.values(), timeout=self._timeout_s)
        self._pool.shutdown(wait=False, cancel_futures=True)
        outcomes = {state: self._outcome(future) for state, future in self._sent.items()}
        return {state: fault for state, fault in outcomes.items() if fault is not None}

    def _post(self, body: bytes) -> None:
        # The settings let through http and https only.
        request = Request(self._url, data=body, headers=self._headers)  # noqa: S310
        with build_opener(_NoRedirect).open(request, timeout=self._timeout_s):
            pass

    def _outcome(self, future: Future[None]) -> str | None:
        if future.cancelled() or not future.done():
            return f"no answer of {self._url} within {self._timeout_s:g} s"
        fault = future.exception()
        return None if fault is None else f"{type(fault).__name__}: {fault} ({self._url})"


class _NoRedirect(HTTPRedirectHandler):
    """Followed, a redirect would lose the event (a GET) and hand the key to another host."""

    def redirect_request(self, *_: Any) -> None:
        return None


def record_key(run: RunIdentity, state: State, *, session: date) -> str:
    """Return where in the lake bucket one event of a task's try is kept."""
    mapped = "" if run.map_index < 0 else f"-{run.map_index}"
    name = f"{run.task_id}{mapped}-try{run.try_number}-{state}.json"
    return f"lineage/session={session.isoformat()}/{run.dag_id}/{run.run_id}/{name}"


def task_event(
    ctx: RunContext,
    state: State,
    *,
    session: date,
    at: datetime,
    error: BaseException | None = None,
) -> dict[str, Any]:
    """Build one event from what the run has touched so far; nothing is read or written."""
    run, namespace = ctx.run, ctx.settings.lineage.namespace
    tags = {"session": session.isoformat(), "ledger_run": run.key, "code_version": ctx.code_version}
    facets = {
        "parent": _facet(
            "1-2-0/ParentRunFacet",
            run={"runId": _run_uuid(namespace, f"{run.dag_id}/{run.run_id}")},
            job={"namespace": namespace, "name": run.dag_id},
        ),
        "nominalTime": _facet(
            "1-0-1/NominalTimeRunFacet",
            nominalStartTime=ctx.calendar.open_at(session).isoformat(),
            nominalEndTime=ctx.calendar.close_at(session).isoformat(),
        ),
        "processing_engine": _facet(
            "1-1-1/ProcessingEngineRunFacet", name="Airflow", version=airflow_version
        ),
        "tags": _facet(
            "1-0-0/TagsRunFacet",
            tags=[
                {"key": name, "value": value, "source": "MARKETLAKE"}
                for name, value in tags.items()
            ],
        ),
    }
    if error is not None:
        facets["errorMessage"] = _facet(
            "1-0-1/ErrorMessageRunFacet",
            message=redact(f"{type(error).__name__}: {error}", where="the message of an error"),
            programmingLanguage="PYTHON",
        )
    return {
        "eventType": state,
        "eventTime": at.isoformat(),
        "producer": _PRODUCER,
        "schemaURL": f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": _run_uuid(namespace, run.key), "facets": facets},
        "job": {
            "namespace": namespace,
            "name": f"{run.dag_id}.{run.task_id}",
            "facets": {
                "jobType": _facet(
                    "2-0-4/JobTypeJobFacet",
                    processingType="BATCH",
                    integration="AIRFLOW",
                    jobType="TASK",
                )
            },
        },
        # What a run wrote and read back is not its input.
        "inputs": [
            *_lake_datasets(ctx, ctx.touched.read - ctx.touched.written, "input"),
            *_modelled_datasets(ctx),
        ],
        "outputs": [
            *_lake_datasets(ctx, ctx.touched.written, "output"),
            *_warehouse_datasets(ctx, ctx.touched.loaded),
            *_model_datasets(ctx),
        ],
    }


def _run_uuid(namespace: str, key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"urn:marketlake:run:{namespace}/{key}"))


def _lake_datasets(
    ctx: RunContext, refs: Iterable[ArtifactRef], side: Side
) -> list[dict[str, Any]]:
    """Return one dataset a contract; its staged parts are another, which no reader sees."""
    bucket = f"s3://{ctx.lake.bucket}"
    named: dict[str, list[ArtifactRef]] = {}
    for ref in sorted(refs, key=lambda ref: (ref.contract, ref.partition, ref.sha256, ref.uri)):
        staged = ref.uri.startswith(f"{bucket}/_staging/")
        named.setdefault(f"{'_staging/' if staged else ''}{ref.contract}", []).append(ref)
    return [_lake_dataset(bucket, name, refs, side) for name, refs in named.items()]


def _lake_dataset(bucket: str, name: str, refs: list[ArtifactRef], side: Side) -> dict[str, Any]:
    contract = contract_of(refs[0].contract)
    partitions = [
        {"dimensions": {partition.kind: partition.label}, "identifier": ref.sha256}
        for ref in refs
        for partition in [Partition.parse(ref.partition)]
    ]
    statistics = {"fileCount": len(refs)}
    if contract.form == "parquet":  # a document is one value; only tables have rows
        statistics["rowCount"] = sum(ref.rows for ref in refs)
    facets = {
        "schema": _schema(contract),
        "version": _facet(
            "1-0-1/DatasetVersionDatasetFacet", datasetVersion=_content_version(refs)
        ),
    }
    if side == "output" and contract.name in LINEAGE:
        facets["columnLineage"] = _column_lineage(LINEAGE[contract.name], bucket)
    return {
        "namespace": bucket,
        "name": name,
        "facets": facets,
        f"{side}Facets": {
            "subset": _facet(
                _SUBSET[side],
                **{f"{side}Condition": {"type": "partition", "partitions": partitions}},
            ),
            f"{side}Statistics": _facet(_STATISTICS[side], **statistics),
        },
    }


def _warehouse_datasets(ctx: RunContext, loaded: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the tables that were loaded: column by column what the lake has."""
    return [
        {
            **_relation(ctx, f"{contract.layer}.{contract.table}"),
            "facets": {
                "schema": _schema(contract),
                "columnLineage": _column_lineage(_copied(contract), f"s3://{ctx.lake.bucket}"),
            },
            "outputFacets": {
                "outputStatistics": _facet(_STATISTICS["output"], rowCount=loaded[contract.name])
            },
        }
        for contract in map(contract_of, sorted(loaded))
    ]


def _model_datasets(ctx: RunContext) -> list[dict[str, Any]]:
    """Return the models that dbt built, each column with the source columns it comes from."""
    return [
        {
            **_relation(ctx, model.relation),
            "facets": {
                "schema": _facet("1-2-0/SchemaDatasetFacet", fields=list(model.columns)),
                "columnLineage": _column_lineage(model.lineage, **_relation(ctx, "")),
            },
            "outputFacets": {},
        }
        for model in ctx.touched.built
    ]


def _modelled_datasets(ctx: RunContext) -> list[dict[str, Any]]:
    """Return the sources that the models were built from: contracts' tables, and dbt's seeds."""
    contracts = {f"{item.layer}.{item.table}": item for item in CATALOG if item.warehouse}
    lineages = [model.lineage for model in ctx.touched.built]
    used = {
        item.dataset
        for lineage in lineages
        for inputs in (*lineage.columns.values(), lineage.rows)
        for item in inputs
    }
    return [
        {
            **_relation(ctx, relation),
            "facets": {"schema": _schema(contracts[relation])} if relation in contracts else {},
            "inputFacets": {},
        }
        for relation in sorted(used)
    ]


def _relation(ctx: RunContext, relation: str) -> dict[str, str]:
    postgres = ctx.settings.postgres
    return {
        "namespace": f"postgres://{postgres.host}:{postgres.port}",
        "name": f"{postgres.warehouse_db}.{relation}",
    }


def _copied(contract: Contract) -> ColumnLineage:
    return ColumnLineage(
        {
            item.name: (InputColumn(contract.name, item.name, "DIRECT", "IDENTITY"),)
            for item in contract.fields
        }
    )


def _column_lineage(lineage: ColumnLineage, namespace: str, name: str = "") -> dict[str, Any]:
    """Return the facet; the datasets of the inputs are named below ``namespace`` and ``name``."""

    def inputs(items: Iterable[InputColumn]) -> list[dict[str, Any]]:
        uses: dict[tuple[str, str], list[dict[str, str]]] = {}
        for item in items:
            use = {"type": item.kind, "subtype": item.subtype}
            uses.setdefault((item.dataset, item.column), []).append(use)
        return [
            {
                "namespace": namespace,
                "name": f"{name}{dataset}",
                "field": column,
                "transformations": transformations,
            }
            for (dataset, column), transformations in uses.items()
        ]

    return _facet(
        "1-2-0/ColumnLineageDatasetFacet",
        fields={
            column: {"inputFields": inputs(items)} for column, items in lineage.columns.items()
        },
        dataset=inputs(lineage.rows),
    )


def _schema(contract: Contract) -> dict[str, Any]:
    return _facet(
        "1-2-0/SchemaDatasetFacet",
        fields=[
            {
                "name": item.name,
                "type": item.kind,
                "description": f"{item.doc} [{item.unit}]" if item.unit else item.doc,
            }
            for item in contract.fields
        ],
    )


def _content_version(refs: list[ArtifactRef]) -> str:
    """Return the content's hash; of several partitions, a hash of their names and hashes."""
    if len(refs) == 1:
        return refs[0].sha256
    return sha256_hex("".join(f"{ref.partition}@{ref.sha256}\n" for ref in refs).encode())


def _facet(schema: str, **content: Any) -> dict[str, Any]:
    """Return a facet of the standard; ``schema`` is its version and name, ``1-0-0/TagsRunFacet``.

    A name after ``#`` is of a facet that shares its file with others.
    """
    file, _, name = schema.partition("#")
    place = f"{_SPEC}/facets/{file}.json#/$defs/{name or file.partition('/')[2]}"
    return {"_producer": _PRODUCER, "_schemaURL": place, **content}
