"""The close-only features of ``contracts.features``, one row a session and symbol.

Every value is a function of the closes and actions inside its own lookback and of nothing else:
neither the start nor the end of the history that was passed changes a single bit of it. So each
window is adjusted as of its own last session and summed by itself (no running sums). What does not
belong: labels, models, and features of anything but closes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from datetime import date

import numpy as np
import polars as pl
from numpy.lib.stride_tricks import sliding_window_view

from marketlake.contracts.features import FEATURES, MAX_LOOKBACK_SESSIONS
from marketlake.domain import prices, rolling
from marketlake.domain.prices import Bools, Floats

_BLOCK_VALUES = 4_000_000
"""Window values held at a time (8 bytes each, a few such arrays at once)."""


def compute_features(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
    benchmark: str,
    first_output: date,
    members: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Compute every feature of the catalog.

    Parameters
    ----------
    bars, actions
        Rows of ``core_market__daily_bar`` and ``core_market__corporate_action``, the benchmark's
        among them. Rows after ``sessions[-1]`` are ignored.
    sessions
        Exchange sessions, ascending, beginning at least ``MAX_LOOKBACK_SESSIONS`` before
        ``first_output`` (with fewer, the NaN rule applies to what is missing).
    symbols
        The universe; ranks are taken across those with a bar at the session.
    benchmark
        Symbol whose returns are the market's.
    first_output
        First session to return rows for.
    members
        ``session``, ``symbol``: where membership is dated, only these rows are ranked and
        returned.

    Returns
    -------
    polars.DataFrame
        ``core_features__daily`` without ``known_at_utc``, sorted by session and symbol; a row for
        each symbol with a bar at the session. Fractions unless the catalog says otherwise. Null
        where the NaN rule of the catalog says NaN, and where a ratio is 0/0.
    """
    columns = (*symbols, benchmark)
    panel = prices.panel(bars, actions, sessions=sessions, symbols=columns)
    first = bisect_left(sessions, first_output)
    rows = range(first, len(sessions))
    returns = panel.returns()
    blocks = [_block(panel, returns, rows=block) for block in _blocks(rows, len(columns))]
    made = _simulated_rows(bars, actions, panel)
    data: dict[str, Floats | Bools] = {
        name: np.concatenate([block[name] for block in blocks]).ravel() if blocks else np.empty(0)
        for name in _OWN
    }
    frame = pl.DataFrame(
        {
            "session": np.repeat(np.array(sessions[first:], dtype="datetime64[D]"), len(symbols)),
            "symbol": list(symbols) * len(rows),
            **data,
            "simulated": made[first:].ravel(),
            "_there": ~np.isnan(panel.closes[first:, : len(symbols)]).ravel(),
        }
    ).filter(pl.col("_there"))
    if members is not None:
        frame = frame.join(members, on=["session", "symbol"], how="semi")
    ranked = frame.with_columns(pl.col(_OWN).fill_nan(None)).with_columns(_rank("return_20d"))
    return ranked.select("session", "symbol", *(item.name for item in FEATURES), "simulated").sort(
        "session", "symbol"
    )


def _blocks(rows: range, n_columns: int) -> Iterator[range]:
    step = max(1, _BLOCK_VALUES // (n_columns * (MAX_LOOKBACK_SESSIONS + 1)))
    for start in range(rows.start, rows.stop, step):
        yield range(start, min(start + step, rows.stop))


def _block(panel: prices.Panel, returns: Floats, *, rows: range) -> dict[str, Floats]:
    """Compute the own features of a run of sessions, each [len(rows), n_symbols].

    The panel's last column is the benchmark; it is used and not returned.
    """
    closes = _windows(panel.closes, rows, MAX_LOOKBACK_SESSIONS + 1, before=np.nan)
    factors = _windows(panel.factors, rows, MAX_LOOKBACK_SESSIONS + 1, before=1.0)
    later = np.ones_like(factors)
    later[..., :-1] = np.cumprod(factors[..., :0:-1], axis=-1)[..., ::-1]
    P = closes * later
    r = _windows(returns, rows, 60, before=np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        features = {**_of_prices(P), **_of_returns(r)}
        features["volatility_ratio_10d_60d"] = (
            features["volatility_10d"] / features["volatility_60d"]
        )
        market_20d = features["return_20d"][:, -1:]
        features["beta_60d"] = _beta(r, r[:, -1:])
        features["residual_return_20d"] = features["return_20d"] - features["beta_60d"] * market_20d
    return {
        name: np.where(np.isfinite(values), values, np.nan)[:, :-1]
        for name, values in features.items()
    }


def _windows(matrix: Floats, rows: range, length: int, *, before: float) -> Floats:
    """Return the ``length`` values ending at each row: [len(rows), n_columns, length], a copy."""
    first = rows.start - length + 1
    part = matrix[max(first, 0) : rows.stop]
    if first < 0:
        part = np.vstack([np.full((-first, matrix.shape[1]), before), part])
    return np.ascontiguousarray(sliding_window_view(part, length, axis=0))


def _of_prices(P: Floats) -> dict[str, Floats]:
    """P is [rows, columns, 253], adjusted as of each window's last session."""
    last = P[..., -1]
    ends = {"return_1d": 1, "return_5d": 5, "return_10d": 10, "return_20d": 20, "return_60d": 60}
    features = {
        name: last / P[..., -1 - back] - 1.0
        for name, back in (*ends.items(), ("momentum_120d", 120))
    }
    features["momentum_252d_skip_21d"] = P[..., -22] / P[..., -253] - 1.0
    for length in (20, 50, 200):
        features[f"sma_distance_{length}d"] = last / rolling.mean(P[..., -length:]) - 1.0
    window = P[..., -20:]
    # A flat window has no spread; rounding must not invent one.
    flat = np.fmax.reduce(window, axis=-1) == np.fmin.reduce(window, axis=-1)
    zscore = (last - rolling.mean(window)) / rolling.std(window)
    features["zscore_20d"] = np.where(flat, np.nan, zscore)
    year = P[..., -252:]
    highest = np.fmax.reduce(year, axis=-1)
    features["drawdown_252d"] = np.where(rolling.enough(year), last / highest - 1.0, np.nan)
    return features


def _of_returns(r: Floats) -> dict[str, Floats]:
    """R is [rows, columns, 60], simple daily returns."""
    features = {f"volatility_{length}d": rolling.std(r[..., -length:]) for length in (10, 20, 60)}
    features["downside_volatility_20d"] = np.sqrt(rolling.mean(np.minimum(r[..., -20:], 0.0) ** 2))
    gain, loss = (
        rolling.mean(np.maximum(r[..., -14:], 0.0)),
        rolling.mean(np.maximum(-r[..., -14:], 0.0)),
    )
    # In this order, rounding cannot take it above 100.
    features["rsi_14d"] = 100.0 * (gain / (gain + loss))
    centred = r - rolling.mean(r)[..., None]
    features["skewness_60d"] = rolling.mean(centred**3) / rolling.mean(centred**2) ** 1.5
    return features


def _beta(r: Floats, market: Floats) -> Floats:
    """Slope over the sessions where both have a return; both [rows, columns, 60]."""
    both = ~np.isnan(r) & ~np.isnan(market)
    x, y = np.where(both, market, np.nan), np.where(both, r, np.nan)
    x_centred = x - rolling.mean(x)[..., None]
    return rolling.mean(x_centred * (y - rolling.mean(y)[..., None])) / rolling.mean(x_centred**2)


def _rank(column: str) -> pl.Expr:
    """Rank within the session, average ties, scaled to [0, 1]; null with fewer than two values."""
    n = pl.col(column).count().over("session")
    rank = pl.col(column).rank("average").over("session")
    return pl.when(n > 1).then((rank - 1) / (n - 1)).alias("rank_return_20d")


def _simulated_rows(bars: pl.DataFrame, actions: pl.DataFrame, panel: prices.Panel) -> Bools:
    """Whether any input inside a row's lookbacks was simulated: [n_sessions, n_symbols]."""
    *symbols, benchmark = panel.symbols
    closes = prices.simulated(bars, "adjusted_close", sessions=panel.sessions, symbols=symbols)
    market = prices.simulated(bars, "benchmark_close", sessions=panel.sessions, symbols=[benchmark])
    factors = prices.simulated_adjustments(actions, panel)[:, :-1]

    def own(lookback: int) -> Bools:
        # A factor is used when its ex-date is after the oldest close of the window.
        return np.asarray(
            prices.any_within(closes, lookback) | prices.any_within(factors, lookback - 1)
        )

    ranked = next(item.lookback for item in FEATURES if item.name == "rank_return_20d")
    return np.asarray(
        own(_lookback("adjusted_close"))
        | prices.any_within(market, _lookback("benchmark_close"))
        | own(ranked).any(axis=1, keepdims=True)
    )


def _lookback(quantity: str) -> int:
    return max(item.lookback for item in FEATURES if quantity in item.inputs)


_OWN = [item.name for item in FEATURES if item.name != "rank_return_20d"]
