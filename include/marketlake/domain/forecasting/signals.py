"""From a model document to a promotion, a session's signals and its accuracy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.contracts.factors import CLOSE_ONLY
from marketlake.domain.forecasting import gate
from marketlake.domain.forecasting.predictor import Predictor
from marketlake.domain.forecasting.training import (
    ENSEMBLE,
    MAX_MISSING,
    NAMES,
    centred_scores,
    enough_features,
    joined,
)
from marketlake.errors import ContractViolation, LookaheadError

Document = Mapping[str, Any]


def promotion_row(document: Document, *, model_sha256: str, calendar_next: date) -> dict[str, Any]:
    """Put the training's ensemble to the gate.

    Parameters
    ----------
    document
        A ``core_models__model`` document.
    model_sha256
        Content hash of that document.
    calendar_next
        The first exchange session after the document's ``as_of``.

    Returns
    -------
    dict
        One row of ``core_models__promotion``. An ensemble that does not pass the gate predicts only
        where none that passed is there (:func:`champion_row`), and says so.
    """
    as_of = date.fromisoformat(document["as_of"])
    last_label_end = date.fromisoformat(document["fit_window"]["last_label_end"])
    if calendar_next <= max(as_of, last_label_end):
        raise LookaheadError(
            expected=f"an effective session after {max(as_of, last_label_end)}",
            was=str(calendar_next),
            where="promotion",
            todo="pass the session after the training's as_of",
        )
    # The figures that the gate looks at, with the same interval.
    checks, judged = document["gate"], document["report"]["models"][ENSEMBLE]
    figure = judged["rank_ic"]
    return {
        "as_of": as_of,
        "effective_from": calendar_next,
        "champion": ENSEMBLE,
        "model_sha256": model_sha256,
        "rank_ic": figure["value"],
        "rank_ic_low": figure["low"],
        "rank_ic_high": figure["high"],
        "passed_gate": all(one["passed"] for one in checks),
        "reason": (
            f"{gate.in_words(checks)}; mean out-of-fold rank IC {figure['value']:+.4f} "
            f"[{figure['low']:+.4f}, {figure['high']:+.4f}] over {judged['sessions']} sessions"
        ),
    }


def champion_row(
    promotions: Sequence[Mapping[str, Any]], *, session: date
) -> dict[str, Any] | None:
    """Return the promotion that rules at a session, None if there is none by then.

    It is the last of the ``core_models__promotion`` rows that passed the gate and whose
    ``effective_from`` is not after the session; of two with the same, the one that was trained on
    more. Where none passed, it is the last of those that did not.
    """
    known = [row for row in promotions if row["effective_from"] <= session]
    ruling = max(
        known,
        key=lambda row: (row["passed_gate"], row["effective_from"], row["as_of"]),
        default=None,
    )
    return None if ruling is None else dict(ruling)


def predict(
    document: Document,
    predictor: Predictor,
    *,
    session: date,
    model_sha256: str,
    features: pl.DataFrame,
    factors: pl.DataFrame,
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Score one session's members.

    Parameters
    ----------
    document, predictor, model_sha256
        A ``core_models__model`` document, what was trained with it, and the document's hash.
    session
        The session to predict at, after the document's ``as_of``.
    features
        Rows of ``core_features__daily`` of that session and at least ``predictor.lags - 1`` before.
    factors
        Rows of ``core_factors__daily`` of the session.

    Returns
    -------
    polars.DataFrame
        ``core_signals__signal`` without ``known_at_utc``, sorted by rank. A side is taken only
        where out-of-fold scores this strong beat the base rate; else it is flat.
    list of dict
        Who was not predicted, each with its ``reason``.
    """
    if session <= date.fromisoformat(document["as_of"]):
        raise LookaheadError(
            expected=f"a session after the model's training session {document['as_of']}",
            was=str(session),
            where="predict",
            todo="use the champion whose effective_from is at or before the session",
        )
    today = features.filter(pl.col("session") == session)
    if today.is_empty():
        raise ContractViolation(
            expected=f"features of {session}",
            was=f"features of {features['session'].unique().sort().to_list()}",
            where="predict",
            todo="pass the session's rows of core_features__daily",
        )
    skipped = [
        {"symbol": symbol, "reason": f"more than {MAX_MISSING:.0%} of its features are missing"}
        for symbol in today.filter(~enough_features())["symbol"].sort()
    ]
    of_today = factors.filter(pl.col("session") == session)
    without = set(today["symbol"]) - set(of_today["symbol"])
    skipped += [
        {"symbol": symbol, "reason": "it has no factors"}
        for symbol in today.filter(enough_features())["symbol"].sort()
        if symbol in without
    ]
    usable = features.filter(enough_features(), ~pl.col("symbol").is_in(list(without)))
    if usable.filter(pl.col("session") == session).is_empty():
        raise ContractViolation(
            expected=f"a symbol with features and factors of {session}",
            was=f"none: {skipped}",
            where="predict",
            todo="see what core_features__daily and core_factors__daily of the session lack",
        )
    sees_closes_alone = set(predictor.names) <= {*NAMES, *CLOSE_ONLY}
    of_factors = pl.col("closes_simulated" if sees_closes_alone else "simulated")
    is_made = today.select("symbol", "simulated").join(
        of_today.select("symbol", of_factors.alias("of_factors")), on="symbol"
    )
    fitted = document["models"][ENSEMBLE]
    base_rate = float(document["validation"]["base_rate"]["value"])
    scored = (
        predictor.forecast(joined(usable, factors, names=predictor.names), session=session)
        .with_columns(
            score=centred_scores(pl.col("vote"), scale=fitted["label_scale"], over=["session"])
        )
        .join(
            is_made.select("symbol", pl.col("simulated") | pl.col("of_factors")),
            on="symbol",
            maintain_order="left",
        )
    )
    table = fitted["calibration"]
    edges = np.array([bucket["up_to"] for bucket in table[:-1]])
    bucket = np.searchsorted(edges, scored["score"].abs().to_numpy(), side="left")
    hit_rates = pl.DataFrame(
        [table[number] for number in bucket],
        schema={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64},
    )
    signals = (
        pl.concat([scored, hit_rates], how="horizontal")
        .sort(["score", "symbol"], descending=[True, False])
        .select(
            "session",
            "symbol",
            (pl.col("score") * 1e4).alias("score_bps"),
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank"),
            _side(base_rate),
            "probability_up",
            "probability_right",
            "conformal_set",
            pl.col("value").alias("confidence"),
            pl.col("low").alias("confidence_low"),
            pl.col("high").alias("confidence_high"),
            pl.col("n").alias("confidence_n"),
            pl.lit(base_rate).alias("base_rate"),
            pl.lit(document["horizon_sessions"], dtype=pl.Int64).alias("horizon_sessions"),
            pl.lit(ENSEMBLE).alias("model_name"),
            pl.lit(model_sha256).alias("model_sha256"),
            (pl.col("simulated") | document["fit_window"]["simulated"]).alias("simulated"),
        )
    )
    return signals, skipped


def limits_of(signal: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the limits that a ``core_signals__signal`` row was held against to take its side."""
    hit_rate, base_rate = float(signal["confidence"]), float(signal["base_rate"])
    return [
        {
            "limit": "scores this strong hit more often than the base rate",
            "value": hit_rate,
            "must_exceed": base_rate,
            "passed": hit_rate > base_rate,
        }
    ]


def accuracy_rows(document: Document, *, session: date, champion: str) -> pl.DataFrame:
    """Return ``out_ml_models__model_accuracy``: every model's out-of-fold figures, and chance's."""
    validation, report = document["validation"], document["report"]["models"]
    measured = [("base_rate", "accuracy", validation["base_rate"])]
    for name, judged in report.items():
        measured += [
            (name, measure, {**judged[measure], "n": judged["n"]})
            for measure in ("accuracy", "balanced_accuracy", "brier", "mcc")
        ]
        # Each session has one correlation.
        measured += [
            (name, measure, {**judged[measure], "n": judged["sessions"]})
            for measure in ("ic", "rank_ic")
        ]
        # Of the score less its session's mean, from which a signal takes its side.
        measured.append((name, "side_hit_rate", validation["metrics"][name]["accuracy"]))
        error = {"value": judged["calibration_error"], "low": None, "high": None, "n": judged["n"]}
        measured.append((name, "calibration_error", error))
    return pl.DataFrame(
        [
            {
                "session": session,
                "model_name": name,
                "measure": measure,
                "value": figure["value"],
                "low": figure["low"],
                "high": figure["high"],
                "n": figure["n"],
                "champion": name == champion,
            }
            for name, measure, figure in measured
        ],
        schema_overrides={"low": pl.Float64, "high": pl.Float64},
    ).sort("session", "model_name", "measure")


def _side(base_rate: float) -> pl.Expr:
    beats = pl.col("value") > base_rate
    return (
        pl.when(beats & (pl.col("score") > 0))
        .then(pl.lit("long"))
        .when(beats & (pl.col("score") < 0))
        .then(pl.lit("short"))
        .otherwise(pl.lit("flat"))
        .alias("side")
    )
