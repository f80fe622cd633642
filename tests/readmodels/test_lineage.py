from __future__ import annotations

import hashlib
import json
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest
from marketlake.contracts import catalog
from marketlake.contracts.model import Contract
from marketlake.errors import ConfigError, NotFound
from marketlake.readmodels.lineage import TracedArtifact, counts, folded, trace
from marketlake.settings import Settings
from marketlake.storage.lineage_index import LineageIndex
from marketlake.storage.objects import ObjectStore
from marketlake.types import ArtifactRef, Partition

if TYPE_CHECKING:
    from conftest import Publisher

PARTITION = Partition.of_session(date(2022, 12, 23))


def walk(
    publisher: Publisher, *, artifact: Contract, partition: Partition = PARTITION, **how: Any
) -> TracedArtifact:
    with LineageIndex(publisher.postgres) as index:
        return trace(
            publisher.lake, publisher.ledger, index, artifact=artifact, partition=partition, **how
        )


def test_the_walk_from_the_report_ends_at_the_vendors_bytes(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = walk(publisher, artifact=catalog.OUT_REPORTS_DAILY, partition=PARTITION)
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
    tree = walk(publisher, artifact=catalog.CORE_SIGNALS_SIGNAL, partition=PARTITION)
    for node in tree.walk():
        assert node.ledger_index is not None
        (entry,) = publisher.ledger.entries("published", since_index=node.ledger_index, limit=1)
        assert entry.payload["sha256"] == node.sha256
        assert entry.run["run_id"] == publisher.run_id


def test_what_was_shown_is_not_walked_twice(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = walk(publisher, artifact=catalog.CORE_SIGNALS_SIGNAL, partition=PARTITION)
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
    tree = walk(
        publisher,
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
    tree = walk(
        publisher,
        artifact=catalog.RAW_YAHOO_RESPONSE,
        partition=Partition.of_session(session),
    )
    assert [answer.intact for answer in tree.vendor_bytes] == [False]


def answer_row(body: bytes, *, symbol: str = "KO") -> dict[str, Any]:
    return {
        "symbol": symbol,
        "request_no": 0,
        "method": "GET",
        "url": "https://example.org",
        "status": 200,
        "body": body,
        "body_sha256": hashlib.sha256(body).hexdigest(),
    }


@pytest.fixture(scope="module")
def replaced(publisher: Publisher) -> tuple[ArtifactRef, ArtifactRef, ArtifactRef]:
    """Publish an answer and what was made of it, then another answer of the same session."""
    session = date(2022, 12, 19)
    rows = [answer_row(b"first"), answer_row(b"of another", symbol="PG")]
    first = publisher.publish(catalog.RAW_YAHOO_RESPONSE, rows, session=session)
    made = publisher.publish(catalog.RAW_YAHOO_ACTION, [], parents=[first], session=session)
    second = publisher.publish(catalog.RAW_YAHOO_RESPONSE, [answer_row(b"second")], session=session)
    return first, made, second


REPLACED = Partition.of_session(date(2022, 12, 19))


def test_a_parent_that_was_replaced_since_is_said_to_be_so_and_still_leads_to_its_bytes(
    publisher: Publisher, replaced: tuple[ArtifactRef, ArtifactRef, ArtifactRef]
) -> None:
    first, _, second = replaced
    tree = walk(publisher, artifact=catalog.RAW_YAHOO_ACTION, partition=REPLACED)
    (parent,) = tree.parents
    assert parent.sha256 == first.sha256
    assert parent.note == f"replaced since by {second.sha256}"
    assert parent.ledger_index is not None
    assert [item.body_sha256 for item in parent.vendor_bytes] == [
        hashlib.sha256(body).hexdigest() for body in (b"first", b"of another")
    ]
    assert all(item.intact for item in parent.vendor_bytes)


def test_a_bad_bar_leads_down_to_every_output_that_touched_it(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    tree = walk(publisher, artifact=catalog.RAW_YAHOO_RESPONSE, direction="down", symbol="KO")
    # Another module may have published something made from the same bytes.
    own = {ref.sha256 for ref in day.values()}
    touched = {node.contract: node for node in tree.walk() if node.sha256 in own}
    assert touched.keys() == {
        "raw_yahoo__response",
        "raw_yahoo__daily_bar",
        "core_quality__gate_report",
        "core_quality__quarantine",
        "core_quality__disagreement",
        "out_data_validation__anomaly_log",
        "core_signals__signal",
        "out_risk_analysis__portfolio_risk",
        "out_reports__daily",
    }
    assert all(node.sha256 == day[name].sha256 for name, node in touched.items())
    assert all(node.ledger_index is not None for node in touched.values())
    assert all(node.parents == () for node in touched.values())


def test_a_replaced_version_is_walked_by_the_beginning_of_its_hash(
    publisher: Publisher, replaced: tuple[ArtifactRef, ArtifactRef, ArtifactRef]
) -> None:
    first, made, second = replaced
    response = {"artifact": catalog.RAW_YAHOO_RESPONSE, "partition": REPLACED}
    old = walk(publisher, **response, sha256=first.sha256[:8], direction="down", symbol="PG")
    assert [child.name for child in old.children] == [made.versioned_name]
    assert [item.symbol for item in old.vendor_bytes] == ["PG"]
    assert old.note == f"replaced since by {second.sha256}"
    new = walk(publisher, **response, direction="down")
    assert (new.sha256, new.children) == (second.sha256, ())


def test_a_hash_that_is_too_short_or_of_nothing_is_refused(
    publisher: Publisher, day: dict[str, ArtifactRef]
) -> None:
    with pytest.raises(ConfigError, match="8 digits"):
        walk(publisher, artifact=catalog.RAW_YAHOO_RESPONSE, sha256="ab")
    with pytest.raises(NotFound, match="none"):
        walk(publisher, artifact=catalog.RAW_YAHOO_RESPONSE, sha256="0" * 12)


def test_content_published_twice_is_below_both_of_what_it_was_made_from(
    publisher: Publisher,
) -> None:
    session = date(2022, 12, 16)
    partition = Partition.of_session(session)
    made = {"session": session, "artifact": catalog.RAW_IEX_ACTION}
    first, second = (
        publisher.publish(catalog.RAW_IEX_RESPONSE, [answer_row(body)], session=session)
        for body in (b"one", b"two")
    )
    for parent in (first, second):
        publisher.publish(made["artifact"], [], parents=[parent], session=session)
    up = walk(publisher, artifact=catalog.RAW_IEX_ACTION, partition=partition)
    assert [parent.sha256 for parent in up.parents] == [second.sha256]
    down = walk(
        publisher,
        artifact=catalog.RAW_IEX_RESPONSE,
        partition=partition,
        sha256=first.sha256,
        direction="down",
    )
    (child,) = down.children
    assert child.sha256 == up.sha256
    assert child.note.startswith("so by entry ")


def test_an_entry_from_before_parents_were_recorded_leads_on_by_its_manifest(
    publisher: Publisher,
) -> None:
    session = date(2022, 12, 15)
    response = publisher.publish(
        catalog.RAW_YAHOO_RESPONSE, [answer_row(b"old")], session=session, with_parents=False
    )
    publisher.publish(
        catalog.RAW_YAHOO_ACTION, [], parents=[response], session=session, with_parents=False
    )
    tree = walk(
        publisher, artifact=catalog.RAW_YAHOO_ACTION, partition=Partition.of_session(session)
    )
    assert tree.note == "its entry names no parents: they are those of its manifest"
    (parent,) = tree.parents
    assert [item.intact for item in parent.vendor_bytes] == [True]
    assert parent.ledger_index is not None


def test_many_artifacts_of_one_contract_are_told_as_one_branch(publisher: Publisher) -> None:
    sessions = [date(2022, 11, day) for day in (7, 8, 9, 10, 11)]
    responses = [
        publisher.publish(
            catalog.RAW_YAHOO_RESPONSE, [answer_row(day.isoformat().encode())], session=day
        )
        for day in sessions
    ]
    bars = [
        publisher.publish(catalog.RAW_YAHOO_ACTION, [], parents=[response], session=day)
        for response, day in zip(responses, sessions, strict=True)
    ]
    publisher.publish(catalog.CORE_QUALITY_QUARANTINE, [], parents=bars, session=sessions[-1])
    tree = walk(
        publisher,
        artifact=catalog.CORE_QUALITY_QUARANTINE,
        partition=Partition.of_session(sessions[-1]),
    )
    (actions,) = folded(tree).below
    assert actions.title == "raw_yahoo__action: 5 sessions 2022-11-07..2022-11-11"
    (answers,) = actions.below
    assert answers.title == "raw_yahoo__response: 5 sessions 2022-11-07..2022-11-11"
    assert len(answers.vendor_bytes) == 5
    assert [branch.title for branch in folded(tree, full=True).below] == [
        f"raw_yahoo__action session={day}" for day in sessions
    ]


def test_bytes_that_are_gone_from_the_store_break_the_walk_and_do_not_end_it(
    publisher: Publisher, storage_settings: Settings
) -> None:
    session = date(2022, 12, 14)
    response = publisher.publish(catalog.RAW_YAHOO_RESPONSE, [answer_row(b"lost")], session=session)
    publisher.publish(catalog.RAW_YAHOO_ACTION, [], parents=[response], session=session)
    key = response.uri.removeprefix(f"s3://{publisher.lake.bucket}/")
    store = ObjectStore(storage_settings.lake)
    store.delete(publisher.lake.bucket, key, response.version_id)
    tree = walk(
        publisher, artifact=catalog.RAW_YAHOO_ACTION, partition=Partition.of_session(session)
    )
    (parent,) = tree.parents
    assert parent.note == "its bytes are no longer in the store"
    assert counts(tree) == {"artifacts": 2, "unproven": 0, "answers": 0, "changed": 1}
