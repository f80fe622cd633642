"""Texts about persons, sealed with a key of their own, so that forgetting one is deleting its key.

The lake keeps every version and the ledger every leaf: what is sealed stays there, and what the
ledger says of it (the sealed bytes' hash) can be verified for ever. The keys are rows of the
warehouse's database, which keeps no versions, wrapped by a master key that is in no database. No
backup holds them: what is shredded could not be taken out of it. What does not belong here: where
the sealed bytes go, and who decides what is forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from marketlake.errors import BadPayload, ConfigError, NotFound, Shredded
from marketlake.settings import Settings
from marketlake.storage.canonical import sha256_hex
from marketlake.storage.ledger import LedgerWriter

_FORMAT = b"MLS1"
_KEY_BITS = 256
_NONCE_BYTES = 12
_OWNER_ONLY = 0o600
_TABLE = """
    create table if not exists sealed.document_key (
        document_id text primary key,
        wrapped_key bytea,
        sealed_at timestamptz not null default now(),
        shredded_at timestamptz,
        check ((wrapped_key is null) = (shredded_at is not null))
    )
"""

_Connection: TypeAlias = psycopg.Connection[tuple[Any, ...]]


class Documents:
    """Seals, opens and shreds documents by their id.

    Each use of a document's key is in the ledger before it happens, by the document's id; what the
    key or the text is, is not.
    """

    def __init__(self, settings: Settings, ledger: LedgerWriter) -> None:
        self._conninfo = settings.postgres.conninfo(settings.postgres.warehouse_db)
        self._master_key_file = settings.master_key_file
        self._ledger = ledger

    def seal(self, document_id: str, plaintext: bytes) -> bytes:
        """Return the document sealed with a new key of its own; the ledger gets the hash.

        Raises
        ------
        ConfigError
            When the id has been used: each text has an id of its own, a forgotten one too.
        """
        self._record_access(document_id, "seal")
        key = AESGCM.generate_key(_KEY_BITS)
        wrapped = _encrypt(self._master_key(make=True), key, about=document_id)
        sealed = _FORMAT + _encrypt(key, plaintext, about=document_id)
        with self._connection() as connection:
            connection.execute("create schema if not exists sealed")
            connection.execute(_TABLE)
            made = connection.execute(
                "insert into sealed.document_key (document_id, wrapped_key) values (%s, %s)"
                " on conflict do nothing",
                (document_id, wrapped),
            )
            if not made.rowcount:
                raise ConfigError(
                    expected="an id that stands for one text",
                    was="one that was sealed before",
                    where=f"document {document_id}",
                    todo="give the text an id of its own",
                )
            # Before the commit: a document that the ledger does not know of is none.
            self._ledger.record(
                "calculation",
                name="document_sealed",
                document_id=document_id,
                sealed_sha256=sha256_hex(sealed),
                sealed_bytes=len(sealed),
            )
        return sealed

    def open(self, document_id: str, sealed: bytes) -> bytes:
        """Return the document's text.

        Raises
        ------
        Shredded
            When the document was shredded: nobody can open it any more.
        NotFound
            When no document of that id was sealed here.
        BadPayload
            When the bytes are not what was sealed under this id.
        """
        wrapped = self._wrapped(document_id)
        self._record_access(document_id, "open")
        key = _decrypt(self._master_key(make=False), wrapped, about=document_id)
        if not sealed.startswith(_FORMAT):
            raise _not_sealed(document_id, "bytes of another format")
        return _decrypt(key, sealed.removeprefix(_FORMAT), about=document_id)

    def shred(self, document_id: str, *, reason: str) -> None:
        """Delete the document's key for good; who asks again is told when it happened.

        The row stays without its key, so that no later text gets the same id. The decision is in
        the ledger before the key is gone: a shredding that nobody recorded cannot happen. The
        reason stays there for ever, so it must not say what is to be forgotten.
        """
        with self._connection() as connection:
            if not self._has_table(connection):
                raise _unknown(document_id)
            self._usable_key(connection, document_id)
            self._record_access(document_id, "shred")
            connection.execute(
                "update sealed.document_key set wrapped_key = null, shredded_at = now()"
                " where document_id = %s",
                (document_id,),
            )
            self._ledger.record(
                "decision", name="document_shredded", document_id=document_id, reason=reason
            )
        # Postgres keeps an old row until it is vacuumed.
        with psycopg.connect(self._conninfo, autocommit=True) as connection:
            connection.execute("vacuum (full) sealed.document_key")

    def _record_access(self, document_id: str, purpose: str) -> None:
        """Record the use of a document's key, which the master key wraps."""
        self._ledger.record("secret_access", name=f"document {document_id}", purpose=purpose)

    def _wrapped(self, document_id: str) -> bytes:
        with self._connection() as connection:
            if not self._has_table(connection):
                raise _unknown(document_id)
            return self._usable_key(connection, document_id)

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        with psycopg.connect(self._conninfo) as connection:
            yield connection

    @staticmethod
    def _has_table(connection: _Connection) -> bool:
        found = connection.execute("select to_regclass('sealed.document_key')").fetchone()
        return found != (None,)

    @staticmethod
    def _usable_key(connection: _Connection, document_id: str) -> bytes:
        row = connection.execute(
            "select wrapped_key, shredded_at from sealed.document_key where document_id = %s"
            " for update",
            (document_id,),
        ).fetchone()
        if row is None:
            raise _unknown(document_id)
        if row[0] is None:
            raise Shredded(
                expected="a document whose key is kept",
                was=f"one that was shredded at {row[1]:%Y-%m-%d %H:%M} UTC",
                where=f"document {document_id}",
                todo="nothing: its text is gone for good; the ledger's document_shredded says why",
            )
        return bytes(row[0])

    def _master_key(self, *, make: bool) -> bytes:
        path = self._master_key_file
        if make and not path.exists():
            _make_key(path)
        try:
            key = bytes.fromhex(path.read_text().strip())
            was = f"{len(key)} bytes"
        except (OSError, ValueError) as error:
            key, was = b"", str(error)
        if len(key) * 8 != _KEY_BITS:
            raise ConfigError(
                expected=f"a key of {_KEY_BITS} bits, as hex",
                was=was,
                where=str(path),
                todo="bring the file back from its copy (MARKETLAKE_DOCUMENTS__MASTER_KEY_FILE); "
                "another key opens nothing",
            )
        return key


def _make_key(path: Path) -> None:
    """Write a new key for the owner only, unless somebody else was quicker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _OWNER_ONLY)
    with os.fdopen(descriptor, "w") as file:
        file.write(AESGCM.generate_key(_KEY_BITS).hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def _encrypt(key: bytes, plaintext: bytes, *, about: str) -> bytes:
    nonce = os.urandom(_NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, about.encode())


def _decrypt(key: bytes, content: bytes, *, about: str) -> bytes:
    try:
        return AESGCM(key).decrypt(content[:_NONCE_BYTES], content[_NONCE_BYTES:], about.encode())
    except (InvalidTag, ValueError):
        raise _not_sealed(about, "bytes that its key does not open") from None


def _not_sealed(document_id: str, was: str) -> BadPayload:
    return BadPayload(
        expected="the bytes that were sealed under this id",
        was=was,
        where=f"document {document_id}",
        todo="compare their SHA-256 with the ledger's document_sealed; is the bytes' right, the "
        "master key is another",
    )


def _unknown(document_id: str) -> NotFound:
    return NotFound(
        expected="a document that was sealed",
        was="none of this id",
        where=f"document {document_id}",
        todo="look at the id; the ledger's document_sealed entries have all of them",
    )
