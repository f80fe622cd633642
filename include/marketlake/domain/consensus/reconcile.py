"""From the bars of several sources to one: values, provenance, and every disagreement classified.

What does not belong: fetching, dropping a source that failed (its rows are simply not here) and
writing.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from marketlake.domain.consensus.estimate import ERROR_SESSIONS, Estimate, estimate
from marketlake.domain.consensus.normalise import PRICES
from marketlake.domain.consensus.panel import Floats, Ints, Panel, panel_of
from marketlake.domain.consensus.rules import WRONG_DAYS_BACK, Apart, classify
from marketlake.errors import EmptyAnswer

DEFAULT_THRESHOLD_PCT = 0.5
_PCT = tuple(name.replace("_usd", "_apart_pct") for name in PRICES)
_KEY = ("session", "symbol")


@dataclass(frozen=True)
class Consensus:
    """What several sources say together.

    ``bars``: one row per session and symbol that any source answered: as-traded open, high, low,
    close, ``volume_shares`` of ``volume_source``, ``chosen_source``, ``taken_from`` (sources that
    a price may be of: the chosen one alone where it agrees in all), ``sources`` (that answered),
    ``n_sources`` (how many), ``n_agreed`` (on the close), ``spread_pct`` (of the closes),
    ``flags``.

    ``disagreements``: one row per session, symbol and source apart from the consensus in a price,
    missing, or given twice: the source's bar, ``*_apart_pct`` for each price, ``fields`` apart,
    ``weight``, ``class``, ``evidence`` (the rule's number) and ``volume_share``. A source of
    ``bars.sources`` without a row here agreed in every price; with one, in the fields not named.

    ``weights``: ``session``, ``source``, mean learned weight over the symbols.

    ``panel`` and ``estimate``: the same as arrays, for :func:`episodes`.
    """

    bars: pl.DataFrame
    disagreements: pl.DataFrame
    weights: pl.DataFrame
    panel: Panel
    estimate: Estimate


def reconcile(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    thresholds_pct: Mapping[str, float] | None = None,
    one_venue: Collection[str] = (),
    not_asked: pl.DataFrame | None = None,
    preference: Sequence[str] = (),
) -> Consensus:
    """Return the consensus of every session in ``sessions``.

    Nothing at a session depends on a later one. A session's result is the same whether it is
    computed with all of history or with the ``LOOKBACK_SESSIONS`` before it; earlier sessions of
    such a window are history only and their rows are to be left aside.

    Parameters
    ----------
    bars
        As :func:`normalise` returns them: ``source``, ``session``, ``symbol``, as-traded open,
        high, low, close, ``volume_shares``. Any number of sources, one included.
    actions
        ``session``, ``symbol``, ``kind``, ``split_ratio``, ``dividend_usd``.
    sessions
        The exchange's sessions in the frame; a bar on another day is reported as of a wrong day.
    thresholds_pct
        Per price field (``open_usd``, ...); default 0.5.
    one_venue
        Sources whose volume is one exchange's.
    not_asked
        ``source``, ``symbol`` [, ``session``] that were beyond a source's call budget: their
        absence is not a missing day.
    preference
        Sources, the most wanted first. The bar of the first that agrees on the close is taken as it
        is; only where it is apart does the consensus stand in its place. A series then is one
        source's, not a mixture whose source changes from day to day, which would add moves of its
        own. Without a preference every price is the consensus.

    Raises
    ------
    EmptyAnswer
        When no source gave a bar.
    """
    panel = panel_of(bars, sessions)
    if not panel.answered.any():
        raise EmptyAnswer(
            expected="a close from at least one source",
            was=f"{bars.height} rows without one on {len(panel.sessions)} sessions",
            where="consensus.reconcile",
            todo="check why every source was dropped; nothing may be published",
        )
    limits = dict.fromkeys(PRICES, DEFAULT_THRESHOLD_PCT) | dict(thresholds_pct or {})
    thresholds = np.array([limits[name] / 100.0 for name in PRICES])
    with np.errstate(invalid="ignore", divide="ignore"):
        found = estimate(panel, _split_ratios(panel, actions), thresholds)
        venue = np.isin(np.array(panel.sources), list(one_venue))
        share = _volume_shares(panel, found, venue)
        apart = _apart_rows(panel, found, share)
        values = _bars(panel, found, venue, share, preference)
    disagreements = pl.concat(
        [apart, *_absences(panel, not_asked, apart.schema)], how="diagonal"
    ).sort("session", "symbol", "source", "class")
    return Consensus(values, disagreements, _weights(panel, found), panel, found)


def provenance(consensus: Consensus, session: date) -> pl.DataFrame:
    """Say of each cell of one session who said what, who agreed, and why the others did not.

    Returns
    -------
    polars.DataFrame
        One row per ``symbol``, ``field`` and ``source`` that answered: ``value_usd``,
        ``consensus_usd``, ``apart_pct``, ``agreed``, ``weight`` (learned), ``vote`` (after the
        evidence of the session's bars) and ``dropped_because`` (the class; null if agreed).
    """
    panel, found = consensus.panel, consensus.estimate
    t = panel.sessions.index(session)
    s, n, f = np.nonzero(~np.isnan(panel.prices[t]))
    values, agreed_on = panel.prices[t, s, n, f], found.prices[t, s, f]
    cells = pl.DataFrame(
        {
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(s),
            "field": pl.Series(PRICES).gather(f),
            "source": pl.Series(panel.sources, dtype=pl.String).gather(n),
            "value_usd": values,
            "consensus_usd": agreed_on,
            "apart_pct": 100.0 * (values / agreed_on - 1.0),
            "agreed": found.agreed[t, s, n, f],
            "weight": found.weights[t, s, n],
            "vote": found.votes[t, s, n],
        }
    )
    reasons = consensus.disagreements.filter(pl.col("session") == session).select(
        "symbol",
        "source",
        pl.col("class").alias("dropped_because"),
        pl.col("fields").alias("field"),
    )
    return cells.join(
        reasons.explode("field").drop_nulls("field"),
        on=["symbol", "source", "field"],
        how="left",
        maintain_order="left",
    )


def _split_ratios(panel: Panel, actions: pl.DataFrame) -> Floats:
    """New shares per old on each session, those between two sessions on the later."""
    ratios = np.ones((len(panel.sessions), len(panel.symbols)))
    splits = actions.filter(
        (pl.col("kind") == "split")
        & pl.col("split_ratio").is_not_null()
        & pl.col("symbol").is_in(list(panel.symbols))
    )
    at = np.searchsorted(
        np.array(panel.sessions, dtype="datetime64[D]"),
        splits["session"].to_numpy().astype("datetime64[D]"),
    )
    symbols = {name: number for number, name in enumerate(panel.symbols)}
    for t, symbol, ratio in zip(at, splits["symbol"], splits["split_ratio"], strict=True):
        if t < len(panel.sessions):
            ratios[t, symbols[symbol]] *= ratio
    return ratios


def _volume_shares(panel: Panel, found: Estimate, venue: np.ndarray) -> Floats:
    """Each source's volume over the median of the others that agree on the close."""
    there = np.where(found.agreed[..., 3] & ~venue & (panel.volumes > 0), panel.volumes, np.nan)
    n = len(panel.sources)
    shares = np.full(panel.volumes.shape, np.nan)
    for one in range(n):
        if n > 1:
            ordered = np.sort(np.delete(there, one, axis=-1), axis=-1)
            count = (~np.isnan(ordered)).sum(axis=-1, keepdims=True)
            upper = np.take_along_axis(ordered, count // 2 - (count // 2 == n - 1), axis=-1)
            shares[..., one] = panel.volumes[..., one] / upper[..., 0]
    return shares


def around(panel: Panel, found: Estimate, where: tuple[Ints, Ints, Ints], offsets: Ints) -> Floats:
    """Return each bar's source's own bars at the offsets, then the consensus's, [n, 2 x k, 4]."""
    t, s, n = (index[:, None] for index in where)
    at = t + offsets
    outside = (at < 0) | (at >= len(panel.sessions))
    at = np.clip(at, 0, len(panel.sessions) - 1)
    bars = np.concatenate([panel.prices[at, s, n], found.prices[at, s]], axis=1)
    bars[np.concatenate([outside, outside], axis=1)] = np.nan
    return bars


def _apart_rows(panel: Panel, found: Estimate, share: Floats) -> pl.DataFrame:
    X = panel.prices
    differs = ~found.agreed & ~np.isnan(X)
    t, s, n = np.nonzero(differs.any(axis=-1))
    earlier = around(panel, found, (t, s, n), -np.arange(1, WRONG_DAYS_BACK + 1))
    bars, consensus = X[t, s, n], found.prices[t, s]
    case = Apart(bars, consensus, earlier, share[t, s, n], differs[t, s, n])
    names, numbers = classify(case)
    away = 100.0 * (bars / consensus - 1.0)
    fields = np.array(PRICES)
    combinations = [list(fields[[bool(code >> f & 1) for f in range(4)]]) for code in range(16)]
    codes = (case.differs * (1 << np.arange(4))).sum(axis=-1)
    return pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(t),
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(s),
            "source": pl.Series(panel.sources, dtype=pl.String).gather(n),
            **{name: _nullable(bars[:, f]) for f, name in enumerate(PRICES)},
            "volume_shares": _nullable(panel.volumes[t, s, n]),
            **{name: _nullable(away[:, f]) for f, name in enumerate(_PCT)},
            "fields": pl.Series(combinations, dtype=pl.List(pl.String)).gather(codes),
            "weight": found.weights[t, s, n],
            "class": pl.Series(names, dtype=pl.String),
            "evidence": _nullable(numbers),
            "volume_share": _nullable(share[t, s, n]),
        }
    )


def _absences(
    panel: Panel, not_asked: pl.DataFrame | None, schema: pl.Schema
) -> list[pl.DataFrame]:
    """Return rows for bars that are missing, given twice, or on a day without a session.

    A source that has not given the symbol lately does not miss it.
    """
    answered = panel.answered
    upto = np.concatenate([np.zeros((1, *answered.shape[1:])), np.cumsum(answered, axis=0)])
    first = np.maximum(np.arange(len(answered)) - ERROR_SESSIONS, 0)
    lately = upto[:-1] > upto[first]
    t, s, n = np.nonzero(lately & ~answered & answered.any(axis=-1, keepdims=True))
    key = {name: schema[name] for name in ("session", "symbol", "source")}
    missing = pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(t),
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(s),
            "source": pl.Series(panel.sources, dtype=pl.String).gather(n),
        },
        schema=key,
    )
    if not_asked is not None:
        on = [name for name in key if name in not_asked.columns]
        missing = missing.join(not_asked, on=on, how="anti")
    # Rows that contradict each other were not taken: that is why the bar is missing.
    missing = missing.join(panel.duplicates, on=list(key), how="anti")
    return [
        frame.select(list(key)).with_columns(pl.lit(name).alias("class"))
        for name, frame in (
            ("missing_day", missing),
            ("duplicate", panel.duplicates),
            ("wrong_day", panel.off_session),
        )
    ]


def _bars(
    panel: Panel, found: Estimate, venue: np.ndarray, share: Floats, preference: Sequence[str]
) -> pl.DataFrame:
    answered = panel.answered
    t, s = np.nonzero(answered.any(axis=-1))
    votes = np.where(answered, found.votes, -1.0)[t, s]
    there = answered[t, s]
    agreed = found.agreed[..., 3][t, s] & there
    wanted = _wanted(panel.sources, preference)
    chosen = np.argmax(np.where(agreed, votes + wanted, -1.0), axis=-1)
    whole = ~venue & ~(share <= 0.25) & ~np.isnan(panel.volumes) & (panel.volumes > 0)
    volume_source, one_venue = _volume_source(
        votes + wanted, agreed, whole[t, s], panel.volumes[t, s]
    )
    volume = np.take_along_axis(panel.volumes[t, s], volume_source[:, None], -1)[:, 0]
    n_sources, n_agreed = there.sum(axis=-1), agreed.sum(axis=-1)
    closes = np.where(there, panel.prices[t, s, :, 3], np.nan)
    spread = 100.0 * (np.nanmax(closes, axis=-1) / np.nanmin(closes, axis=-1) - 1.0)
    discrepancy = (~found.agreed & ~np.isnan(panel.prices))[t, s].any(axis=(-1, -2))
    conditions = {
        "single_source": n_sources == 1,
        "two_source": n_sources == 2,
        "discrepancy": discrepancy,
        "no_agreement": (n_sources > 1) & (n_agreed < 2),
        "one_venue_volume": one_venue,
    }
    prices, taken = found.prices[t, s], there
    if preference:
        own = found.agreed[t, s, chosen]
        prices = np.where(own, panel.prices[t, s, chosen], prices)
        # A price of the consensus may lie outside the range of the bar it is put into.
        prices[:, 1] = np.fmax(prices[:, 1], np.fmax(prices[:, 0], prices[:, 3]))
        prices[:, 2] = np.fmin(prices[:, 2], np.fmin(prices[:, 0], prices[:, 3]))
        only = np.arange(len(panel.sources)) == chosen[:, None]
        taken = np.where(own.all(axis=-1)[:, None], only, there)
    return pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(t),
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(s),
            **{name: _nullable(prices[:, f]) for f, name in enumerate(PRICES)},
            "volume_shares": _nullable(volume),
            "n_sources": n_sources.astype(np.int64),
            "n_agreed": n_agreed.astype(np.int64),
            "sources": _names(list(panel.sources), there),
            "chosen_source": pl.Series(panel.sources, dtype=pl.String).gather(chosen),
            "taken_from": _names(list(panel.sources), taken),
            "volume_source": pl.Series(panel.sources, dtype=pl.String).gather(volume_source),
            "spread_pct": spread,
            "flags": _names(list(conditions), np.stack(list(conditions.values()), axis=-1)),
        }
    ).sort("session", "symbol")


def _wanted(sources: Sequence[str], preference: Sequence[str]) -> Floats:
    """Return what each source's place adds to its vote: more than votes can differ."""
    places = {name: len(preference) - number for number, name in enumerate(preference)}
    return np.array([2.0 * places.get(name, 0) for name in sources])


def _volume_source(
    votes: Floats, agreed: np.ndarray, whole: np.ndarray, volumes: Floats
) -> tuple[Ints, np.ndarray]:
    """Return the source to take volume from: one that agrees and has the whole tape, if any."""
    step = 1.0 + np.max(votes, initial=1.0)
    rank = votes + step * (agreed + 2.0 * whole + 4.0 * ~np.isnan(volumes))
    best = np.argmax(rank, axis=-1)
    return best, ~np.take_along_axis(whole, best[:, None], axis=-1)[:, 0]


def _names(names: list[str], held: np.ndarray) -> pl.Series:
    """Return the list of names that hold in each row, [n_rows, n_names]."""
    codes = (held * (1 << np.arange(len(names)))).sum(axis=-1)
    used, inverse = np.unique(codes, return_inverse=True)
    lists = [[name for bit, name in enumerate(names) if code >> bit & 1] for code in used]
    return pl.Series(lists, dtype=pl.List(pl.String)).gather(inverse)


def _weights(panel: Panel, found: Estimate) -> pl.DataFrame:
    there = panel.answered
    mean = np.where(there, found.weights, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
    t, n = np.nonzero(there.any(axis=1))
    return pl.DataFrame(
        {
            "session": pl.Series(panel.sessions, dtype=pl.Date).gather(t),
            "source": pl.Series(panel.sources, dtype=pl.String).gather(n),
            "weight": mean[t, n],
        }
    )


def _nullable(values: Floats) -> pl.Series:
    return pl.Series(values, dtype=pl.Float64).fill_nan(None)
