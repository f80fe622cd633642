"""The training page, from a made-up document. No number in it is a market's."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pytest
from marketlake.contracts.catalog import contract
from marketlake.domain.forecasting import gate, nulls
from marketlake.domain.reporting import training_page
from marketlake.errors import ContractViolation

from tests.domain.reporting.html_page import Page

_MINUS, _THIN_SPACE, _TIMES = "\u2212", "\u202f", "\u00d7"


def _estimate(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def _figures(shift: float = 0.0) -> dict[str, Any]:
    return {
        "n": 35920,
        "sessions": 1796,
        "block_sessions": 14.06,
        "accuracy": {
            **_estimate(0.512 + shift, 0.01),
            "wilson_low": 0.507 + shift,
            "wilson_high": 0.517 + shift,
        },
        "balanced_accuracy": _estimate(0.511 + shift, 0.009),
        "mcc": _estimate(0.022 + shift, 0.02),
        "brier": _estimate(0.2497, 0.0004),
        "calibration_error": 0.0123,
        "base_rate": 0.5092,
        "share_up": 0.4908,
        "share_forecast_up": 0.314,
        "by_coverage": [
            {"coverage": share, "margin": margin, "accuracy": hit, "low": low, "high": high, "n": n}
            for share, margin, hit, low, high, n in (
                (0.3335, 0.0108, 0.531, 0.522, 0.54, 11980),
                (0.3335, 0.0108, 0.531, 0.522, 0.54, 11980),
                (0.667, 0.0105, 0.5234, 0.517, 0.5297, 23960),
                (1.0, 0.0061, 0.512, 0.507, 0.517, 35920),
            )
        ],
        "ic": _estimate(0.011 + shift, 0.025),
        "ic_ir": _estimate(0.031 + shift, 0.08),
        "rank_ic": _estimate(-0.013 + shift, 0.026),
        "rank_ic_ir": _estimate(-0.042 + shift, 0.09),
        "by_year": {
            "2021": {"n": 5040, "accuracy": 0.5335, "mcc": 0.041},
            "2022": {"n": 4500, "accuracy": 0.4871, "mcc": -0.027},
        },
        "by_regime": {
            "bear": {"n": 6260, "accuracy": 0.5102, "mcc": 0.019},
            "bull": {"n": 25780, "accuracy": 0.5094, "mcc": -0.006},
        },
    }


def _book(annual: float) -> dict[str, Any]:
    return {
        multiple: {
            "annual_return": _estimate(annual - 0.024 * int(multiple), 0.086),
            "sharpe": _estimate(5 * annual - 0.2 * int(multiple), 0.7),
            "max_drawdown": -0.325 - 0.01 * int(multiple),
            "traded_share_per_session": 0.19,
            "sessions": 1796,
        }
        for multiple in ("0", "1", "2")
    } | {"first_session": "2015-10-07", "last_session": "2022-11-22"}


def _report() -> dict[str, Any]:
    return {
        "profile": "quick",
        "scheme": "expanding walk-forward, 2 folds",
        "seeds": [7, 8],
        "trials": 5,
        "models": {"xgboost": _figures(-0.004), "linear": _figures(0.002), "ensemble": _figures()},
        "join": "vote",
        "final_window": {
            "first_session": "2020-01-02",
            "last_session": "2022-11-22",
            "models": {
                "xgboost": _figures(-0.004),
                "linear": _figures(0.002),
                "ensemble": _figures(),
            },
        },
        "weights": {"xgboost": 0.625, "linear": 0.375},
        "conformal": {"alpha": 0.2, "coverage": 0.817},
        "portfolio": {
            "cost_bps": 5.0,
            "share": 0.2,
            "holding_sessions": 5,
            "long_short": _book(0.012),
            "long_only": _book(0.213),
        },
        "deflated_sharpe": {"best": "xgboost", "compared": 3, "value": 0.6384, "trials": 5},
        "validator": {
            "n": 35920,
            "share_right": 0.4906,
            "brier": _estimate(0.2507, 0.0004),
            "brier_of_share": 0.2499,
            "calibration_error": 0.0213,
            "top_quarter": {"n": 8980, **_estimate(0.502, 0.02)},
        },
        "backtest_overfitting": {"pbo": 0.8726, "loss": 0.5121, "blocks": 16},
        "tuning": [
            {
                "model": "lightgbm",
                "parameters": {"num_leaves": leaves, "learning_rate": 0.0123456},
                "brier": brier,
            }
            for leaves, brier in ((7, 0.24991), (15, 0.24987))
        ],
        "drift": {f"drifted_{number:02d}": 0.02 * number for number in range(1, 21)},
        "importance": [
            {"name": f"feature_{number:02d}", "importance": 2.2 - 0.1 * number, "spread": 0.05}
            for number in range(1, 21)
        ],
        "null_panel": {
            "shuffled_labels": {**_estimate(-0.004, 0.015), "as_it_must": True},
            "random_walk_prices": {**_estimate(-0.021, 0.028), "as_it_must": True},
            "planted_leak": {**_estimate(0.747, 0.036), "as_it_must": True},
            "not_run": [],
            "clean": True,
        },
    }


def _hits(value: float) -> dict[str, Any]:
    return {
        **_estimate(value, 0.0115),
        "hits": 17900,
        "n": 35920,
        "n_independent": 7184.0,
    }


@pytest.fixture
def document() -> dict[str, Any]:
    """Return a ``core_models__model`` document, with a gate that two checks did not pass."""
    report = _report()
    return {
        "as_of": "2022-11-30",
        "horizon_sessions": 5,
        "profile": "quick",
        "fit_window": {
            "first_session": "2011-01-03",
            "last_session": "2022-11-22",
            "last_label_end": "2022-11-30",
            "rows": 59880,
            "simulated": False,
        },
        "features": ["return_1d", "return_5d"],
        "validation": {
            "scheme": "expanding walk-forward; the first fold only teaches how to weigh",
            "embargo_sessions": 5,
            "folds": [
                {
                    "fold": 1,
                    "train_rows": 11800,
                    "train_known_by": "2013-05-15",
                    "test_first": "2013-05-22",
                    "test_last": "2015-10-06",
                },
                {
                    "fold": 2,
                    "train_rows": 23780,
                    "train_known_by": "2015-09-30",
                    "test_first": "2015-10-07",
                    "test_last": "2022-11-22",
                },
            ],
            "base_rate": _hits(0.5092),
            "metrics": {
                name: {"accuracy": _hits(hit), "rank_ic": {}, "rank_ic_by_fold": []}
                for name, hit in (("ensemble", 0.4906), ("linear", 0.4988), ("xgboost", 0.4958))
            },
        },
        "models": {},
        "files": [
            {"name": "ensemble.json", "sha256": "ab" * 32, "bytes": 306},
            {"name": "linear_0.json", "sha256": "cd" * 32, "bytes": 64808},
        ],
        "report": report,
        "gate": gate.judge(report),
        "trials": 5,
        "caveats": [
            "costs: in the portfolios of the report only; scores are not a trading result",
            "survivorship: not controlled (its symbols are known to have survived)",
        ],
    }


def _words(document: dict[str, Any]) -> str:
    return Page(training_page.render(document).decode()).words


def _without(document: Any, *path: str) -> dict[str, Any]:
    changed: dict[str, Any] = copy.deepcopy(document)
    inside: Any = changed
    for name in path[:-1]:
        inside = inside[name]
    del inside[path[-1]]
    return changed


def test_the_document_is_one_of_the_contract(document: dict[str, Any]) -> None:
    assert list(document) == [field.name for field in contract("core_models__model").fields]


def test_the_same_document_gives_the_same_bytes_in_any_member_order(
    document: dict[str, Any],
) -> None:
    stored = json.loads(json.dumps(document, sort_keys=True, allow_nan=False))
    before = copy.deepcopy(document)
    assert training_page.render(stored) == training_page.render(document)
    assert document == before


def test_the_page_asks_for_nothing_from_anywhere(document: dict[str, Any]) -> None:
    text = training_page.render(document).decode()
    names = {name for name, _ in Page(text).attributes}
    assert names.isdisjoint({"src", "href", "srcset", "action", "onload", "onclick"})
    assert "<script" not in text
    assert not re.search(r"https?:|@import|url\(", text)


def test_what_was_trained_is_said_before_how_good_it_is(document: dict[str, Any]) -> None:
    words = _words(document)
    first_figure = words.index("Accuracy of the ensemble, out of fold")
    assert words.index("Training as of Wednesday 30 November 2022") < first_figure
    assert f"59{_THIN_SPACE}880 rows of 2011-01-03 to 2022-11-22" in words
    for caveat in document["caveats"]:
        assert words.index(caveat[1:]) < first_figure
    for chip in ("quick profile", "no simulated input", "survivorship: not controlled"):
        assert words.index(chip) < first_figure
    for fact in (
        "Seeds 7, 8",
        "Trials, earlier ones among them 5",
        "Last label known by 2022-11-30",
    ):
        assert fact in words


def test_simulated_inputs_are_said(document: dict[str, Any]) -> None:
    document["fit_window"]["simulated"] = True
    words = _words(document)
    assert "simulated inputs" in words
    assert "Simulated rows among them yes" in words


def test_failed_checks_are_named_first_and_every_check_has_its_limit(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    assert (
        "Not proven: 3 of 6 checks failed (rank IC, low end of 95 %; deflated Sharpe ratio; "
        "probability of backtest overfitting)."
    ) in words
    assert words.index("✗ gate not passed") < words.index("Not proven")
    assert f"rank IC, low end of 95 % {_MINUS}0.0390 above 0.00 ✗ failed" in words
    assert "calibration error 0.0123 at most 0.05 ✓ held" in words
    assert "probability of backtest overfitting 0.8726 below 0.50 ✗ failed" in words


def test_a_training_that_passed_says_so(document: dict[str, Any]) -> None:
    document["gate"] = [{**check, "passed": True} for check in document["gate"]]
    words = _words(document)
    assert "✓ gate passed" in words
    assert "Proven: all 6 checks held." in words
    assert "✗" not in words


def test_a_gate_without_checks_proves_nothing(document: dict[str, Any]) -> None:
    document["gate"] = []
    words = _words(document)
    assert "✗ gate not passed" in words
    assert "Not proven: 0 of 0 checks failed." in words


def test_headlines_stand_beside_interval_and_what_chance_gives(document: dict[str, Any]) -> None:
    words = _words(document)
    assert (
        f"51.2 % 95 % interval 50.2 to 52.2 % · base rate 50.9 % · n = 35{_THIN_SPACE}920" in words
    )
    assert (
        f"{_MINUS}0.013 95 % interval {_MINUS}0.039 to +0.013 · chance is 0 · "
        f"n = 1{_THIN_SPACE}796 sessions"
    ) in words
    assert "0.0123 expected; 0 is best" in words
    assert "Brier score 0.2497, 95 % interval 0.2493 to 0.2501" in words
    assert "0.638 chance that the ensemble's Sharpe ratio is above what luck gives" in words


@pytest.mark.parametrize(
    ("accuracy", "rank_ic", "expected"),
    [
        ((0.51, 0.55), (0.01, 0.03), "lies above the base rate, and its ranking is better than"),
        ((0.49, 0.55), (-0.01, 0.03), "cannot be told from the base rate, and its ranking cannot"),
        ((0.40, 0.49), (-0.03, -0.01), "lies below the base rate, and its ranking is worse than"),
    ],
)
def test_the_words_on_the_ensemble_follow_its_intervals(
    document: dict[str, Any],
    accuracy: tuple[float, float],
    rank_ic: tuple[float, float],
    expected: str,
) -> None:
    ensemble = document["report"]["models"]["ensemble"]
    ensemble["base_rate"] = 0.5
    for name, (low, high) in (("accuracy", accuracy), ("rank_ic", rank_ic)):
        ensemble[name] |= {"low": low, "high": high, "value": (low + high) / 2}
    assert expected in _words(document)


@pytest.mark.parametrize(("share", "way"), [(0.0, "below"), (1.0, "above")])
def test_an_ensemble_that_always_says_the_same_is_told_so(
    document: dict[str, Any], share: float, way: str
) -> None:
    said = f"It forecast {way} the mean on every row"
    assert said not in _words(document)
    document["report"]["models"]["ensemble"]["share_forecast_up"] = share
    assert said in _words(document)


def test_every_model_has_its_figures_with_intervals_and_its_weight(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    assert (
        f"linear weight 37.5 % n = 35{_THIN_SPACE}920 51.4 50.4 to 52.4 51.3 50.4 to 52.2 "
        f"+0.024 +0.004 to +0.044 0.2497 0.2493 to 0.2501 0.0123 "
        f"+0.013 {_MINUS}0.012 to +0.038 {_MINUS}0.011 {_MINUS}0.037 to +0.015 "
        f"+0.033 {_MINUS}0.047 to +0.113 {_MINUS}0.040 {_MINUS}0.130 to +0.050"
    ) in words
    assert re.search(r"linear weight 37\.5 %.* xgboost weight 62\.5 %.* ensemble n = 35", words)
    assert "linear 49.9 % 48.7 to 51.0" in words
    assert "ensemble 49.1 % 47.9 to 50.2" in words


def test_levels_that_are_one_point_are_shown_once(document: dict[str, Any]) -> None:
    page = training_page.render(document).decode()
    assert page.count('class="range"/>') == 3
    assert page.count('class="base dashed"/>') == 1
    assert f"33.4 % 11{_THIN_SPACE}980 53.1 % 52.2 to 54.0 0.0108" in Page(page).words


def test_years_and_regimes_are_shown_and_regimes_only_where_there_are_any(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    assert f"2022 4{_THIN_SPACE}500 48.7 % {_MINUS}0.027" in words
    assert f"bull 25{_THIN_SPACE}780 50.9 % {_MINUS}0.006" in words
    without = _words(_without(document, "report", "models", "ensemble", "by_regime"))
    assert "Ensemble by year" in without
    assert "Ensemble by regime" not in without


def test_portfolios_are_shown_at_every_cost(document: dict[str, Any]) -> None:
    words = _words(document)
    assert (
        f"Long-short 1 {_TIMES} costs 5.0 bps {_MINUS}1.2 % {_MINUS}9.8 to +7.4 "
        f"{_MINUS}0.14 {_MINUS}0.84 to +0.56 {_MINUS}33.5 % 19.0 %"
    ) in words
    assert f"Long-only 0 {_TIMES} costs 0.0 bps +21.3 % +12.7 to +29.9" in words
    assert f"Long-only 2 {_TIMES} costs 10.0 bps +16.5 %" in words


def test_what_matters_what_moved_and_what_luck_did_are_shown(document: dict[str, Any]) -> None:
    words = _words(document)
    assert "feature_20 0.20 ± 0.05" in words
    assert "drifted_20 0.400 much" in words
    assert "drifted_06" in words
    assert "drifted_05" not in words
    assert "Of 20 features 8 moved much, 8 some, 4 little; the 15 highest." in words
    assert "Probability of backtest overfitting 87.3 %" in words
    assert "Conformal sets that held what came 81.7 % Promised: 1 less alpha 80.0 %" in words
    assert "Fewer sets held" not in words
    document["report"]["conformal"]["coverage"] = 0.79
    assert "Fewer sets held what came than was promised." in _words(document)


def test_the_null_panel_shows_its_runs_and_one_that_was_not_run(document: dict[str, Any]) -> None:
    words = _words(document)
    assert f"{100 * nulls.LEVEL:.1f} % interval" in words
    assert f"interval holds 0 {_MINUS}0.021 {_MINUS}0.049 to +0.007 ✓ as it must" in words
    assert "+0.747 +0.711 to +0.783 ✓ as it must" in words
    assert "Clean: yes" in words
    panel = document["report"]["null_panel"]
    del panel["random_walk_prices"]
    panel |= {"not_run": ["random_walk_prices"], "clean": False}
    panel["planted_leak"]["as_it_must"] = False
    words = _words(document)
    assert "✗ not run" in words
    assert "✗ not as it must" in words
    assert "Clean: no" in words


def test_every_fold_and_every_file_is_shown(document: dict[str, Any]) -> None:
    words = _words(document)
    assert f"2 23{_THIN_SPACE}780 2015-09-30 2015-10-07 to 2022-11-22" in words
    for row in document["files"]:
        assert row["sha256"] in words
        assert row["name"] in words


def test_every_text_from_the_document_is_escaped(document: dict[str, Any]) -> None:
    hostile = "<script>alert(1)</script>"

    def poison(value: Any) -> Any:
        if isinstance(value, str):
            return value + hostile
        if isinstance(value, list):
            return [poison(item) for item in value]
        if isinstance(value, dict):
            return {name: poison(item) for name, item in value.items()}
        return value

    poisoned = poison(document) | {"as_of": document["as_of"]}
    poisoned["report"]["null_panel"]["not_run"] = []
    models, metrics = poisoned["report"]["models"], poisoned["validation"]["metrics"]
    weights = poisoned["report"]["weights"]
    for named in (models, metrics, weights):
        named[f"linear{hostile}"] = named.pop("linear")
    for group in ("by_year", "by_regime"):
        models["ensemble"][group] = {
            f"{name}{hostile}": figures for name, figures in models["ensemble"][group].items()
        }
    poisoned["report"]["drift"] = {hostile: 0.5}
    text = training_page.render(poisoned).decode()
    assert "<script" not in text
    assert text.count("&lt;script") > 40
    assert Page(text).words.count(hostile) > 40


@pytest.mark.parametrize(
    "path",
    [
        ("gate",),
        ("caveats",),
        ("fit_window", "rows"),
        ("report", "models", "ensemble"),
        ("report", "models", "ensemble", "by_year"),
        ("report", "models", "linear", "rank_ic_ir"),
        ("report", "portfolio", "long_only"),
        ("report", "null_panel", "planted_leak"),
        ("validation", "base_rate"),
    ],
)
def test_a_missing_member_is_named(document: dict[str, Any], path: tuple[str, ...]) -> None:
    with pytest.raises(ContractViolation, match=f"'{path[-1]}'"):
        training_page.render(_without(document, *path))


def test_what_tuning_tried_and_took_is_shown(document: dict[str, Any]) -> None:
    words = _words(document)
    assert "1 lightgbm learning_rate 0.0123, num_leaves 7 0.24991" in words
    assert "2 lightgbm learning_rate 0.0123, num_leaves 15 0.24987 lowest" in words


def test_a_training_that_tuned_nothing_has_no_such_section(document: dict[str, Any]) -> None:
    document["report"]["tuning"] = []
    assert "Tuning" not in _words(document)


def test_the_second_models_word_stands_beside_what_its_share_alone_would_score(
    document: dict[str, Any],
) -> None:
    words = _words(document)
    assert "Sides that were right 49.1 %" in words
    assert "Brier score of its probability 0.2507 0.2503 to 0.2511" in words
    assert "Brier score of the share alone 0.2499" in words


def test_overfitting_is_held_against_what_choosing_among_so_many_equals_gives(
    document: dict[str, Any],
) -> None:
    assert "67 % is what choosing among 3 equals gives" in _words(document)
    document["report"]["deflated_sharpe"]["compared"] = 6
    assert "50 % is what choosing among 6 equals gives" in _words(document)
