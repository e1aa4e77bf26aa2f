#!/usr/bin/env python
"""Whether exported models find what the models find: the same images through torch and through the runtime.

    python -m experiments.evaluate_export --models nuclei shapes --num-images 100

For each packaged model and precision: the largest difference of label maps, the share of images with the same
proposals, cell by cell, the AP by torch and by the runtime, and the share of torch's masks that have one of IoU >= 0.99
among the runtime's. Images of nuclei are those of data/nuclei, training images too (two programs are compared, not a
model with the truth); shapes are those of shapes_val. Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm

import dvis_d2
from dvis_d2.data import register_coco_json
from dvis_d2.data.image_io import read_image
from dvis_d2.inference.image_model import ImageModel
from dvis_d2.inference.seams import Found
from dvis_d2.model_export import PRECISIONS, export_model
from dvis_d2.runtime import Runtime

from .evaluate_tiled import Score, ground_truth
from .tables import markdown_table

IOU = 0.99
THRESHOLD = 0.05  # least score of the masks that are compared, and of those that count for the AP


def entries_of(model: str, count: int) -> list[dict]:
    """Dataset dicts, evenly chosen."""
    if model == "nuclei":
        entries = []
        for part in ("train", "dev"):
            register_coco_json(f"nuclei_{part}", f"data/nuclei/{part}.json", "data/nuclei/images")
            entries += DatasetCatalog.get(f"nuclei_{part}")
    else:
        entries = DatasetCatalog.get(f"{model}_val")
    return [entries[k] for k in np.unique(np.linspace(0, len(entries) - 1, count).round().astype(int))]


def find(model: ImageModel, image: np.ndarray) -> tuple[Found, dict]:
    """As `predict`, with what the network knows of an image that is not read in tiles."""
    model._set_threshold(THRESHOLD)
    return model._inference.find(model._in_order(image), extras=True)


def results_of(found: Found) -> list[dict]:
    each = zip(found.masks.to_rle(), found.classes.tolist(), found.scores.tolist(), strict=True)
    return [{"segmentation": rle, "category_id": category, "score": score} for rle, category, score in each]


def matched(expected: Found, found: Found) -> int:
    """How many of the expected masks have one of this IoU."""
    count = 0
    crops = list(zip(found.masks.boxes, range(len(found)), strict=True))
    for own, mask in zip(expected.masks.boxes, expected.masks, strict=True):
        near = [k for box, k in crops if np.abs(box - own).max() <= 0.02 * max(mask.shape) + 2]
        count += any((mask & found.masks[k]).sum() >= IOU * (mask | found.masks[k]).sum() for k in near)
    return count


class Comparison:
    """The figures of one exported file, image by image."""

    def __init__(self, path: str):
        self.runtime, self.mib = Runtime(path), os.path.getsize(path) / 2**20
        self.scores, self.difference = (Score(), Score()), 0.0
        self.images = self.whole = self.same = self.masks = self.matched = 0

    def add(self, image: np.ndarray, truth: Any, expected: Found, extras: dict) -> None:
        """An image, uint8 (H, W, 3) in RGB, its objects, and what torch has found."""
        found, more = find(self.runtime, image)
        if extras:  # not read in tiles
            self.whole += 1
            self.same += np.array_equal(extras["proposals"].proposal_masks.numpy(), more["proposals"])
            distance = np.abs(extras["label_map"].numpy() - more["label_map"]).max()
            self.difference = max(self.difference, float(distance))
        self.images, self.masks = self.images + 1, self.masks + len(expected)
        self.matched += matched(expected, found)
        for score, own in zip(self.scores, (expected, found), strict=True):
            score.add(truth, results_of(own))

    def figures(self) -> dict[str, Any]:
        return {
            "mib": self.mib,
            "images": self.images,
            "label_map": self.difference,
            "proposals": 100 * self.same / max(1, self.whole),
            "masks": self.masks,
            "same_masks": 100 * self.matched / max(1, self.masks),
            "AP_torch": self.scores[0].value(),
            "AP_runtime": self.scores[1].value(),
        }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["nuclei", "shapes"])
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--num-images", type=int, default=100)
    args = parser.parse_args(argv)
    rows = []
    for name in args.models:
        model, entries = dvis_d2.load(name, device="cpu"), entries_of(name, args.num_images)
        comparisons = {}
        with tempfile.TemporaryDirectory() as folder:
            for precision in args.precisions:
                path = os.path.join(folder, f"{precision}.onnx")
                export_model(name, path, precision=precision)
                comparisons[precision] = Comparison(path)
        for entry in tqdm(entries):
            image = read_image(entry["file_name"], "RGB")
            truth = ground_truth(entry, image.shape[:2])
            expected = find(model, image)
            for comparison in comparisons.values():
                comparison.add(image, truth, *expected)
        rows += [{"model": name, "precision": key} | of.figures() for key, of in comparisons.items()]
    titles = ["model", "precision", "MiB", "images", "label map", "same proposals, %", "masks", "IoU >= .99, %"]
    cells = [[f"{v:.3g}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    print(markdown_table(cells, [*titles, "AP, torch", "AP, runtime"]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
