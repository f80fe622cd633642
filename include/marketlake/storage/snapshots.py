"""Snapshots: what a step saw, what it made of it, and with what parameters; enough to do it again.

A snapshot holds references, never data: the lake keeps every version once, whoever refers to it.
Its own hash is in the ledger, under its name, which the ledger gives once: two steps that end in
one second get two names. Old ones lie in one compressed object a month and are read from there.
What does not belong: which step makes one (``pipelines/snapshots.py``), and running it again.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from marketlake.errors import BadPayload, ConfigError, ContractViolation, NotFound
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import Entry, LedgerClient, Recorded
from marketlake.types import ArtifactRef, RunIdentity

FOLDER = "snapshots/"
_ARCHIVES = "archive/snapshots/"
_KIND = "snapshot"
_NAME = re.compile(r"^snapshots/\w+/snapshot_(\d{6})\d\d_\d{6}(_\d+)?\.json$")
_NAMES_A_SECOND = 1000
_EVERY_ENTRY = 10_000_000
_COMPRESSION_LEVEL = 12
_OBJECT = "$object"


@dataclass(frozen=True, order=True)
class SnapshotObject:
    """One version of one object. ``bytes`` is None where a step named it and did not read it."""

    key: str
    version_id: str
    sha256: str | None
    bytes: int | None
    rows: int | None

    def ref(self, bucket: str) -> ArtifactRef:
        """Return the reference that a step was given of it."""
        parts = self.key.removeprefix("_staging/").split("/")
        return ArtifactRef(
            contract=parts[1],
            partition=parts[2],
            uri=f"s3://{bucket}/{self.key}",
            sha256=self.sha256 or "",
            rows=self.rows or 0,
            version_id=self.version_id,
        )


@dataclass(frozen=True)
class Snapshot:
    """One step: who ran it, when, on what, and what came out.

    ``read``, ``wrote``, ``exported`` and ``newest`` are places in ``objects``: artifacts read,
    published or staged, named files, and what was the newest version of its key (in the order in
    which it was asked). ``absent`` were looked for and not there; ``listed`` were seen, not read.
    ``arguments`` has objects in place of references. ``error`` is what stopped the step.
    """

    step: str
    session: str
    category: str
    moment: str
    run: RunIdentity
    recorded_at_utc: str
    code_version: str
    parameters: Mapping[str, Any]
    arguments: Mapping[str, Any]
    error: str | None
    bucket: str
    objects: tuple[SnapshotObject, ...]
    read: tuple[int, ...]
    wrote: tuple[int, ...]
    exported: tuple[int, ...]
    newest: tuple[int, ...]
    absent: tuple[str, ...]
    listed: tuple[str, ...]
    loaded: Mapping[str, int]

    def to_json(self) -> bytes:
        """Return canonical JSON: sorted and compact, each object a row."""
        value = {item.name: getattr(self, item.name) for item in fields(self)}
        value |= {
            "format": 1,
            "run": asdict(self.run),
            "objects": [
                [item.key, item.version_id, item.sha256, item.bytes, item.rows]
                for item in self.objects
            ],
        }
        return json.dumps(
            value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()

    @classmethod
    def from_json(cls, content: bytes, *, where: str) -> Snapshot:
        """Rebuild a snapshot; BadPayload when the bytes are not one."""
        try:
            value: dict[str, Any] = json.loads(content)
            if value.pop("format") != 1:
                raise ValueError("another format")
            places = ("read", "wrote", "exported", "newest", "absent", "listed")
            value |= {name: tuple(value[name]) for name in places}
            value["objects"] = tuple(SnapshotObject(*row) for row in value["objects"])
            value["run"] = RunIdentity(**value["run"])
            return cls(**value)
        except (ValueError, TypeError, KeyError) as error:
            raise BadPayload(
                expected="a snapshot of format 1",
                was=f"{type(error).__name__}: {error}",
                where=where,
                todo="compare its hash with the ledger's entry of its name",
            ) from error

    @property
    def referenced_bytes(self) -> int:
        """Return how much a copy of everything read and written would take."""
        return sum(item.bytes or 0 for item in self.objects)

    def arguments_with_refs(self) -> dict[str, Any]:
        """Return the arguments with references again."""
        rebuilt: dict[str, Any] = json.loads(json.dumps(self.arguments), object_hook=self._rebuilt)
        return rebuilt

    def _rebuilt(self, value: dict[str, Any]) -> Any:
        if value.keys() == {_OBJECT}:
            return self.objects[value[_OBJECT]].ref(self.bucket)
        return value


def arguments_with_places(arguments: Mapping[str, Any], places: Mapping[str, int]) -> Any:
    """Return JSON-ready arguments: references (by URI and version) become places in ``objects``."""

    def place(value: Any) -> dict[str, int]:
        if isinstance(value, ArtifactRef):
            return {_OBJECT: places[f"{value.uri}@{value.version_id}"]}
        raise TypeError(f"{type(value).__name__} is not JSON")

    return json.loads(json.dumps(dict(arguments), default=place))


def refs_in(value: Any) -> Iterator[ArtifactRef]:
    """Yield the references in arguments, at any depth."""
    if isinstance(value, ArtifactRef):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from refs_in(item)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            yield from refs_in(item)


@dataclass(frozen=True)
class SnapshotEntry:
    """What the ledger says of a snapshot."""

    name: str
    sha256: str
    bytes: int
    referenced_bytes: int
    n_objects: int
    step: str
    session: str
    moment: str
    error: str | None
    bucket: str
    run: RunIdentity
    recorded_at_utc: str
    ledger_index: int

    @property
    def month(self) -> str:
        """Return the exchange-local month of its recording, YYYYMM."""
        return _month(self.name)


class Snapshots:
    """The snapshots of one lake. Listings come from the ledger, bytes from the lake or archive."""

    def __init__(self, lake: Lake, ledger: LedgerClient) -> None:
        self._lake = lake
        self._ledger = ledger
        self._archive: tuple[str, dict[str, bytes]] | None = None

    def write(self, snapshot: Snapshot, *, local: datetime) -> str:
        """Keep a snapshot under the next free name of its second and return the name.

        ``local`` is the recording time on the exchange's clock.
        """
        body = snapshot.to_json()
        payload = {
            "sha256": sha256_hex(body),
            "bytes": len(body),
            "referenced_bytes": snapshot.referenced_bytes,
            "n_objects": len(snapshot.objects),
            "step": snapshot.step,
            "session": snapshot.session,
            "moment": snapshot.moment,
            "error": snapshot.error,
            "bucket": snapshot.bucket,
            "run": asdict(snapshot.run),
        }
        stem = f"{FOLDER}{snapshot.category}/snapshot_{local:%Y%m%d_%H%M%S}"
        for number in itertools.count(1):
            name = f"{stem}.json" if number == 1 else f"{stem}_{number}.json"
            entry = Entry(name, _KIND, {**payload, "name": name}, snapshot.recorded_at_utc)
            try:
                self._ledger.append([entry])
            except ContractViolation:  # the name is taken
                if number == _NAMES_A_SECOND:
                    raise
                continue
            break
        self._lake.put_record(name, body)
        return name

    def entries(self, dag_id: str | None = None, run_id: str | None = None) -> list[SnapshotEntry]:
        """Return this lake's snapshots in the order in which they were recorded."""
        found = self._ledger.entries(_KIND, dag_id, run_id=run_id, limit=_EVERY_ENTRY)
        entries = map(_entry, found)
        return [entry for entry in entries if entry.bucket in self._lake.names]

    def read(self, entry: SnapshotEntry) -> Snapshot:
        """Return a snapshot, its hash held against the ledger's, from the archive if need be."""
        body = self.body(entry.name)
        _require_hash(entry, body)
        return Snapshot.from_json(body, where=entry.name)

    def body(self, name: str) -> bytes:
        """Return the bytes of a snapshot by its name; NotFound when it is nowhere."""
        try:
            return self._lake.get_record(name).body
        except NotFound as error:
            month = _month(name)
            if self._archive is None or self._archive[0] != month:
                self._archive = (month, self.archived(month))
            if name not in self._archive[1]:
                raise error from None
            return self._archive[1][name]

    def archived(self, month: str) -> dict[str, bytes]:
        """Return the archived snapshots of a month by name; none when it is not archived."""
        try:
            return unpacked(self._lake.get_record(archive_key(month)).body)
        except NotFound:
            return {}

    def archive(self, month: str, names: Iterable[str]) -> tuple[int, int, int]:
        """Move snapshots of a month into its archive; return how many, their bytes, and its own.

        Each must have the hash that the ledger has. They are removed once the archive was read
        back whole.
        """
        known = {entry.name: entry for entry in self.entries() if entry.month == month}
        stored = {name: self._lake.get_record(name) for name in sorted(names)}
        for name, own in stored.items():
            if name not in known:
                raise BadPayload(
                    expected="snapshots that the ledger knows",
                    was=name,
                    where=f"s3://{self._lake.bucket}/{name}",
                    todo="remove it if somebody put it there by hand",
                )
            _require_hash(known[name], own.body)
        members = self.archived(month) | {name: own.body for name, own in stored.items()}
        packed = pack(members)
        self._lake.put_record(archive_key(month), packed)
        if self.archived(month) != members:
            raise BadPayload(
                expected="an archive that holds what was put into it",
                was="another one",
                where=f"s3://{self._lake.bucket}/{archive_key(month)}",
                todo="look at the store's disk, then clear the task; nothing was removed",
            )
        for name, own in stored.items():
            self._lake.remove_record(name, own.version_id)
        return len(stored), sum(len(own.body) for own in stored.values()), len(packed)

    def restore(self, month: str) -> list[str]:
        """Put the archived snapshots of a month back under their names; the archive stays.

        Raises
        ------
        NotFound
            When the month is not archived.
        """
        members = self.archived(month)
        if not members:
            raise NotFound(
                expected=f"an archive of {month} (YYYYMM)",
                was="none",
                where=f"s3://{self._lake.bucket}/{archive_key(month)}",
                todo="`marketlake snapshots list` shows what there is",
            )
        there = set(self._lake.list_keys(FOLDER))
        missing = sorted(members.keys() - there)
        for name in missing:
            self._lake.put_record(name, members[name])
        return missing

    def months(self) -> dict[str, list[str]]:
        """Return the names of the snapshots that lie outside the archive, by month."""
        names = [name for name in self._lake.list_keys(FOLDER) if _NAME.match(name)]
        return {
            month: list(own)
            for month, own in itertools.groupby(sorted(names, key=_month), key=_month)
        }


def archive_key(month: str) -> str:
    """Return where the snapshots of a month (YYYYMM) are archived."""
    return f"{_ARCHIVES}{month}.tar.zst"


def pack(members: Mapping[str, bytes]) -> bytes:
    """Return a compressed tar; the same members give the same bytes.

    Snapshots of one step differ little from session to session, and Zstandard looks back far
    enough to see it; the compression of gzip does not.
    """
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, body in sorted(members.items()):
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    codec = pa.Codec("zstd", compression_level=_COMPRESSION_LEVEL)
    packed: bytes = codec.compress(content.getvalue(), asbytes=True)
    return packed


def unpacked(packed: bytes) -> dict[str, bytes]:
    """Return the members of :func:`pack`."""
    with pa.CompressedInputStream(pa.BufferReader(packed), "zstd") as stream:
        content = io.BytesIO(stream.read())
    with tarfile.open(fileobj=content) as archive:
        return {
            info.name: body.read()
            for info in archive
            if (body := archive.extractfile(info)) is not None
        }


def _entry(found: Recorded) -> SnapshotEntry:
    payload = dict(found.payload)
    run = RunIdentity(**payload.pop("run"))
    return SnapshotEntry(
        **payload, run=run, recorded_at_utc=found.recorded_at_utc, ledger_index=found.index
    )


def _require_hash(entry: SnapshotEntry, body: bytes) -> None:
    found = sha256_hex(body)
    if found != entry.sha256:
        raise BadPayload(
            expected=f"a snapshot with SHA-256 {entry.sha256}",
            was=found,
            where=f"{entry.name}, ledger entry {entry.ledger_index}",
            todo="it was changed after it was recorded: keep everything as it is",
        )


def _month(name: str) -> str:
    match = _NAME.match(name)
    if match is None:
        raise ConfigError(
            expected="a name such as snapshots/signals/snapshot_20221228_161502.json",
            was=name,
            where="snapshots",
            todo="`marketlake snapshots list` shows the names",
        )
    return match[1]
