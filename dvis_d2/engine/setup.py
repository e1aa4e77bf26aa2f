"""The arguments of train_net.py and the program `dvis`, and the config that they mean."""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_argument_parser
from torch import nn

from ..checkpoint import DVISCheckpointer, find_weights, merge_stored, settle_device, stored_info
from ..config import add_dvis_config, check_values, find_config, load_config
from ..data import register_from_config
from ..data.formats import convert_folder
from ..tuning import check_thresholds, merge_tuned_thresholds
from .console import setup_console
from .recipe import lay_recipe

logger = logging.getLogger(__name__)


def argument_parser() -> argparse.ArgumentParser:
    """Detectron2's arguments, and those that name one's own data and where the training goes."""
    parser = default_argument_parser()
    parser.add_argument("--debug", action="store_true", help="show where an error arose; so does DVIS_DEBUG=1")
    parser.set_defaults(debug=bool(os.environ.get("DVIS_DEBUG")))
    parser.add_argument("--data", metavar="FOLDER", help="own images and masks in any common format; needs no config")
    parser.add_argument(
        "--model", metavar="MODEL", help="start from, or evaluate, a packaged model, a folder or a file"
    )
    parser.add_argument("--output", metavar="DIR", help="the same as OUTPUT_DIR; default with --data: output/FOLDER")
    group = parser.add_argument_group("own data in COCO format (the same as DATASETS.CUSTOM.* in the config)")
    for split, use in (("train", "train"), ("val", "evaluate")):
        group.add_argument(f"--{split}-json", metavar="FILE", help=f"annotations to {use} on")
        group.add_argument(f"--{split}-images", metavar="DIR", help="their images; default: beside the JSON")
    return parser


def missing_arguments(args: argparse.Namespace) -> str:
    """What to say to whoever gave neither data nor a config; "" where there are some."""
    if any(getattr(args, name) for name in ("data", "train_json", "config_file", "resume")):
        return ""
    return (
        "nothing to train on: --data, --train-json and --config-file are missing\n"
        "  your own images: --data FOLDER --output output/mine\n"
        "  a config: --config-file configs/shapes/shapes.yaml    (all options: --help)"
    )


def setup_cfg(
    args: argparse.Namespace,
    *,
    inference: bool = False,
    tuned: bool = True,
    extra: Sequence[Callable[[CfgNode], None]] = (),
) -> CfgNode:
    """The frozen config of a command line: defaults, ``--config-file``, which becomes what :func:`find_config` finds,
    own data, which are converted, checked and registered, ``opts``. The device is CUDA where there is one, unless they
    say. Own data without a config bring their recipe (:mod:`.recipe`); with ``--resume`` they go on with the config in
    ``OUTPUT_DIR``, as they do with its data. ``--model`` gives the weights, and without ``--config-file`` the config;
    for `inference`, a training's folder gives its data too.

    With `inference`, no training data are read, and ``MODEL.WEIGHTS`` becomes what :func:`find_weights` finds, with
    ``args.resume`` the last checkpoint in ``OUTPUT_DIR``; it gives the config where there is no file of one. With
    `tuned`, the thresholds tuned for it are taken, except those in ``opts``; not for training, where the grouping
    decides which proposals the heads learn from. Each of `extra` adds keys of its own to the config, before the file is
    read. KeyError for an unknown key, FileNotFoundError for an unknown file, DatasetError for unfit data.
    """
    setup_console("dvis_d2", getattr(args, "quiet", False))
    cfg = get_cfg()
    for add_keys in (add_dvis_config, *extra):
        add_keys(cfg)
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    given = dict(zip(args.opts[::2], args.opts[1::2], strict=True))
    data, output, model, resume = (getattr(args, name, None) for name in ("data", "output", "model", "resume"))
    if data and not output and not args.config_file:
        output = os.path.join("output", Path(data).resolve().stem)
    saved = os.path.join(given.get("OUTPUT_DIR", output) or "", "config.yaml")
    if resume and not args.config_file and os.path.dirname(saved) and os.path.isfile(saved):
        args.config_file = saved
    beside = os.path.join(os.path.expanduser(model or ""), "config.yaml")
    if inference and model and not args.config_file and os.path.isfile(beside):
        args.config_file = beside
    learnt = None
    if args.config_file:
        args.config_file = find_config(args.config_file)
        load_config(cfg, args.config_file)
    elif weights := model or (inference and given.get("MODEL.WEIGHTS")):
        learnt = stored_info(find_weights(weights))
        merge_stored(cfg, learnt, weights)
    if not inference and not args.config_file:
        cfg.DATASETS.CUSTOM.CLASS_NAMES = []  # those of the data
    cfg.MODEL.WEIGHTS = find_weights(model) if model else cfg.MODEL.WEIGHTS
    cfg.OUTPUT_DIR = output or cfg.OUTPUT_DIR
    for key in ("TRAIN_JSON", "TRAIN_IMAGES", "VAL_JSON", "VAL_IMAGES"):
        value = getattr(args, key.lower(), None)
        cfg.DATASETS.CUSTOM[key] = cfg.DATASETS.CUSTOM[key] if value is None else value
    cfg.merge_from_list(args.opts)
    asked = {key: cfg.DATASETS[key] for key in ("TRAIN", "TEST") if f"DATASETS.{key}" in given}
    if data:
        _convert(cfg, data, resume=bool(resume))
    register_from_config(cfg, train=not inference)
    if lost := [key for key, names in asked.items() if cfg.DATASETS[key] != names]:
        what = f"DATASETS.{lost[0]} is without effect beside data of one's own"
        raise ValueError(f"{what}\nleave it out, or leave those out")
    if cfg.DATASETS.CUSTOM.TRAIN_JSON and not args.config_file and not inference:
        logger.info("%s", lay_recipe(cfg, args.opts, learnt["statistics"] if learnt else None))
    if inference:
        last = DVISCheckpointer(nn.Module(), cfg.OUTPUT_DIR).get_checkpoint_file() if resume else ""
        cfg.MODEL.WEIGHTS = last or (cfg.MODEL.WEIGHTS and find_weights(cfg.MODEL.WEIGHTS))
        if tuned:
            merge_tuned_thresholds(cfg, args.opts)
    check_thresholds(cfg)
    check_values(cfg)
    settle_device(cfg)
    cfg.freeze()
    return cfg


def _convert(cfg: CfgNode, folder: str, *, resume: bool) -> None:
    """Make a folder of any format the own data of a config."""
    started = os.path.isfile(os.path.join(cfg.OUTPUT_DIR, "last_checkpoint"))
    found = convert_folder(folder, cfg.OUTPUT_DIR, keep=resume or started)
    custom = cfg.DATASETS.CUSTOM
    custom.TRAIN_JSON, custom.VAL_JSON = found.train_json, found.val_json
    custom.TRAIN_IMAGES = custom.VAL_IMAGES = found.image_root
    logger.info("%s", found.summary)


def require_weights_and_data(cfg: CfgNode, args: argparse.Namespace) -> None:
    """ValueError where ``MODEL.WEIGHTS`` or ``DATASETS.TEST`` is empty."""
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("there are no weights\nappend MODEL.WEIGHTS and the file of a trained model")
    if not cfg.DATASETS.TEST:
        named = args.config_file or cfg.MODEL.WEIGHTS
        what = f"there is no {args.val_json}" if args.val_json else f"{named} names no validation data here"
        raise ValueError(f"{what}\ngive --val-json FILE and, if its images are elsewhere, --val-images FOLDER")
