"""One S3 endpoint: get, put, copy, delete and list objects, with our errors and time bounds.

Belongs here: how requests are made and how their failures are named. Does not belong: what the
keys and bytes mean (``lake``).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import boto3
import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from marketlake.errors import AuthFailed, ConfigError, MarketlakeError, NotFound, SourceUnavailable
from marketlake.settings import LakeSettings

CONNECTIONS = 16
RESTORED_VERSIONS = "_restored/versions.json"
"""In a bucket restored from a backup: which buckets it was, and which version stands for which."""
_ATTEMPTS = 2
_DAYS_OF_A_YEAR = 365  # as S3 counts the years of a lock
_CONNECT_TIMEOUT_S = 5.0
_PIECE_BYTES = 1 << 20
_ABSENT = {"NoSuchKey", "NoSuchVersion", "404", "NotFound"}
_REFUSED = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
    "403",
}


# A storage class or a kind of rule that this store does not have.
_UNKNOWN_TO_THE_STORE = {"NotImplemented", "InvalidStorageClass", "501"}


_CORE = botocore.session.get_session()
_SESSION = boto3.session.Session(botocore_session=_CORE)
_SESSION_LOCK = threading.Lock()  # a session may not make two clients at once
_UNUSED: dict[LakeSettings, Any] = {}
"""Clients that have never connected, for the first who asks; a fork has its own copy of each."""


def _make_client(settings: LakeSettings) -> Any:
    with _SESSION_LOCK:
        if settings in _UNUSED:
            return _UNUSED.pop(settings)
        return _SESSION.client(
            "s3",
            endpoint_url=settings.endpoint_url,
            region_name=settings.region,
            aws_access_key_id=settings.access_key.get_secret_value(),
            aws_secret_access_key=settings.secret_key.get_secret_value(),
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
                connect_timeout=min(_CONNECT_TIMEOUT_S, settings.timeout_s),
                read_timeout=settings.timeout_s,
                max_pool_connections=CONNECTIONS,
            ),
        )


def make_ready(settings: LakeSettings) -> None:
    """Make a client that forked processes inherit: each would pay 0.1 CPU-s for its own.

    Nothing is connected to, and the process that forks never takes it.
    """
    client = _make_client(settings)
    client.can_paginate("list_objects_v2")  # reads which operations have pages
    _UNUSED[settings] = client


@dataclass(frozen=True)
class Stored:
    """An object's bytes with the version that they are."""

    body: bytes
    version_id: str


@dataclass(frozen=True)
class Listed:
    """One key of a listing; ``etag`` changes with the object's content."""

    key: str
    etag: str


@dataclass(frozen=True)
class Version:
    """One version of one key."""

    key: str
    version_id: str
    bytes: int


@dataclass(frozen=True)
class History:
    """Every version of some keys, and the keys that a delete marker hides, or once hid."""

    versions: list[Version]
    removed: list[str]


@dataclass(frozen=True)
class Restored:
    """What a bucket restored from a backup was called before, and its versions' names of then."""

    names: tuple[str, ...] = ()
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the content of ``RESTORED_VERSIONS``."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, content: bytes) -> Restored:
        """Read it back."""
        value = json.loads(content)
        return cls(tuple(value["names"]), value["versions"])


class ObjectStore:
    """Objects of one S3 endpoint. Threads may share it; forked processes may not."""

    def __init__(self, settings: LakeSettings) -> None:
        self._settings = settings
        self._restored: dict[str, Restored] = {}

    def get(self, bucket: str, key: str, *, version_id: str | None = None) -> Stored:
        """Return an object, or exactly one version of it; NotFound when there is none.

        In a bucket restored from a backup, a version's name of before the restore means the one
        that has its bytes now.
        """
        try:
            return self._get(bucket, key, version_id)
        except MarketlakeError:
            # Stores differ in what they say to a version that another store has made.
            now = None if version_id is None else self.present_version(bucket, key, version_id)
            if version_id is None or now == version_id:
                raise
        return Stored(self._get(bucket, key, now).body, version_id)

    def restored(self, bucket: str) -> Restored:
        """Return what a bucket was before it was restored; nothing for one that never was."""
        if bucket not in self._restored:
            try:
                self._restored[bucket] = Restored.from_json(
                    self._get(bucket, RESTORED_VERSIONS, None).body
                )
            except NotFound:
                self._restored[bucket] = Restored()
        return self._restored[bucket]

    def present_version(self, bucket: str, key: str, version_id: str) -> str:
        """Return the version that stands for a recorded one in a restored bucket."""
        return self.restored(bucket).versions.get(key, {}).get(version_id, version_id)

    def _get(self, bucket: str, key: str, version_id: str | None) -> Stored:
        """Get an object.

        Signed and sent without boto3's client, whose work for each call costs three times the
        request itself when hundreds of small objects are read.
        """
        url = f"{self._settings.endpoint_url.rstrip('/')}/{bucket}/{quote(key)}"
        if version_id is not None:
            url += "?" + urlencode({"versionId": version_id})
        with self._named_errors(f"s3://{bucket}/{key}"):
            answer = self._send(AWSRequest("GET", url))
        if answer.status_code == 200:
            return Stored(answer.content, answer.headers.get("x-amz-version-id", "null"))
        raise self._refusal(
            f"s3://{bucket}/{key}",
            code=_error_text(answer.content, "Code") or str(answer.status_code),
            said=_error_text(answer.content, "Message"),
        )

    def put(self, bucket: str, key: str, body: bytes, *, content_type: str) -> str:
        """Store an object and return its version; ConfigError where none are kept."""
        with self._named_errors(f"s3://{bucket}/{key}"):
            answer = self._client.put_object(
                Bucket=bucket, Key=key, Body=body, ContentType=content_type
            )
        return self._version(answer, bucket)

    def put_file(self, bucket: str, key: str, path: Path, *, content_type: str) -> str:
        """Store a file, one part after the other, and return its version.

        One request carries 5 GB at most, and :meth:`put` has all of them in memory.
        """
        from boto3.s3.transfer import TransferConfig

        with self._named_errors(f"s3://{bucket}/{key}"), path.open("rb") as file:
            self._client.upload_fileobj(
                file,
                bucket,
                key,
                ExtraArgs={"ContentType": content_type},
                Config=TransferConfig(use_threads=False),
            )
            answer = self._client.head_object(Bucket=bucket, Key=key)
        return self._version(answer, bucket)

    def get_file(self, bucket: str, key: str, path: Path) -> None:
        """Write an object into a file, a piece at a time; NotFound when there is none."""
        with self._named_errors(f"s3://{bucket}/{key}"), path.open("wb") as file:
            body = self._client.get_object(Bucket=bucket, Key=key)["Body"]
            for piece in body.iter_chunks(_PIECE_BYTES):
                file.write(piece)

    def copy(self, bucket: str, source: str, version_id: str, *, to: str) -> str:
        """Copy one version of an object to another key and return the new version."""
        with self._named_errors(f"s3://{bucket}/{to}"):
            answer = self._client.copy_object(
                Bucket=bucket,
                Key=to,
                CopySource={"Bucket": bucket, "Key": source, "VersionId": version_id},
            )
        return self._version(answer, bucket)

    def delete(self, bucket: str, key: str, version_id: str) -> None:
        """Remove one version of an object, leaving no trace of it."""
        with self._named_errors(f"s3://{bucket}/{key}"):
            self._client.delete_object(Bucket=bucket, Key=key, VersionId=version_id)

    def versions(self, bucket: str, prefix: str = "") -> list[Version]:
        """Return every version below ``prefix``, sorted by key, of each key the oldest first."""
        return self.history(bucket, prefix).versions

    def history(self, bucket: str, prefix: str = "", *, after: str = "") -> History:
        """Return the versions below ``prefix``, of keys behind ``after`` if given, as ``versions``
        does, and what was removed among them.

        A lock keeps versions, not names: whoever deletes without naming a version succeeds, and
        the key is gone from a listing.
        """
        found: list[Version] = []
        removed: set[str] = set()
        pages = self._client.get_paginator("list_object_versions").paginate(
            Bucket=bucket, Prefix=prefix, **({"KeyMarker": after} if after else {})
        )
        with self._named_errors(f"s3://{bucket}/{prefix}"):
            for page in pages:
                found += (
                    Version(entry["Key"], entry["VersionId"], entry["Size"])
                    for entry in page.get("Versions", [])
                )
                removed |= {entry["Key"] for entry in page.get("DeleteMarkers", [])}
        # The store lists the newest of a key first; sorting keeps the order of equals.
        found.reverse()
        found.sort(key=lambda version: version.key)
        return History(found, sorted(removed))

    def list(self, bucket: str, prefix: str, *, after: str = "", until: str = "") -> list[Listed]:
        """Return the keys below ``prefix``, sorted, between ``after`` and ``until`` if given."""
        found: list[Listed] = []
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=bucket, Prefix=prefix, **({"StartAfter": after} if after else {})
        )
        with self._named_errors(f"s3://{bucket}/{prefix}"):
            for page in pages:
                entries = page.get("Contents", [])
                found += (Listed(entry["Key"], entry["ETag"]) for entry in entries)
                if until and entries and entries[-1]["Key"] > until:
                    break
        return [item for item in found if not until or item.key <= until]

    def ensure_versioned_bucket(self, bucket: str) -> None:
        """Create the bucket if it is not there, and keep every version of its objects."""
        with self._named_errors(f"bucket {bucket}"):
            if not self._has_bucket(bucket):
                self._client.create_bucket(Bucket=bucket, **self._location)
            self._client.put_bucket_versioning(
                Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}
            )

    def ensure_locked_bucket(self, bucket: str, *, retention_days: int) -> None:
        """Create a bucket whose objects nobody can remove for some days; ConfigError if it
        exists without an object lock, or with a weaker one.
        """
        with self._named_errors(f"bucket {bucket}"):
            if not self._has_bucket(bucket):
                self._client.create_bucket(
                    Bucket=bucket, ObjectLockEnabledForBucket=True, **self._location
                )
            elif self._is_locked(bucket, retention_days):
                return
            # A new bucket, or one whose creation was interrupted here: locked, but for no time.
            self._client.put_object_lock_configuration(
                Bucket=bucket,
                ObjectLockConfiguration={
                    "ObjectLockEnabled": "Enabled",
                    "Rule": {"DefaultRetention": {"Mode": "COMPLIANCE", "Days": retention_days}},
                },
            )

    def lifecycle(self, bucket: str) -> Sequence[dict[str, Any]]:
        """Return the bucket's lifecycle rules, none if it never had any."""
        with self._named_errors(f"lifecycle of bucket {bucket}"):
            try:
                answer = self._client.get_bucket_lifecycle_configuration(Bucket=bucket)
            except ClientError as error:
                if _code(error) == "NoSuchLifecycleConfiguration":
                    return ()
                raise
        rules: Sequence[dict[str, Any]] = answer["Rules"]
        return rules

    def set_lifecycle(self, bucket: str, rules: Sequence[Mapping[str, Any]]) -> bool:
        """Replace the bucket's lifecycle rules; return False where the store knows not all."""
        with self._named_errors(f"lifecycle of bucket {bucket}"):
            try:
                self._client.put_bucket_lifecycle_configuration(
                    Bucket=bucket, LifecycleConfiguration={"Rules": list(rules)}
                )
            except ClientError as error:
                if _code(error) in _UNKNOWN_TO_THE_STORE:
                    return False
                raise
        return True

    @cached_property
    def _client(self) -> Any:
        return _make_client(self._settings)

    @cached_property
    def _http(self) -> URLLib3Session:
        return URLLib3Session(
            timeout=(min(_CONNECT_TIMEOUT_S, self._settings.timeout_s), self._settings.timeout_s),
            max_pool_connections=CONNECTIONS,
            # What boto3's own client takes from the environment.
            verify=_CORE.get_config_variable("ca_bundle") or True,
            proxies=get_environ_proxies(self._settings.endpoint_url),
        )

    @cached_property
    def _signer(self) -> S3SigV4Auth:
        credentials = Credentials(
            self._settings.access_key.get_secret_value(),
            self._settings.secret_key.get_secret_value(),
        )
        return S3SigV4Auth(credentials, "s3", self._settings.region)

    @property
    def _location(self) -> dict[str, Any]:
        # S3 refuses its own default region as a constraint.
        if self._settings.region == "us-east-1":
            return {}
        return {"CreateBucketConfiguration": {"LocationConstraint": self._settings.region}}

    def _send(self, request: AWSRequest) -> Any:
        self._signer.add_auth(request)
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._http.send(request.prepare())
            except HTTPClientError:
                # A kept connection that the server closed meanwhile looks like this once.
                if attempt + 1 == _ATTEMPTS:
                    raise
            else:
                if answer.status_code < 500 or attempt + 1 == _ATTEMPTS:
                    return answer
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _version(self, answer: Mapping[str, Any], bucket: str) -> str:
        # Some stores make a bucket, without versions, for the first object that is put into it.
        if "VersionId" not in answer:
            raise ConfigError(
                expected="a bucket that keeps every version",
                was="a bucket that keeps one",
                where=f"bucket {bucket} at {self._settings.endpoint_url}",
                todo="prepare the buckets with `marketlake up`",
            )
        return str(answer["VersionId"])

    def _has_bucket(self, bucket: str) -> bool:
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _code(error) in {*_ABSENT, "NoSuchBucket"}:
                return False
            raise
        return True

    def _is_locked(self, bucket: str, retention_days: int) -> bool:
        """Return whether objects get a lock by themselves; raise ConfigError where none can, or
        where it is weaker than asked for.
        """
        try:
            answer = self._client.get_object_lock_configuration(Bucket=bucket)
        except ClientError as error:
            if _code(error) not in {"ObjectLockConfigurationNotFoundError", *_ABSENT}:
                raise
            raise ConfigError(
                expected="a bucket with an object lock",
                was="a bucket that was created without one",
                where=f"bucket {bucket}",
                todo="set MARKETLAKE_LAKE__WORM_BUCKET to a name that is not taken",
            ) from error
        rule = answer.get("ObjectLockConfiguration", {}).get("Rule", {})
        retention = rule.get("DefaultRetention", {})
        if not retention:
            return False
        mode = retention.get("Mode")
        days = retention.get("Days") or _DAYS_OF_A_YEAR * retention.get("Years", 0)
        if mode == "COMPLIANCE" and days >= retention_days:
            return True
        raise ConfigError(
            expected=f"a bucket that locks objects in mode COMPLIANCE for {retention_days} days",
            was=f"mode {mode}, {days} days",
            where=f"bucket {bucket} at {self._settings.endpoint_url}",
            todo="set its default retention with the store's own tools, or "
            "MARKETLAKE_LAKE__WORM_BUCKET to a name that is not taken; where only the days are too "
            "few, MARKETLAKE_LAKE__LOCKED_DAYS may ask for less",
        )

    @contextmanager
    def _named_errors(self, where: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            fault = error.response.get("Error", {})
            raise self._refusal(
                where, code=str(fault.get("Code", "")), said=str(fault.get("Message", ""))
            ) from error
        except BotoCoreError as error:
            raise SourceUnavailable(
                expected=f"an answer of the lake store within {self._settings.timeout_s:g} s",
                was=str(error),
                where=f"{where} at {self._settings.endpoint_url}",
                todo="start the store (`marketlake up`) or correct MARKETLAKE_LAKE__ENDPOINT_URL",
            ) from error

    def _refusal(self, where: str, *, code: str, said: str) -> MarketlakeError:
        kind: type[MarketlakeError] = SourceUnavailable
        todo = "look at the store's log and its free disk space, then try again"
        if code in _ABSENT:
            kind, todo = NotFound, "look at the key; nothing is stored there"
        elif code in _REFUSED:
            kind, todo = AuthFailed, "correct MARKETLAKE_LAKE__ACCESS_KEY and __SECRET_KEY"
        elif code == "NoSuchBucket":
            kind, todo = ConfigError, "prepare the buckets with `marketlake up`"
        return kind(
            expected="the lake store to carry out a request",
            was=f"{code}: {said}",
            where=f"{where} at {self._settings.endpoint_url}",
            todo=todo,
        )


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _error_text(body: bytes, name: str) -> str:
    """Return what stands in one element of an S3 error document, or nothing."""
    _, _, rest = body.decode(errors="replace").partition(f"<{name}>")
    return rest.partition(f"</{name}>")[0]
