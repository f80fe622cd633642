"""The record of one decision: what was recorded is there and proven, the rest is said to be not."""

from __future__ import annotations

import json
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from marketlake.contracts import Contract, catalog
from marketlake.contracts.features import FEATURES
from marketlake.errors import NotFound
from marketlake.readmodels.decisions import NOT_RECORDED, why
from marketlake.readmodels.signals import SignalId
from marketlake.storage.ledger import LedgerWriter
from marketlake.storage.lineage_index import LineageIndex
from marketlake.types import ArtifactRef, RunIdentity

if TYPE_CHECKING:
    from conftest import Publisher

SESSION = date(2022, 12, 23)
AS_OF = SESSION - timedelta(days=21)


def feature_row(symbol: str, value: float, known_at: Any) -> dict[str, Any]:
    values = {item.name: value for item in FEATURES}
    return {
        "session": SESSION,
        "symbol": symbol,
        **values,
        "simulated": False,
        "known_at_utc": known_at,
    }


def model_document() -> dict[str, Any]:
    figures = {"rank_ic": {"value": 0.02, "low": 0.01, "high": 0.03, "n": 500}}
    return {
        "as_of": AS_OF.isoformat(),
        "horizon_sessions": 5,
        "fit_window": {"first_session": "2019-01-02", "last_session": "2022-11-25"},
        "features": [*(item.name for item in FEATURES), "alpha_roc_5d"],
        "validation": {"metrics": {"linear": figures, "trees": figures}},
        "models": {
            name: {"kind": name, "parameters": {"alpha": 1.0}, "seeds": [7]}
            for name in ("linear", "trees")
        },
        "profile": "quick",
        "files": [{"name": "linear_0.json", "sha256": "cd" * 32, "bytes": 9}],
        "report": {},
        "gate": [],
        "trials": 2,
        "caveats": ["costs: not included"],
    }


@pytest.fixture(scope="module")
def decided(publisher: Publisher, day: dict[str, ArtifactRef]) -> dict[str, Any]:
    """Publish what the day's signals were made from, the signals, and what was decided."""
    (known_at,) = {row["known_at_utc"] for row in publisher.lake.read_ref(
        day["core_signals__signal"]
    ).to_pylist()}  # fmt: skip
    model = publisher.publish(catalog.CORE_MODELS_MODEL, model_document(), session=AS_OF)
    promotion_row = {
        "as_of": AS_OF,
        "effective_from": AS_OF + timedelta(days=3),
        "champion": "linear",
        "model_sha256": model.sha256,
        "rank_ic": 0.02,
        "rank_ic_low": 0.01,
        "rank_ic_high": 0.03,
        "passed_gate": True,
        "reason": "highest mean out-of-fold rank IC (others: trees +0.0100)",
    }
    promotion = publisher.publish(
        catalog.CORE_MODELS_PROMOTION, [promotion_row], parents=[model], session=AS_OF
    )
    features = publisher.publish(
        catalog.CORE_FEATURES_DAILY,
        [feature_row("KO", 0.25, known_at), feature_row("XOM", 0.75, known_at)],
        parents=[day["raw_yahoo__daily_bar"]],
    )
    # What the model did not see of them is null here.
    factors = publisher.publish(
        catalog.CORE_FACTORS_DAILY,
        [
            {
                "session": SESSION,
                "symbol": "KO",
                "alpha_roc_5d": 0.5,
                "closes_simulated": False,
                "simulated": True,
                "known_at_utc": known_at,
            }
        ],
        parents=[day["raw_yahoo__daily_bar"]],
    )
    rows = [
        {**row, "model_sha256": model.sha256}
        for row in publisher.lake.read_ref(day["core_signals__signal"]).to_pylist()
    ]
    signals = publisher.publish(
        catalog.CORE_SIGNALS_SIGNAL, rows, parents=[features, factors, model, promotion]
    )

    def record(owner: Contract, kind: str, /, **payload: Any) -> None:
        run = RunIdentity(owner.owner, publisher.run_id, owner.name)
        LedgerWriter(publisher.ledger, run).record(kind, **payload)

    passed = {"verdict": "passed", "rows_in": 7, "rows_quarantined": 0}
    for contract in (catalog.CORE_FEATURES_DAILY, catalog.CORE_SIGNALS_SIGNAL):
        record(contract, "gate", contract=contract.name, partition=f"session={SESSION}", **passed)
    record(catalog.CORE_QUALITY_GATE_REPORT, "gate", contract="core_market__daily_bar",
           partition=f"session={SESSION}", **passed)  # fmt: skip
    record(catalog.CORE_MODELS_MODEL, "model", sha256=model.sha256, seed=7, trials=2)
    record(catalog.CORE_MODELS_PROMOTION, "decision", name="promotion", model_sha256=model.sha256)
    record(catalog.CORE_SIGNALS_SIGNAL, "decision", name="signal", session=SESSION.isoformat(),
           signals=[{"symbol": "KO", "side": "long", "limits": [{"passed": True}]}])  # fmt: skip
    record(catalog.CORE_SIGNALS_SIGNAL, "decision", name="signal", session=SESSION.isoformat(),
           signals=[{"symbol": "XOM", "side": "flat", "limits": [{"passed": False}]}])  # fmt: skip
    with LineageIndex(publisher.postgres) as index:
        found = why(publisher.lake, publisher.ledger, index, SignalId(SESSION, "KO"))
        return {
            "why": found,
            "signals": signals,
            "model": model,
            "features": features,
            "factors": factors,
        }


def test_data_features_and_model_are_those_that_the_signals_entry_names(
    decided: dict[str, Any],
) -> None:
    found = decided["why"]
    assert {row["contract"]: row["sha256"] for row in found["data"]} == {
        "core_factors__daily": decided["factors"].sha256,
        "core_features__daily": decided["features"].sha256,
        "core_models__model": decided["model"].sha256,
        "core_models__promotion": found["data"][3]["sha256"],
    }
    assert all(isinstance(row["ledger_index"], int) for row in found["data"])
    assert {found["features"][item.name] for item in FEATURES} == {0.25}
    assert found["features"]["factors"] == {"alpha_roc_5d": 0.5}
    assert found["model"]["members"].keys() == {"trees"}
    assert found["model"]["files"][0]["name"] == "linear_0.json"
    assert found["model"]["training_window"]["last_session"] == "2022-11-25"
    assert found["model"]["promotion"]["champion"] == "linear"
    assert found["model"]["training_entry"]["seed"] == 7


def test_gates_and_what_was_not_chosen_are_told(decided: dict[str, Any]) -> None:
    found = decided["why"]
    assert {(row["contract"], row["verdict"]) for row in found["gates"]} == {
        ("core_features__daily", "passed"),
        ("core_signals__signal", "passed"),
        ("core_market__daily_bar", "passed"),
    }
    assert found["not_chosen"]["other_models"].keys() == {"trees"}
    others = found["not_chosen"]["other_symbols"]
    assert [row["symbol"] for row in others[:2]] == ["XOM", "BAC"]
    assert "KO" not in {row["symbol"] for row in others}


def test_the_signal_and_the_decision_are_proven(
    decided: dict[str, Any], publisher: Publisher
) -> None:
    proof = decided["why"]["proof"]
    assert proof["artifact"] == decided["signals"].versioned_name
    for told in (proof["published"], proof["decision"]):
        inclusion = publisher.ledger.prove(told["ledger_index"])
        assert inclusion.leaf_hash == told["leaf_hash"]
    assert proof["decision"]["symbol"] == "KO"


def test_what_is_not_recorded_is_said_to_be_so(decided: dict[str, Any]) -> None:
    found = decided["why"]
    assert found["limits"] == [{"passed": True}]
    assert found["confidence"]["directions_not_ruled_out_at_80_pct"] == "both"
    assert found["not_chosen"]["not_predicted"] == NOT_RECORDED
    assert json.loads(json.dumps(found, default=str))["signal"] == "2022-12-23/KO"


def test_a_symbol_without_a_signal_is_not_found(publisher: Publisher, decided: object) -> None:
    with LineageIndex(publisher.postgres) as index, pytest.raises(NotFound, match="signals of"):
        why(publisher.lake, publisher.ledger, index, SignalId(SESSION, "NONE"))
