"""The thresholds that the page can change: those that are tunable. A new one needs a line here for its name at most."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode

from ..tuning.thresholds import CHOICES, GROUPING_KEYS, HEAD_KEYS, UNBOUNDED, check_thresholds, current_thresholds

SCORE = "MODEL.ROI_HEADS.SCORE_THRESH_TEST"
MOST_VALUES = 8  # of a list, at once
SHARE, LABELS = (0.0, 1.0, 0.01), (0.0, 3.0, 0.01)  # from, to, step of a slider
RANGES = {"BANDWIDTHS": (0.05, 2.0, 0.01), "MIN_PART_RATIO": (0.0, 0.5, 0.01)}
TEXTS = {
    "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD": "foreground from label",
    "MODEL.MEAN_SHIFT.BANDWIDTHS": "bandwidths",
    "MODEL.MEAN_SHIFT.STEP_THRESHOLD": "step between labels",
    "MODEL.MEAN_SHIFT.CANDIDATES": "candidates",
    "MODEL.MEAN_SHIFT.MIN_PART_RATIO": "smallest part",
    "MODEL.MEAN_SHIFT.NMS_THRESH": "duplicate proposals from IoU",
    SCORE: "score from",
    "MODEL.DVIS_ROI_HEADS.ALPHA": "weight of the IoU (alpha)",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "duplicate objects from IoU",
    "MODEL.DVIS_ROI_HEADS.NMS": "suppression",
    "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": "masks from",
}


def controls(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """For every tunable key, in the order of `TEXTS`: "key", "text", "value", "grouping" (it needs a new grouping), and
    either "choices" or "range"."""
    named = [key for key in TEXTS if key in values]
    keys = [*named, *(key for key in (*GROUPING_KEYS, *HEAD_KEYS) if key not in named)]
    rows = []
    for key in keys:
        name = key.rpartition(".")[2]
        row = {"key": key, "text": TEXTS.get(key, name), "value": values[key], "grouping": key in GROUPING_KEYS}
        limits = RANGES.get(name, LABELS if key in UNBOUNDED else SHARE)
        rows.append(row | ({"choices": list(CHOICES[key])} if key in CHOICES else {"range": limits}))
    return rows


def checked(cfg: CfgNode, given: Any) -> dict[str, Any]:
    """The thresholds that the page sent. ValueError unless they are all the tunable ones, as they can be."""
    if not isinstance(given, dict) or set(given) != set(GROUPING_KEYS | HEAD_KEYS):
        raise ValueError("these are not the thresholds of a model")
    trial, pairs = cfg.clone(), []
    trial.defrost()
    for key, value in given.items():
        if isinstance(value, list) and not 1 <= len(value) <= MOST_VALUES:
            raise ValueError(f"{key} needs 1 to {MOST_VALUES} values")
        pairs += [key, float(value) if isinstance(value, int) else value]
    trial.merge_from_list(pairs)
    check_thresholds(trial)
    return current_thresholds(trial)
