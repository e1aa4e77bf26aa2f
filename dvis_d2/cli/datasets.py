"""Commands for data: check, convert."""

import difflib
import sys

import click
from detectron2.data import DatasetCatalog

from ..data import check_coco_json, complete_coco
from ..data.coco_file import ensure_new, write_new_json
from ..data.to_coco import to_coco
from ..safe_io import read_json
from .errors import UserError


@click.command()
@click.argument("json_file", metavar="JSON")
@click.argument("images", metavar="[IMAGES]", required=False)
@click.option("--complete", metavar="FILE", help="Write a copy with id, bbox, area, iscrowd filled in; check that.")
@click.option("--max-headers", type=click.IntRange(1), help="Open so many images only, evenly spread.")
def check(json_file: str, images: str | None, complete: str | None, max_headers: int | None) -> None:
    """Check a COCO-format data set: the annotations in JSON, each mask against its box, area and image; the images.

    IMAGES is their folder; default: beside the JSON. The exit status is 1 if there are errors, which make training
    impossible or wrong; warnings leave it 0.
    """
    with open(json_file, "rb"):  # an OSError, before anything else
        pass
    if complete:
        ensure_new(complete)
        try:
            write_new_json(complete, complete_coco(read_json(json_file)))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            advice = "To do: correct what `dvis check` shows without --complete"
            raise UserError(f"{json_file} cannot be completed: {error}\n{advice}") from error
    report = check_coco_json(complete or json_file, images, max_headers=max_headers, progress=sys.stderr.isatty())
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
    ensure_new(output)
    if dataset not in DatasetCatalog:
        names = sorted(DatasetCatalog.list())
        near = [n for n in names if dataset in n] or difflib.get_close_matches(dataset, names)
        advice = f"did you mean {' or '.join(near[:12])}?" if near else "docs/guide/datasets.md has the names"
        raise UserError(f"the data set {dataset!r} is not registered\nTo do: {advice}")
    data = to_coco(dataset, image_root, ignore_as_crowd=ignore_as_crowd)
    write_new_json(output, data)
    click.echo(f"{output}: {len(data['images'])} images, {len(data['annotations'])} annotations")
    click.echo(f"image folder: {data['info']['image_root']}")
