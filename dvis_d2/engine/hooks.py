import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..inference.visualization import draw_panel


class AverageWeights(HookBase):
    """Keeps an exponential moving average of a model's weights and of its normalization statistics.

    The first update copies the model, later ones make decay * average + (1 - decay) * model. A trainer's checkpoints
    hold the average as their model; the hook's own state is the number of updates.
    """

    def __init__(self, model: nn.Module, decay: float):
        """`model` is in training, without DistributedDataParallel around it; `decay` in (0, 1), an iteration."""
        if not 0 < decay < 1:
            raise ValueError(f"SOLVER.EMA_DECAY is {decay}: give 0 for none, or a decay between 0 and 1, say 0.999")
        self.model = model
        self.averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)

    def after_step(self):
        self.averaged.update_parameters(self.model)

    def start_from_average(self):
        """Give the model the weights that were loaded into the average, unless both were loaded."""
        if not self.averaged.n_averaged:
            self.model.load_state_dict(self.averaged.module.state_dict())

    def state_dict(self):
        return {"num_updates": int(self.averaged.n_averaged)}

    def load_state_dict(self, state_dict):
        self.averaged.n_averaged.fill_(state_dict["num_updates"])


class TrainingPicture(HookBase):
    """Every ``VIS_PERIOD`` steps, the panel of the first training image, as it was augmented, for TensorBoard."""

    def __init__(self, cfg: CfgNode):
        self.period = cfg.VIS_PERIOD
        self.metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        self.input_format = cfg.INPUT.FORMAT

    def after_step(self):
        if (self.trainer.iter + 1) % self.period:
            return
        batch, model = self.trainer._trainer.last_batch[0], self.trainer.unwrapped_model
        model.eval()
        try:
            output = model.inference([{"image": batch["image"]}], intermediate=True)[0]
        finally:
            model.train()
        image = convert_image_to_rgb(batch["image"].permute(1, 2, 0), self.input_format)
        panel = draw_panel(image, output, self.metadata, ground_truth=batch["instances"])
        self.trainer.storage.put_image("training example", torch.as_tensor(panel.transpose(2, 0, 1) / 255.0))
