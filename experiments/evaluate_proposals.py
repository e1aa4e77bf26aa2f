#!/usr/bin/env python
"""What a trained network's label maps and proposals hold: modes, proposals and recall by the number of objects.

    python -m experiments.evaluate_proposals --config-file output/demo/config.yaml \\
        MODEL.WEIGHTS output/demo/model_final.pth

Reads DATASETS.TEST of the config, or --val-json. Prints a table (the paper's Table 6 and Fig. 3, and the shares of
near and far pairs of cells from different objects whose labels differ by more than 0.5), writes a plot, and prints as
its last line one JSON object. README.md explains the columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from dvis_d2.data.image_io import read_image
from dvis_d2.engine import setup_cfg
from dvis_d2.inference.predictor import DVISPredictor

from .program import config_parser
from .proposal_statistics import measure_image, print_summary, summarize


@torch.no_grad()
def measure(cfg: CfgNode, *, num_images: int | None = None) -> dict:
    """:func:`summarize` of the images of ``DATASETS.TEST[0]``, or of the first so many."""
    predictor = DVISPredictor(cfg)
    images = []
    for record in tqdm(DatasetCatalog.get(cfg.DATASETS.TEST[0])[:num_images]):
        image = read_image(record["file_name"], "BGR")
        images.append(measure_image(predictor, image, record["annotations"], file_name=record["file_name"]))
    return summarize(images)


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--val-json", metavar="FILE", help="own data in COCO's format instead of DATASETS.TEST")
    parser.add_argument("--val-images", metavar="DIR", help="their images; default: beside the JSON")
    parser.add_argument("--num-images", type=int, help="only the first so many")
    parser.add_argument("--plot", metavar="FILE", help="default: proposals.png in OUTPUT_DIR")
    args = parser.parse_args(argv)
    cfg = setup_cfg(args)
    summary = measure(cfg, num_images=args.num_images)
    about = {"dataset": cfg.DATASETS.TEST[0], "weights": cfg.MODEL.WEIGHTS}
    print_summary(summary, cfg, about, args.plot or f"{cfg.OUTPUT_DIR}/proposals.png")


if __name__ == "__main__":
    main()
