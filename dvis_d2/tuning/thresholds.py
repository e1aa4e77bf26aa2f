"""The tuned values: which keys they are, their file beside the weights, and their way into a config or a model.

A `thresholds` dict maps full config keys ("MODEL.DVIS_ROI_HEADS.ALPHA") to values.
"""

import logging
import os
from collections.abc import Mapping, Sequence

import yaml
from detectron2.config import CfgNode
from torch import nn

FILE_NAME = "thresholds.yaml"

# The tunable keys, with the argument of `group_label_map` or the attribute of `DVISROIHeads` that each one sets.
GROUPING_KEYS = {
    "MODEL.MEAN_SHIFT.BANDWIDTHS": "bandwidths",
    "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD": "foreground_threshold",
    "MODEL.MEAN_SHIFT.READINGS": "readings",
    "MODEL.MEAN_SHIFT.LINK_THRESHOLDS": "link_thresholds",
    "MODEL.MEAN_SHIFT.CRUMB_RATIO": "crumb_ratio",
    "MODEL.MEAN_SHIFT.NMS_THRESH": "nms_threshold",
}
HEAD_KEYS = {
    "MODEL.DVIS_ROI_HEADS.ALPHA": "alpha",
    "MODEL.DVIS_ROI_HEADS.SCORE_FUSION": "score_fusion",
    "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": "mask_source",
    "MODEL.DVIS_ROI_HEADS.NMS": "nms",
    "MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC_NMS": "class_agnostic_nms",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": "nms_threshold",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": "score_threshold",
}


def current_thresholds(cfg: CfgNode) -> dict[str, object]:
    """The values that `cfg` has for every tunable key."""
    flat = {}
    for key in (*GROUPING_KEYS, *HEAD_KEYS):
        node = cfg
        for name in key.split("."):
            node = node[name]
        flat[key] = list(node) if isinstance(node, (list, tuple)) else node
    return flat


def apply_thresholds(model: nn.Module, thresholds: Mapping[str, object]) -> None:
    """Set the values in a built DVIS model, in place, as building it from a config with them would."""
    for key, name in GROUPING_KEYS.items():
        if key in thresholds:
            model.proposal_generator.grouping[name] = thresholds[key]
    for key, name in HEAD_KEYS.items():
        if key in thresholds:
            setattr(model.roi_heads, name, thresholds[key])


def write_thresholds(path: str, thresholds: Mapping[str, object], comment: str = "") -> None:
    """Write a partial Detectron2 config; the lines of `comment` come first, as YAML comments."""
    tree: dict = {}
    for key, value in thresholds.items():
        *parents, name = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    with open(path, "w") as f:
        f.writelines(f"# {line}\n" for line in comment.splitlines())
        yaml.safe_dump(tree, f, default_flow_style=None)


def merge_tuned_thresholds(cfg: CfgNode, opts: Sequence[str] = ()) -> dict[str, object]:
    """Take the thresholds stored beside ``MODEL.WEIGHTS`` into `cfg`, in place, and log which and from where.

    Nothing happens where ``TEST.USE_TUNED_THRESHOLDS`` is off, the weights are not a local file, or no file lies
    beside them.

    Args:
        cfg: not frozen.
        opts: "KEY", "VALUE", ... of the command line; a key named there keeps its value.

    Returns:
        what was taken.

    Raises:
        ValueError: the file holds a key that is not tunable, or a value of another type than the config's.
    """
    weights = cfg.MODEL.WEIGHTS
    if not cfg.TEST.USE_TUNED_THRESHOLDS or not weights or "://" in weights:
        return {}
    path = os.path.join(os.path.dirname(weights), FILE_NAME)
    if not os.path.isfile(path):
        return {}
    stored = _read(path)
    taken = {key: value for key, value in stored.items() if key not in opts[::2]}
    for key, value in taken.items():
        try:
            cfg.merge_from_list([key, value])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    logger = logging.getLogger(__name__)
    if os.path.isfile(weights) and os.path.getmtime(path) < os.path.getmtime(weights):
        logger.warning("%s is older than %s: were they tuned for other weights?", path, weights)
    if stored:
        kept = ", ".join(sorted(stored.keys() - taken.keys())) or "none"
        values = ", ".join(f"{key} {value}" for key, value in taken.items()) or "none"
        logger.info("Thresholds from %s: %s (overridden on the command line: %s)", path, values, kept)
    return taken


def _read(path: str) -> dict[str, object]:
    with open(path) as f:
        tree = yaml.safe_load(f) or {}
    flat = {}
    pending = [("", tree)]
    while pending:
        prefix, node = pending.pop()
        for name, value in node.items():
            if isinstance(value, dict):
                pending.append((f"{prefix}{name}.", value))
            else:
                flat[f"{prefix}{name}"] = value
    unknown = sorted(flat.keys() - GROUPING_KEYS.keys() - HEAD_KEYS.keys())
    if unknown:
        raise ValueError(
            f"{path}: {', '.join(unknown)} cannot be set there, only {', '.join((*GROUPING_KEYS, *HEAD_KEYS))}; "
            "remove it, or put TEST.USE_TUNED_THRESHOLDS False"
        )
    return flat
