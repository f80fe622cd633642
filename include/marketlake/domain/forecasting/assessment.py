"""Train the ensemble as of a session; say how good it is out of fold, after costs, against null.

Everything that joins models (weights, calibration, conformal thresholds, the validator) is fitted
for a fold on the out-of-fold probabilities of earlier folds alone, as it would have been then. What
does not belong: reading or writing, and which session's features these are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import polars as pl

from marketlake.domain.forecasting import nulls, skill
from marketlake.domain.forecasting.classifiers import (
    Labels,
    Samples,
    TrainedClassifier,
    classifier,
    lightgbm_by_fold,
)
from marketlake.domain.forecasting.ensemble import (
    Calibration,
    Conformal,
    Ensemble,
    Stack,
    Validator,
    Vote,
    centred,
    fit_calibration,
    fit_conformal,
    fit_stack,
    fit_validator,
    fit_vote,
    is_right,
)
from marketlake.domain.forecasting.fitted import Fitted, Positions
from marketlake.domain.forecasting.metrics import wilson
from marketlake.domain.forecasting.portfolio import portfolio
from marketlake.domain.forecasting.selection import backtest_overfitting, deflated_sharpe
from marketlake.domain.forecasting.tuning import tune
from marketlake.domain.forecasting.validation import LabelSpans, Split, walk_forward_splits
from marketlake.domain.prices import Floats
from marketlake.errors import LookaheadError

KEY = ["session", "symbol"]


@dataclass(frozen=True)
class Profile:
    """How much is trained: models with their parameters, seeds, folds, lags of the LSTM.

    ``history_sessions`` is how many sessions are trained on, None all there are. ``tuned`` has the
    number of configurations that are tried of a model; the others keep theirs. ``join`` and
    ``calibration`` are how the models become one, and its word a probability.
    """

    name: str
    models: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...]
    folds: int
    lags: int
    channels: tuple[str, ...] = ()
    history_sessions: int | None = None
    tuned: Mapping[str, int] = field(default_factory=dict)
    join: Literal["vote", "stack"] = "vote"
    calibration: Literal["platt", "isotonic"] = "platt"


QUICK = Profile(
    "quick",
    {
        "linear": {"penalty_per_row": 0.2},
        "random_forest": {
            "trees": 30,
            "max_depth": 5,
            "min_rows_in_leaf": 200,
            "feature_fraction": 0.1,
        },
        "xgboost": {"max_depth": 3, "rounds": 60},
        "lightgbm": {"num_leaves": 7, "rounds": 60},
        "lstm": {"units": 8, "epochs": 5},
    },
    seeds=(7,),
    folds=4,
    lags=5,
    history_sessions=5 * 252,
)
FULL = Profile(
    "full",
    {
        "linear": {"penalty_per_row": 0.2},
        "random_forest": {
            "trees": 200,
            "max_depth": 5,
            "min_rows_in_leaf": 200,
            "feature_fraction": 0.1,
        },
        "xgboost": {"max_depth": 3},
        "lightgbm": {"num_leaves": 7},
        "lstm": {},
    },
    seeds=(7, 8, 9, 10, 11),
    folds=6,
    lags=10,
    tuned={"lightgbm": 20, "xgboost": 10},
)
PROFILES: Mapping[str, Profile] = MappingProxyType({one.name: one for one in (QUICK, FULL)})


def configuration_id(
    name: str,
    parameters: Mapping[str, Any],
    *,
    profile: Profile,
    features: Sequence[str],
    horizon: int,
) -> str:
    """Return what tells one trial from another: a model, its parameters, seeds, inputs, question.

    ``parameters`` are all it has. Two trainings that differ in their rows alone try the same thing.
    """
    tried = [
        name,
        dict(parameters),
        list(profile.seeds),
        [profile.folds, profile.lags, profile.history_sessions, list(profile.channels)],
        list(features),
        horizon,
    ]
    return hashlib.sha256(json.dumps(tried, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Panel:
    """Rows of features with their labels, in order of session and symbol, and what models see."""

    rows: pl.DataFrame
    spans: LabelSpans
    samples: Samples
    names: tuple[str, ...]

    @property
    def y(self) -> Labels:
        """1 where the label return is above 0."""
        return (self.rows["label_return"].to_numpy() > 0).astype(np.int64)

    @property
    def sessions(self) -> np.ndarray[Any, Any]:
        """Session of each row."""
        return self.rows["session"].to_numpy()


@dataclass(frozen=True)
class Joint:
    """Everything that joins members, fitted on out-of-fold probabilities."""

    vote: Vote | Stack
    calibration: Calibration
    conformal: Conformal


def samples_of(
    features: pl.DataFrame, *, names: Sequence[str], channels: Sequence[str], lags: int
) -> tuple[pl.DataFrame, Samples]:
    """Return the keys of features in order of session and symbol, and what models see of them.

    ``sequence`` holds each symbol's last ``lags`` sessions for ``channels`` (all where empty), NaN
    where it has no row; sessions without any row do not count.
    """
    ordered = features.sort("symbol", "session")
    used = list(channels) or list(names)
    day = pl.col("session").rank("dense").cast(pl.Int64)
    dated = ordered.select("symbol", day.alias("day"), pl.col(used).cast(pl.Float64))
    frames = [
        dated.select("symbol", pl.col("day") - back)
        .join(dated, on=["symbol", "day"], how="left", maintain_order="left")
        .select(used)
        for back in range(lags - 1, -1, -1)
    ]
    sequence = np.stack([frame.fill_null(np.nan).to_numpy() for frame in frames], axis=1)
    flat = ordered.select(pl.col(list(names)).cast(pl.Float64).fill_null(np.nan)).to_numpy()
    keys = ordered.select(KEY).with_row_index("at").sort(KEY)
    at = keys["at"].to_numpy()
    return keys.select(KEY), Samples(flat[at], sequence[at])


def refuse_late(features: pl.DataFrame, labels: pl.DataFrame, *, as_of: date) -> None:
    """Raise LookaheadError when a feature's session or a label's end is after the training's."""
    for frame, column in ((features, "session"), (labels, "label_end")):
        late = frame.filter(pl.col(column) > as_of)
        if late.height:
            raise LookaheadError(
                expected=f"{column} up to {as_of}",
                was=f"{late.height} rows up to {late[column].max()!r}",
                where="training",
                todo="read features and labels as of the training session",
            )


def panel_of(
    features: pl.DataFrame,
    labels: pl.DataFrame,
    *,
    names: Sequence[str],
    sessions: Sequence[date],
    as_of: date,
    profile: Profile,
) -> Panel:
    """Join features and labels known by ``as_of``.

    Raises
    ------
    LookaheadError
        When a feature's session or a label's end is later.
    """
    refuse_late(features, labels, as_of=as_of)
    keys, samples = samples_of(features, names=names, channels=profile.channels, lags=profile.lags)
    rows = (
        keys.with_row_index("at")
        .join(labels, on=KEY, how="inner", maintain_order="left")
        .select("at", *KEY, "label_return", "label_end")
    )
    return Panel(
        rows=rows.drop("at"),
        spans=LabelSpans.of(
            rows["session"].to_list(), rows["label_end"].to_list(), sessions=sessions
        ),
        samples=samples.rows(rows["at"].to_numpy().astype(np.int64)),
        names=tuple(names),
    )


def train_members(
    panel: Panel, at: Positions, *, profile: Profile
) -> dict[str, list[Fitted[TrainedClassifier]]]:
    """Fit every model of the profile with every seed on some rows."""
    window = panel.spans.window(at)
    return {
        name: [
            classifier(name)
            .with_parameters(**changes)
            .train(panel.samples.rows(at), panel.y[at], seed=seed, window=window)
            for seed in (profile.seeds if name != "linear" else profile.seeds[:1])
        ]
        for name, changes in profile.models.items()
    }


def out_of_fold(panel: Panel, splits: Sequence[Split], *, profile: Profile) -> list[Floats]:
    """Return for every split [n_test_rows, n_models]: P(up), the mean over seeds."""
    by_fold = _members_by_fold(panel, splits, profile=profile)
    found = []
    for split, members in zip(splits, by_fold, strict=True):
        tested = panel.spans.rows(split.test)
        starts, ends = (
            [tested.sessions[position] for position in at] for at in (tested.start, tested.end)
        )
        samples = panel.samples.rows(split.test)
        found.append(
            np.column_stack(
                [
                    np.mean([one.on(starts, ends).probability(samples) for one in ones], axis=0)
                    for ones in members.values()
                ]
            )
        )
    return found


def _members_by_fold(
    panel: Panel, splits: Sequence[Split], *, profile: Profile
) -> list[dict[str, list[Fitted[TrainedClassifier]]]]:
    """Fit every model on every fold's training rows; LightGBM bins its rows once for all folds."""
    others = replace(
        profile, models={name: p for name, p in profile.models.items() if name != "lightgbm"}
    )
    folds = [train_members(panel, split.train, profile=others) for split in splits]
    if "lightgbm" in profile.models:
        item = classifier("lightgbm").with_parameters(**profile.models["lightgbm"])
        by_seed = [
            lightgbm_by_fold(
                item,
                panel.samples,
                panel.y,
                trains=[split.train for split in splits],
                windows=[panel.spans.window(split.train) for split in splits],
                seed=seed,
            )
            for seed in profile.seeds
        ]
        for number, fold in enumerate(folds):
            fold["lightgbm"] = [ones[number] for ones in by_seed]
    return [{name: fold[name] for name in profile.models} for fold in folds]


def fit_joint(names: Sequence[str], probabilities: Floats, y: Labels, *, profile: Profile) -> Joint:
    """Fit the vote or the stack, then calibration and conformal thresholds of what it says."""
    fit = fit_stack if profile.join == "stack" else fit_vote
    vote = fit(names, probabilities, y)
    voted = vote.join(probabilities)
    calibration = fit_calibration(voted, y, method=profile.calibration)
    return Joint(vote, calibration, fit_conformal(calibration.apply(voted), y, alpha=0.2))


def joined_by_time(
    panel: Panel, splits: Sequence[Split], probabilities: Sequence[Floats], *, profile: Profile
) -> pl.DataFrame:
    """Join each fold's members by what earlier folds taught; the first fold only teaches.

    Returns
    -------
    polars.DataFrame
        ``at`` (row of the panel), ``fold``, ``vote`` (weighted P(up)), ``probability``
        (calibrated), ``score`` (the vote less its session's mean), ``right`` (the validator's P of
        the score's side) and ``covered`` (whether the conformal set holds what came).
    """
    names, y = list(profile.models), panel.y
    parts = []
    for number in range(1, len(splits)):
        test = splits[number].test
        first = int(panel.spans.start[test].min())
        earlier = np.concatenate([split.test for split in splits[:number]])
        known = panel.spans.end[earlier] <= first
        taught, learned = earlier[known], np.concatenate(probabilities[:number])[known]
        joint = Fitted(
            fit_joint(names, learned, y[taught], profile=profile),
            panel.spans.window(taught),
        ).at(panel.spans.sessions[first])
        voted = joint.vote.join(probabilities[number])
        score = centred(voted, panel.sessions[test])
        validator = validator_of(panel, taught, joint.vote.join(learned), profile=profile)
        calibrated = joint.calibration.apply(voted)
        sets = joint.conformal.sets(calibrated)
        parts.append(
            pl.DataFrame(
                {
                    "at": test,
                    "fold": np.full(len(test), number + 1),
                    "vote": voted,
                    "probability": calibrated,
                    "score": score,
                    "right": validator.at(panel.spans.sessions[first]).right(
                        panel.samples.rows(test), score
                    ),
                    "covered": sets[np.arange(len(test)), y[test]],
                }
            )
        )
    return pl.concat(parts)


def validator_of(
    panel: Panel, at: Positions, vote: Floats, *, profile: Profile
) -> Fitted[Validator]:
    """Fit the validator on rows of whole sessions and what the ensemble voted of them."""
    return fit_validator(
        panel.samples.rows(at),
        centred(vote, panel.sessions[at]),
        panel.y[at],
        seed=profile.seeds[0],
        window=panel.spans.window(at),
        forest=classifier("random_forest").with_parameters(
            **profile.models.get("random_forest", {})
        ),
    )


@dataclass(frozen=True)
class Trained:
    """What predicts, the report on it, and the out-of-fold scores behind the report.

    ``profile`` has the parameters that tuning chose.
    ``scored`` has ``model``, ``fold``, ``session``, ``symbol``, ``label_return`` and
    ``probability``: P(up), of the ensemble before calibration, on the rows of all folds but the
    first, which only teaches.
    """

    ensemble: Fitted[Ensemble]
    conformal: Fitted[Conformal]
    validator: Fitted[Validator]
    report: dict[str, Any]
    scored: pl.DataFrame
    profile: Profile


def train_ensemble(
    panel: Panel,
    *,
    profile: Profile,
    horizon: int,
    embargo: int,
    next_returns: pl.DataFrame,
    cost_bps: float,
    earlier_trials: int,
    tried_before: Collection[str] = (),
    regimes: pl.DataFrame | None = None,
    recompute: Callable[[np.random.Generator], Panel] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> Trained:
    """Validate by purged walk-forward, fit on every row, and report.

    Parameters
    ----------
    panel
        What :func:`panel_of` returned.
    horizon, embargo
        Sessions a label spans; sessions kept clear between training labels and tests.
    next_returns
        ``session``, ``symbol``, ``next_return``: what a position decided then earns first.
    cost_bps
        What a traded dollar pays, for the portfolios.
    earlier_trials
        How much was tried before anything was kept of it.
    tried_before
        The :func:`configuration_id` of what was tried since; these models count on top, each once.
    regimes
        ``session``, ``regime`` of each session from its past; figures are then by regime too.
    recompute
        Gives the panel of random-walk prices for the null panel; None leaves that null out, and the
        report says so.
    progress
        Gets a line at each step.
    """
    names = list(profile.models)
    splits = walk_forward_splits(panel.spans, folds=profile.folds, embargo=embargo)
    progress(f"{len(names)} models, {len(splits)} folds, {len(panel.rows)} rows")
    given = profile
    profile, tuning = _tuned(panel, splits[0].train, profile=profile, embargo=embargo)
    if tuning:
        progress(f"tuned, {len(tuning)} trials")
    tried = sorted(_own_trials(panel, given, profile, tuning, horizon=horizon).union(tried_before))
    trials = earlier_trials + len(tried)
    probabilities = out_of_fold(panel, splits, profile=profile)
    progress("out of fold done")
    joined = joined_by_time(panel, splits, probabilities, profile=profile)
    seen = np.concatenate([split.test for split in splits])
    every = np.concatenate(probabilities)
    joint = fit_joint(names, every, panel.y[seen], profile=profile)
    rows = np.arange(len(panel.rows))
    members = train_members(panel, rows, profile=profile)
    progress("final fit done")
    window = panel.spans.window(rows)
    seed = profile.seeds[0]
    ensemble = Ensemble(
        {name: tuple(one.value for one in ones) for name, ones in members.items()},
        joint.vote,
        joint.calibration,
    )
    validator = validator_of(panel, seen, joint.vote.join(every), profile=profile)
    report = {
        "profile": profile.name,
        "scheme": (
            f"expanding walk-forward, {profile.folds} folds, purged by label interval, embargo "
            f"{embargo} sessions; weights and calibration of each fold from earlier folds"
        ),
        "seeds": list(profile.seeds),
        "trials": trials,
        "tried": tried,
        "tuning": tuning,
        **_figures(panel, names, splits, probabilities, joined, regimes, horizon, seed),
        "join": profile.join,
        "weights": dict(zip(names, joint.vote.shares.tolist(), strict=True)),
        "conformal": {
            "alpha": joint.conformal.alpha,
            "coverage": float(joined["covered"].cast(pl.Float64).mean() or 0.0),  # type: ignore[arg-type]
        },
        "validator": _validator_figures(panel, joined, horizon, seed),
        **_earnings(
            panel, names, seen, every, joined, next_returns, horizon, cost_bps, trials, seed
        ),
        "drift": _drift(panel, splits[-1]),
        "importance": _importance(panel, splits[-1], profile, seed),
        "null_panel": null_panel(
            panel, horizon=horizon, embargo=embargo, seed=seed, recompute=recompute
        ),
    }
    progress("report done")
    return Trained(
        Fitted(ensemble, window),
        Fitted(joint.conformal, window),
        validator,
        report,
        _out_of_fold_scores(panel, names, probabilities, joined),
        profile,
    )


def _tuned(
    panel: Panel, at: Positions, *, profile: Profile, embargo: int
) -> tuple[Profile, list[dict[str, Any]]]:
    """Return the profile with the parameters that tuning chose, and every trial."""
    models, tried = dict(profile.models), []
    for name, trials in profile.tuned.items():
        found = tune(
            name,
            models[name],
            samples=panel.samples,
            y=panel.y,
            spans=panel.spans,
            at=at,
            trials=trials,
            embargo=embargo,
            seed=profile.seeds[0],
        )
        models[name] = found.parameters
        tried += found.trials
    return replace(profile, models=models), tried


def _own_trials(
    panel: Panel,
    given: Profile,
    chosen: Profile,
    tuning: Sequence[Mapping[str, Any]],
    *,
    horizon: int,
) -> set[str]:
    """Return the ids of what one training tries: each model, each trial of tuning, the ensemble."""

    def identified(name: str, parameters: Mapping[str, Any]) -> str:
        return configuration_id(
            name, parameters, profile=chosen, features=panel.names, horizon=horizon
        )

    def of_model(name: str, changes: Mapping[str, Any]) -> str:
        return identified(name, classifier(name).with_parameters(**changes).parameters)

    members = {of_model(*item) for item in chosen.models.items()}
    searched = {
        of_model(one["model"], {**given.models[one["model"]], **one["parameters"]})
        for one in tuning
    }
    how = {"members": sorted(members), "join": chosen.join, "calibration": chosen.calibration}
    return members | searched | {identified("ensemble", how)}


def _out_of_fold_scores(
    panel: Panel, names: Sequence[str], probabilities: Sequence[Floats], joined: pl.DataFrame
) -> pl.DataFrame:
    later = np.concatenate(probabilities[1:])
    columns = {name: later[:, column] for column, name in enumerate(names)}
    columns["ensemble"] = joined["vote"].to_numpy()
    rows = panel.rows[joined["at"].to_numpy()].select(*KEY, "label_return")
    return pl.concat(
        rows.select(
            pl.lit(name).alias("model"),
            joined["fold"].alias("fold"),
            *KEY,
            "label_return",
            pl.Series("probability", column),
        )
        for name, column in columns.items()
    )


def _figures(
    panel: Panel,
    names: Sequence[str],
    splits: Sequence[Split],
    probabilities: Sequence[Floats],
    joined: pl.DataFrame,
    regimes: pl.DataFrame | None,
    horizon: int,
    seed: int,
) -> dict[str, Any]:
    """Return figures of each model and the ensemble over the same rows: all folds but the first.

    ``final_window`` has those of the last fold alone: nothing was chosen, weighed or calibrated on
    it.
    """
    at = np.concatenate([split.test for split in splits[1:]])
    later = np.concatenate(probabilities[1:])
    columns = {name: later[:, column] for column, name in enumerate(names)}
    columns["ensemble"] = joined["probability"].to_numpy()
    ranked = {**columns, "ensemble": joined["vote"].to_numpy()}
    sessions, y = panel.sessions[at], panel.y[at]
    groups = {"by_year": sessions.astype("datetime64[Y]").astype(str)}
    if regimes is not None:
        of_session = panel.rows[at].join(regimes, on="session", how="left", maintain_order="left")
        groups["by_regime"] = of_session["regime"].fill_null("unknown").to_numpy().astype(str)
    last = np.isin(at, splits[-1].test)
    found: dict[str, Any] = {}
    final: dict[str, Any] = {}
    for name, p in columns.items():

        def of_rows(chosen: np.ndarray[Any, np.dtype[np.bool_]], p: Floats = p) -> dict[str, Any]:
            counts = skill.confusion(y[chosen], p[chosen] > 0.5).sum(axis=0)
            return {
                "n": int(chosen.sum()),
                "accuracy": float(skill.accuracy(counts)),
                "mcc": float(skill.mcc(counts)),
            }

        found[name] = {
            **skill.direction_figures(sessions, p, y, horizon=horizon, seed=seed),
            **skill.score_figures(_scored(panel, at, ranked[name]), horizon=horizon, seed=seed),
            **{by: skill.by_group(group, of_rows) for by, group in groups.items()},
        }
        own = {
            **skill.direction_figures(sessions[last], p[last], y[last], horizon=horizon, seed=seed),
            **skill.score_figures(
                _scored(panel, at[last], ranked[name][last]), horizon=horizon, seed=seed
            ),
        }
        final[name] = {
            figure: own[figure]
            for figure in ("n", "sessions", "base_rate", "accuracy", "mcc", "rank_ic")
        }
    return {
        "models": found,
        "final_window": {
            "first_session": str(sessions[last].min()),
            "last_session": str(sessions[last].max()),
            "models": final,
        },
    }


def _validator_figures(
    panel: Panel, joined: pl.DataFrame, horizon: int, seed: int
) -> dict[str, Any]:
    """Return how good P(right) was: a constant that knew the share would have its spread.

    ``top_quarter`` are the rows whose side it thought the likeliest to be right.
    """
    at, says = joined["at"].to_numpy(), joined["right"].to_numpy()
    right = is_right(joined["score"].to_numpy(), panel.y[at])
    figures = skill.direction_figures(panel.sessions[at], says, right, horizon=horizon, seed=seed)
    top = right[says >= np.quantile(says, 0.75)]
    share = float(right.mean())
    # Labels overlap: so many are independent.
    low, high = wilson(top.sum() / horizon, len(top) / horizon)
    return {
        "n": len(right),
        "share_right": share,
        "brier": figures["brier"],
        "brier_of_share": share * (1 - share),
        "calibration_error": figures["calibration_error"],
        "top_quarter": {"n": len(top), "value": float(top.mean()), "low": low, "high": high},
    }


def _scored(panel: Panel, at: Positions, score: Floats) -> pl.DataFrame:
    return panel.rows[at].with_columns(score=pl.Series(score))


def _earnings(
    panel: Panel,
    names: Sequence[str],
    seen: Positions,
    every: Floats,
    joined: pl.DataFrame,
    next_returns: pl.DataFrame,
    horizon: int,
    cost_bps: float,
    trials: int,
    seed: int,
) -> dict[str, Any]:
    """Return the ensemble's portfolios, and how far its Sharpe ratio may be luck.

    Sharpe ratios are of a book in proportion to the scores' ranks, dealt anew every session, before
    costs. What is deflated is the ensemble's, for it is what the gate may promote. Overfitting is
    of the choice among the models and their vote: the parameters were tuned on other rows.
    """
    at = joined["at"].to_numpy()
    scores = {name: (seen, every[:, column]) for column, name in enumerate(names)}
    scores["ensemble"] = (at, joined["vote"].to_numpy())
    daily = {}
    for name, (rows, score) in scores.items():
        inside = np.isin(rows, at)
        scored = _scored(panel, rows[inside], score[inside])
        place = pl.col("score").rank().over("session")
        tilt = place - place.mean().over("session")
        size = tilt.abs().sum().over("session")
        daily[name] = (
            scored.join(next_returns, on=KEY, how="left", maintain_order="left")
            # Nothing is held where all rank the same.
            .with_columns(w=pl.when(size > 0).then(tilt / size).otherwise(0.0))
            .group_by("session")
            .agg((pl.col("w") * pl.col("next_return").fill_null(0.0)).sum())
            .sort("session")["w"]
            .to_numpy()
        )
        if name == "ensemble":
            book = portfolio(
                scored, next_returns, cost_bps=cost_bps, holding_sessions=horizon, seed=seed
            )
    returns = np.column_stack(list(daily.values()))
    spread = returns.std(axis=0)
    sharpes = np.divide(returns.mean(axis=0), spread, out=np.zeros_like(spread), where=spread > 0)
    ours = list(daily).index("ensemble")
    series = returns[:, ours]
    centred_series = (series - series.mean()) / (series.std() or 1.0)
    blocks = min(16, len(returns) // 2 * 2)
    overfitting = backtest_overfitting(returns, blocks=blocks)
    return {
        "portfolio": book,
        "deflated_sharpe": {
            "compared": len(daily),
            "best": list(daily)[int(np.argmax(sharpes))],
            "value": deflated_sharpe(
                float(sharpes[ours]),
                n=len(series),
                trials=trials,
                # The models and their mean are much alike; what else was tried need not have been.
                # 1 / n is how far independent ratios of nothing spread.
                variance=max(float(sharpes.var(ddof=1)), 1.0 / len(series)),
                skew=float((centred_series**3).mean()),
                kurtosis=float((centred_series**4).mean()),
            ),
            "trials": trials,
        },
        "backtest_overfitting": {
            "pbo": overfitting["pbo"],
            "loss": overfitting["loss"],
            "blocks": blocks,
        },
    }


def _drift(panel: Panel, last: Split) -> dict[str, float]:
    """Return each feature's population stability index, last test against its training rows."""
    before, after = (panel.samples.flat[at] for at in (last.train, last.test))
    return {
        name: skill.population_stability(before[:, column], after[:, column])
        for column, name in enumerate(panel.names)
    }


def _importance(panel: Panel, last: Split, profile: Profile, seed: int) -> list[dict[str, Any]]:
    """Return how far LightGBM's test Brier score rises when a feature is dealt out anew.

    On the last fold's test rows; the twenty that matter most, in 1e-4 of the score.
    """
    item = classifier("lightgbm").with_parameters(**profile.models.get("lightgbm", {}))
    model = item.train(
        panel.samples.rows(last.train),
        panel.y[last.train],
        seed=seed,
        window=panel.spans.window(last.train),
    ).value
    tested, y = panel.samples.rows(last.test), panel.y[last.test]
    found = skill.permutation_importance(
        lambda X: -1e4 * skill.brier(model.probability(Samples(X, tested.sequence)), y),
        tested.flat,
        names=panel.names,
        repeats=2,
        seed=seed,
    )
    return found.head(20).to_dicts()


def null_panel(
    panel: Panel,
    *,
    horizon: int,
    embargo: int,
    seed: int,
    recompute: Callable[[np.random.Generator], Panel] | None,
    model: str = "lightgbm",
) -> dict[str, Any]:
    """Run the walk-forward of one model on shuffled labels, random-walk prices and a planted leak.

    Returns
    -------
    dict
        What :func:`marketlake.domain.forecasting.nulls.verdict` says of the rank ICs.
    """
    rng = np.random.default_rng(seed)
    returns = panel.rows["label_return"].to_numpy()

    def rank_ic(of: Panel) -> dict[str, float]:
        profile = Profile("null", {model: {"rounds": 40}}, (seed,), 3, 1)
        splits = walk_forward_splits(of.spans, folds=profile.folds, embargo=embargo)
        found = np.concatenate(out_of_fold(of, splits, profile=profile))[:, 0]
        at = np.concatenate([split.test for split in splits])
        daily = skill.information_coefficients(_scored(of, at, found))["rank_ic"].to_numpy()
        figure = skill.mean_interval(daily, at_least=horizon, seed=seed, level=nulls.LEVEL)
        return {name: figure[name] for name in ("value", "low", "high")}

    dealt = nulls.shuffled(returns, panel.sessions, rng=rng)
    shuffled = Panel(
        panel.rows.with_columns(label_return=pl.Series(dealt)),
        panel.spans,
        panel.samples,
        panel.names,
    )
    knowing = np.column_stack([panel.samples.flat, nulls.leaked(returns, noise=0.5, rng=rng)])
    leaky = Panel(
        panel.rows,
        panel.spans,
        Samples(knowing, panel.samples.sequence),
        (*panel.names, "planted_leak"),
    )
    return nulls.verdict(
        shuffled_labels=rank_ic(shuffled),
        random_walk_prices=None if recompute is None else rank_ic(recompute(rng)),
        planted_leak=rank_ic(leaky),
    )
