import logging
import os
import weakref

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_test_loader
from detectron2.engine import AMPTrainer, DefaultTrainer, SimpleTrainer, create_ddp_model
from detectron2.engine.hooks import EvalHook
from detectron2.solver import build_optimizer
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm

from ..data import DVISDatasetMapper, build_train_loader, set_start_iter
from ..evaluation import build_evaluators
from ..tuning import TuneThresholds
from .hooks import StepSeed, TrainingPicture


class _NamedBatch:
    """Keeps the batch of the current step, to name its images when the loss is not finite."""

    def __init__(self, model, *args, **kwargs):
        super().__init__(model, *args, **kwargs)
        self.last_batch = None
        model.register_forward_pre_hook(self._keep_batch)

    def _keep_batch(self, model, args):
        if model.training:
            self.last_batch = args[0]

    def _write_metrics(self, loss_dict, *args, **kwargs):
        bad = [name for name, value in loss_dict.items() if not torch.isfinite(value).all()]
        if bad:
            files = [x.get("file_name", "(no file name)") for x in self.last_batch]
            raise FloatingPointError(
                f"{', '.join(bad)} not finite at iteration {self.iter}, on the images {files}. Check these "
                "images and their annotations; if they are sound, lower SOLVER.BASE_LR or turn on "
                "SOLVER.CLIP_GRADIENTS. No weights were changed by this step; continue from the last "
                "checkpoint with --resume."
            )
        super()._write_metrics(loss_dict, *args, **kwargs)


class FullPrecisionStep(_NamedBatch, SimpleTrainer):
    """Detectron2's step in float32."""


class CUDAMixedPrecisionStep(_NamedBatch, AMPTrainer):
    """Detectron2's step in float16 with loss scaling."""


class CPUMixedPrecisionStep(FullPrecisionStep):
    """bfloat16 has float32's range, so it needs no loss scaling; Detectron2's AMP step needs CUDA."""

    def run_step(self):
        with torch.autocast("cpu", torch.bfloat16):
            super().run_step()


def _step_class(mixed_precision: bool, on_cpu: bool) -> type[SimpleTrainer]:
    """The training step for a precision and a device; a CPU that is slow in bfloat16 keeps to float32."""
    if not mixed_precision:
        return FullPrecisionStep
    if not on_cpu:
        return CUDAMixedPrecisionStep
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return CPUMixedPrecisionStep
    logging.getLogger(__name__).info("This CPU has no fast bfloat16: SOLVER.AMP.ENABLED is without effect")
    return FullPrecisionStep


class Trainer(DefaultTrainer):
    """Detectron2's trainer with AdamW, mixed precision and several processes on the CPU too, exact
    resumption, and COCO evaluation."""

    def __init__(self, cfg):
        # Not DefaultTrainer.__init__, which cannot wrap a CPU model for several processes, nor take
        # another step than its own two; the rest is as there.
        super(DefaultTrainer, self).__init__()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        ddp_args = {"device_ids": None} if on_cpu else {}
        model = create_ddp_model(model, broadcast_buffers=False, **ddp_args)

        self._trainer = _step_class(cfg.SOLVER.AMP.ENABLED, on_cpu)(model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = DetectionCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    @property
    def last_batch(self) -> list[dict]:
        """The batch of the current step, as the mapper made it."""
        return self._trainer.last_batch

    def resume_or_load(self, resume: bool = True):
        """As Detectron2's; a resumed run also goes on in the data where the earlier one stopped."""
        super().resume_or_load(resume)
        set_start_iter(self.data_loader, self.start_iter)

    def train(self):
        """Train to the end; returns the results of the last evaluation, as Detectron2's ``test`` does."""
        super().train()
        return getattr(self, "_last_eval_results", None)

    def build_hooks(self):
        hooks = super().build_hooks()
        if self.cfg.SEED >= 0:
            hooks.insert(0, StepSeed(self.cfg.SEED))
        if self.cfg.VIS_PERIOD > 0 and comm.is_main_process():
            picture = TrainingPicture(self.cfg.VIS_PERIOD, self.cfg.DATASETS.TRAIN[0], self.cfg.INPUT.FORMAT)
            hooks.insert(-1, picture)  # before the writers
        if self.cfg.TEST.TUNE_THRESHOLDS:
            evaluation = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
            hooks.insert(evaluation, TuneThresholds(self.cfg))  # so that the final evaluation uses them
        return hooks

    @classmethod
    def build_optimizer(cls, cfg, model):
        """AdamW or SGD by ``SOLVER.OPTIMIZER``; rates, decay and clipping by Detectron2's keys."""
        if cfg.SOLVER.OPTIMIZER == "SGD":
            return build_optimizer(cfg, model)
        if cfg.SOLVER.OPTIMIZER != "ADAMW":
            raise ValueError(f"SOLVER.OPTIMIZER is {cfg.SOLVER.OPTIMIZER!r}; it must be 'SGD' or 'ADAMW'")
        params = get_default_optimizer_params(
            model,
            weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
            bias_lr_factor=cfg.SOLVER.BIAS_LR_FACTOR,
            weight_decay_bias=cfg.SOLVER.WEIGHT_DECAY_BIAS,
        )
        optimizer = torch.optim.AdamW(params, lr=cfg.SOLVER.BASE_LR, weight_decay=cfg.SOLVER.WEIGHT_DECAY, fused=True)
        return maybe_add_gradient_clipping(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_detection_test_loader(cfg, dataset_name, mapper=DVISDatasetMapper(cfg, is_train=False))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluators(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))
