"""Training by the full profile through the platform, and how soon a session has signals by it.

From features to signals: from the moment that the later of a session's features and factors is
recorded to that of its signals, with the scheduler's part. The session's whole chain runs anew.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from marketlake.cli.runs import plan_run
from marketlake.clock import monotonic_s
from marketlake.contracts import Contract
from marketlake.contracts.catalog import (
    CORE_FACTORS_DAILY,
    CORE_FEATURES_DAILY,
    CORE_MODELS_MODEL,
    CORE_SIGNALS_SIGNAL,
)
from marketlake.storage.lake import Lake
from marketlake.storage.manifest import Manifest
from marketlake.types import Partition

from tests.acceptance import figures
from tests.acceptance.installation import told
from tests.acceptance.processes import peak_memory
from tests.integration.conftest import SESSIONS, Installation

MOST_TRAINING_S, MOST_MEMORY_MB = 15 * 60.0, 8 * 1024.0
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
        "training_s": training_s,
        "training_pss_mb": peak.total_pss_mb,
        "training_pss_mb_by_component": dict(peak.pss_mb),
        "session": str(_SESSION),
        "features_to_signals_s": {"quick": quick, "full": full},
        "median_features_to_signals_s": {
            "quick": statistics.median(quick),
            "full": statistics.median(full),
        },
        "target_training_s": MOST_TRAINING_S,
        "target_memory_mb": MOST_MEMORY_MB,
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


def _recorded(one: Installation, contract: Contract) -> datetime:
    return datetime.fromisoformat(_manifest(one, contract).recorded_at_utc)


def _manifest(one: Installation, contract: Contract) -> Manifest:
    return Lake(one.settings.lake).manifest(contract, Partition.of_session(_SESSION))


def show(found: Mapping[str, Any]) -> None:
    """Print the figures as tables."""
    figures.table(
        f"Trained as of {found['train_as_of']} by the full profile",
        ["", "took", "at most"],
        [
            ["seconds", found["training_s"], found["target_training_s"]],
            ["MB, the whole platform", found["training_pss_mb"], found["target_memory_mb"]],
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
    if found["training_s"] > MOST_TRAINING_S:
        wrong.append(f"training took {found['training_s']:.0f} s")
    if found["training_pss_mb"] > MOST_MEMORY_MB:
        wrong.append(f"training took {found['training_pss_mb']:.0f} MB")
    return wrong
