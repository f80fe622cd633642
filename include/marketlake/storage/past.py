"""The lake as it was published at an instant, from the chain of every partition's manifests.

A publication counts from its ``recorded_at`` on. What belongs here: which manifest ruled when.
Does not belong: how a manifest is read once it is chosen (``lake``).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime
from typing import NoReturn

from marketlake.contracts.model import Contract
from marketlake.errors import ConfigError, LookaheadError, MissingPartition, NotFound
from marketlake.settings import LakeSettings
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest, Published
from marketlake.storage.objects import Listed, ObjectStore, Stored
from marketlake.types import Partition

_MANIFEST = "/manifest.json"


def past_lake(
    present: Lake, recorded_at: datetime, *, settings: LakeSettings, store: ObjectStore
) -> Lake:
    """Return a lake that reads what was published at an instant, through the present's store."""
    if recorded_at.tzinfo is None:
        raise ConfigError(
            expected="an instant with a time zone",
            was=recorded_at.isoformat(),
            where="Lake.as_of",
            todo="say the zone, for example 2026-11-23T09:00:00Z",
        )
    return _PastLake(present, recorded_at, settings=settings, store=store)


class _PastLake(Lake):
    """Says of what was published later that it was, as a LookaheadError."""

    def __init__(
        self, present: Lake, recorded_at: datetime, *, settings: LakeSettings, store: ObjectStore
    ) -> None:
        super().__init__(settings, store=_PastStore(settings, recorded_at, store=store))
        self._recorded_at = recorded_at
        self._present = present

    def manifest(self, contract: Contract, partition: Partition) -> Manifest:
        try:
            return super().manifest(contract, partition)
        except MissingPartition as error:
            later = self._present.manifest(contract, partition)  # raises if there is none now
            self._refuse(contract, later.partition, error)

    def _covering(
        self, contract: Contract, wanted: Sequence[date]
    ) -> list[tuple[Published, list[date]]]:
        try:
            return super()._covering(contract, wanted)
        except MissingPartition as error:
            # The present raises too, if one of them is not published to this day.
            found = self._present.refs_for(contract, wanted)
            self._refuse(contract, ", ".join(ref.partition for ref in found[-3:]), error)

    def _refuse(self, contract: Contract, what: str, error: MissingPartition) -> NoReturn:
        raise LookaheadError(
            expected=f"what was published by {self._recorded_at.isoformat()}",
            was=f"{what}, published later",
            where=contract.name,
            todo="ask for a later instant, or for sessions that were published by then",
        ) from error


class _PastStore(ObjectStore):
    """Finds, of every manifest, the version that ruled at an instant; writes nothing."""

    def __init__(
        self, settings: LakeSettings, recorded_at: datetime, *, store: ObjectStore
    ) -> None:
        super().__init__(settings)
        self._recorded_at = recorded_at
        self._store = store

    def get(self, bucket: str, key: str, *, version_id: str | None = None) -> Stored:
        stored = self._store.get(bucket, key, version_id=version_id)
        if version_id is not None or not key.endswith(_MANIFEST):
            return stored
        while True:
            manifest = Manifest.from_json(stored.body, where=key)
            if datetime.fromisoformat(manifest.recorded_at_utc) <= self._recorded_at:
                return stored
            if manifest.supersedes is None:
                raise NotFound(
                    expected=f"something published by {self._recorded_at.isoformat()}",
                    was=f"a first publication at {manifest.recorded_at_utc}",
                    where=key,
                    todo="ask for a later instant",
                )
            stored = self._store.get(bucket, key, version_id=manifest.supersedes)

    def list(self, bucket: str, prefix: str, *, after: str = "", until: str = "") -> list[Listed]:
        listed = self._store.list(bucket, prefix, after=after, until=until)
        return [item for item in listed if self._was_there(bucket, item.key)]

    def put(self, bucket: str, key: str, body: bytes, *, content_type: str) -> str:
        self._refuse(key)

    def copy(self, bucket: str, source: str, version_id: str, *, to: str) -> str:
        self._refuse(to)

    def delete(self, bucket: str, key: str, version_id: str) -> None:
        self._refuse(key)

    def _was_there(self, bucket: str, key: str) -> bool:
        if not key.endswith(_MANIFEST):
            return True
        try:
            self.get(bucket, key)
        except NotFound:
            return False
        return True

    def _refuse(self, key: str) -> NoReturn:
        raise ConfigError(
            expected="reads only",
            was=f"a change of {key}",
            where=f"the lake as of {self._recorded_at.isoformat()}",
            todo="write to the present lake",
        )
