"""What the ledger costs a daily run: with the appender, and with one that keeps nothing, in turns.

One session goes through the whole chain each time, its audit files with it. Both runs do the same
work and send the same entries.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import MarketlakeError
from marketlake.services.platform.environment import component_environment
from marketlake.services.platform.stack import Platform
from marketlake.settings import PROJECT_ROOT
from marketlake.storage.ledger import LedgerClient

from tests.acceptance import figures
from tests.acceptance.figures import say
from tests.acceptance.installation import told
from tests.acceptance.processes import cpu_seconds
from tests.integration.conftest import SESSIONS, Installation

MOST_SLOWER = 0.05
_SETTLE_S = 5.0
_STARTS_WITHIN_S = 60.0
_SESSION = SESSIONS[-1]


def measure(one: Installation, *, rounds: int) -> dict[str, Any]:
    """Return wall and CPU of the session's run, each way, round by round."""
    told(one, "run")
    wall: dict[str, list[float]] = {"ledger": [], "nowhere": []}
    cpu: dict[str, list[float]] = {"ledger": [], "nowhere": []}
    with _to_nowhere(one):
        _once(one)  # what is first is slower, whichever it is
    _once(one)
    expected = one.hashes([_SESSION])
    for number in range(rounds):
        ways = ("ledger", "nowhere") if number % 2 == 0 else ("nowhere", "ledger")
        for way in ways:
            if way == "nowhere":
                with _to_nowhere(one):
                    seconds, used = _once(one)
            else:
                seconds, used = _once(one)
            wall[way].append(seconds)
            cpu[way].append(used)
            say(f"round {number + 1}, {way}: {seconds:.2f} s, {used:.1f} CPU-s")
            if one.hashes([_SESSION]) != expected:
                raise SystemExit(f"other content, {way}")
    told(one, "audit", "verify")
    return _document(wall, cpu)


def _once(one: Installation) -> tuple[float, float]:
    sleep_s(_SETTLE_S)
    before, began = sum(cpu_seconds(one.home).values()), monotonic_s()
    session = str(_SESSION)
    one.must("backfill", "--from", session, "--to", session, "--reprocess", "completed")
    return monotonic_s() - began, sum(cpu_seconds(one.home).values()) - before


@contextmanager
def _to_nowhere(one: Installation) -> Iterator[None]:
    """Stand in for the ledger's appender until the end of the block."""
    real = Platform.at(one.home).components["ledger"]
    real.stop()
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.appender_to_nowhere"],
        env=component_environment(one.settings) | dict(one.market),
        cwd=PROJECT_ROOT,
    )
    try:
        _wait_until_it_answers(one)
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)
        real.start()
        _wait_until_it_answers(one)


def _wait_until_it_answers(one: Installation) -> None:
    client = LedgerClient(one.settings.ledger)
    until = monotonic_s() + _STARTS_WITHIN_S
    while True:
        try:
            client.ping()
        except MarketlakeError:
            if monotonic_s() > until:
                raise
            sleep_s(0.2)
        else:
            client.close()
            return


def _document(
    wall: Mapping[str, Sequence[float]], cpu: Mapping[str, Sequence[float]]
) -> dict[str, Any]:
    pairs = list(zip(wall["ledger"], wall["nowhere"], strict=True))
    return {
        "session": str(_SESSION),
        "rounds": len(pairs),
        "outputs_equal": True,
        "wall_s": wall,
        "cpu_s": cpu,
        "median_wall_s": {way: statistics.median(taken) for way, taken in wall.items()},
        "median_cpu_s": {way: statistics.median(used) for way, used in cpu.items()},
        "slower": statistics.median(wall["ledger"]) / statistics.median(wall["nowhere"]) - 1,
        "slower_by_pair": [there / nowhere - 1 for there, nowhere in pairs],
        "target_slower_at_most": MOST_SLOWER,
    }


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as a table."""
    figures.table(
        f"A session's run, medians of {found['rounds']} rounds",
        ["entries go", "wall s", "CPU-s"],
        [
            ["into the ledger", found["median_wall_s"]["ledger"], found["median_cpu_s"]["ledger"]],
            ["nowhere", found["median_wall_s"]["nowhere"], found["median_cpu_s"]["nowhere"]],
            ["slower with the ledger", f"{found['slower']:+.1%}", ""],
        ],
    )


def missed(found: Mapping[str, Any]) -> list[str]:
    """Return what missed its target."""
    slower = found["slower"]
    return [f"{slower:.1%} slower with the ledger"] if slower > MOST_SLOWER else []
