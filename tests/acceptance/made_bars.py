"""Daily bars by the million, made from a seed: what the gate and the warehouse are timed on."""

from __future__ import annotations

from datetime import date

import numpy as np
import pyarrow as pa
from marketlake.calendars import Calendar
from marketlake.contracts.arrow import schema
from marketlake.contracts.catalog import CORE_MARKET_DAILY_BAR as BAR

_SYMBOLS = 500
_LAST_SESSION = date(2022, 12, 28)


def made_bars(rows: int, *, seed: int = 7) -> pa.Table:
    """Return that many clean bars of 500 symbols, in the shape of the daily bar."""
    random = np.random.default_rng(seed)
    sessions = Calendar.of("XNYS").window(_LAST_SESSION, -(-rows // _SYMBOLS))
    days = np.repeat(np.array(sessions, "datetime64[D]"), _SYMBOLS)[:rows]
    symbols = np.tile([f"S{number:03d}" for number in range(_SYMBOLS)], len(sessions))[:rows]
    close = np.round(random.lognormal(4, 1, rows), 4) + 0.01
    open_usd = close * random.uniform(0.99, 1.01, rows)
    known: dict[str, pa.Array] = {
        "session": pa.array(days),
        "symbol": pa.array(symbols),
        "open_usd": pa.array(open_usd),
        "high_usd": pa.array(np.maximum(open_usd, close) * random.uniform(1, 1.02, rows)),
        "low_usd": pa.array(np.minimum(open_usd, close) * random.uniform(0.98, 1, rows)),
        "close_usd": pa.array(close),
        "volume_shares": pa.array(random.integers(1_000, 10_000_000, rows).astype(float)),
        "close_move_pct": pa.array(random.normal(0, 1, rows)),
        "known_at_utc": pa.array(days.astype("datetime64[us]") + np.timedelta64(1275, "m")),
    }
    ordinary = {"int64": 3, "string": "yahoo", "strings": ["volume_shares"], "float64": 1.0}
    columns = [
        known.get(item.name, pa.repeat(pa.scalar(ordinary.get(item.kind)), rows)).cast(
            schema(BAR).field(item.name).type
        )
        for item in BAR.fields
    ]
    return pa.Table.from_arrays(columns, schema=schema(BAR))
