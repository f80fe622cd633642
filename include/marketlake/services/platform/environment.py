"""The environment that platform processes get: ours, without what a shell may have leaked in.

What does not belong: settings of Airflow (``airflow`` module) or of one program.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from marketlake.settings import PROJECT_ROOT, Settings

_NEVER_INHERITED = ("AIRFLOW", "AWS_", "DBT_", "OPENLINEAGE_", "PG", "PYTHON", "VIRTUAL_ENV")
_NETWORK = {
    "ALL_PROXY", "CURL_CA_BUNDLE", "FTP_PROXY", "HTTPS_PROXY", "HTTP_PROXY", "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR", "SSL_CERT_FILE",
}  # fmt: skip


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
    inside = _own_hosts(settings)
    return env | {
        "MARKETLAKE_HOME": str(settings.home),
        "NO_PROXY": inside,
        "no_proxy": inside,
        "PYTHONPATH": str(PROJECT_ROOT / "include"),
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "DO_NOT_TRACK": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "KERAS_BACKEND": "jax",
    }


def _own_hosts(settings: Settings) -> str:
    """Return the hosts that no proxy may stand before, in the form of ``NO_PROXY``."""
    urls = (settings.lake.endpoint_url, settings.airflow.base_url)
    named = [*(urlsplit(url).hostname for url in urls), settings.sandbox.host]
    return ",".join(dict.fromkeys(["127.0.0.1", "localhost", *filter(None, named)]))
