"""Forecasts of each member's return above the universe's mean.

Labels, purged validation, the ensemble and its members, the gate it must pass, and the signals it
gives. What does not belong: features (they come in as a frame) and positions (risk).
"""

from marketlake.domain.forecasting.assessment import PROFILES
from marketlake.domain.forecasting.labels import labels, next_returns
from marketlake.domain.forecasting.nulls import walked_bars
from marketlake.domain.forecasting.predictor import Predictor
from marketlake.domain.forecasting.signals import (
    accuracy_rows,
    champion_row,
    limits_of,
    predict,
    promotion_row,
)
from marketlake.domain.forecasting.training import NAMES as CHANNELS
from marketlake.domain.forecasting.training import Inputs, Training, train

__all__ = [
    "CHANNELS",
    "PROFILES",
    "Inputs",
    "Predictor",
    "Training",
    "accuracy_rows",
    "champion_row",
    "labels",
    "limits_of",
    "next_returns",
    "predict",
    "promotion_row",
    "train",
    "walked_bars",
]
