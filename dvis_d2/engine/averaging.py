from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class AverageWeights(HookBase):
    """Keeps an exponential moving average of a model's weights and of its normalisation statistics.

    The first update copies the model, update t makes decay * average + (1 - decay) * model. Saved with the trainer is
    the number of updates alone: the average itself is what the trainer's checkpoints hold as their model.
    """

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model: in training, without DistributedDataParallel around it.
            decay: in (0, 1), an iteration.
        """
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
