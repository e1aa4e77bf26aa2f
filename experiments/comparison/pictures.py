"""The same validation images through both models, side by side."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances
from torch import nn

from dvis_d2.data.image_io import read_image
from dvis_d2.inference.visualization import MIN_TILE_SIZE, draw_instances

from ..unseen import CLASS_NAME, seen_classes
from .training import ComparisonTrainer

GAP = 6
HEADER = 28


@torch.no_grad()
def draw_sheet(cfg: CfgNode, models: dict[str, nn.Module], *, num_images: int, score_threshold: float) -> np.ndarray:
    """uint8 RGB: a row for each of some evenly chosen images of `DATASETS.TEST[0]`: image, ground truth, and what each
    model found.

    Args:
        cfg: of one of the models; all take the same input.
        models: by the title of their column, for inference.
        score_threshold: detections below it are not drawn.
    """
    name = cfg.DATASETS.TEST[0]
    metadata, dicts = MetadataCatalog.get(name), DatasetCatalog.get(name)
    found_metadata = Metadata(thing_classes=[CLASS_NAME]) if seen_classes(cfg) else metadata
    loader = ComparisonTrainer.build_test_loader(cfg, name)
    rows = []
    for index in np.unique(np.linspace(0, len(dicts) - 1, num_images).round().astype(int)):
        inputs = loader.dataset[int(index)]
        image = read_image(inputs["file_name"], "RGB")
        scale = max(1.0, MIN_TILE_SIZE / min(image.shape[:2]))
        objects = [a for a in dicts[index]["annotations"] if not a.get("iscrowd", 0)]
        truth = annotations_to_instances(objects, image.shape[:2], mask_format="bitmask")
        tiles = [cv2.resize(image, None, fx=scale, fy=scale), draw_instances(image, truth, metadata, scale)]
        for model in models.values():
            found = model([inputs])[0]["instances"].to("cpu")
            tiles.append(draw_instances(image, found[found.scores >= score_threshold], found_metadata, scale))
        rows.append(tiles)
    return _grid(rows, ["image", "ground truth", *models])


def _grid(rows: list[list[np.ndarray]], titles: list[str]) -> np.ndarray:
    """Tiles of any size on white, titles above the columns."""
    height, width = (max(tile.shape[axis] for tiles in rows for tile in tiles) + GAP for axis in (0, 1))
    sheet = np.full((HEADER + height * len(rows), width * len(titles), 3), 255, np.uint8)
    for column, title in enumerate(titles):
        origin = (column * width + 4, HEADER - 8)
        cv2.putText(sheet, title, origin, cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            y, x = HEADER + row * height, column * width
            sheet[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
    return sheet
