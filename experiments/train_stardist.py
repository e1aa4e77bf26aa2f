#!/usr/bin/env python
"""Train StarDist on data in COCO's format, and write what it finds in COCO's results format, for `score_results`.

    python -m venv stardist && stardist/bin/pip install stardist tensorflow-cpu tf_keras pycocotools pillow
    stardist/bin/python experiments/train_stardist.py --minutes 30 --output output/stardist

It runs in an environment of its own, without this package, on one thread. 32 rays on a grid of 2, batches of 8 crops
of 128 px, every symmetry and changes of brightness, cosine from 0.0003 to 0; a measurement of the first steps says how
many the minutes hold. StarDist's own search chooses its thresholds on the validation images. Prints a JSON object.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ |= {"TF_USE_LEGACY_KERAS": "1", "OMP_NUM_THREADS": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
import numpy as np  # noqa: E402

CROP, BATCH, RATE = 128, 8, 3e-4
LEAST_SCORE = 0.05  # of an object that counts for the AP
MEASURED = 20  # steps


def read(path: Path) -> tuple[list[dict], list[np.ndarray], list[np.ndarray]]:
    """COCO's images; their gray pixels, float32, the 1st and 99.8th percentile at 0 and 1; their objects' numbers."""
    from csbdeep.utils import normalize
    from PIL import Image
    from pycocotools.coco import COCO

    coco, entries, pixels, numbers = COCO(str(path)), [], [], []
    for entry in coco.loadImgs(sorted(coco.imgs)):
        image = np.asarray(Image.open(path.parent / "images" / entry["file_name"]).convert("L"), np.float32)
        labels = np.zeros(image.shape, np.int32)
        for k, annotation in enumerate(coco.imgToAnns[entry["id"]]):
            labels[coco.annToMask(annotation) > 0] = k + 1
        entries.append(entry)
        pixels.append(normalize(image, 1, 99.8))
        numbers.append(labels)
    return entries, pixels, numbers


def augment(image: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    turns, mirrored = np.random.randint(4), np.random.rand() < 0.5
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if mirrored:
        image, labels = image[::-1], labels[::-1]
    return image * np.random.uniform(0.7, 1.3) + np.random.uniform(-0.2, 0.2), labels


def train(folder: Path, pixels: list, numbers: list, validation: tuple, steps: int) -> object:
    import tensorflow as tf
    from stardist.models import Config2D, StarDist2D

    config = Config2D(
        n_rays=32,
        grid=(2, 2),
        train_patch_size=(CROP, CROP),
        train_batch_size=BATCH,
        train_learning_rate=RATE,
        train_epochs=1,
        train_steps_per_epoch=steps,
        train_tensorboard=False,
        train_reduce_lr=None,
    )
    model = StarDist2D(config, name="stardist", basedir=str(folder))
    model.prepare_for_training()

    class Cosine(tf.keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            rate = RATE * (1 + math.cos(math.pi * batch / steps)) / 2
            tf.keras.backend.set_value(self.model.optimizer.learning_rate, rate)

    model.callbacks.append(Cosine())
    model.train(pixels, numbers, validation_data=validation, augmenter=augment)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-json", type=Path, default="data/nuclei/train.json", help="images/ lies beside it")
    parser.add_argument("--val-json", type=Path, default="data/nuclei/dev.json")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    args = parser.parse_args()
    import tensorflow as tf
    from pycocotools import mask as coco_mask

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.keras.utils.set_random_seed(args.seed)
    _, pixels, numbers = read(args.train_json)
    entries, val_pixels, val_numbers = read(args.val_json)
    few = val_pixels[:2], val_numbers[:2]  # an epoch ends with them; they decide nothing
    train(args.output / "measure", pixels, numbers, few, 2)  # without what the first steps take once
    start = time.perf_counter()
    train(args.output / "measure", pixels, numbers, few, MEASURED)
    seconds = (time.perf_counter() - start) / MEASURED
    steps = max(1, round(60 * args.minutes / seconds))
    start = time.perf_counter()
    model = train(args.output, pixels, numbers, few, steps)
    minutes = (time.perf_counter() - start) / 60
    thresholds = model.optimize_thresholds(val_pixels, val_numbers)

    results, times = [], []
    for entry, image in zip(entries, val_pixels, strict=True):
        start = time.perf_counter()
        model.predict_instances(image)
        times.append(time.perf_counter() - start)
        labels, found = model.predict_instances(image, prob_thresh=LEAST_SCORE)
        for k, score in enumerate(found["prob"]):
            rle = coco_mask.encode(np.asfortranarray(labels == k + 1, dtype=np.uint8))
            rle["counts"] = rle["counts"].decode()
            results.append({"image_id": entry["id"], "category_id": 1, "segmentation": rle, "score": float(score)})
    (args.output / "results.json").write_text(json.dumps(results))
    found = {"steps": steps, "minutes": minutes, "ms": 1000 * float(np.median(times)), "score": thresholds["prob"]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
