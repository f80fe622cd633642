"""Which artifacts exist, and how many of the named files of the specification do."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

from marketlake.contracts import Contract
from marketlake.contracts.catalog import CATALOG, contract
from marketlake.contracts.spec_files import SPEC_FILES, SpecFile
from marketlake.errors import BadPayload, MissingPartition, NotFound
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest
from marketlake.types import Partition

_YEAR_DIGITS = 4
_PLACEHOLDERS = {"yyyymmdd": "YYYYMMDD", "yyyymm": "YYYYMM", "hh": "HH", "hhmmss": "HHMMSS"}


@dataclass(frozen=True)
class PublishedArtifact:
    """One published partition as a person asks for it."""

    contract: str
    partition: str
    rows: int
    sha256: str
    uri: str
    export_uri: str | None
    recorded_at_utc: str
    dag_id: str
    run_id: str
    code_version: str

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)


@dataclass(frozen=True)
class SpecFileStatus:
    """One named file: where its newest edition is, or nothing when it is not built yet."""

    file: str
    section: str
    produced_by: str
    rows: int | None
    sha256: str | None
    contract: str
    session: str | None
    uri: str | None

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready mapping."""
        return asdict(self)


def artifacts(lake: Lake, session: date | None = None) -> list[PublishedArtifact]:
    """Return every published artifact in the order of the daily run; of one session if given.

    A session's artifact is its own partition, or the year that covers it.
    """
    return [
        _artifact(manifest, lake.bucket)
        for item in CATALOG
        for manifest in _of_session(lake.manifests(item), session)
    ]


def spec_coverage(lake: Lake, session: date | None = None) -> list[SpecFileStatus]:
    """Return every named file with its newest edition up to ``session`` (any, if not given)."""
    contracts = {item.name: item for item in CATALOG}
    return [
        _spec_status(lake, item, contracts[item.contract], session)
        if item.contract in contracts
        else _record_status(lake, item)
        for item in SPEC_FILES
    ]


def _of_session(manifests: list[Manifest], session: date | None) -> list[Manifest]:
    if session is None:
        return manifests
    covering = [item for item in manifests if session.isoformat() in item.sessions]
    own = [item for item in covering if item.partition.startswith("session=")]
    return own or covering


def _artifact(manifest: Manifest, bucket: str) -> PublishedArtifact:
    return PublishedArtifact(
        contract=manifest.contract,
        partition=manifest.partition,
        rows=manifest.rows,
        sha256=manifest.sha256,
        uri=f"s3://{bucket}/{manifest.data_key}",
        export_uri=manifest.export_key and f"s3://{bucket}/{manifest.export_key}",
        recorded_at_utc=manifest.recorded_at_utc,
        dag_id=manifest.run.dag_id,
        run_id=manifest.run.run_id,
        code_version=manifest.code_version,
    )


def _spec_status(
    lake: Lake, item: SpecFile, artifact: Contract, session: date | None
) -> SpecFileStatus:
    exported = [
        manifest
        for manifest in lake.manifests(artifact)
        if manifest.export_key is not None
        and (session is None or manifest.sessions[-1] <= session.isoformat())
    ]
    newest = max(exported, key=lambda manifest: manifest.sessions[-1], default=None)
    return SpecFileStatus(
        file=item.pattern.format(**_PLACEHOLDERS),
        section=item.section,
        produced_by=item.produced_by,
        rows=newest.rows if newest else None,
        sha256=newest.export_sha256 if newest else None,
        contract=item.contract,
        session=newest.sessions[-1] if newest else None,
        uri=f"s3://{lake.bucket}/{newest.export_key}" if newest else None,
    )


def _record_status(lake: Lake, item: SpecFile) -> SpecFileStatus:
    """Return the newest file of a pattern without a contract; names are times, and sort by them."""
    keys = [key for key in lake.list_keys(item.pattern.partition("{")[0]) if item.matches(key)]
    newest = max(keys, key=item.place_of, default=None)
    body = lake.get_bytes(newest) if newest is not None else b""
    return SpecFileStatus(
        file=item.pattern.format(**_PLACEHOLDERS),
        section=item.section,
        produced_by=item.produced_by,
        rows=_rows_in(body) if newest is not None and newest.endswith(".json") else None,
        sha256=hashlib.sha256(body).hexdigest() if newest is not None else None,
        contract=item.contract,
        session=None,
        uri=f"s3://{lake.bucket}/{newest}" if newest is not None else None,
    )


def _rows_in(body: bytes) -> int:
    """Return how many entries a JSON record has; any other is one document."""
    document = json.loads(body)
    entries = document.get("entries") if isinstance(document, dict) else document
    return len(entries) if isinstance(entries, list) else 1


def resolve(lake: Lake, text: str) -> tuple[Contract, Partition]:
    """Return the contract and partition that a person means.

    ``core_signals__signal`` is its newest partition; ``core_signals__signal/2022-12-28``,
    ``core_market__daily_bar/2021``, ``.../session=2022-12-28`` and an ``s3://`` URI of the lake
    name one.
    """
    parts = text.removeprefix(f"s3://{lake.bucket}/").strip("/").split("/")
    names = {item.name for item in CATALOG}
    chosen = contract(next((part for part in parts if part in names), parts[0]))
    after = parts[parts.index(chosen.name) + 1 :]
    if after:
        return chosen, _partition(after[0])
    partitions = lake.partitions(chosen)
    if not partitions:
        raise MissingPartition(
            expected=f"{chosen.name} published for some session",
            was="nothing published",
            where=f"{chosen.prefix}/",
            todo=f"run {chosen.owner} (`marketlake run` or `marketlake backfill`)",
        )
    # Sessions before years: the newest single session is what was published last.
    return chosen, max(partitions, key=lambda item: (item.kind == "session", item.label))


def _partition(text: str) -> Partition:
    if "=" in text:
        return Partition.parse(text)
    return Partition.parse(f"{'year' if len(text) == _YEAR_DIGITS else 'session'}={text}")


def export_bytes(lake: Lake, artifact: Contract, partition: Partition) -> bytes:
    """Return the named file that was written with an artifact, its hash checked."""
    manifest = lake.manifest(artifact, partition)
    if manifest.export_key is None:
        raise NotFound(
            expected=f"a named file of {artifact.name}/{partition.key}",
            was="none: this artifact has only its canonical form",
            where=f"{artifact.prefix}/{partition.key}",
            todo="`marketlake show` it, or read its Parquet from the lake",
        )
    body = lake.get_bytes(manifest.export_key, version_id=manifest.export_version_id)
    found = hashlib.sha256(body).hexdigest()
    if found != manifest.export_sha256:
        raise BadPayload(
            expected=f"a file with SHA-256 {manifest.export_sha256}",
            was=found,
            where=f"s3://{lake.bucket}/{manifest.export_key}",
            todo=f"publish it again: clear {artifact.owner} for this session",
        )
    return body
