"""What `dvis predict` takes beside its network: files to label images, against the same network on images in memory.

Both give the same masks. Prediction besides reads and decodes the files, encodes what --save says, and keeps its
records. Rounds over all images are interleaved; times are medians of rounds. Small images are copies of those given;
a large one is a mosaic of them.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np

import dvis_d2
from dvis_d2.cli.predict import predict_sources
from dvis_d2.data.image_io import read_image
from dvis_d2.inference.sources import find_sources
from dvis_d2.inference.writers import FORMATS

from ..tables import markdown_table
from .common import add_clock_arguments, clock_setting, interleaved, make_clock


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="files or folders")
    parser.add_argument("--model", required=True, help="as for `dvis predict`")
    parser.add_argument("--small", type=int, default=1000, help="images in a round")
    parser.add_argument("--large", type=int, default=0, help="side of the large image in pixels; 0: none")
    parser.add_argument("--save", nargs="+", choices=FORMATS, default=["labels"])
    parser.add_argument("--repeats", type=int, default=3)
    add_clock_arguments(parser)


def run(args: argparse.Namespace) -> dict:
    clock = make_clock(args)
    model = dvis_d2.load(args.model, device=args.device)
    files = [Path(source.path) for source in find_sources(args.images)[0]]
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder, "small")
        small.mkdir()
        for k, file in zip(range(args.small), itertools.cycle(files), strict=False):
            shutil.copy(file, small / f"{k:06d}{file.suffix}")
        inputs = {f"{args.small} small": small}
        if args.large:
            inputs[f"{args.large} x {args.large}"] = Path(folder, "large.png")
            cv2.imwrite(str(Path(folder, "large.png")), _mosaic(files, args.large))
        for name, path in inputs.items():
            sources, _ = find_sources([str(path)])
            images = [read_image(source.path, "RGB") for source in sources]

            def network(images: list = images) -> None:
                for image in images:
                    model.predict(image)

            def predict(sources: list = sources) -> None:
                output = Path(folder, "out")
                shutil.rmtree(output, ignore_errors=True)
                predict_sources(model, sources, str(output), args.save)

            times = interleaved({"network": network, "predict": predict}, args.repeats, clock)
            rows[name] = {key: round(ms, 1) for key, ms in times.items()}
            rows[name]["ratio"] = round(times["predict"] / times["network"], 3)
    cells = [[name, *row.values()] for name, row in rows.items()]
    print(markdown_table(cells, ["images", "network ms", "predict ms", "ratio"]))
    worst = max(row["ratio"] for row in rows.values())
    return {"ratio": worst} | clock_setting(args) | {"save": args.save, "rows": rows}


def _mosaic(files: list[Path], side: int) -> np.ndarray:
    """(side, side, 3) of the images side by side, each at its size."""
    tiles = [read_image(str(file), "BGR") for file in files]
    height, width = (min(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    canvas = np.zeros((side, side, 3), np.uint8)
    places = itertools.product(range(0, side, height), range(0, side, width))
    for (y, x), tile in zip(places, itertools.cycle(tiles), strict=False):
        part = canvas[y : y + height, x : x + width]
        part[:] = tile[: part.shape[0], : part.shape[1]]
    return canvas
