"""Sealed documents on the real stores: opened with their key, gone without it, the ledger sound."""

from __future__ import annotations

import hashlib
import uuid
from pathlib import Path

import psycopg
import pytest
from marketlake.cli import app
from marketlake.errors import BadPayload, ConfigError, NotFound, Shredded, SourceUnavailable
from marketlake.settings import Settings
from marketlake.storage.ledger import LedgerClient, LedgerWriter
from marketlake.storage.shredding import Documents
from marketlake.types import RunIdentity
from typer.testing import CliRunner

TEXT = b"Jane Roe sold everything, she says"


@pytest.fixture
def run() -> RunIdentity:
    return RunIdentity("test_shredding", uuid.uuid4().hex, "seal")


@pytest.fixture
def documents(storage_settings: Settings, ledger: LedgerClient, run: RunIdentity) -> Documents:
    return Documents(storage_settings, LedgerWriter(ledger, run))


@pytest.fixture
def document_id() -> str:
    return f"post/{uuid.uuid4().hex}"


def keys(settings: Settings, document_id: str) -> bytes | None:
    with psycopg.connect(settings.postgres.conninfo(settings.postgres.warehouse_db)) as connection:
        row = connection.execute(
            "select wrapped_key from sealed.document_key where document_id = %s", (document_id,)
        ).fetchone()
    assert row is not None
    return row[0]


def test_a_sealed_document_opens_with_its_own_id_only(
    documents: Documents, document_id: str
) -> None:
    sealed = documents.seal(document_id, TEXT)
    assert TEXT not in sealed
    assert b"Jane" not in sealed
    assert documents.open(document_id, sealed) == TEXT
    other = f"{document_id}/other"
    assert documents.seal(other, TEXT) != sealed
    with pytest.raises(BadPayload, match="its key does not open"):
        documents.open(other, sealed)
    for damaged in (sealed[:-1], sealed[:-1] + bytes([sealed[-1] ^ 1]), b"MLS1", TEXT):
        with pytest.raises(BadPayload, match="the bytes that were sealed"):
            documents.open(document_id, damaged)


def test_a_shredded_document_says_so_and_its_leaf_stays_verifiable(
    documents: Documents,
    document_id: str,
    storage_settings: Settings,
    ledger: LedgerClient,
    run: RunIdentity,
) -> None:
    sealed = documents.seal(document_id, TEXT)
    assert keys(storage_settings, document_id)
    documents.shred(document_id, reason="a request under Article 17")
    assert keys(storage_settings, document_id) is None
    for attempt in (
        lambda: documents.open(document_id, sealed),
        lambda: documents.shred(document_id, reason="again"),
    ):
        with pytest.raises(Shredded, match=f"shredded at .* UTC.*{document_id}"):
            attempt()
    with pytest.raises(ConfigError, match="one that was sealed before"):
        documents.seal(document_id, b"a later text")
    (was_sealed,) = ledger.entries("calculation", run_id=run.run_id)
    assert was_sealed.payload["sealed_sha256"] == hashlib.sha256(sealed).hexdigest()
    assert ledger.prove(was_sealed.index).leaf_hash == was_sealed.leaf_hash
    (was_shredded,) = ledger.entries("decision", run_id=run.run_id)
    assert was_shredded.payload["name"] == "document_shredded"
    assert was_shredded.payload["reason"] == "a request under Article 17"
    assert ledger.verify().ok


def test_each_use_of_a_documents_key_is_in_the_ledger_and_the_key_is_not(
    documents: Documents,
    document_id: str,
    storage_settings: Settings,
    ledger: LedgerClient,
    run: RunIdentity,
) -> None:
    sealed = documents.seal(document_id, TEXT)
    documents.open(document_id, sealed)
    wrapped = keys(storage_settings, document_id)
    assert wrapped is not None
    documents.shred(document_id, reason="a request")
    with pytest.raises(Shredded):
        documents.open(document_id, sealed)
    entries = ledger.entries(run_id=run.run_id)
    uses = [entry.payload for entry in entries if entry.kind == "secret_access"]
    assert [use["purpose"] for use in uses] == ["seal", "open", "shred"]
    assert {use["name"] for use in uses} == {f"document {document_id}"}
    said = b"".join(entry.canonical() for entry in entries)
    master = bytes.fromhex(storage_settings.master_key_file.read_text())
    for secret in (wrapped, master):
        assert secret.hex().encode() not in said
        assert hashlib.sha256(secret).hexdigest().encode() not in said


def test_nothing_of_the_key_is_left_in_the_table_on_the_disk(
    documents: Documents, document_id: str, storage_settings: Settings
) -> None:
    documents.seal(document_id, TEXT)
    wrapped = keys(storage_settings, document_id)
    assert wrapped is not None
    assert wrapped in table_file(storage_settings)
    documents.shred(document_id, reason="a request")
    assert wrapped not in table_file(storage_settings)


def table_file(settings: Settings) -> bytes:
    conninfo = settings.postgres.conninfo(settings.postgres.warehouse_db)
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("checkpoint")
        row = connection.execute(
            "select current_setting('data_directory'), pg_relation_filepath('sealed.document_key')"
        ).fetchone()
    assert row is not None
    return Path(*row).read_bytes()


def test_nothing_is_opened_or_shredded_that_the_ledger_could_not_record(
    documents: Documents, document_id: str, storage_settings: Settings, run: RunIdentity
) -> None:
    sealed = documents.seal(document_id, TEXT)
    nobody = storage_settings.ledger.model_copy(update={"port": 1})
    unheard = Documents(storage_settings, LedgerWriter(LedgerClient(nobody), run))
    with pytest.raises(SourceUnavailable):
        unheard.open(document_id, sealed)
    with pytest.raises(SourceUnavailable):
        unheard.shred(document_id, reason="a request")
    assert documents.open(document_id, sealed) == TEXT
    with pytest.raises(SourceUnavailable):
        unheard.seal(f"{document_id}/unrecorded", TEXT)
    with pytest.raises(NotFound, match="none of this id"):
        documents.open(f"{document_id}/unrecorded", sealed)


def test_the_master_key_is_the_owners_and_another_opens_nothing(
    documents: Documents,
    document_id: str,
    storage_settings: Settings,
    ledger: LedgerClient,
    run: RunIdentity,
    tmp_path: Path,
) -> None:
    sealed = documents.seal(document_id, TEXT)
    assert storage_settings.master_key_file.stat().st_mode & 0o077 == 0
    key = tmp_path / "other.key"
    chosen = storage_settings.documents.model_copy(update={"master_key_file": key})
    other = Documents(
        storage_settings.model_copy(update={"documents": chosen}), LedgerWriter(ledger, run)
    )
    with pytest.raises(ConfigError, match="a key of 256 bits"):
        other.open(document_id, sealed)
    assert not key.exists()
    key.write_text("ab" * 32)
    with pytest.raises(BadPayload, match="its key does not open"):
        other.open(document_id, sealed)


def test_the_command_shreds(
    documents: Documents, document_id: str, storage_settings: Settings
) -> None:
    sealed = documents.seal(document_id, TEXT)
    done = CliRunner(env={"MARKETLAKE_HOME": str(storage_settings.home)}).invoke(
        app, ["shred", document_id, "--reason", "a request"], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert f"{document_id} shredded" in done.stdout
    with pytest.raises(Shredded):
        documents.open(document_id, sealed)


def test_an_unknown_document_is_not_found(documents: Documents, document_id: str) -> None:
    with pytest.raises(NotFound, match="none of this id"):
        documents.shred(document_id, reason="a request")
