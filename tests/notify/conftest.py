"""Receivers for these tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.mailbox import Mailbox


@pytest.fixture
def new_mailbox() -> Iterator[Callable[[], Mailbox]]:
    made: list[Mailbox] = []

    def make() -> Mailbox:
        made.append(Mailbox())
        return made[-1]

    yield make
    for mailbox in made:
        mailbox.close()


@pytest.fixture
def mailbox(new_mailbox: Callable[[], Mailbox]) -> Mailbox:
    box = new_mailbox()
    box.open()
    return box
