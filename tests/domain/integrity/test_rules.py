"""Each rule finds its fault at its session, and says nothing of calm bars."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest
from marketlake.domain.integrity import (
    FINDING_SCHEMA,
    HALT_SCHEMA,
    LISTING_SCHEMA,
    Limits,
    Reference,
    detect,
)
from marketlake.errors import ContractViolation

from tests.domain.integrity.series import (
    CALENDAR,
    PRICES,
    at,
    dividend,
    said,
    scaled,
    split,
    walk,
)

BARS = walk()
DAYS = BARS["session"].to_list()
ROW = 100
DAY, NEXT = DAYS[ROW], DAYS[ROW + 1]
CLOSE = BARS["close_usd"][ROW]
ONE = {name: BARS[name][ROW] for name in BARS.columns}


def test_nothing_is_said_of_calm_bars_and_the_frame_is_typed() -> None:
    found = detect(BARS, Reference(calendar=CALENDAR))

    assert found.schema == FINDING_SCHEMA
    assert said(BARS) == set()


def test_missing_columns_are_named() -> None:
    with pytest.raises(ContractViolation, match="volume_shares"):
        detect(BARS.drop("volume_shares"), Reference())


@pytest.mark.parametrize(
    ("change", "rule", "severity"),
    [
        ({"close_usd": None}, "null_value", "critical"),
        ({"volume_shares": None}, "null_value", "warning"),
        ({"low_usd": 0.0}, "impossible_value", "critical"),
        ({"volume_shares": -1.0}, "impossible_value", "critical"),
        ({"low_usd": ONE["high_usd"], "high_usd": ONE["low_usd"]}, "swapped_ohlc", "critical"),
        ({"high_usd": ONE["close_usd"], "close_usd": ONE["high_usd"]}, "swapped_ohlc", "critical"),
        ({"close_usd": CLOSE * 100}, "unit", "critical"),
        (
            {name: BARS[name][ROW - 1] for name in (*PRICES, "volume_shares")},
            "stale_repeat",
            "warning",
        ),
        (
            {name: BARS[name][ROW - 3] for name in (*PRICES, "volume_shares")},
            "wrong_day",
            "warning",
        ),
    ],
)
def test_a_bar_that_cannot_be_right_is_found(change: dict, rule: str, severity: str) -> None:
    assert (DAY, "AAA", rule, severity) in said(at(BARS, ROW, **change))


def test_a_unit_error_is_found_once_and_leaves_no_echo() -> None:
    assert said(scaled(BARS, ROW, ROW, 0.01)) == {(DAY, "AAA", "unit", "critical")}


@pytest.mark.parametrize(("factor", "text"), [(1.0, "the same"), (1.02, "that differ")])
def test_two_bars_of_one_session_are_found(factor: float, text: str) -> None:
    twice = pl.concat([BARS, BARS[ROW : ROW + 1].with_columns(pl.col("close_usd") * factor)])

    found = detect(twice, Reference(calendar=CALENDAR)).filter(pl.col("rule") == "duplicate_bar")

    assert found["session"].to_list() == [DAY]
    assert text in found["explanation"][0]


def test_a_spike_that_nobody_confirms_alarms_and_its_way_back_is_said_of_the_spike() -> None:
    bars = at(BARS, ROW, close_usd=CLOSE * 1.25, high_usd=CLOSE * 1.25)

    assert said(bars) == {
        (DAY, "AAA", "price_spike", "warning"),
        (DAY, "AAA", "spike_reverted", "warning"),
    }


def test_a_second_source_turns_a_spike_into_a_note() -> None:
    bars = scaled(BARS, ROW, len(DAYS), 1.25)
    other = bars.with_columns(pl.lit("iex").alias("source"), *(pl.col(n) * 1.001 for n in PRICES))
    calm = BARS.with_columns(source=pl.lit("iex"))

    assert said(pl.concat([bars, other])) == {(DAY, "AAA", "price_spike", "info")}
    assert (DAY, "AAA", "price_spike", "warning") in said(pl.concat([bars, calm]))


@pytest.mark.parametrize(("ratio", "basis"), [(2.0, "as_traded"), (0.1, "as_traded")])
def test_a_corporate_action_explains_a_move(ratio: float, basis: str) -> None:
    bars = scaled(BARS, ROW, len(DAYS), 1 / ratio)

    assert said(bars, Reference(CALENDAR, split(DAY, ratio), basis=basis)) == set()
    assert said(bars, Reference(CALENDAR, basis=basis)) != set()


def test_a_dividend_explains_a_fall() -> None:
    bars = scaled(BARS, ROW, len(DAYS), 0.8)
    paid = 0.2 * BARS["close_usd"][ROW - 1]

    assert said(bars, Reference(CALENDAR, dividend(DAY, paid))) == set()
    assert (DAY, "AAA", "price_spike", "warning") in said(bars)


def test_unusual_volume_makes_a_note_of_a_spike_unless_one_wants_to_hear_of_all() -> None:
    bars = at(scaled(BARS, ROW, len(DAYS), 1.25), ROW, volume_shares=9e6)
    strict = Reference(CALENDAR, limits=Limits(volume_confirms=False))

    assert said(bars) == {(DAY, "AAA", "price_spike", "info")}
    assert said(bars, strict) == {(DAY, "AAA", "price_spike", "warning")}


def test_a_split_that_did_not_reach_older_prices_is_found_on_its_ex_date() -> None:
    late = scaled(BARS, 0, ROW - 1, 4.0)

    found = detect(late, Reference(CALENDAR, split(DAY, 4.0)))

    one = found.filter(pl.col("rule") == "split_not_applied").row(0, named=True)
    assert (one["session"], one["known_on"]) == (DAYS[ROW - 1], DAY)
    assert (DAY, "AAA", "split_missing", "warning") in said(late)


def test_two_symbols_with_one_series_are_found_from_the_third_bar_on() -> None:
    two = walk(symbols=("AAA", "BBB"))
    same = pl.col("session") >= DAYS[ROW]
    copied = pl.concat(
        [
            two.filter((pl.col("symbol") == "AAA") | ~same),
            two.filter((pl.col("symbol") == "AAA") & same).with_columns(symbol=pl.lit("BBB")),
        ]
    )

    found = detect(copied, Reference(CALENDAR)).filter(pl.col("rule") == "same_series")

    assert found["session"].min() == DAYS[ROW + 2]
    assert set(found["symbol"]) == {"AAA", "BBB"}
    assert "AAA" in found.filter(pl.col("symbol") == "BBB")["explanation"][0]


def test_weekday_and_expiry_volume_is_usual_and_the_same_on_another_day_is_not() -> None:
    bars = walk(500)
    friday = pl.col("session").dt.weekday() == 5
    third = friday & pl.col("session").dt.day().is_between(15, 21)
    busy = pl.when(third).then(6.0).when(friday).then(2.0).otherwise(1.0)
    bars = bars.with_columns(pl.col("volume_shares") * busy)
    wednesday = next(n for n in range(420, 500) if bars["session"][n].weekday() == 2)
    bars = at(bars, wednesday, volume_shares=6e6)

    found = detect(bars, Reference(CALENDAR)).filter(
        pl.col("rule") == "volume_anomaly", pl.col("session") > bars["session"][250]
    )

    loud = found.filter(pl.col("observed") > 5)["session"].to_list()
    assert loud == [bars["session"][wednesday]]


def test_a_tenth_of_the_usual_volume_alarms_but_not_on_a_half_day() -> None:
    half_day = DAYS.index(date(2018, 11, 23))

    for row, expected in ((ROW, ["thin_volume"]), (half_day, [])):
        found = detect(at(BARS, row, volume_shares=5e4), Reference(CALENDAR))
        assert found.filter(pl.col("session") == DAYS[row])["rule"].to_list() == expected


def test_a_halt_filled_forward_is_told_from_a_stale_repeat() -> None:
    price = BARS["close_usd"][ROW - 1]
    flat = at(BARS, ROW, volume_shares=0.0, **dict.fromkeys(PRICES, price))

    assert said(flat) == {(DAY, "AAA", "no_trading", "info")}


def test_absent_bars_are_told_apart() -> None:
    gone, born = DAYS[ROW + 3], DAYS[5]
    bars = pl.concat(
        [
            walk(symbols=("AAA",)).filter(pl.col("session") != DAY),
            walk(symbols=("HLT",), seed=2).filter(pl.col("session") != DAY),
            walk(symbols=("NEW",), seed=3).filter(pl.col("session") >= born),
            walk(symbols=("OLD",), seed=4).filter(pl.col("session") <= gone),
        ]
    )
    listings = pl.DataFrame(
        [("NEW", "yahoo", born, None), ("OLD", "yahoo", DAYS[0], gone)],
        schema=LISTING_SCHEMA,
        orient="row",
    )
    halts = pl.DataFrame([(DAY, "HLT")], schema=HALT_SCHEMA, orient="row")

    found = said(bars, Reference(CALENDAR, listings=listings, halts=halts))

    assert found == {
        (DAY, "AAA", "missing_bar", "warning"),
        (DAY, "HLT", "halted", "info"),
        *((day, "NEW", "not_yet_listed", "info") for day in DAYS[:5]),
        *((day, "OLD", "delisted", "info") for day in DAYS[ROW + 4 :]),
    }


def test_holidays_are_no_gap_half_days_are_and_say_so() -> None:
    half_day = date(2018, 11, 23)
    without = BARS.filter(pl.col("session") != half_day)

    found = detect(without, Reference(CALENDAR)).filter(pl.col("rule") == "missing_bar")

    assert found["session"].to_list() == [half_day]
    assert "half day" in found["explanation"][0]


def test_a_series_without_listing_is_presumed_delisted_after_ten_sessions() -> None:
    two = walk(symbols=("AAA", "BBB"))
    ended = two.filter((pl.col("symbol") == "AAA") | (pl.col("session") < DAY))

    found = said(ended)

    assert {rule for day, _, rule, _ in found if day <= DAYS[ROW + 9]} == {"missing_bar"}
    assert {rule for day, _, rule, _ in found if day > DAYS[ROW + 9]} == {"delisted"}


def test_a_source_without_any_bar_is_blamed_once() -> None:
    bars = walk(symbols=("AAA", "BBB", "CCC")).filter(pl.col("session") != DAY)

    assert (DAY, "*", "silent_source", "critical") in said(bars)


def test_a_session_that_never_came_is_missed_when_it_is_expected() -> None:
    found = said(BARS[:-1], last=DAYS[-1])

    assert found == {(DAYS[-1], "AAA", "missing_bar", "warning")}


def test_a_bar_of_a_holiday_is_found_and_disturbs_nothing_else() -> None:
    thanksgiving = date(2018, 11, 22)
    extra = scaled(BARS[ROW : ROW + 1], 0, 0, 3.0).with_columns(session=pl.lit(thanksgiving))

    assert said(pl.concat([BARS, extra])) == {(thanksgiving, "AAA", "not_a_session", "critical")}


@pytest.mark.parametrize(
    ("paid", "taken", "rule"),
    [
        (0.5, 0.5, None),
        (0.5, 0.0, "dividend_adjustment"),
        (0.0, 0.5, "dividend_adjustment"),
        (50.0, 0.5, "dividend_size"),
    ],
)
def test_dividends_are_held_against_price_and_adjusted_close(
    paid: float, taken: float, rule: str | None
) -> None:
    factor = np.where(np.arange(len(DAYS)) < ROW, 1 - taken / BARS["close_usd"][ROW - 1], 1.0)
    bars = BARS.with_columns(adj_close_usd=pl.col("close_usd") * pl.Series(factor))
    actions = dividend(DAY, paid) if paid else dividend(DAY, 1.0).clear()

    rules = {one[2] for one in said(bars, Reference(CALENDAR, actions))}

    assert rules == {rule, "dividend_adjustment"} - {None} if paid > 1 else rules == {rule} - {None}
