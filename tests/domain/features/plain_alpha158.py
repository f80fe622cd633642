"""Alpha158 as its expressions are written, in plain pandas: slow, and nothing shared with ours.

From the expressions of Qlib's ``Alpha158DL``; ``Ref`` is a shift, ``Greater`` and ``Less`` the
element-wise maximum and minimum. The catalog's rule for what is missing is ``min_periods``.
"""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

WINDOWS = (5, 10, 20, 30, 60)


def plain_alpha158(bars: pd.DataFrame) -> pd.DataFrame:
    """Return the factors of one symbol's adjusted ``open high low close volume``."""
    o, h, low, c, v = (bars[name] for name in ("open", "high", "low", "close", "volume"))
    top, bottom = pd.concat([o, c], axis=1).max(axis=1), pd.concat([o, c], axis=1).min(axis=1)
    top, bottom = top.where(o.notna()), bottom.where(o.notna())
    span = h - low + 1e-12
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
    d, dv, r = c - c.shift(1), v - v.shift(1), c / c.shift(1)
    vr = np.log((v / v.shift(1)).replace([np.inf, -np.inf], np.nan) + 1)
    up, down = (d > 0).astype(float).where(d.notna()), (d < 0).astype(float).where(d.notna())
    turnover = (r - 1).abs() * v
    traded = v.where(v > 0)

    def rolling(x: pd.Series, n: int) -> pd.core.window.Rolling:
        return x.rolling(n, min_periods=math.ceil(0.8 * n))

    columns: dict[str, list[pd.Series]] = {}

    def put(stem: str, values: pd.Series) -> None:
        columns.setdefault(stem, []).append(values)

    for n in WINDOWS:
        put("roc", c.shift(n) / c)
        put("ma", rolling(c, n).mean() / c)
        put("std", rolling(c, n).std() / c)
        line = rolling(c, n).apply(_line, raw=True)
        put("beta", line / c)
        put("rsqr", rolling(c, n).apply(_square, raw=True))
        put("resi", rolling(c, n).apply(_residual, raw=True) / c)
        put("max", rolling(h, n).max() / c)
        put("min", rolling(low, n).min() / c)
        put("qtlu", rolling(c, n).quantile(0.8) / c)
        put("qtld", rolling(c, n).quantile(0.2) / c)
        put("rank", rolling(c, n).rank(pct=True))
        floor, ceiling = rolling(low, n).min(), rolling(h, n).max()
        put("rsv", (c - floor) / (ceiling - floor + 1e-12))
        high_at = rolling(h, n).apply(lambda x: np.nanargmax(x) + 1, raw=True)
        low_at = rolling(low, n).apply(lambda x: np.nanargmin(x) + 1, raw=True)
        # A window that begins before the history is shorter in pandas.
        short = pd.Series(np.maximum(n - 1 - np.arange(len(c)), 0), index=c.index)
        put("imax", (high_at + short) / n)
        put("imin", (low_at + short) / n)
        put("imxd", (high_at - low_at) / n)
        put("corr", rolling(c, n).corr(np.log(v + 1)))
        put("cord", rolling(r, n).corr(vr))
        put("cntp", rolling(up, n).mean())
        put("cntn", rolling(down, n).mean())
        put("cntd", rolling(up, n).mean() - rolling(down, n).mean())
        for stem, change in (("sum", d), ("vsum", dv)):
            gain, loss = (
                rolling(change.clip(lower=0), n).sum(),
                rolling(-change.clip(upper=0), n).sum(),
            )
            total = rolling(change.abs(), n).sum() + 1e-12
            put(f"{stem}p", gain / total)
            put(f"{stem}n", loss / total)
            put(f"{stem}d", (gain - loss) / total)
        put("vma", rolling(v, n).mean() / traded)
        put("vstd", rolling(v, n).std() / traded)
        put("wvma", rolling(turnover, n).std() / (rolling(turnover, n).mean() + 1e-12))
    # The order of Alpha158, which has the sums of volumes last.
    columns |= {stem: columns.pop(stem) for stem in ("vsump", "vsumn", "vsumd")}
    named = {
        f"{stem}_{n}d": x for stem, xs in columns.items() for n, x in zip(WINDOWS, xs, strict=True)
    }
    return pd.DataFrame(out | named).where(c.notna(), np.nan).replace([np.inf, -np.inf], np.nan)


def _fit(y: np.ndarray) -> tuple[float, float, np.ndarray, np.ndarray]:
    there = ~np.isnan(y)
    x, y = np.arange(len(y), dtype=float)[there], y[there]
    slope, intercept = np.polyfit(x - x.mean(), y, 1)
    return slope, intercept, x, y


def _line(y: np.ndarray) -> float:
    return _fit(y)[0]


def _square(y: np.ndarray) -> float:
    _, _, x, y = _fit(y)
    return np.corrcoef(x, y)[0, 1] ** 2 if y.std() > 0 else np.nan


def _residual(window: np.ndarray) -> float:
    slope, middle, x, _ = _fit(window)
    return window[-1] - middle - slope * (len(window) - 1 - x.mean())
