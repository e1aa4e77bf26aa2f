import contextlib
import functools
import io
import logging
import os
import warnings
import weakref
from types import SimpleNamespace

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.data import build_detection_test_loader
from detectron2.engine import DefaultTrainer, create_ddp_model
from detectron2.engine.hooks import EvalHook, PeriodicCheckpointer
from detectron2.modeling import build_model
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from detectron2.utils import comm
from torch import nn

from ..checkpoint import FINAL, DVISCheckpointer, checkpoint_info
from ..data import DVISDatasetMapper, build_train_loader, loaded_dicts, set_start_iter
from ..data.statistics import DataStatistics, training_statistics
from ..evaluation import build_evaluators, require_packages
from ..inference.test_time_augmentation import DVISWithTTA
from ..inference.tiled_network import TiledInference
from ..modeling.meta_arch import DVIS
from ..processes import ALONE, Watched, wait_for_all
from ..tuning import TuneThresholds
from .console import SlowSteps, data_name
from .metric_logs import CSVLog, Log, ScalarWriter, service_logs
from .train_loop import ExamplePicture, build_step
from .validation_hook import EarlyStop, LastCheckpoints, Validation, validation_data, validation_period

PRETRAINED_LR = 0.1  # docs/results/index.md has what it gains
logger = logging.getLogger(__name__)


class Trainer(DefaultTrainer):
    """Detectron2's trainer with AdamW, mixed precision and several processes on the CPU too, gradient accumulation,
    exact resumption, and COCO evaluation.

    `unwrapped_model` is the network without DistributedDataParallel; `statistics` are those of the training data.
    """

    def __init__(self, cfg: CfgNode):
        # Not DefaultTrainer.__init__, which cannot wrap a CPU model for several processes, nor take another step than
        # its own two; the rest is as there.
        super(DefaultTrainer, self).__init__()
        self.cfg = cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        self.unwrapped_model = model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        self.statistics = training_statistics(cfg, loaded_dicts(data_loader))
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # Detectron2 and this torch name an argument differently
            parallel = create_ddp_model(model, broadcast_buffers=False, **({"device_ids": None} if on_cpu else {}))
        self._trainer = build_step(cfg, parallel, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        info = checkpoint_info(cfg, self.statistics.to_dict())
        self.checkpointer = DVISCheckpointer(model, cfg.OUTPUT_DIR, info=info, trainer=weakref.proxy(self))
        self.start_iter, self.max_iter = 0, cfg.SOLVER.MAX_ITER
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True):
        """As Detectron2's; a resumed run also goes on in the data where the earlier one stopped, and writes the final
        checkpoint if the earlier one was stopped before it did."""
        fresh = not (self.cfg.MODEL.WEIGHTS or resume and self.checkpointer.has_checkpoint())
        if fresh and self.cfg.MODEL.TIMM.PRETRAINED:
            self.unwrapped_model.backbone.bottom_up.load_pretrained()
        super().resume_or_load(resume)
        if self.start_iter >= self.max_iter and os.path.basename(self.checkpointer.loaded) != FINAL:
            self.checkpointer.save("model_final", iteration=self.start_iter - 1)
        set_start_iter(self.data_loader, self.start_iter)

    def train(self) -> dict:
        """Train to the end; the results of the last evaluation, as of ``test``."""
        cfg, period = self.cfg, validation_period(self.cfg)
        steps = f"{self.max_iter} iterations of {cfg.SOLVER.IMS_PER_BATCH} images on {cfg.MODEL.DEVICE}"
        steps += f" in {world} processes" if (world := comm.get_world_size()) > 1 else ""
        validation = f", validation every {period}" if period and cfg.DATASETS.TEST else ""
        logger.info("Training on %s, %s%s", ", ".join(map(data_name, cfg.DATASETS.TRAIN)), steps, validation)
        logger.info("In %s: log.txt, metrics.csv, and more for `tensorboard --logdir %s`", *2 * (cfg.OUTPUT_DIR,))
        with contextlib.suppress(EarlyStop):
            super().train()
        return getattr(self, "_last_eval_results", {})

    def build_hooks(self):
        cfg, hooks, is_main = self.cfg, super().build_hooks(), comm.is_main_process()
        if cfg.VIS_PERIOD > 0 and is_main:
            hooks.insert(-1, ExamplePicture(cfg, cfg.VIS_PERIOD))  # before the writers
        hooks = [LastCheckpoints(h.checkpointer, h.period) if type(h) is PeriodicCheckpointer else h for h in hooks]
        evaluation = next(i for i, hook in enumerate(hooks) if isinstance(hook, EvalHook))
        hooks[evaluation] = EvalHook(0, self._evaluate)
        self._validation: Validation | None = None
        if cfg.TEST.AUG.ENABLED:
            hooks.insert(evaluation + 1, EvalHook(0, self._evaluate_with_tta))
        if cfg.TEST.TUNE_THRESHOLDS:
            hooks.insert(evaluation, TuneThresholds(cfg))  # so that the final evaluation uses them
        if (period := validation_period(cfg)) and cfg.DATASETS.TEST:
            part = cfg.clone()
            part.defrost()
            part.DATASETS.TEST = validation_data(cfg)
            validation = Validation(period, functools.partial(self._test, part), cfg.TEST.EARLY_STOPPING)
            hooks.insert(evaluation, validation)
            if part.DATASETS.TEST == cfg.DATASETS.TEST and not cfg.TEST.TUNE_THRESHOLDS:
                self._validation = validation  # whose last results are those of the final evaluation
            if cfg.VIS_PERIOD > 0 and is_main:
                hooks.insert(evaluation, ExamplePicture(cfg, period, validation=True))
        if is_main:
            hooks.insert(-1, SlowSteps())
        return hooks

    def build_writers(self):
        """Detectron2's, ``metrics.csv``, and the services that the environment names."""
        csv_log: Log = CSVLog(os.path.join(self.cfg.OUTPUT_DIR, "metrics.csv"), lambda: self.start_iter)
        return super().build_writers() + [ScalarWriter(log) for log in (csv_log, *service_logs(self.cfg))]

    def _test(self, cfg: CfgNode) -> dict:
        if comm.get_world_size() > 1:  # each has normalization statistics of its own images; the first one's are stored
            for buffer in self.unwrapped_model.buffers():
                dist.broadcast(buffer, src=0)
        with contextlib.redirect_stdout(io.StringIO()) as printed:  # by COCO's tools; the log has the tables
            results = self.test(cfg, self.unwrapped_model, statistics=self.statistics)
        logger.debug(printed.getvalue())
        wait_for_all("the evaluation", ALONE)
        return results

    def _evaluate(self) -> dict:
        validated = self._validation.results if self._validation else None
        self._last_eval_results = self._test(self.cfg) if validated is None else dict(validated)
        return self._last_eval_results

    def _evaluate_with_tta(self) -> dict:
        results = self.test_with_tta(self.cfg, self.unwrapped_model)
        self._last_eval_results |= results
        return results

    @classmethod
    def test(cls, cfg, model, evaluators=None, *, statistics: DataStatistics | dict | None = None) -> dict:
        """As Detectron2's; a DVIS reads images of other sizes than its training's at the training's scale, by the
        `statistics` of its data, large ones in tiles: :class:`TiledInference`."""
        if not isinstance(model, DVIS):
            return super().test(cfg, model, evaluators)
        network = TiledInference(cfg, model, statistics)
        names = {data_name(name): name for name in cfg.DATASETS.TEST}  # Detectron2 logs what it is given
        shown = cfg.clone()
        shown.defrost()
        shown.DATASETS.TEST = tuple(names)
        builders = SimpleNamespace(
            build_test_loader=lambda _, name: Watched(
                cls.build_test_loader(cfg, names[name], scale_of=network.scale_of)
            ),
            build_evaluator=lambda _, name: cls.build_evaluator(cfg, names[name]),
        )
        return DefaultTrainer.test.__func__(builders, shown, network, evaluators)

    @classmethod
    def test_with_tta(cls, cfg: CfgNode, model: nn.Module) -> dict:
        """As ``test``, with the test-time augmentation of ``TEST.AUG``; the names of the results end in "_TTA"."""
        logger.info("Evaluating with test-time augmentation ...")
        as_stored = cfg.clone()
        as_stored.defrost()
        as_stored.INPUT.MIN_SIZE_TEST = as_stored.INPUT.SCALE = 0  # each augmentation resizes the stored image, once
        as_stored.OUTPUT_DIR = os.path.join(cfg.OUTPUT_DIR, "TTA")
        results = cls.test(as_stored, DVISWithTTA(cfg, model))
        return {f"{name}_TTA": result for name, result in results.items()}

    @staticmethod
    def auto_scale_workers(cfg: CfgNode, num_workers: int) -> CfgNode:
        """As Detectron2's, from ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another number; besides, no period
        becomes 0. ValueError if the batch cannot be divided among the processes of reference."""
        images, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference in (0, num_workers):
            return cfg
        if reference < 0 or images % reference:
            needed = f"a multiple of SOLVER.REFERENCE_WORLD_SIZE, {reference}"
            raise ValueError(f"SOLVER.IMS_PER_BATCH is {images}: it has to be {needed}")
        scaled = DefaultTrainer.auto_scale_workers(cfg, num_workers)
        scaled.defrost()
        scaled.SOLVER.CHECKPOINT_PERIOD = max(1, scaled.SOLVER.CHECKPOINT_PERIOD)
        # 0 and -1 are no lengths
        scaled.TEST.EVAL_PERIOD = max(1, scaled.TEST.EVAL_PERIOD) if cfg.TEST.EVAL_PERIOD > 0 else cfg.TEST.EVAL_PERIOD
        if cfg.is_frozen():
            scaled.freeze()
        return scaled

    @classmethod
    def build_model(cls, cfg):
        """The network; its description is for the log file."""
        model = build_model(cfg)
        logger.debug("Model:\n%s", model)
        return model

    @classmethod
    def build_optimizer(cls, cfg, model):
        """AdamW, or Detectron2's SGD, by ``SOLVER.OPTIMIZER``; with AdamW a timm backbone that starts from ImageNet's
        weights learns at `PRETRAINED_LR` of the rate."""
        solver = cfg.SOLVER
        if solver.OPTIMIZER == "SGD":
            return super().build_optimizer(cfg, model)
        if solver.OPTIMIZER != "ADAMW":
            raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it must be 'SGD' or 'ADAMW'")
        pretrained = cfg.MODEL.TIMM.PRETRAINED
        params = get_default_optimizer_params(
            model,
            base_lr=solver.BASE_LR,
            weight_decay_norm=solver.WEIGHT_DECAY_NORM,
            bias_lr_factor=solver.BIAS_LR_FACTOR,
            weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
            lr_factor_func=lambda name: PRETRAINED_LR if pretrained and name.startswith("backbone.bottom_up.") else 1,
        )
        optimizer = torch.optim.AdamW(params, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY, fused=True)
        return maybe_add_gradient_clipping(cfg, optimizer)

    @classmethod
    def build_train_loader(cls, cfg):
        require_packages((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))  # of the evaluation too, long before it
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name, scale_of=None):
        require_packages([dataset_name])
        mapper = DVISDatasetMapper(cfg, is_train=False, scale_of=scale_of)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return build_evaluators(cfg, dataset_name, os.path.join(cfg.OUTPUT_DIR, "inference"))
