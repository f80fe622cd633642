"""The template is a source that works, so that what is copied from it does."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from marketlake.calendars import Calendar
from marketlake.errors import BadPayload, EmptyAnswer
from marketlake.services.sandbox.embedded import RunningSandbox
from marketlake.settings import Settings
from marketlake.sources._template import source
from marketlake.sources.source import Answers

DAY = date(2022, 12, 28)
HEAD = b"date,open,high,low,close,volume\n"
ROWS = b"2022-12-27,1,2,0.5,1.5,100\n2022-12-28,1,2,0.5,1.75,\n"


def ask(vendors: RunningSandbox, namespace: str) -> Answers:
    base_url = f"http://{vendors.host}:{vendors.http_port}/{namespace}/stooq"
    one = source(Settings(stooq={"base_url": base_url, "timeout_s": 20.0}))
    return one.fetch(
        ["JPM"], DAY, DAY, as_of=DAY, calendar=Calendar.of("XNYS"), on_call=lambda _: None
    )


def test_the_template_reads_a_vendors_rows(
    vendors: RunningSandbox, namespace: str, say: Any
) -> None:
    say("stooq", HEAD + ROWS)
    history = ask(vendors, namespace).histories["JPM"]
    row = history.bars.row(0, named=True)
    assert (row["session"], row["close_usd"], row["previous_close_usd"]) == (DAY, 1.75, 1.5)
    assert row["volume_shares"] is None
    assert [call.status for call in history.calls] == [200]


@pytest.mark.parametrize("body", [HEAD + ROWS[:-4], b"<html></html>\n", HEAD + b"2022-12-28,1\n"])
def test_the_template_refuses_what_is_no_answer(
    vendors: RunningSandbox, namespace: str, say: Any, body: bytes
) -> None:
    say("stooq", body)
    with pytest.raises(BadPayload):
        ask(vendors, namespace)


def test_the_template_leaves_out_a_symbol_without_bars(
    vendors: RunningSandbox, namespace: str, say: Any
) -> None:
    say("stooq", HEAD)
    assert isinstance(ask(vendors, namespace).left_out["JPM"], EmptyAnswer)
