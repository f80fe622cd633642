"""The private key with which the appender signs checkpoints: made once, never made anew."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from marketlake.errors import ConfigError
from marketlake.services.platform.process import write_private
from marketlake.settings import Settings
from marketlake.storage.proof.checkpoint import (
    Checkpoint,
    new_key_pem,
    public_key_text,
    read_key_pem,
    sign,
)


def signing_key(settings: Settings) -> Ed25519PrivateKey:
    """Return the ledger's key; make one where none is pinned yet.

    Raises
    ------
    ConfigError
        When the key is gone, cannot be read, or is not the pinned one: another key could not
        vouch for the same log.
    """
    path, pinned = settings.signing_key_file, settings.ledger.public_key
    if not path.exists() and pinned is None:
        write_private(path, new_key_pem())
    try:
        key = read_key_pem(path.read_text())
        was = public_key_text(settings.ledger.origin, key)
    except (OSError, ValueError) as error:
        was = str(error)
    else:
        if pinned in (None, was):
            return key
    raise ConfigError(
        expected=f"the private key of {pinned or 'the ledger'}, as PEM",
        was=was,
        where=str(path),
        todo="bring the key back from its backup; only a new, empty ledger may have another",
    )


def public_key(settings: Settings) -> str:
    """Return the public half of the ledger's key, as a verification pins it."""
    return public_key_text(settings.ledger.origin, signing_key(settings))


def signer(settings: Settings) -> Callable[[Checkpoint, str | None], str]:
    """Return what makes the signed note of a checkpoint, and of the note before it."""
    key, origin = signing_key(settings), settings.ledger.origin
    return lambda checkpoint, previous: sign(checkpoint, origin=origin, key=key, previous=previous)
