#!/usr/bin/env python
"""What grouping and resolution alone allow: the ground truth's label map through the whole way to masks.

    python -m experiments.evaluate_ceiling --dataset shapes_val --strides 2 4 8
    python -m experiments.evaluate_ceiling --json dev.json --images images/ --enlarge 2

For every stride it compares, in COCO's class-agnostic AP, masks from
- "grouping": the ground truth's instances on the grid, colored so that neighbors differ (or each with a label of its
  own: --reach 100000), grouped into proposals, upsampled;
- "grid": the same instances' cells, upsampled the same way. The difference is what grouping costs;
- "coverage": the share of each cell that the object covers, upsampled: what a soft mask on the grid could reach.
"by score" ranks masks by grouping's score, "by IoU" by their true best IoU, as perfect verification heads would. Prints
a table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data import transforms as T
from pycocotools.coco import COCO
from torch import Tensor

from dvis_d2.data import register_coco_json
from dvis_d2.data.ground_truth import build_ground_truth
from dvis_d2.modeling.grouping import group_label_map
from dvis_d2.modeling.mask_pasting import upsample_soft_masks
from dvis_d2.modeling.meta_arch import downsample_instance_ids, instance_masks

from .class_agnostic import METRICS, best_overlaps, class_agnostic_ap, read_coco
from .oracle import area_coverage, certain_score, oracle_label_map, pad_to_stride
from .tables import markdown_table

SOURCES = ("grouping", "grid", "coverage")


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--dataset", help="a registered data set")
    data.add_argument("--json", metavar="FILE", help="annotations in COCO's format")
    parser.add_argument("--images", default="", metavar="DIR", help="images of --json; they are not read")
    parser.add_argument("--num-images", type=int, help="only the first so many")
    parser.add_argument("--strides", type=int, nargs="+", default=[2, 4, 8], help="of the map, in pixels")
    parser.add_argument("--enlarge", type=int, default=1, help="times that the network's input is the stored image")
    parser.add_argument("--reach", type=int, default=3, help="cells within which instances need different labels")
    group = parser.add_argument_group("grouping, see dvis_d2.modeling.grouping.group_label_map")
    group.add_argument("--candidates", nargs="+", default=["levels", "regions"])
    group.add_argument("--bandwidths", type=float, nargs="+", default=[0.9, 0.4])
    group.add_argument("--min-area", type=int, default=2)
    group.add_argument("--min-part-ratio", type=float, default=0.05)
    group.add_argument("--nms-threshold", type=float, default=0.8)
    group.add_argument("--max-proposals", type=int, default=100)
    return parser


class Results:
    """Masks of one source at one stride, of all images."""

    def __init__(self):
        self.masks: list[dict] = []
        self.true_ious: list[float] = []
        self.overlaps: list[np.ndarray] = []

    def add(self, image_id: int, masks: list[dict], scores: Tensor, objects: list[dict]) -> None:
        of_masks, of_objects = best_overlaps(masks, objects)
        for mask, score in zip(masks, scores.tolist(), strict=True):
            self.masks.append({"image_id": image_id, "segmentation": mask, "score": score})
        self.true_ious += of_masks.tolist()
        self.overlaps.append(of_objects)

    def figures(self, coco: COCO, image_ids: list[int]) -> dict:
        by_iou = [{**m, "score": iou} for m, iou in zip(self.masks, self.true_ious, strict=True)]
        overlaps = np.concatenate(self.overlaps)
        return {
            "by_score": class_agnostic_ap(coco, self.masks, image_ids),
            "by_iou": class_agnostic_ap(coco, by_iou, image_ids),
            "recall50": float((overlaps >= 0.5).mean()),
            "recall75": float((overlaps >= 0.75).mean()),
            "masks_per_image": len(self.masks) / len(image_ids),
        }


@torch.no_grad()
def evaluate(dicts: list[dict], coco: COCO, strides: list[int], enlarge: int, reach: int, grouping: dict) -> dict:
    """{stride: {source: figures}} and the labels that the coloring needed."""
    results = {stride: {source: Results() for source in SOURCES} for stride in strides}
    labels = {stride: [] for stride in strides}
    for record in dicts:
        size = record["height"], record["width"]
        input_size = size[0] * enlarge, size[1] * enlarge
        resize = T.ResizeTransform(*size, *input_size)
        truth, ids = build_ground_truth(
            record["annotations"], resize, size, num_classes=0, file_name=record["file_name"]
        )
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=[record["image_id"]], iscrowd=False))
        objects = [coco.annToRLE(a) for a in annotations]
        for stride in strides:
            padded = pad_to_stride(ids, stride)
            cells = downsample_instance_ids(padded[None], stride)[0]
            label_map = oracle_label_map(cells, reach=reach)
            labels[stride].append(len(label_map[cells > 0].unique()))
            proposals = group_label_map(label_map[None], **grouping)[0]
            grid = instance_masks(cells, len(truth))
            coverage = area_coverage(padded, len(truth), stride)
            for source, soft, scores in (
                ("grouping", proposals.soft, proposals.scores),
                ("grid", grid.float(), certain_score(grid)),
                ("coverage", coverage, certain_score(grid)),
            ):
                masks = upsample_soft_masks(soft, stride=stride, image_size=input_size, output_size=size).to_rle()
                results[stride][source].add(record["image_id"], masks, scores, objects)
    image_ids = [record["image_id"] for record in dicts]
    return {
        stride: {
            "labels": float(np.mean(labels[stride])),
            **{source: results[stride][source].figures(coco, image_ids) for source in SOURCES},
        }
        for stride in strides
    }


def format_table(figures: dict) -> str:
    metrics = [*(f"by score: {name}" for name in METRICS), *(f"by IoU: {name}" for name in METRICS)]
    headers = ["stride", "labels", "masks", *metrics, "recall .5", "recall .75", "an image"]
    rows = []
    for stride, row in figures.items():
        for source in SOURCES:
            f = row[source]
            ap = [f"{value:.1f}" for value in (*f["by_score"].values(), *f["by_iou"].values())]
            recall = [f"{f[key]:.3f}" for key in ("recall50", "recall75")]
            rows.append([stride, f"{row['labels']:.1f}", source, *ap, *recall, f"{f['masks_per_image']:.1f}"])
    return markdown_table(rows, headers)


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    name = args.dataset or "ceiling"
    if args.json:
        register_coco_json(name, args.json, args.images)
    dicts = DatasetCatalog.get(name)[: args.num_images]
    coco = read_coco(MetadataCatalog.get(name).json_file)
    grouping = {
        "candidates": args.candidates,
        "bandwidths": args.bandwidths,
        "min_area": args.min_area,
        "min_part_ratio": args.min_part_ratio,
        "nms_threshold": args.nms_threshold,
        "max_proposals": args.max_proposals,
    }
    figures = evaluate(dicts, coco, args.strides, args.enlarge, args.reach, grouping)
    print(format_table(figures))
    print(json.dumps({"options": vars(args), "num_images": len(dicts), "figures": figures}))


if __name__ == "__main__":
    main()
