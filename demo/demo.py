#!/usr/bin/env python
"""Draw what a trained DVIS sees: of images the label map, the proposals and, as Detectron2 draws it, the result; of
videos the result.

    python demo/demo.py --config-file configs/dvis_R50.yaml --input images/*.jpg --output out \\
        --opts MODEL.WEIGHTS output/model_final.pth

With --webcam and without --output the result is shown in a window, until Esc.
"""

import argparse
import os

import dvis_d2  # noqa: F401  # before torch, whose threads it tells how to wait

# isort: split
import click
import cv2
import numpy as np
from detectron2.data import Metadata
from detectron2.structures import Instances
from detectron2.utils.visualizer import Visualizer

from dvis_d2.api import Model
from dvis_d2.cli.errors import run_program
from dvis_d2.cli.predict import check_output, predict_sources
from dvis_d2.engine import setup_cfg
from dvis_d2.inference.colors import LastingColors, neighbor_colors
from dvis_d2.inference.overlay import write_picture
from dvis_d2.inference.sources import Source, find_sources


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--input", nargs="+", help="image files, folders, or globs in quotes")
    source.add_argument("--video-input", help="path to video file")
    source.add_argument("--webcam", action="store_true", help="take inputs from webcam")
    parser.add_argument("--output", help="new folder for the pictures or the video, or one file for one image")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="minimum score of an instance to be drawn"
    )
    parser.add_argument("--debug", action="store_true", help="show where an error arose")
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def draw_as_detectron2(image: np.ndarray, found: Instances, metadata: Metadata, scale: float) -> np.ndarray:
    """`Visualizer.draw_instance_predictions`, which would fill the holes of masks."""
    visualizer, boxes = Visualizer(image, metadata, scale), found.pred_boxes.tensor.numpy()
    colors = neighbor_colors(boxes, found.image_size) / 255
    for mask, color in zip(found.pred_masks.numpy()[::-1], colors[::-1], strict=True):
        visualizer.draw_binary_mask(mask, color, area_threshold=0)
    names, scores = metadata.thing_classes, found.scores.tolist()
    labels = [f"{names[k]} {score:.0%}" for k, score in zip(found.pred_classes.tolist(), scores, strict=True)]
    return visualizer.overlay_instances(boxes=boxes, labels=labels, assigned_colors=colors.tolist()).get_image()


class DemoModel(Model):
    def draw_panel(self, image: np.ndarray, **options) -> np.ndarray:
        return super().draw_panel(image, draw_result=draw_as_detectron2, **options)


def show(model: Model, camera: Source, confidence_threshold: float) -> None:
    """What a camera sees, in a window."""
    colors = LastingColors()
    for frame in camera.frames():
        result = model.predict(frame.image, confidence_threshold=confidence_threshold)
        picture = np.asarray(result.plot(colors(result.masks)))
        try:
            cv2.imshow("dvis_d2", picture[:, :, ::-1])
        except cv2.error:
            raise click.ClickException("this OpenCV has no windows: give --output, or install opencv-python") from None
        if cv2.waitKey(1) == 27:  # Esc
            return


def main(args: argparse.Namespace) -> None:
    if args.output is None and not args.webcam:
        raise click.ClickException("give --output")
    try:
        sources = [Source("webcam", "webcam", camera=0)] if args.webcam else []
        sources = sources or find_sources(args.input or [args.video_input])[0]
    except (FileNotFoundError, ValueError) as error:
        raise click.ClickException(f"--input: {error}") from None
    one_file = bool(args.input) and len(sources) == 1 and os.path.splitext(args.output)[1] != ""
    if one_file and os.path.exists(args.output) and os.path.samefile(args.output, sources[0].path):
        raise click.ClickException(f"{args.output} is the input")
    if args.output is not None and not one_file:
        check_output(args.output, sources, resume=False)
    model, threshold = DemoModel.from_config(setup_cfg(args, inference=True)), args.confidence_threshold
    if args.output is None:
        show(model, sources[0], threshold)
    elif one_file:
        image = next(sources[0].frames()).image
        write_picture(args.output, model.draw_panel(image, confidence_threshold=threshold))
    else:
        form = "overlay" if sources[0].is_video else "panel"
        predict_sources(model, sources, args.output, [form], confidence_threshold=threshold)


if __name__ == "__main__":
    arguments = get_parser().parse_args()
    run_program(lambda: main(arguments), arguments.debug)
