"""``python -m marketlake.domain.features`` compiles the factors' kernels, so that no task has to.

Half a minute, once for each state of their sources; a moment when it has been done.
"""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np

from marketlake.domain.features.compiled import CACHE_FOLDER
from marketlake.domain.features.engine import factor_blocks
from marketlake.domain.prices import Bars


def main() -> None:
    """Compute factors of two made-up symbols: that compiles whatever is not compiled."""
    sessions = tuple(date(2022, 1, 3) + timedelta(days=number) for number in range(30))
    flat = np.ones((2, len(sessions)))
    bars = Bars(sessions, ("A", "B"), flat, flat, flat, flat, flat, flat, flat)
    print("compiling the factors' kernels, up to a minute ...", flush=True)
    for dtype in (np.float32, np.float64):
        list(factor_blocks(bars, first_output=sessions[0], dtype=dtype))
    print(f"kernels ready, kept in {CACHE_FOLDER or 'this process alone: nothing can be written'}")


if __name__ == "__main__":
    main()
