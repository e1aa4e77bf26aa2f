"""What the programs share: arguments, and the trained model."""

from __future__ import annotations

import argparse
import os

from detectron2.config import CfgNode
from torch import nn

from dvis_d2.checkpoint import DVISCheckpointer
from dvis_d2.engine import Trainer


def config_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of ``--config-file FILE [options] [KEY VALUE ...]``, to which a program adds its options."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def load_trained_model(cfg: CfgNode) -> nn.Module:
    """The model of ``MODEL.WEIGHTS`` for inference.

    Raises:
        SystemExit: the weights are not a local file, or no data set is named.
    """
    weights = cfg.MODEL.WEIGHTS
    if not os.path.isfile(weights):
        raise SystemExit(f"MODEL.WEIGHTS is {weights!r}, not a file: append MODEL.WEIGHTS and a trained model's path")
    if not cfg.DATASETS.TEST:
        raise SystemExit("DATASETS.TEST is empty: append DATASETS.TEST and the data set to evaluate on")
    model = Trainer.build_model(cfg).eval()
    DVISCheckpointer(model).load(weights)
    return model
