"""A store that notes what goes through it, and one that serves exactly what was noted.

Everything a step takes from the lake comes through its store: which version of a manifest was the
newest, which were there at all, and bytes by version. Noting it here misses nothing, whichever way
a step reads. What does not belong: what a snapshot looks like (``snapshots``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

from marketlake.errors import BadPayload, ConfigError, NotFound
from marketlake.settings import LakeSettings
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.objects import Listed, ObjectStore, Stored

Version: TypeAlias = tuple[str, str]
"""A key and one of its versions."""

_MANIFEST = "/manifest.json"
_STAGED = "_staging/"


@dataclass(frozen=True)
class Noted:
    """What went through a store: sizes, hashes where they were computed, look-ups, listings.

    ``newest`` has, for each key that was asked for without a version, every answer in its order;
    None is "nothing there". ``listed`` has the manifests that listings showed.
    """

    sizes: dict[Version, int] = field(default_factory=dict)
    hashes: dict[Version, str] = field(default_factory=dict)
    newest: dict[str, list[str | None]] = field(default_factory=dict)
    listed: set[str] = field(default_factory=set)
    put: dict[str, str] = field(default_factory=dict)


class NotingStore(ObjectStore):
    """Notes what is read and written. Threads may share it: every note is one step of a dict."""

    def __init__(self, settings: LakeSettings, noted: Noted) -> None:
        super().__init__(settings)
        self.noted = noted

    def get(self, bucket: str, key: str, *, version_id: str | None = None) -> Stored:
        """Read an object and note which version it was."""
        noted = self.noted
        try:
            stored = super().get(bucket, key, version_id=version_id)
        except NotFound:
            if version_id is None:
                noted.newest.setdefault(key, []).append(None)
            raise
        noted.sizes[key, stored.version_id] = len(stored.body)
        # What the step itself wrote is no input; and bytes by version have their hash in a
        # reference already.
        if version_id is None and noted.put.get(key) != stored.version_id:
            noted.newest.setdefault(key, []).append(stored.version_id)
            noted.hashes[key, stored.version_id] = sha256_hex(stored.body)
        return stored

    def put(self, bucket: str, key: str, body: bytes, *, content_type: str) -> str:
        """Store an object and note it."""
        version_id = super().put(bucket, key, body, content_type=content_type)
        self.noted.put[key] = version_id
        self.noted.sizes[key, version_id] = len(body)
        self.noted.hashes[key, version_id] = sha256_hex(body)
        return version_id

    def copy(self, bucket: str, source: str, version_id: str, *, to: str) -> str:
        """Copy a version and note the new one."""
        made = super().copy(bucket, source, version_id, to=to)
        self.noted.put[to] = made
        self.noted.sizes[to, made] = self.noted.sizes.get((source, version_id), 0)
        return made

    def list(self, bucket: str, prefix: str, *, after: str = "", until: str = "") -> list[Listed]:
        """List keys and note the manifests among them."""
        found = super().list(bucket, prefix, after=after, until=until)
        self.noted.listed.update(item.key for item in found if item.key.endswith(_MANIFEST))
        return found


class RecordedStore(ObjectStore):
    """Serves what was recorded, each version's hash checked, and nothing else; writes nothing.

    What is put stays in memory, where the step that put it finds it again.

    Everything is read in the bucket of ``settings``, whatever it was called when it was recorded.

    Parameters
    ----------
    hashes
        Every version that may be read, with the SHA-256 of its bytes (None: not known).
    newest
        For each key that was asked for without a version, the answers in their order.
    listed
        Manifests that were listed; those of ``newest`` are too.
    made
        Bytes by their SHA-256 that earlier steps of this replay made; they need not be in the lake.
    """

    def __init__(
        self,
        settings: LakeSettings,
        *,
        hashes: Mapping[Version, str | None],
        newest: Mapping[str, Sequence[str | None]],
        listed: Iterable[str],
        made: Mapping[str, bytes],
    ) -> None:
        super().__init__(settings)
        self._bucket = settings.bucket
        self._hashes = hashes
        self._newest = {key: list(answers) for key, answers in newest.items()}
        self._listed = {*listed, *(key for key, answers in newest.items() if any(answers))}
        self._made = made
        self._put: dict[Version, bytes] = {}
        self._put_newest: dict[str, str] = {}

    def put_bytes(self, key: str) -> bytes | None:
        """Return what was put under a key last, or None."""
        version_id = self._put_newest.get(key)
        return None if version_id is None else self._put[key, version_id]

    def put_sha256(self, key: str) -> str | None:
        """Return the hash of what was put under a key last, or None."""
        body = self.put_bytes(key)
        return None if body is None else sha256_hex(body)

    def get(self, bucket: str, key: str, *, version_id: str | None = None) -> Stored:
        """Return what was recorded, what this replay made, or what it put; NotFound otherwise."""
        version_id = version_id or self._put_newest.get(key) or self._next_answer(key)
        if (key, version_id) in self._put:
            return Stored(self._put[key, version_id], version_id)
        if (key, version_id) not in self._hashes:
            raise _not_recorded(f"{key} version {version_id}")
        sha256 = self._hashes[key, version_id]
        if sha256 is not None and sha256 in self._made:
            return Stored(self._made[sha256], version_id)
        try:
            stored = super().get(self._bucket, key, version_id=version_id)
        except NotFound as error:
            raise _gone(self._bucket, key, version_id, error) from None
        found = sha256_hex(stored.body)
        if sha256 is not None and found != sha256:
            raise BadPayload(
                expected=f"bytes with SHA-256 {sha256}",
                was=f"bytes with SHA-256 {found}",
                where=f"s3://{self._bucket}/{key} version {version_id}",
                todo="the lake changed after it was recorded: keep everything as it is",
            )
        return stored

    def put(self, bucket: str, key: str, body: bytes, *, content_type: str) -> str:
        """Keep the bytes in memory."""
        version_id = f"replayed-{len(self._put)}"
        self._put[key, version_id] = body
        self._put_newest[key] = version_id
        return version_id

    def copy(self, bucket: str, source: str, version_id: str, *, to: str) -> str:
        """Keep a copy in memory."""
        body = self.get(bucket, source, version_id=version_id).body
        return self.put(bucket, to, body, content_type="")

    def delete(self, bucket: str, key: str, version_id: str) -> None:
        """Let go of nothing: what is in memory goes with the replay."""
        if (key, version_id) not in self._put:
            self._refuse(f"a removal of {key}")

    def list(self, bucket: str, prefix: str, *, after: str = "", until: str = "") -> list[Listed]:
        """Return the recorded manifests, and what was put, between the bounds."""
        keys = self._listed | self._put_newest.keys()
        return [
            Listed(key, self._put_newest.get(key, "recorded"))
            for key in sorted(keys)
            if key.startswith(prefix) and key > after and (not until or key <= until)
        ]

    def lifecycle(self, bucket: str) -> Sequence[dict[str, Any]]:
        """Refuse."""
        self._refuse("a look at the bucket's rules")

    def set_lifecycle(self, bucket: str, rules: Sequence[Mapping[str, Any]]) -> bool:
        """Refuse."""
        self._refuse("a change of the bucket's rules")

    def ensure_versioned_bucket(self, bucket: str) -> None:
        """Refuse."""
        self._refuse("a new bucket")

    def ensure_locked_bucket(self, bucket: str, *, retention_days: int) -> None:
        """Refuse."""
        self._refuse("a new bucket")

    def _next_answer(self, key: str) -> str:
        answers = self._newest.get(key, [None])
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if answer is None:
            raise _not_recorded(key)
        return answer

    def _refuse(self, what: str) -> NoReturn:
        raise ConfigError(
            expected="a step that reads and publishes artifacts",
            was=what,
            where="a replay",
            todo="this step cannot be replayed; run it",
        )


def _not_recorded(what: str) -> NotFound:
    return NotFound(
        expected="something that the step read when it was recorded",
        was=what,
        where="a replay, which serves what was recorded and nothing else",
        todo="the step has changed since: run the code version that was recorded",
    )


def _gone(bucket: str, key: str, version_id: str, error: NotFound) -> NotFound:
    staged = "what tasks hand to each other is kept MARKETLAKE_LAKE__UNFINISHED_DAYS: replay the "
    kept = "replaced versions are kept MARKETLAKE_LAKE__SUPERSEDED_DAYS; "
    return NotFound(
        expected="a version that was read when the step was recorded",
        was=f"gone from the lake ({error.was})",
        where=f"s3://{bucket}/{key} version {version_id}",
        todo=f"{staged}whole run, which makes it again"
        if key.startswith(_STAGED)
        else f"{kept}restore the bucket from its backup",
    )
