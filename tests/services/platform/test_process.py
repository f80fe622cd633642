"""Supervision, tried on small programs that behave well and badly."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, SourceUnavailable
from marketlake.services.platform.process import Program, Supervised, living_pid, write_private

SLEEPER = "import time; print('awake', flush=True); time.sleep(600)"
PARENT = (
    "import subprocess, sys, time; "
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
    "print('both', flush=True); time.sleep(600)"
)
DEAF = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    "print('deaf', flush=True); time.sleep(600)"
)

Make = Callable[..., Supervised]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Supervised] = []

    def supervised(
        code: str, *, says: str, identity: str = "one", within: float = 10
    ) -> Supervised:
        log = tmp_path / "logs" / "program.log"

        def probe() -> str | None:
            return None if says in log.read_text() else f"has not said {says!r}"

        program = Program(
            name="program",
            argv=(sys.executable, "-c", code),
            env={"PATH": os.environ["PATH"]},
            cwd=tmp_path,
            probe=probe,
            identity=(identity,),
            stop_grace_s=0.5,
            ready_within_s=within,
        )
        made.append(Supervised(program, run_dir=tmp_path / "run", log_dir=tmp_path / "logs"))
        return made[-1]

    yield supervised
    for one in made:
        one.stop()


def living_members(leader: int) -> list[int]:
    members = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                members.append(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return members


def leader_of(supervised: Supervised) -> int:
    pid = supervised.pid
    assert pid is not None
    return pid


def test_a_start_waits_until_the_probe_is_satisfied(make: Make) -> None:
    late = make(
        "import time; time.sleep(0.4); print('late', flush=True); time.sleep(9)", says="late"
    )
    began = monotonic_s()
    assert not late.start().reused
    assert monotonic_s() - began >= 0.4


def test_a_running_program_with_the_same_identity_is_kept(make: Make) -> None:
    make(SLEEPER, says="awake").start()
    again = make(SLEEPER, says="awake")
    before = again.pid
    assert again.start().reused
    assert again.pid == before


def test_a_running_program_with_another_identity_is_replaced(make: Make) -> None:
    first = make(SLEEPER, says="awake")
    first.start()
    before = leader_of(first)
    changed = make(SLEEPER, says="awake", identity="two")
    assert not changed.start().reused
    assert changed.pid != before
    assert living_members(before) == []


def test_stop_ends_the_children_as_well(make: Make) -> None:
    family = make(PARENT, says="both")
    family.start()
    leader = leader_of(family)
    assert len(living_members(leader)) == 2
    assert family.stop()
    assert living_members(leader) == []
    assert not family.pid_file.exists()


def test_stop_kills_what_ignores_the_signal(make: Make) -> None:
    deaf = make(DEAF, says="deaf")
    deaf.start()
    leader = leader_of(deaf)
    deaf.stop()
    assert living_members(leader) == []


def test_children_of_a_killed_leader_are_gone_before_the_next_start(make: Make) -> None:
    family = make(PARENT, says="both")
    family.start()
    leader = leader_of(family)
    os.kill(leader, signal.SIGKILL)
    while family.pid is not None:
        sleep_s(0.01)
    assert len(living_members(leader)) == 1
    assert not family.start().reused
    assert living_members(leader) == []


def test_a_program_that_ends_early_is_reported_with_its_last_words(
    make: Make, tmp_path: Path
) -> None:
    broken = make("raise SystemExit('no such table: prices')", says="never")
    with pytest.raises(SourceUnavailable) as caught:
        broken.start()
    assert "exit code 1" in caught.value.was
    assert "no such table: prices" in caught.value.was
    assert caught.value.where == str(tmp_path / "logs" / "program.log")
    assert broken.pid is None


def test_a_program_that_never_gets_ready_is_stopped_and_says_what_is_missing(make: Make) -> None:
    silent = make("import time; time.sleep(600)", says="hello", within=0.5)
    with pytest.raises(SourceUnavailable, match="has not said 'hello'"):
        silent.start()
    assert silent.pid is None


def test_a_pid_file_whose_number_was_given_to_another_process_is_not_believed(
    make: Make, tmp_path: Path
) -> None:
    mine = f'{{"pid": {os.getpid()}, "created_at_s": 1.0, "settings_key": "x"}}'
    write_private(tmp_path / "run" / "program.json", mine)
    supervised = make(SLEEPER, says="awake")
    assert supervised.pid is None
    assert not supervised.stop()
    assert living_pid(tmp_path / "run" / "program.json") is None


def test_a_program_that_does_not_exist_is_a_config_error(tmp_path: Path) -> None:
    program = Program(
        name="absent",
        argv=(str(tmp_path / "absent"),),
        env={},
        cwd=tmp_path,
        probe=lambda: None,
        identity=(),
    )
    with pytest.raises(ConfigError, match="absent to be startable"):
        Supervised(program, run_dir=tmp_path / "run", log_dir=tmp_path / "logs").start()


def test_private_files_can_be_read_by_their_owner_only(tmp_path: Path) -> None:
    write_private(tmp_path / "secret", "x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
