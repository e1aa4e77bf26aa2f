import contextlib
import logging
import time
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from ..data import DVISDatasetMapper
from ..inference.visualization import draw_panel
from ..processes import loading, wait_for_all


class TrainingStep(SimpleTrainer):
    """Detectron2's step in float32, float16 or bfloat16, on a batch that may be taken in parts.

    The parts run one after another and their gradients are averaged before the one update. Part j of k in process r of
    p has the images and the random draws of process r + p j of p k: parts and processes are interchangeable.

    `device_type` is "cuda" or "cpu", `dtype` that of the forward pass, `num_parts` a divisor of the batch. All
    generators are seeded anew for every part, so that a resumed run draws the same; not if `seed` is negative.
    """

    def __init__(self, *args: Any, device_type: str, dtype=torch.float32, num_parts: int = 1, seed: int = -1):
        super().__init__(*args)
        self.dtype, self.num_parts, self.seed = dtype, num_parts, seed
        self.autocast = torch.autocast(device_type, dtype, enabled=dtype != torch.float32)
        # bfloat16 has float32's range, so it needs no loss scaling
        self.grad_scaler = torch.amp.GradScaler(device_type, enabled=dtype == torch.float16)
        self.last_batch: list[dict] = []

    def run_step(self):
        start = time.perf_counter()
        with loading():
            self.last_batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        if self.autocast.device == "cuda":  # NCCL's own timeout would not say who is missing
            wait_for_all("the images of an iteration")
        self.optimizer.zero_grad()
        losses: dict[str, torch.Tensor] = {}
        for part in range(self.num_parts):
            for name, loss in self._add_gradients(part).items():
                losses[name] = losses.get(name, 0) + loss.detach() / self.num_parts
        self._write_metrics(losses, data_time)
        # after the processes exchanged gradients, which they wait for; other models than DVIS have no idle parameters
        for parameter in getattr(getattr(self.model, "module", self.model), "idle_parameters", tuple)():
            parameter.grad = None
        # before the step, since a fused optimizer would leave it until after the clipping of the gradients
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _add_gradients(self, part: int) -> dict[str, torch.Tensor]:
        """Forward and backward pass of one part; processes exchange gradients after the last."""
        if self.seed >= 0:
            number = (self.iter * self.num_parts + part) * comm.get_world_size() + comm.get_rank()
            seed_all_rng(self.seed + number)
        wait = isinstance(self.model, DistributedDataParallel) and part + 1 < self.num_parts
        with self.model.no_sync() if wait else contextlib.nullcontext():
            with self.autocast:
                losses = self.model(self.last_batch[part :: self.num_parts])
            self.grad_scaler.scale(sum(losses.values()) / self.num_parts).backward()
        return losses

    def _write_metrics(self, loss_dict, *args, **kwargs):
        bad = [name for name, value in loss_dict.items() if not torch.isfinite(value).all()]
        if bad:
            files = [x.get("file_name", "(no file name)") for x in self.last_batch]
            raise FloatingPointError(
                f"{', '.join(bad)} not finite at iteration {self.iter}, on the images {files}. Check these images and "
                "their annotations; if they are sound, lower SOLVER.BASE_LR or turn on SOLVER.CLIP_GRADIENTS. No "
                "weights were changed by this step; continue from the last checkpoint with --resume."
            )
        super()._write_metrics(loss_dict, *args, **kwargs)

    def state_dict(self):
        return super().state_dict() | {"grad_scaler": self.grad_scaler.state_dict()}  # empty if it is not enabled

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        if state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])


def build_step(cfg: CfgNode, model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer) -> TrainingStep:
    """The step that ``SOLVER.AMP.ENABLED``, ``SOLVER.ACCUMULATE_STEPS``, ``SEED`` and ``MODEL.DEVICE`` ask for;
    ValueError if the batch cannot be divided among processes and parts."""
    images, processes, parts = cfg.SOLVER.IMS_PER_BATCH, comm.get_world_size(), cfg.SOLVER.ACCUMULATE_STEPS
    if parts < 1 or images % (processes * parts):
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {images} and SOLVER.ACCUMULATE_STEPS is {parts}: the batch has to be a multiple "
            f"of the {processes} processes times the steps, at least 1"
        )
    device = torch.device(cfg.MODEL.DEVICE).type
    dtype = autocast_dtype(device) if cfg.SOLVER.AMP.ENABLED else torch.float32
    return TrainingStep(model, loader, optimizer, device_type=device, dtype=dtype, num_parts=parts, seed=cfg.SEED)


def autocast_dtype(device_type: str) -> torch.dtype:
    """What mixed precision is on a device; a CPU that is slow in bfloat16 keeps to float32."""
    if device_type != "cpu":
        return torch.float16
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    logging.getLogger(__name__).info("This CPU has no fast bfloat16: SOLVER.AMP.ENABLED is without effect")
    return torch.float32


class ExamplePicture(HookBase):
    """Every `period` steps, for TensorBoard, the panel of the first training image, as it was augmented, or, with
    `validation`, of the first validation image; the model stays as it is."""

    def __init__(self, cfg: CfgNode, period: int, *, validation: bool = False):
        self.period, self.input_format, self.record = period, cfg.INPUT.FORMAT, None
        self.name = "validation example" if validation else "training example"
        dataset = (cfg.DATASETS.TEST if validation else cfg.DATASETS.TRAIN)[0]
        self.metadata = MetadataCatalog.get(dataset)
        if validation:
            options = DVISDatasetMapper.from_config(cfg, is_train=False) | {"is_train": True}  # with the ground truth
            self.record = DVISDatasetMapper(**options)(DatasetCatalog.get(dataset)[0])

    def after_step(self):
        if (self.trainer.iter + 1) % self.period:
            return
        record = self.record or self.trainer._trainer.last_batch[0]
        model = self.trainer.unwrapped_model
        with inference_context(model):
            output = model.inference([{"image": record["image"]}], intermediate=True)[0]
        image = convert_image_to_rgb(record["image"].permute(1, 2, 0), self.input_format)
        picture = draw_panel(image, output, self.metadata, ground_truth=record["instances"])
        self.trainer.storage.put_image(self.name, torch.as_tensor(picture.transpose(2, 0, 1) / 255.0))
