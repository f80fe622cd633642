"""``marketlake audit verify``, with the platform's key, somebody else's, and none."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import date

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from marketlake.cli import app
from marketlake.clock import utc_now
from marketlake.errors import ConfigError
from marketlake.pipelines import archive_lake
from marketlake.pipelines.context import RunContext, open_context
from marketlake.settings import Settings
from marketlake.storage.lake import Lake
from marketlake.storage.proof.checkpoint import public_key_text
from marketlake.types import RunIdentity
from typer.testing import CliRunner, Result

from tests.own_ledger import OwnLedger, own_ledger

ANOTHER_KEY = public_key_text("marketlake", Ed25519PrivateKey.generate())


@pytest.fixture(scope="module")
def own(storage_settings: Settings) -> Iterator[OwnLedger]:
    unique = uuid.uuid4().hex[:12]
    lake = storage_settings.lake.model_copy(
        update={"bucket": f"cli-{unique}", "worm_bucket": f"cli-worm-{unique}"}
    )
    Lake(lake).ensure_buckets()
    with own_ledger(storage_settings.model_copy(update={"lake": lake}), at=utc_now()) as ledger:
        for number in range(3):
            ledger.append("calculation", number=number)
        yield ledger


def unpinned(settings: Settings) -> Settings:
    ledger = settings.ledger.model_copy(update={"public_key": None})
    return settings.model_copy(update={"ledger": ledger})


def verify(settings: Settings, monkeypatch: pytest.MonkeyPatch, *options: str) -> Result:
    monkeypatch.setattr("marketlake.cli.audit.load_settings", lambda: settings)
    return CliRunner().invoke(app, ["audit", "verify", *options], catch_exceptions=False)


def test_with_the_pinned_key_it_is_verified_and_says_against_what(
    own: OwnLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = verify(own.settings, monkeypatch)
    assert done.exit_code == 0
    assert done.stdout.startswith("verified: ")
    assert f"signed by {own.settings.ledger.public_key}" in done.stdout
    assert f"s3://{own.settings.lake.worm_bucket}" in done.stdout
    found = json.loads(verify(own.settings, monkeypatch, "--json").stdout)
    assert (found["ok"], found["faults"]) == (True, [])
    assert found["public_key"] == own.settings.ledger.public_key
    assert {"kept_in_file", "kept_in_bucket"} <= found.keys()


def test_with_another_key_it_is_not_verified(
    own: OwnLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = verify(own.settings, monkeypatch, "--public-key", ANOTHER_KEY)
    assert done.exit_code == 1
    assert done.stdout.startswith("NOT VERIFIED: ")
    assert "signed by another key" in done.stdout


def test_without_a_key_it_is_not_called_verified_and_exits_as_the_verifier_file_does(
    own: OwnLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = verify(unpinned(own.settings), monkeypatch)
    assert done.exit_code == 3
    assert done.stdout.startswith("agrees with itself, NOT VERIFIED: ")
    assert "--public-key" in done.stdout
    done = verify(unpinned(own.settings), monkeypatch, "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 3
    assert (found["ok"], found["faults"], found["public_key"]) == (False, [], None)
    key = str(own.settings.ledger.public_key)
    assert verify(unpinned(own.settings), monkeypatch, "--public-key", key).exit_code == 0


def test_archive_lake_does_not_call_a_ledger_verified_that_no_pinned_key_vouches_for(
    own: OwnLedger,
) -> None:
    through = date(2022, 12, 28)
    found = archive_lake.verify_ledger(in_context(own.settings), through)
    assert found["size"] >= 3
    with pytest.raises(ConfigError, match="marketlake audit key"):
        archive_lake.verify_ledger(in_context(unpinned(own.settings)), through)


def in_context(settings: Settings) -> RunContext:
    run = RunIdentity("archive_lake", f"run {uuid.uuid4().hex[:8]}", "verify_ledger")
    with open_context(settings, run) as context:
        return context
