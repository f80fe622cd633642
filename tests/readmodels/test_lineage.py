from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import date
from typing import TYPE_CHECKING

from marketlake.contracts import catalog
from marketlake.readmodels.lineage import trace
from marketlake.types import ArtifactRef, Partition

if TYPE_CHECKING:
    from conftest import Publisher

PARTITION = Partition.of_session(date(2022, 12, 23))


def test_the_walk_from_the_report_ends_at_the_vendors_bytes(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = trace(
        publisher.lake, publisher.ledger, artifact=catalog.OUT_REPORTS_DAILY, partition=PARTITION
    )
    walked = list(tree.walk())
    assert {node.contract for node in walked} == {
        "out_reports__daily",
        "out_risk_analysis__portfolio_risk",
        "core_signals__signal",
        "raw_yahoo__daily_bar",
        "raw_yahoo__response",
    }
    assert all(node.sha256 == day[node.contract].sha256 for node in walked)
    (answer,) = [answer for node in walked for answer in node.vendor_bytes]
    assert answer.body_sha256 == hashlib.sha256(b'{"chart": {"result": []}}').hexdigest()
    assert (answer.symbol, answer.status, answer.intact) == ("KO", 200, True)


def test_every_link_points_at_its_own_published_entry(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = trace(
        publisher.lake, publisher.ledger, artifact=catalog.CORE_SIGNALS_SIGNAL, partition=PARTITION
    )
    for node in tree.walk():
        assert node.ledger_index is not None
        (entry,) = publisher.ledger.entries("published", since_index=node.ledger_index, limit=1)
        assert entry.payload["sha256"] == node.sha256
        assert entry.run["run_id"] == publisher.run_id


def test_what_was_shown_is_not_walked_twice(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = trace(
        publisher.lake, publisher.ledger, artifact=catalog.CORE_SIGNALS_SIGNAL, partition=PARTITION
    )
    bars, responses = tree.parents
    assert [node.contract for node in bars.parents] == ["raw_yahoo__response"]
    assert (responses.note, responses.parents, responses.vendor_bytes) == ("shown above", (), ())
    assert json.loads(json.dumps(tree.as_json()))["parents"][1]["note"] == "shown above"


def test_an_artifact_the_ledger_does_not_know_has_no_index(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    session = date(2022, 12, 21)
    rows = [
        {**row, "session": session}
        for row in publisher.lake.read_ref(day["raw_yahoo__daily_bar"]).to_pylist()
    ]
    publisher.publish(catalog.RAW_YAHOO_DAILY_BAR, rows, session=session, recorded=False)
    tree = trace(
        publisher.lake,
        publisher.ledger,
        artifact=catalog.RAW_YAHOO_DAILY_BAR,
        partition=Partition.of_session(session),
    )
    assert tree.ledger_index is None


def test_a_body_that_differs_from_its_hash_is_not_intact(publisher: Publisher) -> None:
    session = date(2022, 12, 20)
    good = {
        "symbol": "KO",
        "request_no": 0,
        "method": "GET",
        "url": "https://example.org",
        "status": 200,
        "body": b"changed",
        "body_sha256": hashlib.sha256(b"as received").hexdigest(),
    }
    publisher.publish(catalog.RAW_YAHOO_RESPONSE, [good], session=session)
    tree = trace(
        publisher.lake,
        publisher.ledger,
        artifact=catalog.RAW_YAHOO_RESPONSE,
        partition=Partition.of_session(session),
    )
    assert [answer.intact for answer in tree.vendor_bytes] == [False]


def test_a_parent_that_was_replaced_since_is_said_to_be_so(publisher: Publisher) -> None:
    session = date(2022, 12, 19)
    row = {
        "symbol": "KO",
        "request_no": 0,
        "method": "GET",
        "url": "https://example.org",
        "status": 200,
        "body": b"first",
        "body_sha256": hashlib.sha256(b"first").hexdigest(),
    }
    first = publisher.publish(catalog.RAW_YAHOO_RESPONSE, [row], session=session)
    publisher.publish(catalog.RAW_YAHOO_ACTION, [], parents=[first], session=session)
    second = publisher.publish(
        catalog.RAW_YAHOO_RESPONSE, [{**row, "status": 203}], session=session
    )
    assert replace(first, version_id="", sha256="") == replace(second, version_id="", sha256="")
    tree = trace(
        publisher.lake,
        publisher.ledger,
        artifact=catalog.RAW_YAHOO_ACTION,
        partition=Partition.of_session(session),
    )
    (parent,) = tree.parents
    assert parent.sha256 == first.sha256
    assert parent.note == f"replaced since by {second.sha256}"
    assert parent.vendor_bytes == ()
