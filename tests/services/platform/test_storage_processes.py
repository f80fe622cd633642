"""Postgres and SeaweedFS as the platform runs them: real processes, killed for real."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from marketlake.clock import sleep_s
from marketlake.errors import SourceUnavailable
from marketlake.services.platform import components
from marketlake.services.platform.postgres import EmbeddedPostgres
from marketlake.services.platform.runtime import prepare
from marketlake.services.platform.seaweedfs import SeaweedFS
from marketlake.settings import Settings
from psycopg import sql
from pydantic import SecretStr


@pytest.fixture(scope="module")
def settings(scratch_root: Path) -> Settings:
    return prepare(scratch_root / "with a space", usual_ports=False)


@pytest.fixture(scope="module")
def postgres(settings: Settings) -> Iterator[EmbeddedPostgres]:
    server = components.postgres(settings)
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def store(settings: Settings) -> Iterator[SeaweedFS]:
    server = components.seaweedfs(settings)
    server.start()
    yield server
    server.stop()


def test_postgres_has_a_database_for_each_owner(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    assert postgres.process.pid is not None
    for name in ("airflow", "warehouse", "ledger"):
        with psycopg.connect(settings.postgres.conninfo(name)) as connection:
            assert connection.execute("select current_database()").fetchone() == (name,)


def test_postgres_refuses_a_wrong_password(settings: Settings, postgres: EmbeddedPostgres) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(settings.postgres.conninfo("warehouse"), password="wrong")


def test_a_name_or_password_may_hold_spaces_quotes_and_backslashes(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    odd = "o'dd \\ one' port='1"
    with psycopg.connect(settings.postgres.conninfo("postgres"), autocommit=True) as connection:
        name = sql.Identifier(odd)
        connection.execute(sql.SQL("create role {} login password {}").format(name, odd))
        connection.execute(sql.SQL("create database {}").format(name))
    own = settings.postgres.model_copy(update={"user": odd, "password": SecretStr(odd)})
    with psycopg.connect(own.conninfo(odd)) as connection:
        row = connection.execute("select current_user, current_database()").fetchone()
    assert row == (odd, odd)


def test_what_a_killed_initdb_left_is_not_taken_for_a_cluster(scratch_root: Path) -> None:
    server = components.postgres(prepare(scratch_root / "half-made", usual_ports=False))
    rest = server.data.with_name("fresh")
    rest.mkdir(parents=True)
    (rest / "PG_VERSION").write_text("16")
    prepare_cluster = server.process.program.prepare
    assert prepare_cluster is not None
    prepare_cluster()
    assert (server.data / "global" / "pg_control").exists()
    assert not rest.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has somebody to drop to")
def test_postgres_never_runs_as_root(postgres: EmbeddedPostgres) -> None:
    pid = postgres.process.pid
    assert pid is not None
    assert psutil.Process(pid).uids().effective != 0


def test_a_second_start_keeps_what_runs(postgres: EmbeddedPostgres, settings: Settings) -> None:
    again = components.postgres(settings)
    before = again.process.pid
    assert before is not None
    assert again.start().reused
    assert again.process.pid == before


def test_rows_survive_a_killed_server(settings: Settings, postgres: EmbeddedPostgres) -> None:
    with psycopg.connect(settings.postgres.conninfo("warehouse")) as connection:
        connection.execute("create table survives (n int)")
        connection.execute("insert into survives values (7)")
    pid = postgres.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    restarted = components.postgres(settings).start()
    assert not restarted.reused
    with psycopg.connect(settings.postgres.conninfo("warehouse")) as connection:
        assert connection.execute("select n from survives").fetchall() == [(7,)]


def works(process: psutil.Process) -> bool:
    """Return whether a process is more than a zombie that nobody has reaped."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_killed_server_starts_again_while_one_of_its_sessions_still_ends(
    settings: Settings, postgres: EmbeddedPostgres
) -> None:
    busy = psycopg.connect(settings.postgres.conninfo("warehouse"), autocommit=True)
    # A session that computes does not look whether its server lives.
    busy.pgconn.send_query(b"select sum(n) from generate_series(1, 10000000) as n")
    busy.pgconn.flush()
    session = psutil.Process(busy.info.backend_pid)
    pid = postgres.process.pid
    assert pid is not None
    sleep_s(0.2)
    os.kill(pid, signal.SIGKILL)
    assert works(session)
    assert not components.postgres(settings).start().reused
    assert not works(session)
    busy.close()


def test_a_store_killed_and_restarted_still_has_its_objects(
    settings: Settings, store: SeaweedFS
) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client(
        "s3",
        endpoint_url=settings.lake.endpoint_url,
        region_name=settings.lake.region,
        aws_access_key_id=settings.lake.access_key.get_secret_value(),
        aws_secret_access_key=settings.lake.secret_key.get_secret_value(),
        config=Config(s3={"addressing_style": "path"}, connect_timeout=5, read_timeout=10),
    )
    client.create_bucket(Bucket="survives")
    client.put_object(Bucket="survives", Key="k", Body=b"seven")
    pid = store.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    components.seaweedfs(settings).start()
    assert client.get_object(Bucket="survives", Key="k")["Body"].read() == b"seven"


def test_stopping_leaves_no_process_of_the_session(settings: Settings) -> None:
    other = settings.model_copy(update={"home": settings.home.parent / "short-lived"})
    server = components.postgres(prepare(other.home, usual_ports=False))
    server.start()
    leader = server.process.pid
    assert leader is not None
    assert server.stop()
    remaining = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == leader and process.status() != psutil.STATUS_ZOMBIE:
                remaining.append(process.pid)
        except ProcessLookupError:
            continue
    assert remaining == []
    assert server.process.pid is None


def test_a_failing_start_names_the_log_and_the_last_words(
    settings: Settings, postgres: EmbeddedPostgres, scratch_root: Path
) -> None:
    taken = settings.model_copy(update={"home": scratch_root / "port-taken"})
    rival = components.postgres(taken)
    with pytest.raises(SourceUnavailable, match="Address already in use") as caught:
        rival.start()
    assert caught.value.where == str(scratch_root / "port-taken" / "logs" / "postgres.log")
    assert rival.process.pid is None
