"""The lake: every artifact, published whole or not at all, readable by session.

Belongs here: the layout of the bucket, write-audit-publish, and reads that name their sessions.
Does not belong: how objects travel (``objects``), how content becomes bytes (``canonical``), and
what an artifact looks like (``contracts``).

Layout: ``{layer}/{contract}/session=YYYY-MM-DD/part.parquet`` (or ``part.json``) with a
``manifest.json`` beside it; ``year=YYYY`` likewise for compacted history. Staged parts live under
``_staging/``, publications under way under ``_publishing/``, archive copies under ``archive/``.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any, Literal, TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from marketlake.contracts.arrow import conform, schema, schema_version
from marketlake.contracts.model import Contract
from marketlake.errors import (
    BadPayload,
    ConfigError,
    ContractViolation,
    LookaheadError,
    MissingPartition,
    NotFound,
)
from marketlake.settings import LakeSettings
from marketlake.storage.canonical import (
    canonical_json,
    csv_bytes,
    parquet_bytes,
    parquet_table,
    readable_json,
    sha256_hex,
    table_rows,
)
from marketlake.storage.lifecycle import archived_by, ensure_lifecycle
from marketlake.storage.manifest import Manifest, Published
from marketlake.storage.objects import CONNECTIONS, Listed, ObjectStore, Stored
from marketlake.types import ArtifactRef, Partition, RunIdentity

_MANIFEST = "manifest.json"
_ARCHIVE = "archive/"
_CACHED_TABLE_BYTES = 128 * 1024 * 1024
_CACHED_MANIFESTS = 20_000
_SESSIONS_NAMED = 10
_CONTENT_TYPES = {
    "json": "application/json",
    "csv": "text/csv",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
}

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Lake:
    """Artifacts of one bucket. Threads may share it; a forked process makes its own."""

    def __init__(self, settings: LakeSettings, *, store: ObjectStore | None = None) -> None:
        self.bucket = settings.bucket
        self._settings = settings
        self._store = store or ObjectStore(settings)
        self._tables = _TableCache(_CACHED_TABLE_BYTES)
        self._published: OrderedDict[Listed, Published] = OrderedDict()
        self._published_lock = threading.Lock()

    def ensure_buckets(self) -> None:
        """Create the versioned lake bucket and the locked bucket for records that must stay.

        The lake bucket gets its lifecycle rules too; what is there already is left alone.
        """
        self._store.ensure_versioned_bucket(self.bucket)
        ensure_lifecycle(self._store, self._settings)
        self._store.ensure_locked_bucket(
            self._settings.worm_bucket, retention_days=self._settings.locked_days
        )

    def write(
        self,
        contract: Contract,
        partition: Partition,
        content: pa.Table | Mapping[str, Any],
        *,
        sessions: Sequence[date],
        parents: Sequence[ArtifactRef],
        run: RunIdentity,
        code_version: str,
        recorded_at: datetime,
        export: bytes | None = None,
    ) -> ArtifactRef:
        """Publish one partition: write aside, read back, verify, copy into place, manifest last.

        A reader goes through the manifest to a version of the data, so it sees the artifact
        before or after, never half. Content that is already published keeps its version; only
        the manifest, which is a record, is new.
        """
        covered = _require_sessions(contract, partition, sessions)
        shaped, body = _shape(contract, content)
        # Raw lands as it came, with whatever else the vendor said.
        if isinstance(shaped, pa.Table) and contract.layer != "raw":
            _require_rows_within(contract, shaped, covered)
        exported = _export_body(contract, partition, shaped, export)
        sha256 = sha256_hex(body)
        data_key = f"{contract.prefix}/{partition.key}/{_part_name(contract)}"
        manifest_key = f"{contract.prefix}/{partition.key}/{_MANIFEST}"
        before, supersedes = self._manifest_before(manifest_key)
        _require_sessions_kept(contract, before, covered)
        version_id = self._still_there(before, data_key, sha256) or self._place(
            data_key, body, sha256=sha256, run=run
        )
        export_key = export_version_id = None
        if exported is not None:
            export_key = _export_key(contract, covered[-1])
            export_version_id = self._put(export_key, exported)
        manifest = Manifest(
            contract=contract.name,
            partition=partition.key,
            sha256=sha256,
            rows=shaped.num_rows if isinstance(shaped, pa.Table) else 1,
            schema_version=schema_version(contract),
            data_key=data_key,
            version_id=version_id,
            export_key=export_key,
            export_sha256=None if exported is None else sha256_hex(exported),
            sessions=tuple(session.isoformat() for session in covered),
            parents=tuple(parents),
            run=run,
            code_version=code_version,
            recorded_at_utc=recorded_at.astimezone(UTC).isoformat(),
            supersedes=supersedes,
            export_version_id=export_version_id,
        )
        self._put(manifest_key, manifest.to_json())
        return manifest.ref(self.bucket)

    def as_of(self, recorded_at: datetime) -> Lake:
        """Return the lake as it was published at an instant, for reading only.

        This is the third of a number's times. When it could be known is asked with the ``as_of``
        of a read: a session's ``known_at`` is its close and the slowest source's lag, which grows
        with the session, so the sessions up to one are what was known once that one was.
        """
        from marketlake.storage.past import past_lake

        return past_lake(self, recorded_at, settings=self._settings, store=self._store)

    def read(self, contract: Contract, sessions: Sequence[date], *, as_of: date) -> pa.Table:
        """Return the rows of the named sessions, sorted by key, as they were known ``as_of``.

        A session's own object goes before its year's.

        Raises
        ------
        LookaheadError
            When a session is later than ``as_of``.
        MissingPartition
            When a session is not published; the message names the sessions.
        """
        return self.read_with_refs(contract, sessions, as_of=as_of)[0]

    def read_with_refs(
        self, contract: Contract, sessions: Sequence[date], *, as_of: date
    ) -> tuple[pa.Table, list[ArtifactRef]]:
        """Return what :meth:`read` does, and the sorted references of the partitions read.

        Both come from one listing: a publication beside this read cannot come between the rows
        and what a manifest says that they came from.
        """
        if contract.form != "parquet":
            raise ConfigError(
                expected="a table contract",
                was=f"{contract.name}, which is a document",
                where="Lake.read",
                todo="use lake.read_ref(lake.ref(contract, partition))",
            )
        wanted = sorted(set(sessions))
        if wanted and wanted[-1] > as_of:
            raise LookaheadError(
                expected=f"sessions up to {as_of.isoformat()}",
                was=f"a read of {wanted[-1].isoformat()}",
                where=contract.name,
                todo="read only what was known at the session that is computed",
            )
        chosen = self._covering(contract, wanted)
        tables = [
            _rows_of(contract, table, covers, whole=len(covers) == len(published.sessions))
            for (published, covers), table in zip(
                chosen,
                _in_parallel(lambda item: self._table(contract, item[0]), chosen),
                strict=True,
            )
        ]
        target = schema(contract)
        merged = pa.concat_tables(
            [table.replace_schema_metadata(target.metadata) for table in tables]
            or [target.empty_table()]
        )
        order = [(name, "ascending") for name in contract.key]
        return merged.sort_by(order).combine_chunks(), _sorted_refs(chosen)

    def read_ref(self, ref: ArtifactRef) -> pa.Table | dict[str, Any]:
        """Return exactly the bytes a reference means, as a table or a document.

        Raises
        ------
        BadPayload
            When the stored bytes do not have the reference's hash.
        """
        # Whatever the bucket was called when the reference was made: a restored one may differ.
        key = ref.uri.removeprefix("s3://").partition("/")[2]
        cached = self._tables.get(ref.version_id, ref.sha256)
        if cached is not None:
            return cached
        body = self._verified(key, version_id=ref.version_id, sha256=ref.sha256)
        if key.endswith(".json"):
            document: dict[str, Any] = json.loads(body)
            return document
        table = parquet_table(body)
        self._tables.put(ref.version_id, ref.sha256, table)
        return table

    def ref(self, contract: Contract, partition: Partition) -> ArtifactRef:
        """Return the reference to a published partition; MissingPartition when there is none."""
        return self.manifest(contract, partition).ref(self.bucket)

    def refs_for(self, contract: Contract, sessions: Sequence[date]) -> list[ArtifactRef]:
        """Return the distinct published partitions that cover the sessions, sorted."""
        return _sorted_refs(self._covering(contract, sorted(set(sessions))))

    def manifest(self, contract: Contract, partition: Partition) -> Manifest:
        """Return a partition's manifest; MissingPartition when it is not published."""
        key = f"{contract.prefix}/{partition.key}/{_MANIFEST}"
        try:
            return Manifest.from_json(self._store.get(self.bucket, key).body, where=key)
        except NotFound:
            raise _missing(contract, partition.key) from None

    def history(self, contract: Contract, partition: Partition) -> Iterator[Manifest]:
        """Yield every manifest of a partition, the newest first."""
        key = f"{contract.prefix}/{partition.key}/{_MANIFEST}"
        manifest = self.manifest(contract, partition)
        yield manifest
        while manifest.supersedes is not None:
            body = self.get_bytes(key, version_id=manifest.supersedes)
            manifest = Manifest.from_json(body, where=key)
            yield manifest

    def manifests(self, contract: Contract) -> list[Manifest]:
        """Return the manifest of every published partition, sorted by partition."""
        listed = self._manifest_keys(contract)
        bodies = _in_parallel(lambda item: self._store.get(self.bucket, item.key).body, listed)
        return [
            Manifest.from_json(body, where=item.key)
            for item, body in zip(listed, bodies, strict=True)
        ]

    def partitions(self, contract: Contract) -> list[Partition]:
        """Return every published partition, sorted."""
        return sorted(_partition_of(item.key) for item in self._manifest_keys(contract))

    def published_sessions(self, contract: Contract) -> list[date]:
        """Return every session that a published partition covers, sorted."""
        partitions = self.partitions(contract)
        days = {item.session for item in partitions if item.kind == "session"}
        for year in self._years(contract):
            days |= {date.fromisoformat(session) for session in year.sessions}
        return sorted(days)

    def stage(
        self,
        contract: Contract,
        partition: Partition,
        part: str,
        content: pa.Table | Mapping[str, Any],
        *,
        run: RunIdentity,
    ) -> ArtifactRef:
        """Store a part of an artifact for a later task; no read of the contract sees it."""
        shaped, body = _shape(contract, content)
        name = f"{part}.{'json' if contract.form == 'json' else 'parquet'}"
        key = f"_staging/{contract.prefix}/{partition.key}/{_run_digest(run)}/{name}"
        version_id = self._put(key, body)
        return ArtifactRef(
            contract=contract.name,
            partition=partition.key,
            uri=f"s3://{self.bucket}/{key}",
            sha256=sha256_hex(body),
            rows=shaped.num_rows if isinstance(shaped, pa.Table) else 1,
            version_id=version_id,
        )

    def archived_by(self) -> Literal["transition", "copy", "nothing"]:
        """Return how old raw artifacts are archived in this bucket."""
        return archived_by(self._store, self._settings)

    def archive(self, manifest: Manifest) -> ArtifactRef | None:
        """Copy a published partition below ``archive/``, its hash checked; None if it is there.

        The original stays, and readers keep reading it. The copy's manifest comes last, so a copy
        that has one is whole.
        """
        key = f"{manifest.data_key.rpartition('/')[0]}/{_MANIFEST}"
        body = manifest.to_json()
        try:
            if self._store.get(self.bucket, _ARCHIVE + key).body == body:
                return None
        except NotFound:
            pass
        to = _ARCHIVE + manifest.data_key
        present = self._store.present_version(self.bucket, manifest.data_key, manifest.version_id)
        version_id = self._store.copy(self.bucket, manifest.data_key, present, to=to)
        self._verified(to, version_id=version_id, sha256=manifest.sha256)
        self._put(_ARCHIVE + key, body)
        return replace(
            manifest.ref(self.bucket), uri=f"s3://{self.bucket}/{to}", version_id=version_id
        )

    def get_bytes(self, key: str, *, version_id: str | None = None) -> bytes:
        """Return an object of the lake bucket, or one version of it; NotFound if there is none."""
        return self._get(key, version_id)

    @cached_property
    def names(self) -> frozenset[str]:
        """The bucket's name, and those it had before it was restored from a backup."""
        return frozenset({self.bucket, *self._store.restored(self.bucket).names})

    def list_keys(self, prefix: str) -> list[str]:
        """Return every key of the lake bucket below a prefix, sorted."""
        return [item.key for item in self._store.list(self.bucket, prefix)]

    def get_record(self, key: str) -> Stored:
        """Return a record's bytes with their version; NotFound if there is none."""
        return self._store.get(self.bucket, key)

    def remove_record(self, key: str, version_id: str) -> None:
        """Remove one version of a record that is kept elsewhere; nothing of it stays."""
        self._store.delete(self.bucket, key, version_id)

    def put_record(self, key: str, body: bytes) -> str:
        """Store a record, such as a log, that no contract shapes; return its version."""
        return self._put(key, body)

    def _put(self, key: str, body: bytes) -> str:
        return self._store.put(self.bucket, key, body, content_type=_content_type(key))

    def _place(self, data_key: str, body: bytes, *, sha256: str, run: RunIdentity) -> str:
        """Write aside, read back, verify, copy into place; return the version in place."""
        aside = f"_publishing/{_run_digest(run)}/{data_key}"
        written = self._put(aside, body)
        self._verified(aside, version_id=written, sha256=sha256)
        version_id = self._store.copy(self.bucket, aside, written, to=data_key)
        self._store.delete(self.bucket, aside, written)
        return version_id

    def _manifest_before(self, key: str) -> tuple[Manifest | None, str | None]:
        try:
            stored = self._store.get(self.bucket, key)
        except NotFound:
            return None, None
        return Manifest.from_json(stored.body, where=key), stored.version_id

    def _still_there(self, before: Manifest | None, data_key: str, sha256: str) -> str | None:
        """Return the published version when it holds the same content, and really does.

        It must be the newest one: after a publication that stopped half-way it is not, and the
        store would one day expire it as superseded.
        """
        if before is None or (before.data_key, before.sha256) != (data_key, sha256):
            return None
        try:
            newest = self._store.get(self.bucket, data_key)
        except NotFound:
            return None
        kept = newest.version_id == before.version_id and sha256_hex(newest.body) == sha256
        return before.version_id if kept else None

    def _verified(self, key: str, *, version_id: str, sha256: str) -> bytes:
        body = self._get(key, version_id)
        found = sha256_hex(body)
        if found != sha256:
            raise BadPayload(
                expected=f"bytes with SHA-256 {sha256}",
                was=f"bytes with SHA-256 {found}",
                where=f"s3://{self.bucket}/{key} version {version_id}",
                todo="the store changed what was written: check its disk, then publish again",
            )
        return body

    def _get(self, key: str, version_id: str | None) -> bytes:
        return self._store.get(self.bucket, key, version_id=version_id).body

    def _table(self, contract: Contract, published: Published) -> pa.Table:
        if published.schema_version != schema_version(contract):
            raise ContractViolation(
                expected=f"schema version {schema_version(contract)}",
                was=f"{published.schema_version}, written before the contract changed",
                where=f"{contract.name}/{published.ref.partition}",
                todo="publish the partition again (`marketlake backfill` for its sessions)",
            )
        return self.read_ref(published.ref)

    def _covering(
        self, contract: Contract, wanted: Sequence[date]
    ) -> list[tuple[Published, list[date]]]:
        """Return the partitions to read, each with the wanted sessions it is read for."""
        if not wanted:
            return []
        # The day before, so that the store starts at the first session's own keys.
        first, last = wanted[0] - timedelta(days=1), wanted[-1]
        keys = {
            f"{contract.prefix}/session={session.isoformat()}/{_MANIFEST}" for session in wanted
        }
        listed = [
            item
            for item in self._store.list(
                self.bucket,
                f"{contract.prefix}/session=",
                after=f"{contract.prefix}/session={first.isoformat()}~",
                until=f"{contract.prefix}/session={last.isoformat()}~",
            )
            if item.key in keys
        ]
        chosen = [
            (item, [date.fromisoformat(session) for session in item.sessions])
            for item in self._read_published(listed)
        ]
        left = set(wanted) - {session for _, covers in chosen for session in covers}
        if left:
            for year in self._years(contract):
                covers = sorted(left & {date.fromisoformat(item) for item in year.sessions})
                if covers:
                    chosen.append((year, covers))
                    left -= set(covers)
        if left:
            named = ", ".join(session.isoformat() for session in sorted(left)[:_SESSIONS_NAMED])
            more = f" and {len(left) - _SESSIONS_NAMED} more" if len(left) > _SESSIONS_NAMED else ""
            raise _missing(contract, named + more)
        return chosen

    def _years(self, contract: Contract) -> list[Published]:
        return self._read_published(self._manifest_keys(contract, "year="))

    def _manifest_keys(self, contract: Contract, kind: str = "") -> list[Listed]:
        listed = self._store.list(self.bucket, f"{contract.prefix}/{kind}")
        return [item for item in listed if item.key.endswith(f"/{_MANIFEST}")]

    def _read_published(self, listed: Sequence[Listed]) -> list[Published]:
        """Return what the manifests say; a manifest that did not change is read once."""
        return _in_parallel(self._read_one_published, listed)

    def _read_one_published(self, item: Listed) -> Published:
        with self._published_lock:
            known = self._published.get(item)
        if known is not None:
            return known
        body = self._store.get(self.bucket, item.key).body
        published = Manifest.from_json(body, where=item.key).published(self.bucket)
        with self._published_lock:
            self._published[item] = published
            if len(self._published) > _CACHED_MANIFESTS:
                self._published.popitem(last=False)
        return published


class _TableCache:
    """The tables read last, by version, bounded in bytes. Tables are immutable, so shared."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._tables: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, version_id: str, sha256: str) -> pa.Table | None:
        """Return a table that was read before, else None."""
        with self._lock:
            table = self._tables.get((version_id, sha256))
            if table is not None:
                self._tables.move_to_end((version_id, sha256))
            return table

    def put(self, version_id: str, sha256: str, table: pa.Table) -> None:
        """Keep a table, and let go of those not used for longest."""
        with self._lock:
            if (version_id, sha256) in self._tables or table.nbytes > self._limit_bytes:
                return
            self._tables[version_id, sha256] = table
            self._held_bytes += table.nbytes
            while self._held_bytes > self._limit_bytes:
                _, dropped = self._tables.popitem(last=False)
                self._held_bytes -= dropped.nbytes


def _in_parallel(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(CONNECTIONS, len(items))) as pool:
        return list(pool.map(function, items))


def _shape(
    contract: Contract, content: pa.Table | Mapping[str, Any]
) -> tuple[pa.Table | Mapping[str, Any], bytes]:
    """Return the content in its contract's shape, and its canonical bytes."""
    if contract.form == "parquet" and isinstance(content, pa.Table):
        table = conform(contract, content)
        return table, parquet_bytes(table)
    if contract.form == "json" and isinstance(content, Mapping):
        missing = [item.name for item in contract.fields if item.name not in content]
        if missing:
            raise ContractViolation(
                expected=f"the members {', '.join(item.name for item in contract.fields)}",
                was=f"a document without {', '.join(missing)}",
                where=contract.name,
                todo=f"correct what {contract.owner} computes",
            )
        return content, canonical_json(content, where=contract.name)
    raise ContractViolation(
        expected="a pyarrow Table" if contract.form == "parquet" else "a mapping",
        was=type(content).__name__,
        where=contract.name,
        todo=f"correct what {contract.owner} hands to the lake",
    )


def _require_sessions(
    contract: Contract, partition: Partition, sessions: Sequence[date]
) -> list[date]:
    """Return the sessions sorted; they must be the partition's own."""
    covered = sorted(set(sessions))
    labels = {session.isoformat()[: len(partition.label)] for session in covered}
    if labels != {partition.label} or (partition.kind == "session" and len(covered) != 1):
        raise ConfigError(
            expected=f"sessions of {partition.key}",
            was=", ".join(session.isoformat() for session in covered[:_SESSIONS_NAMED]) or "none",
            where=f"Lake.write of {contract.name}",
            todo="name the sessions that the partition covers, empty ones too",
        )
    return covered


def _require_sessions_kept(
    contract: Contract, before: Manifest | None, covered: Iterable[date]
) -> None:
    """Refuse a shorter year in place of a longer one: readers would lose published sessions."""
    if before is None:
        return
    lost = sorted(set(before.sessions) - {session.isoformat() for session in covered})
    if lost:
        raise ContractViolation(
            expected="a year that keeps its sessions",
            was=f"one without {len(lost)} of them: " + ", ".join(lost[:_SESSIONS_NAMED]),
            where=f"{contract.name}/{before.partition}",
            todo="publish the year through its last published session or later",
        )


def _require_rows_within(contract: Contract, table: pa.Table, covered: Iterable[date]) -> None:
    if "session" not in table.column_names:
        return
    strays = sorted(set(pc.unique(table.column("session")).to_pylist()) - set(covered))
    if strays:
        raise ContractViolation(
            expected="rows of the partition's own sessions",
            was="rows of " + ", ".join(day.isoformat() for day in strays[:_SESSIONS_NAMED]),
            where=contract.name,
            todo=f"correct what {contract.owner} computes",
        )


def _sorted_refs(chosen: Iterable[tuple[Published, list[date]]]) -> list[ArtifactRef]:
    return sorted((published.ref for published, _ in chosen), key=lambda ref: ref.partition)


def _rows_of(contract: Contract, table: pa.Table, covers: list[date], *, whole: bool) -> pa.Table:
    # A raw table may also have rows of sessions that it does not stand for.
    if whole and (contract.layer != "raw" or "session" not in table.column_names):
        return table
    if "session" not in table.column_names:
        raise ConfigError(
            expected="a contract with a session column, or a read of whole partitions",
            was=f"a read of {len(covers)} sessions out of a larger partition",
            where=contract.name,
            todo="use lake.read_ref on the partition's reference",
        )
    return table.filter(pc.is_in(table.column("session"), value_set=pa.array(covers, pa.date32())))


def _export_body(
    contract: Contract,
    partition: Partition,
    content: pa.Table | Mapping[str, Any],
    given: bytes | None,
) -> bytes | None:
    """Return the bytes of the file a person asked for by name, or None where there is none."""
    if contract.export is None and given is not None:
        raise ConfigError(
            expected="export bytes only for a contract that has an export",
            was=f"{len(given)} bytes",
            where=f"Lake.write of {contract.name}",
            todo="declare the export in contracts/catalog.py",
        )
    if contract.export is None or partition.kind == "year" or given is not None:
        return None if partition.kind == "year" else given
    if contract.export.form == "csv" and isinstance(content, pa.Table):
        return csv_bytes(content)
    if contract.export.form == "json":
        value = table_rows(content) if isinstance(content, pa.Table) else content
        return readable_json(value, where=contract.name)
    raise ConfigError(
        expected=f"the bytes of the {contract.export.form} export",
        was="none",
        where=f"Lake.write of {contract.name}",
        todo="render them and pass export=",
    )


def _export_key(contract: Contract, session: date) -> str:
    if contract.export is None:
        raise AssertionError(contract.name)
    return contract.export.pattern.format(
        yyyymmdd=session.strftime("%Y%m%d"), yyyymm=session.strftime("%Y%m")
    )


def _part_name(contract: Contract) -> str:
    return "part.json" if contract.form == "json" else "part.parquet"


def _partition_of(manifest_key: str) -> Partition:
    return Partition.parse(manifest_key.rsplit("/", 2)[1])


def _run_digest(run: RunIdentity) -> str:
    # Run ids hold characters that keys should not.
    return sha256_hex(run.key.encode())[:16]


def _content_type(key: str) -> str:
    return _CONTENT_TYPES.get(key.rsplit(".", 1)[-1], "application/octet-stream")


def _missing(contract: Contract, what: str) -> MissingPartition:
    return MissingPartition(
        expected=f"{contract.name} published for {what}",
        was="nothing published",
        where=f"{contract.prefix}/",
        todo=f"run {contract.owner} for it (`marketlake backfill`), or wait until it has run",
    )
