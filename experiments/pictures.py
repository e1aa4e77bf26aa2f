"""Draw the pictures of the documents: the method in one row, panels with ground truth, the drawn data sets, a film.

    python -m experiments.pictures --output docs/images

By the models that come with the package; the nuclei are those of data/nuclei.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.structures import BitMasks, Instances
from PIL import Image, ImageDraw, ImageFont
from pycocotools.coco import COCO

import dvis_d2
from dvis_d2.data import PRESETS, draw_image
from dvis_d2.data.cropped_masks import CroppedMasks
from dvis_d2.inference.colors import LastingColors
from dvis_d2.inference.overlay import draw_overlay
from dvis_d2.inference.predictor import DVISPredictor
from dvis_d2.inference.visualization import (
    colorize_label_map,
    colorize_levels,
    draw_instances,
    draw_panel,
    draw_proposals,
    top_label,
)

ROOT = Path(__file__).resolve().parents[1]
TILE, GAP, CAPTION = 240, 8, 46  # pixels
STEPS = {  # of the method, and what a stranger should see in each
    "image": "",
    "label map": "a number for every pixel",
    "levels": "like numbers together",
    "proposals": "candidates, best first",
    "result": "masks, classes, scores",
}
OPTIONS = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.7"]
EXAMPLE, MORE = 54, 46  # seeds of drawn images
CROWDED, SPARSE = 568, 234  # ids of nuclei


def draw_shapes(seed: int) -> tuple[np.ndarray, Instances]:
    """An image, uint8 (H, W, 3) in RGB, and its objects."""
    options = PRESETS["shapes_easy"] | {"num_objects": (6, 6), "copies": 0.0}
    image, masks, classes, _ = draw_image(np.random.default_rng(seed), **options)
    return image, truth_of(masks, classes)


def read_nuclei(image_id: int) -> tuple[np.ndarray, Instances]:
    coco = COCO(str(ROOT / "data/nuclei/dev.json"))
    image = cv2.imread(str(ROOT / "data/nuclei/images" / coco.imgs[image_id]["file_name"]))[:, :, ::-1]
    masks = [coco.annToMask(annotation) > 0 for annotation in coco.imgToAnns[image_id]]
    return image, truth_of(masks, [0] * len(masks))


def truth_of(masks: Sequence[np.ndarray], classes: Sequence[int]) -> Instances:
    fields = {"gt_masks": BitMasks(torch.from_numpy(np.stack(masks))), "gt_classes": torch.tensor(classes)}
    return Instances(masks[0].shape, **fields)


def method_row(image: np.ndarray, predictor: DVISPredictor) -> list[np.ndarray]:
    """A tile for each of `STEPS`. On the label map stands the number of every object that is found."""
    output, size = predictor(image[:, :, ::-1]), (TILE, TILE)
    labels, found = output["label_map"].numpy(), output["instances"]
    numbers = Image.fromarray(
        cv2.resize(colorize_label_map(output["label_map"]), size, interpolation=cv2.INTER_NEAREST)
    )
    pen, font = ImageDraw.Draw(numbers), ImageFont.load_default(20)
    for mask in found.pred_masks.numpy():
        inside = cv2.resize(mask.astype(np.uint8), labels.shape[::-1], interpolation=cv2.INTER_AREA) > 0
        place = np.argwhere(mask).mean(0)[::-1] * TILE / mask.shape[0]
        text = f"{np.median(labels[inside]):.1f}"
        pen.text(tuple(place), text, (255, 255, 255), font, anchor="mm", stroke_width=2, stroke_fill=(0, 0, 0))
    large = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    levels = cv2.resize(colorize_levels(output["levels"]), size, interpolation=cv2.INTER_NEAREST)
    result = draw_instances(image, found, predictor.metadata, TILE / image.shape[0])
    return [large, np.asarray(numbers), levels, draw_proposals(large, output["proposals"]), result]


def grid(rows: Sequence[Sequence[np.ndarray]], captions: Sequence[tuple[str, str]]) -> np.ndarray:
    """Tiles of one size on white, with a caption of two lines above each column."""
    height, width = rows[0][0].shape[:2]
    size = len(captions) * (width + GAP) - GAP, CAPTION + len(rows) * (height + GAP) - GAP
    canvas = Image.new("RGB", size, "white")
    pen, large, small = ImageDraw.Draw(canvas), ImageFont.load_default(20), ImageFont.load_default(15)
    for column, (title, text) in enumerate(captions):
        x = column * (width + GAP)
        pen.text((x, 0), title, (0, 0, 0), large)
        pen.text((x, 25), text, (90, 90, 90), small)
        for row, tiles in enumerate(rows):
            canvas.paste(Image.fromarray(tiles[column]), (x, CAPTION + row * (height + GAP)))
    return np.asarray(canvas)


def data_sets() -> np.ndarray:
    """Two images of each drawn set, and below each its objects."""
    images, truths, captions = [], [], []
    for name, options in PRESETS.items():
        for seed, text in ((MORE, f"{options['num_objects'][0]}-{options['num_objects'][1]} objects"), (MORE + 1, "")):
            image, masks, _, _ = draw_image(np.random.default_rng(seed), **options)
            drawn = draw_overlay(image, CroppedMasks.from_masks(np.stack(masks)))
            captions.append(("" if seed > MORE else name, text))
            for tiles, tile in ((images, image), (truths, drawn)):
                tiles.append(cv2.resize(tile, (TILE, TILE), interpolation=cv2.INTER_CUBIC))
    return grid([images, truths], captions)


def film() -> np.ndarray:
    """Four frames of a film, as `dvis predict --save overlay` draws them: a window moves over an image of nuclei."""
    image, _ = read_nuclei(CROWDED)
    model, colors, frames = dvis_d2.load("nuclei", device="cpu"), LastingColors(), []
    for step in range(0, 16, 4):
        frame = np.ascontiguousarray(image[60:220, step : step + 160])
        found = model.predict(frame, scale=2.25, confidence_threshold=0.7)
        drawn = draw_overlay(frame, found.masks, colors=colors(found.masks))
        frames.append(cv2.resize(drawn, (TILE, TILE), interpolation=cv2.INTER_CUBIC))
    return grid([frames], [(f"frame {k}", "") for k in range(1, len(frames) + 1)])


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="an existing folder")
    folder = Path(parser.parse_args(argv).output)
    scales = {"shapes": "1.0", "nuclei": "2.25"}  # a part of an image is read as the whole is
    shapes, nuclei = (
        DVISPredictor(dvis_d2.load(name, device="cpu", opts=[*OPTIONS, "INPUT.SCALE", scale]).cfg)
        for name, scale in scales.items()
    )
    crowded, sparse = read_nuclei(CROWDED), read_nuclei(SPARSE)
    detail = np.ascontiguousarray(sparse[0][40:200, :160])
    rows = [method_row(draw_shapes(EXAMPLE)[0], shapes), method_row(detail, nuclei)]
    pictures = {"method": grid(rows, list(STEPS.items())), "shapes": data_sets(), "film": film()}
    for name, panels in (
        ("panels", [(shapes, draw_shapes(EXAMPLE)), (nuclei, crowded)]),
        ("nuclei", [(nuclei, crowded), (nuclei, sparse)]),
    ):
        seen = [(predictor, image, truth, predictor(image[:, :, ::-1])) for predictor, (image, truth) in panels]
        top = max(top_label(output["label_map"]) for *_, output in seen)
        rows = [draw_panel(image, out, p.metadata, truth, top=top) for p, image, truth, out in seen]
        pictures[name] = np.concatenate(rows)
    for name, picture in pictures.items():
        Image.fromarray(picture).save(folder / f"{name}.webp", quality=80, method=6)


if __name__ == "__main__":
    main()
