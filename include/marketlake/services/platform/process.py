"""One supervised program: its own session, a pid file, a log, and a start that waits.

Also programs that run to their end (``run_to_end``).

What does not belong: what any particular program needs (postgres, seaweedfs, airflow modules).
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from marketlake.clock import monotonic_s, sleep_s, utc_now
from marketlake.errors import ConfigError, SourceUnavailable, Timeout

_POLL_S = 0.05
_KILL_WAIT_S = 10.0
_LOG_LIMIT_BYTES = 20_000_000
_SECRETIVE = 0o600
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Account:
    """The system user a program runs as when the platform itself runs as root."""

    name: str
    uid: int
    gid: int


def unprivileged_account() -> Account | None:
    """Return the user to drop to when we are root, None when we are not."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


@dataclass(frozen=True)
class Program:
    """What to run and how to know that it is ready.

    ``probe`` returns None when the program is ready, else why it is not (yet). ``identity`` is
    the configuration that matters: a running program started with another one is restarted by
    ``start``. One with the same gets ``ready_within_s`` too before it is judged to hang: its probe
    may ask a program that is starting. ``prepare`` runs right before the program does.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    probe: Callable[[], str | None]
    identity: tuple[str, ...]
    account: Account | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 10.0
    ready_within_s: float = 60.0
    prepare: Callable[[], None] | None = None

    @property
    def settings_key(self) -> str:
        """Return a hash of the configuration; it stands in the pid file, so no secret may."""
        return hashlib.sha256(json.dumps(self.identity).encode()).hexdigest()


@dataclass(frozen=True)
class Started:
    """How a start went: whether a running process was kept, and the seconds it took."""

    name: str
    reused: bool
    seconds: float


@dataclass(frozen=True)
class _Record:
    pid: int
    identity: str
    born_at_s: float
    settings_key: str


class Supervised:
    """A program together with its pid file and log."""

    def __init__(self, program: Program, *, run_dir: Path, log_dir: Path) -> None:
        self.program = program
        self.pid_file = run_dir / f"{program.name}.json"
        self.log_path = log_dir / f"{program.name}.log"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id when the program is alive, else None."""
        record = self._record()
        return record.pid if record is not None and self._is_alive(record) else None

    def start(self) -> Started:
        """Start the program and wait until it is ready; keep it when it already is.

        Raises
        ------
        SourceUnavailable
            When it ends or is not ready in time; the message has its last words and its log.
        """
        began = monotonic_s()
        self._rotate_log()
        record = self._record()
        if record is not None and self._is_alive(record):
            same = record.settings_key == self.program.settings_key
            if same and self._why_unready(record, self.program.ready_within_s) is None:
                return Started(self.program.name, reused=True, seconds=monotonic_s() - began)
            self.stop()
        elif record is not None:
            _kill_remains(record)
        if self.program.prepare is not None:
            self.program.prepare()
        self._require_ready(self._spawn())
        return Started(self.program.name, reused=False, seconds=monotonic_s() - began)

    def stop(self) -> bool:
        """Stop the program and everything it started; return whether there was anything."""
        record = self._record()
        if record is None:
            return False
        was_alive = self._is_alive(record)
        if was_alive:
            _signal(record.pid, self.program.stop_signal)
            deadline = monotonic_s() + self.program.stop_grace_s
            while self._is_alive(record) and monotonic_s() < deadline:
                sleep_s(_POLL_S)
        _kill_remains(record)
        self._reap()
        self.pid_file.unlink(missing_ok=True)
        return was_alive

    def _rotate_log(self) -> None:
        """Empty a long log in place: a program that is kept goes on appending to it."""
        if self.log_path.exists() and self.log_path.stat().st_size > _LOG_LIMIT_BYTES:
            shutil.copyfile(self.log_path, self.log_path.with_suffix(".log.1"))
            os.truncate(self.log_path, 0)

    def _spawn(self) -> _Record:
        for folder in (self.pid_file.parent, self.log_path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        born_at_s = utc_now().timestamp()
        account = self.program.account
        with self.log_path.open("ab") as log:
            try:
                self._child = subprocess.Popen(
                    self.program.argv,
                    env=dict(self.program.env),
                    cwd=self.program.cwd,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
            except OSError as error:
                raise ConfigError(
                    expected=f"{self.program.name} to be startable",
                    was=str(error),
                    where=self.program.argv[0],
                    todo="install the packages (make install) in a folder its user can reach",
                ) from error
        pid = self._child.pid
        record = _Record(pid, _identity(pid) or "", born_at_s, self.program.settings_key)
        write_private(self.pid_file, json.dumps(record.__dict__))
        return record

    def _require_ready(self, record: _Record) -> None:
        reason = self._why_unready(record, self.program.ready_within_s)
        if reason is None:
            return
        words = last_words(self.log_path)
        self.stop()
        raise SourceUnavailable(
            expected=f"{self.program.name} ready within {self.program.ready_within_s:.0f} s",
            was=f"{reason}; last words: {words}",
            where=str(self.log_path),
            todo="read that log; `marketlake doctor` checks the usual causes",
        )

    def _why_unready(self, record: _Record, within_s: float) -> str | None:
        """Ask until the program is ready (None), ends, or the time is over."""
        deadline = monotonic_s() + within_s
        while self._is_alive(record):
            reason = self.program.probe()
            if reason is None or monotonic_s() > deadline:
                return reason
            sleep_s(_POLL_S)
        return "it ended" + self._exit_code()

    def _exit_code(self) -> str:
        code = self._child.poll() if self._child is not None else None
        return "" if code is None else f" with exit code {code}"

    def _record(self) -> _Record | None:
        return _read_record(self.pid_file)

    def _is_alive(self, record: _Record) -> bool:
        self._reap()
        return _is_alive(record)

    def _reap(self) -> None:
        if self._child is not None:
            self._child.poll()


class Supervises:
    """A component that is its supervised process, and needs nothing more to start or stop."""

    process: Supervised

    def start(self) -> Started:
        """Start it, or keep it if it runs, and wait until it is ready."""
        return self.process.start()

    def stop(self) -> bool:
        """Stop it; return whether it ran."""
        return self.process.stop()


def last_words(log: Path) -> str:
    """Return the last non-empty lines of a log, for an error message."""
    if not log.exists():
        return "no log"
    lines = log.read_text(errors="replace")[-4000:].splitlines()
    return " | ".join([line.strip() for line in lines if line.strip()][-6:]) or "an empty log"


def run_to_end(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    log: Path,
    within_s: float,
    account: Account | None = None,
) -> int:
    """Run a program that ends by itself and return its exit code; its output replaces the log.

    Raises
    ------
    Timeout
        When it has not ended in time and was killed; the message names the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        try:
            return subprocess.run(
                argv,
                env=dict(env),
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=within_s,
                check=False,
                user=account.uid if account else None,
                group=account.gid if account else None,
                extra_groups=[] if account else None,
            ).returncode
        except subprocess.TimeoutExpired as error:
            raise Timeout(
                expected=f"{log.stem} to end within {within_s:.0f} s",
                was=f"killed; last words: {last_words(log)}",
                where=str(log),
                todo="read that log; a busy machine may need another try",
            ) from error


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, _SECRETIVE)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)


def living_or_ended(pid_file: Path) -> bool:
    """Return whether the program of a pid file is alive; if not, kill what it left behind.

    Its children may still hold its port. Both in one look: a program that dies in between is
    still one whose remains its own start will end.
    """
    record = _read_record(pid_file)
    if record is None:
        return False
    if _is_alive(record):
        return True
    _kill_remains(record)
    return False


def birth_s(pid_file: Path) -> float | None:
    """Return when the living process of a pid file began (seconds of the epoch), else None."""
    record = _living(pid_file)
    return None if record is None else record.born_at_s


def _living(pid_file: Path) -> _Record | None:
    record = _read_record(pid_file)
    return record if record is not None and _is_alive(record) else None


def _is_alive(record: _Record) -> bool:
    return _identity(record.pid) == record.identity


def is_running(pid: int) -> bool:
    """Return whether a process exists and is more than a zombie."""
    return _identity(pid) is not None


def is_anybody_in(folder: Path) -> bool:
    """Return whether a process, whoever started it, has ``folder`` as its working directory."""
    path = os.path.realpath(folder)
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == path:
                return True
    return False


def _read_record(pid_file: Path) -> _Record | None:
    try:
        return _Record(**json.loads(pid_file.read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise ConfigError(
            expected="a pid file this version wrote",
            was=f"{type(error).__name__}: {error}",
            where=str(pid_file),
            todo="make sure that program does not run, delete the file, start again",
        ) from error


def _identity(pid: int) -> str | None:
    """Return what tells a process from every other with its number; None for a dead one.

    The boot and the ticks from it to the start: seconds of the epoch move with the system clock.
    A killed process shows as a zombie while its last threads still end, and hold its ports.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *numbers = text.rpartition(")")[2].split()  # fields 3, 4, ...: see proc(5)
    is_dead = state in "ZX" and int(numbers[16]) <= 1  # num_threads counts the zombie itself
    return None if is_dead else f"{_BOOT_ID.read_text().strip()} {numbers[18]}"


def _kill_remains(record: _Record) -> None:
    """Kill what a program left behind, unless its number has been given to another process."""
    if _identity(record.pid) in (None, record.identity):
        _kill_session(record.pid)


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _kill_session(leader: int) -> None:
    """Kill whatever is left of the session that a program led, and wait until it is gone."""
    deadline = monotonic_s() + _KILL_WAIT_S
    while monotonic_s() < deadline:
        members = [pid for pid in psutil.pids() if _session_of(pid) == leader and is_running(pid)]
        if not members:
            return
        for pid in members:
            _signal(pid, signal.SIGKILL)
        sleep_s(_POLL_S)
    raise SourceUnavailable(
        expected="killed processes to be gone",
        was=f"{members} still there after {_KILL_WAIT_S} s",
        where="the process table",
        todo="they wait for a device: look with `ps`; a restart of the machine may be needed",
    )


def _session_of(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None
