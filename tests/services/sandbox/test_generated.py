from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from marketlake.calendars import Calendar
from marketlake.services.sandbox.generated import generated_world
from marketlake.services.sandbox.world import View, World

SYMBOLS = ["AAA", "BBB", "CCC", "DDD", "EEE"]


def market(seed: int = 5) -> World:
    return generated_world(
        seed,
        symbols=SYMBOLS,
        benchmark="^GSPC",
        calendar=Calendar.of("XNYS"),
        first=date(2010, 1, 4),
    )


def view(world: World, symbol: str, known: date) -> View:
    seen = world.view(symbol, known)
    assert seen is not None
    return seen


def test_a_longer_history_never_changes_a_shorter_one() -> None:
    world, known = market(), date(2013, 5, 17)
    before = view(world, "AAA", known)
    view(world, "AAA", date(2030, 3, 1))
    series = world.market("AAA", date(2030, 3, 1))
    assert series is not None
    length = len(before.sessions)
    early = world.market("AAA", known)
    assert early is not None
    for name in ("open_usd", "high_usd", "low_usd", "close_usd", "volume_shares"):
        assert np.array_equal(getattr(series, name)[:length], getattr(early, name)[:length]), name
    assert np.array_equal(view(market(), "AAA", known).close_usd, before.close_usd)


@pytest.mark.parametrize("known", [date(2010, 1, 4), date(2026, 11, 20), date(2040, 6, 1)])
def test_it_reaches_any_session(known: date) -> None:
    for symbol in (*SYMBOLS, "^GSPC"):
        assert view(market(), symbol, known).sessions[-1].item() == known


def test_shares_move_with_the_market_and_on_their_own() -> None:
    world, known = market(), date(2025, 12, 31)
    returns = np.asarray(
        [np.diff(np.log(view(world, s, known).adj_close_usd)) for s in (*SYMBOLS, "^GSPC")]
    )
    correlation = np.corrcoef(returns)
    assert correlation[:-1, -1].min() > 0.2
    assert correlation[:-1, :-1][~np.eye(5, dtype=bool)].max() < 0.9


def test_everything_is_named_as_simulated() -> None:
    world, known = market(), date(2015, 6, 1)
    share, index = view(world, "BBB", known), view(world, "^GSPC", known)
    assert {"close_usd", "adjusted_close", "split_ratio"} <= set(share.simulated)
    assert {"close_usd", "benchmark_close"} <= set(index.simulated)
    assert "benchmark_close" not in share.simulated


def test_another_seed_is_another_market() -> None:
    known = date(2015, 6, 1)
    one, two = view(market(5), "AAA", known), view(market(6), "AAA", known)
    assert not np.allclose(one.close_usd, two.close_usd)
    assert market().view("ZZZ", known) is None
