"""Pictures of files and data sets: what the network saw, its label map, the proposals, the result. All uint8 RGB."""

from collections import Counter
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Instances
from PIL import Image, ImageDraw, ImageFont

from ..data import DVISDatasetMapper
from ..data.cropped_masks import CroppedMasks
from .colors import label_colors, palette_colors
from .overlay import draw_overlay, write_text
from .predictor import DVISPredictor

MIN_TILE_SIZE = 300  # pixels of a tile's shorter side: labels on a 128-pixel image are unreadable
MOST_ACROSS = 4  # proposals in a row
OUTLINE = (240, 228, 66)  # of a proposal
TITLE_HEIGHT, TITLE_SIZE = 24, 13
GAP = 6


def draw_sheet(cfg: CfgNode, num_images: int) -> np.ndarray:
    """uint8 RGB: the panels of evenly chosen images of ``DATASETS.TEST[0]``, with ground truth, two to a row. Colors of
    labels mean the same in all."""
    predictor, metadata = DVISPredictor(cfg), MetadataCatalog.get(cfg.DATASETS.TEST[0])
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    as_stored = DVISDatasetMapper(is_train=True, augmentations=[], image_format="BGR", normalize=cfg.INPUT.NORMALIZE)
    seen = []
    for i in np.unique(np.linspace(0, len(records) - 1, num_images).round().astype(int)):
        record = as_stored(records[i])
        image = record["image"].permute(1, 2, 0).numpy()
        truth = record["instances"] if {"annotations", "instance_label_file"} & records[i].keys() else None
        seen.append((image[:, :, ::-1], predictor(image), truth))
    top = max((top_label(output["label_map"]) for _, output, _ in seen), default=1)
    panels = [draw_panel(image, output, predictor.metadata, truth, metadata, top=top) for image, output, truth in seen]
    height, width = (max(p.shape[i] for p in panels) for i in (0, 1))
    sheet = np.full((-(-len(panels) // 2) * height, 2 * width, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        y, x = i // 2 * height, i % 2 * width
        sheet[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def colorize_label_map(label_map: torch.Tensor, top: float | None = None) -> np.ndarray:
    """(h, w, 3) of a label map, float (h, w), after the ReLU: background black, labels in the colors of
    :func:`label_colors` up to `top`, by default its own largest."""
    values = torch.nan_to_num(label_map.detach().float().cpu()).numpy()
    return label_colors(values, top_label(label_map) if top is None else top).astype(np.uint8)


def top_label(label_map: torch.Tensor) -> float:
    """The largest finite label, or 1 if that is more: where the scale of colors ends."""
    return max(float(torch.nan_to_num(label_map.detach().float(), 0, 0, 0).max().item()) if label_map.numel() else 1, 1)


def colorize_levels(levels: torch.Tensor) -> np.ndarray:
    """(h, w, 3) of levels, int64 (h, w): every one in a color of its own, one after the other in different ones; -1,
    background, is black."""
    numbers = levels.cpu().numpy()
    colors = np.concatenate([palette_colors(int(numbers.max(initial=-1)) + 1), np.zeros((1, 3))])
    return colors[numbers].astype(np.uint8)


def draw_proposals(image: np.ndarray, proposals: Instances) -> np.ndarray:
    """The best proposals in the order of their rank scores, as many as there is room for, on a picture of the image's
    size: what is around each, dark but for its mask, with the score."""
    height, width = image.shape[:2]
    canvas = np.full_like(image, 255)
    across = max(1, min(round(len(proposals) ** 0.5 + 0.49), MOST_ACROSS))
    cell_height, cell_width = (height + 2) // across, (width + 2) // across
    best = proposals[: across**2]
    masks = _resized(CroppedMasks.from_masks(best.proposal_masks), (height, width))
    for k, score in enumerate(best.objectness_logits.tolist()):
        tile = np.s_[k // across * cell_height :, k % across * cell_width :]
        room = canvas[tile][: cell_height - 2, : cell_width - 2]
        room[...] = _close_up(image, masks, k, room.shape[:2])
        picture = Image.fromarray(room)
        write_text(ImageDraw.Draw(picture), (0, 0), f"{score:.2f}", (255, 255, 255), max(min(room.shape[:2]) / 8, 10))
        room[...] = np.asarray(picture)
    return canvas


def _close_up(image: np.ndarray, masks: CroppedMasks, k: int, size: tuple[int, int]) -> np.ndarray:
    """The part of the image around a mask that has the proportions of `size`, enlarged to it, dark but for the mask."""
    x0, y0, x1, y1 = masks.boxes[k]
    side = 1.4 * max((y1 - y0) / size[0], (x1 - x0) / size[1], 12 / min(size))  # image pixels a pixel of `size`
    (top, h), (left, w) = (
        (int(np.clip((a + b - s * side) / 2, 0, max(0, length - s * side))), max(1, int(min(s * side, length))))
        for a, b, s, length in ((y0, y1, size[0], image.shape[0]), (x0, x1, size[1], image.shape[1]))
    )
    part, mask = image[top : top + h, left : left + w], masks[k][top : top + h, left : left + w]
    part = np.where(mask[..., None], part, part * 0.3).astype(np.uint8)
    part = cv2.resize(part, size[::-1], interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(mask.astype(np.uint8), size[::-1], interpolation=cv2.INTER_NEAREST)
    contours, _ = cv2.findContours(mask, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(part, contours, -1, OUTLINE, 1)


def draw_instances(image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0) -> np.ndarray:
    """:func:`draw_overlay` of detections (``pred_*``) or ground truth (``gt_*``), on the image enlarged ``scale``
    times."""
    detected = instances.has("pred_masks")
    masks = CroppedMasks.from_masks(instances.pred_masks if detected else instances.gt_masks.tensor)
    captions = _class_names(instances, metadata)
    if detected:
        captions = [f"{name} {score:.2f}" for name, score in zip(captions, instances.scores.tolist(), strict=True)]
    canvas = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    return draw_overlay(canvas, _resized(masks, canvas.shape[:2]), captions)


def _resized(masks: CroppedMasks, size: tuple[int, int]) -> CroppedMasks:
    """The masks of an image that is resized to `size`: every pixel has what is at its center."""
    ratio = np.divide(size, masks.image_size)[::-1]  # x, y
    boxes, crops = np.ceil(masks.boxes * np.tile(ratio, 2) - 0.5).astype(int), []
    for crop, old, new in zip(masks.crops, masks.boxes, boxes, strict=True):
        at = [(np.arange(new[k], new[k + 2]) + 0.5) / ratio[k] - old[k] for k in (0, 1)]
        x, y = (at[k].astype(int).clip(0, crop.shape[1 - k] - 1) for k in (0, 1))
        crops.append(crop[np.ix_(y, x)])
    return CroppedMasks(size, boxes, crops)


def draw_panel(
    image: np.ndarray,
    output: dict,
    metadata: Metadata,
    ground_truth: Instances | None = None,
    ground_truth_metadata: Metadata | None = None,
    *,
    top: float | None = None,
    draw_result: Callable[[np.ndarray, Instances, Metadata, float], np.ndarray] = draw_instances,
) -> np.ndarray:
    """One image's row: image, ground truth where given, label map, levels, proposals, result, with titles that count.

    `output` is that of :meth:`DVIS.inference` with ``intermediate=True``, its instances and the ground truth's
    ``gt_masks`` at the image's size. `metadata` names the classes of both, if there is no other for the ground truth.
    `top`: the label at which the scale of colors ends, by default the largest. `draw_result`: another look for the
    result, with the arguments of :func:`draw_instances`.
    """
    scale = max(1.0, MIN_TILE_SIZE / min(image.shape[:2]))
    found, label_map, proposals = output["instances"], output["label_map"], output["proposals"]
    result = draw_result(image, found, metadata, scale)
    size = result.shape[1], result.shape[0]
    tiles = {"image": cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)}
    if ground_truth is not None:
        named = ground_truth_metadata or metadata
        title = f"ground truth: {_counts(_class_names(ground_truth, named))}"
        tiles[title] = draw_instances(image, ground_truth, named, scale)
    top = top_label(label_map) if top is None else top
    levels = colorize_levels(output["levels"])
    tiles["label map"] = cv2.resize(colorize_label_map(label_map, top), size, interpolation=cv2.INTER_NEAREST)
    number = int(output["levels"].max()) + 1 if output["levels"].numel() else 0
    tiles[f"levels: {number}"] = cv2.resize(levels, size, interpolation=cv2.INTER_NEAREST)
    shown = min(len(proposals), MOST_ACROSS**2)
    count = f"best {shown} of {len(proposals)}" if shown < len(proposals) else f"{shown}"
    tiles[f"proposals: {count}"] = draw_proposals(tiles["image"], proposals)
    tiles[f"result: {_counts(_class_names(found, metadata))}"] = result
    titled = [_titled(tile, title) for title, tile in tiles.items()]
    _add_scale(titled[list(tiles).index("label map")], top)
    return np.concatenate(titled, axis=1)


def _class_names(instances: Instances, metadata: Metadata) -> list[str]:
    classes = instances.pred_classes if instances.has("pred_classes") else instances.gt_classes
    names = metadata.get("thing_classes")
    return [names[k] if names else f"class {k}" for k in classes.tolist()]


def _counts(names: Sequence[str]) -> str:
    """How often each occurs, the most frequent first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common()) or "nothing"


def _titled(tile: np.ndarray, title: str) -> np.ndarray:
    """The tile on white, with its title above, as much as there is room for, and a gap to the next."""
    framed = Image.fromarray(cv2.copyMakeBorder(tile, TITLE_HEIGHT, 0, 0, GAP, cv2.BORDER_CONSTANT, value=[255] * 3))
    pen, font = ImageDraw.Draw(framed), ImageFont.load_default(TITLE_SIZE)
    while pen.textlength(title, font) > tile.shape[1] - 8 and len(title) > 2:
        title = f"{title[:-2].rstrip(' ,')}\N{HORIZONTAL ELLIPSIS}"
    pen.text((4, TITLE_HEIGHT / 2), title, (0, 0, 0), font, anchor="lm")
    return np.asarray(framed).copy()


def _add_scale(framed: np.ndarray, top: float) -> None:
    """The label map's bar of colors into its title, from 0 to `top`."""
    end, ends = framed.shape[1] - GAP, f"{top:.1f}"
    picture = Image.fromarray(framed[:TITLE_HEIGHT])
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(TITLE_SIZE)
    x1 = end - int(pen.textlength(ends, font)) - 8
    x0 = 4 + int(pen.textlength("label map  0 ", font))
    pen.text((x0, TITLE_HEIGHT / 2), "0 ", (0, 0, 0), font, anchor="rm")
    pen.text((x1 + 5, TITLE_HEIGHT / 2), ends, (0, 0, 0), font, anchor="lm")
    framed[:TITLE_HEIGHT] = np.asarray(picture)
    if x1 > x0:
        framed[5 : TITLE_HEIGHT - 5, x0:x1] = label_colors(np.linspace(0, top, x1 - x0), top).astype(np.uint8)
