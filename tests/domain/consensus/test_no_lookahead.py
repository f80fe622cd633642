"""No consensus, weight, disagreement or settled episode depends on a later session."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.domain.consensus import (
    SETTLE_SESSIONS,
    Consensus,
    episodes,
    normalise,
    reconcile,
)
from marketlake.types import Semantics

from tests.domain.market import Market, made_market
from tests.property.lookahead import CHANGES, Computation, LookaheadFound, assert_no_lookahead

SOURCES = ("alpha", "beta", "gamma")
_KEY = ("session", "symbol")


def vendors(market: Market) -> pl.DataFrame:
    """Three vendors' bars of the market: one bar in ten wrong, in a way its own key decides."""
    parts = []
    for number, source in enumerate(SOURCES):
        dice = pl.struct(_KEY).hash(number) % 100
        factor = (
            pl.when(dice < 2).then(100.0).when(dice < 5).then(1.02).when(dice < 8).then(0.5)
            .otherwise(1.0 + dice.cast(pl.Float64) * 1e-5)
        )  # fmt: skip
        close = pl.col("close_usd") * factor
        parts.append(
            market.bars.filter(dice != 99).select(
                *_KEY,
                source=pl.lit(source),
                open_usd=close * 0.999,
                high_usd=close * 1.01,
                low_usd=close * 0.99,
                close_usd=close,
                volume_shares=1e6 + (pl.struct(_KEY).hash(9) % 100_000).cast(pl.Float64),
            )
        )
    return pl.concat(parts)


def agreed(market: Market) -> Consensus:
    return reconcile(vendors(market), market.actions, sessions=market.sessions)


def consensus_rows(market: Market) -> pl.DataFrame:
    return agreed(market).bars.with_columns(known_on="session")


def disagreement_rows(market: Market) -> pl.DataFrame:
    found = agreed(market).disagreements.with_columns(known_on="session")
    return found.sort("session", "symbol", "source", "class")


def weight_rows(market: Market) -> pl.DataFrame:
    return agreed(market).weights.with_columns(known_on="session", symbol=pl.col("source"))


def episode_rows(market: Market) -> pl.DataFrame:
    found = episodes(agreed(market), market.actions).filter("settled")
    return found.sort("first_session", "symbol", "source", "class")


COMPUTATIONS = (consensus_rows, disagreement_rows, weight_rows, episode_rows)


@pytest.mark.parametrize("compute", COMPUTATIONS)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(80, 115))
def test_nothing_said_of_a_session_changes_with_what_comes_later(
    compute: Computation, seed: int, at: int
) -> None:
    market = made_market(seed, n_sessions=130, n_symbols=3)
    assert_no_lookahead(compute, market, market.sessions[at])


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(80, 115))
def test_as_traded_prices_stay_when_a_vendor_readjusts_its_history_for_later_actions(
    seed: int, at: int
) -> None:
    market = made_market(seed, n_sessions=130, n_symbols=3)
    known = market.until(market.sessions[at])
    semantics = {source: Semantics("split_adjusted") for source in SOURCES}
    rows = []
    for seen in (known, market):
        adjusted = _split_adjusted(vendors(seen), seen.actions)
        rows.append(
            normalise(adjusted, seen.actions, semantics=semantics, as_of=seen.sessions[-1])
            .filter(pl.col("session") <= market.sessions[at])
            .sort("source", *_KEY)
        )
    ratio = rows[1]["close_usd"] / rows[0]["close_usd"] - 1
    assert rows[0].height == rows[1].height
    assert ratio.abs().max() < 1e-12  # type: ignore[operator]


def _split_adjusted(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    splits = actions.filter(pl.col("kind") == "split").select("session", "symbol", "split_ratio")
    for ex_date, symbol, ratio in splits.iter_rows():
        before = (pl.col("symbol") == symbol) & (pl.col("session") < ex_date)
        bars = bars.with_columns(
            pl.when(before).then(pl.col(name) / ratio).otherwise(name).alias(name)
            for name in ("open_usd", "high_usd", "low_usd", "close_usd")
        )
    return bars


def leak_of_weights_from_all_of_history(market: Market) -> pl.DataFrame:
    """A source's error over the whole history weighs its every bar."""
    bars = vendors(market).with_columns(
        middle=pl.col("close_usd").median().over(_KEY), known_on="session"
    )
    error = (pl.col("close_usd") / pl.col("middle")).log().abs().mean().over("source")
    return bars.with_columns(weight=1 / (0.002 + error)).sort("session", "symbol", "source")


def leak_of_tomorrows_bar(market: Market) -> pl.DataFrame:
    """A disagreement is judged by whether the source is back on the next session."""
    rows = consensus_rows(market).sort("symbol", "session")
    return rows.with_columns(after=pl.col("spread_pct").shift(-1).over("symbol"))


def leak_of_episodes_known_on_their_last_session(market: Market) -> pl.DataFrame:
    found = episodes(agreed(market), market.actions).filter("settled")
    return found.with_columns(known_on="last_session")


@pytest.mark.parametrize(
    "leak",
    [
        leak_of_weights_from_all_of_history,
        leak_of_tomorrows_bar,
        leak_of_episodes_known_on_their_last_session,
    ],
)
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(80, 110))
def test_a_planted_leak_is_caught_every_time(leak: Computation, seed: int, at: int) -> None:
    market = made_market(seed, n_sessions=130, n_symbols=3)
    with pytest.raises(LookaheadFound):
        assert_no_lookahead(leak, market, market.sessions[at])


def test_an_episode_is_settled_some_sessions_after_its_last() -> None:
    market = made_market(3, n_sessions=130, n_symbols=3)
    found = episodes(agreed(market), market.actions).filter("settled")
    days = {session: at for at, session in enumerate(market.sessions)}
    waits = {days[row["known_on"]] - days[row["last_session"]] for row in found.to_dicts()}
    assert waits == {SETTLE_SESSIONS}
    assert set(CHANGES) == {"deleted", "mangled", "invented"}
