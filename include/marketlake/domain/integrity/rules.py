"""The rules: measured bars in, findings out. Each looks at a bar and at what came before it.

What does not belong: absent bars (:mod:`.gaps`), and changing anything (:mod:`.repair`).
"""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

from marketlake.domain.integrity.findings import CRITICAL, INFO, WARNING, findings
from marketlake.domain.integrity.measures import BAR, KEY, PRICES, back, whole

_LOG_10 = 2.302585092994046
_TWIN_BARS = 3
_LISTED_FOR = "45d"
_SPLITS = (1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 10.0, 15.0, 20.0)


@dataclass(frozen=True)
class Limits:
    """Thresholds of the rules.

    ``volume_confirms``: a spike that nobody confirms, but that traded on unusual volume, is noted
    and does not alarm. A wrong price seldom comes with a crowd; turn it off to hear of all.
    """

    spike_pct: float = 10.0
    volume_sigmas: float = 3.0
    thin_volume_fraction: float = 0.1
    same_move: float = 0.25
    delisted_after_sessions: int = 10
    volume_confirms: bool = True


def duplicates(bars: pl.DataFrame) -> pl.DataFrame:
    """Find keys with more than one bar."""
    again = (
        bars.filter(bars.select(KEY).is_duplicated())
        .group_by(KEY)
        .agg(pl.len().alias("n"), pl.struct(BAR).n_unique().alias("versions"))
    )
    said = pl.when(pl.col("versions") > 1).then(pl.lit("that differ")).otherwise(pl.lit("the same"))
    return findings(
        again,
        "duplicate_bar",
        CRITICAL,
        pl.format("{} bars of one session, {}", "n", said),
        observed=pl.col("n"),
        expected=pl.lit(1.0),
        limit=1.0,
    )


def values(bars: pl.DataFrame) -> list[pl.DataFrame]:
    """Find missing and impossible values, and prices that are not a bar in the order given."""
    names = [pl.when(pl.col(name).is_null()).then(pl.lit(name)) for name in BAR]
    nulls = pl.any_horizontal(pl.col(name).is_null() for name in BAR)
    low, high = pl.min_horizontal(PRICES), pl.max_horizontal(PRICES)
    tolerance = 1e-6 * high
    broken = (pl.col("low_usd") > low + tolerance) | (pl.col("high_usd") < high - tolerance)
    exchanged = (pl.col("low_usd") == high) & (pl.col("high_usd") == low)
    positive = whole()
    return [
        findings(
            bars.filter(nulls),
            "null_value",
            pl.when(pl.any_horizontal(pl.col(name).is_null() for name in PRICES))
            .then(pl.lit(CRITICAL))
            .otherwise(pl.lit(WARNING)),
            pl.format("no {}", pl.concat_str(names, separator=", ", ignore_nulls=True)),
        ),
        findings(
            bars.filter(~nulls & ~positive | (pl.col("volume_shares") < 0)),
            "impossible_value",
            CRITICAL,
            "a price that is not above zero, or a negative volume",
            observed=pl.min_horizontal(BAR),
            expected=pl.lit(0.0),
            limit=0.0,
        ),
        findings(
            bars.filter(broken & positive),
            "swapped_ohlc",
            CRITICAL,
            pl.when(exchanged)
            .then(pl.lit("low and high are exchanged"))
            .otherwise(pl.lit("open or close lies outside low and high: prices are exchanged")),
            observed=pl.max_horizontal(pl.col("low_usd") / low, high / pl.col("high_usd")),
            expected=pl.lit(1.0),
            limit=1.0 + 1e-6,
        ),
    ]


def repeats(bars: pl.DataFrame) -> list[pl.DataFrame]:
    """Find bars that are an earlier bar of their series, and days on which nothing traded."""
    flat = pl.col("flat").fill_null(value=False)
    same = bars.filter(~flat, pl.col("same_as").is_not_null())
    stale = pl.col("same_as") == 1
    return [
        findings(
            same.filter(stale),
            "stale_repeat",
            WARNING,
            "prices and volume are those of the bar before (or the bar before came a day early)",
            observed=pl.col("close_usd"),
            limit=1.0,
        ),
        findings(
            same.filter(~stale),
            "wrong_day",
            WARNING,
            pl.format("prices and volume are those of {} bars ago", "same_as"),
            observed=pl.col("same_as"),
            limit=1.0,
        ),
        findings(
            bars.filter(flat, pl.col("close_usd") == pl.col("before")),
            "no_trading",
            INFO,
            "no volume and no range at the last price: nothing traded, or a halt filled forward",
            observed=pl.col("volume_shares"),
            limit=0.0,
        ),
    ]


def twins(bars: pl.DataFrame) -> pl.DataFrame:
    """Add ``twin``: another symbol of the source with the very same bar, three bars running."""
    same = [*BAR, "session", "source"]
    alike = pl.col("close_usd").hash() ^ pl.col("volume_shares").hash() ^ pl.col("session").hash()
    pairs = (
        bars.filter(alike.is_duplicated())
        .filter(pl.col("high_usd") > pl.col("low_usd"), pl.col("volume_shares") > 0)
        .group_by(same)
        .agg(pl.min("symbol").alias("first"), pl.max("symbol").alias("last"))
        .filter(pl.col("first") != pl.col("last"))
    )
    own = pl.when(pl.col("symbol") == pl.col("first")).then("last").otherwise("first")
    bars = bars.join(pairs, on=same, how="left", maintain_order="left").with_columns(twin=own)
    running = [pl.col("twin") == back("twin", k) for k in range(1, _TWIN_BARS)]
    return bars.with_columns(twin=pl.when(pl.all_horizontal(running)).then("twin"))


def identities(bars: pl.DataFrame) -> pl.DataFrame:
    """Find two symbols that carry one series."""
    return findings(
        bars.filter(pl.col("twin").is_not_null()),
        "same_series",
        CRITICAL,
        pl.lit(f"the last {_TWIN_BARS} bars are those of ") + pl.col("twin"),
        observed=pl.lit(float(_TWIN_BARS)),
        limit=float(_TWIN_BARS),
    )


def volumes(bars: pl.DataFrame, limits: Limits) -> list[pl.DataFrame]:
    """Find unusual volume, weekday and expiry effects removed; too little of it is an alarm."""
    sigmas, fraction = pl.col("volume_sigmas"), pl.col("volume_move").exp()
    unusual = bars.filter(sigmas.abs() > limits.volume_sigmas)
    thin = fraction < limits.thin_volume_fraction
    times = pl.format("{} times the usual volume", fraction.round(2))
    return [
        findings(
            unusual.filter(wanted),
            rule,
            severity,
            text,
            observed=sigmas,
            expected=pl.lit(0.0),
            limit=limits.volume_sigmas,
        )
        for rule, severity, wanted, text in (
            ("volume_anomaly", INFO, ~(thin & (sigmas < 0)), times),
            (
                "thin_volume",
                WARNING,
                thin & (sigmas < 0),
                pl.format("{}: one venue's, or part of a session", times),
            ),
        )
    ]


def judged_moves(bars: pl.DataFrame, splits: pl.DataFrame, limits: Limits) -> pl.DataFrame:
    """Add what the rules on prices decide on: ``unit_fields``, ``split_ratio`` and the like."""
    spike = (pl.col("reach").exp() - 1.0).abs() * 100.0 > limits.spike_pct
    unit = {
        name: _near_power_of_ten((pl.col(name) / pl.col("close_usd")).log() + pl.col("off_level"))
        for name in PRICES
    }
    fields = [pl.when(wrong).then(pl.lit(name)) for name, wrong in unit.items()]
    was, move = pl.col("move_before"), pl.col("move")
    came_back = (
        ((was.exp() - 1.0).abs() * 100.0 > limits.spike_pct)
        & (was * move < 0)
        & ((was + move).abs() < 0.35 * was.abs())
    )
    listed = pl.col("listed_ratio").log()
    late = (listed.abs() > 0.18) & ((move.abs() - listed.abs()).abs() < 0.25 * listed.abs())
    candidates = [(move - sign * pl.lit(r).log()).abs() < 0.05 for r in _SPLITS for sign in (1, -1)]
    # A split is there at the open; a price that only the close has is none.
    opened = (pl.col("open_reach") - move).abs() < 0.25 * move.abs()
    quiet = pl.col("volume_move").fill_null(0.0) < 1.0 + pl.max_horizontal(-move, pl.lit(0.0))
    bars = _with_listed_splits(bars, splits).with_columns(
        unit_fields=pl.concat_str(fields, separator=", ", ignore_nulls=True),
        came_back=came_back,
        late_split=late.fill_null(value=False),
        like_split=pl.any_horizontal(candidates) & quiet & opened & (move.abs() > 0.3),
    )
    explained = (pl.col("unit_fields") != "") | pl.col("came_back") | pl.col("late_split")
    return bars.with_columns(spike=spike & ~explained.fill_null(value=False))


def _near_power_of_ten(off: pl.Expr) -> pl.Expr:
    """Whether a log ratio is a factor of 100 or more, within a factor of two of a power of ten."""
    power = (off.abs() / _LOG_10).round()
    return ((off.abs() - power * _LOG_10).abs() < 0.7) & (power >= 2)


def _with_listed_splits(bars: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """Add ``listed_ratio``, of the last split with an ex-date on the session or shortly before."""
    ex_dates = splits.filter(pl.col("split_ratio").is_not_null()).select(
        "symbol", listed_at="session", listed_ratio="split_ratio"
    )
    if ex_dates.is_empty():
        return bars.with_columns(listed_ratio=pl.lit(None, pl.Float64))
    return (
        bars.with_row_index("row")
        .sort("session")
        .join_asof(
            ex_dates.sort("listed_at"),
            left_on="session",
            right_on="listed_at",
            by="symbol",
            tolerance=_LISTED_FOR,
            check_sortedness=False,
        )
        .sort("row")
        .drop("row", "listed_at")
    )


def prices(bars: pl.DataFrame, limits: Limits) -> list[pl.DataFrame]:
    """Find wrong units, splits that did not reach the prices, and unconfirmed spikes."""
    moved_pct = (pl.col("move").exp() - 1.0) * 100.0
    spikes = _confirmed(bars.filter("spike"), bars, "reach", limits)
    back_again = bars.filter(
        "came_back", pl.col("move_before").abs() < _LOG_10, ~pl.col("late_split")
    )
    back_again = _confirmed(back_again, bars, "move_before", limits)
    heard = pl.col("confirmed_by").is_not_null()
    crowd = (pl.col("volume_sigmas") >= limits.volume_sigmas).fill_null(value=False)
    noted = heard | (crowd if limits.volume_confirms else pl.lit(value=False))
    pct = ((pl.col("reach").exp() - 1.0) * 100.0).round(1)
    return [
        findings(
            bars.filter(pl.col("unit_fields") != ""),
            "unit",
            CRITICAL,
            pl.format("{} off by a power of ten against the bars before", "unit_fields"),
            observed=pl.col("off_level").exp(),
            expected=pl.lit(1.0),
            limit=50.0,
        ),
        findings(
            bars.filter("late_split"),
            "split_not_applied",
            CRITICAL,
            pl.format("moved by the listed split of {} from here on", "listed_ratio"),
            observed=pl.col("move").exp(),
            expected=pl.lit(1.0),
            limit=pl.col("listed_ratio"),
            session="session_before",
        ),
        findings(
            back_again.filter(~heard),
            "spike_reverted",
            WARNING,
            pl.format("the next bar came back by {} %", moved_pct.round(1)),
            observed=(pl.col("move_before").exp() - 1.0) * 100.0,
            expected=pl.lit(0.0),
            limit=limits.spike_pct,
            session="session_before",
        ),
        findings(
            spikes,
            pl.when("like_split").then(pl.lit("split_missing")).otherwise(pl.lit("price_spike")),
            pl.when(noted).then(pl.lit(INFO)).otherwise(pl.lit(WARNING)),
            pl.when(heard)
            .then(pl.format("moved {} %, confirmed by {}", pct, "confirmed_by"))
            .when("like_split")
            .then(pl.format("moved {} %, like a split that is not listed", pct))
            .when(crowd)
            .then(pl.format("moved {} %, confirmed by its volume alone", pct))
            .otherwise(pl.format("moved {} %, which no source and no action confirms", pct)),
            observed=(pl.col("reach").exp() - 1.0) * 100.0,
            expected=pl.lit(0.0),
            limit=limits.spike_pct,
        ),
    ]


def _confirmed(rows: pl.DataFrame, bars: pl.DataFrame, move: str, limits: Limits) -> pl.DataFrame:
    """Return ``rows`` with ``confirmed_by``: another source with about the same move, if any."""
    others = bars.select("session", "symbol", other="source", other_move=move)
    near = pl.max_horizontal(0.02, limits.same_move * pl.col(move).abs())
    heard = (
        rows.select(*KEY, move)
        .join(others, on=["session", "symbol"])
        .filter(pl.col("source") != pl.col("other"))
        .filter((pl.col(move) - pl.col("other_move")).abs() <= near)
        .group_by(KEY)
        .agg(pl.min("other").alias("confirmed_by"))
    )
    return rows.join(heard, on=KEY, how="left", maintain_order="left")


def dividends(bars: pl.DataFrame) -> list[pl.DataFrame]:
    """Find dividends that the price or the vendor's adjusted close contradicts."""
    paid, due = pl.col("dividend") / pl.col("before"), pl.col("due")
    fell = 1.0 - pl.col("close_usd") / pl.col("before")
    twice = (pl.col("dividend") / pl.col("paid_before")).is_between(0.8, 1.25)
    found = [
        findings(
            bars.filter((paid > 0.08) & (fell < 0.5 * paid)),
            "dividend_size",
            WARNING,
            pl.format("a dividend of {} % of the price, which hardly fell", (paid * 100).round(1)),
            observed=fell,
            expected=paid,
            limit=0.08,
        ),
        findings(
            bars.filter(twice),
            "dividend_repeated",
            WARNING,
            "much the same dividend was listed within the five bars before",
            observed=pl.col("dividend"),
            expected=pl.lit(0.0),
            limit=pl.col("paid_before"),
        ),
    ]
    if "adj_close_usd" not in bars.columns:
        return found
    wrong = (pl.col("expected") - due).abs() > pl.max_horizontal(0.0005, 0.3 * paid)
    said = (
        pl.when(pl.col("dividend") == 0)
        .then(pl.lit("the adjusted close takes out a dividend that is not listed"))
        .when(pl.col("expected").abs() < 0.1 * due.abs())
        .then(pl.lit("the adjusted close does not take out the listed dividend"))
        .otherwise(pl.lit("the adjusted close takes out another sum than the listed dividend"))
    )
    disagreeing = findings(
        bars.filter((pl.col("adj_close_usd") > 0) & wrong),
        "dividend_adjustment",
        WARNING,
        said,
        observed=pl.col("expected").exp(),
        expected=due.exp(),
        limit=paid,
    )
    return [*found, disagreeing]
