"""Files in, pictures out: the panels of images, and a sheet of evenly chosen images of a data set."""

import glob
import logging
import os
from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from tqdm import tqdm

from ..data import DVISDatasetMapper
from ..data.image_io import read_image
from .predictor import DVISPredictor
from .visualization import draw_panel


def find_images(patterns: Sequence[str]) -> list[str]:
    """The files that paths or globs name; FileNotFoundError if one names none."""
    files: list[str] = []
    for pattern in map(os.path.expanduser, patterns):
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise FileNotFoundError(f"there is no image {pattern}, and no file matches it")
        files += found
    return files


def draw_files(cfg: CfgNode, files: Sequence[str], output: str) -> None:
    """Draw the panel of every image, by the network of ``MODEL.WEIGHTS``. `output` is a folder, or, for one image, a
    file; OSError if an image cannot be read or a picture cannot be written."""
    to_file = len(files) == 1 and os.path.splitext(output)[1] != "" and not os.path.isdir(output)
    os.makedirs(os.path.dirname(output) or "." if to_file else output, exist_ok=True)
    predictor = DVISPredictor(cfg)
    for path in tqdm(files, disable=len(files) == 1):
        image = read_image(path, "BGR")
        found = predictor(image)
        picture = output if to_file else os.path.join(output, os.path.basename(path))
        write_picture(picture, draw_panel(image[:, :, ::-1], found, predictor.metadata))
        counts = len(found["instances"]), len(found["proposals"])
        logging.getLogger(__name__).info("%s: %d instances from %d proposals -> %s", path, *counts, picture)


def draw_sheet(cfg: CfgNode, num_images: int) -> np.ndarray:
    """uint8 RGB: the panels of evenly chosen images of ``DATASETS.TEST[0]``, with ground truth, two to a row."""
    predictor, metadata = DVISPredictor(cfg), MetadataCatalog.get(cfg.DATASETS.TEST[0])
    records = DatasetCatalog.get(cfg.DATASETS.TEST[0])
    as_stored = DVISDatasetMapper(is_train=True, augmentations=[], image_format="BGR")
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


def write_picture(path: str, image: np.ndarray) -> None:
    """Write an RGB image in the format that the path ends in; OSError if that fails."""
    try:
        written = cv2.imwrite(path, np.ascontiguousarray(image[:, :, ::-1]))
    except cv2.error:  # no such format
        written = False
    if not written:
        raise OSError(f"{path} cannot be written: its folder is not writable, or it ends in no image format")
