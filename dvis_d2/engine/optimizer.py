import torch
from detectron2.config import CfgNode
from detectron2.solver.build import get_default_optimizer_params, maybe_add_gradient_clipping
from torch import nn


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """AdamW or SGD by ``SOLVER.OPTIMIZER``; rates, decay, momentum and clipping by Detectron2's keys.

    The rate of a parameter is ``BASE_LR`` times ``ROI_HEADS_LR_FACTOR`` in the verification heads and times
    ``LABEL_MAP_LR_FACTOR`` elsewhere, and times ``BIAS_LR_FACTOR`` for biases.

    Raises:
        ValueError: an unknown optimizer, or a negative factor.
    """
    solver = cfg.SOLVER
    for key in ("ROI_HEADS_LR_FACTOR", "LABEL_MAP_LR_FACTOR"):
        if solver[key] < 0:
            raise ValueError(f"SOLVER.{key} is {solver[key]}: give 0 to freeze that part, or a positive factor")

    def factor(name: str) -> float:
        part = solver.ROI_HEADS_LR_FACTOR if name.startswith("roi_heads.") else solver.LABEL_MAP_LR_FACTOR
        # here, since Detectron2's own bias_lr_factor would replace the part's factor
        return part * (solver.BIAS_LR_FACTOR if name.endswith(".bias") else 1)

    params = get_default_optimizer_params(
        model,
        base_lr=solver.BASE_LR,
        weight_decay_norm=solver.WEIGHT_DECAY_NORM,
        weight_decay_bias=solver.WEIGHT_DECAY_BIAS,
        lr_factor_func=factor,
    )
    options = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    if solver.OPTIMIZER == "SGD":
        sgd = {"momentum": solver.MOMENTUM, "nesterov": solver.NESTEROV, "foreach": True}  # as Detectron2's
        optimizer = torch.optim.SGD(params, **options, **sgd)
    elif solver.OPTIMIZER == "ADAMW":
        optimizer = torch.optim.AdamW(params, **options, fused=True)
    else:
        raise ValueError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; it must be 'SGD' or 'ADAMW'")
    return maybe_add_gradient_clipping(cfg, optimizer)
