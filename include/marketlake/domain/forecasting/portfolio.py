"""What scores would have earned after costs: long-short and long-only, at 0, 1 and 2 times costs.

A yardstick for models, not a backtest: positions are filled at the close after the scored session,
since the scores know that session's own, and earn close-to-close returns from there; every traded
dollar pays the same. What vanishes is held at its last price: a loss on delisting is in no bar.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from marketlake.domain.forecasting.skill import mean_interval, ratio_interval
from marketlake.domain.prices import Floats

SESSIONS_A_YEAR = 252
COST_MULTIPLES = (0, 1, 2)


def weights_of(
    scored: pl.DataFrame, *, share: float, holding_sessions: int, long_only: bool
) -> tuple[pl.Series, list[str], Floats]:
    """Return target weights from scores.

    Parameters
    ----------
    scored
        ``session``, ``symbol``, ``score``.
    share
        Of the names of a session, how many are held on each side, at least one. Names whose scores
        are equal share the places that they take together.
    holding_sessions
        Each session's choice is held this long: 1 / holding_sessions of the book a session.
    long_only
        Without the short side; else each side is half of the book.

    Returns
    -------
    tuple
        Sessions, symbols, and weights [n_sessions, n_symbols]: their absolute sum is at most 1.
    """
    first = pl.col("score").rank("min").over("session")
    last = pl.col("score").rank("max").over("session")
    count, equals = pl.len().over("session"), last - first + 1.0
    held = (count * share).floor().clip(lower_bound=1)
    in_top = (last - (count - held)).clip(0.0, equals) / equals
    in_bottom = (held - (first - 1.0)).clip(0.0, equals) / equals
    weight = in_top / held if long_only else 0.5 * (in_top - in_bottom) / held
    chosen = (
        scored.sort("session", "symbol")
        .select("session", "symbol", weight.alias("weight"))
        .pivot("symbol", index="session", values="weight")
        .fill_null(0.0)
        .sort("session")
    )
    symbols = [name for name in chosen.columns if name != "session"]
    daily = chosen.select(symbols).to_numpy()
    summed = np.cumsum(np.vstack([np.zeros((holding_sessions, len(symbols))), daily]), axis=0)
    book = (summed[holding_sessions:] - summed[:-holding_sessions]) / holding_sessions
    return chosen["session"], symbols, book


def portfolio(
    scored: pl.DataFrame,
    next_returns: pl.DataFrame,
    *,
    cost_bps: float,
    share: float = 0.2,
    holding_sessions: int = 1,
    seed: int = 0,
) -> dict[str, Any]:
    """Return net results of the long-short and the long-only portfolio.

    Parameters
    ----------
    scored
        ``session``, ``symbol``, ``score``.
    next_returns
        ``session``, ``symbol``, ``next_return``, a fraction: what a position decided then earns
        first, also on sessions that do not score it, on which it may still be held. Null, or no
        row, means that it had no price: it earns 0.
    cost_bps
        What a traded dollar pays, in basis points; multiplied by 0, 1 and 2.

    Returns
    -------
    dict
        By portfolio and cost multiple: annual return (arithmetic) and its interval, Sharpe ratio
        and its interval, maximum drawdown, traded share of the book a session.
    """
    found: dict[str, Any] = {}
    for name, long_only in (("long_short", False), ("long_only", True)):
        sessions, symbols, book = weights_of(
            scored, share=share, holding_sessions=holding_sessions, long_only=long_only
        )
        earned = (
            sessions.to_frame()
            .join(pl.Series("symbol", symbols).to_frame(), how="cross")
            .join(next_returns, on=["session", "symbol"], how="left", maintain_order="left")
            .select(pl.col("next_return").cast(pl.Float64).fill_null(0.0).fill_nan(0.0))
            .to_series()
            .to_numpy()
            .reshape(len(sessions), len(symbols))
        )
        gross = (book * earned).sum(axis=1)
        before = np.vstack([np.zeros(len(symbols)), _drifted(book, earned)[:-1]])
        traded = np.abs(book - before).sum(axis=1)
        found[name] = {
            str(multiple): _results(
                gross - multiple * cost_bps * 1e-4 * traded, traded, holding_sessions, seed
            )
            for multiple in COST_MULTIPLES
        }
        found[name]["first_session"] = str(sessions[0])
        found[name]["last_session"] = str(sessions[-1])
    return {"cost_bps": cost_bps, "share": share, "holding_sessions": holding_sessions, **found}


def _drifted(book: Floats, earned: Floats) -> Floats:
    """Return the weights that the returns have left before the next trade."""
    after: Floats = book * (1 + earned) / (1 + (book * earned).sum(axis=1, keepdims=True))
    return after


def _results(net: Floats, traded: Floats, holding_sessions: int, seed: int) -> dict[str, Any]:
    root = SESSIONS_A_YEAR**0.5
    mean = mean_interval(net, at_least=holding_sessions, seed=seed)
    ratio = ratio_interval(net, at_least=holding_sessions, seed=seed)
    wealth = np.cumprod(np.concatenate([[1.0], 1 + net]))
    return {
        "annual_return": {k: mean[k] * SESSIONS_A_YEAR for k in ("value", "low", "high")},
        "sharpe": {k: ratio[k] * root for k in ("value", "low", "high")},
        "max_drawdown": float((wealth / np.maximum.accumulate(wealth) - 1).min()),
        "traded_share_per_session": float(traded.mean()),
        "sessions": len(net),
    }
