"""Forecasts of each member's return above the universe's mean.

Labels, purged walk-forward validation, a linear model and LightGBM, and the scores they give. What
does not belong: features (they come in as a frame) and positions (risk).
"""

from marketlake.domain.forecasting.labels import labels
from marketlake.domain.forecasting.signals import (
    accuracy_rows,
    champion_row,
    limits_of,
    predict,
    promotion_row,
)
from marketlake.domain.forecasting.training import train, walk_forward_scores

__all__ = [
    "accuracy_rows",
    "champion_row",
    "labels",
    "limits_of",
    "predict",
    "promotion_row",
    "train",
    "walk_forward_scores",
]
