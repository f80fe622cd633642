from __future__ import annotations

from datetime import date

import numpy as np
import pytest
from marketlake.errors import ConfigError
from marketlake.services.sandbox.faults import PLANTED, FaultBook, apply_planted, planted_at
from marketlake.services.sandbox.packaged import packaged_world
from marketlake.services.sandbox.world import View

REQUEST = {"namespace": "n", "vendor": "yahoo", "path": "q/v8/finance/chart/KO", "symbol": "KO"}


@pytest.fixture(scope="module")
def view() -> View:
    seen = packaged_world(1, benchmark="^GSPC").view("KO", date(2022, 12, 28))
    assert seen is not None
    return seen


def test_a_rule_hits_where_it_applies_and_as_often_as_asked() -> None:
    book = FaultBook()
    book.add({"kind": "http_429", "namespace": "n", "symbol": "KO", "times": 2})
    assert book.wire_fault(**{**REQUEST, "namespace": "other"}) is None
    assert book.wire_fault(**{**REQUEST, "symbol": "PEP"}) is None
    hits = [book.wire_fault(**REQUEST) for _ in range(3)]
    assert [hit is not None for hit in hits] == [True, True, False]


def test_resetting_a_namespace_leaves_the_others() -> None:
    book = FaultBook()
    book.add({"kind": "reset", "namespace": "n"})
    book.add({"kind": "reset", "namespace": "m"})
    book.reset("n")
    assert book.wire_fault(**REQUEST) is None
    assert book.wire_fault(**{**REQUEST, "namespace": "m"}) is not None


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="http_429"):
        FaultBook().add({"kind": "gremlins"})


def test_data_faults_change_only_their_cells(view: View) -> None:
    book = FaultBook()
    day = np.datetime64("2022-12-20")
    book.add({"kind": "outlier", "args": {"sessions": ["2022-12-20"], "factor": 100}})
    edited = book.edit(view, **REQUEST)
    hit = view.sessions == day
    assert np.allclose(edited.close_usd[hit], view.close_usd[hit] * 100.0)
    assert np.array_equal(edited.close_usd[~hit], view.close_usd[~hit])
    book.reset()
    book.add({"kind": "missing_days", "args": {"sessions": ["2022-12-20"]}})
    assert day not in book.edit(view, **REQUEST).sessions
    book.reset()
    book.add({"kind": "null_row", "args": {"sessions": ["2022-12-20"]}})
    nulled = book.edit(view, **REQUEST)
    assert np.isnan(nulled.close_usd[hit]).all()
    assert not np.isnan(nulled.close_usd[~hit]).any()


def test_planted_faults_show_at_their_session_and_are_corrected_by_the_next() -> None:
    world = packaged_world(20221228, benchmark="^GSPC")
    for fault in PLANTED:
        at, later = (
            world.view(fault.symbol, fault.session),
            world.view(fault.symbol, date(2022, 12, 28)),
        )
        assert at is not None
        assert later is not None
        assert not _same(apply_planted(at, vendor=fault.vendor), at), fault.symbol
        assert _same(apply_planted(later, vendor=fault.vendor), later)
        assert _same(apply_planted(at, vendor="another"), at)
    day = date(2022, 12, 27)
    assert [fault.symbol for fault in planted_at(day, vendor="yahoo")] == ["KO", "PFE"]
    assert [fault.symbol for fault in planted_at(day)] == ["KO", "PFE", "UNH"]
    assert planted_at(date(2022, 12, 28)) == []


def _same(one: View, two: View) -> bool:
    names = ("sessions", "open_usd", "high_usd", "low_usd", "close_usd", "volume_shares")
    return all(np.array_equal(getattr(one, name), getattr(two, name)) for name in names)
