"""A message arrives once, or is kept until it does, whatever the receiver does meanwhile."""

from __future__ import annotations

import logging
import multiprocessing
import os
import subprocess
import sys
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from marketlake.clock import monotonic_s, utc_now
from marketlake.notify.message import Message, Severity
from marketlake.notify.outbox import GIVE_UP_AFTER, MAX_TRIES, Delivery, Outbox
from marketlake.settings import LedgerSettings, NotifySettings
from pydantic import SecretStr

DAG_ID = "notifications"


def a_message(**changes) -> Message:
    message = Message(
        id=uuid.uuid4().hex,
        severity=Severity.FAILURE,
        title="2026-11-20: report_daily.publish: GateFailed",
        body="Expected: a\nWas: b",
        dag_id="report_daily",
        run_id="scheduled__2026-11-20",
        task_id="publish",
        session="2026-11-20",
        link="http://127.0.0.1:1/dags/report_daily",
    )
    return replace(message, **changes)


@pytest.fixture
def outbox_for(ledger, storage_settings):
    def make(*urls: str, **settings) -> Outbox:
        notify = NotifySettings(urls=SecretStr(" ".join(urls)), **{"timeout_s": 2.0, **settings})
        return Outbox(notify, storage_settings.ledger)

    return make


@pytest.fixture
def recorded(ledger):
    """Return the ledger's entries about one message, without the message itself."""

    def entries(message: Message) -> list[tuple[str, dict]]:
        return [
            (entry.kind, dict(entry.payload))
            for entry in ledger.entries(dag_id=DAG_ID, limit=100_000)
            if entry.payload.get("message_id") == message.id
        ]

    return entries


def kinds(entries) -> list[str]:
    return [kind for kind, _ in entries]


def later(**time) -> object:
    return utc_now() + timedelta(**time)


def test_a_message_arrives_with_its_link_and_the_ledger_says_so(outbox_for, mailbox, recorded):
    message = a_message()

    outbox_for(mailbox.url()).notify(message)

    [body] = mailbox.received
    assert body["title"] == message.title
    assert body["message"] == f"{message.body}\n\n{message.link}"
    assert body["type"] == "failure"
    [_, (kind, outcome)] = recorded(message)
    assert (kind, outcome["receiver"], outcome["try"]) == ("notified", mailbox.name, 1)


def test_one_event_told_twice_is_one_message(outbox_for, mailbox):
    message = a_message()
    outbox = outbox_for(mailbox.url())

    outbox.notify(message)
    outbox.notify(replace(message, body="the same event in other words"))
    outbox.sweep(later(hours=2))

    assert len(mailbox.received) == 1


def test_what_a_dead_receiver_missed_arrives_exactly_once_when_it_is_back(
    outbox_for, mailbox, recorded
):
    mailbox.close()
    message = a_message()
    outbox = outbox_for(mailbox.url())

    outbox.notify(message)

    [_, (kind, outcome)] = recorded(message)
    assert kind == "notification_failed"
    assert outcome["reason"]
    assert outcome["given_up"] is False

    mailbox.open()
    outbox.sweep(later(seconds=30))  # too early: each try waits longer than the one before
    assert mailbox.received == []
    outbox.sweep(later(seconds=61))
    outbox.sweep(later(hours=3))
    assert [body["title"] for body in mailbox.received] == [message.title]
    assert kinds(recorded(message)) == [
        *("notification_try", "notification_failed"),
        *("notification_try", "notified"),
    ]


def test_the_next_message_brings_the_waiting_one_along(outbox_for, mailbox, ledger):
    mailbox.answer = 503
    first, second = a_message(title="first"), a_message(title="second")
    outbox = outbox_for(mailbox.url())
    outbox.notify(first)
    mailbox.answer = 200

    outbox.notify(second)
    assert [body["title"] for body in mailbox.received] == ["second"]  # the first waits its minute
    outbox.sweep(later(minutes=2))
    assert [body["title"] for body in mailbox.received] == ["second", "first"]


def test_after_a_day_a_message_is_given_up_and_the_ledger_says_so(outbox_for, mailbox, recorded):
    mailbox.close()
    message = a_message()
    outbox = outbox_for(mailbox.url())
    outbox.notify(message)

    outbox.sweep(utc_now() + GIVE_UP_AFTER)

    assert recorded(message)[-1][1]["given_up"] is True
    mailbox.open()
    outbox.sweep(utc_now() + GIVE_UP_AFTER + timedelta(hours=12))
    assert mailbox.received == []


def test_tries_are_counted_and_wait_longer_each_time():
    now = utc_now()
    delivery = Delivery(a_message(), "json://host", now, "2026-W47")
    waits = []
    for number in range(1, MAX_TRIES):
        delivery.tried_at.append(now)
        assert not delivery.is_last(number, now)
        minutes = range(1, 24 * 60)
        waits.append(next(m for m in minutes if delivery.is_due(now + timedelta(minutes=m))))

    assert waits[:4] == [1, 2, 4, 8]
    assert waits == sorted(waits)
    assert timedelta(minutes=sum(waits)) < GIVE_UP_AFTER + timedelta(hours=6)
    assert delivery.is_last(MAX_TRIES, now)


@pytest.mark.parametrize("habit", [{"delay_s": 30.0}, {"drips": True}], ids=["silent", "drips"])
def test_a_receiver_that_does_not_answer_holds_a_task_no_longer_than_the_bound(
    outbox_for, new_mailbox, recorded, habit
):
    silent, awake = new_mailbox(), new_mailbox()
    vars(silent).update(habit)
    silent.open()
    awake.open()
    message = a_message()
    outbox = outbox_for(silent.url(), awake.url(), timeout_s=1.0)

    begun = monotonic_s()
    outbox.notify(message)

    assert monotonic_s() - begun < 2.5
    assert len(awake.received) == 1
    outcomes = {entry["receiver"]: kind for kind, entry in recorded(message)}
    assert outcomes == {silent.name: "notification_failed", awake.name: "notified"}


def test_a_failure_is_told_although_the_ledger_is_down(mailbox):
    nobody = LedgerSettings(port=1, token=SecretStr("t"), timeout_s=1.0)
    outbox = Outbox(NotifySettings(urls=SecretStr(mailbox.url()), timeout_s=2.0), nobody)

    outbox.notify(a_message())

    assert len(mailbox.received) == 1
    outbox.sweep()  # does not raise either


def test_nobody_configured_means_nothing_recorded(outbox_for, recorded, ledger):
    before = ledger.checkpoint().size
    outbox = outbox_for()

    outbox.notify(a_message())
    outbox.sweep()

    assert not outbox.is_configured
    assert ledger.checkpoint().size == before


def test_what_is_milder_than_asked_for_is_not_told(outbox_for, mailbox):
    outbox = outbox_for(mailbox.url(), minimum_severity="failure")

    outbox.notify(a_message(severity=Severity.WARNING))
    outbox.notify(a_message(severity=Severity.FAILURE))

    assert len(mailbox.received) == 1


def test_a_sweep_with_nothing_due_does_not_even_load_apprise(outbox_for, mailbox, storage_settings):
    """Every task sweeps when it succeeds: where nobody waits, that must cost next to nothing."""
    code = (
        "import sys; from marketlake.notify.outbox import Outbox;"
        "from marketlake.settings import current_settings as now;"
        "box = Outbox(now().notify, now().ledger); assert box.is_configured; box.sweep();"
        "sys.exit('apprise' in sys.modules)"
    )
    named = {
        "MARKETLAKE_HOME": str(storage_settings.home),
        "MARKETLAKE_NOTIFY__URLS": mailbox.url(),
    }
    outbox_for(mailbox.url()).sweep()  # what other tests left behind

    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **named}, timeout=60)
    assert done.returncode == 0


def test_what_waits_for_an_address_that_was_taken_out_is_given_up(
    outbox_for, mailbox, new_mailbox, recorded
):
    gone = new_mailbox()
    message = a_message()
    outbox_for(gone.url()).notify(message)

    outbox_for(mailbox.url()).sweep(later(minutes=2))

    kind, outcome = recorded(message)[-1]
    assert (kind, outcome["receiver"], outcome["given_up"]) == (
        *("notification_failed", gone.name),
        True,
    )
    assert mailbox.received == []


def test_a_receiver_that_comes_new_gets_no_old_messages(outbox_for, mailbox, new_mailbox):
    outbox_for(mailbox.url()).notify(a_message())
    new = new_mailbox()
    new.open()

    outbox_for(mailbox.url(), new.url()).sweep(later(minutes=5))

    assert new.received == []


def test_a_try_belongs_to_who_claimed_it_first(outbox_for, new_mailbox):
    dead = new_mailbox()
    one, other = outbox_for(dead.url()), outbox_for(dead.url())
    message = a_message()
    one.notify(message)
    [delivery] = [item for item in one.deliveries(utc_now()) if item.message.id == message.id]

    assert [one.claim(delivery, 2), other.claim(delivery, 2), other.claim(delivery, 3)] == [
        *(True, False),
        True,
    ]


def _sweep(notify: NotifySettings, ledger: LedgerSettings, start, now) -> None:
    start.wait(30)
    Outbox(notify, ledger).sweep(now)


def test_processes_that_sweep_at_the_same_moment_send_one_copy(
    outbox_for, mailbox, storage_settings
):
    mailbox.answer = 503
    outbox_for(mailbox.url()).notify(a_message())
    mailbox.answer = 200
    mailbox.delay_s = 0.3  # long enough for all of them to look while one is sending
    notify = NotifySettings(urls=SecretStr(mailbox.url()), timeout_s=5.0)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    sweepers = [
        context.Process(
            target=_sweep, args=(notify, storage_settings.ledger, start, later(minutes=2))
        )
        for _ in range(6)
    ]
    for sweeper in sweepers:
        sweeper.start()
    start.set()
    for sweeper in sweepers:
        sweeper.join(60)

    assert [sweeper.exitcode for sweeper in sweepers] == [0] * 6
    assert len(mailbox.received) == 1


def test_no_secret_of_an_address_is_recorded_or_logged(
    outbox_for, mailbox, new_mailbox, ledger, caplog
):
    dead = new_mailbox()
    caplog.set_level(logging.DEBUG)
    secrets = ("s3cr3t-passw0rd", "hook-t0ken-1234", "xoxb-header-5678")
    urls = [
        box.url(user=f"robot:{secrets[0]}@", path=f"{secrets[1]}?+X-Auth={secrets[2]}")
        for box in (mailbox, dead)
    ]
    since = ledger.checkpoint().size

    outbox_for(*urls).notify(a_message())

    assert mailbox.authorizations[0].startswith("Basic ")
    entries = ledger.entries(since_index=since)
    assert {"notified", "notification_failed"} <= {entry.kind for entry in entries}
    written = caplog.text + "".join(entry.canonical().decode() for entry in entries)
    assert dead.name in written
    assert not [secret for secret in secrets if secret in written]
