#!/usr/bin/env python
"""Multiply-adds of inference of one image, part by part: the paper's Table 5 for a config.

    python -m experiments.count_flops --config-file configs/dvis_R50.yaml
    python -m experiments.count_flops --config-file configs/dvis_R50.yaml --size 550 --mask-rcnn MODEL.RESNETS.DEPTH 101

torch counts the network's convolutions and linear layers on a square image in which 15 objects are found, so that the
heads work on 15 proposals; the weights are random. The paper's numbers, where it has any, are those of its Table 5.
Prints a table, and as its last line one JSON object.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from .benchmarks.common import build, dvis_cfg, inject_label_map, inject_verification, mask_rcnn_cfg, proposals_of
from .benchmarks.inference import inject_mask_rcnn
from .program import config_parser
from .tables import markdown_table

OBJECTS = 15
# (depth, size): Table 5, in 1e9
PAPER = {(50, 550): 38.49, (50, 700): 60.94, (101, 550): 66.24, (101, 700): 106.35}
DVIS_PARTS = {
    "backbone": ("backbone.bottom_up",),
    "fpn": ("backbone", "-backbone.bottom_up"),
    "label_head": ("proposal_generator.label_head",),
    "box_head": ("roi_heads", "-roi_heads.mask_head"),
    "mask_head": ("roi_heads.mask_head",),
}
MASK_RCNN_PARTS = {
    "backbone": DVIS_PARTS["backbone"],
    "fpn": DVIS_PARTS["fpn"],
    "rpn": ("proposal_generator",),
    "box_head": DVIS_PARTS["box_head"],
    "mask_head": DVIS_PARTS["mask_head"],
}


def fifteen_objects(height: int, width: int, side: int) -> Tensor:
    """float (1, height, width): a label map with 15 squares apart from each other, of labels 2 to 16, in its upper left
    ``side`` x ``side`` cells (at least 16)."""
    label_map = torch.zeros(1, height, width)
    step = side // 4
    for k in range(OBJECTS):
        y, x = divmod(k, 4)
        label_map[0, y * step : (y + 1) * step - 1, x * step : (x + 1) * step - 1] = 2 + k
    return label_map


def count_parts(model: nn.Module, inputs: list[dict], parts: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """1e9 multiply-adds of a model's inference: of every part, of what is in none ("other"), and "total".

    Args:
        parts: for each part the names of modules that are added, or with a "-" in front subtracted.
    """
    counts: Counter[str] = Counter()
    hooks = []
    with FlopCounterMode(display=False) as counter, torch.no_grad():

        def add(name: str, sign: int) -> None:
            counts[name] += sign * counter.get_total_flops()

        for name, module in model.named_modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
                hooks.append(module.register_forward_pre_hook(lambda *_, name=name: add(name, -1)))
                hooks.append(module.register_forward_hook(lambda *_, name=name: add(name, 1)))
        model(inputs)
    for hook in hooks:
        hook.remove()

    def of_module(module: str) -> int:
        return sum(count for name, count in counts.items() if f"{name}.".startswith(f"{module}."))

    signed = {name: [(n.lstrip("-"), -1 if n[0] == "-" else 1) for n in names] for name, names in parts.items()}
    found = {name: sum(sign * of_module(n) for n, sign in names) for name, names in signed.items()}
    total = counter.get_total_flops()
    found |= {"other": total - sum(found.values()), "total": total}
    return {name: count / 2e9 for name, count in found.items()}  # torch counts a multiply-add twice


def count_config(cfg: CfgNode, size: int, *, mask_rcnn: bool) -> dict:
    """The counts at one image size, in 1e9 multiply-adds."""
    model = build(cfg)
    inputs = [{"image": torch.zeros(3, size, size, dtype=torch.uint8), "height": size, "width": size}]
    images = model.preprocess_image(inputs)
    stride = model.proposal_generator.stride
    label_map = fifteen_objects(*(side // stride for side in images.tensor.shape[-2:]), size // stride)
    proposals = proposals_of(model, label_map, inputs)
    inject_label_map(model, label_map)
    inject_verification(model)
    result = {
        "size": size,
        "proposals": len(proposals[0]),
        "dvis": count_parts(model, inputs, DVIS_PARTS),
        "paper": PAPER.get((cfg.MODEL.RESNETS.DEPTH, size)),
    }
    if mask_rcnn:
        rival = build(mask_rcnn_cfg(cfg))
        inject_mask_rcnn(rival, [p.proposal_boxes.tensor for p in proposals])
        result["mask_rcnn"] = count_parts(rival, inputs, MASK_RCNN_PARTS)
    return result


def format_table(results: list[dict]) -> str:
    parts = list(dict.fromkeys([*DVIS_PARTS, *MASK_RCNN_PARTS, "other", "total"]))
    headers = ["px", "model", *(part.replace("_", " ") for part in parts), "paper's total"]
    rows = []
    for result in results:
        for name, title in (("dvis", "DVIS"), ("mask_rcnn", "Mask R-CNN")):
            if name in result:
                counts = [f"{result[name][part]:.2f}" if part in result[name] else "" for part in parts]
                rows.append([result["size"], title, *counts, (name == "dvis" and result["paper"]) or ""])
    return f"1e9 multiply-adds, {results[0]['proposals']} proposals\n{markdown_table(rows, headers)}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--size", type=int, nargs="+", default=[550, 700], help="of the square image, in pixels")
    parser.add_argument("--mask-rcnn", action="store_true", help="Detectron2's Mask R-CNN with this ResNet too")
    args = parser.parse_args(argv)
    cfg = dvis_cfg(args.config_file, args.opts, "cpu")
    results = [count_config(cfg, size, mask_rcnn=args.mask_rcnn) for size in args.size]
    print(format_table(results))
    print(json.dumps({"config": args.config_file, "opts": args.opts, "sizes": results}))


if __name__ == "__main__":
    main()
