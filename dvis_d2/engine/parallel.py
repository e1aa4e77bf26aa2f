"""What several processes need to train and evaluate one network."""

import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer
from detectron2.utils import comm
from torch import nn


def scale_to_processes(cfg: CfgNode, num_processes: int) -> CfgNode:
    """Detectron2's linear scaling of batch, rate and schedule from ``SOLVER.REFERENCE_WORLD_SIZE`` processes to another
    number, and what it does not know of: the average of the weights forgets as much an image as before, and no period
    becomes 0.

    Returns:
        a new config, or `cfg` itself where nothing changes.

    Raises:
        ValueError: the batch cannot be divided among the reference number of processes.
    """
    reference = cfg.SOLVER.REFERENCE_WORLD_SIZE
    if reference in (0, num_processes):
        return cfg
    if reference < 0 or cfg.SOLVER.IMS_PER_BATCH % reference:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {cfg.SOLVER.IMS_PER_BATCH}: it has to be a multiple of "
            f"SOLVER.REFERENCE_WORLD_SIZE, {reference}"
        )
    scaled = DefaultTrainer.auto_scale_workers(cfg, num_processes).clone()
    scaled.defrost()
    scaled.SOLVER.EMA_DECAY = cfg.SOLVER.EMA_DECAY ** (num_processes / reference)
    scaled.SOLVER.CHECKPOINT_PERIOD = max(1, scaled.SOLVER.CHECKPOINT_PERIOD)
    if cfg.TEST.EVAL_PERIOD > 0:
        scaled.TEST.EVAL_PERIOD = max(1, scaled.TEST.EVAL_PERIOD)
    if cfg.is_frozen():
        scaled.freeze()
    return scaled


def share_buffers(model: nn.Module) -> None:
    """Give all processes the first one's buffers: each has normalisation statistics of its own images, and all of them
    should evaluate the network that the first one stores."""
    if comm.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)
