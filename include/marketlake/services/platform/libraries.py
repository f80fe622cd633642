"""Shared libraries of the operating system that the wheels need and do not bring.

What does not belong: Python packages (``requirements.txt``).
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from marketlake.errors import ConfigError

# LightGBM links the system's OpenMP; the copies inside other wheels carry another name.
SYSTEM_LIBRARIES = {"libgomp.so.1": "libgomp1 (Debian, Ubuntu) or libgomp (Fedora)"}


def require_system_libraries(packages: Mapping[str, str] = SYSTEM_LIBRARIES) -> None:
    """Raise ConfigError naming the package of the first library that cannot be loaded."""
    for library, package in packages.items():
        try:
            ctypes.CDLL(library)
        except OSError as error:
            raise ConfigError(
                expected=f"the shared library {library}",
                was=str(error),
                where="the operating system",
                todo=f"install the package {package}",
            ) from error
