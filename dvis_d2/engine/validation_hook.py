"""Validation while a network is trained: the curve, the best checkpoint, early stopping."""

import copy
import glob
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.engine.hooks import PeriodicCheckpointer
from detectron2.utils import comm

from ..data.custom import VAL_NAME, register_coco_json
from ..safe_io import read_json

TIMES, SHORTEST = 10, 20  # validations of own data in a training; iterations between them, as between Detectron2's logs
SHARE, LEAST = 0.1, 16  # of the training's images that they may take together; images
logger = logging.getLogger(__name__)


class EarlyStop(BaseException):
    """Ends a training as if its last step were done. No Exception, which Detectron2 takes for a failure."""


def main_metric(results: Mapping) -> float:
    """The first metric of the masks, else of the first task, of the first data set; NaN if there is none."""
    value: object = results
    while isinstance(value, Mapping):
        value = value.get("segm", next(iter(value.values()), math.nan))
    return float(value)  # type: ignore[arg-type]


def validation_period(cfg: CfgNode) -> int:
    """``TEST.EVAL_PERIOD``; where it is 0 and the validation data are the user's own, a tenth of the training."""
    own = cfg.DATASETS.TEST == (VAL_NAME,) and cfg.TEST.EVAL_PERIOD == 0
    return max(SHORTEST, math.ceil(cfg.SOLVER.MAX_ITER / TIMES)) if own else max(cfg.TEST.EVAL_PERIOD, 0)


def validation_data(cfg: CfgNode) -> tuple[str, ...]:
    """``DATASETS.TEST``; but where :func:`validation_period` chose the period, evenly chosen images of it, so few that
    they take about a tenth of the training. To be called in all processes."""
    if cfg.TEST.EVAL_PERIOD or cfg.DATASETS.TEST != (VAL_NAME,):
        return cfg.DATASETS.TEST
    count = max(LEAST, int(SHARE * validation_period(cfg) * cfg.SOLVER.IMS_PER_BATCH))
    content = read_json((metadata := MetadataCatalog.get(VAL_NAME)).json_file)
    if len(content["images"]) <= count:
        return cfg.DATASETS.TEST
    evenly = np.unique(np.linspace(0, len(content["images"]) - 1, count).round().astype(int))
    content["images"] = [content["images"][i] for i in evenly]
    chosen = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in chosen]
    path = Path(cfg.OUTPUT_DIR, "inference", "validation_images.json")
    if comm.is_main_process():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content), encoding="utf-8")
    comm.synchronize()
    register_coco_json(f"{VAL_NAME}_part", str(path), metadata.image_root)
    return (f"{VAL_NAME}_part",)


class Validation(HookBase):
    """Every `period` steps and after the last: calls `evaluate`, logs "validation/AP" (:func:`main_metric`), stores
    the best model as ``model_best.pth``, and ends the training after `patience` values that are not better (0: never).
    The checkpoint of the same step is written before, so who resumes from it validates first."""

    def __init__(self, period: int, evaluate: Callable[[], Mapping], patience: int = 0):
        self.period, self.evaluate, self.patience = period, evaluate, patience
        self.results: Mapping | None = None  # of the last validation; {} in all processes but the first
        self.state = {"done": 0, "best": -math.inf, "best_done": 0, "worse": 0}  # steps done at the last, at the best

    def before_train(self) -> None:
        start = self.trainer.start_iter
        if start and start % self.period == 0 and start < self.trainer.max_iter:
            self._validate(start)

    def before_step(self) -> None:
        if 0 < self.patience <= self.state["worse"]:
            self.trainer.max_iter = self.trainer.iter  # which is how the other hooks know that it is the end
            raise EarlyStop

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period == 0 and done < self.trainer.max_iter:
            self._validate(done)

    def after_train(self) -> None:
        if self.trainer.iter < self.trainer.max_iter:
            return
        self.results = None
        self._validate(self.trainer.iter)
        if self.state["best_done"]:
            best, done = self.state["best"], self.state["best_done"]
            logger.info("Best validation: AP %.1f after %d iterations, stored as model_best.pth", best, done)

    def _validate(self, done: int) -> None:
        if done <= self.state["done"]:
            return
        self.results = results = self.evaluate()
        ap = np.nan_to_num(comm.all_gather(main_metric(results))[0]).item()  # NaN: nothing was found
        self.state["done"] = done
        if better := ap > self.state["best"]:
            self.state |= {"best": ap, "best_done": done, "worse": 0}
        elif self.state["best"] > 0:  # until there is something to find, nothing is worse
            self.state["worse"] += 1
        logger.debug("validation after %d iterations: AP %.2f, %s", done, ap, self.state)
        self.trainer.storage.put_scalar("validation/AP", ap, smoothing_hint=False)
        if not comm.is_main_process():
            return
        if better:
            weights = copy.copy(self.trainer.checkpointer)
            weights.checkpointables = {}
            weights.tag_last_checkpoint = lambda _: None  # it is no state to resume from
            weights.save("model_best", iteration=done - 1)
        if 0 < self.patience <= self.state["worse"] and done < self.trainer.max_iter:
            logger.info("No better validation in %d: the training ends early, after %d iterations", self.patience, done)
            self.trainer.checkpointer.save("model_final", iteration=done - 1)

    def state_dict(self) -> dict:
        return dict(self.state)

    def load_state_dict(self, state_dict: dict) -> None:
        self.state = dict(state_dict)


class LastCheckpoints(PeriodicCheckpointer):
    """Detectron2's, of whose checkpoints the last two stay, those of an earlier part of the training included: the one
    before the last is for the case that the last is damaged."""

    def before_train(self) -> None:
        super().before_train()
        self.max_to_keep = 2
        pattern = os.path.join(glob.escape(self.checkpointer.save_dir), "model_" + 7 * "[0-9]" + ".pth")
        self.recent_checkpoints = sorted(glob.glob(pattern)) if self.trainer.start_iter else []
