"""Supervision, tried on small programs that behave well and badly."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, SourceUnavailable, Timeout
from marketlake.services.platform.ports import free_ports, is_free
from marketlake.services.platform.process import (
    Program,
    Supervised,
    birth_s,
    living_or_ended,
    run_to_end,
    write_private,
)

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

TICKER = "import time\nwhile True: print('tick', flush=True); time.sleep(0.05)"
SPEAKER = (
    "import time; print('awake', flush=True); time.sleep(1); "
    "print('again', flush=True); time.sleep(600)"
)
LISTENER = """
import socket, threading, time
server = socket.create_server(("127.0.0.1", {port}))
for _ in range(200):
    threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
held = bytearray(400_000_000)
held[::4096] = bytes(len(held[::4096]))  # every page of it is to be given back
print("listens", flush=True)
time.sleep(600)
"""

Make = Callable[..., Supervised]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Supervised] = []

    def supervised(
        code: str,
        *,
        says: str,
        identity: str = "one",
        within: float = 10,
        prepare: Callable[[], None] | None = None,
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
            prepare=prepare,
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


def test_a_program_that_answers_late_is_kept(make: Make) -> None:
    first = make(SPEAKER, says="awake")
    first.start()
    again = make(SPEAKER, says="again")
    assert again.start().reused
    assert again.pid == first.pid


def test_a_program_that_hangs_for_longer_than_a_start_may_take_is_replaced(make: Make) -> None:
    first = make(SLEEPER, says="awake")
    first.start()
    before = leader_of(first)
    hanging = make(SLEEPER, says="never", within=0.2)
    with pytest.raises(SourceUnavailable):
        hanging.start()
    assert living_members(before) == []


def test_the_time_to_get_ready_begins_after_the_preparation(make: Make) -> None:
    prepared = make(SLEEPER, says="awake", within=2, prepare=lambda: sleep_s(2))
    assert prepared.start().seconds > 2


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
    mine = {"pid": os.getpid(), "identity": "boot 1", "born_at_s": 1.0, "settings_key": "x"}
    write_private(tmp_path / "run" / "program.json", json.dumps(mine))
    supervised = make(SLEEPER, says="awake")
    assert supervised.pid is None
    assert not supervised.stop()
    assert not living_or_ended(tmp_path / "run" / "program.json")


def test_a_killed_program_is_alive_until_it_lets_its_port_go(make: Make) -> None:
    for _ in range(5):
        (port,) = free_ports(1)
        listener = make(LISTENER.format(port=port), says="listens")
        listener.start()
        listener.log_path.write_text("")
        os.kill(leader_of(listener), signal.SIGKILL)
        while living_or_ended(listener.pid_file):
            pass
        assert is_free(port)


def test_a_step_of_the_system_clock_loses_no_process(make: Make) -> None:
    sleeper = make(SLEEPER, says="awake")
    sleeper.start()
    leader = leader_of(sleeper)
    born = birth_s(sleeper.pid_file) or 0.0
    assert born == pytest.approx(psutil.Process(leader).create_time(), abs=5)
    stepped = json.loads(sleeper.pid_file.read_text()) | {"born_at_s": born - 3600}
    write_private(sleeper.pid_file, json.dumps(stepped))
    assert make(SLEEPER, says="awake").pid == leader
    assert sleeper.stop()
    assert living_members(leader) == []


def test_a_process_of_another_boot_with_the_same_number_and_ticks_is_left_alone(
    make: Make,
) -> None:
    innocent = make(SLEEPER, says="awake")
    innocent.start()
    record = json.loads(innocent.pid_file.read_text())
    _, ticks = record["identity"].split()
    stale = record | {"identity": f"00000000-0000-0000-0000-000000000000 {ticks}"}
    write_private(innocent.pid_file, json.dumps(stale))
    assert not innocent.stop()
    assert living_members(record["pid"]) == [record["pid"]]
    write_private(innocent.pid_file, json.dumps(record))


def test_a_long_log_is_rotated_under_a_program_that_is_kept(make: Make) -> None:
    ticker = make(TICKER, says="tick")
    ticker.start()
    os.truncate(ticker.log_path, 21_000_000)
    assert ticker.start().reused
    assert ticker.log_path.stat().st_size < 1_000_000
    assert set(ticker.log_path.read_text().split()) == {"tick"}
    assert ticker.log_path.with_suffix(".log.1").stat().st_size >= 21_000_000


def test_a_program_that_ends_by_itself_leaves_only_its_own_words_in_the_log(
    tmp_path: Path,
) -> None:
    log = tmp_path / "logs" / "once.log"
    for code, words in ((0, "first"), (3, "second")):
        argv = (sys.executable, "-c", f"print({words!r}); raise SystemExit({code})")
        assert run_to_end(argv, env={}, cwd=tmp_path, log=log, within_s=10) == code
        assert log.read_text() == f"{words}\n"


def test_a_program_that_does_not_end_is_killed_and_its_log_named(tmp_path: Path) -> None:
    log = tmp_path / "once.log"
    argv = (sys.executable, "-c", f"import os; print(os.getpid(), flush=True); {SLEEPER}")
    with pytest.raises(Timeout, match="once to end within 1 s") as caught:
        run_to_end(argv, env={}, cwd=tmp_path, log=log, within_s=1)
    assert caught.value.where == str(log)
    pid, said = log.read_text().split()
    assert said in caught.value.was
    assert not psutil.pid_exists(int(pid))


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
