"""What is kept of a training and asked at every session: the ensemble and all that goes with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from marketlake.domain.forecasting.assessment import Profile, Trained, samples_of
from marketlake.domain.forecasting.classifiers import read
from marketlake.domain.forecasting.ensemble import Conformal, Ensemble, Validator, centred
from marketlake.domain.forecasting.fitted import Fitted, FitWindow
from marketlake.errors import BadPayload

_ABOUT, _VALIDATOR, _HASHES = "predictor.json", "validator.npz", "sha256.json"


@dataclass(frozen=True)
class Predictor:
    """The fitted ensemble, its conformal thresholds, its validator, and the features they take."""

    ensemble: Fitted[Ensemble]
    conformal: Conformal
    validator: Validator
    names: tuple[str, ...]
    channels: tuple[str, ...]
    lags: int

    @classmethod
    def of_training(
        cls, trained: Trained, *, names: tuple[str, ...], profile: Profile
    ) -> Predictor:
        """Return what is kept of a training."""
        return cls(
            trained.ensemble,
            trained.conformal.value,
            trained.validator.value,
            names,
            profile.channels,
            profile.lags,
        )

    def forecast(self, features: pl.DataFrame, *, session: date) -> pl.DataFrame:
        """Forecast every symbol of one session.

        Parameters
        ----------
        features
            ``session``, ``symbol`` and the features of the session and of the ``lags - 1`` before
            it; nothing later.

        Returns
        -------
        polars.DataFrame
            ``session``, ``symbol``, ``vote`` (P(up) before calibration), ``probability_up``
            (calibrated), ``probability_right`` (the validator's word on the side that the vote
            less the session's mean vote is on) and ``conformal_set`` (``up``, ``down``, ``both``,
            ``none``); by symbol.

        Raises
        ------
        LookaheadError
            When a label that the ensemble saw ended after the session.
        """
        ensemble = self.ensemble.at(session)
        keys, samples = samples_of(
            features.filter(pl.col("session") <= session),
            names=self.names,
            channels=self.channels,
            lags=self.lags,
        )
        at = np.flatnonzero((keys["session"] == session).to_numpy())
        samples = samples.rows(at)
        vote = ensemble.joint.join(ensemble.member_probabilities(samples))
        p = ensemble.calibration.apply(vote)
        down, up = self.conformal.sets(p).T
        return keys[at].with_columns(
            vote=pl.Series(vote),
            probability_up=pl.Series(p),
            probability_right=pl.Series(
                self.validator.right(samples, centred(vote, keys["session"].to_numpy()[at]))
            ),
            conformal_set=pl.Series(
                np.select([up & down, up, down], ["both", "up", "down"], default="none")
            ),
        )

    def files(self) -> dict[str, bytes]:
        """Return its files by name, with the SHA-256 of each in ``sha256.json``."""
        about = {
            "fit_window": {
                "spans": [[str(day) for day in span] for span in self.ensemble.window.spans],
                "rows": self.ensemble.window.rows,
            },
            "conformal": {
                "alpha": self.conformal.alpha,
                "thresholds": list(self.conformal.thresholds),
            },
            "features": list(self.names),
            "channels": list(self.channels),
            "lags": self.lags,
        }
        files = {
            **self.ensemble.value.files(),
            _VALIDATOR: self.validator.forest.dump(),
            _ABOUT: json.dumps(about, allow_nan=False).encode(),
        }
        hashes = {name: hashlib.sha256(files[name]).hexdigest() for name in sorted(files)}
        return {**files, _HASHES: json.dumps(hashes).encode()}

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> Predictor:
        """Return the predictor of :meth:`files`; no code in them is run.

        Raises
        ------
        BadPayload
            When a file is missing, is not the one that was hashed, or another version wrote it.
        """
        hashes = _document(files, _HASHES)
        for name, expected in hashes.items():
            was = hashlib.sha256(files.get(name, b"")).hexdigest()
            if was != expected:
                raise BadPayload(
                    expected=f"{name} with SHA-256 {expected}",
                    was=was if name in files else "no such file",
                    where="trained ensemble",
                    todo="take the files whose hashes the ledger has",
                )
        about = _document(files, _ABOUT)
        window = about["fit_window"]
        low, high = about["conformal"]["thresholds"]
        spans = [
            (date.fromisoformat(start), date.fromisoformat(end)) for start, end in window["spans"]
        ]
        try:
            ensemble, validator = Ensemble.of(files), read("random_forest", files[_VALIDATOR])
        except KeyError as error:
            raise BadPayload(
                expected=f"a file {error} among those of the model",
                was=", ".join(sorted(files)),
                where="trained ensemble",
                todo="another version wrote it: train again as of the same session, "
                "marketlake train --as-of SESSION",
            ) from error
        return cls(
            Fitted(ensemble, FitWindow(tuple(spans), window["rows"])),
            Conformal(about["conformal"]["alpha"], (low, high)),
            Validator(validator),
            tuple(about["features"]),
            tuple(about["channels"]),
            about["lags"],
        )


def _document(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    try:
        found = json.loads(files[name])
    except (KeyError, ValueError) as error:
        raise BadPayload(
            expected=f"{name} among the model's files, a JSON document",
            was="no such file" if isinstance(error, KeyError) else f"no JSON: {error}",
            where="trained ensemble",
            todo="take the files whose hashes the ledger has",
        ) from error
    if not isinstance(found, dict):
        raise BadPayload(
            expected=f"{name} as a JSON object",
            was=type(found).__name__,
            where="trained ensemble",
            todo="take the files whose hashes the ledger has",
        )
    return found
