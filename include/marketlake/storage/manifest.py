"""What was published: manifests, and the part of them that a reader needs.

A manifest is a record: it carries real times and the run, and it points at content by hash and
version. Does not belong: reading or writing stores.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from marketlake.contracts import Contract
from marketlake.errors import BadPayload
from marketlake.storage.canonical import canonical_json
from marketlake.types import ArtifactRef, Partition, RunIdentity


@dataclass(frozen=True)
class Published:
    """What a reader needs of a manifest, small enough to keep many."""

    ref: ArtifactRef
    sessions: tuple[str, ...]
    schema_version: str


@dataclass(frozen=True)
class Manifest:
    """The record of one publication.

    ``supersedes`` is the store's version of the manifest that this one replaced, so that the
    history of a partition can be walked back. ``recorded_at_utc`` is ISO 8601.
    ``export_version_id`` is None where there is no named file, and in manifests written before
    they kept it.
    """

    contract: str
    partition: str
    sha256: str
    rows: int
    schema_version: str
    data_key: str
    version_id: str
    export_key: str | None
    export_sha256: str | None
    sessions: tuple[str, ...]
    parents: tuple[ArtifactRef, ...]
    run: RunIdentity
    code_version: str
    recorded_at_utc: str
    supersedes: str | None
    export_version_id: str | None = None

    def was_made_from(self, contract: Contract) -> bool:
        """Whether an artifact of the contract is among its parents."""
        return any(parent.contract == contract.name for parent in self.parents)

    def ref(self, bucket: str) -> ArtifactRef:
        """Return the reference to the published bytes."""
        return ArtifactRef(
            contract=self.contract,
            partition=Partition.parse(self.partition).key,
            uri=f"s3://{bucket}/{self.data_key}",
            sha256=self.sha256,
            rows=self.rows,
            version_id=self.version_id,
        )

    def published(self, bucket: str) -> Published:
        """Return what a reader needs."""
        return Published(self.ref(bucket), self.sessions, self.schema_version)

    def to_json(self) -> bytes:
        """Return canonical JSON."""
        return canonical_json(asdict(self), where=f"manifest of {self.contract}/{self.partition}")

    @classmethod
    def from_json(cls, content: bytes, *, where: str = "manifest") -> Manifest:
        """Rebuild a manifest; BadPayload when the bytes are not one."""
        try:
            value: dict[str, Any] = json.loads(content)
            value |= {
                "sessions": tuple(value["sessions"]),
                "parents": tuple(ArtifactRef.from_json(parent) for parent in value["parents"]),
                "run": RunIdentity(**value["run"]),
            }
            return cls(**value)
        except (ValueError, TypeError, KeyError) as error:
            raise BadPayload(
                expected=f"a manifest with {', '.join(item.name for item in fields(cls))}",
                was=f"{type(error).__name__}: {error}",
                where=where,
                todo="publish the partition again",
            ) from error
