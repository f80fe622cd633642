"""From a model document to a promotion, a session's signals and its accuracy table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.domain.forecasting.models import model
from marketlake.domain.forecasting.training import MAX_MISSING, centre, enough_features, matrix
from marketlake.errors import ContractViolation, LookaheadError

Document = Mapping[str, Any]


def promotion_row(document: Document, *, model_sha256: str, calendar_next: date) -> dict[str, Any]:
    """Choose the champion: the model with the highest mean out-of-fold rank IC.

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
        One row of ``core_models__promotion``. The first model of the document wins a tie. A
        champion that does not pass the gate still predicts, and says so.
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
    figures = {name: item["rank_ic"] for name, item in document["validation"]["metrics"].items()}
    champion = max(figures, key=lambda name: figures[name]["value"])
    figure = figures[champion]
    passed = figure["low"] > 0
    others = ", ".join(
        f"{name} {item['value']:+.4f}" for name, item in figures.items() if name != champion
    )
    return {
        "as_of": as_of,
        "effective_from": calendar_next,
        "champion": champion,
        "model_sha256": model_sha256,
        "rank_ic": figure["value"],
        "rank_ic_low": figure["low"],
        "rank_ic_high": figure["high"],
        "passed_gate": passed,
        "reason": (
            f"highest mean out-of-fold rank IC: {champion} {figure['value']:+.4f} "
            f"[{figure['low']:+.4f}, {figure['high']:+.4f}] over {figure['n']} sessions "
            f"(others: {others}); the interval "
            f"{'is above' if passed else 'does not exclude'} zero"
        ),
    }


def champion_row(
    promotions: Sequence[Mapping[str, Any]], *, session: date
) -> dict[str, Any] | None:
    """Return the promotion that rules at a session, None if there is none by then.

    It is the last of the ``core_models__promotion`` rows whose ``effective_from`` is not after the
    session; of two with the same, the one that was trained on more.
    """
    known = [row for row in promotions if row["effective_from"] <= session]
    ruling = max(known, key=lambda row: (row["effective_from"], row["as_of"]), default=None)
    return None if ruling is None else dict(ruling)


def predict(
    document: Document, champion: str, *, model_sha256: str, features: pl.DataFrame
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Score one session's members.

    Parameters
    ----------
    document, champion, model_sha256
        A ``core_models__model`` document, the name of the model in it to use, and its hash.
    features
        Rows of ``core_features__daily`` of one session, after the document's ``as_of``.

    Returns
    -------
    polars.DataFrame
        ``core_signals__signal`` without ``known_at_utc``, sorted by rank. A side is taken only
        where out-of-fold scores this strong beat the base rate; else it is flat.
    list of dict
        ``symbol`` and ``reason`` of each row that could not be scored.
    """
    session = _one_session(document, features)
    usable = features.filter(enough_features()).sort("symbol")
    skipped = [
        {"symbol": symbol, "reason": f"more than {MAX_MISSING:.0%} of its features are missing"}
        for symbol in features.filter(~enough_features())["symbol"].sort()
    ]
    item = model(champion)
    fitted = document["models"][champion]
    base_rate = float(document["validation"]["base_rate"]["value"])
    scored = usable.select(
        "session",
        "symbol",
        "simulated",
        pl.Series("score", item.score(fitted["state"], matrix(usable))),
    ).with_columns(centre())
    table = fitted["calibration"]
    edges = np.array([bucket["up_to"] for bucket in table[:-1]])
    bucket = np.searchsorted(edges, scored["score"].abs().to_numpy(), side="left")
    confidence = pl.DataFrame(
        [table[number] for number in bucket],
        schema={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64},
    )
    signals = (
        pl.concat([scored, confidence], how="horizontal")
        .sort(["score", "symbol"], descending=[True, False])
        .select(
            pl.lit(session).alias("session"),
            "symbol",
            (pl.col("score") * 1e4).alias("score_bps"),
            pl.int_range(1, pl.len() + 1, dtype=pl.Int64).alias("rank"),
            _side(base_rate),
            pl.col("value").alias("confidence"),
            pl.col("low").alias("confidence_low"),
            pl.col("high").alias("confidence_high"),
            pl.col("n").alias("confidence_n"),
            pl.lit(base_rate).alias("base_rate"),
            pl.lit(document["horizon_sessions"], dtype=pl.Int64).alias("horizon_sessions"),
            pl.lit(champion).alias("model_name"),
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
    validation = document["validation"]
    measured = [("base_rate", "accuracy", validation["base_rate"])] + [
        (name, measure, figures[measure])
        for name, figures in validation["metrics"].items()
        for measure in ("accuracy", "rank_ic")
    ]
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
        ]
    ).sort("session", "model_name", "measure")


def _one_session(document: Document, features: pl.DataFrame) -> date:
    sessions: list[date] = features["session"].unique().to_list()
    if len(sessions) != 1:
        raise ContractViolation(
            expected="features of one session",
            was=f"{len(sessions)} sessions",
            where="predict",
            todo="pass one session's rows of core_features__daily",
        )
    if sessions[0] <= date.fromisoformat(document["as_of"]):
        raise LookaheadError(
            expected=f"a session after the model's training session {document['as_of']}",
            was=str(sessions[0]),
            where="predict",
            todo="use the champion whose effective_from is at or before the session",
        )
    return sessions[0]


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
