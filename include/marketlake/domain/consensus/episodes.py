"""Runs of one source and symbol apart from the others, each with its class, evidence and refuter.

A run is judged once it is over: some sessions after its last one, when the bars and the actions
that tell a wrong day or a dividend are known. What does not belong: changing any consensus; it was
made without that knowledge.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from marketlake.domain.consensus.normalise import PRICES
from marketlake.domain.consensus.panel import Floats
from marketlake.domain.consensus.reconcile import Consensus, around
from marketlake.domain.consensus.rules import (
    LEAST_ACTION_RUN,
    REFUTED_IF,
    WHOLE_BAR,
    whole_bar,
    wrong_day_matches,
)

SETTLE_SESSIONS = 10
"""Sessions after a run's last until its class is final."""
_DIVIDEND_TOLERANCE = 0.15
_SESSIONS_PER_LEVEL = 50
"""A factor with more levels is not corporate actions'; dividends come every quarter. Two are free:
one lies astride two of them, and the consensus may pass from one source to another and back."""
_FACTOR_CLASSES = ("split_not_applied", "one_sided_action")
_INDEX = ("_session", "_symbol", "_source")
_ABSENT = ("missing_day", "duplicate")


def episodes(
    consensus: Consensus,
    actions: pl.DataFrame,
    *,
    field: str | None = None,
) -> pl.DataFrame:
    """Join disagreements on consecutive sessions into runs and judge each.

    Parameters
    ----------
    consensus
        Of :func:`reconcile`.
    actions
        As for :func:`reconcile`; those up to a run's ``known_on`` are used.
    field
        Only bars apart in this price (``close_usd``) make a run; by default any price does.

    Returns
    -------
    polars.DataFrame
        One row a run: ``source``, ``symbol``, ``first_session``, ``last_session``,
        ``n_sessions``, ``class``, ``evidence`` (median of its rule's number), ``factor`` (median
        whole-bar factor, null if none), ``worst_apart_pct``, ``share_of_class`` (of the run's
        bars), ``refuted_if``, ``known_on`` and ``settled`` (False: the frame ends before
        ``known_on`` would be; the class may change).
    """
    panel = consensus.panel
    days = len(panel.sessions)
    rows = consensus.disagreements
    for column, values in (("session", panel.sessions), ("symbol", panel.symbols),
                           ("source", panel.sources)):  # fmt: skip
        index = pl.DataFrame({column: pl.Series(values, dtype=rows.schema[column])})
        rows = rows.join(index.with_row_index(f"_{column}"), on=column)
    rows = rows.with_columns(
        pl.col("_session").cast(pl.Int64).alias("_t"),
        pl.when(pl.col("class").is_in(_ABSENT))
        .then("class")
        .otherwise(pl.lit("price"))
        .alias("_k"),
    )
    if field is not None:
        rows = rows.filter((pl.col("_k") != "price") | pl.col("fields").list.contains(field))
    group = ("source", "symbol", "_k")
    rows = rows.sort(*group, "_t")
    before = pl.col("_t").shift(1).over(group).fill_null(-1)
    starts = _starts(consensus, rows.with_columns(before.alias("_before")))
    rows = rows.with_columns(starts.alias("_run")).with_columns(
        pl.col("_run").cum_sum().over(group)
    )
    run = [*group, "_run"]
    rows = rows.with_columns(
        pl.min_horizontal(pl.col("_t").max().over(run) + SETTLE_SESSIONS, days - 1).alias("_known")
    )
    rows = _judged(rows, consensus, actions)
    best = (
        rows.group_by([*run, "class"])
        .agg(pl.len().alias("_n"), pl.col("evidence").median())
        .sort([*run, "_n", "class"], descending=[*[False] * 4, True, False])
        .group_by(run, maintain_order=True)
        .first()
    )
    factor = pl.col("_log").filter(pl.col("_whole"))
    return (
        rows.group_by(run)
        .agg(
            pl.col("session").min().alias("first_session"),
            pl.col("session").max().alias("last_session"),
            pl.len().cast(pl.Int64).alias("n_sessions"),
            factor.median().exp().alias("factor"),
            pl.max_horizontal(pl.col("^.*_apart_pct$").abs()).max().alias("worst_apart_pct"),
            pl.col("_known").first(),
            pl.col("_t").max().alias("_last"),
        )
        .join(best, on=run)
        .with_columns(
            (pl.col("_n") / pl.col("n_sessions")).alias("share_of_class"),
            pl.col("class").replace_strict(REFUTED_IF).alias("refuted_if"),
            pl.lit(pl.Series(panel.sessions, dtype=pl.Date)).gather("_known").alias("known_on"),
            (pl.col("_last") + SETTLE_SESSIONS < days).alias("settled"),
        )
        .select(
            "source", "symbol", "first_session", "last_session", "n_sessions", "class", "evidence",
            "factor", "worst_apart_pct", "share_of_class", "refuted_if", "known_on", "settled",
        )
        .sort("first_session", "symbol", "source", "class")
    )  # fmt: skip


def _starts(consensus: Consensus, rows: pl.DataFrame) -> pl.Series:
    """Whether a run begins with each row; ``_before`` is the session of the row before it, or -1.

    Where no two sources agree the consensus may pass from one to another: that ends nobody's run.
    """
    answered, agreed = consensus.panel.answered, consensus.estimate.agreed[..., 3]
    alone = (answered.sum(axis=-1) > 1) & ((answered & agreed).sum(axis=-1) < 2)
    upto = np.concatenate([np.zeros((1, alone.shape[1]), np.int64), np.cumsum(alone, axis=0)])
    t, s, _ = (rows[name].to_numpy() for name in _INDEX)
    first = rows["_before"].to_numpy() + 1
    return pl.Series((first == 0) | (t - first > upto[t, s] - upto[first, s]))


def _judged(rows: pl.DataFrame, consensus: Consensus, actions: pl.DataFrame) -> pl.DataFrame:
    """Revise each bar's class with what its run and the sessions after it show."""
    logs = np.log1p(rows.select(pl.col("^.*_apart_pct$")).to_numpy() / 100.0)
    whole, log = whole_bar(logs)
    rows = rows.with_columns(
        pl.Series("_whole", whole), pl.Series("_log", log, dtype=pl.Float64).fill_nan(None)
    )
    t, s, n = (rows[name].to_numpy().astype(np.int64) for name in _INDEX)
    later = around(
        consensus.panel, consensus.estimate, (t, s, n), np.arange(1, SETTLE_SESSIONS + 1)
    )
    with np.errstate(invalid="ignore"):
        held, days = wrong_day_matches(rows.select(PRICES).to_numpy(), later)
    offset = np.where(held, days, np.nan)
    following, last = _dividend_logs(rows, consensus, actions)
    rows = rows.with_columns(
        pl.Series("_offset", offset).fill_nan(None),
        pl.Series("_following", following),
        pl.Series("_last", last),
    )
    run = ["source", "symbol", "_k", "_run"]
    is_dividend = (
        pl.col("_whole")
        & pl.col("class").is_in(_FACTOR_CLASSES)
        & (
            _near(pl.col("_log"), pl.col("_following"))
            | (
                (pl.len().over(run) < LEAST_ACTION_RUN)
                & _near(pl.col("_log").abs(), -pl.col("_last"))
            )
        )
    )
    levels = (pl.col("_log").filter("_whole") / WHOLE_BAR).round().n_unique()
    one_factor = (
        (pl.col("_whole").sum() >= LEAST_ACTION_RUN)
        & (levels <= 2 + pl.len() // _SESSIONS_PER_LEVEL)
    ).over(run)
    refuted = (pl.col("class") == "one_sided_action") & ~one_factor
    is_later_day = pl.col("_offset").is_not_null() & pl.col("class").is_in(
        ["unexplained", "one_venue_print", "single_print", "one_sided_action"]
    )
    return rows.with_columns(
        pl.when(is_later_day)
        .then(pl.lit("wrong_day"))
        .when(is_dividend)
        .then(pl.lit("dividend_adjustment"))
        .when(refuted)
        .then(pl.lit("unexplained"))
        .otherwise("class")
        .alias("class"),
        pl.when(is_later_day)
        .then("_offset")
        .when(is_dividend)
        .then(pl.col("_log").exp())
        .otherwise("evidence")
        .alias("evidence"),
    )


def _near(log: pl.Expr, expected: pl.Expr) -> pl.Expr:
    """Whether a log factor is the expected one; no dividend (0) expects nothing."""
    slack = _DIVIDEND_TOLERANCE + 0.0005 / expected.abs()
    return (expected != 0) & ((log / expected - 1.0).abs() <= slack)


def _dividend_logs(
    rows: pl.DataFrame, consensus: Consensus, actions: pl.DataFrame
) -> tuple[Floats, Floats]:
    """Return the log factor of the dividends after each bar until its run is known.

    And that of the last dividend up to the bar; 0 where there is none.
    """
    panel, closes = consensus.panel, consensus.estimate.prices[..., 3]
    steps = np.zeros(closes.shape)
    symbols = {name: at for at, name in enumerate(panel.symbols)}
    paid = actions.filter(
        (pl.col("kind") == "dividend")
        & pl.col("dividend_usd").is_not_null()
        & pl.col("symbol").is_in(list(symbols))
    )
    ex_dates = np.searchsorted(
        np.array(panel.sessions, dtype="datetime64[D]"),
        paid["session"].to_numpy().astype("datetime64[D]"),
    )
    for t, symbol, dividend in zip(ex_dates, paid["symbol"], paid["dividend_usd"], strict=True):
        if 0 < t < len(panel.sessions) and dividend < closes[t - 1, symbols[symbol]]:
            steps[t, symbols[symbol]] += np.log1p(-dividend / closes[t - 1, symbols[symbol]])
    upto = np.cumsum(steps, axis=0)
    latest = np.maximum.accumulate(
        np.where(steps != 0, np.arange(len(panel.sessions))[:, None], 0), axis=0
    )
    t, s, _ = (rows[name].to_numpy() for name in _INDEX)
    return upto[rows["_known"].to_numpy(), s] - upto[t, s], steps[latest[t, s], s]
