"""Coordinate descent over a short grid, on one half of the images, judged on the other."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader, get_detection_dataset_dicts
from tabulate import tabulate
from torch.utils.data import SequentialSampler

from ..data import DVISDatasetMapper
from ..modeling.meta_arch import DVIS
from .predictions import ImageFeatures, StoredPredictions, predict_images
from .scoring import CocoScorer, average_precision
from .thresholds import FILE_NAME, apply_thresholds, current_thresholds, write_thresholds

# What is tried, in this order: keys that need no new grouping first, then those that decide most. A config's own
# value is always tried too.
GRID = {
    "MODEL.DVIS_ROI_HEADS.MASK_SOURCE": ("fused", "label_map", "head"),
    "MODEL.DVIS_ROI_HEADS.ALPHA": (0.5, 0.0, 0.25, 0.75, 1.0),
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": (0.5, 0.3, 0.4, 0.6, 0.7),
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": (0.05, 0.0, 0.1, 0.2),
    "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD": (1.0, 0.3, 0.5, 0.75, 1.25, 1.5),
    "MODEL.MEAN_SHIFT.READINGS": (
        ["levels", "parts", "linked"],
        ["levels"],
        ["parts", "linked"],
        ["levels", "parts"],
        ["levels", "parts", "merged", "linked"],
    ),
    "MODEL.MEAN_SHIFT.BANDWIDTHS": ([0.9, 0.4], [0.9], [0.4], [0.25], [0.4, 0.25], [0.9, 0.4, 0.25], [0.4, 0.15]),
    "MODEL.MEAN_SHIFT.CRUMB_RATIO": (0.05, 0.0, 0.1, 0.25),
    "MODEL.MEAN_SHIFT.LINK_THRESHOLDS": ([0.25], [0.03], [0.05], [0.1], [0.15], [0.4], [0.05, 0.1, 0.2]),
    "MODEL.MEAN_SHIFT.NMS_THRESH": (0.8, 0.7, 0.9, 0.95),
}
MIN_GAIN = 0.1  # AP points by which a value must beat the present one: below, it is a coin toss
RESAMPLES = 200

logger = logging.getLogger(__name__)


def split_halves(image_ids: Sequence[int]) -> tuple[list[int], list[int]]:
    """The images to tune on and those to report on: every other one in the order of their ids, so that sets whose
    ids are all even split too. Disjoint, and together all."""
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
    """Improve one key after the other, round after round, until none changes or `max_rounds` are done.

    Args:
        evaluate: setting -> score, greater is better. Never called twice with the same setting.
        start: the first setting; keys that are not in `grid` keep their values.
        grid: values to try for each key, in order.
        min_gain: a value replaces the present one if its score is greater by more than this.

    Returns:
        the best setting and its score.
    """
    scores: dict[str, float] = {}

    def score(setting: dict) -> float:
        name = repr(sorted(setting.items()))
        if name not in scores:
            scores[name] = evaluate(setting)
        return scores[name]

    best = dict(start)
    unchanged = 0  # keys since the last change; after a whole round of them nothing can change any more
    for _ in range(max_rounds):
        for key, values in grid.items():
            if unchanged == len(grid):
                break
            candidate = max((best | {key: value} for value in values), key=score)
            gained = score(candidate) > score(best) + min_gain
            best, unchanged = (candidate, 0) if gained else (best, unchanged + 1)
    return best, score(best)


@dataclass
class Tuning:
    """Outcome of :func:`tune_thresholds`. AP in 0..100, each as (before, after).

    Attributes:
        before, tuned: the config's thresholds, and those found on the tuning half.
        tuning_ap, held_out_ap: on the two halves.
        gain_error: standard error of the gain on the held-out half, over bootstrap samples of its images.
        adopted: whether the held-out half confirms the gain.
        counts: images in the two halves.
    """

    dataset: str
    before: dict[str, object]
    tuned: dict[str, object]
    tuning_ap: tuple[float, float]
    held_out_ap: tuple[float, float]
    gain_error: float
    adopted: bool
    counts: tuple[int, int]

    @property
    def changed(self) -> dict[str, object]:
        """The thresholds to store: those that changed, if they are adopted."""
        if not self.adopted:
            return {}
        return {key: value for key, value in self.tuned.items() if value != self.before[key]}

    def verdict(self) -> str:
        """One sentence: what the held-out half says."""
        gain = f"{self.held_out_ap[1] - self.held_out_ap[0]:+.2f} AP (standard error {self.gain_error:.2f})"
        if self.tuned == self.before:
            return "Nothing on the grid is better: the config's values are kept."
        if self.adopted:
            return f"Gain on the held-out half of {self.dataset}: {gain}. The tuned values are stored."
        return f"{gain} on the held-out half of {self.dataset} is no gain beyond noise: the config's values are kept."

    def table(self) -> str:
        """All thresholds and both halves' segm AP, before and after."""
        rows = [(key, self.before[key], self.tuned[key]) for key in GRID]
        names = (f"segm AP, {self.counts[0]} images tuned on", f"segm AP, {self.counts[1]} images held out")
        for name, values in zip(names, (self.tuning_ap, self.held_out_ap), strict=True):
            rows.append((name, *(f"{value:.2f}" for value in values)))
        return tabulate(rows, headers=("", "before", "tuned"), tablefmt="github", disable_numparse=True)


def stored_images(cfg: CfgNode, model: DVIS, *, num_images: int) -> list[ImageFeatures]:
    """The network's output on at most `num_images` evenly chosen images of ``DATASETS.TEST[0]``, in evaluation
    mode. Memory: see :func:`predict_images`."""
    dicts = sorted(get_detection_dataset_dicts(cfg.DATASETS.TEST[0], filter_empty=False), key=lambda d: d["image_id"])
    if len(dicts) > num_images:
        dicts = [dicts[i] for i in np.linspace(0, len(dicts) - 1, num_images).round().astype(int)]
    loader = build_detection_test_loader(
        dicts,
        mapper=DVISDatasetMapper(cfg, is_train=False),
        # the default would give every process of a distributed run its share only
        sampler=SequentialSampler(range(len(dicts))),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )
    model.eval()
    return predict_images(model, loader)


def tune_thresholds(cfg: CfgNode, model: DVIS, *, num_images: int = 400) -> Tuning:
    """Tune on one half of ``DATASETS.TEST[0]``, decide on the other, and leave the model with what was decided.

    Args:
        cfg: names the data set and the thresholds to start from.
        model: with its weights. Afterwards in evaluation mode.
        num_images: at most so many images, evenly chosen, both halves together.

    Raises:
        ValueError: no data set is named, or it has fewer than two images.
    """
    if not cfg.DATASETS.TEST:
        raise ValueError("DATASETS.TEST is empty: name the data set to tune on")
    dataset = cfg.DATASETS.TEST[0]
    images = stored_images(cfg, model, num_images=num_images)
    halves = split_halves([image.image_id for image in images])
    if not halves[1]:
        raise ValueError(f"{dataset} has {len(images)} images: tuning needs some to tune on and some to report on")
    scorer = CocoScorer(dataset, class_agnostic=cfg.MODEL.DVIS_ROI_HEADS.CLASS_AGNOSTIC)
    by_half = [StoredPredictions(model, [image for image in images if image.image_id in set(h)]) for h in halves]

    def evaluator(half: int, setting: Mapping[str, object]):
        return scorer.evaluate(by_half[half].detections(setting), halves[half])

    def evaluate(setting: Mapping[str, object]) -> float:
        ap = average_precision(evaluator(0, setting))
        changed = ", ".join(f"{key.split('.')[-1]} {v}" for key, v in setting.items() if v != before[key])
        logger.info("%.2f AP with %s", ap, changed or "the config's values")
        return ap

    before = current_thresholds(cfg)
    start = average_precision(evaluator(0, before))
    tuned, end = coordinate_descent(evaluate, before, GRID, min_gain=MIN_GAIN)
    held_out = [evaluator(1, setting) for setting in (before, tuned)]
    gains = _resampled_gains(*held_out, count=len(halves[1]))
    adopted = tuned != before and float(np.quantile(gains, 0.1)) > 0
    apply_thresholds(model, tuned if adopted else before)
    return Tuning(
        dataset=dataset,
        before=before,
        tuned=tuned,
        tuning_ap=(start, end),
        held_out_ap=(average_precision(held_out[0]), average_precision(held_out[1])),
        gain_error=float(np.std(gains)),
        adopted=adopted,
        counts=(len(halves[0]), len(halves[1])),
    )


def store_tuning(tuning: Tuning, folder: str) -> str:
    """Write the adopted thresholds (none: an empty file, so that an earlier one no longer counts); the path."""
    path = os.path.join(folder, FILE_NAME)
    write_thresholds(path, tuning.changed, comment=tuning.verdict())
    return path


def _resampled_gains(before, after, *, count: int) -> np.ndarray:
    """(RESAMPLES,): gain in AP on bootstrap samples of the images, the same sample for both."""
    rng = np.random.default_rng(0)
    samples = rng.integers(0, count, (RESAMPLES, count))
    return np.array([average_precision(after, sample=s) - average_precision(before, sample=s) for s in samples])
