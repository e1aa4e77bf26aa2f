#!/usr/bin/env python
"""What a trained network's label maps and proposals hold: modes, proposals and recall by the number of objects.

    python tools/evaluate_proposals.py --config-file output/demo/config.yaml MODEL.WEIGHTS output/demo/model_final.pth

Reads DATASETS.TEST of the config, or --val-json. Prints a table (the paper's Table 6 and Fig. 3, and the shares of
near and far pairs of cells from different objects whose labels differ by more than 0.5), writes a plot, and prints as
its last line one JSON object. docs/ceilings.md explains the columns.
"""

from __future__ import annotations

import argparse
import json
import os

import torch
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from tqdm import tqdm

from dvis_d2.engine import DVISPredictor, setup_cfg
from dvis_d2.evaluation.proposal_statistics import format_table, measure_image, plot_by_objects, summarize, to_json


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--val-json", metavar="FILE", help="own data in COCO's format instead of DATASETS.TEST")
    parser.add_argument("--val-images", metavar="DIR", help="their images; default: beside the JSON")
    parser.add_argument("--num-images", type=int, help="only the first so many")
    parser.add_argument("--plot", metavar="FILE", help="default: proposals.png in OUTPUT_DIR")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def main():
    args = get_parser().parse_args()
    cfg = setup_cfg(args)
    name = cfg.DATASETS.TEST[0]
    predictor = DVISPredictor(cfg)
    images = []
    for record in tqdm(DatasetCatalog.get(name)[: args.num_images]):
        image = read_image(record["file_name"], format="BGR")
        with torch.no_grad():
            images.append(measure_image(predictor, image, record["annotations"], file_name=record["file_name"]))
    summary = summarize(images)
    bandwidths = list(cfg.MODEL.MEAN_SHIFT.BANDWIDTHS)
    print(format_table(summary, bandwidths))
    plot = args.plot or os.path.join(cfg.OUTPUT_DIR, "proposals.png")
    os.makedirs(os.path.dirname(plot) or ".", exist_ok=True)
    plot_by_objects(summary, bandwidths, plot)
    print(f"plot: {plot}")
    print(json.dumps(to_json({"dataset": name, "weights": cfg.MODEL.WEIGHTS, "bandwidths": bandwidths, **summary})))


if __name__ == "__main__":
    main()
