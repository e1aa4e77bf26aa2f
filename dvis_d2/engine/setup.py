import argparse

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_dvis_config
from ..data import register_from_config
from ..tuning import merge_tuned_thresholds


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and four that name one's own COCO-format data."""
    parser = default_argument_parser()
    group = parser.add_argument_group("own data in COCO format (the same as DATASETS.CUSTOM.* in the config)")
    group.add_argument("--train-json", metavar="FILE", help="annotations to train on")
    group.add_argument("--train-images", metavar="DIR", help="their images; default: beside the JSON")
    group.add_argument("--val-json", metavar="FILE", help="annotations to evaluate on")
    group.add_argument("--val-images", metavar="DIR", help="their images; default: beside the JSON")
    return parser


def setup_cfg(args: argparse.Namespace, *, inference: bool = False) -> CfgNode:
    """The frozen config of a command line: defaults, ``--config-file``, own data, ``opts``.

    The device is CUDA where there is one and the CPU otherwise, unless the file or ``opts`` say. Own
    data are checked and registered here, before anything expensive starts.

    Args:
        args: of :func:`argument_parser`, or with its ``config_file`` and ``opts`` at least.
        inference: take the thresholds tuned for ``MODEL.WEIGHTS`` too, except those in ``opts``. Not for
            training, where the grouping decides which proposals the heads learn from.

    Raises:
        KeyError: for a config key that does not exist.
        dvis_d2.data.DatasetError: for own data that cannot work.
    """
    setup_logger(name="dvis_d2", distributed_rank=comm.get_rank())
    cfg = get_cfg()
    add_dvis_config(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    for key in ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"):
        value = getattr(args, key.lower(), None)
        if value is not None:
            cfg.DATASETS.CUSTOM[key] = value
    cfg.merge_from_list(args.opts)
    register_from_config(cfg)
    if inference:
        merge_tuned_thresholds(cfg, args.opts)
    cfg.freeze()
    return cfg
