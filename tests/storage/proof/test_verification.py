"""Every tampering is found and named, honest histories never are; rows and files alike."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.storage.proof.checkpoint import Checkpoint, PublicKey, open_signed
from marketlake.storage.proof.export_file import ExportFile, NotAnExport
from marketlake.storage.proof.merkle import leaf_hash
from marketlake.storage.proof.stored import StoredCheckpoint
from marketlake.storage.proof.verification import verify_file, verify_log

from tests.storage.proof.histories import (
    BEGAN,
    KEY,
    ORIGIN,
    OTHER_KEY,
    PINNED,
    History,
    checkpoints_of,
    history,
    honest_histories,
    rewritten,
    signed,
    with_row,
)

HONEST = history([1, 3, 2, 4, 1, 1, 5])
LATE = "entry 5: recorded at "


def flipped(content: bytes, at: int = 84) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


def rehashed(one: History, index: int) -> History:
    content = one.rows[index].canonical.replace(b'"n":%d' % index, b'"n":%d' % (index + 1))
    return with_row(one, index, canonical=content, leaf_hash=leaf_hash(content).hex())


def renumbered(one: History, order: list[int]) -> History:
    rows = [replace(one.rows[at], index=index) for index, at in enumerate(order)]
    return replace(one, rows=rows)


def with_checkpoint(one: History, at: int, **changes: object) -> History:
    points = list(one.checkpoints)
    points[at] = replace(points[at], **changes)  # type: ignore[arg-type]
    return replace(one, checkpoints=points)


def redated(one: History, at: int, seconds: float, *, entries: bool = False) -> History:
    """Sign one checkpoint as of another time, as an appender with a wrong clock would."""
    point = one.checkpoints[at]
    time = datetime.fromisoformat(point.recorded_at_utc) + timedelta(seconds=seconds)
    points = list(one.checkpoints)
    points[at] = signed(Checkpoint(point.size, point.root_hash, time.isoformat()))
    return replace(one, checkpoints=points)


def forged_with_the_one_behind(one: History, at: int) -> History:
    """Sign one checkpoint with another key; the next names it under its own old signature."""
    forged = signed(one.checkpoints[at], OTHER_KEY).note or ""
    behind = re.sub(
        r"(?m)^previous .*$",
        f"previous {hashlib.sha256(forged.encode()).hexdigest()}",
        one.checkpoints[at + 1].note or "",
    )
    assert behind != one.checkpoints[at + 1].note
    return with_checkpoint(with_checkpoint(one, at, note=forged), at + 1, note=behind)


# What was done, what is found first; the ones marked need a checkpoint from elsewhere.
TAMPERINGS: dict[str, tuple[History, str]] = {
    "a byte of a leaf": (
        with_row(HONEST, 4, canonical=flipped(HONEST.rows[4].canonical)),
        "entry 4: its bytes do not have the stored leaf hash",
    ),
    "a byte of a leaf hash": (
        with_row(HONEST, 4, leaf_hash=flipped(bytes.fromhex(HONEST.rows[4].leaf_hash), 3).hex()),
        "entry 4: its bytes do not have the stored leaf hash",
    ),
    "edited and rehashed": (rehashed(HONEST, 4), "one of entries 4 to 5 is not what was recorded"),
    "edited and rehashed alone in its commit": (
        rehashed(HONEST, 10),
        "entry 10 is not what was recorded: the root of the first 11 differs",
    ),
    "deleted in the middle": (
        replace(HONEST, rows=[*HONEST.rows[:4], *HONEST.rows[5:]]),
        "entry 4 is missing (the next one is 5)",
    ),
    "deleted and closed up": (
        renumbered(HONEST, [*range(4), *range(5, 17)]),
        "one of entries 4 to 5 is not what was recorded",
    ),
    "cut tail": (
        replace(HONEST, rows=HONEST.rows[:11]),
        "entries 11 to 16 are missing: the tail was cut",
    ),
    "every entry dropped": (
        replace(HONEST, rows=[]),
        "entries 0 to 16 are missing: the tail was cut",
    ),
    "reordered": (
        renumbered(HONEST, [*range(4), 5, 4, *range(6, 17)]),
        "one of entries 4 to 5 is not what was recorded",
    ),
    "duplicated": (
        renumbered(HONEST, [*range(6), 5, *range(6, 17)]),
        "one of entries 6 to 9 is not what was recorded",
    ),
    "duplicated at the end": (
        renumbered(HONEST, [*range(17), 5]),
        "entry 17 was inserted behind the log: no checkpoint covers it",
    ),
    "rewritten with another key": (
        rewritten(HONEST, 7, OTHER_KEY),
        "checkpoint 0: signed by another key (marketlake.example/ledger+",
    ),
    "rewritten with the old signatures": (
        replace(
            rewritten(HONEST, 7, KEY),
            checkpoints=[
                replace(new, note=old.note)
                for new, old in zip(
                    rewritten(HONEST, 7, KEY).checkpoints, HONEST.checkpoints, strict=True
                )
            ],
        ),
        "one of entries 6 to 9 is not what was recorded",
    ),
    "a checkpoint signed by another key": (
        replace(
            HONEST,
            checkpoints=[
                signed(point, OTHER_KEY) if point.size == 6 else point
                for point in HONEST.checkpoints
            ],
        ),
        "checkpoint 6: signed by another key",
    ),
    "a checkpoint whose signature is of something else": (
        with_checkpoint(
            HONEST, 3, note=HONEST.checkpoints[3].note.replace("\n6\n", "\n5\n")  # type: ignore[union-attr]
        ),
        "checkpoint 6: bad signature",
    ),
    "a byte of a signature that a later checkpoint vouches for": (
        with_checkpoint(HONEST, 2, note=re.sub(r".(.{30})$", r"/\1", HONEST.checkpoints[2].note)),  # type: ignore[call-overload]
        "checkpoint 4: bad signature",
    ),
    "a checkpoint forged together with the one behind it": (
        forged_with_the_one_behind(HONEST, 4),
        "checkpoint 10: signed by another key",
    ),
    "a checkpoint without its signature": (
        with_checkpoint(HONEST, 3, note=None),
        "checkpoint 6 is not signed",
    ),
    "a checkpoint whose note is none": (
        with_checkpoint(HONEST, 3, note="nothing"),
        "checkpoint 6: malformed note",
    ),
    "a checkpoint's root": (
        with_checkpoint(HONEST, 3, root_hash="00" * 32),
        "checkpoint 6: its root is not that of its signed note",
    ),
    "a checkpoint's time": (
        with_checkpoint(HONEST, 3, recorded_at_utc="2022-12-28 21:15:04+00"),
        "checkpoint 6: its time is not that of its signed note",
    ),
    "a checkpoint's time that is none": (
        with_checkpoint(HONEST, 3, recorded_at_utc="infinity"),
        "checkpoint 6: its time is not that of its signed note",
    ),
    "a checkpoint's note of another": (
        with_checkpoint(HONEST, 3, note=HONEST.checkpoints[4].note),
        "checkpoint 6: its size is not that of its signed note",
    ),
    "no checkpoints": (
        replace(HONEST, checkpoints=[]),
        "there is no checkpoint: nothing vouches for the log",
    ),
    "nothing at all": (
        History([], []),
        "there is no checkpoint: nothing vouches for the log",
    ),
    "the clock went back": (
        redated(HONEST, 3, -2),
        "checkpoint 6 is dated before checkpoint 4: the clock went back",
    ),
    "the clock went back for good": (
        replace(
            HONEST,
            checkpoints=[
                *HONEST.checkpoints[:5],
                *redated(redated(redated(HONEST, 5, -90), 6, -90), 7, -90).checkpoints[5:],
            ],
        ),
        "checkpoint 11 is dated before checkpoint 10: the clock went back",
    ),
    "a commit dated an hour after its entries": (
        redated(redated(redated(redated(HONEST, 4, 3600), 5, 3600), 6, 3600), 7, 3600),
        "entry 6: recorded at ",
    ),
}  # fmt: skip
FILE_HAS_NO_COLUMNS = "of a file's entries only the bytes are stored"
COLUMNS = {
    "key": "another",
    "kind": "gate",
    "dag_id": "other",
    "run_id": None,
    "recorded_at_utc": "2022-12-28T21:15:09+00:00",
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_every_tampering_is_found_and_its_first_entry_or_checkpoint_named(name: str) -> None:
    tampered, message = TAMPERINGS[name]
    assert HONEST.verify().ok
    found = tampered.verify()
    assert not found.ok
    assert found.faults[0].startswith(message)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_file_tells_the_same_as_rows_whatever_the_number_of_processes(
    name: str, tmp_path: Path
) -> None:
    tampered, _ = TAMPERINGS[name]
    expected = tampered.verify()
    for workers, block_entries in ((1, 4), (2, 4), (2, 2), (1, 64)):
        found = tampered.verify_as_file(
            tmp_path / "log.db", workers=workers, block_entries=block_entries
        )
        assert found.faults == _times_as_in_bytes(expected.faults)
        assert (found.size, found.root_hash) == (expected.size, expected.root_hash)


def _times_as_in_bytes(faults: list[str]) -> list[str]:
    # A file's row has its time from the bytes; the database wrote the same instant another way.
    return [
        fault.replace("recorded at 2022-12-28 ", "recorded at 2022-12-28T").replace(
            "+00, more", "+00:00, more"
        )
        for fault in faults
    ]


@pytest.mark.parametrize("column", COLUMNS)
def test_a_column_that_searches_use_must_agree_with_the_bytes(column: str) -> None:
    found = with_row(HONEST, 5, **{column: COLUMNS[column]}).verify()
    name = column.removesuffix("_utc")
    assert found.faults == [f"entry 5: column {name} differs from its bytes"]


def test_the_columns_of_a_file_are_its_bytes(tmp_path: Path) -> None:
    with closing(sqlite3.connect(HONEST.write(tmp_path / "log.db"))) as database:
        seen = database.execute("select * from entry order by idx").fetchall()
    assert [row[:5] + row[6:] for row in seen] == [
        (one.index, one.key, one.kind, one.dag_id, one.run_id, one.canonical, one.leaf_hash)
        for one in HONEST.rows
    ]
    for row, one in zip(seen, HONEST.rows, strict=True):
        assert datetime.fromisoformat(row[5]) == datetime.fromisoformat(one.recorded_at_utc)


KEPT = ("the bucket", HONEST.checkpoints[5].note or "")
KEPT_HEAD = ("the file", HONEST.head.note or "")


def cut(one: History, commits: int) -> History:
    points = one.checkpoints[: commits + 1]
    return History(one.rows[: points[-1].size], points)


FROM_ELSEWHERE: dict[str, tuple[History, str]] = {
    "cut with its checkpoints": (
        cut(HONEST, 3),
        "entries 6 to 10 are missing: the tail was cut (the bucket holds a checkpoint of 11",
    ),
    "dropped with every checkpoint but the first": (
        cut(HONEST, 0),
        "entries 0 to 10 are missing: everything was dropped (the bucket holds a checkpoint of 11",
    ),
    "rewritten and signed anew": (
        rewritten(HONEST, 7, KEY),
        "fork: one of entries 0 to 10 is not what the bucket vouches for: two roots stand",
    ),
    "rewritten, signed anew, with other commits": (
        History(
            rewritten(HONEST, 7, KEY).rows,
            checkpoints_of(
                rewritten(HONEST, 7, KEY).rows, [0, 17], [BEGAN, BEGAN + timedelta(seconds=9)]
            ),
        ),
        "rewritten since: one of entries 0 to 10 is not what the bucket vouches for",
    ),
}


@pytest.mark.parametrize("name", FROM_ELSEWHERE)
def test_who_has_the_key_is_caught_by_a_checkpoint_kept_elsewhere(
    name: str, tmp_path: Path
) -> None:
    tampered, message = FROM_ELSEWHERE[name]
    assert tampered.verify().ok  # that is why checkpoints are kept elsewhere
    assert HONEST.verify(kept=[KEPT, KEPT_HEAD]).ok
    found = tampered.verify(kept=[KEPT, KEPT_HEAD])
    assert found.faults[0].startswith(message)
    path = tmp_path / "log.db"
    assert tampered.verify_as_file(path, workers=2).ok
    assert tampered.verify_as_file(path, kept=[KEPT, KEPT_HEAD], workers=2) == found
    assert HONEST.verify_as_file(path, kept=[KEPT, KEPT_HEAD], workers=2).ok


def test_an_earlier_kept_checkpoint_that_agrees_narrows_a_rewriting_down() -> None:
    early = ("the bucket", HONEST.checkpoints[3].note or "")
    found = rewritten(HONEST, 7, KEY).verify(kept=[KEPT_HEAD, early])
    assert found.faults == [
        "fork: one of entries 6 to 16 is not what the file vouches for: "
        "two roots stand for the first 17 entries"
    ]


def test_a_kept_note_that_the_pinned_key_did_not_sign_is_named_with_its_place() -> None:
    forged = signed(HONEST.head, OTHER_KEY).note or ""
    found = HONEST.verify(kept=[("the bucket", forged)])
    assert found.faults[0].startswith("the checkpoint kept in the bucket: signed by another key")
    assert HONEST.verify(kept=[("the bucket", forged)], pinned=None).ok


def test_a_bare_checkpoint_from_memory_is_believed_as_it_is() -> None:
    point = HONEST.head
    own = Checkpoint(point.size, point.root_hash, point.recorded_at_utc)
    wrong = replace(own, root_hash="00" * 32)
    assert verify_log(HONEST.rows, [*HONEST.checkpoints, own], public_key=PINNED).ok
    assert HONEST.verify(kept=[("memory", own)]).ok
    assert HONEST.verify(kept=[("memory", wrong)]).faults[0].startswith("fork: one of entries")


def test_without_a_pinned_key_unsigned_logs_verify_and_are_not_dated() -> None:
    bare = [
        StoredCheckpoint(point.size, point.root_hash, "2030-01-01T00:00:00+00:00")
        for point in HONEST.checkpoints
    ]
    assert replace(HONEST, checkpoints=bare).verify(pinned=None).ok
    assert replace(HONEST, checkpoints=bare).verify().faults[0] == "checkpoint 0 is not signed"


def test_of_a_chain_one_signature_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []

    def counted(note: str, *, public_key: PublicKey) -> Checkpoint:
        checked.append(note)
        return open_signed(note, public_key=public_key)

    monkeypatch.setattr("marketlake.storage.proof.stored.open_signed", counted)
    assert HONEST.verify().ok
    # The eighth and the fourth: what came after a restart vouches for nothing before it.
    assert checked == [HONEST.checkpoints[7].note, HONEST.checkpoints[3].note]


def test_an_empty_log_verifies(tmp_path: Path) -> None:
    empty = history([])
    kept = [("the bucket", empty.head.note or "")]
    assert empty.verify(kept=kept).ok
    found = empty.verify_as_file(tmp_path / "log.db", kept=kept, workers=2)
    assert (found.ok, found.size) == (True, 0)
    wrong = with_checkpoint(empty, 0, root_hash="00" * 32, note=None)
    assert wrong.verify(pinned=None).faults[0].startswith("the empty log is not what was recorded")


@given(honest_histories, st.data())
@settings(deadline=None, max_examples=1000)
def test_a_thousand_honest_histories_give_no_false_alarm(one: History, data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(one.checkpoints) - 1), max_size=3))
    kept = [("elsewhere", one.checkpoints[number].note or "") for number in numbers]
    expected = (True, len(one.rows), one.head.root_hash, [])
    found = one.verify(kept=kept)
    assert (found.ok, found.size, found.root_hash, found.faults) == expected


@given(honest_histories, st.integers(0, 3), st.data())
@settings(deadline=None, max_examples=40)
def test_honest_files_are_proven_by_ranges_alone(
    one: History, height: int, data: st.DataObject
) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(one.checkpoints) - 1), max_size=3))
    kept = [("elsewhere", one.checkpoints[number].note or "") for number in numbers]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.db"
        found = one.verify_as_file(path, kept=kept, block_entries=1 << height)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("marketlake.storage.proof.verification.verify_log", _must_not_be_needed)
            assert one.verify_as_file(path, kept=kept, block_entries=1 << height) == found
    assert (found.ok, found.size, found.root_hash) == (True, len(one.rows), one.head.root_hash)


def _must_not_be_needed(*_: object, **__: object) -> None:
    raise AssertionError("the quick way did not prove an honest log")


CHANGES: list[Callable[[History, int], History]] = [
    lambda one, at: with_row(one, at, canonical=flipped(one.rows[at].canonical, 40 + at)),
    rehashed,
    lambda one, at: replace(one, rows=[*one.rows[:at], *one.rows[at + 1 :]]),
    lambda one, at: renumbered(one, [*range(at), *range(at + 1, len(one.rows))]),
    lambda one, at: renumbered(one, [*range(at), at, *range(at, len(one.rows))]),
    lambda one, at: replace(one, rows=one.rows[:at]),
    lambda one, at: rewritten(one, at, OTHER_KEY),
]


@given(honest_histories.filter(lambda one: bool(one.rows)), st.data())
@settings(deadline=None, max_examples=80)
def test_any_single_change_of_any_history_is_found_and_named(
    one: History, data: st.DataObject
) -> None:
    at = data.draw(st.integers(0, len(one.rows) - 1))
    changed = data.draw(st.sampled_from(CHANGES))(one, at)
    found = changed.verify()
    assert not found.ok
    # What is named begins in the change's commit and not behind it (a copy stands behind).
    sizes = [point.size for point in one.checkpoints]
    low = max(size for size in sizes if size <= at)
    if not found.faults[0].startswith("checkpoint 0: signed by another key"):
        named = re.findall(r"(?:entry|entries|checkpoint) (\d+)", found.faults[0])
        assert low <= min(int(number) for number in named) <= at + 1
    with tempfile.TemporaryDirectory() as folder:
        assert not changed.verify_as_file(Path(folder) / "log.db").ok


# --- the file -----------------------------------------------------------------------------------


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    text, other, torn = (tmp_path / name for name in ("text", "other.db", "torn.db"))
    text.write_text("hello" * 1000)
    with closing(sqlite3.connect(other)) as database:
        database.execute("create table leaf (idx integer primary key)")
    content = HONEST.write(torn).read_bytes()
    torn.write_bytes(content[: len(content) // 2])
    for path in (text, other, torn, tmp_path / "absent.db"):
        with pytest.raises(NotAnExport):
            verify_file(path, public_key=PINNED)


def test_a_file_that_brings_a_view_or_trigger_of_its_own_is_refused(tmp_path: Path) -> None:
    for statement in (
        "create view more as select 1",
        "create index more on leaf (leaf_hash)",
        "create trigger more after insert on leaf begin select 1; end",
    ):
        path = HONEST.write(tmp_path / "log.db")
        with closing(sqlite3.connect(path)) as database:
            database.execute(statement)
        with pytest.raises(NotAnExport, match="other tables"):
            verify_file(path, public_key=PINNED)


def test_a_file_says_who_wrote_it_and_is_the_same_for_the_same_log(tmp_path: Path) -> None:
    one, other = HONEST.write(tmp_path / "one.db"), HONEST.write(tmp_path / "other.db")
    assert one.read_bytes() == other.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.db", "other.db"]
    with ExportFile(one) as file:
        assert file.bounds() == (0, 17)
        meta = file.meta()
        assert file.checkpoints() == HONEST.checkpoints
    assert (meta["origin"], meta["public_key"]) == (ORIGIN, PINNED)


def test_a_negative_index_is_no_entry(tmp_path: Path) -> None:
    path = HONEST.write(tmp_path / "log.db")
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("insert into leaf values (-1, x'00', x'00')")
    found = verify_file(path, public_key=PINNED)
    assert found.faults == ["entry -1 was planted below the first: no root covers it"]
