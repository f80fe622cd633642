"""The environment that platform processes get: ours, without what a shell may have leaked in.

What does not belong: settings of Airflow (``airflow`` module) or of one program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from marketlake.settings import PROJECT_ROOT, Settings

_NEVER_INHERITED = ("AIRFLOW", "AWS_", "DBT_", "OPENLINEAGE_", "PG", "PYTHON", "VIRTUAL_ENV")
_NETWORK = {
    "ALL_PROXY", "CURL_CA_BUNDLE", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR", "SSL_CERT_FILE",
}  # fmt: skip
_LOOPBACK = "127.0.0.1,localhost"


def component_environment(
    settings: Settings, inherited: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Return the environment for a platform process.

    A developer's AWS profile must never decide which store the lake is, nor a corporate proxy
    stand between us and the loopback interface. In live mode the shell's proxy and certificates
    stay: calls that leave the house may need them.
    """
    env = {
        name: value
        for name, value in (os.environ if inherited is None else inherited).items()
        if not name.startswith(_NEVER_INHERITED)
        and (settings.mode == "live" or name.upper() not in _NETWORK)
    }
    return env | {
        "MARKETLAKE_HOME": str(settings.home),
        "NO_PROXY": _LOOPBACK,
        "no_proxy": _LOOPBACK,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "KERAS_BACKEND": "jax",
    }
