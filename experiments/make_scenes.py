"""Paste pictograms on photographs, in COCO's format: OUTPUT/images/*.png and OUTPUT/annotations.json.

    npm pack emoji-datasource-google@15.1.2 emoji-datasource-twitter@15.1.2  # another artist's drawings for validation
    for by in google twitter; do mkdir $by; tar xzf emoji-datasource-$by-*.tgz -C $by --strip 4 package/img/$by/64; done
    python -m experiments.make_scenes --pictograms google --photographs train --num 1000 --output scenes/train
    python -m experiments.make_scenes --pictograms twitter --photographs val --num 200 --seed 1 --output scenes/val

Image i depends on --seed, i and the pictures only.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dvis_d2.data.annotations import encode_masks
from dvis_d2.data.coco_file import write_new_json
from dvis_d2.data.mask_folders import CocoLists

CLASSES = {  # names of files are Unicode's code points
    "apple": "1f34e",
    "carrot": "1f955",
    "dog": "1f436",
    "fish": "1f41f",
    "butterfly": "1f98b",
    "tree": "1f333",
    "car": "1f697",
    "rocket": "1f680",
    "house": "1f3e0",
    "ball": "26bd",
    "cup": "2615",
    "shoe": "1f45f",
}
SIDE = 192  # px of an image
DIAMETERS = (28, 80)  # px of an object
MOST = 8  # objects of an image
MIN_VISIBLE = 0.4  # objects of which others hide more are painted over: not one of the data set's
TRIES = 20


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--pictograms", required=True, type=Path, metavar="DIR", help="<code point>.png, with transparency"
    )
    parser.add_argument("--photographs", required=True, type=Path, metavar="DIR", help="*.jpg, at least 192 px a side")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to make")
    parser.add_argument("--num", required=True, type=int, help="number of images")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def background(rng: np.random.Generator, photograph: np.ndarray) -> np.ndarray:
    """A square of a photograph, mirrored at random, uint8 (SIDE, SIDE, 3)."""
    side = rng.integers(SIDE, min(photograph.shape[:2]) + 1)
    y, x = (rng.integers(0, length - side + 1) for length in photograph.shape[:2])
    square = cv2.resize(photograph[y : y + side, x : x + side], (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    return square[:, :: rng.choice([-1, 1])]


def placed(rng: np.random.Generator, pictogram: np.ndarray) -> np.ndarray:
    """A pictogram, uint8 (h, w, 4), turned, scaled and moved at random, uint8 (SIDE, SIDE, 4)."""
    height, width = pictogram.shape[:2]
    scale = np.exp(rng.uniform(*np.log(DIAMETERS))) / max(height, width)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-45, 45), scale)
    turn[:, 2] += rng.uniform(0.05, 0.95, size=2) * SIDE - (width / 2, height / 2)
    return cv2.warpAffine(pictogram, turn, (SIDE, SIDE), flags=cv2.INTER_LINEAR)


def draw_scene(
    rng: np.random.Generator, pictograms: Sequence[np.ndarray], photographs: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """The image uint8 (SIDE, SIDE, 3), masks of what is seen bool (N, SIDE, SIDE) and classes from 0."""
    image = background(rng, photographs[rng.integers(len(photographs))])
    masks, areas, classes = np.zeros((0, SIDE, SIDE), bool), [], []
    wanted = rng.integers(1, MOST + 1)
    for _ in range(TRIES):
        class_id = int(rng.integers(len(pictograms)))
        layer = placed(rng, pictograms[class_id])
        mask = layer[..., 3] > 127
        seen = masks & ~mask
        if mask.sum() < 50 or any(part.sum() < MIN_VISIBLE * area for part, area in zip(seen, areas, strict=True)):
            continue
        alpha = layer[..., 3:] / 255
        image = (image * (1 - alpha) + layer[..., :3] * alpha).round().astype(np.uint8)
        masks, areas = np.concatenate([seen, mask[None]]), [*areas, mask.sum()]
        classes.append(class_id)
        if len(classes) == wanted:
            break
    return image, masks, classes


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    images = args.output / "images"
    try:
        pictograms = [read(args.pictograms / f"{code}.png", cv2.IMREAD_UNCHANGED, 4) for code in CLASSES.values()]
        photographs = [read(path, cv2.IMREAD_COLOR, 3, SIDE) for path in sorted(args.photographs.glob("*.jpg"))]
        if not photographs:
            raise FileNotFoundError(f"{args.photographs} has no *.jpg\ngive a folder of photographs")
        if args.output.exists():
            raise FileExistsError(f"{args.output} exists and is not overwritten\ngive another --output, or remove it")
        images.mkdir(parents=True)
        lists = CocoLists(images, CLASSES)
        for index in range(args.num):
            image, masks, classes = draw_scene(np.random.default_rng([args.seed, index]), pictograms, photographs)
            cv2.imwrite(str(path := images / f"{index:05d}.png"), image)
            lists.add("", path, zip(classes, encode_masks(masks), strict=True))
        write_new_json(args.output / "annotations.json", lists[""])
    except OSError as error:
        sys.exit(f"make_scenes.py: {error}")


def read(path: Path, mode: int, channels: int, least: int = 1) -> np.ndarray:
    """uint8 (H, W, channels), of at least so many pixels a side, else OSError."""
    image = cv2.imread(str(path), mode)
    if image is None or image.shape[2:] != (channels,) or min(image.shape[:2]) < least:
        raise OSError(f"{path} cannot be read as an image of {channels} channels and at least {least} px a side")
    return image


if __name__ == "__main__":
    main()
