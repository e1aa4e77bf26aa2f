"""Pictures of files and data sets: what the network saw, its label map, the proposals, the result. All uint8 RGB."""

import cv2
import matplotlib
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.structures import Instances

from ..data import DVISDatasetMapper
from ..data.cropped_masks import CroppedMasks
from .overlay import distinct_colors, draw_overlay
from .predictor import DVISPredictor

MIN_TILE_SIZE = 300  # pixels of a tile's shorter side: labels on a 128-pixel image are unreadable
TITLE_HEIGHT = 24
GAP = 6


def draw_sheet(cfg: CfgNode, num_images: int) -> np.ndarray:
    """uint8 RGB: the panels of evenly chosen images of ``DATASETS.TEST[0]``, with ground truth, two to a row."""
    predictor, metadata = DVISPredictor(cfg), MetadataCatalog.get(cfg.DATASETS.TEST[0])
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    as_stored = DVISDatasetMapper(is_train=True, augmentations=[], image_format="BGR", normalize=cfg.INPUT.NORMALIZE)
    panels = []
    for i in np.unique(np.linspace(0, len(records) - 1, num_images).round().astype(int)):
        record = as_stored(records[i])
        image = record["image"].permute(1, 2, 0).numpy()
        truth = record["instances"] if {"annotations", "instance_label_file"} & records[i].keys() else None
        panels.append(draw_panel(image[:, :, ::-1], predictor(image), predictor.metadata, truth, metadata))
    height, width = (max(p.shape[i] for p in panels) for i in (0, 1))
    sheet = np.full((-(-len(panels) // 2) * height, 2 * width, 3), 255, np.uint8)
    for i, panel in enumerate(panels):
        y, x = i // 2 * height, i % 2 * width
        sheet[y : y + panel.shape[0], x : x + panel.shape[1]] = panel
    return sheet


def colorize_label_map(label_map: torch.Tensor) -> np.ndarray:
    """(h, w, 3) of a label map, float (h, w), after the ReLU: background black, the labels up to the largest in the
    colors of a rainbow."""
    values = torch.nan_to_num(label_map.detach().float().cpu()).numpy()
    top = max(float(values.max(initial=0)), 1e-6)
    # background fades into black instead of being one more color of the rainbow
    brightness = np.clip(values, 0, 1)[..., None]
    return (matplotlib.colormaps["gist_rainbow"](values / top)[..., :3] * brightness * 255).astype(np.uint8)


def colorize_levels(levels: torch.Tensor) -> np.ndarray:
    """(h, w, 3) of levels, int64 (h, w): every one in a color of its own, in their order; -1, background, is black."""
    numbers = levels.cpu().numpy()
    colors = np.concatenate([distinct_colors(int(numbers.max(initial=-1)) + 1), np.zeros((1, 3))])
    return colors[numbers].astype(np.uint8)


def draw_proposals(image: np.ndarray, proposals: Instances) -> np.ndarray:
    """The proposals' masks, each in a color of its own, the best on top, over the darkened image."""
    masks = CroppedMasks.from_masks(proposals.proposal_masks)
    return draw_overlay((image * 0.4).astype(np.uint8), _resized(masks, image.shape[:2]))


def draw_instances(image: np.ndarray, instances: Instances, metadata: Metadata, scale: float = 1.0) -> np.ndarray:
    """:func:`draw_overlay` of detections (``pred_*``) or ground truth (``gt_*``), on the image enlarged ``scale``
    times."""
    detected = instances.has("pred_masks")
    masks = CroppedMasks.from_masks(instances.pred_masks if detected else instances.gt_masks.tensor)
    classes, names = instances.pred_classes if detected else instances.gt_classes, metadata.get("thing_classes")
    captions = [names[k] if names else str(k) for k in classes.tolist()]
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
) -> np.ndarray:
    """One image's row: image, ground truth where given, label map, levels, proposals, result, with their titles.

    `output` is that of :meth:`DVIS.inference` with ``intermediate=True``, its instances and the ground truth's
    ``gt_masks`` at the image's size. `metadata` names the classes of both, if there is no other for the ground truth.
    """
    scale = max(1.0, MIN_TILE_SIZE / min(image.shape[:2]))
    result = draw_instances(image, output["instances"], metadata, scale)
    size = result.shape[1], result.shape[0]
    tiles = {"image": cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)}
    if ground_truth is not None:
        tiles["ground truth"] = draw_instances(image, ground_truth, ground_truth_metadata or metadata, scale)
    for title, colorize in (("label map", colorize_label_map), ("levels", colorize_levels)):
        cells = colorize(output[title.replace(" ", "_")])
        tiles[title] = cv2.resize(cells, size, interpolation=cv2.INTER_NEAREST)
    tiles |= {"proposals": draw_proposals(tiles["image"], output["proposals"]), "result": result}
    return np.concatenate([_titled(tile, title) for title, tile in tiles.items()], axis=1)


def _titled(tile: np.ndarray, title: str) -> np.ndarray:
    """The tile on white, with its title above and a gap to the next."""
    framed = cv2.copyMakeBorder(tile, TITLE_HEIGHT, 0, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))
    cv2.putText(framed, title, (4, TITLE_HEIGHT - 8), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return framed
