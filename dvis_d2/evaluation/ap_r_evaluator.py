"""AP^r of a model on any registered data set with instance masks (the metric of the paper's Tables 1, 2 and 7)."""

from __future__ import annotations

import itertools
import json
import logging
import os
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from .average_precision import average_precision, match_detections
from .ground_truth import GroundTruth, load_dataset_dicts, read_ground_truth, read_predictions

THRESHOLDS = np.arange(1, 10) / 10
REPORTED = (50, 60, 70, 80, 90)
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _ImageRecord:
    """`position` of the image in the data set; per detection: `classes` (D,), `scores` (D,), `outcomes` (D, 9);
    `num_objects` (C,)."""

    position: int
    classes: np.ndarray
    scores: np.ndarray
    outcomes: np.ndarray
    num_objects: np.ndarray


class APrEvaluator(DatasetEvaluator):
    """Mask AP at IoU .1, .2, ..., .9, averaged over the classes that have objects.

    Void pixels (PASCAL's label 255, "ignore_mask") are taken out of predicted and true masks before the IoU. Crowds
    ("iscrowd": 1) and objects marked "difficult": 1 are no objects to be found, and a detection that matches one
    counts neither way; neither does a detection that lies in void pixels altogether. For a crowd, the intersection is
    divided by the detection's area. See :mod:`dvis_d2.evaluation.average_precision` for matching and area.

    Images are matched where they are predicted, and only scores and outcomes are gathered, so it runs in any number
    of processes. Only images that were processed count.
    """

    def __init__(self, dataset_name: str, output_dir: str | None = None):
        """
        Args:
            dataset_name: a registered data set; its metadata have `thing_classes`.
            output_dir: where `ap_r.json` is written: {class: {"AP10": ..., ..., "AP90": ..., "APavg": ...}}, in
                percent, null for classes without objects.
        """
        self.class_names = MetadataCatalog.get(dataset_name).thing_classes
        self.dataset_name = dataset_name
        self.output_dir = output_dir
        self._dicts = load_dataset_dicts(dataset_name)
        self._positions = {image_id: k for k, image_id in enumerate(self._dicts)}
        self.reset()

    def reset(self) -> None:
        self._records: list[_ImageRecord] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """
        Args:
            inputs: dicts with "image_id".
            outputs: dicts with "instances", see :func:`dvis_d2.evaluation.ground_truth.read_predictions`.

        Raises:
            ValueError: predictions do not fit the image or the data set, or the ground truth is unusable.
        """
        for given, output in zip(inputs, outputs, strict=True):
            entry = self._dicts[given["image_id"]]
            truth = read_ground_truth(entry)
            predictions = read_predictions(output, truth.void.shape, len(self.class_names), entry["file_name"])
            outcomes = image_outcomes(*predictions, truth, THRESHOLDS)
            _, scores, classes = predictions
            num_objects = np.bincount(truth.classes[~truth.ignored], minlength=len(self.class_names))
            position = self._positions[given["image_id"]]
            self._records.append(_ImageRecord(position, classes, scores, outcomes, num_objects))

    def evaluate(self) -> OrderedDict:
        """Gathers from all processes, so all must call it.

        Returns:
            {"ap_r": {"AP50", "AP60", "AP70", "AP80", "AP90", "APavg" (mean over .1 to .9), and "AP50-<class>" and
            "APavg-<class>"}} in percent, NaN where there are no objects; empty in other processes than the first.
        """
        gathered = comm.gather(self._records, dst=0)
        if not comm.is_main_process():
            return OrderedDict()
        # The data set's order decides between equal scores, whatever process an image was in.
        records = sorted(itertools.chain(*gathered), key=lambda record: record.position)
        if len(records) != len(self._dicts):
            logger.warning("AP^r of %d images, %s has %d", len(records), self.dataset_name, len(self._dicts))
        table = self._table(records)
        self._log(table)
        if self.output_dir:
            self._write(table)
        with_objects = table[~np.isnan(table[:, 0])]
        means = with_objects.mean(axis=0) if len(with_objects) else np.full(len(THRESHOLDS), np.nan)
        results = OrderedDict((f"AP{t}", float(means[t // 10 - 1])) for t in REPORTED)
        results["APavg"] = float(means.mean())
        for name, row in zip(self.class_names, table, strict=True):
            results[f"AP50-{name}"] = float(row[4])
            results[f"APavg-{name}"] = float(row.mean())
        return OrderedDict(ap_r=results)

    def _table(self, records: list[_ImageRecord]) -> np.ndarray:
        """AP in percent (number of classes, 9)."""
        num_classes = len(self.class_names)
        classes = np.concatenate([np.empty(0, np.int64), *(r.classes for r in records)])
        scores = np.concatenate([np.empty(0), *(r.scores for r in records)])
        outcomes = np.concatenate([np.empty((0, len(THRESHOLDS)), np.int8), *(r.outcomes for r in records)])
        num_objects = sum((r.num_objects for r in records), start=np.zeros(num_classes, dtype=np.int64))
        table = np.empty((num_classes, len(THRESHOLDS)))
        for class_id in range(num_classes):
            own = classes == class_id
            table[class_id] = [
                100 * average_precision(scores[own], outcomes[own, t], int(num_objects[class_id]))
                for t in range(len(THRESHOLDS))
            ]
        return table

    def _log(self, table: np.ndarray) -> None:
        rows = [
            [name, *row[[t // 10 - 1 for t in REPORTED]], row.mean()]
            for name, row in zip(self.class_names, table, strict=True)
        ]
        headers = ["class", *(f"AP{t}" for t in REPORTED), "APavg"]
        logger.info("AP^r on %s:\n%s", self.dataset_name, tabulate(rows, headers, floatfmt=".2f", tablefmt="pipe"))

    def _write(self, table: np.ndarray) -> None:
        named = {}
        for name, row in zip(self.class_names, table, strict=True):
            values = {f"AP{t}0": value for t, value in enumerate(row, start=1)} | {"APavg": row.mean()}
            named[name] = {key: None if np.isnan(value) else float(value) for key, value in values.items()}
        PathManager.mkdirs(self.output_dir)
        with PathManager.open(os.path.join(self.output_dir, "ap_r.json"), "w") as file:
            json.dump(named, file, indent=1)


def image_outcomes(
    masks: np.ndarray, scores: np.ndarray, classes: np.ndarray, truth: GroundTruth, thresholds: np.ndarray
) -> np.ndarray:
    """The outcome of every detection of one image.

    Args:
        masks: bool (D, h, w); scores: float (D,); classes: int64 (D,).
        truth: of the same image.
        thresholds: float (T,), of the IoU.

    Returns:
        int8 (D, T), see :func:`dvis_d2.evaluation.average_precision.match_detections`.
    """
    valid = masks & ~truth.void
    void_only = masks.any(axis=(1, 2)) & ~valid.any(axis=(1, 2))
    detected, objects = _encode(valid), _encode(truth.masks)
    outcomes = np.empty((len(masks), len(thresholds)), dtype=np.int8)
    for class_id in np.unique(classes):
        own, same = np.flatnonzero(classes == class_id), np.flatnonzero(truth.classes == class_id)
        overlaps = np.zeros((len(own), len(same)))
        if len(same):
            crowd = truth.crowd[same].astype(np.uint8)
            overlaps = mask_util.iou([detected[i] for i in own], [objects[i] for i in same], crowd)
        # 0 / 0 where a detection has no valid pixels
        overlaps = np.nan_to_num(overlaps, nan=0.0)
        outcomes[own] = match_detections(overlaps, scores[own], truth.ignored[same], thresholds, void_only[own])
    return outcomes


def _encode(masks: np.ndarray) -> list[dict]:
    return [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks]
