"""Inference thresholds tuned on validation data and stored beside the weights (docs/guide/tuning.md)."""

from ..evaluation.coco_ap import CocoScorer
from .predictions import StoredPredictions, predict_images, stored_images
from .search import TuneThresholds, coordinate_descent, split_halves, store_tuning, tune_thresholds
from .thresholds import apply_thresholds, check_thresholds, current_thresholds, merge_tuned_thresholds, write_thresholds
