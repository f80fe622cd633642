"""Every basis of one history comes to the prices that traded."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import polars as pl
import pytest
from marketlake.domain.consensus import align_stamps, normalise
from marketlake.errors import ContractViolation, LookaheadError
from marketlake.types import Semantics

from tests.corpora.price_faults import ACTION_SCHEMA, PRICES
from tests.domain.consensus.vendors import NO_ACTIONS, SESSIONS, history, told_by

ACTIONS = pl.DataFrame(
    [
        (SESSIONS[20], "AAA", "dividend", None, 0.9),
        (SESSIONS[40], "AAA", "split", 4.0, None),
        (SESSIONS[60], "AAA", "dividend", None, 0.3),
        (SESSIONS[60], "AAA", "split", 0.5, None),
    ],
    ACTION_SCHEMA,
    orient="row",
)
SEMANTICS = {
    "raw": Semantics("as_traded"),
    "split": Semantics("split_adjusted"),
    "total": Semantics("total_return", volume_follows_dividends=True),
}


def vendors_views(truth: pl.DataFrame) -> pl.DataFrame:
    """Adjust as vendors say they do: by 1 - dividend / close before, from the ex-date back."""
    closes = truth["close_usd"].to_numpy()
    split, cash = np.ones(len(closes)), np.ones(len(closes))
    for session, _, _, ratio, dividend in ACTIONS.iter_rows():
        at = SESSIONS.index(session)
        if ratio:
            split[:at] /= ratio
        else:
            cash[:at] *= 1 - dividend / closes[at - 1]
    views = {"raw": (split**0, split**0), "split": (split, 1 / split)}
    views["total"] = (split * cash, 1 / (split * cash))
    return pl.concat(
        truth.with_columns(
            *(pl.col(name) * pl.Series(price) for name in PRICES),
            pl.col("volume_shares") * pl.Series(volume),
            source=pl.lit(source),
        )
        for source, (price, volume) in views.items()
    )


def test_three_bases_of_one_history_come_to_the_prices_and_volumes_that_traded() -> None:
    truth = history()
    as_traded = normalise(vendors_views(truth), ACTIONS, semantics=SEMANTICS, as_of=SESSIONS[-1])
    for _, one in as_traded.group_by("source"):
        for name in (*PRICES, "volume_shares"):
            np.testing.assert_allclose(one.sort("session")[name], truth[name], rtol=1e-12)


def test_an_action_after_a_sources_answer_is_not_undone() -> None:
    truth = history()
    told = told_by(truth, "split")
    early = normalise(
        told,
        ACTIONS,
        semantics=SEMANTICS,
        as_of=SESSIONS[-1],
        answered_on={"split": SESSIONS[30]},
    )
    assert early["close_usd"].equals(told["close_usd"])


@pytest.mark.parametrize("what", ["bars", "actions"])
def test_nothing_later_than_the_session_is_accepted(what: str) -> None:
    bars, actions = told_by(history(), "split"), ACTIONS
    if what == "bars":
        actions = actions.filter(pl.col("session") <= SESSIONS[30])
    else:
        bars = bars.filter(pl.col("session") <= SESSIONS[30])
    with pytest.raises(LookaheadError, match=what):
        normalise(bars, actions, semantics=SEMANTICS, as_of=SESSIONS[30])


def test_a_source_that_declares_nothing_is_refused() -> None:
    with pytest.raises(ContractViolation, match="none for other"):
        normalise(told_by(history(), "other"), NO_ACTIONS, semantics={}, as_of=SESSIONS[-1])


@pytest.mark.parametrize(
    "stamp",
    [
        datetime(2024, 7, 1, 4, 0, tzinfo=UTC),  # midnight in New York, in summer
        datetime(2024, 7, 1, 13, 30, tzinfo=UTC),  # the open
        datetime(2024, 7, 2, 0, 30, tzinfo=UTC),  # the evening after, already the next day in UTC
    ],
)
def test_a_stamp_falls_on_the_exchanges_day(stamp: datetime) -> None:
    aligned = align_stamps(pl.DataFrame({"stamp_utc": [stamp], "close_usd": [1.0]}))
    assert aligned["session"].to_list() == [date(2024, 7, 1)]
    assert "stamp_utc" not in aligned.columns
