"""No number looks ahead: every public computation of the domain, and planted leaks that must fail.

To add a computation to the domain, add it to ``COMPUTATIONS`` (or, with its reason, to
``EXEMPT``): a test lists what is missing.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from datetime import date
from types import ModuleType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from marketlake.contracts.factors import FACTORS
from marketlake.contracts.features import FEATURES, MAX_LOOKBACK_SESSIONS
from marketlake.domain import features, forecasting, prices, regimes, risk, rolling
from marketlake.domain.forecasting.assessment import Profile
from marketlake.domain.forecasting.classifiers import Samples, classifier
from marketlake.domain.forecasting.fitted import FitWindow
from marketlake.domain.forecasting.training import Training
from marketlake.errors import ContractViolation, LookaheadError

from tests.domain.market import BENCHMARK, Market, made_market, weekdays
from tests.property.lookahead import (
    CHANGES,
    Computation,
    LookaheadFound,
    assert_filled_later,
    assert_no_lookahead,
)

HORIZON = 5
SMALL = Profile(
    "small",
    {"linear": {}, "lightgbm": {"rounds": 15, "min_data_in_leaf": 50}},
    seeds=(7,),
    folds=2,
    lags=2,
)
KEY = ["session", "symbol"]


def feature_rows(market: Market) -> pl.DataFrame:
    return features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=market.sessions[0],
    ).with_columns(known_on="session")


def label_rows(market: Market) -> pl.DataFrame:
    return forecasting.labels(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        horizon=HORIZON,
    ).with_columns(known_on="label_end")


def decided_rows(market: Market) -> pl.DataFrame:
    """Each return by the session of the decision that earns it."""
    return forecasting.next_returns(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )


def next_return_rows(market: Market) -> pl.DataFrame:
    """Each return by the session that it is of: the second after its row's."""
    earned = decided_rows(market)
    after = pl.DataFrame({"session": market.sessions[:-2], "known_on": market.sessions[2:]})
    return earned.join(after, on="session", how="inner")


def return_rows(market: Market) -> pl.DataFrame:
    panel = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )
    return pl.DataFrame(panel.returns(), schema=list(market.symbols)).with_columns(
        known_on=pl.Series(market.sessions)
    )


def whole(bars: pl.DataFrame) -> pl.DataFrame:
    close = pl.col("close_usd")
    return bars.with_columns(
        open_usd=0.99 * close,
        high_usd=1.01 * close,
        low_usd=0.98 * close,
        volume_shares=1e6 / close,
    )


def factor_rows(market: Market) -> pl.DataFrame:
    return features.compute_factors(
        whole(market.bars),
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols,
        first_output=market.sessions[0],
        members=market.bars.select(KEY),
    ).with_columns(known_on="session")


def whole_bar_rows(market: Market) -> pl.DataFrame:
    laid_out = prices.whole_bars(
        whole(market.bars), market.actions, sessions=market.sessions, symbols=market.symbols
    )
    names = [f"{symbol} {number}" for number in range(7) for symbol in market.symbols]
    return pl.DataFrame(np.vstack(laid_out.arrays).T, schema=names).with_columns(
        known_on=pl.Series(market.sessions)
    )


def adjusted_rows(market: Market) -> pl.DataFrame:
    """Adjusted closes as of each of some sessions, with the later bars in sight."""
    parts = []
    for session in market.sessions[60::20]:
        adjusted = prices.adjusted_closes(
            market.bars,
            market.actions,
            sessions=market.window(session, 60),
            symbols=market.symbols,
        )
        parts.append(
            pl.DataFrame(adjusted, schema=list(market.symbols)).with_columns(
                known_on=pl.lit(session)
            )
        )
    return pl.concat(parts)


def move_rows(market: Market) -> pl.DataFrame:
    bars = market.bars.sort("symbol", "session").with_columns(
        previous_close_usd=pl.col("close_usd").shift(1).over("symbol", order_by="session")
    )
    return bars.select(*KEY, prices.close_moves_pct(bars, market.actions), known_on="session")


def simulated_rows(market: Market) -> pl.DataFrame:
    marks = prices.simulated(
        market.bars, "adjusted_close", sessions=market.sessions, symbols=market.symbols
    )
    return pl.DataFrame(marks, schema=list(market.symbols)).with_columns(
        known_on=pl.Series(market.sessions)
    )


def simulated_adjustment_rows(market: Market) -> pl.DataFrame:
    panel = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )
    marks = prices.simulated_adjustments(market.actions, panel)
    return pl.DataFrame(marks, schema=list(market.symbols)).with_columns(
        known_on=pl.Series(market.sessions)
    )


def risk_rows(market: Market) -> pl.DataFrame:
    parts = [
        risk.book_risk(
            market.bars,
            market.actions,
            market.members,
            session=session,
            sessions=market.window(session, 101),
            benchmark=BENCHMARK,
            volatility_window=20,
            book_value_usd=1e6,
        )
        for session in market.sessions[101::23]
    ]
    return pl.concat(parts).with_columns(known_on="session")


def book_return_rows(market: Market) -> pl.DataFrame:
    parts = [
        risk.book_returns(
            market.bars,
            market.actions,
            market.members,
            sessions=market.window(session, 60),
        ).with_columns(known_on=pl.lit(session))
        for session in market.sessions[60::20]
    ]
    return pl.concat(parts)


def benchmark_of(market: Market) -> pl.DataFrame:
    return market.bars.filter(pl.col("symbol") == BENCHMARK).sort("session")


def benchmark_by_session(market: Market) -> pl.DataFrame:
    """A row for every session, some of them without a close."""
    every = pl.DataFrame({"session": market.sessions}).with_row_index("at")
    gaps = pl.when(pl.col("at") % 37 != 5).then("close_usd").alias("close_usd")
    return every.join(benchmark_of(market), on="session", how="left").sort("at").with_columns(gaps)


def regime_rows(market: Market) -> pl.DataFrame:
    """Many a session's regime with its whole evidence and history, or why it was refused."""
    index = benchmark_by_session(market)
    rows = []
    for end in range(regimes.SESSIONS_NEEDED, index.height + 1, 3):
        try:
            said = _canonical(regimes.classify(index.head(end)))
        except ContractViolation as refusal:
            said = str(refusal)
        rows.append({"known_on": index["session"][end - 1], "document": said})
    return pl.DataFrame(rows)


def _canonical(document: Any) -> str:
    return json.dumps(document, sort_keys=True, allow_nan=False)


def _train(market: Market, as_of: date) -> Training:
    known = market.until(as_of)
    return forecasting.train(
        forecasting.Inputs(
            feature_rows(market).filter(pl.col("session") <= as_of).drop("known_on"),
            factor_rows(market).filter(pl.col("session") <= as_of).drop("known_on"),
            label_rows(known).drop("known_on"),
        ),
        next_returns=next_return_rows(known).drop("known_on"),
        as_of=as_of,
        sessions=known.sessions,
        horizon=HORIZON,
        profile=SMALL,
        seed=7,
        cost_bps=5.0,
    )


def model_rows(market: Market) -> pl.DataFrame:
    """The whole model document, its promotion and its accuracy table, as of one session."""
    as_of = market.sessions[285]
    effective = weekdays(as_of, 2)[1]
    document = _train(market, as_of).document
    text = _canonical(document)
    promoted = forecasting.promotion_row(
        document, model_sha256=hashlib.sha256(text.encode()).hexdigest(), calendar_next=effective
    )
    accuracy = forecasting.accuracy_rows(document, session=as_of, champion=promoted["champion"])
    return pl.DataFrame(
        {
            "known_on": [as_of],
            "document": [text],
            "promotion": [repr(promoted)],
            "accuracy": [repr(accuracy.rows())],
        }
    )


def signal_rows(market: Market) -> pl.DataFrame:
    """The signals of every session after the training, none where nobody can be predicted."""
    as_of = market.sessions[285]
    training = _train(market, as_of)
    predictor = forecasting.Predictor.of(training.files)
    rows = feature_rows(market).drop("known_on")
    factors = factor_rows(market).drop("known_on")
    parts = []
    for session in market.sessions[286:]:
        try:
            signals, _ = forecasting.predict(
                training.document,
                predictor,
                session=session,
                model_sha256="x",
                features=rows.filter(pl.col("session").is_between(market.sessions[280], session)),
                factors=factors.filter(pl.col("session") == session),
            )
        except ContractViolation:
            continue
        parts.append(signals)
    return pl.concat(parts).with_columns(known_on="session")


def regime_of_session_rows(market: Market) -> pl.DataFrame:
    """Every session's regime, computed at once."""
    return regimes.by_session(benchmark_by_session(market)).with_columns(known_on="session")


COMPUTATIONS: dict[str, Computation] = {
    "features.compute_features": feature_rows,
    "features.compute_factors": factor_rows,
    "forecasting.labels": label_rows,
    "forecasting.next_returns": next_return_rows,
    "prices.panel": return_rows,
    "prices.whole_bars": whole_bar_rows,
    "prices.adjusted_closes": adjusted_rows,
    "prices.close_moves_pct": move_rows,
    "prices.simulated": simulated_rows,
    "prices.simulated_adjustments": simulated_adjustment_rows,
    "risk.book_risk": risk_rows,
    "risk.book_returns": book_return_rows,
}
TRAINED: dict[str, Computation] = {
    "forecasting.train": model_rows,
    "forecasting.promotion_row": model_rows,
    "forecasting.accuracy_rows": model_rows,
    "forecasting.predict": signal_rows,
}
# These have a test of their own below.
OTHERS = {"forecasting.champion_row", "regimes.by_session", "regimes.classify"}
EXEMPT = {
    "features.sessions_needed": "sees the calendar only",
    "prices.any_within": "sees marks by row, no sessions",
    "forecasting.limits_of": "sees one signal",
    "forecasting.walked_bars": "deals out the whole history anew on purpose, for the null panel",
    "prices.unadjust_splits": "undoes a vendor's adjustment: needs the splits up to the fetch",
    "prices.unadjust_dividends": "as unadjust_splits",
    **{
        f"rolling.{name}": "sees single windows, no sessions"
        for name in ("count", "enough", "mean", "std")
    },
    "risk.value_at_risk": "sees returns only, no sessions",
    "risk.conditional_value_at_risk": "sees returns only, no sessions",
    "risk.max_drawdown": "sees returns only, no sessions",
}


def _public(module: ModuleType) -> set[str]:
    short = module.__name__.removeprefix("marketlake.domain.")
    return {
        f"{short}.{name}"
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and value.__module__.startswith(module.__name__)
    }


def test_every_public_computation_of_the_domain_is_in_the_harness() -> None:
    public = set().union(
        *(_public(item) for item in (features, forecasting, prices, regimes, risk, rolling))
    )
    assert public == {*COMPUTATIONS, *TRAINED, *OTHERS, *EXEMPT}


def test_every_feature_of_the_catalog_is_among_the_checked_columns() -> None:
    market = made_market(1)
    assert {item.name for item in FEATURES} <= set(feature_rows(market).columns)
    assert {item.name for item in FACTORS} <= set(factor_rows(market).columns)
    filled = feature_rows(made_market(1)).drop_nulls()
    assert filled.height > 50, "rows with every feature there are needed for the check to bite"


@pytest.mark.parametrize("name", COMPUTATIONS)
@settings(max_examples=6, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(262, 325))
def test_nothing_known_by_a_session_changes_with_what_comes_later(
    name: str, seed: int, at: int
) -> None:
    market = made_market(seed)
    assert_no_lookahead(COMPUTATIONS[name], market, market.sessions[at])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(0, 327))
def test_no_decision_is_filled_at_a_close_that_it_knew(seed: int, at: int) -> None:
    market = made_market(seed)
    assert_filled_later(decided_rows, market, market.sessions[at])


@pytest.mark.parametrize(
    ("compute", "at"),
    [
        (model_rows, 285),
        pytest.param(model_rows, 300, marks=pytest.mark.slow),
        pytest.param(signal_rows, 286, marks=pytest.mark.slow),
        (signal_rows, 310),
    ],
)
def test_no_model_and_no_signal_changes_with_what_comes_later(
    compute: Computation, at: int
) -> None:
    market = made_market(3, n_symbols=12)
    assert_no_lookahead(compute, market, market.sessions[at])


@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 10_000), after=st.integers(0, 40))
def test_no_regime_changes_with_what_comes_later(seed: int, after: int) -> None:
    market = made_market(seed, n_sessions=640, n_symbols=1)
    cut = market.sessions[regimes.SESSIONS_NEEDED + after]
    assert_no_lookahead(regime_rows, market, cut)
    assert_no_lookahead(regime_of_session_rows, market, cut)


def test_a_session_s_regime_is_the_one_that_classifying_it_gives() -> None:
    market = made_market(8, n_sessions=640, n_symbols=1)
    index = benchmark_by_session(market)
    at_once = dict(regimes.by_session(index).iter_rows())
    history = regimes.classify(index)["history"]
    assert len(history) > 30
    for state in history:
        assert at_once[date.fromisoformat(state["session"])] == state["regime"]


@settings(max_examples=100, deadline=None)
@given(trained=st.lists(st.integers(0, 20), max_size=6, unique=True), at=st.integers(0, 25))
def test_no_promotion_rules_before_it_takes_effect(trained: list[int], at: int) -> None:
    days = weekdays(date(2020, 1, 1), 30)
    rows = [
        {"as_of": days[day], "effective_from": days[day + 1], "passed_gate": True}
        for day in trained
    ]
    ruling = forecasting.champion_row(rows, session=days[at])
    before = [day for day in trained if day < at]
    expected = rows[trained.index(max(before))] if before else None
    assert ruling == expected


@pytest.mark.parametrize("late", ["features", "labels"])
def test_training_refuses_what_was_not_known(late: str) -> None:
    market = made_market(5)
    as_of = market.sessions[300]
    rows, ends = feature_rows(market), label_rows(market)
    if late == "features":
        ends = ends.filter(pl.col("label_end") <= as_of)
    else:
        rows = rows.filter(pl.col("session") <= as_of)
    with pytest.raises(LookaheadError, match="training"):
        forecasting.train(
            forecasting.Inputs(rows, factor_rows(market), ends),
            next_returns=next_return_rows(market),
            as_of=as_of,
            sessions=market.sessions,
            horizon=HORIZON,
            profile=SMALL,
            seed=1,
            cost_bps=5.0,
        )


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(MAX_LOOKBACK_SESSIONS, 329))
def test_a_session_computed_alone_equals_the_full_recompute_bit_for_bit(seed: int, at: int) -> None:
    market = made_market(seed)
    session = market.sessions[at]
    alone = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.window(session, MAX_LOOKBACK_SESSIONS + 1),
        symbols=market.symbols,
        benchmark=BENCHMARK,
        first_output=session,
    )
    full = feature_rows(market).drop("known_on").filter(pl.col("session") == session)
    assert alone.equals(full)
    names = [item.name for item in FEATURES]
    assert (
        alone.select(names).fill_null(np.nan).to_numpy().tobytes()
        == full.select(names).fill_null(np.nan).to_numpy().tobytes()
    )


def test_the_other_symbols_change_nothing_but_the_rank_and_its_mark() -> None:
    market = made_market(6)
    alone = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=market.symbols[:1],
        benchmark=BENCHMARK,
        first_output=market.sessions[0],
    )
    among = feature_rows(market).filter(pl.col("symbol") == market.symbols[0])
    of_others = ["rank_return_20d", "simulated"]
    assert alone.drop(of_others).equals(among.drop(*of_others, "known_on"))


def test_the_order_of_the_symbols_changes_nothing() -> None:
    market = made_market(6)
    names = market.symbols[::-1]
    turned = features.compute_features(
        market.bars,
        market.actions,
        sessions=market.sessions,
        symbols=names,
        benchmark=BENCHMARK,
        first_output=market.sessions[0],
    )
    assert turned.equals(feature_rows(market).drop("known_on"))


# ------------------------------------------------------------------------------------ planted leaks


def _wide(market: Market) -> pl.DataFrame:
    panel = prices.panel(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )
    return pl.DataFrame(panel.returns(), schema=list(market.symbols)).with_columns(
        pl.all().fill_nan(None), known_on=pl.Series(market.sessions)
    )


def leak_of_the_next_return(market: Market) -> pl.DataFrame:
    return _wide(market).with_columns(pl.exclude("known_on").shift(-1))


def leak_of_a_centred_window(market: Market) -> pl.DataFrame:
    centred = pl.exclude("known_on").rolling_mean(5, min_samples=1, center=True)
    return _wide(market).with_columns(centred)


def leak_of_a_full_sample_scaler(market: Market) -> pl.DataFrame:
    column = pl.exclude("known_on")
    return _wide(market).with_columns((column - column.mean()) / column.std())


def leak_of_a_backward_fill(market: Market) -> pl.DataFrame:
    return _wide(market).with_columns(pl.exclude("known_on").fill_null(strategy="backward"))


def leak_of_a_full_sample_rank(market: Market) -> pl.DataFrame:
    return _wide(market).with_columns(pl.exclude("known_on").rank() / pl.len())


def leak_of_smoothed_regimes(market: Market) -> pl.DataFrame:
    """A filter run forwards and then backwards, as smoothed state probabilities are."""
    index = benchmark_of(market)
    calm = (index["close_usd"].pct_change().abs() < 0.01).cast(pl.Float64)
    smoothed = calm.ewm_mean(alpha=0.2).reverse().ewm_mean(alpha=0.2).reverse()
    return pl.DataFrame({"known_on": index["session"], "calm": smoothed})


def leak_of_a_label_at_its_own_session(market: Market) -> pl.DataFrame:
    return label_rows(market).with_columns(known_on="session")


def leak_of_price_levels_adjusted_with_later_actions(market: Market) -> pl.DataFrame:
    adjusted = prices.adjusted_closes(
        market.bars, market.actions, sessions=market.sessions, symbols=market.symbols
    )
    return pl.DataFrame(adjusted, schema=list(market.symbols)).with_columns(
        known_on=pl.Series(market.sessions)
    )


def leak_of_members_known_later(market: Market) -> pl.DataFrame:
    """A universe of the symbols that are still there at the end."""
    last = market.bars.filter(pl.col("session") == market.sessions[-1])["symbol"]
    kept = [symbol for symbol in market.symbols if symbol in set(last)]
    return return_rows(market).select(
        "known_on", pl.mean_horizontal(pl.col(kept).fill_nan(None)).alias("mean")
    )


def leak_of_a_same_bar_fill(market: Market) -> pl.DataFrame:
    """A position that is filled at the close it was decided by, and earns from there."""
    earned = _wide(market).with_columns(pl.exclude("known_on").shift(-1))
    return earned.rename({"known_on": "session"}).unpivot(
        index="session", variable_name="symbol", value_name="next_return"
    )


LEAKS = [
    leak_of_the_next_return,
    leak_of_a_centred_window,
    leak_of_a_full_sample_scaler,
    leak_of_a_backward_fill,
    leak_of_a_full_sample_rank,
    leak_of_smoothed_regimes,
    leak_of_a_label_at_its_own_session,
    leak_of_price_levels_adjusted_with_later_actions,
]


@pytest.mark.parametrize("leak", LEAKS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(60, 100))
def test_a_planted_leak_is_caught_every_time(leak: Computation, seed: int, at: int) -> None:
    market = made_market(seed)
    cut = market.sessions[at]
    with pytest.raises(LookaheadFound, match="mangled"):
        assert_no_lookahead(leak, market, cut, changes={"mangled": CHANGES["mangled"]})


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), at=st.integers(0, 327))
def test_a_planted_same_bar_fill_is_caught_every_time(seed: int, at: int) -> None:
    market = made_market(seed)
    with pytest.raises(LookaheadFound, match="next_return"):
        assert_filled_later(leak_of_a_same_bar_fill, market, market.sessions[at])


def test_a_planted_universe_of_survivors_is_caught() -> None:
    market = made_market(8)
    with pytest.raises(LookaheadFound):
        assert_no_lookahead(leak_of_members_known_later, market, market.sessions[300])


@pytest.mark.parametrize("change", CHANGES)
def test_the_plainest_leak_is_caught_by_each_change_alone(change: str) -> None:
    market = made_market(9)
    with pytest.raises(LookaheadFound):
        assert_no_lookahead(
            leak_of_the_next_return,
            market,
            market.sessions[300],
            changes={change: CHANGES[change]},
        )


def _samples(rows: pl.DataFrame) -> Samples:
    names = [item.name for item in FEATURES]
    flat = rows.select(pl.col(names).fill_null(np.nan)).to_numpy()
    return Samples(flat, flat[:, None])


def test_planted_training_on_labels_that_reach_the_test_is_caught() -> None:
    market = made_market(4, n_symbols=12)

    first = market.sessions[290]

    def unpurged(changed: Market) -> pl.DataFrame:
        # Trains on every row before the test by its session, not by when its label was known.
        rows = feature_rows(changed)
        labelled = rows.join(label_rows(changed).drop("known_on"), on=KEY)
        known, tested = labelled.filter(pl.col("session") < first), rows.filter(session_is_tested)
        window = FitWindow.of(known["session"].to_list(), known["label_end"].to_list())
        y = (known["label_return"] > 0).cast(pl.Int64).to_numpy()
        model = classifier("linear").train(_samples(known), y, seed=7, window=window).value
        score = pl.Series("score", model.probability(_samples(tested)))
        return tested.select(*KEY, score, known_on="session")

    session_is_tested = pl.col("session").is_between(first, market.sessions[300])
    with pytest.raises(LookaheadFound, match="score"):
        assert_no_lookahead(unpurged, market, first)
