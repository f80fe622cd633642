"""Training by the full profile through the platform, and how soon a session has signals by it.

From features to signals: from the moment that the later of a session's features and factors is
recorded to that of its signals, with the scheduler's part. The session's whole chain runs anew.
What predicting costs by itself is measured on 500 made symbols, by the files that were published.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

import numpy as np
from marketlake.cli.runs import plan_run
from marketlake.clock import monotonic_s
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MODELS_FILE,
    CORE_MODELS_MODEL,
    CORE_SIGNALS_SIGNAL,
)
from marketlake.domain import features, forecasting
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest
from marketlake.types import Partition

from tests.acceptance import figures
from tests.acceptance.installation import told
from tests.acceptance.processes import peak_memory
from tests.acceptance.walk_forward import TRAINING_MB, TRAINING_S
from tests.domain.market import BENCHMARK, NO_ACTIONS, bars_of, weekdays, with_closes_alone
from tests.integration.conftest import SESSIONS, Installation

MOST_PREDICTION_S = 1.0
_SESSION = SESSIONS[-1]


def measure(one: Installation, *, rounds: int) -> dict[str, Any]:
    """Run the main job, train by the full profile, then predict one session again and again."""
    told(one, "run")
    quick = _latencies_s(one, rounds)
    as_of = plan_run(one.settings).train_as_of
    with peak_memory(one.home) as peak:
        began = monotonic_s()
        told(one, "train", "--as-of", str(as_of), "--profile", "full")
        training_s = monotonic_s() - began
    model = Lake(one.settings.lake).manifest(CORE_MODELS_MODEL, Partition.of_session(as_of))
    full = _latencies_s(one, rounds)
    predicted_by = {parent.sha256 for parent in _manifest(one, CORE_SIGNALS_SIGNAL).parents}
    if model.sha256 not in predicted_by:
        raise SystemExit("the session was not predicted by the model that was trained")
    return {
        "train_as_of": str(as_of),
        "prediction_500_symbols_s": _prediction_s(*_trained(one, model)),
        "training_s": training_s,
        "training_pss_mb": peak.total_pss_mb,
        "training_pss_mb_by_component": dict(peak.pss_mb),
        "session": str(_SESSION),
        "features_to_signals_s": {"quick": quick, "full": full},
        "median_features_to_signals_s": {
            "quick": statistics.median(quick),
            "full": statistics.median(full),
        },
        "target_prediction_500_symbols_s": MOST_PREDICTION_S,
        "target_training_s": TRAINING_S,
        "target_memory_mb": TRAINING_MB,
    }


def _latencies_s(one: Installation, rounds: int) -> list[float]:
    found = []
    for number in range(1, rounds + 1):
        session = str(_SESSION)
        one.must("backfill", "--from", session, "--to", session, "--reprocess", "completed")
        made = max(_recorded(one, CORE_FEATURES_DAILY), _recorded(one, CORE_FACTORS_DAILY))
        found.append((_recorded(one, CORE_SIGNALS_SIGNAL) - made).total_seconds())
        figures.say(f"round {number}: {found[-1]:.2f} s from features to signals")
    return found


def _trained(one: Installation, model: Manifest) -> tuple[dict[str, Any], dict[str, bytes]]:
    lake = Lake(one.settings.lake)
    document = lake.read_ref(model.ref(lake.bucket))
    (files,) = (ref for ref in model.parents if ref.contract == CORE_MODELS_FILE.name)
    table = lake.read_ref(files)
    kept = zip(table["name"].to_pylist(), table["content"].to_pylist(), strict=True)
    return dict(document), dict(kept)


def _recorded(one: Installation, contract: Contract) -> datetime:
    return datetime.fromisoformat(_manifest(one, contract).recorded_at_utc)


def _manifest(one: Installation, contract: Contract) -> Manifest:
    return Lake(one.settings.lake).manifest(contract, Partition.of_session(_SESSION))


def _prediction_s(
    document: Mapping[str, Any], files: Mapping[str, bytes], *, symbols: int = 500, rounds: int = 5
) -> float:
    """Return the seconds to read the ensemble's files and forecast one session, the median.

    Features of the sessions it looks back on are computed too, as the daily task does. Bars are
    made: what they hold changes nothing of the work.
    """
    rng = np.random.default_rng(3)
    names = [f"S{number:03d}" for number in range(symbols)]
    days = weekdays(date(2023, 1, 2), 270)
    closes = 40.0 * np.exp(np.cumsum(0.02 * rng.normal(size=(270, symbols + 1)), axis=0))
    bars = with_closes_alone(bars_of(closes, sessions=days, symbols=[*names, BENCHMARK]))
    given = {"bars": bars, "actions": NO_ACTIONS, "sessions": days, "symbols": names}
    members = bars.select("session", "symbol")
    factors = features.compute_factors(**given, first_output=days[-1], members=members)
    taken = []
    for _ in range(rounds):
        began = monotonic_s()
        predictor = forecasting.Predictor.of(files)
        seen = features.compute_features(
            **given, benchmark=BENCHMARK, first_output=days[-predictor.lags - 5]
        )
        signals, _ = forecasting.predict(
            document,
            predictor,
            session=days[-1],
            model_sha256="",
            features=seen,
            factors=factors,
        )
        taken.append(monotonic_s() - began)
        if signals.height != symbols:
            raise SystemExit(f"{signals.height} signals of {symbols}")
    return float(np.median(taken))


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    figures.table(
        f"Trained as of {found['train_as_of']} by the full profile",
        ["", "took", "at most"],
        [
            ["seconds", found["training_s"], found["target_training_s"]],
            ["MB, the whole platform", found["training_pss_mb"], found["target_memory_mb"]],
            [
                "seconds to predict 500 symbols",
                found["prediction_500_symbols_s"],
                found["target_prediction_500_symbols_s"],
            ],
        ],
    )
    figures.table(
        f"{found['session']}, from features published to signals published",
        ["profile", "median s", "least", "most"],
        [
            [name, found["median_features_to_signals_s"][name], min(taken), max(taken)]
            for name, taken in found["features_to_signals_s"].items()
        ],
    )


def missed(found: Mapping[str, Any]) -> list[str]:
    """Return what missed its target."""
    wrong = []
    if found["training_s"] > TRAINING_S:
        wrong.append(f"training took {found['training_s']:.0f} s")
    if found["training_pss_mb"] > TRAINING_MB:
        wrong.append(f"training took {found['training_pss_mb']:.0f} MB")
    if found["prediction_500_symbols_s"] > MOST_PREDICTION_S:
        wrong.append(f"500 symbols took {found['prediction_500_symbols_s']:.2f} s to predict")
    return wrong
