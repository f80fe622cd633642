"""Alpha158 as one would write it in polars: an expression a factor, over the symbol.

Polars has no place of a rolling maximum, so IMAX, IMIN and IMXD are left out, in its favour.
"""

from __future__ import annotations

import polars as pl

WINDOWS = (5, 10, 20, 30, 60)


def polars_alpha158(bars: pl.DataFrame) -> pl.DataFrame:
    """Return 143 float32 columns of ``symbol session open high low close volume``, sorted."""
    own = {
        name: pl.col(name).cast(pl.Float64) for name in ("open", "high", "low", "close", "volume")
    }
    o, h, low, c, v = own.values()
    span = h - low + 1e-12
    top, bottom = pl.max_horizontal(o, c), pl.min_horizontal(o, c)
    out = {
        "kmid": (c - o) / o,
        "klen": (h - low) / o,
        "kmid2": (c - o) / span,
        "kup": (h - top) / o,
        "kup2": (h - top) / span,
        "klow": (bottom - low) / o,
        "klow2": (bottom - low) / span,
        "ksft": (2 * c - h - low) / o,
        "ksft2": (2 * c - h - low) / span,
        "open0": o / c,
        "high0": h / c,
        "low0": low / c,
        "vwap0": (h + low + c) / 3 / c,
    }
    for n in WINDOWS:
        out |= {f"{stem}_{n}d": value for stem, value in _windowed(h, low, c, v, n).items()}
    return bars.select(
        value.over("symbol").cast(pl.Float32).alias(f"alpha_{name}") for name, value in out.items()
    )


def _windowed(h: pl.Expr, low: pl.Expr, c: pl.Expr, v: pl.Expr, n: int) -> dict[str, pl.Expr]:
    def mean(x: pl.Expr) -> pl.Expr:
        return x.rolling_mean(n, min_samples=1)

    def std(x: pl.Expr) -> pl.Expr:
        return x.rolling_std(n, min_samples=1)

    def total(x: pl.Expr) -> pl.Expr:
        return x.rolling_sum(n, min_samples=1)

    def correlation(x: pl.Expr, y: pl.Expr) -> pl.Expr:
        return pl.rolling_corr(x, y, window_size=n, min_samples=1)

    d, dv, r = c - c.shift(1), v - v.shift(1), c / c.shift(1)
    time = pl.int_range(pl.len()).cast(pl.Float64)
    slope = correlation(time, c) * std(c) / std(time)
    ceiling, floor = h.rolling_max(n, min_samples=1), low.rolling_min(n, min_samples=1)
    turnover = (r - 1).abs() * v
    out = {
        "roc": c.shift(n) / c,
        "ma": mean(c) / c,
        "std": std(c) / c,
        "beta": slope / c,
        "rsqr": correlation(time, c) ** 2,
        "resi": (c - mean(c) - slope * (time - mean(time))) / c,
        "max": ceiling / c,
        "min": floor / c,
        "qtlu": c.rolling_quantile(0.8, "linear", window_size=n, min_samples=1) / c,
        "qtld": c.rolling_quantile(0.2, "linear", window_size=n, min_samples=1) / c,
        "rank": c.rolling_rank(n, "average", min_samples=1) / n,
        "rsv": (c - floor) / (ceiling - floor + 1e-12),
        "corr": correlation(c, (v + 1).log()),
        "cord": correlation(r, (v / v.shift(1) + 1).log()),
        "cntp": mean((d > 0).cast(pl.Float64)),
        "cntn": mean((d < 0).cast(pl.Float64)),
        "cntd": mean((d > 0).cast(pl.Float64)) - mean((d < 0).cast(pl.Float64)),
        "vma": mean(v) / (v + 1e-12),
        "vstd": std(v) / (v + 1e-12),
        "wvma": std(turnover) / (mean(turnover) + 1e-12),
    }
    for stem, change in (("sum", d), ("vsum", dv)):
        gain, loss = total(change.clip(lower_bound=0)), total((-change).clip(lower_bound=0))
        moves = total(change.abs()) + 1e-12
        out |= {
            f"{stem}p": gain / moves,
            f"{stem}n": loss / moves,
            f"{stem}d": (gain - loss) / moves,
        }
    return out
