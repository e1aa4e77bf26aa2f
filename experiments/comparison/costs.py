"""What a trained model costs at inference, image by image."""

from __future__ import annotations

import itertools
import statistics
import time

import torch
from detectron2.config import CfgNode
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dvis_d2.checkpoint import DVISCheckpointer

from .training import ComparisonTrainer

WARM_UP = 3  # images


def load_model(cfg: CfgNode) -> nn.Module:
    """The model of a finished run, with its final weights, for inference."""
    model = ComparisonTrainer.build_model(cfg).eval()
    DVISCheckpointer(model).load(f"{cfg.OUTPUT_DIR}/model_final.pth")
    return model


@torch.no_grad()
def measure_costs(cfg: CfgNode, model: nn.Module, *, num_images: int = 50, num_flop_images: int = 10) -> dict:
    """Time, size, arithmetic and proposals of a model on the first images of `DATASETS.TEST[0]`, one at a time.

    Multiply-adds are those of convolutions and matrix products that were executed, counted by torch. (fvcore counts a
    trace, and a trace of DVIS loses the layers that feed the grouping, which runs outside of torch.)

    Args:
        model: a `GeneralizedRCNN`, which `DVIS` is too, for inference.

    Returns:
        "parameters"; "ms_per_image", the median over the images, masks at the image's size included, loading the file
        not; "multiply_adds" and "proposals" (those that reach the ROI heads), means over the images; "images" timed.
    """
    loader = ComparisonTrainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])
    batches = list(itertools.islice(loader, num_images))
    for batch in batches[:WARM_UP]:
        model(batch)

    counts: list[int] = []
    handle = model.roi_heads.register_forward_pre_hook(lambda module, args: counts.extend(len(p) for p in args[2]))
    milliseconds = []
    for batch in batches:
        start = time.perf_counter()
        model(batch)
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        milliseconds.append(1000 * (time.perf_counter() - start))
    handle.remove()

    flops = []
    for batch in batches[:num_flop_images]:
        with FlopCounterMode(display=False) as counter:
            model(batch)
        flops.append(counter.get_total_flops())
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": statistics.fmean(flops) / 2,  # torch counts a multiplication and an addition each
        "ms_per_image": statistics.median(milliseconds),
        "proposals": statistics.fmean(counts),
        "images": len(batches),
    }
