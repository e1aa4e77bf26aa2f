"""What a trained network's label maps and proposals hold, by the number of objects (Table 6 and Fig. 3 of the paper).

A proposal's mask is taken at the full resolution of the stored image, from its soft membership, as the final masks
are: so recall here is what perfect verification heads could reach without refining masks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import transforms as T

from dvis_d2.data.annotations import encode_masks
from dvis_d2.data.ground_truth import build_ground_truth
from dvis_d2.modeling.mask_pasting import upsample_soft_masks
from dvis_d2.modeling.meta_arch import downsample_instance_ids

from .class_agnostic import METRICS, best_overlaps, class_agnostic_ap, coco_of_masks
from .label_map_statistics import Separation, count_modes, separation
from .oracle import pad_to_stride
from .tables import markdown_table, without_nan

IOU_THRESHOLDS = (0.5, 0.75)


@dataclass(frozen=True)
class ImageStatistics:
    """One image.

    Attributes:
        size: height and width in pixels.
        objects, ignored: RLE of the n objects, and of ignored pixels (crowds) where there are any.
        proposals, scores: RLE and rank scores of the proposals.
        overlaps: float (n,), for each object the IoU of the proposal that fits best.
        modes: the number of mean-shift modes at each bandwidth, see `count_modes`.
        separation: see there.
    """

    size: tuple[int, int]
    objects: list[dict]
    ignored: list[dict]
    proposals: list[dict]
    scores: list[float]
    overlaps: np.ndarray
    modes: list[int]
    separation: Separation


def measure_image(predictor, image: np.ndarray, annotations: list[dict], *, file_name: str) -> ImageStatistics:
    """Run a network on one image and compare its label map and proposals with the ground truth.

    Args:
        predictor: a `dvis_d2.inference.DVISPredictor`.
        image: uint8 (H, W, 3), BGR.
        annotations: as `build_ground_truth` takes them; crowds are ignored.
        file_name: for error messages.
    """
    size = image.shape[:2]
    output = predictor(image)
    truth, ids = build_ground_truth(annotations, T.NoOpTransform(), size, num_classes=0, file_name=file_name)
    objects = encode_masks(truth.gt_masks.tensor)
    ignored = encode_masks((ids == -1)[None]) if (ids == -1).any() else []
    generator = predictor.model.proposal_generator
    proposals, label_map = output["proposals"], output["label_map"].float().cpu()
    soft = proposals.soft_masks.float()
    sizes = {"image_size": proposals.image_size, "output_size": size}
    masks = upsample_soft_masks(soft, stride=generator.stride, **sizes).to_rle()
    resize = predictor.aug.get_transform(image)
    _, ids = build_ground_truth(annotations, resize, size, num_classes=0, file_name=file_name)
    ids = downsample_instance_ids(pad_to_stride(ids, generator.stride)[None], generator.stride)[0]
    grouping = generator.grouping
    return ImageStatistics(
        size=size,
        objects=objects,
        ignored=ignored,
        proposals=masks,
        scores=proposals.objectness_logits.tolist(),
        overlaps=best_overlaps(masks, objects)[1],
        modes=count_modes(
            label_map,
            bandwidths=grouping["bandwidths"],
            foreground_threshold=grouping["foreground_threshold"],
            min_area=grouping["min_area"],
        ),
        separation=separation(label_map, ids),
    )


def proposal_ap(images: list[ImageStatistics]) -> dict[str, float]:
    """`class_agnostic_ap` of the proposals by their rank score, over all images."""
    results = [
        {"image_id": i, "segmentation": mask, "score": score}
        for i, image in enumerate(images)
        for mask, score in zip(image.proposals, image.scores, strict=True)
    ]
    coco = coco_of_masks([(image.size, image.objects, image.ignored) for image in images])
    return class_agnostic_ap(coco, results, range(len(images)))


def summarize(images: Iterable[ImageStatistics]) -> dict:
    """Means over images, by the number of objects and over all.

    Returns:
        "by_objects": for each number of objects, ascending, a dict with "objects", "images", "proposals" and
        "modes" (means over images; "modes" a list, one a bandwidth), "recall50", "recall75" (the share of objects
        with a proposal of at least that IoU; NaN without objects), "near", "far" (see `Separation.shares`);
        "all": the same over all images, "objects" their mean number, with `proposal_ap`;
        "proposal_histogram": {proposals: images}.

    Raises:
        ValueError: there is no image.
    """
    images = list(images)
    if not images:
        raise ValueError("no image to summarize")
    groups: dict[int, list[ImageStatistics]] = {}
    for image in images:
        groups.setdefault(len(image.overlaps), []).append(image)
    values, counts = np.unique([len(image.proposals) for image in images], return_counts=True)
    return {
        "by_objects": [_summarize_group(groups[count]) for count in sorted(groups)],
        "all": _summarize_group(images) | proposal_ap(images),
        "proposal_histogram": {int(v): int(c) for v, c in zip(values, counts, strict=True)},
    }


def _summarize_group(images: list[ImageStatistics]) -> dict:
    overlaps = np.concatenate([image.overlaps for image in images])
    recall = {
        f"recall{round(100 * t)}": float((overlaps >= t).mean()) if len(overlaps) else float("nan")
        for t in IOU_THRESHOLDS
    }
    return {
        "objects": len(overlaps) / len(images),
        "images": len(images),
        "proposals": float(np.mean([len(image.proposals) for image in images])),
        "modes": np.mean([image.modes for image in images], axis=0).tolist(),
        **recall,
        **sum((image.separation for image in images), Separation()).shares(),
    }


def format_table(summary: dict, bandwidths: list[float]) -> str:
    """`summarize`'s result as a Markdown table, the last row over all images."""
    modes = [f"modes at {b:g}" for b in bandwidths]
    headers = ["objects", "images", "proposals", *modes, "recall .5", "recall .75", "near apart", "far apart"]
    names = [f"{row['objects']:.0f}" for row in summary["by_objects"]] + [f"all ({summary['all']['objects']:.1f})"]
    rows = []
    for name, row in zip(names, [*summary["by_objects"], summary["all"]], strict=True):
        counts = [f"{x:.1f}" for x in (row["proposals"], *row["modes"])]
        rows.append([name, row["images"], *counts, *(f"{row[k]:.3f}" for k in ("recall50", "recall75", "near", "far"))])
    ap = ", ".join(f"{name} {summary['all'][name]:.1f}" for name in METRICS)
    histogram = ", ".join(f"{k}: {v}" for k, v in summary["proposal_histogram"].items())
    return (
        f"{markdown_table(rows, headers)}\n\nproposals by their rank score, without classes: {ap}\n"
        f"images by number of proposals: {histogram}"
    )


def print_summary(summary: dict, cfg: CfgNode, about: dict, plot: str) -> None:
    """Print the table of `summarize`'s result, and as the last line the JSON object; write the plot.

    Args:
        about: what the JSON object says beside the summary.
        plot: path of a picture.
    """
    bandwidths = list(cfg.MODEL.MEAN_SHIFT.BANDWIDTHS)
    print(format_table(summary, bandwidths))
    os.makedirs(os.path.dirname(plot) or ".", exist_ok=True)
    plot_by_objects(summary, bandwidths, plot)
    print(f"plot: {plot}")
    print(json.dumps(without_nan({**about, "bandwidths": bandwidths, **summary})))


def plot_by_objects(summary: dict, bandwidths: list[float], path: str) -> None:
    """Write a picture of `summarize`'s result: the histogram of proposals, proposals and modes by the number of
    objects (the paper's Fig. 3), and recall by the number of objects."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    histogram, counts, recall = figure.subplots(1, 3)
    found = summary["proposal_histogram"]
    histogram.bar(list(found), list(found.values()))
    histogram.set(xlabel="proposals an image", ylabel="images")
    rows = summary["by_objects"]
    objects = [row["objects"] for row in rows]
    counts.plot(objects, objects, color="0.7", linestyle="--", label="objects")
    counts.plot(objects, [row["proposals"] for row in rows], marker=".", label="proposals")
    for i, bandwidth in enumerate(bandwidths):
        counts.plot(objects, [row["modes"][i] for row in rows], marker=".", label=f"modes at {bandwidth:g}")
    counts.set(xlabel="objects in the image", ylabel="mean number")
    counts.legend()
    for key, label in (("recall50", "IoU >= .5"), ("recall75", "IoU >= .75")):
        recall.plot(objects, [row[key] for row in rows], marker=".", label=label)
    recall.set(xlabel="objects in the image", ylabel="recall of the proposals", ylim=(0, 1.02))
    recall.legend()
    figure.savefig(path, dpi=100)
