"""Check a COCO-format data set before training.

    python tools/check_dataset.py train.json images/
    python tools/check_dataset.py train.json --complete train_complete.json

The exit status is 1 if there are errors (what cannot work); warnings (what works, but may not be meant) leave
it 0.
"""

from __future__ import annotations

import argparse
import json
import sys

from dvis_d2.data import check_coco_json
from dvis_d2.data.complete import complete_coco


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", metavar="JSON", help="annotations in COCO's format")
    parser.add_argument("images", metavar="IMAGES", nargs="?", help="image folder; default: beside the JSON")
    parser.add_argument(
        "--complete",
        metavar="FILE",
        help="write a copy with missing id, bbox, area and iscrowd filled in from the masks, and check that",
    )
    parser.add_argument(
        "--max-headers", type=int, default=5000, help="of so many images the size is checked (default 5000)"
    )
    return parser


def main() -> int:
    args = get_parser().parse_args()
    json_file = args.json
    if args.complete:
        try:
            with open(args.json, encoding="utf-8") as file:
                data = complete_coco(json.load(file))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            sys.exit(f"{args.json} cannot be completed: {error}")
        with open(args.complete, "w", encoding="utf-8") as file:
            json.dump(data, file)
        json_file = args.complete
    report = check_coco_json(json_file, args.images, max_headers=args.max_headers)
    print(report)
    return 1 if report.errors else 0


if __name__ == "__main__":
    sys.exit(main())
