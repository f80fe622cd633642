import pytest
from marketlake.errors import BadPayload
from marketlake.storage.manifest import Manifest
from marketlake.types import ArtifactRef, RunIdentity

MANIFEST = Manifest(
    contract="core_market__daily_bar",
    partition="session=2022-12-28",
    sha256="ab" * 32,
    rows=20,
    schema_version="0123456789ab",
    data_key="core/core_market__daily_bar/session=2022-12-28/part.parquet",
    version_id="v1",
    export_key=None,
    export_sha256=None,
    sessions=("2022-12-28",),
    parents=(
        ArtifactRef("raw_yahoo__daily_bar", "session=2022-12-28", "s3://b/k", "cd", 20, "v0"),
    ),
    run=RunIdentity("validate_market_data", "manual__1", "publish", 2, 0),
    code_version="abc",
    recorded_at_utc="2026-11-22T18:00:00+00:00",
    supersedes=None,
)


def test_a_manifest_comes_back_as_it_went() -> None:
    assert Manifest.from_json(MANIFEST.to_json()) == MANIFEST


def test_a_manifest_written_before_exports_had_versions_is_still_read() -> None:
    old = MANIFEST.to_json().replace(b'"export_version_id":null,', b"")
    assert old != MANIFEST.to_json()
    assert Manifest.from_json(old) == MANIFEST


def test_a_manifest_points_at_its_bytes() -> None:
    assert MANIFEST.ref("lake") == ArtifactRef(
        contract="core_market__daily_bar",
        partition="session=2022-12-28",
        uri="s3://lake/core/core_market__daily_bar/session=2022-12-28/part.parquet",
        sha256="ab" * 32,
        rows=20,
        version_id="v1",
    )


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"[]",
        b"{}",
        MANIFEST.to_json().replace(b'"rows"', b'"lines"'),
        MANIFEST.to_json()[:-20],
        MANIFEST.to_json().replace(b'"dag_id"', b'"dag"'),
    ],
)
def test_bytes_that_are_no_manifest_are_refused_with_their_place(content: bytes) -> None:
    with pytest.raises(BadPayload, match=r"core/x/manifest\.json"):
        Manifest.from_json(content, where="core/x/manifest.json")
