"""Repair as proposals: what would be changed, why, and how sure; applied and undone exactly.

Nothing here touches raw: proposals are rows that somebody may apply to a copy of the bars, and
revert. Only faults with one right answer are repaired (a unit, a listed split, exchanged prices, a
listed dividend that the adjusted close lacks, a day that other sources have); a spike is never
smoothed away, a gap never filled forward. What does not belong: detection (:mod:`.monitor`).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime

import polars as pl

from marketlake.domain.integrity.measures import (
    BAR,
    KEY,
    PRICES,
    SERIES,
    Basis,
    moved,
    require_bars,
    whole,
)
from marketlake.domain.integrity.scales import scales
from marketlake.errors import ContractViolation

FIELDS = (*BAR, "adj_close_usd")
PROPOSAL_SCHEMA = {
    "proposal": pl.String,
    "session": pl.Date,
    "symbol": pl.String,
    "source": pl.String,
    "field": pl.String,
    "before": pl.Float64,
    "after": pl.Float64,
    "adds_bar": pl.Boolean,
    "rule": pl.String,
    "confidence": pl.Float64,
    "evidence": pl.String,
    "as_of": pl.Date,
}
_LARGE_STEP = 3.9
_SURE, _LIKELY, _POSSIBLE = 0.95, 0.8, 0.6


def propose(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    as_of: date | datetime | None = None,
    basis: Basis = "split_adjusted",
) -> pl.DataFrame:
    """Return proposals for every repairable fault.

    Parameters
    ----------
    bars, actions, basis
        As in :func:`.monitor.detect`; a session may be an instant for bars within a day. Keys with
        two bars are left alone: which one counts is not for repair to say.
    as_of
        The session on which the decision is made: later bars and actions are not looked at. Without
        it the whole history is, so a bar is judged by what came after it as well; the column
        ``as_of`` says which, null for the whole history.

    Returns
    -------
    polars.DataFrame
        Rows of :data:`PROPOSAL_SCHEMA` (``session`` and ``as_of`` typed as in ``bars``), a row a
        cell, ``proposal`` naming those that belong together.
    """
    require_bars(bars)
    if as_of is not None:
        known = pl.col("session") <= as_of
        bars, actions = bars.filter(known), actions.filter(known)
    single = bars.filter(~bars.select(KEY).is_duplicated())
    usable = single.filter(whole())
    rows = moved(usable, actions, basis=basis)
    rescaled = _scaled(rows, actions)
    if rescaled.height:
        rows = moved(apply(usable, rescaled), actions, basis=basis)
    parts = [
        rescaled,
        _unadjusted_dividends(rows),
        _reordered(rows),
        _filled_from_peers(single, rows),
    ]
    return (
        _one_a_cell(pl.concat(parts))
        .with_columns(as_of=pl.lit(as_of, bars.schema["session"]))
        .select(*PROPOSAL_SCHEMA)
        .sort(*KEY, "field", "proposal")
    )


def apply(bars: pl.DataFrame, proposals: pl.DataFrame) -> pl.DataFrame:
    """Return ``bars`` with the proposals carried out; added bars come last.

    Raises
    ------
    ContractViolation
        When a cell does not hold what the proposal saw, or two proposals want the same cell.
    """
    cells, added = _split_up(proposals)
    changed = _exchange(bars, cells, "before", "after")
    if added.is_empty():
        return changed
    if changed.join(added, on=KEY, how="semi").height:
        raise _unlike("no bar where one is added", "one", "apply")
    wide = added.pivot("field", index=KEY, values="after")
    return pl.concat(
        [changed, wide.cast({name: bars.schema[name] for name in wide.columns})], how="diagonal"
    )


def revert(bars: pl.DataFrame, proposals: pl.DataFrame) -> pl.DataFrame:
    """Return the bars as they were before :func:`apply` with the same proposals, bit for bit."""
    cells, added = _split_up(proposals)
    return _exchange(
        bars.join(added, on=KEY, how="anti", maintain_order="left"), cells, "after", "before"
    )


def _split_up(proposals: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    if proposals.select(*KEY, "field").is_duplicated().any():
        raise _unlike("one proposal a cell", "several", "apply one, then propose again")
    return proposals.filter(~pl.col("adds_bar")), proposals.filter("adds_bar")


def _exchange(bars: pl.DataFrame, cells: pl.DataFrame, was: str, becomes: str) -> pl.DataFrame:
    """Set each cell from one value to the other, requiring that it holds the first."""
    reached = 0
    for name in cells["field"].unique().sort():
        own = cells.filter(pl.col("field") == name).select(*KEY, _was=was, _becomes=becomes)
        joined = bars.join(own, on=KEY, how="left", maintain_order="left")
        wanted = pl.col("_becomes").is_not_null()
        reached += joined.filter(wanted, pl.col(name) == pl.col("_was")).height
        bars = joined.with_columns(
            pl.when(wanted).then("_becomes").otherwise(name).alias(name)
        ).drop("_was", "_becomes")
    if reached != cells.height:
        raise _unlike(f"{cells.height} cells that hold what was proposed on", f"{reached}", "apply")
    return bars


def _unlike(expected: str, was: str, where: str) -> ContractViolation:
    return ContractViolation(
        expected=expected,
        was=was,
        where=f"domain.integrity.repair.{where}",
        todo="use the bars that the proposals were made for, each once",
    )


def _one_a_cell(cells: pl.DataFrame) -> pl.DataFrame:
    """Join proposals for one cell: from what it holds to what the last of them makes of it."""
    joined = pl.col("rule", "evidence").unique(maintain_order=True).str.join("; ")
    return cells.group_by(*KEY, "field", maintain_order=True).agg(
        pl.col("proposal", "before", "adds_bar").first(),
        pl.last("after"),
        pl.min("confidence"),
        joined,
    )


def _cells(rows: pl.DataFrame, rule: str, confidence: pl.Expr, evidence: pl.Expr) -> pl.DataFrame:
    """Return a proposal a cell of ``rows`` whose column ``new_<field>`` differs from the field."""
    fields = [name for name in FIELDS if f"new_{name}" in rows.columns]
    begins = (pl.col("bar_no") - pl.col("bar_no").shift(1)).fill_null(0) != 1
    begins |= pl.col("symbol") != pl.col("symbol").shift(1)
    since = pl.when(begins).then("session").forward_fill()
    rows = rows.with_columns(
        proposal=pl.format("{}:{}:{}:{}", pl.lit(rule), "symbol", "source", since),
        confidence=confidence,
        evidence=evidence,
    )
    parts = [
        rows.filter(pl.col(f"new_{name}") != pl.col(name)).select(
            "proposal",
            *KEY,
            pl.lit(name).alias("field"),
            pl.col(name).cast(pl.Float64).alias("before"),
            pl.col(f"new_{name}").cast(pl.Float64).alias("after"),
            pl.lit(value=False).alias("adds_bar"),
            pl.lit(rule).alias("rule"),
            "confidence",
            "evidence",
        )
        for name in fields
    ]
    return pl.concat(parts)


def _scaled(rows: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Propose bars and prices on a wrong scale to be brought to the right one."""
    found = []
    for group in _suspects(rows, actions):
        one = scales(
            group.select(PRICES).to_numpy(),
            group["move"].fill_null(0.0).to_numpy(),
            (group["volume_shares"].fill_null(0.0) > 0).cast(pl.Float64).to_numpy(),
            _positions(group, actions),
        )
        found.append(
            group.with_columns(
                pl.Series("splits", one.splits),
                pl.Series("units", one.units),
                pl.lit(one.confidence).alias("share"),
                *(pl.Series(f"cell_{p}", one.cells[:, i]) for i, p in enumerate(PRICES)),
            )
        )
    names = ("splits", "units", "share", *(f"cell_{name}" for name in PRICES))
    nothing = rows.clear().with_columns(pl.lit(None, pl.Float64).alias(name) for name in names)
    marked = pl.concat([nothing, *found])
    return _rescaled(marked)


def _rescaled(marked: pl.DataFrame) -> pl.DataFrame:
    odd = pl.any_horizontal(pl.col(f"cell_{name}") != 1.0 for name in PRICES)
    bar = pl.col("splits") * pl.col("units")
    new = {name: pl.col(name) / (bar * pl.col(f"cell_{name}")) for name in PRICES}
    marked = marked.filter(odd | (bar != 1.0)).with_columns(
        *(expression.alias(f"new_{name}") for name, expression in new.items()),
        new_volume_shares=pl.col("volume_shares") * pl.col("splits"),
        odd=odd,
    )
    inside = [f"new_{name}" for name in PRICES]
    # A price that was off by 100 has pulled the bar's low or high with it.
    marked = marked.with_columns(
        new_high_usd=pl.when("odd").then(pl.max_horizontal(inside)).otherwise("new_high_usd"),
        new_low_usd=pl.when("odd").then(pl.min_horizontal(inside)).otherwise("new_low_usd"),
    )
    if "adj_close_usd" in marked.columns:
        marked = marked.with_columns(
            new_adj_close_usd=pl.col("adj_close_usd") / (bar * pl.col("cell_close_usd"))
        )
    split = pl.col("splits") != 1.0
    return pl.concat(
        [
            _cells(
                marked.filter(split),
                "split_not_applied",
                pl.lit(_SURE),
                pl.format("on the scale before a listed split of {}", pl.col("splits").round(6)),
            ),
            _cells(
                marked.filter(~split),
                "unit",
                pl.when(odd).then(_SURE).otherwise(pl.max_horizontal("share", 0.5)),
                pl.format(
                    "off by {}; {} % of the traded bars are on the other scale",
                    pl.when(odd)
                    .then(pl.max_horizontal(f"cell_{n}" for n in PRICES))
                    .otherwise("units"),
                    (pl.col("share") * 100).round(0),
                ),
            ),
        ]
    )


def _suspects(rows: pl.DataFrame, actions: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Yield the series that jump far, between bars or within one, or have a split."""
    far = pl.any_horizontal(
        (pl.col(name) / pl.col("close_usd")).log().abs() > _LARGE_STEP for name in PRICES
    )
    splits = actions.filter(pl.col("split_ratio").is_not_null())["symbol"].unique()
    wanted = rows.filter(
        (pl.col("move").abs() > _LARGE_STEP) | far | pl.col("symbol").is_in(splits.to_list())
    )
    suspects = rows.join(
        wanted.select(SERIES).unique(), on=SERIES, how="semi", maintain_order="left"
    )
    yield from suspects.partition_by(SERIES, maintain_order=True)


def _positions(group: pl.DataFrame, actions: pl.DataFrame) -> list[tuple[int, float]]:
    """Return the bar from which on each listed split of a series counts, and its ratio."""
    own = actions.filter(pl.col("symbol") == group["symbol"][0], pl.col("split_ratio") > 0)
    ex_dates = own["session"].cast(group.schema["session"])
    return [
        (int(position), ratio)
        for position, ratio in zip(
            group["session"].search_sorted(ex_dates), own["split_ratio"], strict=True
        )
        if position < group.height
    ]


def _reordered(rows: pl.DataFrame) -> pl.DataFrame:
    """Propose prices of a bar, given in a wrong order, in the right one.

    Lowest and highest are certain. Which of the other two opened is decided by the bars beside
    it, unless only low and high were exchanged.
    """
    low, high = pl.min_horizontal(PRICES), pl.max_horizontal(PRICES)
    following = pl.col("open_usd").shift(-1).over(SERIES)
    rows = rows.with_columns(lowest=low, highest=high, following=following)
    # An open or close outside a range that is one may be bad itself: that has no one right answer.
    broken = pl.col("low_usd") > pl.col("high_usd") * (1 + 1e-4)
    exchanged = (pl.col("low_usd") == pl.col("highest")) & (pl.col("high_usd") == pl.col("lowest"))
    inner = pl.concat_list(PRICES).list.sort()
    rows = rows.filter(broken).with_columns(one=inner.list.get(1), other=inner.list.get(2))
    last = pl.col("before") * pl.col("expected").exp()

    def gaps(first: str, final: str) -> pl.Expr:
        overnight = (pl.col(first) / last).log().abs().fill_null(0.0)
        return overnight + (pl.col("following") / pl.col(final)).log().abs().fill_null(0.0)

    rising = gaps("one", "other") <= gaps("other", "one")
    rows = rows.with_columns(
        new_low_usd="lowest",
        new_high_usd="highest",
        new_open_usd=pl.when(exchanged)
        .then("open_usd")
        .when(rising)
        .then("one")
        .otherwise("other"),
        new_close_usd=pl.when(exchanged)
        .then("close_usd")
        .when(rising)
        .then("other")
        .otherwise("one"),
    )
    return _cells(
        rows,
        "swapped_ohlc",
        pl.when(exchanged).then(_SURE).otherwise(_POSSIBLE),
        pl.when(exchanged)
        .then(pl.lit("low and high exchanged"))
        .otherwise(pl.lit("lowest and highest are certain; open and close fit the bars beside it")),
    )


def _unadjusted_dividends(rows: pl.DataFrame) -> pl.DataFrame:
    """Propose to take listed dividends out of adjusted closes that do not know of them."""
    if "adj_close_usd" not in rows.columns:
        return _cells(
            rows.clear().with_columns(new_close_usd="close_usd"), "", pl.lit(0.0), pl.lit("")
        )
    paid = pl.col("dividend") / pl.col("before")
    untouched = pl.col("expected").abs() < 1e-5
    # Bars longer than a day are adjusted from the bar after the ex-date on.
    after = untouched.shift(-1, fill_value=True).over(SERIES)
    lacking = paid.is_between(0.002, 0.15) & untouched & after
    events = rows.with_columns(keep=pl.when(lacking).then(1.0 - paid).otherwise(1.0))
    later = pl.col("keep").reverse().cum_prod().reverse()
    events = events.with_columns(factor=later.over(SERIES).shift(-1).over(SERIES)).filter(
        pl.col("factor") < 1.0
    )
    return _cells(
        events.with_columns(new_adj_close_usd=pl.col("adj_close_usd") * pl.col("factor")),
        "dividend_not_adjusted",
        pl.lit(_LIKELY),
        pl.format(
            "listed dividends of {} % are not taken out", ((1 - pl.col("factor")) * 100).round(3)
        ),
    )


def _filled_from_peers(bars: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Propose a missing bar from the other sources' median, on the scale of the bar before.

    No volume: it is each venue's own.
    """
    spans = rows.group_by(SERIES).agg(first=pl.min("session"), last=pl.max("session"))
    closed = bars["session"].max()
    if rows["source"].n_unique() < 2:
        rows = rows.clear()
    missing = (
        rows.rename({"source": "peer"})
        .join(spans, on="symbol")
        .filter(pl.col("session") > pl.col("first"))
        .filter((pl.col("session") < pl.col("last")) | (pl.col("session") == pl.lit(closed)))
        .join(bars.select(KEY), on=KEY, how="anti")
    )
    own = rows.select("session", *SERIES, own_close="close_usd").sort("session")
    placed = (
        missing.sort("session")
        .join_asof(
            own.rename({"session": "own_session"}),
            left_on="session",
            right_on="own_session",
            by=list(SERIES),
            check_sortedness=False,
        )
        .filter(pl.col("own_session") == pl.col("session_before"))
    )
    scale = pl.col("own_close") / pl.col("before")
    filled = placed.group_by(KEY).agg(
        *((pl.col(name) * scale).median().alias(name) for name in PRICES),
        pl.len().alias("peers"),
    )
    cells = filled.unpivot(PRICES, index=[*KEY, "peers"], variable_name="field", value_name="after")
    return cells.select(
        pl.format("missing_bar:{}:{}:{}", "symbol", "source", "session").alias("proposal"),
        *KEY,
        "field",
        pl.lit(None, pl.Float64).alias("before"),
        "after",
        pl.lit(value=True).alias("adds_bar"),
        pl.lit("missing_bar").alias("rule"),
        pl.when(pl.col("peers") > 1).then(_SURE).otherwise(_LIKELY).alias("confidence"),
        pl.format("median of {} other sources, scaled to the close before", "peers").alias(
            "evidence"
        ),
    )
