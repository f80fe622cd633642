from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import pytest
from marketlake.errors import MissingPartition
from marketlake.readmodels import signals
from marketlake.types import ArtifactRef

if TYPE_CHECKING:
    from marketlake.storage.lake import Lake


def test_without_signals_the_message_names_the_command(lake: Lake) -> None:
    with pytest.raises(MissingPartition, match="make run"):
        signals.newest_session(lake)


def test_signals_come_best_first_from_the_newest_session(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    assert signals.newest_session(lake) == date(2022, 12, 23)
    rows = signals.signals(lake)
    assert [row["symbol"] for row in rows] == ["XOM", "BAC", "KO", "GE", "HD", "PG", "PFE"]
    assert [row["rank"] for row in rows] == list(range(1, 8))


def test_a_session_that_was_not_predicted_is_missing(
    lake: Lake, day: dict[str, ArtifactRef]
) -> None:
    with pytest.raises(MissingPartition, match="2022-12-22"):
        signals.signals(lake, date(2022, 12, 22))
