"""Check that a data set's image files exist and have the size that the annotations say."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from .report import Report

EXIF_ORIENTATION = 274
TURNED = (5, 6, 7, 8)  # EXIF orientations that swap width and height


def find_image_root(json_file: Path, images: list[dict]) -> Path:
    """The folder of a JSON, or its sub-folder "images" where that holds the file's first image and the folder
    does not."""
    folder = json_file.parent
    if images:
        first = images[0]["file_name"]
        if not (folder / first).is_file() and (folder / "images" / first).is_file():
            return folder / "images"
    return folder


def check_image_files(images: list[dict], image_root: Path, report: Report, *, max_headers: int) -> None:
    """Add to `report` which of COCO's image entries (with "id", "file_name", "height", "width") have no file,
    and, for up to `max_headers` of them, evenly spread, which file is unreadable or has another size."""
    existing = []
    for image in images:
        if os.path.isfile(image_root / image["file_name"]):
            existing.append(image)
        else:
            report.errors.add(
                f"image files that are not in {image_root}",
                f"image {image['id']} ({image['file_name']})",
                "correct the image folder, or the file names",
            )
    step = max(1, -(-len(existing) // max_headers))
    for image in existing[::step]:
        path = image_root / image["file_name"]
        try:
            size = oriented_size(path)
        except (
            OSError,
            SyntaxError,
            ValueError,
            Image.DecompressionBombError,
        ) as error:  # PIL raises all four
            report.errors.add("image files that cannot be read", f"{path} ({error})", "copy them again")
            continue
        if size != (image["width"], image["height"]):
            report.errors.add(
                "images of another size than the annotations say",
                f"{path.name} is {size[0]} x {size[1]}, annotated as {image['width']} x {image['height']}",
                "use the images that were annotated (not resized, turned as their EXIF orientation says)",
            )


def oriented_size(path: Path) -> tuple[int, int]:
    """(width, height) of an image as Detectron2 reads it, from its header alone."""
    with Image.open(path) as image:
        # Other formats would be decoded for their EXIF data, and cameras write JPEG.
        turned = image.format in ("JPEG", "MPO") and image.getexif().get(EXIF_ORIENTATION) in TURNED
        return image.size[::-1] if turned else image.size
