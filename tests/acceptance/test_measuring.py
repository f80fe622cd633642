"""What the figures rest on: CPU of ended children, memory of a tree, the line through points."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from marketlake.clock import sleep_s

from tests.acceptance.processes import cpu_seconds, memory
from tests.acceptance.soak import slope

BURN = "import time\nwhile time.process_time() < 0.5: pass"
LEADER = f"""
import subprocess, sys, time
subprocess.run([sys.executable, "-c", {BURN!r}])  # has ended when anybody looks
held = subprocess.Popen([sys.executable, "-c", "x = bytearray(50_000_000); print(); input()"],
                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
held.stdout.readline()
print(flush=True)
input()
held.communicate(b"\\n")
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Yield a state folder with one component: a leader, an ended child, one that holds 50 MB."""
    with subprocess.Popen(
        [sys.executable, "-c", LEADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as leader:
        assert leader.stdin is not None
        assert leader.stdout is not None
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "worker.json").write_text(json.dumps({"pid": leader.pid}))
        leader.stdout.readline()
        yield tmp_path
        leader.stdin.write(b"\n")
        leader.stdin.flush()


def test_the_cpu_of_ended_children_counts(home: Path) -> None:
    used = cpu_seconds(home)
    assert set(used) == {"worker"}
    assert 0.5 <= used["worker"] < 2.0


def test_cpu_used_between_two_looks_is_their_difference(home: Path) -> None:
    before = cpu_seconds(home)["worker"]
    sleep_s(0.3)
    assert cpu_seconds(home)["worker"] - before < 0.05  # it only waits


def test_memory_is_that_of_the_whole_tree_although_a_child_has_its_own_session(home: Path) -> None:
    found = memory(home)["worker"]
    assert found.processes == 2
    assert found.pss_mb > 48
    assert found.rss_mb >= found.pss_mb


def test_a_slope_is_found_with_its_interval() -> None:
    hours = [number / 12 for number in range(12)]
    noise = [(-1) ** number * 0.5 for number in range(12)]
    found = slope(hours, [100 + 7 * hour + n for hour, n in zip(hours, noise, strict=True)])
    assert found["low"] < 7 < found["high"]
    assert found["high"] - found["low"] < 4
    flat = slope(hours, [100 + n for n in noise])
    assert flat["low"] < 0 < flat["high"]
