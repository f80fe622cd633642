"""Deliveries that outlive the process that wanted them. The ledger is the outbox.

A message is first recorded (``notification``), then delivered to each receiver. Before a try its
number is claimed (``notification_try``): the ledger takes a key once, so of two processes that
deliver at the same moment one goes on. Then comes the outcome: ``notified`` or
``notification_failed``. What has no happy end is tried again, each time later, by whoever sweeps
next, until it has been given up. A second copy is possible where the first was not answered in
time, or its sender was killed before it could say so.

What does not belong here: how an address is reached (``receivers``).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from marketlake.clock import monotonic_s, utc_now
from marketlake.errors import ContractViolation, MarketlakeError
from marketlake.notify.message import Message, Severity
from marketlake.notify.receivers import Receiver, addresses_of, receivers
from marketlake.settings import LedgerSettings, NotifySettings
from marketlake.storage.ledger import Entry, LedgerClient, Recorded, redact

log = logging.getLogger(__name__)

MAX_TRIES = 12
GIVE_UP_AFTER = timedelta(hours=24)
_FIRST_WAIT, _LONGEST_WAIT = timedelta(minutes=1), timedelta(hours=6)
_DAG_ID = "notifications"
_READ_AT_MOST = 100_000


@dataclass
class Delivery:
    """One message on its way to one receiver, as far as the ledger knows."""

    message: Message
    receiver: str
    queued_at: datetime
    week: str
    tried_at: list[datetime] = field(default_factory=list)
    settled: bool = False

    @property
    def key(self) -> str:
        """Return what the keys of this delivery's entries begin with."""
        return f"notification/{self.message.id}/{self.receiver}"

    def is_due(self, now: datetime) -> bool:
        """Whether it is time for another try."""
        if self.settled or not self.tried_at:
            return not self.settled
        wait = min(_FIRST_WAIT * (1 << (len(self.tried_at) - 1)), _LONGEST_WAIT)
        return max(self.tried_at) + wait <= now

    def is_last(self, number: int, now: datetime) -> bool:
        """Whether nobody tries again when this try fails."""
        return number >= MAX_TRIES or now - self.queued_at >= GIVE_UP_AFTER


class Outbox:
    """Sends messages to the receivers of the settings; with none configured it does nothing."""

    def __init__(self, settings: NotifySettings, ledger: LedgerSettings) -> None:
        self._settings = settings
        patience_s = min(ledger.timeout_s, settings.timeout_s)
        self._ledger = LedgerClient(ledger.model_copy(update={"timeout_s": patience_s}))

    @property
    def is_configured(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(addresses_of(self._settings))

    def notify(self, message: Message) -> None:
        """Keep a message, and deliver everything that is due; never raises for want of a ledger.

        A ledger that is down stops the pipeline, and people must hear of that too: then the
        message is sent once, unrecorded.
        """
        if not self.is_configured or not message.severity.reaches(
            Severity(self._settings.minimum_severity)
        ):
            return
        addresses = receivers(self._settings)
        try:
            self._keep(message, addresses)
            self._deliver(utc_now())
        except MarketlakeError as error:
            log.warning("the ledger does not take notifications (%s): sending once", error)
            self._in_parallel([_Once(receiver, message) for receiver in addresses])

    def sweep(self, now: datetime | None = None) -> None:
        """Deliver what is due, if anything is."""
        if not self.is_configured:
            return
        try:
            self._deliver(now or utc_now())
        except MarketlakeError as error:
            log.warning("no sweep of the notifications: %s", error)

    def deliveries(self, now: datetime) -> list[Delivery]:
        """Return the deliveries of this week and the last, oldest first."""
        weeks = (now - timedelta(days=7), now)
        entries: list[Recorded] = []
        for week in weeks:
            entries += self._ledger.entries(dag_id=_DAG_ID, run_id=_week(week), limit=_READ_AT_MOST)
        return _replay(entries)

    def _keep(self, message: Message, addresses: Sequence[Receiver]) -> None:
        message = Message.from_json(redact(message.as_json(), where="a notification"))
        now = utc_now()
        if any(delivery.message.id == message.id for delivery in self.deliveries(now)):
            return
        names = [receiver.name for receiver in addresses]
        self._record(
            f"notification/{message.id}",
            "notification",
            {"message": message.as_json(), "receivers": names},
            week=_week(now),
        )

    def _deliver(self, now: datetime) -> None:
        due = [delivery for delivery in self.deliveries(now) if delivery.is_due(now)]
        if not due:
            return  # before the receivers are built: Apprise takes a second to import
        addresses = receivers(self._settings)
        known = {receiver.name for receiver in addresses}
        for delivery in due:
            if delivery.receiver not in known:
                number = len(delivery.tried_at) + 1
                self.settle(delivery, number, "not among the receivers any more", last=True)
        self._in_parallel(
            [
                _Round(self, receiver, waiting, now)
                for receiver in addresses
                if (waiting := [item for item in due if item.receiver == receiver.name])
            ]
        )

    def _in_parallel(self, rounds: Sequence[_Once | _Round]) -> None:
        """Serve each receiver in a thread of its own; one that hangs is left behind."""
        stop_at = monotonic_s() + self._settings.timeout_s
        threads = [
            threading.Thread(target=round_.run, args=(stop_at,), daemon=True) for round_ in rounds
        ]
        for thread in threads:
            thread.start()
        for thread, round_ in zip(threads, rounds, strict=True):
            thread.join(max(stop_at - monotonic_s(), 0))
            if thread.is_alive():
                round_.abandon(f"no answer within {self._settings.timeout_s:g} s")

    def claim(self, delivery: Delivery, number: int) -> bool:
        """Take a try for this process; return whether nobody else has it."""
        try:
            self._record(
                f"{delivery.key}/{number}",
                "notification_try",
                {**_about(delivery, number), "claim": secrets.token_hex(8)},
                week=delivery.week,
            )
        except ContractViolation:
            return False
        return True

    def settle(self, delivery: Delivery, number: int, reason: str | None, *, last: bool) -> None:
        """Record how a try ended."""
        outcome = {} if reason is None else {"reason": reason, "given_up": last}
        try:
            self._record(
                f"{delivery.key}/{number}/outcome",
                "notified" if reason is None else "notification_failed",
                {**_about(delivery, number), **outcome},
                week=delivery.week,
            )
        except MarketlakeError as error:
            # Also when the other thread of an abandoned try had the first word.
            log.warning("the outcome of %s is not recorded: %s", delivery.key, error)
        if reason is not None:
            log.warning("not delivered to %s: %s", delivery.receiver, reason)

    def _record(self, key: str, kind: str, payload: dict[str, Any], *, week: str) -> None:
        run = {"dag_id": _DAG_ID, "run_id": week}
        self._ledger.append([Entry(key, kind, {**payload, "run": run}, utc_now().isoformat())])


class _Round:
    """One receiver's deliveries, one after the other, up to the first that fails."""

    def __init__(
        self, outbox: Outbox, receiver: Receiver, waiting: Sequence[Delivery], now: datetime
    ) -> None:
        self._outbox = outbox
        self._receiver = receiver
        self._waiting = waiting
        self._now = now
        self._under_way: tuple[Delivery, int, bool] | None = None

    def run(self, stop_at: float) -> None:
        for delivery in self._waiting:
            number = len(delivery.tried_at) + 1
            try:
                if monotonic_s() > stop_at or not self._outbox.claim(delivery, number):
                    continue
            except MarketlakeError as error:
                log.warning("%s waits for the ledger: %s", delivery.key, error)
                return
            last = delivery.is_last(number, self._now)
            self._under_way = (delivery, number, last)
            reason = self._receiver.send(delivery.message)
            self._under_way = None
            self._outbox.settle(delivery, number, reason, last=last)
            if reason is not None:
                return

    def abandon(self, reason: str) -> None:
        if self._under_way is not None:
            delivery, number, last = self._under_way
            self._outbox.settle(delivery, number, reason, last=last)


class _Once:
    """One message to one receiver without a ledger."""

    def __init__(self, receiver: Receiver, message: Message) -> None:
        self._receiver = receiver
        self._message = message

    def run(self, stop_at: float) -> None:
        reason = self._receiver.send(self._message)
        if reason is not None:
            self.abandon(reason)

    def abandon(self, reason: str) -> None:
        log.error("%r is lost: %s said %s", self._message.title, self._receiver.name, reason)


def _replay(entries: Iterable[Recorded]) -> list[Delivery]:
    """Return what the entries come to."""
    found: dict[tuple[str, str], Delivery] = {}
    for entry in entries:
        at = datetime.fromisoformat(entry.recorded_at_utc)
        if entry.kind == "notification":
            message = Message.from_json(entry.payload["message"])
            for name in entry.payload["receivers"]:
                found[message.id, name] = Delivery(message, name, at, str(entry.run["run_id"]))
            continue
        delivery = found[entry.payload["message_id"], entry.payload["receiver"]]
        if entry.kind == "notification_try":
            delivery.tried_at.append(at)
        elif entry.kind == "notified" or entry.payload["given_up"]:
            delivery.settled = True
    return list(found.values())


def _about(delivery: Delivery, number: int) -> dict[str, Any]:
    return {"message_id": delivery.message.id, "receiver": delivery.receiver, "try": number}


def _week(at: datetime) -> str:
    """Return the week under which a message and all that follows it is filed."""
    year, week, _ = at.astimezone(UTC).isocalendar()
    return f"{year}-W{week:02}"
