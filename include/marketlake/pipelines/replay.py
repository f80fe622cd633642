"""Run recorded steps again, from their snapshots alone, and compare every byte they publish.

A replayed step gets a lake that serves what it read then and nothing else, a ledger that records
nothing, no warehouse and no way to a vendor. What it makes feeds the steps after it by its hash, so
parts that tasks hand to each other may be gone from the lake. What does not belong: how a snapshot
is taken (``snapshots``) and kept (``storage/snapshots.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date, datetime
from importlib import import_module
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from marketlake.calendars import Calendar
from marketlake.contracts import Contract
from marketlake.contracts.catalog import CORE_SIGNALS_SIGNAL
from marketlake.contracts.catalog import contract as contract_of
from marketlake.errors import ConfigError, MarketlakeError, NotFound
from marketlake.pipelines.context import RunContext, Touched, measure_code_version
from marketlake.pipelines.snapshots import FILES, PARAMETERS, parameters
from marketlake.settings import EgressSettings, Settings
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient, LedgerWriter, Receipt
from marketlake.storage.manifest import Manifest
from marketlake.storage.recorded_store import RecordedStore
from marketlake.storage.snapshots import Snapshot, SnapshotEntry, SnapshotObject, Snapshots
from marketlake.storage.warehouse import Loaded, Warehouse
from marketlake.types import ArtifactRef, Partition, RunIdentity

_STEPS = "marketlake.pipelines."
_NOWHERE = EgressSettings(proxy_url="http://127.0.0.1:1")
_VENDOR = "it talks to vendors; what they said is an input of the steps after it"
_RECORDS = "it keeps records, whose bytes carry the real time"
_NOT_REPLAYED = {
    "ingest_market_data.fetch": _VENDOR,
    "load_history.fetch": _VENDOR,
    "build_warehouse.publish": "dbt works in the warehouse; what it publishes is a record",
    "load_history.load_warehouse": "dbt works in the warehouse; what it publishes is a record",
}
_ABOUT_RECORDS = ("archive_lake.", "check_deadlines.", "export_audit.", "publish_docs.")


@dataclass(frozen=True)
class Compared:
    """One thing that a step published, staged or exported: recorded and replayed hash.

    A record carries real times: it may differ.
    """

    artifact: str
    recorded_sha256: str | None
    replayed_sha256: str | None
    record: bool

    @property
    def equal(self) -> bool:
        """Whether the bytes are the same."""
        return self.recorded_sha256 == self.replayed_sha256


@dataclass(frozen=True)
class ReplayedStep:
    """What became of one step. ``skipped`` says why it was not run, ``fault`` what stopped it."""

    snapshot: str
    step: str
    task: str
    session: str
    outputs: tuple[Compared, ...] = ()
    skipped: str | None = None
    fault: str | None = None

    @property
    def failed(self) -> bool:
        """Whether the replay is not what was recorded."""
        return self.fault is not None or any(
            not item.equal and not item.record for item in self.outputs
        )


@dataclass(frozen=True)
class Replay:
    """The replayed steps in their order. ``notes`` say what is not as it was when recorded."""

    steps: tuple[ReplayedStep, ...]
    notes: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether at least one output was compared, and all are the same bytes."""
        compared = [item for step in self.steps for item in step.outputs if not item.record]
        return bool(compared) and not any(step.failed for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        steps = [
            {
                **asdict(step),
                "outputs": [{**asdict(item), "equal": item.equal} for item in step.outputs],
            }
            for step in self.steps
        ]
        return {"identical": self.identical, "steps": steps, "notes": list(self.notes)}


class Replayer:
    """Replays from the snapshots of one lake."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lake = Lake(settings.lake)
        self._snapshots = Snapshots(self._lake, LedgerClient(settings.ledger))
        self._made: dict[str, bytes] = {}
        self._runs: dict[tuple[str, str], list[SnapshotEntry]] = {}
        self._read: dict[str, Snapshot] = {}
        self._not_kept: list[str] = []

    def signals(self, session: date, *, every_session: bool = False) -> Replay:
        """Replay how the signals of a session came about: inputs, features, prediction.

        Steps of other sessions, training among them, count as inputs, unless ``every_session``.
        """
        ref = self._lake.manifest(CORE_SIGNALS_SIGNAL, Partition.of_session(session))
        made_by = self._made_by(ref.run, ref.ref(self._lake.bucket))
        if made_by is None:
            raise _no_snapshot(f"the run that published {CORE_SIGNALS_SIGNAL.name} of {session}")
        return self._replay(self._ancestors(made_by, every_session=every_session))

    def run(self, dag_id: str, run_id: str, task_id: str | None = None) -> Replay:
        """Replay what was recorded of a run, or of one of its tasks."""
        entries = [
            entry
            for entry in self._of_run(dag_id, run_id)
            if task_id is None or entry.run.task_id == task_id
        ]
        if not entries:
            raise _no_snapshot(f"{dag_id}/{run_id}{f'/{task_id}' if task_id else ''}")
        return self._replay(entries)

    def _replay(self, entries: Iterable[SnapshotEntry]) -> Replay:
        steps: list[ReplayedStep] = []
        notes: dict[str, None] = dict.fromkeys(self._not_kept)
        for entry in sorted(entries, key=lambda item: item.ledger_index):
            snapshot = self._snapshot(entry)
            notes |= dict.fromkeys(_changes(snapshot, self._settings))
            steps.append(self._step(entry, snapshot))
        return Replay(tuple(steps), tuple(notes))

    def _step(self, entry: SnapshotEntry, snapshot: Snapshot) -> ReplayedStep:
        name = snapshot.step.removeprefix(_STEPS)
        about = ReplayedStep(entry.name, name, snapshot.run.key, snapshot.session)
        if why := _not_replayed(name):
            return replace(about, skipped=why)
        if gone := self._staged_by_vendor_and_gone(snapshot):
            return replace(about, skipped=gone)
        store = RecordedStore(
            self._settings.lake,
            hashes={(item.key, item.version_id): item.sha256 for item in snapshot.objects},
            newest=_newest(snapshot),
            listed=snapshot.listed,
            made=self._made,
        )
        ctx = _context(self._settings, snapshot, store)
        fault = None
        try:
            _function(snapshot.step)(
                ctx, date.fromisoformat(snapshot.session), **snapshot.arguments_with_refs()
            )
        except MarketlakeError as error:
            if type(error).__name__ != snapshot.error:
                fault = f"{type(error).__name__}: {error}"
        else:
            if snapshot.error is not None:
                fault = f"it ended well; recorded was {snapshot.error}"
        outputs = tuple(_compared(snapshot, ctx, store))
        for ref in ctx.touched.written:
            body = store.put_bytes(_key(ref))
            if body is not None:
                self._made[ref.sha256] = body
        return replace(about, outputs=outputs, fault=fault)

    def _staged_by_vendor_and_gone(self, snapshot: Snapshot) -> str | None:
        """Say so when a step lives on parts that a vendor's step staged and nobody keeps."""
        for place in snapshot.read:
            item = snapshot.objects[place]
            if not item.key.startswith("_staging/") or item.sha256 in self._made:
                continue
            producer = self._producer_in_run(snapshot, item)
            if producer is None or _not_replayed(producer.step.removeprefix(_STEPS)) is None:
                continue
            try:
                self._lake.get_bytes(item.key, version_id=item.version_id)
            except NotFound:
                return (
                    "what a vendor's step handed to it is no longer kept "
                    "(MARKETLAKE_LAKE__UNFINISHED_DAYS); what it published is checked as an input"
                )
            return None
        return None

    def _ancestors(self, last: SnapshotEntry, *, every_session: bool) -> list[SnapshotEntry]:
        """Return a step and those that its inputs come from, as far as they were recorded."""
        found = {last.name: last}
        waiting = [last]
        while waiting:
            snapshot = self._snapshot(waiting.pop())
            for place in snapshot.read:
                item = snapshot.objects[place]
                ref = item.ref(snapshot.bucket)
                if not every_session and ref.partition != f"session={last.session}":
                    continue
                producer = self._producer(snapshot, item, ref)
                if producer is not None and producer.name not in found:
                    found[producer.name] = producer
                    waiting.append(producer)
        return list(found.values())

    def _producer(
        self, snapshot: Snapshot, item: SnapshotObject, ref: ArtifactRef
    ) -> SnapshotEntry | None:
        """Return who made what a step read: of its own run, or of the run in its manifest."""
        own = self._producer_in_run(snapshot, item)
        if own is not None or item.key.startswith("_staging/"):
            return own
        manifest = self._manifest_of(snapshot, ref)
        return None if manifest is None else self._made_by(manifest.run, ref)

    def _producer_in_run(self, snapshot: Snapshot, item: SnapshotObject) -> SnapshotEntry | None:
        for entry in self._of_run(snapshot.run.dag_id, snapshot.run.run_id):
            if entry.run == snapshot.run:
                continue
            other = self._snapshot(entry)
            if any(_is_same(other.objects[place], item) for place in other.wrote):
                return entry
        return None

    def _manifest_of(self, snapshot: Snapshot, ref: ArtifactRef) -> Manifest | None:
        """Return the manifest through which a step found an artifact, or one that published it."""
        key = f"{_key(ref).rpartition('/')[0]}/manifest.json"
        for place in snapshot.newest:
            seen = snapshot.objects[place]
            if seen.key == key:
                body = self._lake.get_bytes(key, version_id=seen.version_id)
                manifest = Manifest.from_json(body, where=key)
                if manifest.version_id == ref.version_id:
                    return manifest
        partition = Partition.parse(ref.partition)
        for manifest in self._lake.history(contract_of(ref.contract), partition):
            # Later runs may have published the same content.
            earlier = _instant(manifest.recorded_at_utc) <= _instant(snapshot.recorded_at_utc)
            if earlier and manifest.version_id == ref.version_id:
                return manifest
        return None

    def _made_by(self, run: RunIdentity, ref: ArtifactRef) -> SnapshotEntry | None:
        for entry in reversed(self._of_run(run.dag_id, run.run_id)):
            own = self._snapshot(entry) if entry.run == run else None
            wrote = [own.objects[place] for place in own.wrote] if own else []
            if (_key(ref), ref.version_id) in {(item.key, item.version_id) for item in wrote}:
                return entry
        return None

    def _of_run(self, dag_id: str, run_id: str) -> list[SnapshotEntry]:
        key = (dag_id, run_id)
        if key not in self._runs:
            self._runs[key] = list(filter(self._is_kept, self._snapshots.entries(dag_id, run_id)))
        return self._runs[key]

    def _is_kept(self, entry: SnapshotEntry) -> bool:
        """Return whether a snapshot is there; a task that died as it wrote it left its name only.

        Its next try recorded another one. What only the lost one told counts as an input.
        """
        try:
            self._snapshot(entry)
        except NotFound:
            self._not_kept.append(
                f"the ledger names {entry.name}, and neither lake nor archive has it"
            )
            return False
        return True

    def _snapshot(self, entry: SnapshotEntry) -> Snapshot:
        if entry.name not in self._read:
            self._read[entry.name] = self._snapshots.read(entry)
        return self._read[entry.name]


class _SilentLedger(LedgerWriter):
    """Takes every entry and keeps none."""

    def __init__(self) -> None:
        pass

    def record(self, kind: str, /, **payload: Any) -> Receipt:
        return Receipt(-1, "")


class _NoWarehouse(Warehouse):
    """Takes every load and changes nothing; there is no Postgres behind it."""

    def __init__(self) -> None:
        pass

    def ensure_schema(self) -> None:
        pass

    def load(self, contract: Contract, table: pa.Table, *, sessions: Sequence[date]) -> Loaded:
        return Loaded(inserted=0, deleted=0)


def _context(settings: Settings, snapshot: Snapshot, store: RecordedStore) -> RunContext:
    recorded = _recorded_settings(settings, snapshot)
    return RunContext(
        settings=recorded,
        run=snapshot.run,
        lake=Lake(recorded.lake, store=store),
        ledger=_SilentLedger(),
        warehouse=_NoWarehouse(),
        calendar=Calendar.of(recorded.market.calendar),
        code_version=snapshot.code_version,
        touched=Touched(),
    )


def _recorded_settings(settings: Settings, snapshot: Snapshot) -> Settings:
    """Return these settings with the recorded parameters, and no way out."""
    values = snapshot.parameters["settings"]
    sections = {}
    try:
        for name in PARAMETERS:
            own = getattr(settings, name)
            sections[name] = (
                type(own).model_validate({**dict(own), **values[name]})
                if isinstance(values[name], dict)
                else values[name]
            )
    except (ValidationError, KeyError) as error:
        raise ConfigError(
            expected="recorded settings that this code version knows",
            was=str(error),
            where=f"the snapshot of {snapshot.run.key}",
            todo=f"replay it with the code version that recorded it, {snapshot.code_version}",
        ) from None
    lake = settings.lake.model_copy(update={"bucket": snapshot.bucket})
    return settings.model_copy(update={**sections, "lake": lake, "egress": _NOWHERE})


def _function(step: str) -> Callable[..., Any]:
    module, _, name = step.rpartition(".")
    if not module.startswith(_STEPS):
        raise ConfigError(
            expected=f"a step of {_STEPS}*",
            was=step,
            where="snapshot",
            todo="only pipeline steps are replayed",
        )
    function: Callable[..., Any] = getattr(import_module(module), name)
    return function


def _changes(snapshot: Snapshot, settings: Settings) -> Iterator[str]:
    """Say what is not as it was: the code, and the files that steps read beside the lake."""
    now = settings.code_version or measure_code_version()
    if snapshot.code_version != now:
        yield f"recorded by code version {snapshot.code_version}, replayed by {now}"
    files = parameters(settings)["files"]
    for name in FILES:
        if snapshot.parameters["files"][name] != files[name]:
            yield f"the market's {name} has changed since"


def _not_replayed(name: str) -> str | None:
    return _NOT_REPLAYED.get(name) or (_RECORDS if name.startswith(_ABOUT_RECORDS) else None)


def _newest(snapshot: Snapshot) -> dict[str, list[str | None]]:
    answers: dict[str, list[str | None]] = {key: [None] for key in snapshot.absent}
    for place in snapshot.newest:
        item = snapshot.objects[place]
        answers.setdefault(item.key, []).append(item.version_id)
    return answers


def _compared(snapshot: Snapshot, ctx: RunContext, store: RecordedStore) -> Iterator[Compared]:
    replayed = {_key(ref): ref for ref in ctx.touched.written}
    recorded = {snapshot.objects[place].key: snapshot.objects[place] for place in snapshot.wrote}
    for key in sorted(recorded.keys() | replayed.keys()):
        ref = replayed.get(key) or recorded[key].ref(snapshot.bucket)
        yield Compared(
            artifact=key,
            recorded_sha256=recorded[key].sha256 if key in recorded else None,
            replayed_sha256=replayed[key].sha256 if key in replayed else None,
            record=contract_of(ref.contract).record,
        )
    for place in snapshot.exported:
        item = snapshot.objects[place]
        yield Compared(item.key, item.sha256, store.put_sha256(item.key), record=False)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _is_same(one: SnapshotObject, other: SnapshotObject) -> bool:
    return (one.key, one.version_id) == (other.key, other.version_id)


def _key(ref: ArtifactRef) -> str:
    """Return the key alone: a restored lake's bucket has another name than the recorded one."""
    return ref.uri.removeprefix("s3://").partition("/")[2]


def _no_snapshot(what: str) -> NotFound:
    return NotFound(
        expected=f"snapshots of {what}",
        was="none",
        where="the ledger's entries of kind snapshot",
        todo="`marketlake snapshots list` shows what there is; steps that ran before there were "
        "snapshots cannot be replayed",
    )
