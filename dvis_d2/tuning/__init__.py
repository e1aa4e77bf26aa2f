"""Inference thresholds tuned on validation data and stored beside the weights (docs/tuning.md)."""

from .hook import TuneThresholds
from .predictions import StoredPredictions, predict_images
from .scoring import CocoScorer
from .search import Tuning, coordinate_descent, split_halves, tune_thresholds
from .thresholds import (
    FILE_NAME,
    apply_thresholds,
    current_thresholds,
    merge_tuned_thresholds,
    write_thresholds,
)

__all__ = [
    "FILE_NAME",
    "CocoScorer",
    "StoredPredictions",
    "TuneThresholds",
    "Tuning",
    "apply_thresholds",
    "coordinate_descent",
    "current_thresholds",
    "merge_tuned_thresholds",
    "predict_images",
    "split_halves",
    "tune_thresholds",
    "write_thresholds",
]
