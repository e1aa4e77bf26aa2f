"""Write a registered data set (PASCAL VOC, SBD, or any other with instance masks) as COCO-format JSON.

    python tools/convert_to_coco.py --dataset voc_2012_instance_val --output voc_val.json --ignore-as-crowd

File names are relative to the folder that is printed; --image-root names another one.
"""

from __future__ import annotations

import argparse
import json
import sys

from detectron2.data import DatasetCatalog

from dvis_d2.data.to_coco import to_coco


def get_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, metavar="NAME", help="a registered data set")
    parser.add_argument("--output", required=True, metavar="FILE", help="the JSON to write")
    parser.add_argument("--image-root", metavar="DIR", help="default: the deepest folder that holds all images")
    parser.add_argument(
        "--ignore-as-crowd",
        action="store_true",
        help="keep ignored pixels (PASCAL's 255) as crowds of the classes in the image; default: leave them out",
    )
    return parser


def main() -> None:
    args = get_parser().parse_args()
    if args.dataset not in DatasetCatalog:
        sys.exit(f"there is no data set {args.dataset}; registered are: {', '.join(DatasetCatalog.list())}")
    try:
        data = to_coco(args.dataset, args.image_root, ignore_as_crowd=args.ignore_as_crowd)
    except (OSError, ValueError) as error:
        sys.exit(f"{args.dataset} cannot be converted: {error}")
    with open(args.output, "w", encoding="utf-8") as file:
        json.dump(data, file)
    print(f"{args.output}: {len(data['images'])} images, {len(data['annotations'])} annotations")
    print(f"image folder: {data['info']['image_root']}")


if __name__ == "__main__":
    main()
