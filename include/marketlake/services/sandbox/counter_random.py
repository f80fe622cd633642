"""Counter-based random numbers: a value depends on (seed, stream, day) and on nothing else.

Any range of days therefore gives the same values, in any order, in any process. What does not
belong here: what the numbers are used for.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int64]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniform(seed: int, stream: str, days: Days) -> Floats:
    """Return one number of (0, 1) for each day (SplitMix64 of the stream's key and the day)."""
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    key = np.uint64(int.from_bytes(digest[:8], "big"))
    with np.errstate(over="ignore"):
        bits = splitmix64(days.astype(np.uint64) * GOLDEN + key)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) / float(1 << 53)


def splitmix64(states: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the SplitMix64 output of each state (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        z = (states ^ (states >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def normal(seed: int, stream: str, days: Days) -> Floats:
    """Return one standard normal number for each day (Box-Muller)."""
    radius = np.sqrt(-2.0 * np.log(uniform(seed, f"{stream}/radius", days)))
    angle = uniform(seed, f"{stream}/angle", days)
    return np.asarray(radius * np.cos(2.0 * np.pi * angle), dtype=np.float64)


def constant(seed: int, stream: str) -> float:
    """Return one number of (0, 1) for a stream that has no days."""
    return float(uniform(seed, stream, np.zeros(1, dtype=np.int64))[0])
