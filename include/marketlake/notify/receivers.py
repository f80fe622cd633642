"""The addresses in the settings, as Apprise reaches them, under names that hold no secret.

What does not belong here: when to send and what to remember of it (``outbox``).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pydantic import SecretStr

from marketlake.notify.message import Message
from marketlake.settings import NotifySettings

_NEXT_URL = re.compile(r"[\s,]+(?=[A-Za-z0-9+]+://)")
_REASON_CHARACTERS = 500
_SHORTEST_SECRET = 4


@dataclass(frozen=True)
class Receiver:
    """One address. ``name`` may be shown and recorded; the address itself may not."""

    name: str
    url: SecretStr = field(repr=False)
    timeout_s: float

    def send(self, message: Message) -> str | None:
        """Deliver a message; return None, or why it did not arrive, without secrets."""
        from apprise import Apprise, AppriseAsset, NotifyFormat

        service = _service(self.url)
        if service is None:
            return "not an address that Apprise knows: correct MARKETLAKE_NOTIFY__URLS"
        # To connect and to answer: together they must not take longer than a caller waits.
        service.socket_connect_timeout = service.socket_read_timeout = self.timeout_s / 2
        # In this thread: Apprise's own ones do not survive the fork that made this task.
        service.asset = AppriseAsset(async_mode=False, service_timeout=0)
        sender = Apprise()
        sender.add(service)
        with _said_by_apprise() as said:
            delivered = sender.notify(
                title=message.title,
                body=message.text,
                notify_type=str(message.severity),
                body_format=NotifyFormat.TEXT,
            )
        return None if delivered else _without_secrets(" ".join(said) or "refused", self.url)


def receivers(settings: NotifySettings) -> list[Receiver]:
    """Return the configured addresses, in order; none when nothing is configured."""
    names: dict[str, int] = {}
    found = []
    for url in addresses_of(settings):
        name = _name(url)
        names[name] = names.get(name, 0) + 1
        numbered = name if names[name] == 1 else f"{name} ({names[name]})"
        found.append(Receiver(numbered, url, settings.timeout_s))
    return found


def addresses_of(settings: NotifySettings) -> list[SecretStr]:
    """Return the URLs that are written in the settings."""
    written = settings.urls.get_secret_value().strip() if settings.urls else ""
    return [SecretStr(url) for url in _NEXT_URL.split(written)] if written else []


def _service(url: SecretStr) -> Any:
    from apprise import Apprise

    with _said_by_apprise():
        return Apprise.instantiate(url.get_secret_value(), suppress_exceptions=True)


def _name(url: SecretStr) -> str:
    """Return service and host. Apprise hides a token that stands in the host's place."""
    service = _service(url)
    if service is None:
        return "unknown service"
    shown = urlsplit(service.url(privacy=True))
    return f"{shown.scheme}://{shown.netloc.rpartition('@')[2]}"


def _without_secrets(text: str, url: SecretStr) -> str:
    whole = url.get_secret_value()
    host = urlsplit(whole).hostname or ""
    parts = [part for part in re.split(r"[/:@?&=#,]+", whole) if len(part) >= _SHORTEST_SECRET]
    for secret in sorted({whole, *parts} - {host}, key=len, reverse=True):
        text = text.replace(secret, "****")
    return text[:_REASON_CHARACTERS]


# Apprise hands its work, and this with it, to threads of its own.
_listening: ContextVar[_Listener | None] = ContextVar("listening", default=None)


@contextmanager
def _said_by_apprise() -> Iterator[list[str]]:
    """Collect what Apprise complains of here, and keep it out of every other log.

    Its words may hold an address.
    """
    logger = logging.getLogger("apprise")
    logger.propagate = False
    logger.setLevel(logging.WARNING)
    # Below it, requests to addresses are logged with their paths.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
    listener = _Listener()
    logger.addHandler(listener)
    token = _listening.set(listener)
    try:
        yield listener.said
    finally:
        _listening.reset(token)
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if _listening.get() is self:
            self.said.append(record.getMessage())
