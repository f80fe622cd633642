"""How a replica of the market differs from it: a little in every price, a lot in IEX's volume.

The vendors of a sandbox tell one history; real vendors never agree to the last digit. The
differences are seeded by vendor, symbol and session. What does not belong here: faults.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from marketlake.services.sandbox.counter_random import uniform
from marketlake.services.sandbox.world import View

_VENUE_SHARES = (0.015, 0.035)
_MADE = ("open_usd", "high_usd", "low_usd", "close_usd", "adjusted_close")


def replica(view: View, vendor: str, *, seed: int, difference_bps: float) -> View:
    """Return a view whose bars are each off by up to ``difference_bps``, the whole bar alike."""
    if not difference_bps:
        return view
    days = view.sessions.astype(np.int64)
    off = 2.0 * uniform(seed, f"{vendor}/{view.symbol}/difference", days) - 1.0
    stretch = 1.0 + difference_bps * 1e-4 * off
    made = (*_MADE, "benchmark_close") if view.kind == "index" else _MADE
    return replace(
        view,
        open_usd=view.open_usd * stretch,
        high_usd=view.high_usd * stretch,
        low_usd=view.low_usd * stretch,
        close_usd=view.close_usd * stretch,
        adj_close_usd=view.adj_close_usd * stretch,
        simulated=tuple(dict.fromkeys((*view.simulated, *made))),
    )


def one_venue(view: View, vendor: str, *, seed: int) -> View:
    """Return a view with the part of the volume that one exchange of many sees."""
    low, high = _VENUE_SHARES
    days = view.sessions.astype(np.int64)
    share = low + (high - low) * uniform(seed, f"{vendor}/{view.symbol}/share", days)
    simulated = tuple(dict.fromkeys((*view.simulated, "volume_shares")))
    volume = np.ceil(view.volume_shares * share)
    return replace(view, volume_shares=volume, simulated=simulated)
