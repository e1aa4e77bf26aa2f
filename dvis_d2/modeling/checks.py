"""What every term of the loss asks of its arguments."""

import math

import torch
from torch import Tensor


def check_maps(function: str, name: str, label_map: Tensor, instance_ids: Tensor | None) -> None:
    if label_map.dim() != 3 or not label_map.is_floating_point():
        raise ValueError(f"{function}: {name} must be float (N, H, W), not {label_map.dtype} {tuple(label_map.shape)}")
    if instance_ids is None:
        return
    if instance_ids.shape != label_map.shape or instance_ids.dtype != torch.int64:
        raise ValueError(
            f"{function}: instance_ids must be int64 with {name}'s shape {tuple(label_map.shape)}, not "
            f"{instance_ids.dtype} {tuple(instance_ids.shape)}"
        )
    if instance_ids.device != label_map.device:
        raise ValueError(
            f"{function}: instance_ids is on {instance_ids.device} but {name} on {label_map.device}; move one"
        )


def check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be a positive number, not {value}")
