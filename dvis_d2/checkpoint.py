"""Stand-in, to be replaced by the branch `weights`."""

import os
from collections.abc import Sequence
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model

from .config import add_dvis_config, load_config
from .data import register_from_config
from .inference.predictor import detection_metadata
from .tuning import merge_tuned_thresholds


def load_model(
    source: str | os.PathLike, *, device: str | None = None, opts: Sequence[str] = ()
) -> tuple[CfgNode, Any, dict[str, Any]]:
    """FileNotFoundError where there are no weights."""
    path = os.path.join(source, "model_final.pth") if os.path.isdir(source) else os.fspath(source)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"there are no weights {source}")
    cfg = get_cfg()
    add_dvis_config(cfg)
    load_config(cfg, os.path.join(os.path.dirname(path), "config.yaml"))
    cfg.MODEL.DEVICE = device or ("cuda" if torch.cuda.is_available() else "cpu")
    cfg.MODEL.WEIGHTS = path
    cfg.merge_from_list(list(opts))
    register_from_config(cfg)
    merge_tuned_thresholds(cfg, opts)
    cfg.freeze()
    model = build_model(cfg).eval()
    DetectionCheckpointer(model).load(path)
    return cfg, model, {"class_names": detection_metadata(cfg).get("thing_classes", [])}
