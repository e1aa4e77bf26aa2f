"""What the benchmarks of whole networks share: drawn images, DVIS and Detectron2's Mask R-CNN with random weights,
and what makes random weights behave like trained ones.

Random weights find nothing, or everything. So the label head, the class and the IoU layers of DVIS run as they are,
but their outputs are replaced by those of a good network; likewise those of the RPN and the box head of Mask R-CNN.
Both then have the same objects to work on.

Shapes: N images, h x w cells of the label map, K proposals.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import SimpleNamespace

import detectron2
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.structures import Instances
from torch import Tensor, nn

from dvis_d2 import add_dvis_config
from dvis_d2.data import draw_image
from dvis_d2.engine import setup_cfg

from ..comparison import backbone  # noqa: F401  (registers Mask R-CNN's)

ROOT = Path(__file__).resolve().parents[2]
# by its path: detectron2.model_zoo imports pkg_resources, which setuptools 81 removed
MASK_RCNN = Path(detectron2.__file__).parent / "model_zoo/configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
STANDARD_CHANNELS = 256  # of the FPN that Mask R-CNN's own head widths go with
OBJECTS = 8
CERTAIN = 8.0  # logit of the class that a trained network is sure of

Clock = Callable[[], float]


def dvis_cfg(config_file: str | Path, opts: list[str], device: str) -> CfgNode:
    """The unfrozen config of a file and ``KEY VALUE`` pairs."""
    cfg = setup_cfg(SimpleNamespace(config_file=str(config_file), opts=[*opts, "MODEL.DEVICE", device])).clone()
    cfg.defrost()
    return cfg


def mask_rcnn_cfg(cfg: CfgNode) -> CfgNode:
    """Detectron2's Mask R-CNN with the ResNet, the FPN's width and norm, the classes and the schedule of a DVIS
    config.

    Its heads get narrower or wider with its FPN: with 256 channels they are Detectron2's own.
    """
    rival = get_cfg()
    add_dvis_config(rival)
    rival.merge_from_file(str(MASK_RCNN))
    for section in ("DATASETS", "DATALOADER", "INPUT", "SOLVER"):
        rival[section] = cfg[section].clone()
    model = rival.MODEL
    model.DEVICE, model.PIXEL_MEAN, model.PIXEL_STD = cfg.MODEL.DEVICE, cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD
    model.BACKBONE.NAME = "build_dvis_resnet_whole_fpn_backbone"
    model.BACKBONE.FREEZE_AT = cfg.MODEL.BACKBONE.FREEZE_AT
    for key in ("DEPTH", "NORM", "STEM_OUT_CHANNELS", "RES2_OUT_CHANNELS"):
        model.RESNETS[key] = cfg.MODEL.RESNETS[key]
    model.FPN.OUT_CHANNELS, model.FPN.NORM = cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM
    model.ROI_HEADS.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES
    for head, key in (("ROI_BOX_HEAD", "FC_DIM"), ("ROI_MASK_HEAD", "CONV_DIM")):
        model[head][key] = model[head][key] * model.FPN.OUT_CHANNELS // STANDARD_CHANNELS
    return rival


def build(cfg: CfgNode) -> nn.Module:
    """The model of a config, in evaluation mode, with random weights that :func:`calm` has damped."""
    return calm(build_model(cfg)).eval()


def calm(model: nn.Module) -> nn.Module:
    """Weaken the residual branches: with random weights and frozen norms activations double from block to block, and
    overflow in half precision."""
    for module in model.modules():
        if isinstance(module, (BasicBlock, BottleneckBlock)):
            last = module.conv3 if isinstance(module, BottleneckBlock) else module.conv2
            last.norm.weight.data.fill_(0.2)
    return model


def draw_batch(size: int, count: int) -> list[dict]:
    """Inputs of ``count`` drawn square images: ``"image"`` uint8 (3, size, size), ``"height"``, ``"width"``, and
    ``"instance_ids"`` int64 (size, size). Eight objects each where there is room, one or two cut in two by a bar."""
    batch = []
    for index in range(count):
        rng = np.random.default_rng([size, index])
        image, masks, _, _ = draw_image(rng, height=size, width=size, num_objects=(OBJECTS, OBJECTS), bars=1.0)
        ids = sum(k * torch.from_numpy(mask).long() for k, mask in enumerate(masks, start=1))
        image = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        batch.append({"image": image, "height": size, "width": size, "instance_ids": ids})
    return batch


def good_label_map(instance_ids: Tensor) -> Tensor:
    """float (N, h, w): the label map of a good network for instance ids (N, h, w): object k at k + 1, with noise of
    standard deviation 0.1 that is alike in neighboring cells."""
    generator = torch.Generator().manual_seed(0)
    noise = F.avg_pool2d(torch.randn(instance_ids.shape, generator=generator), 3, stride=1, padding=1)
    noise = noise.to(instance_ids.device)
    return torch.where(instance_ids > 0, instance_ids + 1 + 0.3 * noise, 0.0)


def map_ids(model: nn.Module, batch: list[dict]) -> Tensor:
    """int64 (N, h, w): the batch's instance ids on the grid of a DVIS model's label map."""
    return model.preprocess_instance_ids(batch, model.preprocess_image(batch))


def proposals_of(model: nn.Module, label_map: Tensor, batch: list[dict]) -> list[Instances]:
    """What a DVIS model proposes for a label map (N, h, w) in place of its own."""
    generator, images = model.proposal_generator, model.preprocess_image(batch)
    return generator.to_proposals(generator.group(label_map, images), images)


def inject_label_map(model: nn.Module, label_map: Tensor) -> None:
    """From now on the label head of a DVIS model gives ``label_map``, with the gradient of what it would have given."""
    model.proposal_generator.label_head.register_forward_hook(lambda m, a, out: label_map + (out - out.detach()))


def inject_verification(model: nn.Module) -> None:
    """From now on the heads of a DVIS model are sure of every proposal: each gets a class of its own (while there
    are enough, and the heads tell classes apart) and an IoU near 1, so every proposal becomes a detection. For
    inference: no gradient passes."""

    def classes(module, args, logits):
        rows = torch.arange(len(logits), device=logits.device)
        good = torch.zeros_like(logits)
        good[rows, rows % (logits.shape[1] - 1)] = CERTAIN
        return good

    if model.roi_heads.cls_score is not None:
        model.roi_heads.cls_score.register_forward_hook(classes)
    model.roi_heads.iou_pred.register_forward_hook(lambda m, a, out: torch.full_like(out, CERTAIN))
    # a mask of random weights may be empty, and is then none
    model.roi_heads.mask_head.predictor.register_forward_hook(lambda m, a, out: out.abs())


def inject_boxes(model: nn.Module, boxes: list[Tensor]) -> None:
    """From now on the first proposals of the RPN of a Mask R-CNN, image by image, have these boxes (K, 4)."""

    def overwrite(module, args, output):
        for proposals, box in zip(output[0], boxes, strict=True):
            count = min(int(len(box)), int(len(proposals)))
            proposals.proposal_boxes.tensor[:count] = box[:count]

    model.proposal_generator.register_forward_hook(overwrite)


def add_clock_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, help="of torch; by default its own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time, for a busy machine; best with --threads 1")


def make_clock(args: argparse.Namespace) -> Clock:
    """Set torch's threads, and return a clock: seconds, when all work given to the device is done.

    Args:
        args: of :func:`add_clock_arguments`.

    Raises:
        ValueError: for the CPU time of a GPU's work.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device.startswith("cuda"):
        if args.cpu_time:
            raise ValueError("--cpu-time would not see the work of a GPU: leave it out, or give --device cpu")
        return lambda: torch.cuda.synchronize(args.device) or time.perf_counter()
    return time.process_time if args.cpu_time else time.perf_counter


def clock_setting(args: argparse.Namespace) -> dict:
    """What a result has to say about how it was measured."""
    return {"threads": torch.get_num_threads(), "device": args.device, "cpu_time": args.cpu_time}


def interleaved(
    methods: Mapping[str, Callable[[], object]], repeats: int, clock: Clock, *, slow: Collection[str] = ()
) -> dict[str, float]:
    """Median milliseconds of every method. One call of each follows the other, so that a busy moment of the machine
    meets them all; the first round does not count. Those in `slow` have three more at most."""
    times: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(repeats + 1):
        for name, method in methods.items():
            if name in slow and repeat > 3:
                continue
            start = clock()
            method()
            if repeat:
                times[name].append(1000 * (clock() - start))
    return {name: statistics.median(values) for name, values in times.items()}
