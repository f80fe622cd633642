"""The scheduler's process ends when it is asked to, wherever the signal finds it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SWALLOWS_AN_EXIT = """
import signal, sys, time, weakref
from marketlake.orchestration.scheduler import ask_again_if_an_exit_is_swallowed

class Session:
    pass

def ended(*_):
    sys.exit(0)

def collected(_):
    signal.raise_signal(signal.SIGTERM)  # it arrives while something is garbage-collected
    for _ in range(1000):
        pass

if sys.argv[1] == "asks":
    ask_again_if_an_exit_is_swallowed()
signal.signal(signal.SIGTERM, ended)
session = Session()
reference = weakref.ref(session, collected)
del session
time.sleep(3)
sys.exit(7)
"""


@pytest.mark.parametrize(
    ("way", "code"), [pytest.param("asks", 0, marks=pytest.mark.slow), ("does not", 7)]
)
def test_a_signal_that_arrives_in_a_garbage_collection_still_ends_the_scheduler(
    way: str, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SWALLOWS_AN_EXIT, way],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Exception ignored" in done.stderr
    assert done.returncode == code
