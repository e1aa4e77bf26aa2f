#!/usr/bin/env python
"""The main job in one go: train, evaluate with COCO metrics, and draw a sheet of validation images.

    python tools/demo.py                                              # `make demo`
    python tools/demo.py --config-file configs/shapes/shapes.yaml --output output/shapes

A run that was stopped continues where it was; a finished one is evaluated and drawn anew.
"""

import argparse
import json
import os

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances
from detectron2.engine import default_setup

from dvis_d2.data.image_io import read_image
from dvis_d2.engine import DVISPredictor, Trainer, setup_cfg
from dvis_d2.visualization import draw_panel, metadata_of_detections

CONFIG = "configs/shapes/shapes_easy.yaml"


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", default=CONFIG, metavar="FILE")
    parser.add_argument("--output", default="output/demo", metavar="DIR")
    parser.add_argument("--num-images", type=int, default=12, help="images on the sheet")
    parser.add_argument("--confidence-threshold", type=float, default=0.5, help="of the instances drawn")
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def draw_sheet(cfg, num_images: int) -> np.ndarray:
    """uint8 RGB: evenly chosen validation images, two to a row, with ground truth, label map, proposals
    and result."""
    name = cfg.DATASETS.TEST[0]
    predictor, metadata = DVISPredictor(cfg), metadata_of_detections(cfg, name)
    dicts = DatasetCatalog.get(name)
    chosen = np.unique(np.linspace(0, len(dicts) - 1, num_images).round().astype(int))
    panels = []
    for record in (dicts[i] for i in chosen):
        image = read_image(record["file_name"], "BGR")
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        truth = annotations_to_instances(objects, image.shape[:2], mask_format="bitmask")
        panels.append(draw_panel(image[:, :, ::-1], predictor(image), metadata, truth, MetadataCatalog.get(name)))
    height, width = (max(p.shape[i] for p in panels) for i in (0, 1))
    sheet = np.full((-(-len(panels) // 2) * height, 2 * width, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        y, x = i // 2 * height, i % 2 * width
        sheet[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def main():
    args = get_parser().parse_args()
    args.opts += ["OUTPUT_DIR", args.output]
    cfg = setup_cfg(args)
    default_setup(cfg, args)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    results = trainer.train()

    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = os.path.join(args.output, "model_final.pth")
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = args.confidence_threshold
    sheet = os.path.join(args.output, "sheet.png")
    cv2.imwrite(sheet, draw_sheet(cfg, args.num_images)[:, :, ::-1])
    with open(os.path.join(args.output, "results.json"), "w") as f:
        # JSON has no nan, which COCO's metrics use for "no such objects"
        json.dump({task: {k: v if v == v else None for k, v in m.items()} for task, m in results.items()}, f, indent=2)
    segm = results["segm"]
    print(f"{cfg.DATASETS.TEST[0]}: segm AP {segm['AP']:.1f}, AP50 {segm['AP50']:.1f}; pictures: {sheet}")


if __name__ == "__main__":
    main()
