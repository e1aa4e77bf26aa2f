#!/usr/bin/env python
"""Whether exported models find what the models find: the same images through torch and through the runtime.

    python -m experiments.evaluate_export --models nuclei shapes --num-images 100

For each packaged model and format: the largest difference of label maps, the share of images with the same
proposals, cell by cell, the AP by torch and by the runtime, and the share of torch's masks that have one of IoU >= 0.99
among the runtime's. Images of nuclei are those of data/nuclei, training images too (two programs are compared, not a
model with the truth); shapes are those of shapes_val.
int8 is no format of `dvis export`: see quantized_export.py; its ranges are those of images that are not compared.
Prints a table, and as its last line one JSON object.
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
from dvis_d2.data.scaling import resized, size_for_test
from dvis_d2.inference.image_model import ImageModel
from dvis_d2.inference.seams import Found
from dvis_d2.model_export import export_model
from dvis_d2.runtime import Runtime

from .evaluate_tiled import Score, ground_truth
from .quantized_export import quantize_label_map
from .tables import markdown_table

IOU = 0.99
FORMATS = {"float32": "float32.onnx", "float16": "float16.onnx", "torchscript": "torchscript.pt", "int8": "int8.onnx"}
CALIBRATION = 16  # images
THRESHOLD = 0.05  # least score of the masks that are compared, and of those that count for the AP


def entries_of(model: str) -> list[dict]:
    if model == "nuclei":
        entries = []
        for part in ("train", "dev"):
            register_coco_json(f"nuclei_{part}", f"data/nuclei/{part}.json", "data/nuclei/images")
            entries += DatasetCatalog.get(f"nuclei_{part}")
    else:
        entries = DatasetCatalog.get(f"{model}_val")
    return entries


def evenly(entries: list[dict], count: int) -> list[dict]:
    return [entries[k] for k in np.unique(np.linspace(0, len(entries) - 1, count).round().astype(int))]


def write(form: str, model: str, path: str, entries: list[dict]) -> None:
    """The export of a packaged model; int8 takes its ranges from the images of `entries`."""
    if form != "int8":
        export_model(model, path, precision=form if path.endswith(".onnx") else "float32")
        return
    source = f"{path}.float32.onnx"
    export_model(model, source)
    runtime = Runtime(source)
    images = (runtime._in_order(read_image(entry["file_name"], "RGB")) for entry in entries)
    sized = (resized(image, size_for_test(runtime.cfg, image.shape[:2])) for image in images)
    quantize_label_map(source, path, map(runtime.network.padded, sized))


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
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--num-images", type=int, default=100)
    args = parser.parse_args(argv)
    rows = []
    for name in args.models:
        model, every, comparisons = dvis_d2.load(name, device="cpu"), entries_of(name), {}
        entries = evenly(every, args.num_images)
        others = evenly([entry for entry in every if entry not in entries], CALIBRATION)
        with tempfile.TemporaryDirectory() as folder:
            for form in args.formats:
                path = os.path.join(folder, FORMATS[form])
                write(form, name, path, others)
                comparisons[form] = Comparison(path)
        for entry in tqdm(entries):
            image = read_image(entry["file_name"], "RGB")
            truth = ground_truth(entry, image.shape[:2])
            expected = find(model, image)
            for comparison in comparisons.values():
                comparison.add(image, truth, *expected)
        rows += [{"model": name, "format": key} | of.figures() for key, of in comparisons.items()]
    titles = ["model", "format", "MiB", "images", "label map", "same proposals, %", "masks", "IoU >= .99, %"]
    cells = [[f"{v:.3g}" if isinstance(v, float) else v for v in row.values()] for row in rows]
    print(markdown_table(cells, [*titles, "AP, torch", "AP, runtime"]))
    print(json.dumps({"rows": rows}))


if __name__ == "__main__":
    main()
