"""What is forecast, a member's return above the universe's mean, and what acting on it earns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from marketlake.domain import prices

_FILL_TO_EARNED = 2
"""Sessions from a decision to the close that its first return ends at: one to fill, one to earn."""


def labels(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
    horizon: int,
    members: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return the label of every session whose horizon has ended by the last session.

    Parameters
    ----------
    bars, actions
        Rows of ``core_market__daily_bar`` and ``core_market__corporate_action``.
    sessions
        Exchange sessions, ascending; nothing after ``sessions[-1]`` is used.
    symbols
        The universe whose mean is subtracted.
    horizon
        Sessions ahead, at least 1.
    members
        ``session``, ``symbol``: where membership is dated, only these rows enter and come out.

    Returns
    -------
    polars.DataFrame
        ``session``, ``symbol``, ``label_return`` (fraction: close to close over ``horizon``
        sessions, actions removed, minus the mean over the universe at that session) and
        ``label_end`` (the session on which the label is known, always <= ``sessions[-1]``).
        Sorted by session and symbol. A symbol without a close at either end has no row.
    """
    panel = prices.panel(bars, actions, sessions=sessions, symbols=symbols)
    n_rows = max(len(sessions) - horizon, 0)
    days = np.array(sessions, dtype="datetime64[D]")
    if n_rows:
        ahead = np.ascontiguousarray(sliding_window_view(panel.factors[1:], horizon, axis=0))
        factors = np.prod(ahead, axis=-1)
    else:
        factors = np.empty((0, len(symbols)))
    forward = panel.closes[horizon:] / (panel.closes[:n_rows] * factors) - 1.0
    frame = pl.DataFrame(
        {
            "session": np.repeat(days[:n_rows], len(symbols)),
            "symbol": list(symbols) * n_rows,
            "forward": forward.ravel(),
            "label_end": np.repeat(days[horizon:], len(symbols)),
        },
        schema_overrides={"session": pl.Date, "symbol": pl.String, "label_end": pl.Date},
    ).filter(pl.col("forward").is_not_nan())
    if members is not None:
        frame = frame.join(members, on=["session", "symbol"], how="semi")
    ordered = frame.sort("session", "symbol")
    return ordered.select(
        "session",
        "symbol",
        (pl.col("forward") - pl.col("forward").mean().over("session")).alias("label_return"),
        "label_end",
    )


def next_returns(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
) -> pl.DataFrame:
    """Return what the first session of a position decided at each session earns, actions removed.

    A decision knows its session's close, so that close is past: the position is filled at the next
    one, and earns from there to the one after.

    Columns ``session``, ``symbol``, ``next_return`` (fraction; null where a close is missing, and
    at the last two sessions), sorted by session and symbol.
    """
    earned = prices.panel(bars, actions, sessions=sessions, symbols=symbols).returns()
    nothing = np.full((min(_FILL_TO_EARNED, len(sessions)), earned.shape[1]), np.nan)
    after = np.vstack([earned[_FILL_TO_EARNED:], nothing])
    return pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions, dtype="datetime64[D]"), len(symbols)),
            "symbol": list(symbols) * len(sessions),
            "next_return": after.ravel(),
        },
        schema_overrides={"session": pl.Date, "symbol": pl.String},
    ).with_columns(pl.col("next_return").fill_nan(None))
