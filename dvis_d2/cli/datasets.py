"""Commands for data: check, convert."""

import json
import sys

import click

from ..data import check_coco_json, complete_coco
from ..data.to_coco import to_coco


@click.command()
@click.argument("json_file", metavar="JSON")
@click.argument("images", metavar="[IMAGES]", required=False)
@click.option("--complete", metavar="FILE", help="Write a copy with missing id, bbox, area and iscrowd; check that.")
@click.option("--max-headers", default=5000, show_default=True, help="Of so many images the size is compared.")
def check(json_file: str, images: str | None, complete: str | None, max_headers: int) -> None:
    """Check a COCO-format data set: the annotations in JSON, and that the images are there.

    IMAGES is their folder; default: beside the JSON. The exit status is 1 if there are errors, which make training
    impossible or wrong; warnings leave it 0.
    """
    if complete:
        try:
            with open(json_file, encoding="utf-8") as file:
                data = complete_coco(json.load(file))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise click.ClickException(f"{json_file} cannot be completed: {error}") from error
        with open(complete, "x", encoding="utf-8") as file:
            json.dump(data, file)
    report = check_coco_json(complete or json_file, images, max_headers=max_headers)
    click.echo(str(report))
    sys.exit(1 if report.errors else 0)


@click.command()
@click.option("--dataset", required=True, metavar="NAME", help="A registered data set with instance masks.")
@click.option("--output", required=True, metavar="FILE", help="The JSON to write.")
@click.option("--image-root", metavar="DIR", help="Default: the deepest folder that holds all images.")
@click.option("--ignore-as-crowd", is_flag=True, help="Keep ignored pixels as crowds of the classes in the image.")
def convert(dataset: str, output: str, image_root: str | None, ignore_as_crowd: bool) -> None:
    """Write a registered data set (PASCAL VOC, SBD or another) as COCO-format JSON.

    File names are relative to the folder that is printed.
    """
    data = to_coco(dataset, image_root, ignore_as_crowd=ignore_as_crowd)
    with open(output, "x", encoding="utf-8") as file:
        json.dump(data, file)
    click.echo(f"{output}: {len(data['images'])} images, {len(data['annotations'])} annotations")
    click.echo(f"image folder: {data['info']['image_root']}")
