"""Answers over a pipe, run by a Python that has pyqlib: Alpha158 of a folder of Qlib's own format.

One JSON request a line, ``{"folder": ..., "processes": ..., "save": path or null}``; one JSON
answer a line, with the seconds of the call of ``D.features`` alone. What is saved is a float32
array [158, instruments, sessions] with the instruments in ascending order.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

import numpy as np


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer
    import qlib
    from qlib.config import C
    from qlib.contrib.data.loader import Alpha158DL

    expressions, names = Alpha158DL.get_feature_config()
    for line in sys.stdin:
        asked = json.loads(line)
        qlib.init(
            provider_uri=asked["folder"],
            region="us",
            kernels=asked["processes"],
            expression_cache=None,
            dataset_cache=None,
            clear_mem_cache=True,
        )
        C["joblib_backend"] = "multiprocessing"
        answer = _computed(expressions, asked["save"])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        answer |= {
            "names": names,
            "version": qlib.__version__,
            "rss_mb": (peak + children) / 1024,
        }
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _computed(expressions: list[str], save: str | None) -> dict[str, Any]:
    """Time the call, and let its frame go at the end: its memory serves the next call."""
    from qlib.data import D

    began = time.monotonic()
    frame = D.features(D.instruments("all"), expressions, freq="day")
    seconds = time.monotonic() - began
    if save:
        days = D.calendar()
        symbols = sorted(frame.index.get_level_values("instrument").unique())
        matrix = np.full((len(expressions), len(symbols), len(days)), np.nan, dtype=np.float32)
        for row, symbol in enumerate(symbols):
            own = frame.loc[symbol]
            matrix[:, row, days.searchsorted(own.index)] = own.to_numpy(np.float32).T
        np.save(save, matrix)
    return {"seconds": seconds, "rows": len(frame)}


if __name__ == "__main__":
    main()
