#!/usr/bin/env python
"""What large images cost: validation images of one size, put side by side k x k, and read in tiles.

    python -m experiments.evaluate_tiled --grids 1 2 4 16 --config-file output/nuclei/config.yaml \\
        MODEL.WEIGHTS output/nuclei/model_final.pth

Each grid's pictures use every image about as often; k = 1 is the single images, as `dvis eval` reads them. Every row's
AP is over the objects of its own pictures, with no limit on the detections; `single` is the AP of the single images as
often as they are in them. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import itertools
import json
import math
import resource
import time
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, get_detection_dataset_dicts
from pycocotools.coco import COCO

from dvis_d2.data.annotations import read_annotations, to_mask
from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.data.image_io import read_image
from dvis_d2.data.statistics import training_statistics
from dvis_d2.engine import setup_cfg
from dvis_d2.evaluation.coco_ap import average_precision, evaluate_coco
from dvis_d2.inference.tiled_network import TiledInference

from .program import config_parser, load_trained_model


def ground_truth(entry: dict, size: tuple[int, int]) -> tuple[CroppedMasks, list[int]]:
    """The objects of an image that are no crowd, and their classes."""
    objects = [a for a in read_annotations(entry)[0] if not a.get("iscrowd", 0)]
    masks = [to_mask(a["segmentation"], size, entry["file_name"]) for a in objects]
    return CroppedMasks.from_masks(np.array(masks, dtype=bool).reshape(-1, *size)), [a["category_id"] for a in objects]


def side_by_side(cells: Sequence[CroppedMasks], columns: int) -> CroppedMasks:
    """The masks of images of one size, which lie row by row in a picture."""
    height, width = cells[0].image_size
    places = [
        np.array([x, y, x, y]) for y, x in ((k // columns * height, k % columns * width) for k in range(len(cells)))
    ]
    boxes = np.concatenate([cell.boxes + place for cell, place in zip(cells, places, strict=True)])
    crops = list(itertools.chain.from_iterable(cell.crops for cell in cells))
    return CroppedMasks((height * len(cells) // columns, width * columns), boxes, crops)


class Score:
    """COCO's AP of pictures that are added one by one."""

    def __init__(self) -> None:
        self.truth: dict[str, list[dict]] = {"images": [], "annotations": [], "categories": []}
        self.results: list[dict] = []

    def add(self, truth: tuple[CroppedMasks, list[int]], found: list[dict]) -> None:
        number = len(self.truth["images"]) + 1
        masks, classes = truth
        height, width = masks.image_size
        self.truth["images"].append({"id": number, "height": height, "width": width})
        for rle, category, area in zip(masks.to_rle(), classes, masks.areas().tolist(), strict=True):
            own = {"id": len(self.truth["annotations"]) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            self.truth["annotations"].append(own | {"segmentation": rle, "area": area, "bbox": [0, 0, 1, 1]})
        self.results += [result | {"image_id": number} for result in found]

    def value(self) -> float:
        classes = {a["category_id"] for a in self.truth["annotations"]}
        self.truth["categories"] = [{"id": c, "name": str(c)} for c in sorted(classes)]
        coco = COCO()
        coco.dataset = self.truth
        coco.createIndex()
        return average_precision(evaluate_coco(coco, self.results))


def results_of(instances) -> list[dict]:
    each = zip(instances.pred_masks.to_rle(), instances.pred_classes.tolist(), instances.scores.tolist(), strict=True)
    return [{"segmentation": rle, "category_id": category, "score": score} for rle, category, score in each]


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--grids", type=int, nargs="+", default=[1, 2, 4], metavar="K")
    parser.add_argument("--max-images", type=int, default=10**6, help="validation images to use")
    parser.add_argument("--tile", type=int, help="longest side of a tile in network pixels [TEST.TILE_SIZE's rule]")
    args = parser.parse_args(argv)
    cfg = setup_cfg(args)  # with the training data, for their statistics
    statistics = training_statistics(cfg, [d for name in cfg.DATASETS.TRAIN for d in DatasetCatalog.get(name)])
    network = TiledInference(cfg, load_trained_model(cfg), statistics, tile=args.tile)
    entries = get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False)[: args.max_images]
    images = [read_image(entry["file_name"], cfg.INPUT.FORMAT) for entry in entries]
    truths = [ground_truth(entry, image.shape[:2]) for entry, image in zip(entries, images, strict=True)]
    single = [results_of(network.predict(image)["instances"]) for image in images]
    rows = []
    print("| grid | side, px | objects | found | AP | single | s a megapixel | peak, GiB |\n|" + "---|" * 8)
    for k in args.grids:
        pictures = math.ceil(len(images) / k**2)
        order = np.arange(pictures * k**2).reshape(pictures, k**2) % len(images)
        tiled, alone, seconds, found = Score(), Score(), 0.0, 0
        for cells in order.tolist():
            lines = [np.concatenate([images[i] for i in cells[r * k : r * k + k]], axis=1) for r in range(k)]
            picture = np.concatenate(lines, axis=0)
            start = time.perf_counter()
            instances = network.predict(picture)["instances"]
            seconds += time.perf_counter() - start
            found += len(instances)
            masks = side_by_side([truths[i][0] for i in cells], k)
            tiled.add((masks, [c for i in cells for c in truths[i][1]]), results_of(instances))
            for i in cells:
                alone.add(truths[i], single[i])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        if torch.cuda.is_available():
            peak += torch.cuda.max_memory_allocated() / 2**30
        rate = seconds / (len(order) * picture.shape[0] * picture.shape[1] / 1e6)
        row = {
            "grid": k,
            "objects": len(tiled.truth["annotations"]),
            "found": found,
            "peak_gib": round(peak, 2),
            "seconds_per_megapixel": round(rate, 2),
            "AP": round(tiled.value(), 2),
            "single_AP": round(alone.value(), 2),
        }
        rows.append(row)
        figures = f"{row['objects']} | {found} | {row['AP']:.1f} | {row['single_AP']:.1f} | {rate:.2f} | {peak:.2f}"
        print(f"| {k} x {k} | {len(picture)} | {figures} |", flush=True)
    print(json.dumps({"weights": cfg.MODEL.WEIGHTS, "rows": rows}))


if __name__ == "__main__":
    main()
