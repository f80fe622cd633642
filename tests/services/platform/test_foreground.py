"""Components that run alone, as in a container: other addresses, no supervision, no other file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import httpx
import psutil
import psycopg
import pytest
from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import NotFound
from marketlake.services.platform import airflow, components, foreground
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.ports import free_ports
from marketlake.services.platform.postgres import create_databases
from marketlake.services.platform.runtime import prepare, sandbox_egress
from marketlake.settings import Settings

MARKETLAKE = str(Path(sys.executable).parent / "marketlake")
Start: TypeAlias = Callable[[str], "subprocess.Popen[bytes]"]


def secret(settings: Settings, section: str, name: str) -> str:
    value: str = getattr(getattr(settings, section), name).get_secret_value()
    return value


@pytest.fixture
def container(
    tmp_path: Path, storage_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """Return the settings of components that know only an environment, as set now.

    Clients use a host's name, servers listen on every address; stores are somewhere else.
    """
    ledger, http, tls, proxy, api, broker = free_ports(6)
    stored = storage_settings
    values = {
        "HOME": str(tmp_path / "a home"),
        "POSTGRES__PORT": str(stored.postgres.port),
        "POSTGRES__PASSWORD": secret(stored, "postgres", "password"),
        "POSTGRES__AIRFLOW_DB": "airflow_of_containers",
        "POSTGRES__WAREHOUSE_DB": "warehouse_of_containers",
        "POSTGRES__LEDGER_DB": "ledger_of_containers",
        "LAKE__ENDPOINT_URL": stored.lake.endpoint_url,
        "LAKE__ACCESS_KEY": secret(stored, "lake", "access_key"),
        "LAKE__SECRET_KEY": secret(stored, "lake", "secret_key"),
        "LAKE__BUCKET": "lake-of-containers",
        "LAKE__WORM_BUCKET": "worm-of-containers",
        "LEDGER__HOST": "localhost",
        "LEDGER__BIND_HOST": "0.0.0.0",  # noqa: S104
        "LEDGER__PORT": str(ledger),
        "LEDGER__TOKEN": "a ledger's token",
        "SANDBOX__HOST": "localhost",
        "SANDBOX__BIND_HOST": "0.0.0.0",  # noqa: S104
        "SANDBOX__HTTP_PORT": str(http),
        "SANDBOX__TLS_PORT": str(tls),
        "SANDBOX__PROXY_PORT": str(proxy),
        "SANDBOX__CONTROL_TOKEN": "a sandbox's token",
        "AIRFLOW__BASE_URL": f"http://localhost:{api}",
        "AIRFLOW__PUBLIC_URL": "https://marketlake.example",
        "AIRFLOW__BIND_HOST": "0.0.0.0",  # noqa: S104
        "AIRFLOW__EXECUTOR": "celery",
        "AIRFLOW__WORKERS": "1",
        "AIRFLOW__BROKER_URL": f"redis://127.0.0.1:{broker}/0",
        "AIRFLOW__BROKER_PASSWORD": 'a "broker\'s" password',
        "AIRFLOW__PASSWORD": "a login",
        "AIRFLOW__JWT_SECRET": "j" * 96,
        "AIRFLOW__FERNET_KEY": secret(stored, "airflow", "fernet_key"),
        "MARKET__FIRST_SESSION": "2019-01-02",
    }
    for name, value in values.items():
        monkeypatch.setenv(f"MARKETLAKE_{name}", value)
    return Settings()


@pytest.fixture
def start(container: Settings) -> Iterator[Start]:
    """Yield what starts a component; all that run are killed at the end."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(name: str) -> subprocess.Popen[bytes]:
        log = container.home.parent / f"{name}.log"
        with log.open("wb") as output:
            one = subprocess.Popen(
                [MARKETLAKE, "component", name],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        running.append(one)
        return one

    yield begin
    for one in running:
        if one.poll() is None:
            os.killpg(one.pid, signal.SIGKILL)
            one.wait(timeout=30)


def answer_of_probe(name: str) -> int:
    argv = [MARKETLAKE, "component", name, "--probe"]
    return subprocess.run(argv, cwd="/", check=False, timeout=60, capture_output=True).returncode


def await_ready(name: str, process: subprocess.Popen[bytes], log_folder: Path) -> None:
    deadline = monotonic_s() + 120
    while answer_of_probe(name) != 0:
        words = (log_folder / f"{name}.log").read_text(errors="replace")[-3000:]
        assert process.poll() is None, words
        assert monotonic_s() < deadline, words
        sleep_s(0.5)


def ends_after_a_signal(process: subprocess.Popen[bytes]) -> int:
    process.send_signal(signal.SIGTERM)
    return process.wait(timeout=60)


def test_an_unknown_component_is_named_with_those_there_are(container: Settings) -> None:
    with pytest.raises(NotFound, match="scheduler, triggerer, worker"):
        foreground.run("postgres", container)


def test_calls_inside_never_go_through_a_proxy(container: Settings) -> None:
    environment = airflow.airflow_environment(
        container.model_copy(
            update={"lake": container.lake.model_copy(update={"endpoint_url": "http://minio:9000"})}
        )
    )
    assert environment["NO_PROXY"] == "127.0.0.1,localhost,minio"


def test_browsers_and_tasks_may_know_the_api_server_by_different_addresses(
    container: Settings,
) -> None:
    environment = airflow.airflow_environment(container)
    assert environment["AIRFLOW__API__BASE_URL"] == "https://marketlake.example"
    inside = environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"]
    assert inside == f"{container.airflow.base_url}/execution/"


def test_ledger_and_sandbox_listen_everywhere_and_end_at_a_signal(
    container: Settings, start: Start
) -> None:
    create_databases(container.postgres)
    assert answer_of_probe("ledger") == 1
    processes = {name: start(name) for name in ("ledger", "sandbox")}
    for name, process in processes.items():
        await_ready(name, process, container.home.parent)
        assert "component" not in psutil.Process(process.pid).cmdline()  # it became the program
    listening = {
        one.laddr.port: one.laddr.ip
        for process in processes.values()
        for one in psutil.Process(process.pid).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    ports = (container.ledger.port, container.sandbox.proxy_port, container.sandbox.http_port)
    assert {listening[port] for port in ports} == {"0.0.0.0"}  # noqa: S104
    egress = sandbox_egress(container, container.sandbox.proxy_port)
    ca_file = Path(egress["MARKETLAKE_EGRESS__CA_BUNDLE"])
    assert ca_file.stat().st_mode & 0o444 == 0o444  # workers are other users' processes
    assert answer_through(egress) == httpx.codes.OK
    assert {name: ends_after_a_signal(process) for name, process in processes.items()} == {
        "ledger": 0,
        "sandbox": 0,
    }


def answer_through(egress: Mapping[str, str]) -> int:
    """Call a vendor as a worker on another machine does: by the proxy's name, trusting its CA."""
    from curl_cffi import requests

    proxy = egress["MARKETLAKE_EGRESS__PROXY_URL"].replace("{session}", "2022-12-27")
    url = "https://query1.finance.yahoo.com/v8/finance/chart/KO?range=5d&interval=1d"
    ca_bundle = egress["MARKETLAKE_EGRESS__CA_BUNDLE"]
    with requests.Session(proxy=proxy, verify=ca_bundle) as session:
        return int(session.get(url, timeout=30).status_code)


@pytest.mark.slow
@pytest.mark.platform
@pytest.mark.timeout(600)
def test_a_platform_of_components_started_one_by_one_schedules_tasks_onto_its_worker(
    container: Settings, start: Start
) -> None:
    broker = components.valkey(container)
    try:
        broker.start()
        assert start("init").wait(timeout=300) == 0
        names = ("ledger", "sandbox", "api-server", "scheduler", "dag-processor", "triggerer")
        processes = {name: start(name) for name in (*names, "worker")}
        for name, process in processes.items():
            await_ready(name, process, container.home.parent)
        with AirflowApi(container.airflow) as api:
            assert set(airflow.POOLS) <= {pool["name"] for pool in api.pools()}
            await_success(api, api.trigger("load_history", conf={"through": "2019-03-01"}))
        carried = (container.home.parent / "worker.log").read_text(errors="replace")
        assert carried.count("succeeded in") >= 3
        order = ("scheduler", "worker", "dag-processor", "triggerer", "api-server")
        assert [ends_after_a_signal(processes[name]) for name in order] == [0] * len(order)
    finally:
        broker.stop()
    with psycopg.connect(container.postgres.conninfo("airflow_of_containers")) as connection:
        rows = connection.execute("select count(*) from celery_taskmeta").fetchone()
    assert rows is not None
    assert rows[0] >= 3


def await_success(api: AirflowApi, run_id: str) -> None:
    deadline = monotonic_s() + 240
    while (state := api.run("load_history", run_id)["state"]) != "success":
        assert state != "failed", api.tasks("load_history", run_id)
        assert monotonic_s() < deadline
        sleep_s(1)


def test_the_brokers_password_may_hold_any_character_and_is_in_no_argument(
    container: Settings,
) -> None:
    broker = components.valkey(container)
    try:
        broker.start()
        assert broker.process.pid is not None
        password = container.airflow.broker_password.get_secret_value()
        assert password not in " ".join(psutil.Process(broker.process.pid).cmdline())
        assert broker.process.program.probe() is None
        worker = airflow.worker(container, "worker-1").process.program
        assert worker.probe() == "no answer from celery@worker-1"
    finally:
        broker.stop()


def test_the_celery_platform_has_a_broker_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(tmp_path, usual_ports=False).airflow.broker_url.endswith(":19379/0")
    monkeypatch.setenv("MARKETLAKE_AIRFLOW__EXECUTOR", "celery")
    chosen = prepare(tmp_path, usual_ports=False).airflow
    assert not chosen.broker_url.endswith(":19379/0")
    assert chosen.broker_url == prepare(tmp_path, usual_ports=False).airflow.broker_url
    assert chosen.broker_password.get_secret_value() in chosen.broker()
