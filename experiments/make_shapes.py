"""Draw a data set of shapes, in COCO's format: OUTPUT/images/*.png and OUTPUT/annotations.json.

    python -m experiments.make_shapes --output my_shapes --num 1000 --seed 7
    python -m experiments.make_shapes --output crowded --num 500 --height 512 --width 512 \\
        --num-objects 64 64 --object-size 20 40

Train on it with train_net.py --train-json OUTPUT/annotations.json.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dvis_d2.data import PRESETS, write_shapes


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, metavar="DIR", help="folder to make")
    parser.add_argument("--num", type=int, required=True, help="number of images")
    parser.add_argument("--height", type=int, help="px (default: the preset's)")
    parser.add_argument("--width", type=int, help="px (default: the preset's)")
    parser.add_argument(
        "--num-objects",
        type=int,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="objects in an image (default: the preset's)",
    )
    parser.add_argument(
        "--object-size",
        type=float,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="object diameter in px (default: the preset's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="image i depends on it and on i only (default 0)")
    parser.add_argument(
        "--preset",
        choices=sorted(PRESETS),
        default="shapes",
        help="shapes: bars, textures, overlap; shapes_easy: none of them; shapes_crowd: easy and many (default shapes)",
    )
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    args = get_parser().parse_args(argv)
    given = {
        "height": args.height,
        "width": args.width,
        "num_objects": args.num_objects and tuple(args.num_objects),
        "object_size": args.object_size and tuple(args.object_size),
    }
    options = PRESETS[args.preset] | {name: value for name, value in given.items() if value is not None}
    try:
        print(write_shapes(args.output, num_images=args.num, seed=args.seed, **options))
    except (ValueError, OSError) as error:
        sys.exit(f"make_shapes.py: {error}")


if __name__ == "__main__":
    main()
