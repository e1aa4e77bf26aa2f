"""Coordinate descent over a short grid, on one half of the images, judged on the other."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils import comm
from faster_coco_eval import COCOeval_faster
from tabulate import tabulate

from ..evaluation.coco_ap import CocoScorer, average_precision
from ..modeling.candidates import SOURCES
from ..modeling.meta_arch import DVIS
from ..processes import ALONE, wait_for_all
from .predictions import StoredPredictions, stored_images
from .thresholds import FILE_NAME, apply_thresholds, current_thresholds, write_thresholds

# What is tried, in this order: keys that need no new grouping first, then those that decide most. A config's own
# value is always tried too.
GRID: dict[str, tuple] = {
    "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": ("label_map", "head"),
    "MODEL.DVIS_ROI_HEADS.ALPHA": (0.5, 0.0, 0.25, 0.75, 1.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0.5, 0.3, 0.4, 0.6, 0.7),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0.05, 0.0, 0.1, 0.2),
    "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD": (1.0, 0.3, 0.5, 0.75, 1.25, 1.5),
    "MODEL.MEAN_SHIFT.CANDIDATES": (list(SOURCES), ["levels"], ["regions"]),
    "MODEL.MEAN_SHIFT.BANDWIDTHS": ([0.9, 0.4], [0.9], [0.4], [0.25], [0.4, 0.25], [0.9, 0.4, 0.25], [0.4, 0.15]),
    "MODEL.MEAN_SHIFT.MIN_PART_RATIO": (0.05, 0.0, 0.1, 0.25),
    "MODEL.MEAN_SHIFT.STEP_THRESHOLD": (0.2, 0.05, 0.1, 0.3, 0.5),
    "MODEL.MEAN_SHIFT.NMS_THRESH": (0.8, 0.7, 0.9, 0.95),
}
MIN_GAIN = 0.1  # AP points by which a value must beat the present one: below, it is a coin toss
RESAMPLES = 200
logger = logging.getLogger(__name__)


def split_halves(image_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """Those to tune on, and those to report on: every other one in ascending order, so that even ids split too."""
    ordered = sorted(image_ids)
    return ordered[::2], ordered[1::2]


def coordinate_descent(
    evaluate: Callable[[dict], float],
    start: Mapping[str, object],
    grid: Mapping[str, Sequence[object]],
    *,
    min_gain: float = 0.0,
    max_rounds: int = 2,
) -> tuple[dict[str, object], float]:
    """The best setting and its score, after `max_rounds` of improving one key of the grid after the other.

    A value replaces the present one if its score is greater by more than `min_gain`. Keys that are not in `grid` keep
    their values. `evaluate` is never called twice with the same setting.
    """
    scores: dict[str, float] = {}

    def score(setting: dict) -> float:
        name = repr(sorted(setting.items()))
        if name not in scores:
            scores[name] = evaluate(setting)
        return scores[name]

    best = dict(start)
    for key, values in max_rounds * list(grid.items()):
        candidate = max((best | {key: value} for value in values), key=score)
        if score(candidate) > score(best) + min_gain:
            best = candidate
    return best, score(best)


@dataclass(frozen=True)
class Tuning:
    dataset: str
    before: dict[str, object]  # the config's thresholds
    tuned: dict[str, object]
    tuning_ap: tuple[float, float]  # segm AP before and after, in 0..100
    held_out_ap: tuple[float, float]
    gain_error: float  # standard error of the gain on the held-out half
    adopted: bool  # whether that half confirms the gain
    counts: tuple[int, int]  # images in the halves

    @property
    def changed(self) -> dict[str, object]:
        """The thresholds to store: those that changed, if they are adopted."""
        return {key: value for key, value in self.tuned.items() if self.adopted and value != self.before[key]}

    def verdict(self) -> str:
        """One sentence: what the held-out half says."""
        if self.tuned == self.before:
            return "Nothing on the grid is better: the config's values are kept."
        gain = f"{self.held_out_ap[1] - self.held_out_ap[0]:+.2f} AP (standard error {self.gain_error:.2f})"
        if self.adopted:
            return f"Gain on the held-out half of {self.dataset}: {gain}. The tuned values are stored."
        return f"{gain} on the held-out half of {self.dataset} is no gain beyond noise: the config's values are kept."

    def table(self) -> str:
        """All thresholds and both halves' segm AP, before and after."""
        rows: list[tuple] = [(key, self.before[key], self.tuned[key]) for key in GRID]
        halves = (self.counts[0], "tuned on", self.tuning_ap), (self.counts[1], "held out", self.held_out_ap)
        rows += [(f"segm AP, {count} images {use}", f"{a:.2f}", f"{b:.2f}") for count, use, (a, b) in halves]
        return tabulate(rows, headers=("", "before", "tuned"), tablefmt="github", disable_numparse=True)


def tune_thresholds(cfg: CfgNode, model: DVIS, *, num_images: int = 400) -> Tuning:
    """Tune on one half of ``DATASETS.TEST[0]``, decide on the other, and leave the model with what was decided, in
    evaluation mode. Both halves together have at most `num_images`, evenly chosen. Class-agnostic heads need data of
    one class. ValueError if no data set is named, or it has fewer than two images."""
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the data set to tune on")
    dataset = cfg.DATASETS.TEST[0]
    images = stored_images(cfg, model, num_images=num_images)
    halves = split_halves([image.image_id for image in images])
    if not halves[1]:
        raise ValueError(f"{dataset} has {len(images)} images: tuning needs some to tune on and some to report on")
    scorer = CocoScorer(dataset)
    by_half = [StoredPredictions(model, [image for image in images if image.image_id in set(h)]) for h in halves]

    def evaluate(half: int, setting: Mapping[str, object]) -> COCOeval_faster:
        return scorer.evaluate(by_half[half].detections(setting), halves[half])

    def tuning_score(setting: Mapping[str, object]) -> float:
        ap = average_precision(evaluate(0, setting))
        changed = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in setting.items() if v != before[key])
        logger.debug("%.2f AP with %s", ap, changed or "the config's values")
        return ap

    before = current_thresholds(cfg)
    start = tuning_score(before)
    tuned, end = coordinate_descent(tuning_score, before, GRID, min_gain=MIN_GAIN)
    old, new = evaluate(1, before), evaluate(1, tuned)
    held_out = average_precision(old), average_precision(new)
    counts = len(halves[0]), len(halves[1])
    # on bootstrap samples of the held-out images, the same sample for both
    samples = np.random.default_rng(0).integers(0, counts[1], (RESAMPLES, counts[1]))
    gains = [average_precision(new, sample=sample) - average_precision(old, sample=sample) for sample in samples]
    adopted = tuned != before and float(np.quantile(gains, 0.1)) > 0
    apply_thresholds(model, tuned if adopted else before)
    return Tuning(dataset, before, tuned, (start, end), held_out, float(np.std(gains)), adopted, counts)


def store_tuning(tuning: Tuning, folder: str) -> str:
    """Write the adopted thresholds (none: an empty file, so that an earlier one no longer counts); the path."""
    path = os.path.join(folder, FILE_NAME)
    write_thresholds(path, tuning.changed, comment=tuning.verdict())
    return path


class TuneThresholds(HookBase):
    """After the last step, tunes the thresholds and stores them beside the weights; the final evaluation, a later
    hook, uses them. A run that stopped early is left alone."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg

    def after_train(self) -> None:
        if self.trainer.iter + 1 < self.trainer.max_iter:
            return
        model, changed = self.trainer.unwrapped_model, None
        if comm.is_main_process():
            training = model.training
            tuning = tune_thresholds(self.cfg, model)
            model.train(training)
            store_tuning(tuning, self.cfg.OUTPUT_DIR)
            logger.info("%s\n%s", tuning.verdict(), tuning.table())
            changed = tuning.changed
        wait_for_all("the tuning of thresholds", ALONE)
        apply_thresholds(model, comm.all_gather(changed)[0])
