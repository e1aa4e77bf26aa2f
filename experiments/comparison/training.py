"""Training one model and evaluating it: the same trainer, evaluators and clock for DVIS and Mask R-CNN."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.evaluation import DatasetEvaluators

from dvis_d2.engine import Trainer
from dvis_d2.evaluation import ContourF1Evaluator

from ..class_agnostic import read_coco
from ..subsets import image_subsets, mask_ap
from ..tables import without_nan
from ..unseen import seen_classes, without_unseen_classes
from ..unseen_evaluator import UnseenEvaluator
from . import backbone  # noqa: F401  (registers Mask R-CNN's)
from .rpn_masks import RPNMasks, has_rpn_masks


class TrainingClock(HookBase):
    """Seconds spent in training steps, data loading included; logs, checkpoints and evaluation are not. Goes on
    where a resumed run's last checkpoint was."""

    def __init__(self):
        self.seconds = 0.0
        self.last = 0.0  # of the latest step

    def before_step(self):
        self._start = time.perf_counter()

    def after_step(self):
        self.last = time.perf_counter() - self._start
        self.seconds += self.last

    def state_dict(self) -> dict:
        return {"seconds": self.seconds}

    def load_state_dict(self, state: dict) -> None:
        self.seconds = state["seconds"]


class TimeIsUp(BaseException):
    """Ends a training whose iterations do not matter; not an Exception, which the trainer would log as a fault."""


class Stopwatch(HookBase):
    """Keeps the time of every step, and ends the training after some seconds."""

    def __init__(self, clock: TrainingClock, limit: float):
        self.clock = clock
        self.limit = limit
        self.taken: list[float] = []

    def after_step(self):
        self.taken.append(self.clock.last)
        if self.clock.seconds >= self.limit:
            raise TimeIsUp


class ComparisonTrainer(Trainer):
    """The project's trainer with a clock, for any meta-architecture, and for training on some classes only."""

    @classmethod
    def build_model(cls, cfg: CfgNode):
        # DVIS puts its images into this format itself, GeneralizedRCNN does not: on a CPU it is the faster one
        return super().build_model(cfg).to(memory_format=torch.channels_last)

    def build_hooks(self):
        self.clock = TrainingClock()
        # first, so that the clock stops before a checkpoint is written, and the checkpoint has this step's time
        return [self.clock, *super().build_hooks()]

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return super().build_train_loader(without_unseen_classes(cfg))

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str):
        if seen_classes(cfg):
            return UnseenEvaluator(dataset_name, seen_classes(cfg))
        return DatasetEvaluators([super().build_evaluator(cfg, dataset_name), ContourF1Evaluator(dataset_name)])


class MeasuringTrainer(ComparisonTrainer):
    """Ended by a :class:`Stopwatch`, and leaves nothing behind."""

    def build_hooks(self):
        return [hook for hook in super().build_hooks() if not isinstance(hook, PeriodicCheckpointer)]

    def build_writers(self):
        return []


def train_and_evaluate(cfg: CfgNode) -> dict:
    """Train to `SOLVER.MAX_ITER`, or go on where the run was stopped, then evaluate on `DATASETS.TEST[0]`.

    Returns:
        "iterations", "images_seen", "train_seconds" (of all parts of a resumed run); "bbox", "segm" and "contour" as
        the evaluators give them, but mask AP 0 where nothing was found; "subsets": mask AP by subset of the images, and
        "subset_sizes". NaN is None. With `DATASETS.SEEN_CLASS_NAMES`: "recall", "segm" of all masks as one class, no
        subsets, and for a Mask R-CNN "rpn_masks", the recall of its RPN's boxes with their masks.
    """
    trainer = ComparisonTrainer(cfg)
    trainer.resume_or_load(resume=True)
    results = without_nan(dict(trainer.train()))
    if results["segm"]["AP"] is None:  # what Detectron2 says of a model that finds nothing
        results["segm"] |= {"AP": 0.0, "AP50": 0.0, "AP75": 0.0}
    subsets, sizes = ({}, {}) if seen_classes(cfg) else evaluate_subsets(cfg)
    if seen_classes(cfg) and has_rpn_masks(cfg):
        rpn_masks = RPNMasks(trainer.unwrapped_model)
        results["rpn_masks"] = without_nan(ComparisonTrainer.test(cfg, rpn_masks)["recall"])
    for path in Path(cfg.OUTPUT_DIR).glob("model_0*.pth"):
        path.unlink()  # needed to continue only
    return {
        "iterations": trainer.max_iter,
        "images_seen": trainer.max_iter * cfg.SOLVER.IMS_PER_BATCH,
        "train_seconds": trainer.clock.seconds,
        **results,
        "subsets": subsets,
        "subset_sizes": sizes,
    }


def evaluate_subsets(cfg: CfgNode) -> tuple[dict[str, dict], dict[str, int]]:
    """Mask AP on subsets of the images, from the predictions that Detectron2's evaluator has written."""
    with open(MetadataCatalog.get(cfg.DATASETS.TEST[0]).json_file, encoding="utf-8") as file:
        dataset = json.load(file)
    with open(os.path.join(cfg.OUTPUT_DIR, "inference", "coco_instances_results.json"), encoding="utf-8") as file:
        results = json.load(file)
    coco, subsets = read_coco(dataset), image_subsets(dataset)
    max_dets = max(100, cfg.TEST.DETECTIONS_PER_IMAGE)  # as dvis_d2.evaluation.build_evaluators
    figures = {name: without_nan(mask_ap(coco, results, ids, max_dets=max_dets)) for name, ids in subsets.items()}
    return figures, {name: len(ids) for name, ids in subsets.items()}


def measure_seconds_per_iteration(cfg: CfgNode, seconds: float) -> dict:
    """How long an iteration takes, by training for `seconds` (not counting start-up).

    A first fifth of the time, with the config's own `SOLVER.MAX_ITER`, gives a guess; the rest goes to a miniature of
    the whole schedule, so that what joins at a share of it (regularization, heads) weighs as in the real training.

    Returns:
        "seconds_per_iteration", and "iterations" that it was measured over.
    """
    guess = _timed_training(cfg, cfg.SOLVER.MAX_ITER, seconds / 5)
    rest = max(2, round(0.8 * seconds / guess["seconds_per_iteration"]))
    return _timed_training(cfg, rest, seconds)


def _timed_training(cfg: CfgNode, max_iter: int, limit: float) -> dict:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.MAX_ITER = max_iter
    cfg.DATASETS.TEST = ()
    trainer = MeasuringTrainer(cfg)
    stopwatch = Stopwatch(trainer.clock, limit)
    trainer.register_hooks([stopwatch])
    with contextlib.suppress(TimeIsUp):
        trainer.train()
    taken = stopwatch.taken[len(stopwatch.taken) // 10 :]  # the first steps are slow: memory, kernels, caches
    return {"seconds_per_iteration": sum(taken) / len(taken), "iterations": len(taken)}
