"""A platform of its own for measuring, brought to the state that a measurement starts from."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from marketlake.clock import monotonic_s

from tests.acceptance.figures import say
from tests.integration.conftest import Installation


@contextmanager
def installation(
    home: Path | None,
    *,
    first_session: str | None = None,
    market: Mapping[str, str] | None = None,
) -> Iterator[Installation]:
    """Yield a platform in ``home``, which is kept, or in a scratch folder; it is stopped after.

    ``market`` has settings of another market than the packaged one.
    """
    # What a shell exports must not change a figure.
    for name in [name for name in os.environ if name.startswith(("MARKETLAKE_", "AIRFLOW_"))]:
        del os.environ[name]
    os.environ["MARKETLAKE_ENV_FILE"] = os.devnull
    chosen = dict(market or {})
    if first_session:
        chosen["MARKETLAKE_MARKET__FIRST_SESSION"] = first_session
    os.environ.update(chosen)
    scratch = None
    if home is None:
        scratch = Path(tempfile.mkdtemp(prefix="marketlake-acceptance-"))
        scratch.chmod(0o711)  # where Postgres runs as another user
    one = Installation((home or scratch or Path()).resolve() / "platform", tuple(chosen.items()))
    try:
        yield one
    finally:
        for fault in one.stop():
            say(f"[red]{fault}[/]")
        if scratch is not None:
            shutil.rmtree(scratch)


def told(one: Installation, *arguments: str, timeout_s: float = 1800) -> str:
    """Run a command of the platform, say how long it took, return what it printed."""
    began = monotonic_s()
    printed = one.must(*arguments, timeout_s=timeout_s)
    say(f"marketlake {' '.join(arguments)}  {monotonic_s() - began:.1f} s")
    return printed


def begun(one: Installation, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
    """Start a command of the platform beside this program; its output replaces the log."""
    with log.open("wb") as output:
        return subprocess.Popen(
            [str(Path(sys.executable).parent / "marketlake"), *arguments],
            env=one.environment,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
