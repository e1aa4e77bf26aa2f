"""Time of inference of DVIS and of Detectron2's Mask R-CNN, part by part, on the same drawn objects.

Both have random weights; what decides about their work is replaced by what trained networks give. DVIS: the label map
of a good network for 8 objects, from which 10-18 proposals come. Mask R-CNN: 1,000 proposals of the RPN, among them the
same 10-18 boxes, and a box head that is sure of these and of no other. So both draw the same number of masks. The
layers whose outputs are replaced run nevertheless.

The parts follow each other without gaps and sum to the total: DVIS preprocess, backbone (with FPN), label head,
grouping (mean shift and proposals with their masks on the map's grid), heads, masks (at the image's size); Mask R-CNN
preprocess, backbone, rpn, heads, masks. On a GPU every part ends when its work is done, so nothing overlaps.

Repeats of the models are interleaved; times are medians, and a total is the median of totals. The JSON's first three
numbers are the worst of all rows.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ..tables import markdown_table
from .common import (
    CERTAIN,
    ROOT,
    Clock,
    add_clock_arguments,
    build,
    clock_setting,
    draw_batch,
    dvis_cfg,
    good_label_map,
    inject_boxes,
    inject_label_map,
    inject_verification,
    make_clock,
    map_ids,
    mask_rcnn_cfg,
    proposals_of,
)

PARTS = {
    "DVIS": ("preprocess", "backbone", "label_head", "grouping", "heads", "masks"),
    "Mask R-CNN": ("preprocess", "backbone", "rpn", "heads", "masks"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--depths", type=int, nargs="+", default=[50, 101], help="of the ResNet")
    parser.add_argument("--sizes", type=int, nargs="+", default=[550, 700], help="of the square input, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8], help="images at a time")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--config-file", default=str(ROOT / "configs/dvis_R50.yaml"), help="of DVIS, for any depth")
    add_clock_arguments(parser)
    parser.add_argument("--amp", action="store_true", help="float16 on CUDA, bfloat16 on the CPU")
    parser.add_argument(
        "--channels-last",
        action="store_true",
        help="give Mask R-CNN's backbone the memory format that DVIS uses; Detectron2 does not",
    )
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="for the config, after a `--`")


def run(args: argparse.Namespace) -> dict:
    torch.manual_seed(0)
    clock = make_clock(args)
    rows = []
    for depth, size, batch in tqdm(list(itertools.product(args.depths, args.sizes, args.batches))):
        cfg = dvis_cfg(args.config_file, [*args.opts, "MODEL.RESNETS.DEPTH", str(depth)], args.device)
        row = {"depth": depth, "size": size, "batch": batch}
        rows.append(row | _measure(cfg, draw_batch(size, batch), args.repeats, clock, args.amp, args.channels_last))
    print(_format(rows))
    worst = {key: max(row[key] for row in rows) for key in ("ratio", "grouping_share", "heads_and_masks_share")}
    options = {"amp": args.amp, "channels_last": args.channels_last, "opts": args.opts}
    return worst | clock_setting(args) | options | {"rows": rows}


def inject_mask_rcnn(model: nn.Module, boxes: list[Tensor]) -> list[int]:
    """From now on the RPN's scores are noise and its boxes the anchors, except that image i has ``boxes[i]`` (K, 4)
    among its proposals; the box head gives each of these a class of its own, leaves the boxes as they are, and takes
    all other proposals for background.

    Returns:
        a list that after every inference holds the number of proposals of every image.
    """
    noise: dict[tuple[int, ...], Tensor] = {}
    counts: list[int] = []

    def scores(module, args, output):
        generator = torch.Generator().manual_seed(0)
        good = []
        for logits in output[0]:
            shape = tuple(map(int, logits.shape))  # while fvcore traces, sizes are tensors
            if shape not in noise:
                noise[shape] = torch.randn(shape, generator=generator).to(logits)
            good.append(torch.zeros_like(logits) + noise[shape])
        return good, [torch.zeros_like(deltas) for deltas in output[1]]

    def note_counts(module, args, output):
        counts[:] = [int(len(proposals)) for proposals in output[0]]

    def classes(module, args, output):
        logits, deltas = output
        good = torch.zeros_like(logits)
        good[:, -1] = CERTAIN
        first = 0
        for count, box in zip(counts, boxes, strict=True):
            rows = torch.arange(min(int(len(box)), count), device=logits.device)
            good[first + rows, -1] = 0
            good[first + rows, rows % (logits.shape[1] - 1)] = CERTAIN
            first += count
        return good, torch.zeros_like(deltas)

    model.proposal_generator.rpn_head.register_forward_hook(scores)
    inject_boxes(model, boxes)
    model.proposal_generator.register_forward_hook(note_counts)
    model.roi_heads.box_predictor.register_forward_hook(classes)
    return counts


class Stopwatch:
    """Times the parts of a model's inference by hooks on its modules, whose borders they are."""

    def __init__(self, model: nn.Module, clock: Clock):
        self.model = model
        self.clock = clock
        self.marks: list[float] = []
        model.backbone.register_forward_pre_hook(self._mark)
        model.backbone.register_forward_hook(self._mark)
        if hasattr(model.proposal_generator, "label_head"):
            model.proposal_generator.label_head.register_forward_hook(self._mark)
        model.roi_heads.register_forward_pre_hook(self._mark)
        model.roi_heads.register_forward_hook(self._mark)

    def _mark(self, *_) -> None:
        self.marks.append(self.clock())

    @torch.no_grad()
    def __call__(self, batch: list[dict]) -> list[float]:
        """Milliseconds of every part of one inference."""
        self.marks = []
        self._mark()
        self.model.inference(batch)
        self._mark()
        return [1000 * (b - a) for a, b in zip(self.marks[:-1], self.marks[1:], strict=True)]


def _measure(cfg, batch: list[dict], repeats: int, clock: Clock, amp: bool, channels_last: bool) -> dict:
    dvis, rival = build(cfg), build(mask_rcnn_cfg(cfg))
    label_map = good_label_map(map_ids(dvis, batch))
    proposals = proposals_of(dvis, label_map, batch)
    inject_label_map(dvis, label_map)
    inject_verification(dvis)
    rpn_counts = inject_mask_rcnn(rival, [p.proposal_boxes.tensor for p in proposals])
    if channels_last:
        rival.backbone.register_forward_pre_hook(lambda m, a: (a[0].contiguous(memory_format=torch.channels_last),))
    models = {"DVIS": dvis, "Mask R-CNN": rival}
    counts = {name: _count_detections(model) for name, model in models.items()}
    watches = {name: Stopwatch(model, clock) for name, model in models.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in models}
    device = dvis.device.type
    with torch.autocast(device, torch.float16 if device == "cuda" else torch.bfloat16, enabled=amp):
        for repeat in range(repeats + 1):
            for name, watch in watches.items():
                parts = watch(batch)
                if repeat:  # the first call does not count
                    times[name].append(parts)
    result = {"proposals": sum(map(len, proposals)) / len(batch), "rpn_proposals": sum(rpn_counts) / len(batch)}
    for name, rows in times.items():
        medians = map(statistics.median, zip(*rows, strict=True))
        result[name] = {
            "ms": {part: round(value, 3) for part, value in zip(PARTS[name], medians, strict=True)},
            "total_ms": round(statistics.median(map(sum, rows)), 3),
            "detections": counts[name]() / len(batch),
        }
    total, ms = result["DVIS"]["total_ms"], result["DVIS"]["ms"]
    return result | {
        "ratio": round(total / result["Mask R-CNN"]["total_ms"], 4),
        "grouping_share": round(ms["grouping"] / total, 4),
        "heads_and_masks_share": round((ms["heads"] + ms["masks"]) / total, 4),
    }


def _count_detections(model: nn.Module) -> Callable[[], int]:
    """The number of detections that the heads gave in the latest inference."""
    latest: list[int] = []

    def note(module, args, output):
        latest[:] = [len(result) for result in output[0]]

    model.roi_heads.register_forward_hook(note)
    return lambda: sum(latest)


def _format(rows: list[dict]) -> str:
    parts = list(dict.fromkeys(part for names in PARTS.values() for part in names))
    headers = [
        "ResNet, px, batch",
        "model",
        *(part.replace("_", " ") for part in parts),
        "total",
        "ratio",
        "detections",
    ]
    cells = []
    for row in rows:
        for name in PARTS:
            model = row[name]
            ms = [f"{model['ms'][part]:.1f}" if part in model["ms"] else "" for part in parts]
            ratio = f"{row['ratio']:.2f}" if name == "DVIS" else ""
            case = f"{row['depth']}, {row['size']}, {row['batch']}"
            cells.append([case, name, *ms, f"{model['total_ms']:.1f}", ratio, f"{model['detections']:.1f}"])
    return "milliseconds a batch; detections an image\n" + markdown_table(cells, headers)
