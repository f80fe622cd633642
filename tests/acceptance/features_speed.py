"""Alpha158 against Qlib's ``D.features`` and against straight polars expressions; growth; memory.

Qlib answers from a Python of its own, over a pipe, so that its start is in no figure; it reads its
own binary format, which holds float32, and we compute on those float32 values. Ours is timed from a
Parquet file to float32 blocks of some symbols, one after another, each let go before the next; and
again with all kept in one array, as both peers keep theirs: 1.67 GB for the made bars. Polars is
timed from a frame in memory to its columns.

Each is asked twice in a row, and the second time counts: a virtual machine may give free memory
back to its host, and ask for it anew, page by page, at a speed that is no property of what is
measured. The second time finds the memory that the first has let go. Both are kept.

Cells are compared before anything is timed. What a missing bar means differs: cells are compared by
Qlib's rule, and those that still differ are listed by cause.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from marketlake.clock import monotonic_s
from marketlake.contracts.factors import ALPHA158, FACTORS, Factor
from marketlake.domain.features import engine
from marketlake.domain.prices import Bars
from marketlake.settings import PROJECT_ROOT

from tests.acceptance import figures
from tests.acceptance.peers.polars_alpha158 import polars_alpha158

QLIB = "pyqlib==0.9.7"
TIMES_QLIB, TIMES_QLIB_REAL, TIMES_POLARS = 30.0, 40.0, 4.0
MOST_EXPONENT, MOST_RSS_GB = 1.1, 4.0
LEAST_AGREEING, TOLERANCE = 0.9999, 1e-4
MOST_UNLIKE_POLARS = 1e-3  # its rank of a window that a listing cuts off is over the whole window
_GROWN = {"growth": ALPHA158, "growth_of_catalog": FACTORS}
_FORMS = {"": "streamed", "_kept": "kept"}
_FIELDS = ("open", "high", "low", "close", "volume")
_WORKER = PROJECT_ROOT / "tests" / "acceptance" / "peers" / "qlib_features.py"
_SEED = 7


def measure(
    data: Path,
    *,
    symbols: int,
    sessions: int,
    rounds: int,
    growth: tuple[int, int],
    qlib: Path | None,
) -> dict[str, Any]:
    """Return agreement and seconds on real and on made bars, then what more symbols cost."""
    real = _real_bars(data)
    with tempfile.TemporaryDirectory() as scratch, _qlib(qlib, Path(scratch)) as peer:
        folder = Path(scratch)
        found: dict[str, Any] = {"factors": len(ALPHA158), "peer": QLIB}
        found["agreement"] = {
            "sp500": _agreement(peer, real, folder / "sp500"),
            "sp500_with_gaps": _agreement(peer, _with_gaps(real), folder / "gaps"),
        }
        found["sp500"] = _in_turns(peer, folder / "sp500", real, processes=1, rounds=rounds)
        made = _made_bars(symbols, sessions)
        found["agreement"]["made"] = _agreement(peer, made, folder / "made")
        found["made"] = _in_turns(peer, folder / "made", made, processes=2, rounds=rounds)
        del made
    return found | {name: _growth(growth, sessions, factors=name) for name in _GROWN}


# --- the same answers -----------------------------------------------------------------------------


def _agreement(peer: Peer, frame: pl.DataFrame, folder: Path) -> dict[str, Any]:
    write_qlib(frame, folder)
    theirs = peer.features(folder, processes=2, save=folder / "answer.npy")
    said = np.load(folder / "answer.npy", mmap_mode="r")
    bars = laid_out(frame)
    ours = np.empty(said.shape, dtype=np.float32)
    engine.fill(bars, first_output=bars.sessions[0], factors=ALPHA158, out=ours, like_qlib=True)
    if theirs["names"] != [item.source.rsplit(" ", 1)[1] for item in ALPHA158]:
        raise SystemExit("the factors of Qlib are others, or in another order")
    inside = _listed(bars)
    # Factor by factor: the made bars have 417 million cells.
    agree = np.stack([_agree(*pair) | ~inside for pair in zip(ours, said, strict=True)])
    causes: dict[str, int] = {}
    for cell in np.argwhere(~agree):
        cause = _cause(bars, tuple(cell), ours, said)
        causes[cause] = causes.get(cause, 0) + 1
    cells = int(inside.sum()) * len(ALPHA158)
    return {
        "symbols": len(bars.symbols),
        "sessions": len(bars.sessions),
        "cells": cells,
        "cells_off": int((~agree).sum()),
        "share_agreeing": 1.0 - float((~agree).sum()) / cells,
        "causes": causes,
    }


def _agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Within 1e-4, relative above 1; both missing or infinite."""
    with np.errstate(invalid="ignore"):
        near = np.abs(one - other) <= TOLERANCE * np.maximum(1.0, np.abs(other))
    return near | (~np.isfinite(one) & ~np.isfinite(other))


def _cause(bars: Bars, cell: tuple[int, ...], ours: np.ndarray, said: np.ndarray) -> str:
    factor, symbol, session = cell
    item = ALPHA158[factor]
    window = bars.closes[symbol, max(0, session - item.warm_up_sessions) : session + 1]
    if np.isnan(window[-1]):
        return "no bar at the session: we say nothing, Qlib goes on"
    if item.name.startswith(("alpha_imax", "alpha_imin", "alpha_imxd")) and np.isnan(window).any():
        return "a missing bar in the window: for Qlib it is the highest and the lowest"
    if np.isfinite(ours[cell]) and np.isfinite(said[cell]):
        return "another value"
    return "a value for one of the two only"


def _listed(bars: Bars) -> np.ndarray:
    there = ~np.isnan(bars.closes)
    after = np.maximum.accumulate(there, axis=1)
    return after & np.maximum.accumulate(there[:, ::-1], axis=1)[:, ::-1]


# --- in turns -------------------------------------------------------------------------------------


def _in_turns(
    peer: Peer, folder: Path, frame: pl.DataFrame, *, processes: int, rounds: int
) -> dict[str, Any]:
    write_qlib(frame, folder)
    file = folder / "bars.parquet"
    frame.write_parquet(file)
    _require_like_polars(_kept(file), polars_alpha158(frame), frame)
    answers: list[dict[str, Any]] = []

    def qlib() -> float:
        answers.append(peer.features(folder, processes=processes))
        return answers[-1]["seconds"]

    contenders: dict[str, Callable[[], float]] = {
        "qlib": qlib,
        "polars": lambda: _seconds(lambda: polars_alpha158(frame)),
        "ours": lambda: _seconds(lambda: _streamed(laid_out(pl.read_parquet(file)))),
        "ours_kept": lambda: _seconds(lambda: _kept(file)),
    }
    first: dict[str, list[float]] = {name: [] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    loads = []
    for number in range(1, rounds + 1):
        loads.append(os.getloadavg()[0])
        for name, ask in contenders.items():
            first[name].append(ask())
            seconds[name].append(ask())
        last = {name: f"{first[name][-1]:.2f}, {seconds[name][-1]:.2f} s" for name in contenders}
        figures.say(f"round {number}: {last}")

    def times(timed: dict[str, list[float]]) -> dict[str, float]:
        return {
            f"times_{other}{form}": statistics.median(
                one / own for one, own in zip(timed[other], timed[f"ours{form}"], strict=True)
            )
            for form in _FORMS
            for other in ("qlib", "polars")
        }

    return {
        "rows": frame.height,
        "qlib_processes": processes,
        "qlib_rss_mb": answers[-1]["rss_mb"],
        **{f"{name}_s": values for name, values in seconds.items()},
        "load_average_by_round": loads,
        **times(seconds),
        "first": {f"{name}_s": values for name, values in first.items()} | times(first),
    }


def _seconds(work: Callable[[], object]) -> float:
    began = monotonic_s()
    work()
    return monotonic_s() - began


def _streamed(bars: Bars, factors: tuple[Factor, ...] = ALPHA158) -> None:
    blocks = engine.factor_blocks(bars, first_output=bars.sessions[0], factors=factors)
    cells = sum(block.values.size for block in blocks)
    if cells != len(factors) * bars.closes.size:
        raise SystemExit("some cells are missing")


def _kept(file: Path) -> np.ndarray:
    bars = laid_out(pl.read_parquet(file))
    out = np.empty((len(ALPHA158), *bars.closes.shape), dtype=np.float32)
    engine.fill(bars, first_output=bars.sessions[0], factors=ALPHA158, out=out)
    return out


def _require_like_polars(ours: np.ndarray, theirs: pl.DataFrame, frame: pl.DataFrame) -> None:
    """Compare what both have from a full window on; polars has no place of a maximum."""
    bars = laid_out(frame)
    row = {item.name: number for number, item in enumerate(ALPHA158)}
    index = _indices(frame)
    for name in theirs.columns:
        matrix = np.full(bars.closes.shape, np.nan)
        matrix[index] = theirs[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        one, other = ours[row[name]][:, 60:], matrix[:, 60:]
        both = np.isfinite(one) & np.isfinite(other)
        off = np.abs(one - other)[both] > 1e-3 * np.maximum(1.0, np.abs(other[both]))
        if off.mean() > MOST_UNLIKE_POLARS or both.mean() < 0.9 * (~np.isnan(bars.closes)).mean():
            raise SystemExit(f"{name} by polars and ours differ in {off.sum()} of {both.sum()}")


# --- more symbols ---------------------------------------------------------------------------------


def _growth(symbols: tuple[int, int], sessions: int, *, factors: str) -> dict[str, Any]:
    few, many = (_in_process(count, sessions, factors) for count in symbols)
    return {
        "factors": len(_GROWN[factors]),
        "symbols": list(symbols),
        "sessions": sessions,
        "seconds": [few["seconds"], many["seconds"]],
        "rss_gb": [few["rss_gb"], many["rss_gb"]],
        "exponent": math.log(many["seconds"] / few["seconds"]) / math.log(symbols[1] / symbols[0]),
    }


def _in_process(symbols: int, sessions: int, factors: str) -> dict[str, float]:
    """Compute in a process of its own, so that its memory is its own."""
    module = "tests.acceptance.features_speed"
    answer = subprocess.run(
        [sys.executable, "-m", module, str(symbols), str(sessions), factors],
        cwd=PROJECT_ROOT,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT / "include")},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(answer.stdout)
    figures.say(
        f"{symbols:,} symbols, {len(_GROWN[factors])} factors: {found['seconds']:.2f} s, "
        f"{found['rss_gb']:.2f} GB"
    )
    return found


def grow(symbols: int, sessions: int, factors: tuple[Factor, ...]) -> dict[str, float]:
    """Stream the factors of made bars; what is timed is the second time, compiled and warm."""
    bars = _made_matrices(symbols, sessions)
    seconds = min(_seconds(lambda: _streamed(bars, factors)) for _ in range(2))
    return {"seconds": seconds, "rss_gb": _peak_rss_gb()}


def _peak_rss_gb() -> float:
    # Not getrusage: its peak is inherited from the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak_kb = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak_kb) / 1024**2


# --- bars -----------------------------------------------------------------------------------------


def _real_bars(data: Path) -> pl.DataFrame:
    frame = pl.read_parquet(data / "us_daily_sp500_4vendor_dev" / "yahoo.parquet")
    return frame.select(
        pl.col("symbol").cast(pl.String),
        pl.col("date").alias("session"),
        *(pl.col(name).cast(pl.Float32) for name in _FIELDS),
    ).sort("symbol", "session")


def _with_gaps(frame: pl.DataFrame) -> pl.DataFrame:
    """Every 97th bar is missing; each symbol keeps its first and last."""
    place = pl.int_range(pl.len()).over("symbol")
    kept = (
        (pl.int_range(pl.len()) % 97 != 50) | (place == 0) | (place == pl.len().over("symbol") - 1)
    )
    return frame.filter(kept)


def _made_matrices(symbols: int, sessions: int) -> Bars:
    rng = np.random.default_rng(_SEED)
    shape = symbols, sessions

    def noise(scale: float) -> np.ndarray:
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= scale
        return values

    close = np.exp(np.cumsum(noise(0.02), axis=1, dtype=np.float64))
    close *= 40.0
    opens = close * np.exp(noise(0.01))
    high = np.maximum(opens, close) * (1.0 + np.abs(noise(0.005)))
    low = np.minimum(opens, close) / (1.0 + np.abs(noise(0.005)))
    volume = np.round(np.exp(13.0 + noise(0.6)), 0).astype(np.float64)
    ones = np.ones(shape)
    days = tuple(
        date(2009, 1, 5) + timedelta(days=number + 2 * (number // 5)) for number in range(sessions)
    )
    names = tuple(f"S{number:05d}" for number in range(symbols))
    return Bars(days, names, opens, high, low, close, volume, ones, ones)


def _made_bars(symbols: int, sessions: int) -> pl.DataFrame:
    bars = _made_matrices(symbols, sessions)
    values = (bars.opens, bars.highs, bars.lows, bars.closes, bars.volumes)
    return pl.DataFrame(
        {
            "symbol": np.repeat(np.array(bars.symbols), sessions),
            "session": np.tile(np.array(bars.sessions, dtype="datetime64[D]"), symbols),
            **{
                name: matrix.ravel().astype(np.float32)
                for name, matrix in zip(_FIELDS, values, strict=True)
            },
        }
    )


def _indices(frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    placed = frame.select(
        (pl.col("symbol").rank("dense") - 1).alias("row"),
        (pl.col("session").rank("dense") - 1).alias("column"),
    )
    return placed["row"].to_numpy(), placed["column"].to_numpy()


def laid_out(frame: pl.DataFrame) -> Bars:
    """Return long rows as matrices; a missing row is NaN."""
    days, names = frame["session"].unique().sort(), frame["symbol"].unique().sort()
    shape = len(names), len(days)
    if frame.height == shape[0] * shape[1] and frame["symbol"].is_sorted():
        matrices = [frame[name].to_numpy().astype(np.float64).reshape(shape) for name in _FIELDS]
    else:
        index = _indices(frame)
        matrices = [np.full(shape, np.nan) for _ in _FIELDS]
        for name, matrix in zip(_FIELDS, matrices, strict=True):
            matrix[index] = frame[name].to_numpy()
    ones = np.ones(shape)
    return Bars(tuple(days), tuple(names), *matrices, ones, ones)


def write_qlib(frame: pl.DataFrame, folder: Path) -> None:
    """Write long rows in Qlib's own format: a calendar, instruments, a float32 file a field."""
    bars = laid_out(frame)
    values = (bars.opens, bars.highs, bars.lows, bars.closes, bars.volumes)
    matrices = dict(zip(_FIELDS, (matrix.astype("<f4") for matrix in values), strict=True))
    high, low, close = (matrices[name] for name in ("high", "low", "close"))
    matrices["vwap"] = (high + low + close) / np.float32(3.0)
    (folder / "calendars").mkdir(parents=True, exist_ok=True)
    (folder / "instruments").mkdir(exist_ok=True)
    (folder / "calendars" / "day.txt").write_text("".join(f"{day}\n" for day in bars.sessions))
    lines = []
    for row, symbol in enumerate(bars.symbols):
        there = np.flatnonzero(~np.isnan(bars.closes[row]))
        first, last = there[0], there[-1]
        lines.append(f"{symbol}\t{bars.sessions[first]}\t{bars.sessions[last]}\n")
        own = folder / "features" / symbol.lower()
        own.mkdir(parents=True, exist_ok=True)
        for name, matrix in matrices.items():
            values_of = matrix[row, first : last + 1]
            np.concatenate([[np.float32(first)], values_of]).astype("<f4").tofile(
                own / f"{name}.day.bin"
            )
    (folder / "instruments" / "all.txt").write_text("".join(lines))


# --- the peer -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Peer:
    """A running Qlib that answers over a pipe."""

    process: subprocess.Popen[str]

    def features(self, folder: Path, *, processes: int, save: Path | None = None) -> dict[str, Any]:
        """Let it compute Alpha158 of a folder; return its seconds and its memory."""
        asked = {
            "folder": str(folder),
            "processes": processes,
            "save": None if save is None else str(save),
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("Qlib gave no answer; see its messages above")
        return json.loads(line)


@contextmanager
def _qlib(python: Path | None, scratch: Path) -> Iterator[Peer]:
    """Start Qlib with that Python, or install it into an environment of its own first."""
    if python is None:
        home = scratch / "qlib"
        figures.say(f"installing {QLIB} into an environment of its own")
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
        python = home / "bin" / "python"
        subprocess.run(
            [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python, QLIB],
            check=True,
        )
    process = subprocess.Popen(
        [python, _WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Peer(process)
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)


# --- figures --------------------------------------------------------------------------------------


def show(found: dict[str, Any]) -> None:
    """Print the figures as tables."""
    peers = {"qlib": "Qlib", "polars": "polars", "ours": "ours", "ours_kept": "ours, kept"}
    ratios = {
        f"times_{peer}{form}": f"{peers[peer]}, {how}"
        for form, how in _FORMS.items()
        for peer in ("qlib", "polars")
    }
    for title, of in (
        ("the second time", lambda one: one),
        ("the first time", lambda one: one["first"]),
    ):
        figures.table(
            f"seconds, medians, {title}",
            ("bars", *peers.values(), *(f"times {peer}" for peer in ratios.values())),
            [
                (
                    f"{name}: {found[name]['rows']:,}, Qlib with {found[name]['qlib_processes']}",
                    *(statistics.median(of(found[name])[f"{peer}_s"]) for peer in peers),
                    *(of(found[name])[ratio] for ratio in ratios),
                )
                for name in ("sp500", "made")
            ],
        )
    figures.table(
        "cells that agree with Qlib",
        ("bars", "cells", "off", "causes"),
        [
            (name, one["cells"], one["cells_off"], json.dumps(one["causes"]))
            for name, one in found["agreement"].items()
        ],
    )
    for grown in (found[name] for name in _GROWN):
        figures.say(
            f"{grown['symbols'][0]:,} to {grown['symbols'][1]:,} symbols, {grown['factors']} "
            f"factors: exponent {grown['exponent']:.2f}, {grown['rss_gb'][1]:.2f} GB"
        )


def missed(found: dict[str, Any]) -> list[str]:
    """Return the targets that were not met."""
    asked = {
        f"{least:g} times {name} on {bars} bars, {how}": found[bars][f"times_{peer}{form}"] >= least
        for form, how in _FORMS.items()
        for bars, peer, name, least in (
            ("sp500", "qlib", "Qlib", TIMES_QLIB_REAL),
            ("made", "qlib", "Qlib", TIMES_QLIB),
            ("made", "polars", "polars", TIMES_POLARS),
        )
    }
    for bars in ("sp500", "made"):
        asked[f"agreement with Qlib on {bars} bars"] = (
            found["agreement"][bars]["share_agreeing"] >= LEAST_AGREEING
        )
    for grown in (found[name] for name in _GROWN):
        of = f"for {grown['factors']} factors"
        asked[f"an exponent of at most {MOST_EXPONENT:g} {of}"] = grown["exponent"] <= MOST_EXPONENT
        asked[f"at most {MOST_RSS_GB:g} GB {of}"] = grown["rss_gb"][1] <= MOST_RSS_GB
    return [f"not met: {what}" for what, is_met in asked.items() if not is_met]


if __name__ == "__main__":
    answer = grow(int(sys.argv[1]), int(sys.argv[2]), _GROWN[sys.argv[3]])
    sys.stdout.write(json.dumps(answer))
