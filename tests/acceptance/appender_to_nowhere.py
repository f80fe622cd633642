"""An appender that answers every caller at once and keeps nothing.

It speaks the ledger's protocol on the ledger's port, so that tasks send every entry as ever.
``python -m`` this module runs it.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from marketlake.services.ledger_appender import Appender
from marketlake.settings import Settings, load_settings
from marketlake.storage.ledger import Checkpoint

Message = dict[str, Any]
_NOTHING = Checkpoint(0, "", "1970-01-01T00:00:00+00:00")


class AppenderToNowhere(Appender):
    """The real server's sockets and protocol, with no log behind them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._operations: Mapping[str, Callable[[Message], Message]] = {
            "append": _receipts,
            "checkpoint": lambda request: {"checkpoint": asdict(_NOTHING)},
            "checkpoints": lambda request: {"checkpoints": []},
            "last_key": lambda request: {"key": None},
            "ping": lambda request: {},
            "rows": lambda request: {"rows": []},
        }

    async def serve(self) -> None:
        """Answer until stopped."""
        await self._answer_until_stopped()


def _receipts(request: Message) -> Message:
    return {"answers": [{"receipts": [(0, "")] * len(one)} for one in request["requests"]]}


async def _run() -> None:
    appender = AppenderToNowhere(load_settings())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, appender.stop)
    await appender.serve()


if __name__ == "__main__":
    asyncio.run(_run())
