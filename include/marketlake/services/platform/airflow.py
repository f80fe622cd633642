"""Airflow's processes: api-server, scheduler, workers and the rest, and the migration before them.

Settings that are the same everywhere are in ``airflow.cfg`` at the root of the repository; what
depends on this machine is passed here as ``AIRFLOW__*``. What does not belong: importing airflow.
"""

from __future__ import annotations

import importlib.metadata
import json
import socket
import sys
import threading
from datetime import datetime
from pathlib import Path
from urllib.parse import quote, urlsplit

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError, MarketlakeError, SourceUnavailable
from marketlake.services.platform.airflow_api import AirflowApi
from marketlake.services.platform.components import PlainComponent, python_component
from marketlake.services.platform.environment import component_environment
from marketlake.services.platform.probes import http_probe
from marketlake.services.platform.process import birth_s, last_words, run_to_end, write_private
from marketlake.settings import PROJECT_ROOT, AirflowSettings, PostgresSettings, Settings

POOLS = {
    "yahoo": (4, "calls to Yahoo Finance"),
    "alpha_vantage": (1, "calls to Alpha Vantage, whose plans allow so many a minute in all"),
    "iex": (2, "calls to Alpaca for prices of the IEX exchange"),
    "dbt": (1, "dbt keeps global state and a target folder: one build at a time"),
}
_MIGRATION_TIMEOUT_S = 180
# Their imports alone may take minutes on a machine whose cores are taken by other work.
_READY_WITHIN_S = 300
_PARSE_TIMEOUT_S = 90
_PING_TIMEOUT_S = 3.0
_DAG_FILES = PROJECT_ROOT / "dags"
_IMPORTING = threading.Lock()
"""celery replaces itself while it is imported; a second thread would see it half-made."""


def airflow_environment(settings: Settings) -> dict[str, str]:
    """Return the environment in which every ``airflow`` command must run."""
    home = settings.home / "airflow"
    base_url = settings.airflow.base_url
    address = urlsplit(base_url)
    environment = component_environment(settings) | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW_CONFIG": str(PROJECT_ROOT / "airflow.cfg"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_DAG_FILES),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT_ROOT / "plugins"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{base_url}/execution/",
        "AIRFLOW__CORE__FERNET_KEY": settings.airflow.fernet_key.get_secret_value(),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{settings.airflow.user}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file(settings)),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": _database_url(settings.postgres),
        "AIRFLOW__API__BASE_URL": settings.airflow.public_url or base_url,
        "AIRFLOW__API__HOST": settings.airflow.bind_host or address.hostname or "127.0.0.1",
        "AIRFLOW__API__PORT": str(address.port or 80),
        "AIRFLOW__API__SECRET_KEY": settings.airflow.jwt_secret.get_secret_value(),
        "AIRFLOW__API_AUTH__JWT_SECRET": settings.airflow.jwt_secret.get_secret_value(),
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(settings.home / "logs" / "tasks"),
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(
            settings.home / "logs" / "parsing"
        ),
    }
    return environment | (_celery(settings) if settings.airflow.executor == "celery" else {})


def _celery(settings: Settings) -> dict[str, str]:
    airflow = settings.airflow
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": str(airflow.workers * airflow.worker_tasks),
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(airflow.worker_tasks),
        "AIRFLOW__CELERY__BROKER_URL": airflow.broker(),
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{_database_url(settings.postgres)}",
        # What a killed worker or broker had taken is queued again after this, not after 600 s.
        # Nothing else waits so long: the scheduler queues no more than the workers run at once.
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "120",
    }


def _database_url(postgres: PostgresSettings) -> str:
    user = quote(postgres.user, safe="")
    password = quote(postgres.password.get_secret_value(), safe="")
    address = f"{postgres.host}:{postgres.port}/{postgres.airflow_db}"
    return f"postgresql+psycopg2://{user}:{password}@{address}"


def password_file(settings: Settings) -> Path:
    """Return the file from which Airflow reads the admin's password."""
    return settings.home / "airflow" / "simple_auth_passwords.json"


def migrate(settings: Settings) -> bool:
    """Bring Airflow's database to this version; return whether there was anything to do.

    A stamp beside the database's own files remembers the version: asking Airflow costs seconds.
    """
    write_login(settings)
    version = importlib.metadata.version("apache-airflow-core")
    stamp = settings.home / "airflow" / "migrated-to"
    if stamp.exists() and stamp.read_text() == version:
        return False
    upgrade_database(settings)
    stamp.write_text(version)
    return True


def upgrade_database(settings: Settings) -> None:
    """Run ``airflow db migrate``; it does nothing to a database of this version."""
    _command(settings, "migrate", "db", "migrate", expected="Airflow's database migrated")


def import_pools(settings: Settings) -> None:
    """Make the pools in the database itself, where no api-server runs yet."""
    file = settings.home / "airflow" / "pools.json"
    pools = {
        name: {"slots": slots, "description": description, "include_deferred": True}
        for name, (slots, description) in POOLS.items()
    }
    write_private(file, json.dumps(pools))
    _command(settings, "pools", "pools", "import", str(file), expected="Airflow's pools made")


def _command(settings: Settings, log_name: str, *arguments: str, expected: str) -> None:
    log = settings.home / "logs" / f"{log_name}.log"
    code = run_to_end(
        [sys.executable, "-m", "airflow", *arguments],
        env=airflow_environment(settings),
        cwd=settings.home,
        log=log,
        within_s=_MIGRATION_TIMEOUT_S,
    )
    if code != 0:
        raise SourceUnavailable(
            expected=expected,
            was=f"exit code {code}: {last_words(log)}",
            where=str(log),
            todo="read that log; `marketlake clean` forgets the database",
        )


def write_login(settings: Settings) -> None:
    """Write the file from which the api-server learns the admin's password."""
    login = {settings.airflow.user: settings.airflow.password.get_secret_value()}
    write_private(password_file(settings), json.dumps(login))


def api_server(settings: Settings) -> PlainComponent:
    """Return the REST API, the UI and the interface of running tasks."""
    return python_component(
        "api-server",
        settings,
        "airflow",
        "api-server",
        # The second answer is made at its first use, for seconds in which nothing else is heard.
        probe=lambda: (
            http_probe(f"{settings.airflow.base_url}/api/v2/monitor/health")
            or http_probe(f"{settings.airflow.base_url}/execution/health")
        ),
        env=airflow_environment(settings),
        ready_within_s=_READY_WITHIN_S,
        prepare=lambda: write_login(settings),
    )


def scheduler(settings: Settings) -> PlainComponent:
    """Return the scheduler, whose executor runs the tasks; it waits for the migration itself."""
    return python_component(
        "scheduler",
        settings,
        "marketlake.orchestration.scheduler",
        "--skip-serve-logs",  # the api-server reads the same folder
        probe=lambda: _heartbeat_probe(settings, "scheduler"),
        env=airflow_environment(settings),
        stop_grace_s=45,  # the executor gives running tasks 30 s
        ready_within_s=_READY_WITHIN_S,
    )


def dag_processor(settings: Settings) -> PlainComponent:
    """Return the process that parses the DAG files."""
    return python_component(
        "dag-processor",
        settings,
        "airflow",
        "dag-processor",
        probe=lambda: _heartbeat_probe(settings, "dag-processor"),
        env=airflow_environment(settings),
        ready_within_s=_READY_WITHIN_S,
    )


def triggerer(settings: Settings) -> PlainComponent:
    """Return the process that waits on behalf of deferred tasks; no DAG of ours has any yet."""
    return python_component(
        "triggerer",
        settings,
        "airflow",
        "triggerer",
        "--skip-serve-logs",
        probe=lambda: _heartbeat_probe(settings, "triggerer"),
        env=airflow_environment(settings),
        ready_within_s=_READY_WITHIN_S,
    )


def worker(settings: Settings, name: str | None = None) -> PlainComponent:
    """Return a Celery worker; ``name`` tells those of one machine apart."""
    node = name or socket.gethostname()
    return python_component(
        name or "worker",
        settings,
        "marketlake.orchestration.worker",
        "--skip-serve-logs",
        "--celery-hostname",
        node,
        probe=lambda: _worker_probe(settings.airflow, f"celery@{node}"),
        env=airflow_environment(settings),
        stop_grace_s=45,  # as long as the scheduler's own executor gives running tasks
        ready_within_s=_READY_WITHIN_S,
    )


def create_pools(settings: Settings) -> None:
    """Make the pools that bound calls to vendors and to dbt."""
    with AirflowApi(settings.airflow) as api:
        for name, (slots, description) in POOLS.items():
            api.ensure_pool(name, slots=slots, description=description)


def wait_for_dags(settings: Settings) -> int:
    """Wait until every DAG file has been parsed by the running dag-processor; return how many.

    Raises
    ------
    ConfigError
        At once when a file cannot be imported; the message has its last line.
    """
    wanted = {path.stem for path in _DAG_FILES.glob("*.py") if not path.stem.startswith("_")}
    since = birth_s(settings.home / "run" / "dag-processor.json") or 0.0
    deadline = monotonic_s() + _PARSE_TIMEOUT_S
    missing = wanted
    with AirflowApi(settings.airflow) as api:
        while monotonic_s() < deadline:
            for broken in api.import_errors():
                if _instant_s(broken["timestamp"]) >= since:
                    raise _import_failed(broken)
            parsed = api.dags()
            fresh = {k for k, dag in parsed.items() if _instant_s(dag["last_parsed_time"]) >= since}
            missing = wanted - fresh
            if not missing:
                return len(wanted)
            sleep_s(0.3)
    raise SourceUnavailable(
        expected=f"every DAG file parsed within {_PARSE_TIMEOUT_S} s",
        was=f"not seen: {', '.join(sorted(missing))}",
        where=str(settings.home / "logs" / "dag-processor.log"),
        todo="read that log",
    )


def _import_failed(broken: dict[str, str]) -> ConfigError:
    lines = [line for line in str(broken["stack_trace"]).splitlines() if line.strip()]
    return ConfigError(
        expected="a DAG file that can be imported",
        was=lines[-1].strip() if lines else "an import error without a trace",
        where=str(broken["filename"]),
        todo="correct the file; the dag-processor reads it again by itself",
    )


def _heartbeat_probe(settings: Settings, component: str) -> str | None:
    """Ask for a heartbeat that is younger than the process: an old one may still look healthy."""
    pid_file = settings.home / "run" / f"{component}.json"
    name = component.replace("-", "_")
    try:
        with AirflowApi(settings.airflow) as api:
            answer = api.health()[name]
    except MarketlakeError as error:
        return str(error)
    beat = answer.get(f"latest_{name}_heartbeat")
    if answer.get("status") != "healthy" or beat is None:
        return f"health is {answer.get('status')}"
    born = birth_s(pid_file)
    if pid_file.exists() and (born is None or _instant_s(beat) < born):
        return "no heartbeat of this process yet"
    return None


def _worker_probe(settings: AirflowSettings, node: str) -> str | None:
    """Ask the worker itself, through the broker."""
    with _IMPORTING:
        from celery import Celery  # type: ignore[import-untyped]
        from kombu.exceptions import OperationalError

    with Celery(broker=settings.broker()) as app, app.connection_for_write() as connection:
        try:
            answers = app.control.ping([node], _PING_TIMEOUT_S, connection=connection)
        except (OperationalError, *connection.connection_errors) as error:
            return f"the broker does not answer: {type(error).__name__}"
    return None if answers else f"no answer from {node}"


def _instant_s(text: str | None) -> float:
    return 0.0 if text is None else datetime.fromisoformat(text).timestamp()
