"""The walk from an artifact back to the vendor's bytes, with hashes and ledger proofs.

Parents are those that the manifest names, by content hash; nothing is guessed from names. An
artifact that has been replaced since is said to be so, and its parents are not made up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from marketlake.contracts.catalog import contract
from marketlake.contracts.model import Contract
from marketlake.errors import MissingPartition
from marketlake.storage.lake import Lake
from marketlake.storage.ledger import LedgerClient
from marketlake.storage.manifest import Manifest
from marketlake.types import ArtifactRef, Partition

_ALL_ENTRIES = 10_000_000


@dataclass(frozen=True)
class VendorBytes:
    """One stored answer of a vendor; ``intact`` says its body still has the recorded hash."""

    symbol: str
    method: str
    url: str
    status: int
    body_bytes: int
    body_sha256: str
    intact: bool


@dataclass(frozen=True)
class TracedArtifact:
    """One artifact of the walk.

    ``ledger_index`` is its newest ``published`` entry with exactly this content, whose inclusion
    proof was checked; None when the ledger knows no such entry. ``note`` says why ``parents`` are
    not listed here: shown above, or replaced since.
    """

    contract: str
    partition: str
    rows: int
    sha256: str
    uri: str
    run_id: str | None
    code_version: str | None
    recorded_at_utc: str | None
    ledger_index: int | None
    note: str
    parents: tuple[TracedArtifact, ...]
    vendor_bytes: tuple[VendorBytes, ...]

    def as_json(self) -> dict[str, Any]:
        """Return a JSON-ready tree."""
        return asdict(self)

    def walk(self) -> Iterator[TracedArtifact]:
        """Yield this artifact and everything behind it, each once per mention."""
        yield self
        for parent in self.parents:
            yield from parent.walk()


def trace(
    lake: Lake, ledger: LedgerClient, *, artifact: Contract, partition: Partition
) -> TracedArtifact:
    """Return an artifact with everything it was made from, down to the vendors' answers."""
    return _Walk(lake, ledger).expand(lake.ref(artifact, partition))


class _Walk:
    """One walk: what was shown already is not expanded again."""

    def __init__(self, lake: Lake, ledger: LedgerClient) -> None:
        self._lake = lake
        self._ledger = ledger
        self._shown: set[tuple[str, str, str]] = set()
        self._entries = {
            (entry.payload["contract"], entry.payload["partition"], entry.payload["sha256"]): (
                entry.index
            )
            for entry in ledger.entries("published", limit=_ALL_ENTRIES)
        }

    def expand(self, ref: ArtifactRef) -> TracedArtifact:
        identity = (ref.contract, ref.partition, ref.sha256)
        manifest, note = (None, "shown above") if identity in self._shown else self._manifest(ref)
        self._shown.add(identity)
        return TracedArtifact(
            contract=ref.contract,
            partition=ref.partition,
            rows=ref.rows,
            sha256=ref.sha256,
            uri=ref.uri,
            run_id=manifest.run.run_id if manifest else None,
            code_version=manifest.code_version if manifest else None,
            recorded_at_utc=manifest.recorded_at_utc if manifest else None,
            ledger_index=self._proven_index(identity),
            note=note,
            parents=tuple(map(self.expand, manifest.parents)) if manifest else (),
            vendor_bytes=self._vendor_bytes(ref) if manifest else (),
        )

    def _manifest(self, ref: ArtifactRef) -> tuple[Manifest | None, str]:
        try:
            manifest = self._lake.manifest(contract(ref.contract), Partition.parse(ref.partition))
        except MissingPartition:
            return None, "no longer published"
        if manifest.sha256 != ref.sha256:
            return None, f"replaced since by {manifest.sha256}"
        return manifest, ""

    def _proven_index(self, identity: tuple[str, str, str]) -> int | None:
        index = self._entries.get(identity)
        if index is not None:
            self._ledger.prove(index)
        return index

    def _vendor_bytes(self, ref: ArtifactRef) -> tuple[VendorBytes, ...]:
        if not ref.contract.endswith("__response"):
            return ()
        table = self._lake.read_ref(ref)
        if not isinstance(table, pa.Table):
            return ()
        return tuple(
            VendorBytes(
                symbol=row["symbol"],
                method=row["method"],
                url=row["url"],
                status=row["status"],
                body_bytes=len(row["body"]),
                body_sha256=row["body_sha256"],
                intact=hashlib.sha256(row["body"]).hexdigest() == row["body_sha256"],
            )
            for row in table.to_pylist()
        )
