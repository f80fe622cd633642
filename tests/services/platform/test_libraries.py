"""Libraries of the operating system that a wheel needs."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest
from marketlake.errors import ConfigError
from marketlake.services.platform.libraries import SYSTEM_LIBRARIES, require_system_libraries


def test_a_missing_library_is_named_with_its_package() -> None:
    with pytest.raises(ConfigError, match=r"libabsent\.so\.9") as caught:
        require_system_libraries({"libabsent.so.9": "libabsent9"})
    assert caught.value.todo == "install the package libabsent9"


def test_what_lightgbm_links_beyond_the_c_library_is_asked_for() -> None:
    linked = Path(sysconfig.get_path("purelib")) / "lightgbm" / "lib" / "lib_lightgbm.so"
    strings = linked.read_bytes().split(b"\0")
    libraries = {text.decode() for text in strings if text.startswith(b"lib") and b".so." in text}
    ordinary = {"libc", "libdl", "libgcc_s", "libm", "libpthread", "libstdc++"}
    assert {name for name in libraries if name.split(".so")[0] not in ordinary} == set(
        SYSTEM_LIBRARIES
    )
    require_system_libraries()
