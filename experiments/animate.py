#!/usr/bin/env python
"""How label maps form: a training, with an animated picture of some validation images.

    python -m experiments.animate --output training.webp --config-file configs/shapes/shapes_easy.yaml

The training is an ordinary one, into OUTPUT_DIR. Colors mean the same in all frames. Its last line is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.evaluation import inference_context
from PIL import Image, ImageDraw, ImageFont

from dvis_d2.data import DVISDatasetMapper
from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.engine.console import setup_training
from dvis_d2.engine.output_folder import output_folder
from dvis_d2.inference.colors import label_colors

from .program import config_parser

TILE, GAP, CAPTION = 176, 4, 24  # pixels
DURATION, LAST = 120, 2500  # milliseconds of a frame, and of the last one


class Film(HookBase):
    """Every `every` steps the label maps, float32 (h, w), of evenly chosen images of ``DATASETS.TEST[0]``."""

    def __init__(self, cfg: CfgNode, every: int, num_images: int):
        records, self.every = DatasetCatalog.get(cfg.DATASETS.TEST[0]), every
        mapper = DVISDatasetMapper(cfg, is_train=False)
        chosen = np.linspace(0, len(records) - 1, num_images).round().astype(int)
        self.inputs = [mapper(records[i]) for i in chosen]
        self.order = slice(None, None, -1 if cfg.INPUT.FORMAT == "BGR" else 1)
        self.frames: list[tuple[int, list[np.ndarray]]] = []

    def before_train(self) -> None:
        self._add(0)

    def after_step(self) -> None:
        if (self.trainer.iter + 1) % self.every == 0:
            self._add(self.trainer.iter + 1)

    def _add(self, iteration: int) -> None:
        with inference_context(self.trainer.unwrapped_model) as _, torch.no_grad():
            outputs = [self.trainer.unwrapped_model.inference([x], intermediate=True)[0] for x in self.inputs]
        self.frames.append((iteration, [output["label_map"].float().cpu().numpy() for output in outputs]))

    def write(self, path: str) -> None:
        """An animated WebP or GIF."""
        top = max(1.0, max(float(np.nan_to_num(m).max()) for m in self.frames[-1][1]))
        images = [_tile(x["image"].permute(1, 2, 0).numpy()[:, :, self.order], cv2.INTER_AREA) for x in self.inputs]
        pictures = []
        for iteration, maps in self.frames:
            colored = [label_colors(np.minimum(np.nan_to_num(m), top), top).astype(np.uint8) for m in maps]
            rows = [np.concatenate(row, 1) for row in (images, [_tile(c, cv2.INTER_NEAREST) for c in colored])]
            picture = Image.fromarray(cv2.copyMakeBorder(np.concatenate(rows), CAPTION, 0, GAP, 0, cv2.BORDER_CONSTANT))
            font = ImageFont.load_default(14)
            ImageDraw.Draw(picture).text((GAP, CAPTION / 2), f"iteration {iteration}", (255,) * 3, font, anchor="lm")
            pictures.append(picture)
        durations = [DURATION] * (len(pictures) - 1) + [LAST]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, quality=70)


def _tile(picture: np.ndarray, interpolation: int) -> np.ndarray:
    scale = TILE / max(picture.shape[:2])
    size = round(picture.shape[1] * scale), round(picture.shape[0] * scale)
    small = cv2.resize(np.ascontiguousarray(picture), size, interpolation=interpolation)
    down, right = TILE - small.shape[0] + GAP, TILE - small.shape[1] + GAP
    return cv2.copyMakeBorder(small, 0, down, 0, right, cv2.BORDER_CONSTANT)


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--output", required=True, metavar="FILE", help="ends in .webp or .gif")
    parser.add_argument("--every", type=int, default=25, help="iterations between two frames")
    parser.add_argument("--num-images", type=int, default=4)
    args = parser.parse_args(argv)
    args.output, path = None, args.output  # of setup_cfg, it is the folder
    cfg = setup_cfg(args)
    with output_folder(cfg.OUTPUT_DIR, resume=False):
        setup_training(cfg, args, quiet=True)
        trainer = Trainer(cfg)
        film = Film(cfg, args.every, args.num_images)
        trainer.register_hooks([film])
        trainer.resume_or_load(resume=False)
        trainer.train()
    film.write(path)
    print(json.dumps({"frames": len(film.frames), "iterations": cfg.SOLVER.MAX_ITER, "file": path}))


if __name__ == "__main__":
    main()
