"""Which sessions are missing, and which were made from something that has been replaced since.

An artifact is stale when a parent named in its manifest is no longer what readers get: the parent
was republished with other rows of its past, a session object with other rows now goes before the
year it was read from, or another model rules. Reprocessing makes it current; content decides, never
time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date

import polars as pl
import pyarrow as pa

from marketlake.contracts.catalog import (
    CATALOG,
    CORE_MARKET_DAILY_BAR,
    CORE_MARKET_SOURCE_BAR,
    CORE_MODELS_FILE,
    CORE_MODELS_PROMOTION,
    CORE_QUALITY_APPLIED_REPAIR,
    OUT_REPORTS_DAILY,
    contract,
)
from marketlake.domain.forecasting import champion_row
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest
from marketlake.types import ArtifactRef, Partition

_READERS = 16


@dataclass(frozen=True)
class StaleArtifact:
    """One artifact of a session, the parent that changed, and what the parent is now."""

    session: date
    contract: str
    parent: str
    parent_sha256: str
    now_sha256: str


def unreported_sessions(lake: Lake, sessions: Sequence[date]) -> list[date]:
    """Return the sessions whose chain has not reached its report."""
    done = set(lake.published_sessions(OUT_REPORTS_DAILY))
    return [session for session in sessions if session not in done]


def refused_sessions(lake: Lake, sessions: Sequence[date]) -> list[date]:
    """Return the sessions that their gate refused and closed: published, and without a bar."""
    published = set(lake.partitions(CORE_MARKET_DAILY_BAR))
    own = [(session, Partition.of_session(session)) for session in sessions]
    return [
        session
        for session, partition in own
        if partition in published and lake.ref(CORE_MARKET_DAILY_BAR, partition).rows == 0
    ]


def stale_artifacts(lake: Lake, sessions: Sequence[date]) -> list[StaleArtifact]:
    """Return the stale artifacts of some sessions, in the order of the chain.

    Records (reports of tools) are nobody's data, so a changed record makes nothing stale.
    """
    return _Comparison(lake).of_sessions(sessions)


class _Comparison:
    """Manifests of what was asked for and of its parents, each read once, and what has changed."""

    def __init__(self, lake: Lake) -> None:
        self._lake = lake
        self._keys: dict[str, dict[str, None]] = {}
        self._manifests: dict[tuple[str, str], Manifest] = {}

    def of_sessions(self, sessions: Sequence[date]) -> list[StaleArtifact]:
        wanted = {Partition.of_session(session).key: session for session in sessions}
        # A person's decision holds until it is taken back: redoing a session does not renew it.
        decided = CORE_QUALITY_APPLIED_REPAIR
        checked = [item.name for item in CATALOG if not item.record and item != decided]
        self._fetch((name, key) for name in checked for key in wanted)
        own = [
            (wanted[key], manifest)
            for name in checked
            for key in sorted(wanted)
            if (manifest := self._published(name, key)) is not None
        ]
        self._fetch((ref.contract, ref.partition) for _, item in own for ref in item.parents)
        return [
            StaleArtifact(
                session, manifest.contract, f"{parent.contract}/{parent.partition}", *hashes
            )
            for session, manifest in own
            for parent in manifest.parents
            if not contract(parent.contract).record
            for hashes in self._changes(parent, manifest.parents, session)
        ] + [
            StaleArtifact(
                session,
                manifest.contract,
                f"{repair.contract}/{repair.partition}",
                "none",
                repair.sha256,
            )
            for session, manifest in own
            for repair in self._repaired_since(manifest.parents)
        ]

    def _repaired_since(self, parents: Sequence[ArtifactRef]) -> list[Manifest]:
        """Return the repairs of source bars among the parents that were not there when read."""
        name = CORE_QUALITY_APPLIED_REPAIR.name
        read = {ref.partition for ref in parents if ref.contract == name}
        return [
            repair
            for ref in parents
            if ref.contract == CORE_MARKET_SOURCE_BAR.name and ref.partition not in read
            if (repair := self._published(name, ref.partition)) is not None and repair.rows > 0
        ]

    def _partitions(self, name: str) -> dict[str, None]:
        """Return the keys of a contract's published partitions, in order."""
        if name not in self._keys:
            partitions = self._lake.partitions(contract(name))
            self._keys[name] = dict.fromkeys(item.key for item in partitions)
        return self._keys[name]

    def _published(self, name: str, key: str) -> Manifest | None:
        if key not in self._partitions(name):
            return None
        self._fetch([(name, key)])
        return self._manifests[name, key]

    def _fetch(self, places: Iterable[tuple[str, str]]) -> None:
        """Read manifests that are not known yet, side by side."""
        absent = sorted(
            place
            for place in set(places) - set(self._manifests)
            if place[1] in self._partitions(place[0])
        )

        def read(place: tuple[str, str]) -> Manifest:
            return self._lake.manifest(contract(place[0]), Partition.parse(place[1]))

        if len(absent) > 1:
            with ThreadPoolExecutor(min(_READERS, len(absent))) as pool:
                self._manifests |= zip(absent, pool.map(read, absent), strict=True)
        elif absent:
            self._manifests[absent[0]] = read(absent[0])

    def _changes(
        self, parent: ArtifactRef, parents: Iterable[ArtifactRef], session: date
    ) -> list[tuple[str, str]]:
        now = self._published(parent.contract, parent.partition)
        if now is None:
            return [(parent.sha256, "withdrawn")]
        if parent.contract == CORE_MODELS_PROMOTION.name:
            ruling = self._ruling_promotion(session)
            return [] if ruling in (None, parent.sha256) else [(parent.sha256, str(ruling))]
        if Partition.parse(parent.partition).kind == "session":
            return [] if now.sha256 == parent.sha256 else [(parent.sha256, now.sha256)]
        read_alone = {ref.partition for ref in parents if ref.contract == parent.contract}
        overrides = [
            other
            for key in self._partitions(parent.contract)
            if key not in read_alone
            and (day := _session_of(key)) is not None
            and day <= session
            and day.isoformat() in now.sessions
            and (other := self._published(parent.contract, key)) is not None
        ]
        changed = [(other, [_session_of(other.partition)]) for other in overrides]
        if now.sha256 != parent.sha256:
            # A longer or newly compacted year changes nothing for a session whose past is the same.
            alone = {_session_of(key) for key in read_alone} | {d for _, ds in changed for d in ds}
            days = [date.fromisoformat(day) for day in now.sessions]
            changed.append((now, [day for day in days if day <= session and day not in alone]))
        return [
            (parent.sha256, other.sha256)
            for other, days in changed
            if self._differs(parent, other, [day for day in days if day is not None])
        ]

    def _differs(self, before: ArtifactRef, now: Manifest, sessions: Sequence[date]) -> bool:
        """Whether the rows of these sessions are others now than when they were read."""
        tables = [self._lake.read_ref(before), self._lake.read_ref(now.ref(self._lake.bucket))]
        frames = [pl.from_arrow(table) for table in tables if isinstance(table, pa.Table)]
        rows = [
            frame.filter(pl.col("session").is_in(list(sessions)))
            for frame in frames
            if isinstance(frame, pl.DataFrame)
        ]
        return len(rows) != len(tables) or not rows[0].equals(rows[1])

    def _ruling_promotion(self, session: date) -> str | None:
        """Return the hash of the promotion that rules at a session now."""
        rows = [
            row | {"sha256": manifest.sha256}
            for key in self._partitions(CORE_MODELS_PROMOTION.name)
            if (manifest := self._published(CORE_MODELS_PROMOTION.name, key)) is not None
            and manifest.was_made_from(CORE_MODELS_FILE)
            and isinstance(table := self._lake.read_ref(manifest.ref(self._lake.bucket)), pa.Table)
            for row in table.to_pylist()
        ]
        ruling = champion_row(rows, session=session)
        return None if ruling is None else str(ruling["sha256"])


def _session_of(key: str) -> date | None:
    partition = Partition.parse(key)
    return partition.session if partition.kind == "session" else None
