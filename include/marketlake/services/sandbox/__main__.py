"""Run the sandbox until SIGTERM: ``python -m marketlake.services.sandbox``."""

from __future__ import annotations

import asyncio
import logging
import signal

from marketlake.services.sandbox.server import Sandbox
from marketlake.settings import Settings, load_settings


async def _serve(settings: Settings) -> None:
    sandbox = Sandbox(settings)
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await sandbox.start()
    try:
        await stopped.wait()
    finally:
        await sandbox.stop()


def main() -> None:
    """Serve with the settings of this process's environment."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    asyncio.run(_serve(load_settings()))


if __name__ == "__main__":
    main()
