import logging
import os
import weakref

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.utils import comm
from torch import nn

from ..data import DVISDatasetMapper, build_train_loader, set_start_iter
from ..evaluation import build_evaluators, require_packages
from ..modeling.test_time_augmentation import DVISWithTTA
from ..tuning import TuneThresholds
from .averaging import AverageWeights
from .hooks import TrainingPicture
from .optimizer import build_optimizer
from .parallel import scale_to_processes, share_buffers
from .step import build_step


class Trainer(DefaultTrainer):
    """Detectron2's trainer with AdamW, mixed precision and several processes on the CPU too, gradient accumulation,
    averaged weights, exact resumption, and COCO evaluation (docs/training.md)."""

    def __init__(self, cfg):
        # Not DefaultTrainer.__init__, which cannot wrap a CPU model for several processes, nor take
        # another step than its own two; the rest is as there.
        super(DefaultTrainer, self).__init__()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        parallel = create_ddp_model(model, broadcast_buffers=False, **({"device_ids": None} if on_cpu else {}))
        # after DistributedDataParallel gave all processes the first one's weights
        self.averaging = AverageWeights(model, cfg.SOLVER.EMA_DECAY) if cfg.SOLVER.EMA_DECAY else None

        self._trainer = build_step(cfg, parallel, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        # whoever loads a checkpoint gets the weights to be used; a resumed run needs those in training too
        in_training = {"training_model": model} if self.averaging else {}
        self.checkpointer = DetectionCheckpointer(
            self.evaluated_model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self), **in_training
        )
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @staticmethod
    def auto_scale_workers(cfg, num_workers: int):
        """See :func:`scale_to_processes`."""
        return scale_to_processes(cfg, num_workers)

    @property
    def last_batch(self) -> list[dict]:
        """The batch of the current step, as the mapper made it."""
        return self._trainer.last_batch

    @property
    def evaluated_model(self) -> nn.Module:
        """The network that is evaluated and stored: the averaged one with ``SOLVER.EMA_DECAY``, else the one in
        training; not inside DistributedDataParallel."""
        return self.averaging.averaged.module if self.averaging else getattr(self.model, "module", self.model)

    def resume_or_load(self, resume: bool = True):
        """As Detectron2's; a resumed run also goes on in the data where the earlier one stopped."""
        super().resume_or_load(resume)
        if self.averaging:
            self.averaging.start_from_average()
        set_start_iter(self.data_loader, self.start_iter)

    def train(self):
        """Train to the end; returns the results of the last evaluation, as Detectron2's ``test`` does."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self):
        hooks = super().build_hooks()
        if self.averaging:
            if self.cfg.TEST.PRECISE_BN.ENABLED:
                raise ValueError("TEST.PRECISE_BN is for the weights in training: turn it or SOLVER.EMA_DECAY off")
            hooks.insert(0, self.averaging)
        if self.cfg.VIS_PERIOD > 0 and comm.is_main_process():
            hooks.insert(-1, TrainingPicture(self.cfg))  # before the writers
        evaluation = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks[evaluation] = EvalHook(self.cfg.TEST.EVAL_PERIOD, self._evaluate)
        if self.cfg.TEST.AUG.ENABLED:
            hooks.insert(evaluation + 1, EvalHook(0, self._evaluate_with_tta))
        if self.cfg.TEST.TUNE_THRESHOLDS:
            hooks.insert(evaluation, TuneThresholds(self.cfg))  # so that the final evaluation uses them
        return hooks

    def _evaluate(self):
        share_buffers(self.evaluated_model)
        self._last_eval_results = self.test(self.cfg, self.evaluated_model)
        return self._last_eval_results

    def _evaluate_with_tta(self):
        results = self.test_with_tta(self.cfg, self.evaluated_model)
        self._last_eval_results.update(results)
        return results

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """As ``test``, with the test-time augmentation of ``TEST.AUG``; the names of the results end in "_TTA"."""
        logging.getLogger(__name__).info("Evaluating with test-time augmentation ...")
        as_stored = cfg.clone()
        as_stored.defrost()
        as_stored.INPUT.MIN_SIZE_TEST = 0  # each augmentation resizes the stored image, once
        as_stored.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "TTA")
        results = cls.test(as_stored, DVISWithTTA(cfg, model))
        return {f"{name}_TTA": result for name, result in results.items()}

    @classmethod
    def build_optimizer(cls, cfg, model):
        """See :func:`.optimizer.build_optimizer`."""
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg):
        require_packages((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))  # of the evaluation too, long before it
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        require_packages([dataset_name])
        return build_detection_test_loader(cfg, dataset_name, mapper=DVISDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluators(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))
