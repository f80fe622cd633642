"""How the kernels of this package are compiled, and where the machine code is kept.

Numba keeps compiled code beside a source file and looks at that file alone when it decides whether
the code is stale; a kernel that calls one of another file would go on running the old one. So the
folder is named by the sources of all kernels together. Code is written to a temporary file and
renamed, so tasks that start at once never read half of it; in a read-only checkout the user's own
cache folder is taken, and where nothing can be written each process compiles for itself.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import config, types

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

KERNEL_MODULES = ("alpha158", "basis", "compiled", "indicators", "nested", "windows")
_HERE = Path(__file__).parent


def _sources() -> str:
    digest = hashlib.sha256()
    for name in KERNEL_MODULES:
        digest.update((_HERE / f"{name}.py").read_bytes())
    return digest.hexdigest()[:16]


def _folder() -> str | None:
    for parent in ("__pycache__", "~/.cache/marketlake"):
        try:
            folder = (_HERE / Path(parent).expanduser()) / f"kernels-{_sources()}"
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError):
            continue
        if os.access(folder, os.W_OK):
            return str(folder)
    return None


CACHE_FOLDER = _folder()


def kernel(function: Kernel) -> Kernel:
    """Compile for float64 IEEE arithmetic, without the GIL and without a thread pool of its own.

    No ``fastmath``: sums keep the order they are written in, or the newest session would differ
    from the history in its last bits. No ``parallel``: its thread pool does not survive a fork.
    """
    compiled = numba.njit(nogil=True, error_model="numpy")(function)
    resolve = compiled.get_call_template

    def resolve_for_any_number(args: tuple[Any, ...], kws: dict[str, Any]) -> Any:
        # Numba would compile a window of 14 and one of 20 each by itself, and what they call.
        return resolve(
            tuple(types.int64 if isinstance(arg, types.IntegerLiteral) else arg for arg in args),
            kws,
        )

    compiled.get_call_template = resolve_for_any_number
    return compiled  # type: ignore[no-any-return]


def entry(function: Kernel) -> Kernel:
    """Compile as :func:`kernel` does, and keep the code: for what Python itself calls."""
    compiled = kernel(function)
    if CACHE_FOLDER is not None:
        before = config.CACHE_DIR
        config.CACHE_DIR = CACHE_FOLDER
        try:
            compiled.enable_caching()  # type: ignore[attr-defined]
        finally:
            config.CACHE_DIR = before
    return compiled
