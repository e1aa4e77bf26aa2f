#!/usr/bin/env python
"""Does an image's result depend on its batch, its place or its handedness? Detections of one trained network in views
of the same images.

    python -m experiments.evaluate_invariance --config-file output/mine/config.yaml \\
        MODEL.WEIGHTS output/mine/model_final.pth

Every image of DATASETS.TEST[0] is seen alone; in batches of mixed sizes; mirrored; and on a canvas of the mean color,
--shift pixels of the network larger at both ends: in its middle, against its upper left corner. Reports mask AP on the
network's input, and the agreement: of the detections with a score of at least --score in one of two views, those that
have a partner of the same class at a mask IoU of --iou in the other. Prints a table, and as its last line one JSON
object.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.structures import Instances
from detectron2.utils.logger import setup_logger
from torch import Tensor
from tqdm import tqdm

from dvis_d2.data.annotations import encode_masks
from dvis_d2.engine import Trainer, setup_cfg
from dvis_d2.evaluation.coco_ap import CocoScorer, average_precision
from dvis_d2.modeling.masks import mask_iou
from dvis_d2.modeling.meta_arch import DVIS

from .program import config_parser, load_trained_model
from .tables import markdown_table

AGAINST = {"batch": "alone", "mirror": "alone", "corner": "alone", "moved": "corner"}
Found = tuple[Tensor, Tensor, Tensor]  # masks bool (K, H, W) in the image's frame, scores (K,), classes (K,)


def evaluate_invariance(
    cfg: CfgNode, model: DVIS, *, shift: int, score: float, batch_size: int, num_images: int, iou: float = 0.9
) -> list[dict]:
    """For each view {"view", "against", "AP", "detections", "agreement"}, AP and agreement in 0..100, on the first
    `num_images` of ``DATASETS.TEST[0]`` (0: all); no agreement for "alone"."""
    name = cfg.DATASETS.TEST[0]
    images = itertools.chain.from_iterable(Trainer.build_test_loader(cfg, name))  # the first use draws the shapes
    images, scorer = itertools.islice(images, num_images or None), CocoScorer(name)
    detections: dict[str, list[list[dict]]] = {view: [] for view in ("alone", *AGAINST)}
    found_in: dict[str, list[Found]] = {view: [] for view in detections}
    image_ids = []
    for batch in tqdm(iter(lambda: list(itertools.islice(images, batch_size)), [])):
        for view, found in views_of(model, batch, shift=shift).items():
            found_in[view] += found
            for x, (masks, scores, classes) in zip(batch, found, strict=True):
                codes = encode_masks(resize_masks(masks, (x["height"], x["width"])))
                each = zip(codes, scores.tolist(), classes.tolist(), strict=True)
                fields = [{"segmentation": code, "score": s, "category_id": c} for code, s, c in each]
                detections[view].append([{"image_id": x["image_id"]} | field for field in fields])
        image_ids += [x["image_id"] for x in batch]
    rows = []
    for view, of_images in detections.items():
        ap = average_precision(scorer.evaluate(of_images, image_ids))
        count = sum(int((scores >= score).sum()) for _, scores, _ in found_in[view])
        row = {"view": view, "against": AGAINST.get(view), "AP": ap, "detections": count}
        rows.append(row | {"agreement": agreement(found_in[view], found_in[AGAINST.get(view, view)], score, iou)})
    return rows


def views_of(model: DVIS, batch: list[dict], *, shift: int) -> dict[str, list[Found]]:
    """What the model finds in the images of a batch in every view, in the images' own frames."""
    larger = {"image": torch.cat([F.pad(batch[0]["image"], (0, 37, 0, 70))] * 2, dim=2)}  # of another size than all
    mean = model.pixel_mean.round().to(torch.uint8).cpu()

    def on_canvas(image: Tensor, at: int) -> Tensor:
        height, width = image.shape[1:]
        canvas = mean.repeat(1, height + 2 * shift, width + 2 * shift)
        canvas[:, at : at + height, at : at + width] = image
        return canvas

    def alone(change: Callable[[Tensor], Tensor]) -> list[Instances]:
        return [detect(model, [change(x["image"])])[0] for x in batch]

    own = [x["image"].shape[1:] for x in batch]
    views = {
        "alone": alone(lambda image: image),
        "batch": detect(model, [x["image"] for x in [larger, *batch]])[1:],
        "mirror": alone(lambda image: image.flip(2)),
        "corner": alone(lambda image: on_canvas(image, 0)),
        "moved": alone(lambda image: on_canvas(image, shift)),
    }
    result: dict[str, list[Found]] = {}
    for view, found in views.items():
        start = shift if view == "moved" else 0
        result[view] = []
        for instances, (height, width) in zip(found, own, strict=True):
            masks = instances.pred_masks[:, start : start + height, start : start + width].cpu()
            masks = masks.flip(2) if view == "mirror" else masks
            inside = masks.flatten(1).any(dim=1)  # what lies beyond the image is no detection in it
            fields = (masks, instances.scores.cpu(), instances.pred_classes.cpu())
            result[view].append(tuple(field[inside] for field in fields))  # type: ignore[arg-type]
    return result


def detect(model: DVIS, images: Sequence[Tensor]) -> list[Instances]:
    inputs = [{"image": image, "height": image.shape[1], "width": image.shape[2]} for image in images]
    return [output["instances"] for output in model.inference(inputs)]


def resize_masks(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """bool (K, H, W) at another size."""
    if not len(masks) or masks.shape[1:] == size:
        return masks.new_zeros(0, *size) if not len(masks) else masks
    return F.interpolate(masks[:, None].float(), size, mode="bilinear", antialias=True)[:, 0] >= 0.5


def agreement(first: Sequence[Found], second: Sequence[Found], score: float, iou: float = 0.9) -> float:
    """Of the detections with at least that score in one of two views of some images, those with a partner of that mask
    IoU in the other, of any score: in 0..100."""
    partners = total = 0
    for (masks_a, scores_a, classes_a), (masks_b, scores_b, classes_b) in zip(first, second, strict=True):
        same = (mask_iou(masks_a, masks_b) >= iou) & (classes_a[:, None] == classes_b)
        for matched, scores in ((same.any(1), scores_a), (same.any(0), scores_b)):
            partners += int(matched[scores >= score].sum())
            total += int((scores >= score).sum())
    return 100 * partners / max(total, 1)


def main(argv: Sequence[str] | None = None) -> None:
    parser = config_parser(__doc__)
    parser.add_argument("--shift", type=int, default=16, help="pixels of the network's input")
    parser.add_argument("--score", type=float, default=0.5, help="of the detections that look for a partner")
    parser.add_argument("--iou", type=float, default=0.9, help="of the masks of two partners")
    parser.add_argument("--batch-size", type=int, default=7, help="images beside the one of another size")
    parser.add_argument("--num-images", type=int, default=0, help="0 = all")
    args = parser.parse_args(argv)
    setup_logger(name="fvcore")
    cfg = setup_cfg(args, inference=True)
    options = {key: getattr(args, key) for key in ("shift", "score", "iou", "batch_size", "num_images")}
    rows = evaluate_invariance(cfg, load_trained_model(cfg), **options)
    cells = [[r["view"], r["against"] or "", f"{r['AP']:.1f}", r["detections"], f"{r['agreement']:.1f}"] for r in rows]
    print(markdown_table(cells, ["view", "against", "AP", "detections", "agreement"]))
    print(json.dumps({"dataset": cfg.DATASETS.TEST[0], "weights": cfg.MODEL.WEIGHTS, **options, "views": rows}))


if __name__ == "__main__":
    main()
