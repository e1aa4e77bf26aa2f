"""What follows a slider of `dvis explore`: seconds of each step, after the network has run.

Every repeat moves the foreground threshold, so that nothing is kept from the one before. ``--mosaic 1024`` joins square
images into one of that side.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from dvis_d2.explorer.session import Explorer
from dvis_d2.inference.sources import Source, find_sources

from ..tables import markdown_table
from .common import add_clock_arguments, clock_setting, make_clock

FOREGROUND, ALPHA = "MODEL.MEAN_SHIFT.FOREGROUND_THRESHOLD", "MODEL.DVIS_ROI_HEADS.ALPHA"
STEP = 0.01  # of the threshold


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help="files, folders or a COCO file")
    parser.add_argument("--model", required=True, help="as for `dvis explore`")
    parser.add_argument("--num-images", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mosaic", type=int, metavar="SIDE", help="one image of so many pixels, made of those given")
    add_clock_arguments(parser)
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")


def join_images(sources: Sequence[Source], side: int, path: Path) -> Source:
    """An image of `side` x `side` pixels, filled row by row with square ones of one size."""
    images = [cv2.imread(source.path) for source in sources]
    across = -(-side // images[0].shape[0])
    rows = [np.concatenate([images[(r * across + c) % len(images)] for c in range(across)], 1) for r in range(across)]
    cv2.imwrite(str(path), np.concatenate(rows)[:side, :side])
    return Source(str(path), path.stem)


def run(args: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        sources = find_sources(args.images)[0]
        if args.mosaic:
            sources = [join_images(sources, args.mosaic, Path(folder, "mosaic.png"))]
        return measure(args, sources[: args.num_images])


def measure(args: argparse.Namespace, sources: Sequence[Source]) -> dict:
    clock = make_clock(args)
    explorer = Explorer(args.model, sources, device=args.device, opts=args.opts)
    values = {row["key"]: row["value"] for row in explorer.start()["controls"]}
    rows = []
    for image, source in enumerate(explorer.sources):
        view, times = explorer.view(image), []
        for repeat in range(args.repeats):
            moved = values | {FOREGROUND: values[FOREGROUND] + STEP * (repeat + 1)}
            ticks = [clock()]
            for step in (explorer.group, explorer.find):
                step(view, moved)
                ticks.append(clock())
            found = explorer.find(view, moved | {ALPHA: 1 - moved[ALPHA] / 2})
            ticks.append(clock())
            times.append([after - before for before, after in zip(ticks, ticks[1:], strict=False)])
        medians = [round(statistics.median(step), 3) for step in zip(*times, strict=True)]
        size = "{} x {}".format(*explorer.label_map(view).shape)
        rows.append([source.name[:12], size, explorer.count_proposals(view, moved), len(found.rows), *medians])
    head = ["image", "cells", "proposals", "objects", "group s", "heads s", "select s"]
    print(markdown_table(rows, head))
    return {"group_s": max(row[4] for row in rows)} | clock_setting(args) | {"rows": rows}
