"""Ports and generated secrets of one platform: chosen once, kept in ``runtime.env``.

Whoever chooses, starts or stops holds the folder's lock (``alone``) meanwhile.

What does not belong: settings that a person chooses; those stay in the environment.
"""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from dotenv import dotenv_values

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import ConfigError
from marketlake.services.platform.market import market_of
from marketlake.services.platform.ports import Claims, free_ports
from marketlake.services.platform.process import living_or_ended, write_private
from marketlake.services.signing_key import public_key
from marketlake.settings import Settings, load_settings

_PORT_OWNERS = {
    "MARKETLAKE_LAKE__ENDPOINT_URL": "seaweedfs",
    "MARKETLAKE_POSTGRES__PORT": "postgres",
    "MARKETLAKE_LEDGER__PORT": "ledger",
    "MARKETLAKE_SANDBOX__HTTP_PORT": "sandbox",
    "MARKETLAKE_SANDBOX__TLS_PORT": "sandbox",
    "MARKETLAKE_SANDBOX__PROXY_PORT": "sandbox",
    "MARKETLAKE_AIRFLOW__BASE_URL": "api-server",
    "MARKETLAKE_AIRFLOW__BROKER_URL": "valkey",
}
_FORMS = {
    "MARKETLAKE_LAKE__ENDPOINT_URL": "http://127.0.0.1:{}",
    "MARKETLAKE_AIRFLOW__BASE_URL": "http://127.0.0.1:{}",
    "MARKETLAKE_AIRFLOW__BROKER_URL": "redis://127.0.0.1:{}/0",
}
_EGRESS = ("MARKETLAKE_EGRESS__PROXY_URL", "MARKETLAKE_EGRESS__CA_BUNDLE")
_LOCK = "platform.lock"
_LOCK_WAIT_S = 300


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Let one command at a time choose, start or stop things in a state folder."""
    if not (home / _LOCK).exists():
        try:
            require_own(home)  # before anything is left in somebody else's folder
        except ConfigError:
            # A platform's own files: another command began meanwhile, and made the lock first.
            if not (home / _LOCK).exists():
                raise
    home.mkdir(parents=True, exist_ok=True)
    deadline = monotonic_s() + _LOCK_WAIT_S
    with (home / _LOCK).open("w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if monotonic_s() > deadline:
                    raise ConfigError(
                        expected="no other command starting or stopping this platform",
                        was=f"one has been at it for {_LOCK_WAIT_S} s",
                        where=str(home / _LOCK),
                        todo="wait for it, or end it",
                    ) from None
                sleep_s(0.2)
        yield


def require_own(home: Path) -> None:
    """Raise ConfigError for a folder of somebody else's files: `clean` deletes all of it."""
    if (home / "runtime.env").exists() or not home.exists():
        return
    foreign = sorted({path.name for path in home.iterdir()} - {_LOCK})
    if foreign:
        raise ConfigError(
            expected="an empty folder, or one that a platform has made (it has a runtime.env)",
            was=f"{len(foreign)} other files and folders, such as {foreign[0]}",
            where=str(home),
            todo="set MARKETLAKE_HOME to an empty or a new folder",
        )


def prepare(home: Path, *, usual_ports: bool = True, claims: Claims | None = None) -> Settings:
    """Choose what is still open (ports, secrets), write it down, return the settings.

    A port that is taken by somebody else is replaced; one that our own running component holds
    is kept. With ``usual_ports`` off the first choice is any free port. Who goes on to start
    programs passes ``claims``, and keeps them until the programs listen.
    """
    if claims is None:
        with Claims() as brief:
            return prepare(home, usual_ports=usual_ports, claims=brief)
    home = home.resolve()
    require_own(home)
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        home.chmod(home.stat().st_mode | 0o011)  # Postgres's user passes through it
    settings = load_settings(home)
    living = {path.stem for path in (home / "run").glob("*.json") if living_or_ended(path)}
    known = _known(settings.runtime_env)
    chosen = market_of(settings, known) | _secrets(settings) | _pinned_key(settings)
    chosen |= _addresses(settings, known, living, claims, usual_ports=usual_ports)
    kept = {name: value for name, value in known.items() if name not in _EGRESS}
    values = kept | chosen
    port = values.get("MARKETLAKE_SANDBOX__PROXY_PORT", settings.sandbox.proxy_port)
    values |= sandbox_egress(settings, port)
    text = "".join(f"{name}='{_quoted(value)}'\n" for name, value in sorted(values.items()))
    if values != known:
        write_private(settings.runtime_env, text)
    return load_settings(home)


def _known(path: Path) -> dict[str, str]:
    return {k: v for k, v in dotenv_values(path).items() if v is not None} if path.exists() else {}


def _quoted(value: str) -> str:
    return value.replace("\\", "\\\\").replace("'", "\\'")


def _secrets(settings: Settings) -> dict[str, str]:
    fresh: Mapping[str, tuple[str, Callable[[], str]]] = {
        "LAKE__ACCESS_KEY": (settings.lake.access_key.get_secret_value(), _token),
        "LAKE__SECRET_KEY": (settings.lake.secret_key.get_secret_value(), _token),
        "POSTGRES__PASSWORD": (settings.postgres.password.get_secret_value(), _token),
        "LEDGER__TOKEN": (settings.ledger.token.get_secret_value(), _token),
        "SANDBOX__CONTROL_TOKEN": (settings.sandbox.control_token.get_secret_value(), _token),
        "AIRFLOW__BROKER_PASSWORD": (settings.airflow.broker_password.get_secret_value(), _token),
        "AIRFLOW__PASSWORD": (settings.airflow.password.get_secret_value(), _token),
        "AIRFLOW__JWT_SECRET": (settings.airflow.jwt_secret.get_secret_value(), _long_token),
        "AIRFLOW__FERNET_KEY": (settings.airflow.fernet_key.get_secret_value(), _fernet_key),
    }
    return {f"MARKETLAKE_{name}": make() for name, (present, make) in fresh.items() if not present}


def _pinned_key(settings: Settings) -> dict[str, str]:
    """Make the ledger's signing key at the first start, and pin the public half of it."""
    if settings.ledger.public_key is not None:
        return {}
    return {"MARKETLAKE_LEDGER__PUBLIC_KEY": public_key(settings)}


def _token() -> str:
    return secrets.token_hex(16)


def _long_token() -> str:
    return secrets.token_hex(48)


def _fernet_key() -> str:
    return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()


def _addresses(
    settings: Settings,
    known: Mapping[str, str],
    living: Set[str],
    claims: Claims,
    *,
    usual_ports: bool,
) -> dict[str, str]:
    current = {
        "MARKETLAKE_LAKE__ENDPOINT_URL": urlsplit(settings.lake.endpoint_url).port or 0,
        "MARKETLAKE_POSTGRES__PORT": settings.postgres.port,
        "MARKETLAKE_LEDGER__PORT": settings.ledger.port,
        "MARKETLAKE_SANDBOX__HTTP_PORT": settings.sandbox.http_port,
        "MARKETLAKE_SANDBOX__TLS_PORT": settings.sandbox.tls_port,
        "MARKETLAKE_SANDBOX__PROXY_PORT": settings.sandbox.proxy_port,
        "MARKETLAKE_AIRFLOW__BASE_URL": urlsplit(settings.airflow.base_url).port or 0,
    }
    if settings.airflow.executor == "celery":
        current["MARKETLAKE_AIRFLOW__BROKER_URL"] = urlsplit(settings.airflow.broker_url).port or 0
    # A spare one may be claimed by a platform that is starting; not three for each we need.
    spare = iter(port for port in free_ports(3 * len(current)) if claims.take(port))
    chosen = {}
    for name, port in current.items():
        if name in os.environ:
            continue  # a person's choice stands
        ours = _PORT_OWNERS[name] in living
        first_choice = usual_ports or name in known
        if not (ours and name in known) and not (first_choice and claims.take(port)):
            port = next(spare)
        chosen[name] = _FORMS.get(name, "{}").format(port)
    return chosen


def sandbox_egress(settings: Settings, proxy_port: int | str) -> dict[str, str]:
    """Return how vendor calls reach the sandbox; nothing in live mode."""
    if settings.mode == "live":
        return {}
    return {
        "MARKETLAKE_EGRESS__PROXY_URL": f"http://{{session}}@{settings.sandbox.host}:{proxy_port}",
        "MARKETLAKE_EGRESS__CA_BUNDLE": str(settings.home / "sandbox" / "ca.pem"),
    }
