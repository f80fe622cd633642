"""Cross-validation by label interval: nothing that trains shares a return with what is tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from marketlake.domain.forecasting.fitted import (
    Fitted,
    FitWindow,
    fit_bins,
    fit_scaler,
    select_columns,
)
from marketlake.domain.forecasting.validation import (
    LabelSpans,
    Split,
    backtest_paths,
    combinatorial_splits,
    lock_final,
    nested,
    purged,
    tune,
    walk_forward_splits,
)
from marketlake.errors import ContractViolation, LookaheadError

from tests.domain.market import weekdays


def spans_of(n_sessions: int, horizons: list[int], *, symbols: int = 2) -> LabelSpans:
    """Rows of every session and symbol; horizons take turns, as after halts."""
    sessions = weekdays(date(2020, 1, 1), n_sessions + max(horizons))
    starts, ends = [], []
    for at in range(n_sessions):
        for symbol in range(symbols):
            starts.append(sessions[at])
            ends.append(sessions[at + horizons[(at + symbol) % len(horizons)]])
    return LabelSpans.of(starts, ends, sessions=sessions)


def returns_of(spans: LabelSpans, rows: np.ndarray) -> set[int]:
    """The sessions whose returns the labels of some rows hold, by plain counting."""
    return {session for row in rows for session in range(spans.start[row] + 1, spans.end[row] + 1)}


made_spans = st.builds(
    spans_of,
    st.integers(40, 120),
    st.lists(st.integers(1, 12), min_size=1, max_size=3),
    symbols=st.integers(1, 3),
)


def assert_clean(spans: LabelSpans, split: Split, embargo: int) -> None:
    tested = returns_of(spans, split.test)
    widened = {day + shift for day in tested for shift in range(-embargo, embargo + 1)}
    assert not widened & returns_of(spans, split.train)


@settings(max_examples=60, deadline=None)
@given(spans=made_spans, folds=st.integers(1, 5), embargo=st.integers(0, 8))
def test_no_training_label_of_a_walk_forward_meets_the_test(
    spans: LabelSpans, folds: int, embargo: int
) -> None:
    try:
        splits = walk_forward_splits(spans, folds=folds, embargo=embargo)
    except ContractViolation:
        assume(False)
    for split in splits:
        assert_clean(spans, split, embargo)
        assert spans.end[split.train].max() <= spans.start[split.test].min() - embargo
    tested = np.concatenate([split.test for split in splits])
    assert len(set(tested)) == len(tested)
    assert spans.start[tested].max() == spans.start.max()


@settings(max_examples=60, deadline=None)
@given(
    spans=made_spans, groups=st.integers(3, 6), tested=st.integers(1, 2), embargo=st.integers(0, 6)
)
def test_no_training_label_of_a_combinatorial_split_meets_the_test(
    spans: LabelSpans, groups: int, tested: int, embargo: int
) -> None:
    try:
        splits = combinatorial_splits(spans, groups=groups, tested=tested, embargo=embargo)
    except ContractViolation:
        assume(False)
    assert len(splits) == comb(groups, tested)
    for split in splits:
        assert_clean(spans, split, embargo)
    uses = Counter(row for split in splits for row in split.test)
    assert set(uses.values()) == {comb(groups - 1, tested - 1)}
    assert len(uses) == len(spans)


@settings(max_examples=30, deadline=None)
@given(spans=made_spans, cut=st.floats(0.3, 0.9), embargo=st.integers(0, 6))
def test_only_rows_that_meet_the_test_or_its_embargo_are_purged(
    spans: LabelSpans, cut: float, embargo: int
) -> None:
    middle = int(cut * spans.start.max())
    train = np.flatnonzero(spans.start != middle)
    test = np.flatnonzero(spans.start == middle)
    split = purged(spans, train=train, test=test, groups=(0,), embargo=embargo)
    days = returns_of(spans, test)
    widened = {day + shift for day in days for shift in range(-embargo, embargo + 1)}
    expected = [row for row in train if not widened & returns_of(spans, np.array([row]))]
    assert split.train.tolist() == expected


def test_a_rolling_walk_forward_trains_on_no_older_sessions() -> None:
    spans = spans_of(100, [1])
    for split in walk_forward_splits(spans, folds=4, embargo=0, train_sessions=15):
        assert spans.start[split.test].min() - spans.start[split.train].min() <= 15


def test_backtest_paths_use_each_test_of_each_group_once() -> None:
    splits = combinatorial_splits(spans_of(120, [1]), groups=6, tested=2, embargo=0)
    paths = backtest_paths(splits)
    assert len(paths) == 5  # Lopez de Prado 2018, 12.4: N = 6, k = 2 gives 15 splits, 5 paths
    assert len(splits) == 15
    used = [(group, split) for path in paths for group, split in path.items()]
    assert len(used) == len(set(used)) == 30
    assert all(group in splits[split].groups for group, split in used)


@pytest.mark.parametrize("make", ["walk_forward", "combinatorial"])
def test_purge_0_is_refused_when_labels_overlap(make: str) -> None:
    def cut(spans: LabelSpans) -> list[Split]:
        if make == "walk_forward":
            return walk_forward_splits(spans, folds=3, embargo=0, purge=False)
        return combinatorial_splits(spans, groups=4, tested=2, embargo=0, purge=False)

    with pytest.raises(LookaheadError, match="purge=0 and 8 training rows whose labels overlap"):
        cut(spans_of(80, [5]))
    # One session ahead, labels of neighbours share no return: there is nothing to purge.
    splits = cut(spans_of(80, [1]))
    for split in splits:
        assert_clean(spans_of(80, [1]), split, 0)


def test_a_window_that_leaves_nothing_to_train_on_is_refused() -> None:
    with pytest.raises(ContractViolation, match="load more history"):
        walk_forward_splits(spans_of(20, [10]), folds=3, embargo=5)


def test_spans_off_the_calendar_or_of_no_length_are_refused() -> None:
    monday, tuesday, wednesday = weekdays(date(2022, 8, 22), 3)
    for starts, ends in (([monday], [monday]), ([date(2022, 8, 21)], [tuesday])):
        with pytest.raises(ContractViolation, match="label spans"):
            LabelSpans.of(starts, ends, sessions=[monday, tuesday, wednesday])


# --------------------------------------------------------------------------------------- later data

ROLLING_SESSIONS = 25
Splitter = Callable[[LabelSpans, int], list[Split]]
"""From spans and an embargo."""


def final_split(spans: LabelSpans, embargo: int) -> list[Split]:
    first = spans.sessions[len(spans.sessions) // 2]
    development, final = lock_final(spans, first_session=first, embargo=embargo)
    return [Split(development, final.open("a"), (0,))]


SPLITTERS: dict[str, Splitter] = {
    "walk_forward": lambda spans, embargo: walk_forward_splits(spans, folds=3, embargo=embargo),
    "rolling": lambda spans, embargo: walk_forward_splits(
        spans, folds=3, embargo=embargo, train_sessions=ROLLING_SESSIONS
    ),
    "combinatorial": lambda spans, embargo: combinatorial_splits(
        spans, groups=5, tested=2, embargo=embargo
    ),
    "final": final_split,
}


def mangled(spans: LabelSpans, at: int, seed: int) -> LabelSpans:
    """Let labels that end after a session end anywhere after it, and give each such row a double.

    The rows that were there keep their numbers.
    """
    rng = np.random.default_rng(seed)
    later = np.tile(np.flatnonzero(spans.end > at), 2)
    begun = spans.start[later]
    ends = rng.integers(np.maximum(begun, at) + 1, len(spans.sessions))
    known, n = spans.end <= at, len(later) // 2
    end = spans.end.copy()
    end[~known] = ends[:n]
    return LabelSpans(spans.sessions, np.append(spans.start, begun[n:]), np.append(end, ends[n:]))


def settled(spans: LabelSpans, at: int, embargo: int) -> set[int]:
    """Return the rows that neither overlap a label that ends after a session nor its embargo."""
    begun = spans.start[spans.end > at].min()
    return set(np.flatnonzero(spans.end + embargo <= begun).tolist())


def assert_unmoved(rows: set[int], before: Split, after: Split) -> None:
    assert rows & set(after.train.tolist()) == rows & set(before.train.tolist())
    assert rows & set(after.test.tolist()) == rows & set(before.test.tolist())


def split_or_give_up(make: Splitter, spans: LabelSpans, embargo: int) -> list[Split]:
    try:
        return make(spans, embargo)
    except ContractViolation:
        assume(False)
        raise


def assert_splits_stay(make: Splitter, spans: LabelSpans, at: int, embargo: int, seed: int) -> None:
    """Raise where a settled row changes sides when only labels that end later do.

    All functions but ``lock_final`` cut the sessions that have rows into equal runs, so their
    bounds depend on how many there are: a longer history is another partition by construction. Here
    every session keeps its rows, and with them the bounds stay.
    """
    before = split_or_give_up(make, spans, embargo)
    after = split_or_give_up(make, mangled(spans, at, seed), embargo)
    rows = settled(spans, at, embargo)
    for one, other in zip(before, after, strict=True):
        assert_unmoved(rows, one, other)


@pytest.mark.parametrize("name", SPLITTERS)
@settings(max_examples=40, deadline=None)
@given(
    spans=made_spans,
    share=st.floats(0.4, 0.95),
    embargo=st.integers(0, 4),
    seed=st.integers(0, 10_000),
)
def test_no_split_changes_at_or_before_a_session_with_labels_that_end_later(
    name: str, spans: LabelSpans, share: float, embargo: int, seed: int
) -> None:
    at = int(share * spans.start.max())
    assert_splits_stay(SPLITTERS[name], spans, at, embargo, seed)


@pytest.mark.parametrize("name", SPLITTERS)
@settings(max_examples=40, deadline=None)
@given(spans=made_spans, share=st.floats(0.4, 0.95), embargo=st.integers(0, 4))
def test_a_split_with_its_bounds_given_is_the_same_without_the_labels_that_end_later(
    name: str, spans: LabelSpans, share: float, embargo: int
) -> None:
    """With rows gone the equal runs are others, so each split is made anew by ``purged``.

    That the functions do nothing else is the first assertion.
    """

    def given_bounds(known: LabelSpans, tested: set[int], oldest: int) -> Split:
        is_tested = np.isin(known.start, list(tested))
        is_trained = ~is_tested & (known.start >= oldest)
        if name != "combinatorial":
            is_trained &= known.start < min(tested)
        rows = {"train": np.flatnonzero(is_trained), "test": np.flatnonzero(is_tested)}
        return purged(known, **rows, groups=(0,), embargo=embargo)

    at = int(share * spans.start.max())
    rows = settled(spans, at, embargo)
    kept = np.flatnonzero(spans.end <= at)
    for split in split_or_give_up(SPLITTERS[name], spans, embargo):
        tested = set(spans.start[split.test].tolist())
        oldest = min(tested) - ROLLING_SESSIONS if name == "rolling" else 0
        whole = given_bounds(spans, tested, oldest)
        assert whole.train.tolist() == split.train.tolist()
        assert whole.test.tolist() == split.test.tolist()
        if rows & set(split.train.tolist()) and rows & set(split.test.tolist()):
            early = given_bounds(spans.rows(kept), tested, oldest)
            assert_unmoved(rows, split, Split(kept[early.train], kept[early.test], (0,)))


def test_a_planted_split_by_the_number_of_rows_is_caught() -> None:
    def by_rows(spans: LabelSpans, embargo: int) -> list[Split]:
        ordered = np.argsort(spans.start, kind="stable")
        train, test = np.split(ordered, [7 * len(spans) // 10])
        return [purged(spans, train=train, test=test, groups=(0,), embargo=embargo)]

    with pytest.raises(AssertionError):
        assert_splits_stay(by_rows, spans_of(100, [3]), 90, 0, seed=1)


# ------------------------------------------------------------------------------------------- nested


def test_tuning_sees_only_rows_of_its_training_window() -> None:
    spans = spans_of(120, [4])
    outer = walk_forward_splits(spans, folds=3, embargo=2)
    seen: dict[int, set[int]] = {}
    current = 0

    def score(candidate: int, fit: np.ndarray, test: np.ndarray) -> float:
        seen.setdefault(current, set()).update(fit, test)
        assert not returns_of(spans, fit) & returns_of(spans, test)
        return -abs(candidate - 2)

    for number, split in enumerate(outer):
        current = number
        tuned = tune(
            [1, 2, 3],
            spans=spans,
            train=split.train,
            inner=lambda inside: walk_forward_splits(inside, folds=2, embargo=2),
            score=score,
        )
        assert tuned.chosen == 1
        assert tuned.trials == 3
        assert tuned.window.known_by <= spans.sessions[spans.start[split.test].min()]
        assert seen[number] <= set(split.train)
        assert not returns_of(spans, np.array(sorted(seen[number]))) & returns_of(spans, split.test)


def test_what_nested_tuning_chooses_does_not_change_with_later_data() -> None:
    spans = spans_of(120, [4])
    rng = np.random.default_rng(1)
    y, x = rng.normal(size=len(spans)), rng.normal(size=(len(spans), 5))

    def chosen(y: np.ndarray) -> list[tuple[int, tuple[tuple[float, ...], ...]]]:
        def score(column: int, fit: np.ndarray, test: np.ndarray) -> float:
            slope = float(x[fit, column] @ y[fit])
            return float(np.sign(slope) * (x[test, column] @ y[test]))

        found = nested(
            range(5),
            spans=spans,
            outer=walk_forward_splits(spans, folds=3, embargo=0),
            inner=lambda inside: walk_forward_splits(inside, folds=2, embargo=0),
            score=score,
        )
        return [(tuned.chosen, tuned.scores) for _, tuned in found]

    whole = chosen(y)
    for number, split in enumerate(walk_forward_splits(spans, folds=3, embargo=0)):
        changed = y.copy()
        changed[spans.start >= spans.start[split.test].min()] = rng.normal(size=1)
        assert chosen(changed)[: number + 1] == whole[: number + 1]


def test_the_final_window_opens_for_one_configuration_only() -> None:
    spans = spans_of(100, [5])
    first = spans.sessions[80]
    development, final = lock_final(spans, first_session=first)
    assert spans.end[development].max() <= 80
    rows = final.open("a")
    assert (spans.start[rows] >= 80).all()
    assert final.open("a") is rows
    with pytest.raises(LookaheadError, match="looked at once"):
        final.open("b")


# ------------------------------------------------------------------------------------------- fitted


def test_a_fitted_value_is_not_given_for_labels_that_it_saw() -> None:
    days = weekdays(date(2022, 1, 3), 20)
    fitted = Fitted("value", FitWindow.of(days[:10], days[5:15]))
    assert fitted.window.spans == ((days[0], days[14]),)
    assert fitted.on(days[14:15], days[19:20]) == "value"
    assert fitted.at(days[14]) == "value"
    with pytest.raises(LookaheadError, match="purge the training rows"):
        fitted.on(days[13:14], days[19:20])
    with pytest.raises(LookaheadError, match="when the last label was known"):
        fitted.at(days[13])


def test_a_fit_around_a_tested_run_keeps_the_gap_in_its_window() -> None:
    days = weekdays(date(2022, 1, 3), 30)
    window = FitWindow.of([*days[:5], *days[20:25]], [*days[1:6], *days[21:26]])
    assert window.spans == ((days[0], days[5]), (days[20], days[25]))
    assert not window.meets(days[5], days[20])
    assert window.meets(days[5], days[21])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), at=st.integers(60, 90))
def test_nothing_that_is_fitted_changes_with_rows_after_its_window(seed: int, at: int) -> None:
    rng = np.random.default_rng(seed)
    spans = spans_of(100, [3], symbols=3)
    X = rng.normal(size=(len(spans), 4))
    X[rng.random(X.shape) < 0.1] = np.nan
    y = rng.normal(size=len(spans))
    known = spans.end <= at
    changed, later = X.copy(), y.copy()
    changed[~known], later[~known] = 1e3 * rng.normal(size=(int((~known).sum()), 4)), -7.0
    for one, other in ((X, changed),):
        a, b = fit_scaler(one[known]), fit_scaler(other[known])
        assert a.means.tobytes() == b.means.tobytes()
        assert a.scales.tobytes() == b.scales.tobytes()
        for edges, again in zip(
            fit_bins(one[known], bins=8), fit_bins(other[known], bins=8), strict=True
        ):
            assert edges.tobytes() == again.tobytes()
        assert np.array_equal(
            select_columns(one[known], y[known], keep=2),
            select_columns(other[known], later[known], keep=2),
        )


def test_a_scaler_is_that_of_scikit_learn_and_leaves_missing_values_at_the_mean() -> None:
    from sklearn.preprocessing import StandardScaler

    X = np.random.default_rng(3).normal(5.0, 2.0, (200, 3))
    X[:, 2] = 4.0
    scaler = fit_scaler(X, clip=100.0)
    np.testing.assert_allclose(scaler.apply(X), StandardScaler().fit_transform(X), atol=1e-12)
    assert scaler.apply(np.full((1, 3), np.nan)).tolist() == [[0.0, 0.0, 0.0]]
    sequence = X.reshape(100, 2, 3)
    assert fit_scaler(sequence, clip=100.0).apply(sequence).reshape(200, 3).tobytes() == (
        scaler.apply(X).tobytes()
    )


def test_bin_edges_cut_a_column_into_equally_full_bins() -> None:
    column = np.arange(100.0)[::-1, None]
    (edges,) = fit_bins(column, bins=4)
    assert edges.tolist() == [24.0, 49.0, 74.0]
    (none,) = fit_bins(np.full((5, 1), np.nan), bins=4)
    assert none.size == 0


def test_selection_takes_the_strongest_columns_and_no_copies() -> None:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(500, 5))
    y = 2 * X[:, 3] + X[:, 1] + 0.1 * rng.normal(size=500)
    X[:, 0] = 5 * X[:, 3] + 1e-3 * rng.normal(size=500)  # a copy of the strongest
    X[:, 4] = 1.0
    found = select_columns(X, y, keep=2)
    assert set(found) in ({0, 1}, {3, 1})
    assert len(select_columns(X, y, keep=5)) == 3  # the copy and the constant stay out
