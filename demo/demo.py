#!/usr/bin/env python
"""Draw what a trained DVIS sees: for every image its label map, its proposals and the result.

    python demo/demo.py --config-file configs/dvis_R50.yaml --input images/*.jpg --output out \
        --opts MODEL.WEIGHTS output/model_final.pth
"""

import argparse
import glob
import os

import cv2
import tqdm
from detectron2.utils.logger import setup_logger

from dvis_d2.data.image_io import read_image
from dvis_d2.engine import DVISPredictor, setup_cfg
from dvis_d2.visualization import draw_panel, metadata_of_detections


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config-file", required=True, metavar="FILE", help="path to config file")
    parser.add_argument("--input", required=True, nargs="+", help="image files, or globs in quotes")
    parser.add_argument("--output", required=True, help="folder for the pictures, or one file for one image")
    parser.add_argument(
        "--confidence-threshold", type=float, default=0.5, help="minimum score of an instance to be drawn"
    )
    parser.add_argument("--opts", default=[], nargs=argparse.REMAINDER, help="'KEY VALUE' pairs for the config")
    return parser


def input_files(patterns: list[str]) -> list[str]:
    """The files that the arguments name; an argument that names none is an error."""
    files = []
    for pattern in patterns:
        pattern = os.path.expanduser(pattern)
        found = [pattern] if os.path.isfile(pattern) else sorted(glob.glob(pattern))
        if not found:
            raise SystemExit(f"--input {pattern}: no such file, and no file matches it")
        files += found
    return files


def main():
    args = get_parser().parse_args()
    setup_logger(name="fvcore")
    logger = setup_logger()
    args.opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(args.confidence_threshold), *args.opts]
    cfg = setup_cfg(args, inference=True)
    files = input_files(args.input)
    predictor = DVISPredictor(cfg)
    metadata = metadata_of_detections(cfg, cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else "__unused")
    to_file = len(files) == 1 and os.path.splitext(args.output)[1] != "" and not os.path.isdir(args.output)
    os.makedirs(os.path.dirname(args.output) or "." if to_file else args.output, exist_ok=True)
    for path in tqdm.tqdm(files, disable=len(files) == 1):
        image = read_image(path, "BGR")
        output = predictor(image)
        panel = draw_panel(image[:, :, ::-1], output, metadata)
        out = args.output if to_file else os.path.join(args.output, os.path.basename(path))
        if not cv2.imwrite(out, panel[:, :, ::-1]):
            raise SystemExit(f"--output {out}: cannot be written")
        logger.info(
            "%s: %d instances from %d proposals -> %s",
            path,
            len(output["instances"]),
            len(output["proposals"]),
            out,
        )


if __name__ == "__main__":
    main()
