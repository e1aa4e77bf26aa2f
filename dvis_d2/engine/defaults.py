import argparse
from collections.abc import Callable, Sequence

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from ..config import add_dvis_config, load_config
from ..config_files import find_config
from ..data import register_from_config
from ..tuning import merge_tuned_thresholds


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and four that name one's own COCO-format data."""
    parser = default_argument_parser()
    group = parser.add_argument_group("own data in COCO format (the same as DATASETS.CUSTOM.* in the config)")
    for split, use in (("train", "train"), ("val", "evaluate")):
        group.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations to {use} on")
        group.add_argument(f"--{split}-images", metavar="DIR", help="their images; default: beside the JSON")
    return parser


def setup_cfg(
    args: argparse.Namespace, *, inference: bool = False, extra: Sequence[Callable[[CfgNode], None]] = ()
) -> CfgNode:
    """The frozen config of a command line: defaults, ``--config-file``, which becomes what :func:`find_config` finds,
    own data, which are checked and registered, ``opts``. The device is CUDA where there is one, unless they say.

    KeyError for an unknown key, FileNotFoundError for an unknown file, DatasetError for unfit data.

    Args:
        inference: take the thresholds tuned for ``MODEL.WEIGHTS``, except those in ``opts``. Not for training, where
            the grouping decides which proposals the heads learn from.
        extra: each adds keys of its own to the config, before the file is read.
    """
    setup_logger(name="dvis_d2", distributed_rank=comm.get_rank())
    cfg = get_cfg()
    for add_keys in (add_dvis_config, *extra):
        add_keys(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    if args.config_file:
        args.config_file = find_config(args.config_file)
        load_config(cfg, args.config_file)
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
