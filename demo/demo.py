#!/usr/bin/env python
"""Draw what a trained DVIS sees: for every image its label map, its proposals and the result.

    python demo/demo.py --config-file configs/dvis_R50.yaml --input images/*.jpg --output out \
        --opts MODEL.WEIGHTS output/model_final.pth
"""

import argparse

from dvis_d2.engine import setup_cfg
from dvis_d2.inference.visualization import draw_files, find_images


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


def main() -> None:
    args = get_parser().parse_args()
    args.opts = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", str(args.confidence_threshold), *args.opts]
    try:
        files = find_images(args.input)
    except FileNotFoundError as error:
        raise SystemExit(f"--input: {error}") from None
    draw_files(setup_cfg(args, inference=True), files, args.output)


if __name__ == "__main__":
    main()
