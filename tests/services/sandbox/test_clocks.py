from __future__ import annotations

from datetime import date

import pytest
from marketlake.errors import ConfigError
from marketlake.services.sandbox.clocks import Clocks


@pytest.fixture
def clocks() -> Clocks:
    return Clocks(calendar="XNYS", publish_delay_minutes=30, default=date(2022, 12, 28))


def test_a_date_is_its_own_clock(clocks: Clocks) -> None:
    assert clocks.known("2015-06-01") == date(2015, 6, 1)
    assert clocks.known("anything else") == date(2022, 12, 28)


@pytest.mark.parametrize(
    ("at", "known"),
    [
        # The day after Thanksgiving closes at 13:00 New York, which is 18:00 UTC.
        ("2022-11-25T18:29:59+00:00", date(2022, 11, 23)),
        ("2022-11-25T18:30:00+00:00", date(2022, 11, 25)),
        ("2022-11-28T21:29:00Z", date(2022, 11, 25)),
        ("2022-11-28T21:30:00Z", date(2022, 11, 28)),
        ("2022-11-28", date(2022, 11, 28)),
    ],
)
def test_an_instant_knows_sessions_published_by_then(clocks: Clocks, at: str, known: date) -> None:
    assert clocks.set("n", at) == known
    assert clocks.known("n") == known
    clocks.reset("n")
    assert clocks.known("n") == date(2022, 12, 28)


@pytest.mark.parametrize("at", ["tomorrow", "2022-11-28T21:30:00"])
def test_an_unclear_instant_is_refused(clocks: Clocks, at: str) -> None:
    with pytest.raises(ConfigError, match="offset"):
        clocks.set("n", at)
