"""``core_factors__daily`` from bars as they lie in the lake: shape, members, what is simulated."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from marketlake.clock import utc_now
from marketlake.contracts.arrow import conform
from marketlake.contracts.catalog import CORE_FACTORS_DAILY
from marketlake.contracts.factors import FACTORS
from marketlake.domain import features
from marketlake.domain.features import engine

from tests.domain.features.made import made_bars
from tests.domain.market import actions_of

BARS = made_bars(5, n_symbols=3, n_sessions=420, is_whole=True)
NAMES = [item.name for item in FACTORS]
KEY = ["session", "symbol"]
MADE_AT = 20


def rows(made: dict[str, list[str]] | None = None) -> pl.DataFrame:
    """Return bars as the lake has them; ``made``: simulated fields of one session, by symbol."""
    parts = []
    for number, symbol in enumerate(BARS.symbols):
        fields = [[] for _ in BARS.sessions]
        fields[MADE_AT] = (made or {}).get(symbol, [])
        parts.append(
            pl.DataFrame(
                {
                    "session": BARS.sessions,
                    "symbol": symbol,
                    "open_usd": BARS.opens[number],
                    "high_usd": BARS.highs[number],
                    "low_usd": BARS.lows[number],
                    "close_usd": BARS.closes[number],
                    "volume_shares": BARS.volumes[number],
                    "simulated_fields": pl.Series(fields, dtype=pl.List(pl.String)),
                }
            )
        )
    return pl.concat(parts)


def computed(
    bars: pl.DataFrame, *, first: date, members: pl.DataFrame | None = None
) -> pl.DataFrame:
    return features.compute_factors(
        bars,
        actions_of(),
        sessions=BARS.sessions,
        symbols=BARS.symbols,
        first_output=first,
        members=bars.select(KEY) if members is None else members,
    )


def test_rows_are_those_of_the_contract_and_values_those_of_the_engine() -> None:
    first = BARS.sessions[400]
    found = computed(rows(), first=first)
    known = found.with_columns(known_at_utc=pl.lit(utc_now()))
    assert conform(CORE_FACTORS_DAILY, known.to_arrow()).num_rows == found.height == 3 * 20
    expected = np.empty((len(FACTORS), 3, 20), dtype=np.float32)
    engine.fill(BARS, first_output=first, out=expected)
    in_order = found.sort("symbol", "session").select(NAMES).fill_null(np.nan).to_numpy()
    assert in_order.dtype == np.float32
    np.testing.assert_array_equal(in_order, expected.reshape(len(FACTORS), -1).T)


def test_only_members_are_returned_and_only_where_they_have_a_bar() -> None:
    last = BARS.sessions[-1]
    bars = rows().filter(~((pl.col("symbol") == "S01") & (pl.col("session") == last)))
    members = pl.DataFrame({"session": [last, last], "symbol": ["S00", "S01"]})
    found = computed(bars, first=last, members=members)
    assert found.select(KEY).rows() == [(last, "S00")]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([], (False, False)),
        (["open_usd"], (False, True)),
        (["volume_shares", "high_usd"], (False, True)),
        # An as-traded close that was made backwards from a real adjusted one.
        (["close_usd"], (False, False)),
        (["adjusted_close"], (True, True)),
    ],
)
def test_a_row_says_whether_a_generator_made_what_it_looks_at(
    fields: list[str], expected: tuple[bool, bool]
) -> None:
    found = computed(rows({"S01": fields}), first=BARS.sessions[0])
    flags = found.select("symbol", "session", "closes_simulated", "simulated")
    lookback = max(item.warm_up_sessions for item in FACTORS)
    touched = set(BARS.sessions[MADE_AT : MADE_AT + lookback + 1])
    for symbol, session, *said in flags.rows():
        inside = symbol == "S01" and session in touched
        assert tuple(said) == (expected if inside else (False, False))
    assert MADE_AT + lookback + 1 < len(BARS.sessions), "one session must be beyond it"
