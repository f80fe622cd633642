"""Questions that tell whether a program is ready: None means yes, a text says what is missing."""

from __future__ import annotations

from http import HTTPStatus
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

_TIMEOUT_S = 3.0


def http_probe(url: str) -> str | None:
    """Return None when the URL answers 200, else what it did instead."""
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as answer:  # noqa: S310 - our own loopback URL
            status = answer.status
    except HTTPError as error:
        status = error.code
    except (URLError, OSError) as error:
        return f"no answer from {url}: {error}"
    return None if status == HTTPStatus.OK else f"{url} answers {status}"
