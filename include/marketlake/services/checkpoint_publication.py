"""Carries the ledger's signed checkpoints out of the database, within a second of a commit.

Whoever owns the database could rewrite entries and checkpoints together; what has been published
to a file and to an object-locked bucket says what the log was. What does not belong here: signing
(``ledger_log``), and holding the log against what was published (``readmodels/audit``).
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass

from marketlake.clock import monotonic_s, sleep_s
from marketlake.errors import MarketlakeError, SourceUnavailable
from marketlake.storage.checkpoints import PublishedCheckpoints, SignedCheckpoint
from marketlake.storage.proof.checkpoint import Checkpoint

_DELAY_S = 0.5
_RETRY_S = 1.0
_CLOSE_WITHIN_S = 5.0

logger = logging.getLogger("marketlake.ledger_appender")


@dataclass(frozen=True)
class _Pending:
    """The newest checkpoint that is not published, and since when there has been one."""

    newest: SignedCheckpoint
    since_s: float


class CheckpointPublisher:
    """Publishes the newest checkpoint from a thread of its own; commits do not wait for it.

    Several commits within the delay share one publication: the later checkpoint covers the
    earlier ones. ``published`` is what both places are known to hold.
    """

    def __init__(
        self, places: PublishedCheckpoints, limit_s: float, *, published: Checkpoint | None = None
    ) -> None:
        self._places = places
        self._limit_s = limit_s
        self._changed = threading.Condition()
        self._pending: _Pending | None = None
        self._last = published
        self._closing = False
        self._fault: str | None = None
        self._thread = threading.Thread(target=self._run, name="ledger-publish", daemon=True)
        self._thread.start()

    def committed(self, signed: SignedCheckpoint) -> None:
        """Take note of a commit, or of one from before; it is published within a second."""
        with self._changed:
            if self._pending is None and signed.checkpoint == self._last:
                return  # nothing is new
            since_s = self._pending.since_s if self._pending else monotonic_s()
            self._pending = _Pending(signed, since_s)
            self._changed.notify()

    def require_published(self) -> None:
        """Raise SourceUnavailable when the newest commits have been unpublished for too long."""
        pending = self._pending
        if pending is None or monotonic_s() - pending.since_s <= self._limit_s:
            return
        raise SourceUnavailable(
            expected=f"checkpoints published within {self._limit_s:g} s",
            was=self._fault or "none",
            where="ledger appender",
            todo="bring back the lake store and room on the disk; the appender goes on by itself",
        )

    def close(self) -> None:
        """Publish what is left, and stop; what cannot be published now is at the next start."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._closing)
                if self._pending is None:
                    return
                # Meanwhile later commits may come; closing does not wait for any.
                self._changed.wait_for(lambda: self._closing, timeout=_DELAY_S)
                taken = self._pending
            if self._published(taken.newest):
                with self._changed:
                    self._last = taken.newest.checkpoint
                    if self._pending is taken:
                        self._pending = None
                    else:
                        self._pending = _Pending(self._pending.newest, monotonic_s())
            elif self._closing:
                return
            else:
                sleep_s(_RETRY_S)

    def _published(self, signed: SignedCheckpoint) -> bool:
        try:
            self._places.publish(signed)
        except (MarketlakeError, OSError) as error:
            if str(error) != self._fault:
                logger.error("a checkpoint could not be published: %s", error)
            self._fault = str(error)
            return False
        self._fault = None
        return True
