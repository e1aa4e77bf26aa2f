#!/usr/bin/env python
"""How many objects a trained network keeps apart: drawn pictures with n = 1..30 objects of one range of sizes.

    python -m experiments.evaluate_capacity --config-file output/demo/config.yaml \\
        MODEL.WEIGHTS output/demo/model_final.pth

The canvas grows with n (128 px for 8 objects, and as its square root), so density and sizes stay the same: what changes
is how many labels the network needs. Pictures are not resized. Prints a table by the number of objects, writes a plot,
and prints as its last line one JSON object. README.md explains the columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from tqdm import tqdm

from dvis_d2.data import PRESETS, draw_image
from dvis_d2.engine import setup_cfg
from dvis_d2.inference.predictor import DVISPredictor

from .program import config_parser
from .proposal_statistics import measure_image, print_summary, summarize

OBJECTS_AT_128 = 8
SIDE_STEP = 16  # px: 8 objects have 128, 20 have 208
TRIES = 20


def canvas_side(count: int) -> int:
    """Pixels: 128 * sqrt(count / 8), rounded up to a multiple of 16."""
    return math.ceil(128 * math.sqrt(count / OBJECTS_AT_128) / SIDE_STEP) * SIDE_STEP


def draw(
    count: int, index: int, *, preset: str, object_size: tuple[float, float], seed: int
) -> tuple[np.ndarray, list[dict]]:
    """Picture ``index`` with exactly ``count`` objects: BGR uint8 (side, side, 3) and its annotations.

    Raises:
        ValueError: so many objects of this size do not fit.
    """
    rng = np.random.default_rng([seed, count, index])
    side = canvas_side(count)
    copies = PRESETS[preset]["copies"] if count > 1 else 0.0  # copies would add a second object
    options = PRESETS[preset] | {
        "height": side,
        "width": side,
        "num_objects": (count, count),
        "object_size": tuple(object_size),
        "copies": copies,
    }
    for _ in range(TRIES):
        image, masks, classes, _ = draw_image(rng, **options)
        if len(masks) == count:
            annotations = [{"segmentation": m, "category_id": c} for m, c in zip(masks, classes, strict=True)]
            return np.ascontiguousarray(image[:, :, ::-1]), annotations
    raise ValueError(f"{count} objects of {object_size} px do not fit into {side} x {side} px: lower --object-size")


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--preset", choices=PRESETS, default="shapes_easy", help="how pictures look")
    parser.add_argument("--max-objects", type=int, default=30, help="pictures have 1 to so many")
    parser.add_argument("--images-per-count", type=int, default=8)
    parser.add_argument(
        "--object-size",
        type=float,
        nargs=2,
        default=[20.5, 53.8],
        metavar=("LEAST", "GREATEST"),
        help="diameters in px [those of the built-in sets]",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="default: capacity.png in OUTPUT_DIR")
    args = parser.parse_args(argv)
    args.opts += ["INPUT.MIN_SIZE_TEST", 0]  # Detectron2's word for "as it is"
    cfg = setup_cfg(args)
    predictor = DVISPredictor(cfg)
    look = {"preset": args.preset, "object_size": args.object_size, "seed": args.seed}
    images = []
    for count in tqdm(range(1, args.max_objects + 1)):
        for index in range(args.images_per_count):
            image, annotations = draw(count, index, **look)
            with torch.no_grad():
                images.append(measure_image(predictor, image, annotations, file_name=f"{count} objects, {index}"))
    about = {**look, "weights": cfg.MODEL.WEIGHTS}
    print_summary(summarize(images), cfg, about, args.plot or f"{cfg.OUTPUT_DIR}/capacity.png")


if __name__ == "__main__":
    main()
