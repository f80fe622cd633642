"""The lineage page: whole hashes, what broke, nothing that is loaded, nothing unescaped."""

from __future__ import annotations

from typing import Any

from marketlake.domain.reporting.lineage_page import render

SHA = "ab" * 32


def member(partition: str, index: int | None) -> dict[str, Any]:
    return {
        "contract": "core_market__daily_bar",
        "partition": partition,
        "sha256": SHA,
        "ledger_index": index,
        "note": "",
    }


def branch(*members: dict[str, Any], below: Any = (), answers: Any = ()) -> dict[str, Any]:
    return {
        "title": "core_market__daily_bar: <b>",
        "note": "shown & above",
        "members": list(members),
        "answers": list(answers),
        "below": list(below),
    }


def document(**changes: Any) -> dict[str, Any]:
    answer = {
        "symbol": "KO",
        "method": "GET",
        "url": "https://vendor/?a=1&b=<script>",
        "status": 200,
        "body_bytes": 1234,
        "body_sha256": "cd" * 32,
        "intact": False,
    }
    leaf = branch(member("session=2022-12-28", 5), answers=[answer])
    many = branch(*(member(f"session=2022-12-{day}", day) for day in (21, 22)), below=[leaf])
    return {
        "direction": "up",
        "signal": None,
        "counts": {"artifacts": 4, "unproven": 1, "answers": 1, "changed": 1},
        "tree": branch(member("session=2022-12-29", None), below=[many]),
        **changes,
    }


def test_every_hash_is_whole_and_what_broke_is_marked() -> None:
    text = render(document()).decode()
    assert text.count(f"<code>{SHA}</code>") == 2
    assert "cd" * 32 in text
    assert "2 broken links" in text
    assert "not in the ledger" in text
    assert "✗ changed" in text
    assert "entries 21..22" in text


def test_the_page_loads_nothing_and_escapes_what_it_is_given() -> None:
    text = render(document()).decode()
    assert "<script" not in text
    assert "core_market__daily_bar: &lt;b&gt;" in text
    assert 'src="' not in text
    assert "<link" not in text


def test_the_same_walk_gives_the_same_bytes_and_says_its_direction() -> None:
    assert render(document()) == render(document())
    assert "everything that touched it" in render(document(direction="down")).decode()


def test_a_page_of_a_walk_down_says_who_says_that_nothing_is_missing() -> None:
    counts = {"artifacts": 4, "unproven": 0, "answers": 1, "changed": 0}
    up, down = (render(document(direction=way, counts=counts)).decode() for way in ("up", "down"))
    assert "every link proven" in up
    assert "--reindex" not in up
    assert "every link shown is proven" in down
    assert "the index's word: <code>marketlake trace --down --reindex</code>" in down
