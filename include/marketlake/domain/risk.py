"""Risk of the reference book: equal weight of the members with a price at the session.

Everything is historical: today's members, their returns over the window, each day's book return
the plain mean over members with a return that day (so the book is rebalanced daily). What does not
belong: forecasts of risk, limits and hedges.

Conventions: losses are positive numbers. Value at risk at 95 % is the k-th worst of n daily
returns with k = ceil(n * 5 %): a return that was seen, nothing is interpolated. CVaR is the mean
of the worst n * 5 % returns, the k-th counted by its remaining fraction (Rockafellar and Uryasev
2002), so CVaR is never below VaR. Year: 252 sessions.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import NamedTuple

import numpy as np
import polars as pl

from marketlake.domain import prices
from marketlake.domain.prices import Floats
from marketlake.domain.rolling import MIN_THERE
from marketlake.errors import ContractViolation

SESSIONS_PER_YEAR = 252
_BOOK = "reference_book"
_SCHEMA = {
    "session": pl.Date,
    "scope": pl.String,
    "name": pl.String,
    "measure": pl.String,
    "value": pl.Float64,
    "n": pl.Int64,
    "simulated": pl.Boolean,
}


class _Row(NamedTuple):
    scope: str
    name: str
    measure: str
    value: float
    n: int
    simulated: bool


def book_risk(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    members: pl.DataFrame,
    *,
    session: date,
    sessions: Sequence[date],
    benchmark: str,
    volatility_window: int,
    book_value_usd: float,
) -> pl.DataFrame:
    """Measure the reference book at a session.

    Parameters
    ----------
    bars, actions
        Rows of ``core_market__daily_bar`` and ``core_market__corporate_action``, the benchmark's
        among them.
    members
        ``symbol`` and ``sector`` of the members at the session.
    session
        The session the measures are about; it must be ``sessions[-1]``.
    sessions
        The window, ascending. Value at risk, drawdown and betas use all of its returns (one fewer
        than sessions), volatilities and contributions the last ``volatility_window`` of them.
    benchmark
        Symbol whose returns are the market's.
    volatility_window
        Returns in a volatility.
    book_value_usd
        Value of the book, for ``var_95_usd``.

    Returns
    -------
    polars.DataFrame
        ``out_risk_analysis__portfolio_risk``, sorted by its key. A measure for which fewer than
        80 % of its returns are there has no row. ``n`` counts the returns (or, for weights, the
        symbols) behind a value.

    Raises
    ------
    ContractViolation
        When ``session`` does not end the window, or no member has a price.
    """
    _require_window(session, sessions)
    held = _held(bars, members, session=session)
    panel = prices.panel(bars, actions, sessions=sessions, symbols=[*held, benchmark])
    returns, market = panel.returns()[1:, :-1], panel.returns()[1:, -1]
    # Daily returns do not bridge gaps, so simulated actions cancel in them.
    made = prices.simulated(bars, "adjusted_close", sessions=sessions, symbols=held)
    market_made = bool(
        prices.simulated(bars, "benchmark_close", sessions=sessions, symbols=[benchmark]).any()
    )
    book = _mean_of_there(returns)
    rows = _book_rows(
        book,
        market,
        n_held=len(held),
        volatility_window=volatility_window,
        book_value_usd=book_value_usd,
    )
    rows += _symbol_rows(returns, market, symbols=held, volatility_window=volatility_window)
    sector_of = dict(members.select("symbol", "sector").iter_rows())
    rows += _sector_rows([sector_of[symbol] for symbol in held])
    marks = {symbol: bool(made[:, column].any()) for column, symbol in enumerate(held)}
    frame = pl.DataFrame(
        [
            (
                session,
                *row[:5],
                (marks[row.name] if row.scope == "symbol" else any(marks.values()))
                or (row.measure == "beta" and market_made),
            )
            for row in rows
            if np.isfinite(row.value)
        ],
        schema=_SCHEMA,
        orient="row",
    )
    return frame.sort("session", "scope", "name", "measure")


def book_returns(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    members: pl.DataFrame,
    *,
    sessions: Sequence[date],
) -> pl.DataFrame:
    """Return the daily returns over a window of the reference book at its last session.

    Returns
    -------
    polars.DataFrame
        ``session``, ``book_return`` (fraction: mean over the members held at ``sessions[-1]``
        with a return that day); days without any have no row, nor has the first session.

    Raises
    ------
    ContractViolation
        When no member has a price at ``sessions[-1]``.
    """
    held = _held(bars, members, session=sessions[-1])
    panel = prices.panel(bars, actions, sessions=sessions, symbols=held)
    frame = pl.DataFrame(
        {
            "session": pl.Series(list(sessions), dtype=pl.Date),
            "book_return": _mean_of_there(panel.returns()),
        }
    )
    return frame.filter(pl.col("book_return").is_not_nan())


def value_at_risk(returns: Floats, *, tail_pct: int) -> float:
    """Return the k-th worst return as a positive loss, k = ceil(n * tail_pct / 100).

    ``returns`` has no NaN. NaN when it is empty.
    """
    if len(returns) == 0:
        return float("nan")
    k = -(-len(returns) * tail_pct // 100)  # whole numbers: 0.05 * 500 must not become 25.000..1
    return -float(np.sort(returns)[k - 1])


def conditional_value_at_risk(returns: Floats, *, tail_pct: int) -> float:
    """Return the mean loss over the worst n * tail_pct / 100 returns, the last one by fraction.

    ``returns`` has no NaN. NaN when it is empty.
    """
    if len(returns) == 0:
        return float("nan")
    k = -(-len(returns) * tail_pct // 100)
    worst = np.sort(returns)[:k]
    part = len(returns) * tail_pct / 100
    return -float((worst[:-1].sum() + worst[-1] * (part - (k - 1))) / part)


def max_drawdown(returns: Floats) -> float:
    """Return the largest fall of the compounded book from an earlier high, as a positive fraction.

    ``returns`` has no NaN; the start counts as a high.
    """
    value = np.concatenate([[1.0], np.cumprod(1.0 + returns)])
    return float((1.0 - value / np.maximum.accumulate(value)).max())


def _book_rows(
    book: Floats, market: Floats, *, n_held: int, volatility_window: int, book_value_usd: float
) -> list[_Row]:
    there = book[~np.isnan(book)]
    enough = len(there) >= MIN_THERE * len(book)
    loss = {
        f"{name}_{100 - tail}_pct": 100 * measure(there, tail_pct=tail)
        for name, measure in (("var", value_at_risk), ("cvar", conditional_value_at_risk))
        for tail in (5, 1)
    }
    loss["var_95_usd"] = loss["var_95_pct"] / 100 * book_value_usd
    loss["max_drawdown_pct"] = 100 * max_drawdown(there)
    recent = book[-volatility_window:]
    beta, n_beta = _beta(book, market)
    weight = 1.0 / n_held
    return [
        *(_book_row(name, value if enough else np.nan, len(there)) for name, value in loss.items()),
        _book_row("volatility_annual_pct", _volatility_pct(recent), _n(recent)),
        _book_row("beta", beta, n_beta),
        _book_row("gross_pct", 100 * weight * n_held, n_held),
        _book_row("net_pct", 100 * weight * n_held, n_held),
        _book_row("concentration_hhi", n_held * weight**2, n_held),
    ]


def _book_row(measure: str, value: float, n: int) -> _Row:
    return _Row("book", _BOOK, measure, value, n, False)


def _symbol_rows(
    returns: Floats, market: Floats, *, symbols: Sequence[str], volatility_window: int
) -> list[_Row]:
    """Contributions are covariances with the book over its variance, so they add up to 100 %."""
    recent = returns[-volatility_window:]
    shares = _contributions_pct(recent)
    rows = []
    for column, symbol in enumerate(symbols):
        beta, n_beta = _beta(returns[:, column], market)
        n = _n(recent[:, column])
        volatility = _volatility_pct(recent[:, column])
        rows += [
            _Row("symbol", symbol, "weight_pct", 100 / len(symbols), len(symbols), False),
            _Row("symbol", symbol, "volatility_annual_pct", volatility, n, False),
            _Row("symbol", symbol, "beta", beta, n_beta, False),
            _Row("symbol", symbol, "contribution_to_volatility_pct", shares[column], n, False),
        ]
    return rows


def _sector_rows(sectors: Sequence[str]) -> list[_Row]:
    return [
        _Row(
            "sector",
            sector,
            "weight_pct",
            100 * sectors.count(sector) / len(sectors),
            sectors.count(sector),
            False,
        )
        for sector in sorted(set(sectors))
    ]


def _contributions_pct(recent: Floats) -> Floats:
    """Shares of the book's variance, [n_symbols]; a missing return contributes nothing."""
    book = _mean_of_there(recent)
    days = ~np.isnan(book)
    if days.sum() < MIN_THERE * len(book):
        return np.full(recent.shape[1], np.nan)
    there = ~np.isnan(recent[days])
    parts = np.where(there, recent[days], 0.0) / there.sum(axis=1, keepdims=True)
    centred = book[days] - book[days].mean()
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = (
            100 * ((parts - parts.mean(axis=0)) * centred[:, None]).sum(axis=0) / (centred**2).sum()
        )
    return shares


def _beta(returns: Floats, market: Floats) -> tuple[float, int]:
    both = ~np.isnan(returns) & ~np.isnan(market)
    n = int(both.sum())
    if n < max(MIN_THERE * len(returns), 2):
        return float("nan"), n
    x = market[both] - market[both].mean()
    spread = float((x * x).sum())
    covariance = float((x * (returns[both] - returns[both].mean())).sum())
    return (covariance / spread if spread > 0 else float("nan")), n


def _volatility_pct(returns: Floats) -> float:
    there = returns[~np.isnan(returns)]
    if len(there) < max(MIN_THERE * len(returns), 2):
        return float("nan")
    return float(100 * there.std(ddof=1) * np.sqrt(SESSIONS_PER_YEAR))


def _mean_of_there(returns: Floats) -> Floats:
    """Mean over the symbols with a return, [n_sessions]; NaN where none has."""
    there = ~np.isnan(returns)
    total = np.where(there, returns, 0.0).sum(axis=1)
    count = there.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _n(returns: Floats) -> int:
    return int((~np.isnan(returns)).sum())


def _held(bars: pl.DataFrame, members: pl.DataFrame, *, session: date) -> list[str]:
    """Return the members with a close at the session, in the order of ``members``."""
    priced = bars.filter(pl.col("session") == session, pl.col("close_usd").is_finite())
    held: list[str] = members.filter(pl.col("symbol").is_in(priced["symbol"].to_list()))[
        "symbol"
    ].to_list()
    if not held:
        raise ContractViolation(
            expected="at least one member with a price",
            was=f"none of {members.height}",
            where=f"reference book at {session}",
            todo="look at the session's core_market__daily_bar and its quarantine",
        )
    return held


def _require_window(session: date, sessions: Sequence[date]) -> None:
    if len(sessions) < 2 or sessions[-1] != session:
        raise ContractViolation(
            expected=f"a window of sessions that ends with {session}",
            was=f"{len(sessions)} sessions up to {sessions[-1] if sessions else 'none'}",
            where="risk.book_risk",
            todo="pass calendar.window(session, length)",
        )
