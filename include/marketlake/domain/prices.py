"""Price bases: from vendor-adjusted to as-traded, and from as-traded to adjusted as of a session.

The ground of the domain: a corporate action becomes a factor here and nowhere else, and a missing
bar becomes NaN. What does not belong: statistics of returns (features, risk) and anything that
stores an adjusted series.

The factor of an ex-date ``e`` is ``1 / split_ratio * (1 - dividend / close)``, where the dividend
is per share as traded before ``e`` and the close is the last one there is before ``e``, brought to
the share count just before ``e`` where splits came between. A close of
session ``s``, adjusted as of session ``t``, is multiplied by the factors of all ex-dates in
``(s, t]``. Only ratios of adjusted closes mean anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from math import prod

import numpy as np
import polars as pl
from numpy.typing import NDArray

from marketlake.errors import ContractViolation

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

BAR_PRICES = ("open_usd", "high_usd", "low_usd", "close_usd")


@dataclass(frozen=True)
class Panel:
    """As-traded closes and action factors, one row a session, one column a symbol.

    ``closes`` is in USD with NaN where a bar is missing; ``factors`` is the factor that ex-date
    puts on every earlier close, 1.0 where there is no action. Both are [n_sessions, n_symbols].
    """

    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    closes: Floats
    factors: Floats

    def adjusted(self) -> Floats:
        """Return closes adjusted as of the last session, [n_sessions, n_symbols], NaN kept."""
        later = np.ones_like(self.factors)
        later[:-1] = np.cumprod(self.factors[:0:-1], axis=0)[::-1]
        return self.closes * later

    def returns(self) -> Floats:
        """Return simple daily returns, each adjusted as of its own session.

        Returns
        -------
        array of shape [n_sessions, n_symbols]
            Fractions; NaN in the first row and wherever the close or the one of the session
            before is missing (gaps are not bridged). A row depends on no other session than its
            own and the one before.
        """
        result = np.full_like(self.closes, np.nan)
        result[1:] = self.closes[1:] / (self.closes[:-1] * self.factors[1:]) - 1.0
        return result


@dataclass(frozen=True)
class Bars:
    """Whole bars as traded and what actions do to them, one row a symbol, one column a session.

    Prices are in USD and volumes in shares, NaN where there is none. ``price_factors`` is what an
    ex-date puts on every earlier price and ``share_factors`` on every earlier volume (splits
    alone), 1.0 where there is no action. All are C-ordered, [n_symbols, n_sessions].
    """

    sessions: tuple[date, ...]
    symbols: tuple[str, ...]
    opens: Floats
    highs: Floats
    lows: Floats
    closes: Floats
    volumes: Floats
    price_factors: Floats
    share_factors: Floats

    @property
    def arrays(self) -> tuple[Floats, ...]:
        """The seven matrices, in the order of the fields."""
        return (
            self.opens,
            self.highs,
            self.lows,
            self.closes,
            self.volumes,
            self.price_factors,
            self.share_factors,
        )


def unadjust_splits(bars: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """Undo a vendor's split adjustment: prices and volumes as they traded.

    Parameters
    ----------
    bars
        Rows of ``raw_yahoo__daily_bar``: USD prices and shares, split-adjusted as of the fetch.
    splits
        ``session`` (ex-date), ``symbol``, ``split_ratio`` (new shares per old) of every split
        up to the fetch, also those after the last bar. Rows with a null ratio are ignored.

    Returns
    -------
    polars.DataFrame
        ``bars`` with as-traded open, high, low, close and volume, and ``previous_close_usd`` as
        it traded in its own session (the one before the row's, so the row's own split counts as
        later). ``adj_close_usd`` is left as it came. Nulls stay null; row order stays.
    """
    own, before = _later_ratios(bars, splits)
    return bars.with_columns(
        *(pl.col(name) * own for name in BAR_PRICES),
        pl.col("volume_shares") / own,
        pl.col("previous_close_usd") * before,
    )


def unadjust_dividends(actions: pl.DataFrame, splits: pl.DataFrame) -> pl.DataFrame:
    """Undo a vendor's split adjustment of dividends: USD per share as traded before the ex-date.

    Parameters
    ----------
    actions
        Rows of ``raw_yahoo__action``; splits pass through unchanged.
    splits
        As in :func:`unadjust_splits`. A split with the dividend's own ex-date counts as later.

    Returns
    -------
    polars.DataFrame
        ``actions`` with as-traded ``dividend_usd``; nulls stay null; row order stays.
    """
    _, before = _later_ratios(actions, splits)
    return actions.with_columns(pl.col("dividend_usd") * before)


def close_moves_pct(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.Series:
    """Return each bar's move against the session before, corporate actions removed.

    Parameters
    ----------
    bars
        ``session``, ``symbol``, as-traded ``close_usd`` and ``previous_close_usd``.
    actions
        Rows of ``core_market__corporate_action``; only those at a bar's own session matter.

    Returns
    -------
    polars.Series
        ``close_move_pct`` in %, in the order of ``bars``; null where either close is missing.
    """
    at_session = actions.group_by("session", "symbol").agg(
        pl.col("split_ratio").drop_nulls().product().alias("_ratio"),
        pl.col("dividend_usd").drop_nulls().sum().alias("_dividend"),
    )
    joined = bars.select("session", "symbol", "close_usd", "previous_close_usd").join(
        at_session, on=["session", "symbol"], how="left", maintain_order="left"
    )
    before = (pl.col("previous_close_usd") - pl.col("_dividend").fill_null(0.0)) / pl.col(
        "_ratio"
    ).fill_null(1.0)
    move = 100.0 * (pl.col("close_usd") / before - 1.0)
    return joined.select(pl.when(move.is_finite()).then(move).alias("close_move_pct")).to_series()


def panel(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
) -> Panel:
    """Lay as-traded bars and the actions known by the last session out as matrices.

    Parameters
    ----------
    bars, actions
        Rows of ``core_market__daily_bar`` and ``core_market__corporate_action``. Rows of other
        symbols or outside ``sessions`` are ignored, so nothing after ``sessions[-1]`` counts.
    sessions
        The exchange sessions, ascending. A missing bar is NaN, never a missing row.
    symbols
        The columns, in this order.

    Raises
    ------
    ContractViolation
        When sessions do not ascend, or an action's factor is not above zero.
    """
    days = np.array(sessions, dtype="datetime64[D]")
    if len(days) == 0 or (np.diff(days) <= np.timedelta64(0, "D")).any():
        raise ContractViolation(
            expected="at least one session, each later than the one before",
            was=f"{len(days)} sessions, not ascending" if len(days) else "no session",
            where="domain.prices.panel",
            todo="pass calendar.window(...) or calendar.sessions(...)",
        )
    closes = _matrix(bars, "close_usd", sessions=sessions, symbols=symbols)
    return Panel(
        tuple(sessions), tuple(symbols), closes, _factors(actions, closes, days, symbols=symbols)
    )


def whole_bars(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
) -> Bars:
    """Lay opens, highs, lows, closes and volumes out; see :func:`panel` for the arguments."""
    closes = panel(bars, actions, sessions=sessions, symbols=symbols)
    ratios, _ = _action_matrices(
        actions, np.array(sessions, dtype="datetime64[D]"), symbols=symbols
    )
    others = (
        _matrix(bars, name, sessions=sessions, symbols=symbols)
        for name in ("open_usd", "high_usd", "low_usd", "volume_shares")
    )
    opens, highs, lows, volumes = (np.ascontiguousarray(matrix.T) for matrix in others)
    return Bars(
        closes.sessions,
        closes.symbols,
        opens=opens,
        highs=highs,
        lows=lows,
        closes=np.ascontiguousarray(closes.closes.T),
        volumes=volumes,
        price_factors=np.ascontiguousarray(closes.factors.T),
        share_factors=np.ascontiguousarray(ratios.T),
    )


def adjusted_closes(
    bars: pl.DataFrame,
    actions: pl.DataFrame,
    *,
    sessions: Sequence[date],
    symbols: Sequence[str],
) -> Floats:
    """Return closes adjusted for splits and dividends as of ``sessions[-1]``.

    Returns
    -------
    array of shape [n_sessions, n_symbols]
        USD; NaN where the bar is missing. See :func:`panel` for the arguments.
    """
    return panel(bars, actions, sessions=sessions, symbols=symbols).adjusted()


def simulated(
    rows: pl.DataFrame, quantity: str, *, sessions: Sequence[date], symbols: Sequence[str]
) -> Bools:
    """Return where a generator made ``quantity``: [n_sessions, n_symbols], False where no row is.

    ``rows`` are bars or actions: whatever has ``session``, ``symbol``, ``simulated_fields``.
    """
    marked = rows.select(
        "session",
        "symbol",
        pl.col("simulated_fields").list.contains(quantity).cast(pl.Float64).alias("made"),
    )
    return np.equal(_matrix(marked, "made", sessions=sessions, symbols=symbols), 1.0)


def simulated_adjustments(actions: pl.DataFrame, panel: Panel) -> Bools:
    """Return where the factor itself is a generator's: [n_sessions, n_symbols], by ex-date.

    A generated dividend cancels against the as-traded closes that were made with it, but only
    where its factor is taken from the close of the session before. The first row is False.
    """
    dividends = actions.filter(pl.col("dividend_usd").is_not_null())
    result = simulated(dividends, "dividend_usd", sessions=panel.sessions, symbols=panel.symbols)
    result[0] = False
    result[1:] &= np.isnan(panel.closes[:-1])
    return result


def any_within(marks: Bools, lookback: int) -> Bools:
    """Return where any of a row's mark and the ``lookback`` before it is set; by column."""
    total = np.vstack([np.zeros((1, marks.shape[1]), dtype=np.int64), marks.cumsum(axis=0)])
    start = np.maximum(np.arange(len(marks)) - lookback, 0)
    return np.asarray(total[1:] > total[start])


def _matrix(
    rows: pl.DataFrame, column: str, *, sessions: Sequence[date], symbols: Sequence[str]
) -> Floats:
    placed = (
        rows.select("session", "symbol", pl.col(column).cast(pl.Float64).fill_null(np.nan))
        .join(
            pl.DataFrame({"session": sessions}, schema={"session": pl.Date}).with_row_index("row"),
            on="session",
        )
        .join(
            pl.DataFrame({"symbol": symbols}, schema={"symbol": pl.String}).with_row_index("col"),
            on="symbol",
        )
    )
    matrix = np.full((len(sessions), len(symbols)), np.nan)
    matrix[placed["row"].to_numpy(), placed["col"].to_numpy()] = placed[column].to_numpy()
    return matrix


def _factors(
    actions: pl.DataFrame,
    closes: Floats,
    days: NDArray[np.datetime64],
    *,
    symbols: Sequence[str],
) -> Floats:
    ratios, dividends = _action_matrices(actions, days, symbols=symbols)
    factors = (1.0 - dividends / _dividend_bases(closes, ratios, dividends)) / ratios
    if not (factors > 0).all():
        row, col = np.argwhere(~(factors > 0))[0]
        raise ContractViolation(
            expected="a split ratio above 0 and a dividend below the close before the ex-date",
            was=f"split {ratios[row, col]}, dividend {dividends[row, col]} USD",
            where=f"action of {symbols[col]} at {days[row]}",
            todo="look at core_market__corporate_action and its source for that ex-date",
        )
    return factors


def _action_matrices(
    actions: pl.DataFrame, days: NDArray[np.datetime64], *, symbols: Sequence[str]
) -> tuple[Floats, Floats]:
    """Split ratios and dividends by the session they take effect: each [n_sessions, n_symbols]."""
    shape = len(days), len(symbols)
    ratios, dividends = np.ones(shape), np.zeros(shape)
    column = {symbol: index for index, symbol in enumerate(symbols)}
    known = actions.filter(
        pl.col("symbol").is_in(list(symbols)), pl.col("session").is_between(days[0], days[-1])
    )
    for session, symbol, ratio, dividend in known.select(
        "session", "symbol", "split_ratio", "dividend_usd"
    ).iter_rows():
        # An ex-date between two sessions takes effect at the next one.
        at = int(np.searchsorted(days, np.datetime64(session, "D"))), column[symbol]
        ratios[at] *= 1.0 if ratio is None else ratio
        dividends[at] += 0.0 if dividend is None else dividend
    return ratios, dividends


def _dividend_bases(closes: Floats, ratios: Floats, dividends: Floats) -> Floats:
    """The last close before each dividend, as if the splits since then had been before it."""
    # With no close before the dividend there is nothing to adjust.
    bases = np.full_like(closes, np.inf)
    for row, column in np.argwhere(dividends):
        there = np.flatnonzero(~np.isnan(closes[:row, column]))
        if len(there):
            last = there[-1]
            bases[row, column] = closes[last, column] / prod(ratios[last + 1 : row, column])
    return bases


def _later_ratios(rows: pl.DataFrame, splits: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    """Products of split ratios with ex-dates after each row's session, and from it on."""
    numbered = rows.select("session", "symbol").with_row_index("row")
    ratios = splits.filter(pl.col("split_ratio").is_not_null()).select(
        "symbol", "split_ratio", ex_date="session"
    )
    products = (
        numbered.join(ratios.sort("symbol", "ex_date"), on="symbol", maintain_order="left_right")
        .group_by("row", maintain_order=True)
        .agg(
            pl.col("split_ratio")
            .filter(pl.col("ex_date") > pl.col("session"))
            .product()
            .alias("later"),
            pl.col("split_ratio")
            .filter(pl.col("ex_date") >= pl.col("session"))
            .product()
            .alias("from_it"),
        )
    )
    found = numbered.join(products, on="row", how="left", maintain_order="left").fill_null(1.0)
    return found["later"], found["from_it"]
