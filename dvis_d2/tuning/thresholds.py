"""The tuned values: which keys they are, their file beside the weights, and their way into a config or a model.

A `thresholds` dict maps full config keys ("MODEL.DVIS_ROI_HEADS.ALPHA") to values.
"""

import functools
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode

from ..config import flat, nested, renew
from ..modeling.candidates import SOURCES
from ..modeling.detections import NMS_KINDS
from ..modeling.mask_pasting import MASK_SOURCES
from ..safe_io import parse_yaml, replacing

FILE_NAME = "thresholds.yaml"
# The tunable keys, with the argument of `group_label_map` or the attribute of `DVISROIHeads` that each one sets.
_GROUPING = ("BANDWIDTHS", "FOREGROUND_THRESHOLD", "CANDIDATES", "STEP_THRESHOLD", "MIN_PART_RATIO")
GROUPING_KEYS = {f"MODEL.MEAN_SHIFT.{name}": name.lower() for name in _GROUPING}
GROUPING_KEYS["MODEL.MEAN_SHIFT.NMS_THRESH"] = "nms_threshold"
HEAD_KEYS = {f"MODEL.DVIS_ROI_HEADS.{name}": name.lower() for name in ("ALPHA", "MASK_SOURCE", "NMS")} | {
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms_threshold",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score_threshold",
}
CHOICES = {  # for the values of these keys, or the members of their lists
    "MODEL.MEAN_SHIFT.CANDIDATES": SOURCES,
    "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": MASK_SOURCES,
    "MODEL.DVIS_ROI_HEADS.NMS": NMS_KINDS,
}
# the others are shares and scores
UNBOUNDED = {f"MODEL.MEAN_SHIFT.{name}" for name in ("BANDWIDTHS", "FOREGROUND_THRESHOLD", "STEP_THRESHOLD")}


def current_thresholds(cfg: CfgNode) -> dict[str, Any]:
    """The values that `cfg` has for every tunable key."""
    values = {key: functools.reduce(getattr, key.split("."), cfg) for key in (*GROUPING_KEYS, *HEAD_KEYS)}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def apply_thresholds(model: Any, thresholds: Mapping[str, object]) -> None:
    """Set the values in a built DVIS model, in place, as building it from a config with them would."""
    for key, value in thresholds.items():
        if key in GROUPING_KEYS:
            model.proposal_generator.grouping[GROUPING_KEYS[key]] = value
        elif key in HEAD_KEYS:
            setattr(model.roi_heads, HEAD_KEYS[key], value)


def check_thresholds(cfg: CfgNode, keys: Iterable[str] = (*GROUPING_KEYS, *HEAD_KEYS)) -> None:
    """ValueError if one of the tunable values cannot be: a choice that is none, a number out of its range, NaN."""
    values = current_thresholds(cfg)
    for key in keys:
        listed = values[key] if isinstance(values[key], list) else [values[key]]
        least, most = (-math.inf, math.inf) if key in UNBOUNDED else (0, 1)
        if key in CHOICES:
            right, what = set(listed) <= set(CHOICES[key]), f"one of {', '.join(CHOICES[key])}"
        else:
            right = all(isinstance(v, (int, float)) and least <= v <= most and math.isfinite(v) for v in listed)
            what = "a finite number" if key in UNBOUNDED else "between 0 and 1"
        if not right:
            raise ValueError(f"{key} is {values[key]!r}; it has to be {what}\ncorrect the value")


def write_thresholds(path: str, thresholds: Mapping[str, object], comment: str = "") -> None:
    """Write a partial Detectron2 config; the lines of `comment` come first, as YAML comments."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    with replacing(path) as file:
        file.write((lines + yaml.safe_dump(nested(thresholds), default_flow_style=None)).encode())


def merge_tuned_thresholds(cfg: CfgNode, opts: Sequence[str] = ()) -> dict[str, object]:
    """Take the thresholds stored beside ``MODEL.WEIGHTS`` into `cfg`, in place; log and return what was taken.

    That is nothing where the weights are no local file, or no thresholds lie beside them. Keys that `opts` ("KEY",
    "VALUE", ... of the command line) names keep their values. ValueError if the file holds a key that is not tunable,
    or a value that the key cannot have.
    """
    weights = cfg.MODEL.WEIGHTS
    path = os.path.join(os.path.dirname(weights), FILE_NAME)
    if not weights or "://" in weights or not os.path.isfile(path):
        return {}
    with open(path, "rb") as f:
        stored = renew(dict(flat(parse_yaml(f.read(), path))))
    tunable = GROUPING_KEYS | HEAD_KEYS
    if unknown := sorted(stored.keys() - tunable.keys()):
        advice = f"remove it; the keys are {', '.join(tunable)}"
        raise ValueError(f"{path}: {', '.join(unknown)} cannot be set there\n{advice}")
    taken = {key: value for key, value in stored.items() if key not in opts[::2]}
    for key, value in taken.items():
        try:
            cfg.merge_from_list([key, value])
            check_thresholds(cfg, [key])
        except ValueError as error:
            what = str(error).partition("\n")[0]
            raise ValueError(f"{path}: {what}\ntune again, or correct the value") from error
    logger = logging.getLogger(__name__)
    if os.path.isfile(weights) and os.path.getmtime(path) < os.path.getmtime(weights):
        logger.warning("%s is older than %s: were they tuned for other weights?", path, weights)
    if stored:
        values = ", ".join(f"{key} {value}" for key, value in taken.items()) or "none"
        kept = ", ".join(sorted(stored.keys() - taken.keys())) or "none"
        logger.info("Thresholds from %s: %s (overridden on the command line: %s)", path, values, kept)
    return taken
